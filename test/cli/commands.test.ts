/** The client commands against a real gateway, run in this process with streams of the test's own. */
import t, { type Test } from 'tap'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { runCommand } from '../helpers/run-command.ts'

const secret = 'fleet-secret-token'

/** A gateway with auth, and how to run commands against it. */
async function fleet (t: Test, options: FleetGatewayOptions = {}) {
  const gateway = await startGateway(t, { auth: { secret }, ...options })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  return { gateway, env, ask: (...args: string[]) => runCommand(args, { env }), json: async (...args: string[]) => JSON.parse((await runCommand([...args, '--json'], { env })).stdout) as Record<string, never> }
}

t.test('agents: all in columns, one in full, and as the API has them', async t => {
  const [one, two] = [await fakeAgent(t), await fakeAgent(t)]
  const { ask, json } = await fleet(t, { agents: [{ ...agentAt('planner', one, two), aliases: ['plan', 'p'], metadata: { about: 'plans\u001b[2J things' } }, { name: 'empty', instances: [] }] })

  const all = await ask('agents')
  t.match(all.stdout, /^NAME +ALIASES +STATUS +HEALTHY +IN FLIGHT\nplanner +plan, p +healthy +2 of 2 +0\nempty +- +down +0 of 0 +0\n$/)
  t.equal(all.code, 0)
  t.equal(all.stderr, '')
  const one1 = await ask('agents', 'plan')
  t.match(one1.stdout, new RegExp(`^plan: healthy\naliases: plan, p\nabout: plans things\n\nINSTANCE +ADDRESS[^]*\n[0-9a-f]{12} +http://127\\.0\\.0\\.1:${one.port} +up +fleet\\.yaml +0 +- +-\n`))
  t.notMatch(one1.stdout, '\u001b', 'what an agent says of itself gives a terminal no orders')
  t.match((await ask('agents', 'empty')).stdout, /No instances: add one with "fleet-gateway register empty PORT"/)
  t.match(await json('agents'), { planner: { status: 'healthy', instances: [{ port: one.port }, { port: two.port }], friendly_names: ['plan', 'p'] } })
  t.match(await json('agents', 'p'), { status: 'healthy', instances: [{}, {}] })
  t.match(await ask('agents', 'planer'), { code: 1, stdout: '', stderr: /No agent is registered as "planer"; did you mean "planner" or "plan"\?\n/ })
})

t.test('agents of an empty fleet says how to get one', async t => {
  const { ask } = await fleet(t)

  t.match(await ask('agents'), { code: 0, stdout: /^No agents yet: .*fleet-gateway register/ })
})

t.test('routes: those of the agents under each of their names, then the gateway\'s own', async t => {
  const agent = await fakeAgent(t)
  const { ask, json } = await fleet(t, { agents: [{ ...agentAt('planner', agent), aliases: ['p'] }] })

  const { stdout, code } = await ask('routes')
  t.equal(code, 0)
  t.match(stdout, new RegExp(`\n/api/planner/\\{path\\} +any +planner: 127\\.0\\.0\\.1:${agent.port} +healthy\n/api/p/\\{path\\} +any +planner: `))
  t.match(stdout, /\n\/registry\/register +POST +the gateway: register an instance +-\n/)
  const routes = await json('routes') as unknown as { path: string }[]
  t.match(routes[0], { path: '/api/planner/{path}', methods: 'any', agent: 'planner', instances: [`127.0.0.1:${agent.port}`], status: 'healthy' })
  t.notOk(routes.some(({ path }) => path.includes('{agent}')))
})

t.test('commands work with a gateway under somebody\'s prefix', async t => {
  const agent = await fakeAgent(t)
  const { default: Fastify } = await import('fastify')
  const { fleetGateway, serverOptions } = await import('../../src/index.ts')
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  await app.register(fleetGateway, { prefix: '/fleet', auth: { secret }, agents: [agentAt('planner', agent)], auditLog: { enabled: false } })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/fleet/`

  t.match((await runCommand(['routes', '--url', url, '--secret', secret])).stdout, /\n\/fleet\/api\/planner\/\{path\} /)
  t.match(await runCommand(['test', '--url', url, '--secret', secret]), { code: 0, stdout: /ok {6}planner/ })
})

t.test('health: 0 when every agent can be served, else 1; details for who may read', async t => {
  const agent = await fakeAgent(t)
  const { ask, json, gateway, env } = await fleet(t, { agents: [agentAt('planner', agent)] })

  t.match(await ask('health'), { code: 0, stdout: /^healthy: 1 agent, up for 0 s\n\nAGENT +HEALTHY +WHAT IS WRONG\nplanner +1 of 1 +-\n$/ })
  t.match(await json('health'), { status: 'healthy', services: { planner: { healthy: true } } })

  gateway.registry.instance('planner', gateway.registry.get('planner').instances[0]!.id).runtime.health.up = false
  t.match(await ask('health'), { code: 1, stdout: new RegExp(`^degraded: 1 agent[^]*planner +0 of 1 +127\\.0\\.0\\.1:${agent.port} is down\n$`), stderr: '' })
  t.match(await runCommand(['health', '--json', '--url', env.FLEET_URL]), { code: 1, stdout: /"degraded"/ }, 'without a token, too')
})

t.test('health and agents say why an instance is down, and since when', async t => {
  const port = await deadPort()
  const { ask, json, gateway } = await fleet(t, { agents: [agentAt('planner', { host: '127.0.0.1', port })], health: { unhealthyAfter: 1 } })
  await gateway.health.firstRound()

  t.match((await ask('health')).stdout, new RegExp(`\nplanner +0 of 1 +127\\.0\\.0\\.1:${port} is down: probes get no connection, since 20\\S+Z\n$`))
  t.match((await ask('agents', 'planner')).stdout, new RegExp(`:${port} +down +fleet\\.yaml +0 +- +probes get no connection, since 20\\S+Z\n$`))
  t.match(await json('agents'), { planner: { instances: [{ why: 'probes get no connection', since: /^20\S+Z$/ }] } })
  gateway.registry.drain('planner', gateway.registry.get('planner').instances[0]!.id)
  t.match((await ask('health')).stdout, new RegExp(`:${port} is draining\n$`), 'that somebody wants')
})

t.test('stats: totals and a line per agent', async t => {
  const agent = await fakeAgent(t)
  const { ask, json, gateway } = await fleet(t, { agents: [agentAt('planner', agent)] })
  t.match((await ask('stats')).stdout, /\nplanner +0 +0 +0 +0 +– +– +– +–\n$/, 'nothing was measured')
  t.match(await json('stats'), { agents: { planner: { latency_ms: { p50: 0, max: 0 } } } })
  for (let count = 0; count < 3; count++) await (await fetch(`${gateway.origin}/api/planner/x`, { headers: { authorization: `Bearer ${secret}` } })).text()

  t.match(await ask('stats'), { code: 0, stdout: /^\d+ requests in \d+ s, 3 of them to agents, 0 errors, \d in flight\n\nAGENT +REQUESTS +ERRORS +RETRIES[^\n]*\nplanner +3 +0 +0 +0 +[\d.]+ / })
  t.match(await json('stats'), { total_proxied: 3, agents: { planner: { requests: 3 } } })
  t.match(await json('stats', '--all'), { silent: 0, processes: [{ host: /./, total_requests: Number }] })
})

t.test('register and deregister', async t => {
  const agent = await fakeAgent(t)
  const { ask, json, gateway } = await fleet(t)
  const { port } = agent

  t.match(await ask('register', 'planner', `127.0.0.1:${port}`, '--alias', 'plan', '--alias', 'p', '--ttl', '60', '--weight', '2', '--timeout', '5s', '--health-path', '/health', '--metadata', '{"about":"plans"}'), {
    code: 0, stdout: new RegExp(`^registered planner: instance [0-9a-f]{12} at http://127\\.0\\.0\\.1:${port} \\(gateway ${gateway.origin}\\)\nIt stays until 20\\S+Z unless it is renewed: PUT /registry/planner/instances/[0-9a-f]{12}\n$`)
  })
  t.match(gateway.registry.get('planner'), { aliases: ['plan', 'p'], metadata: { about: 'plans' }, policy: { timeouts: { response: 5_000 }, health: { path: '/health' } }, instances: [{ weight: 2, lease: { ttlMs: 60_000 } }] })
  t.match(await json('register', 'planner', '--host', 'localhost', '--port', '9000'), { message: 'registered planner', instance: { host: 'localhost', port: 9000 } })
  t.match(await ask('register', 'coder', '9001'), { code: 0, stdout: /at http:\/\/localhost:9001 \(gateway http:\/\/127\.0\.0\.1:\d+\)\n$/ })

  t.match(await ask('deregister', 'planner', '9000'), { code: 0, stdout: `deregistered planner: localhost:9000 (gateway ${gateway.origin})\n` })
  t.same(gateway.registry.get('planner').instances.map(instance => instance.port), [port])
  t.match(await ask('deregister', 'p', '--host', '127.0.0.1', '--port', String(port + 1)), { code: 1, stderr: `The agent "planner" has no such instance; did you mean "127.0.0.1:${port}"?\n` }, 'by its address, as it was asked for')
  await ask('register', 'planner', '[::1]:9003')
  t.match(await ask('deregister', 'p', '9003'), { code: 1, stderr: `did you mean "[::1]:9003" or "127.0.0.1:${port}"?\n` }, 'the same port first')
  const [{ id }] = gateway.registry.get('planner').instances as unknown as [{ id: string }]
  t.match(await json('deregister', 'planner', '--instance', id, '--drain'), { message: `draining ${id} of planner` })
  t.match(await ask('register', 'coder', '[::1]:9002'), { code: 0, stdout: /at http:\/\/\[::1\]:9002 / })
  t.match(await ask('deregister', 'coder', '[::1]:9002'), { code: 0, stdout: `deregistered coder: [::1]:9002 (gateway ${gateway.origin})\n` })
  t.match(await ask('deregister', 'coder'), { code: 0, stdout: `deregistered coder (gateway ${gateway.origin})\n` })
  t.match(await ask('deregister', 'coder'), { code: 1, stderr: /No agent is registered as "coder"/ })
})

t.test('a lease for what fleet.yaml has is not told as its end', async t => {
  const agent = await fakeAgent(t)
  const { ask } = await fleet(t, { agents: [agentAt('planner', agent)] })

  t.match(await ask('register', 'planner', `127.0.0.1:${agent.port}`, '--ttl', '2s'), {
    code: 0, stdout: /\nfleet\.yaml has it, too, so it stays; what was registered of it ends 20\S+Z unless it is renewed: PUT \/registry\/planner\/instances\/[0-9a-f]{12}\n$/
  })
})

t.test('deregistering what fleet.yaml has says for how long', async t => {
  const agent = await fakeAgent(t)
  const { ask } = await fleet(t, { agents: [agentAt('planner', agent)] })

  t.match(await ask('deregister', 'planner'), { code: 0, stdout: /^deregistered planner \(gateway \S+\)\nIt is in fleet\.yaml, so it stays out until/ })
})

t.test('what fleet.yaml has and somebody took out fails the test, and the fleet is not called empty', async t => {
  const [one, two] = [await fakeAgent(t), await fakeAgent(t)]
  const { ask, json, gateway } = await fleet(t, { agents: [agentAt('planner', one, two), agentAt('coder', one)] })
  const failed = (what: string) => `failed  configuration\n          fleet.yaml has what somebody took out of the fleet: ${what}\n          → it is back when that file changes, or the gateway restarts`

  await ask('deregister', 'planner', `127.0.0.1:${one.port}`)
  t.match(await ask('test'), { code: 1, stdout: failed(`planner (127.0.0.1:${one.port})`), stderr: '\n1 of 5 tests failed\n' })
  await ask('deregister', 'planner')
  t.match(await ask('test'), { code: 1, stdout: failed('planner'), stderr: '\n1 of 4 tests failed\n' })
  t.match(await json('test'), { ok: false, config: { ok: false, problem: /planner$/ }, agents: { coder: { ok: true } } })
  await ask('deregister', 'coder')
  t.match(await ask('agents'), { code: 0, stdout: /^No agents: somebody took out what fleet\.yaml has \(planner, coder\); it is back when that file changes/ })

  await gateway.discovery.reload()
  t.match(await ask('test'), { code: 1, stdout: failed('planner, coder') }, 'reading the same again brings nothing back')
  await ask('register', 'planner', `127.0.0.1:${one.port}`)
  t.match(await ask('test'), { code: 1, stdout: failed(`planner (127.0.0.1:${two.port}), coder`) }, 'what somebody registered is there')
})

t.test('an agent whose instances all drain fails the test, and who drains one of the file is told for how long', async t => {
  const { ask, gateway } = await fleet(t, { agents: [agentAt('planner', await fakeAgent(t))] })
  const [instance] = gateway.registry.get('planner').instances
  const held = gateway.registry.get('planner').instances[0]!.runtime
  held.inFlight++ // so that it does not leave at once
  t.teardown(() => { held.inFlight-- })

  t.match(await ask('deregister', 'planner', '--instance', instance!.id, '--drain'), { code: 0, stdout: /^draining \S+ of planner[^\n]*\nIt is in fleet\.yaml, so it stays out until/ })
  t.match(await ask('test'), { code: 1, stdout: /\nok {6}planner http[^\n]*, the gateway has it as draining\nfailed {2}planner\n {10}no instance takes requests, though all answer\n {10}→ /, stderr: '\n1 of 4 tests failed\n' })
})

t.test('a refused registration names each field', async t => {
  const { ask } = await fleet(t)

  t.match(await ask('register', 'a/b', '9000', '--ttl', 'soon'), { code: 2, stdout: '', stderr: /^The name must match [^\n]*\n--ttl must be a duration [^\n]*\n$/ })
  t.match(await ask('register', 'planner', '169.254.169.254:80'), { code: 1, stderr: /host must not be/ })
  t.match(await ask('register', 'planner', '9000', '--alias', 'twin', '--alias', 'twin'), { code: 0 })
  t.match(await ask('register', 'coder', '9000', '--alias', 'twin'), { code: 1, stderr: /belongs to the agent "planner"/ }, 'what the gateway alone knows')
})

t.test('test: what is wrong with each instance, and what to do about it', async t => {
  const good = await fakeAgent(t)
  const ill = await fakeAgent(t, (_request, response) => { response.writeHead(503).end() })
  const mute = await rawAgent(t, socket => socket.destroy())
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const silent = await rawAgent(t, () => {})
  const dead = await deadPort()
  const at = (port: number) => ({ host: '127.0.0.1', port })
  const { ask, json, gateway } = await fleet(t, {
    rateLimit: { enabled: true, burst: 5, perMinute: 600 }, // what is limited is asked again
    agents: [
      agentAt('good', good),
      { ...agentAt('ill', ill), health: { path: '/health' } },
      { ...agentAt('lost', ill), health: { path: '/nowhere' } },
      agentAt('mixed', good, at(dead), at(mute.port), at(noise.port)),
      { ...agentAt('silent', silent), health: { timeout: 50 } },
      agentAt('nameless', { host: 'no-such-place.invalid', port: 80 }),
      { name: 'secure', protocol: 'https', ...at(good.port) },
      { name: 'empty', instances: [] }
    ]
  })

  const { stdout, stderr, code } = await ask('test')

  t.equal(code, 1)
  t.match(stdout, new RegExp(`^ok {6}gateway ${gateway.origin} {2}[\\d.]+ ms\nok {6}auth {2}[\\d.]+ ms, token from FLEET_SECRET\nfailed {2}empty\n {10}has no instance\n {10}→ start it`))
  t.match(stdout, new RegExp(`\nok {6}good http://127\\.0\\.0\\.1:${good.port} {2}[\\d.]+ ms\n`))
  const advice: [where: string, problem: RegExp, cure: RegExp][] = [
    ['ill', /GET \/health is answered with 503/, /see its log/],
    [`mixed http://127.0.0.1:${dead}`, /nothing listens/, /start the agent/],
    [`mixed http://127.0.0.1:${mute.port}`, /closes the connection without an answer/, /protocol: https/],
    [`mixed http://127.0.0.1:${noise.port}`, /does not speak HTTP/, /correct the port/],
    ['silent', /no answer .* in time/, /health\.timeout/],
    ['nameless', /has no address where the gateway runs/, /correct the host/],
    ['secure', /does not speak TLS, or no version of it that the gateway takes \((EPROTO|ERR_SSL_\w+)\)/, /set protocol: http\n/]
  ]
  const blocks = stdout.split(/^(?=ok|failed)/m)
  for (const [where, problem, cure] of advice) {
    const [block = ''] = blocks.filter(text => text.startsWith(`failed  ${where}`))
    t.match(block, problem, where)
    t.match(block.split('→')[1], cure, where)
  }
  t.match(stderr, /^\n9 of 13 tests failed\n$/)
  t.notMatch(stdout, secret)
  t.match(await json('test'), {
    ok: false,
    gateway: { ok: true, latency_ms: Number },
    auth: { ok: true, token_from: 'FLEET_SECRET' },
    agents: { good: { ok: true, instances: [{ ok: true, latency_ms: Number, address: `http://127.0.0.1:${good.port}` }] }, mixed: { ok: false }, empty: { ok: false, problem: 'has no instance' } }
  })
})

t.test('test passes where everything answers, with auth off, too', async t => {
  const agent = await fakeAgent(t)
  const { gateway } = await fleet(t, { auth: { enabled: false }, agents: [agentAt('planner', agent)] })

  t.match(await runCommand(['test', '--url', gateway.origin]), { code: 0, stderr: '', stdout: /ok {6}auth {2}[\d.]+ ms, off: the gateway asks for no token\n/ })
})

t.test('test: a gateway that does not answer, and a token that is not taken', async t => {
  const { gateway } = await fleet(t)
  const nowhere = `http://127.0.0.1:${await deadPort()}`

  t.match(await runCommand(['test', '--url', nowhere, '--secret', secret]), { code: 1, stdout: new RegExp(`^failed {2}gateway ${nowhere}\n {10}No gateway listens at`) })
  t.match(await runCommand(['test', '--url', nowhere, '--secret', secret, '--json']), { code: 1, stdout: /"ok": false/, stderr: '' })
  const refused = await runCommand(['test', '--url', gateway.origin, '--secret', 'not-the-secret'])
  t.match(refused, { code: 1, stdout: /failed {2}auth\n[^]*does not take the token from --secret/ })
  t.notMatch(refused.stdout + refused.stderr, 'not-the-secret')
})

t.test('why a gateway can\'t be asked is a line with its cure', async t => {
  const { gateway } = await fleet(t)
  const reader = await startGateway(t, { auth: { keys: [{ id: 'reader', token: 'token-of-reader', scopes: ['read'] }] } })
  const other = await fakeAgent(t, (_request, response) => { response.end('<html>') })
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const foreign = await fakeAgent(t, (_request, response) => { response.writeHead(404).end('{"message":"Route not found"}') })
  const cases: [url: string, args: string[], code: number, message: RegExp][] = [
    [gateway.origin, [], 1, /asks for a token, and none was found: give it with --secret, FLEET_SECRET or FLEET_SECRET_FILE/],
    [gateway.origin, ['--secret', 'another-token'], 1, /does not take the token from --secret/],
    [gateway.origin, ['--secret', 'short'], 2, /--secret must be 8 or more/],
    [`http://127.0.0.1:${await deadPort()}`, [], 1, /No gateway listens at .* \(from --url\): start one with "fleet-gateway serve"/],
    ['http://no-such-place.invalid:80', [], 1, /has no address: correct --url/],
    [other.origin, [], 1, /is no Fleet Gateway, to go by its answer of status 200/],
    [foreign.origin, [], 1, /is no Fleet Gateway, to go by its answer of status 404/],
    [`http://127.0.0.1:${noise.port}`, [], 1, /does not speak HTTP/],
    ['localhost:9001', [], 2, /--url must be an address such as/],
    ['http://user:secret-password@localhost', [], 2, /must not hold a password/],
    ['user:secret-password@localhost:9001', [], 2, /--url must be an address such as http:\/\/127\.0\.0\.1:9001\n/],
    ['htp://user:secret-password@localhost', [], 2, /--url must be an address such as/]
  ]

  for (const [url, args, code, message] of cases) {
    const ended = await runCommand(['agents', '--url', url, '--fleet', join(t.testdirName, 'none.yaml'), ...args])
    t.match(ended, { code, stdout: '', stderr: message }, url)
    t.equal(ended.stderr.trim().split('\n').length, 1, 'one line')
    t.notMatch(ended.stderr, /secret-password|another-token/)
  }
  t.match(await runCommand(['register', 'x', '9000', '--url', reader.origin, '--secret', 'token-of-reader']), { code: 1, stderr: /scope.*\(the token is from --secret\)/ })
})

t.test('JSON that is not a gateway\'s is no reason to break', async t => {
  const bodies = ['null', '[]', '"text"', '{"status":"ok"}', '{"foo":"bar"}', '{"a":{"instances":5,"friendly_names":[]}}']
  for (const status of [200, 404]) {
    for (const body of bodies) {
      const other = await fakeAgent(t, (_request, response) => { response.writeHead(status, { 'content-type': 'application/json' }).end(body) })
      for (const args of [['agents'], ['agents', 'a'], ['agents', '--json'], ['routes'], ['health'], ['stats'], ['test'], ['register', 'a', '80'], ['deregister', 'a']]) {
        const { code, stdout, stderr } = await runCommand([...args, '--url', other.origin, '--secret', secret])
        t.equal(code, 1, `${args.join(' ')} ${body}`)
        t.match(stdout + stderr, 'is no Fleet Gateway')
        t.notMatch(stdout + stderr, /TypeError|\n +at |NaN|undefined/)
      }
    }
  }
})

t.test('address and token are found where serve would find them', async t => {
  const { gateway } = await fleet(t)
  const host = '127.0.0.1'
  const { port } = gateway
  const dir = t.testdir({
    'token.txt': `${secret}\n`,
    'secret.yaml': `server: {port: ${port}}\nauth: {secret: ${secret}}\n`,
    'file.yaml': `server: {port: ${port}, host: 0.0.0.0}\nauth: {secretFile: ${join(t.testdirName, 'token.txt')}}\n`,
    'keys.yaml': `server: {port: ${port}}\nauth: {keys: [{id: a, tokenSha256: ${'ab'.repeat(32)}, scopes: [admin]}, {id: r, token: not-that-one, scopes: [read]}, {id: all, token: ${secret}, scopes: [admin]}]}\n`,
    'kept.yaml': `server: {port: ${port}, host: localhost}\n`,
    'state.yaml': `server: {port: ${port}}\nregistry: {stateDir: nowhere}\n`,
    'bad.yaml': 'auth: {secrte: x}\n',
    'variables.yaml': `server: {port: ${port}}\nauth: {secret: "${'${'}GW_TOKEN}"}\n`,
    '.fleet': { secret: `${secret}\n` }
  })
  const cases: [name: string, args: string[], env: Record<string, string>][] = [
    ['flags', ['--url', gateway.origin, '--secret', secret], { FLEET_URL: 'http://127.0.0.1:1', FLEET_SECRET: 'not-that-one' }],
    ['environment', ['--fleet', join(dir, 'bad.yaml')], { FLEET_URL: gateway.origin, FLEET_SECRET: secret, FLEET_PORT: '1' }],
    ['file of the environment', ['--fleet', join(dir, 'none.yaml')], { FLEET_HOST: host, FLEET_PORT: String(port), FLEET_SECRET_FILE: join(dir, 'token.txt') }],
    ['auth.secret', ['--fleet-yaml', join(dir, 'secret.yaml')], {}],
    ['auth.secretFile', ['--fleet', join(dir, 'file.yaml')], {}],
    ['a key with every right before others', ['--fleet', join(dir, 'keys.yaml')], {}],
    ['the file, though a variable of another part is for the gateway alone', ['--fleet', join(dir, 'variables.yaml')], { FLEET_SECRET: secret }],
    ['the secret that serve made and kept', ['--fleet', join(dir, 'kept.yaml')], {}],
    ['the same, where the environment says that it is', ['--fleet', join(dir, 'state.yaml')], { FLEET_STATE_DIR: join(dir, '.fleet') }]
  ]

  for (const [name, args, env] of cases) t.match(await runCommand(['agents', ...args], { env }), { code: 0, stderr: '' }, name)
  t.match(await runCommand(['agents', '--fleet', join(dir, 'bad.yaml')], { env: { FLEET_URL: gateway.origin } }), { code: 0, stderr: /bad\.yaml is not valid and is not used here; "fleet-gateway check" tells why/ })
  t.match(await runCommand(['agents', '--fleet', join(dir, 'secret.yaml')], { env: { FLEET_PORT: 'tcp://10.0.0.1:9001' } }), { code: 0 }, 'Kubernetes means something else')
  t.match(await runCommand(['agents'], { env: { FLEET_PORT: 'x' } }), { code: 2, stderr: /FLEET_PORT must be a port/ })
})

t.test('colour is for terminals, unless NO_COLOR or FORCE_COLOR say otherwise', async t => {
  const { env } = await fleet(t)
  const coloured = async (isTTY: boolean, more: Record<string, string>) => (await runCommand(['routes'], { isTTY, env: { ...env, ...more } })).stdout.includes('\u001b[')

  t.equal(await coloured(true, {}), true)
  t.equal(await coloured(false, {}), false)
  t.equal(await coloured(true, { NO_COLOR: '1' }), false)
  t.equal(await coloured(true, { NO_COLOR: '' }), true)
  t.equal(await coloured(true, { TERM: 'dumb' }), false)
  t.equal(await coloured(false, { FORCE_COLOR: '1' }), true)
  t.equal(await coloured(true, { FORCE_COLOR: '0' }), false)
  t.equal((await runCommand(['agents', '--json'], { isTTY: true, env })).stdout, '{}\n', 'JSON has none')
  t.match((await runCommand(['nonsense'], { isTTY: true })).stderr, '\u001b[31m')
})

t.test('check: what serve would refuse, all of it, with places', async t => {
  const dir = t.testdir({
    'good.yaml': 'agents:\n  - {name: a, port: 80}\n  - {name: a, port: 81}\n  - {name: b, instances: [{port: 80}, {port: 81}]}\n',
    'bad.yaml': 'agents:\n  - name: a\n    prot: 80\nserver:\n  port: 99999\n',
    'syntax.yaml': 'agents: [\n',
    'short.txt': 'abc\n',
    'short.yaml': `auth: {secretFile: ${join(t.testdirName, 'short.txt')}}\n`,
    'off.yaml': 'auth: {enabled: false, secretFile: nowhere.txt}\n',
    'files.yaml': 'auth:\n  secretFile: nowhere.txt\n  keys: [{id: a, tokenFile: nowhere-else.txt, scopes: [read]}]\n',
    'secret.yaml': 'auth: {secretFile: nowhere.txt}\n',
    'token.txt': 'a-token-in-a-file\n',
    'twice.yaml': `auth:\n  secret: a-token-in-a-file\n  keys:\n    - {id: a, tokenFile: ${join(t.testdirName, 'token.txt')}, scopes: [read]}\n`,
    'audit.yaml': `auditLog: {file: ${t.testdirName}}\n`,
    'below.yaml': `auditLog:\n  file: ${join(t.testdirName, 'token.txt', 'audit.log')}\n`,
    'silent.yaml': `auditLog: {enabled: false, file: ${t.testdirName}}\n`
  })
  const at = (name: string) => join(dir, name)

  t.match(await runCommand(['check', at('good.yaml')]), { code: 0, stdout: /^ok {2}\S+good\.yaml: 2 agents, 4 instances\n$/ })
  t.match(await runCommand(['check', '--fleet', at('good.yaml')]), { code: 0 })
  t.match(await runCommand(['check', at('bad.yaml')]), { code: 1, stdout: '', stderr: /bad\.yaml:3:5 agents\[0\]\.prot: unknown key, did you mean "port"\?\n\S+bad\.yaml:5:9 server\.port: [^\n]+\n\S+bad\.yaml has 2 problems/ })
  t.match(await runCommand(['check', at('syntax.yaml')]), { code: 1, stderr: /syntax\.yaml:\d+:\d+/ })
  t.match(await runCommand(['check', at('none.yaml')]), { code: 1, stderr: /^\S+none\.yaml: there is no such file; "fleet-gateway onboard --fleet \S+none\.yaml" writes one\n$/ })
  t.match(await runCommand(['check', at('files.yaml')]), { code: 1, stderr: /files\.yaml:2:15 auth\.secretFile: can not be read: ENOENT \(nowhere\.txt\)\n\S+files\.yaml:3:\d+ auth\.keys\[0\]\.tokenFile/ })
  for (const env of [{ FLEET_SECRET: 'of-the-environment' }, { FLEET_SECRET_FILE: at('token.txt') }]) {
    t.match(await runCommand(['check', at('secret.yaml')], { env }), { code: 0 }, 'serve would not read it')
    t.match(await runCommand(['check', at('files.yaml')], { env }), { code: 1, stderr: /^\S+files\.yaml:3:\d+ auth\.keys\[0\]\.tokenFile/ })
  }
  t.match(await runCommand(['check', at('secret.yaml')], { env: { FLEET_SECRET: '' } }), { code: 1 })
  t.match(await runCommand(['check', at('short.yaml')]), { code: 1, stderr: /short\.yaml:1:20 auth\.secretFile: must hold at least 8 characters/ })
  t.match(await runCommand(['check', at('off.yaml')]), { code: 0 })
  t.match(await runCommand(['check', at('twice.yaml')]), { code: 1, stderr: /twice\.yaml:4:26 auth\.keys\[0\]\.tokenFile: is the same as secret\n/ })
  t.match(await runCommand(['check', at('audit.yaml')]), { code: 1, stderr: /audit\.yaml:1:18 auditLog\.file: can't be written: \S+ is a folder\n/ })
  t.match(await runCommand(['check', at('below.yaml')]), { code: 1, stderr: /below\.yaml:2:9 auditLog\.file: can't be written: / })
  t.match(await runCommand(['check', at('silent.yaml')]), { code: 0 })
  t.match(await runCommand(['check', at('good.yaml'), '--fleet', at('bad.yaml')]), { code: 2, stderr: /once/ })
  t.match(JSON.parse((await runCommand(['check', at('bad.yaml'), '--json'])).stdout), { ok: false, problems: [{ line: 3, column: 5, path: 'agents[0].prot' }, {}] })
  const { stdout, code } = await runCommand(['check', at('good.yaml'), '--json'])
  t.same(JSON.parse(stdout), { ok: true, file: at('good.yaml'), agents: 2, instances: 4, problems: [] })
  t.equal(code, 0)
})

t.test('wrong usage is 2, with what was meant', async t => {
  const cases: [args: string[], message: RegExp][] = [
    [[], /^Usage: fleet-gateway/],
    [['agenst'], /unknown command 'agenst'\n\(Did you mean agents\?\)/],
    [['agents', '--jsno'], /Did you mean --json\?/],
    [['agents', 'a', 'b'], /too many arguments/],
    [['register'], /missing required argument 'name'/],
    [['register', 'a'], /Say where it listens: fleet-gateway register NAME PORT/],
    [['register', 'a', '0'], /must be a port or HOST:PORT/],
    [['register', 'a', '99999'], /must be a port or HOST:PORT/],
    [['register', 'a', 'http://x:80'], /must be a port or HOST:PORT/],
    [['register', 'a', '80', '--port', '81'], /once/],
    [['register', 'a', 'x:80', '--host', 'y'], /once/],
    [['register', 'a', '--port', '0'], /whole number from 1 to 65535/],
    [['register', 'a', '80', '--metadata', '[]'], /JSON object/],
    [['register', 'a', '80', '--metadata', '{'], /JSON object/],
    [['deregister', 'a', '80', '--instance', 'x'], /in one way/],
    [['deregister', 'a', '--host', 'x'], /--host needs --port/],
    [['deregister', 'a', '--drain'], /--drain is of one instance: name it by HOST:PORT; "fleet-gateway agents a"/],
    [['deregister', 'a', '0f3c9a41d2e7'], /looks like an id, which is given with --instance 0f3c9a41d2e7/],
    [['onboard', '--agent', 'x'], /NAME=PORT/],
    [['onboard', '--agent', 'x y=80'], /NAME=PORT/],
    [['onboard', '--agent', 'x=y'], /must be a port or HOST:PORT/],
    [['onboard', '--agent', 'x=${HOME}:80'], /Its host must be a valid host name or IP address/],
    [['onboard', '--agent', 'x=a b:80'], /Its host must not contain spaces/],
    [['onboard', '--agent', 'x=a\n  evil: 1:80'], /NAME=PORT/],
    [['register', 'x', 'a@b:80'], /Its host must be a bare host name/],
    [['register', 'bad name', '80'], /^The name must match /],
    [['register', 'x', '80', '--ttl', '5x', '--timeout', '-1'], /^--ttl must be a duration.*\n--timeout must be a duration/],
    [['register', 'x', '80', '--host', 'a b', '--protocol', 'ftp'], /^--protocol must be .*\n--host must not contain spaces\n$/],
    [['register', 'x', '80', '--health-path', 'health', '--alias', '.'], /^--alias must match .*\n--health-path must be a path/],
    [['run', 'x', 'node', '-e', '1'], /^error: unknown option '-e'\n\(The program and what is its own stand behind "--": fleet-gateway run <name> \[options\] -- <command\.\.\.>\)\n\(/],
    [['logs', '--status', '9xx'], /It must be a status such as 404, a class such as 5xx/],
    [['logs', '--since', 'yesterday'], /It must be a time such as 2026-03-01T12:00:00Z, a duration such as 5m/],
    [['logs', '-f', '--since', '2026-13-01'], /It must be a time/],
    [['logs', '--agent', 'a b'], /It must be the name or alias of one agent/],
    [['serve', '--port', '70000'], /whole number from 0 to 65535/],
    [['serve', '--host', ''], /^--host must not be empty/],
    [['serve', '--host', 'http://x'], /^--host must be a bare host name/],
    [['serve', '--secret', 'short'], /^The secret of --secret must be 8 or more/],
    [['serve', '--fleet', ''], /^--fleet needs the name of a file/],
    [['agents', '--fleet-yaml', ''], /^--fleet needs the name of a file/],
    [['check', ''], /^Name a file/],
    [['serve', '--no-auth', '--secret', secret], /contradict/]
  ]

  for (const [args, message] of cases) t.match(await runCommand(args), { code: 2, stdout: '', stderr: message }, args.join(' ') || '(nothing)')
})

t.test('what the environment says wrong is wrong usage, and is named', async t => {
  const cases: [env: Record<string, string>, message: string][] = [
    ...['abc', '70000', ' 9001 ', '-1', '1e3'].map((port): [Record<string, string>, string] => [{ FLEET_PORT: port }, `FLEET_PORT must be a port from 0 to 65535 (got "${port}")\n`]),
    [{ FLEET_HOST: 'a b' }, 'FLEET_HOST must not contain spaces (got "a b")\n'],
    [{ FLEET_HOST: '[::1]' }, 'FLEET_HOST must be an IPv6 address without brackets (got "[::1]")\n'],
    [{ FLEET_SECRET: 'short' }, 'The secret of FLEET_SECRET must be 8 or more printable characters without spaces\n'],
    [{ FLEET_SECRET: 'x'.repeat(5_000) }, 'The secret of FLEET_SECRET must be 8 or more printable characters without spaces, 4096 at most\n']
  ]

  for (const [env, message] of cases) {
    t.same(await runCommand(['serve', '--fleet', 'none.yaml'], { env }), { code: 2, stdout: '', stderr: message })
    t.same(await runCommand(['agents', '--fleet', 'none.yaml'], { env }), { code: 2, stdout: '', stderr: message })
  }
})

t.test('of a file with the secret no more is read than a secret needs', async t => {
  const dir = t.testdir({ 'crlf.txt': `${secret}\r\n`, 'empty.txt': '', 'huge.txt': 'x'.repeat(1_000_000) })
  const { gateway } = await fleet(t)
  const withFile = (file: string) => runCommand(['agents', '--url', gateway.origin], { env: { FLEET_SECRET_FILE: file } })

  t.match(await withFile(join(dir, 'crlf.txt')), { code: 0 })
  for (const file of [join(dir, 'empty.txt'), join(dir, 'huge.txt'), '/dev/zero']) t.match(await withFile(file), { code: 1, stderr: /^The secret of FLEET_SECRET_FILE \(.*\) must be 8 or more/ }, file)
  t.match(await withFile(dir), { code: 1, stderr: /^FLEET_SECRET_FILE can't be read: EISDIR/ })
})

t.test('a misspelt option does not give its value away', async t => {
  const { code, stdout, stderr } = await runCommand(['serve', `--secert=${secret}`])

  t.same({ code, stdout, stderr }, { code: 2, stdout: '', stderr: 'error: unknown option \'--secert\'\n(Did you mean --secret?)\n("fleet-gateway serve --help" tells more)\n' })
  t.match(await runCommand(['agents', `--zzzzzzzzzzzz=${secret}`]), { code: 2, stderr: /^error: unknown option '--zzzzzzzzzzzz'\n\(/ })
})

t.test('what was typed gives the terminal no orders either', async t => {
  const orders = 'a\u001b[2J\u009b31m\rb'
  const dir = t.testdir({ 'keys.yaml': '"a\\e[2J\\x9b31mb": 1\n' })
  for (const args of [[orders], ['agents', `--${orders}`], ['agents', orders, orders], ['register', 'a', orders], ['check', orders], ['check', join(dir, 'keys.yaml')], ['check', orders, '--json'], ['agents', '--url', orders]]) {
    const { code, stdout, stderr } = await runCommand(args)
    t.not(code, 0)
    // eslint-disable-next-line no-control-regex
    t.notMatch(stdout + stderr, /[\u001b\u009b\r]/, JSON.stringify(args))
  }
})

t.test('help: every command, with examples, and a version', async t => {
  const { stdout, code } = await runCommand(['--help'])

  t.equal(code, 0)
  for (const name of ['serve', 'routes', 'agents', 'test', 'onboard', 'check', 'register', 'deregister', 'stats', 'health']) {
    t.match(stdout, new RegExp(`^ {2}${name} `, 'm'))
    const help = await runCommand([name, '--help'])
    t.match(help, { code: 0, stdout: new RegExp(`^Usage: fleet-gateway ${name} [^]*\nExamples:\n {2}\\$ .*fleet-gateway ${name}`) }, name)
    if (!['serve', 'onboard'].includes(name)) t.match(help.stdout, '--json', name)
    t.notMatch(help.stdout, '\u001b')
  }
  t.match((await runCommand(['help', 'test'])).stdout, /^Usage: fleet-gateway test/)
  t.match(await runCommand(['--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
})

t.test('a gateway at its rate limit is waited for, unless it takes too long', async t => {
  let asked = 0
  const gateway = await fakeAgent(t, (_request, response) => {
    asked++
    const isOver = asked === 2
    response.writeHead(isOver ? 200 : 429, { 'content-type': 'application/json', 'retry-after': asked === 1 ? '0' : '3600' })
    response.end(JSON.stringify(isOver ? {} : { code: 'FLEET_RATE_LIMITED', title: 'Too many requests', detail: 'Try again in 3600 s', status: 429 }))
  })
  const url = gateway.origin

  t.match(await runCommand(['agents', '--json', '--url', url, '--secret', secret]), { code: 0, stdout: '{}\n' })
  t.match(await runCommand(['agents', '--json', '--url', url, '--secret', secret]), { code: 1, stderr: 'Try again in 3600 s\n' })
})
