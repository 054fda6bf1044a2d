/** What a reload changes in a gateway that runs, what it leaves, and what it says of it. Streams and instances under reloads: change.test.ts. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, unwatchFile, writeFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { Agent, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'

const secret = 'fleet-secret-token'

interface Line { level: number, msg: string }

interface Scene {
  readonly gateway: Awaited<ReturnType<typeof startGateway>>
  readonly folder: string
  readonly logged: Line[]
  /** Writes the file and reloads it. */
  reload (text: string): Promise<boolean>
}

/** A gateway with auth that listens, and whose file is the test's to change and to reload: nobody else watches it. */
async function scene (t: Test, text: string, options: FleetGatewayOptions = {}): Promise<Scene> {
  const folder = t.testdir({ 'fleet.yaml': text })
  const file = join(folder, 'fleet.yaml')
  const logged: Line[] = []
  const logger = { level: 'info', stream: { write: (line: string) => { logged.push(JSON.parse(line) as Line) } } }
  const gateway = await createGateway({ file, fallbackSecret: secret, ...options }, { logger })
  t.teardown(() => gateway.close())
  unwatchFile(file)
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  return {
    gateway: Object.assign(gateway, { port, origin: `http://127.0.0.1:${port}` }),
    folder,
    logged,
    async reload (next) {
      await writeFile(`${file}.new`, next)
      await rename(`${file}.new`, file)
      return await gateway.discovery.reload()
    }
  }
}

const quietLog = 'auditLog: {enabled: false}\n'
const authorization = { authorization: `Bearer ${secret}` }

t.test('a hundred reloads under load: no request fails, and each meets one configuration as a whole', async t => {
  const [even, odd] = await Promise.all(['even', 'odd'].map(async name => fakeAgent(t, (_request, response) => response.end(name))))
  const folder = t.testdir({ logs: {} })
  // All of it changes with each version: where the agent is, who may ask from elsewhere, how much, and where lines go.
  const version = (number: number) => {
    const name = number % 2 === 0 ? 'even' : 'odd'
    return `agents: [{name: a, host: 127.0.0.1, port: ${(name === 'even' ? even : odd)!.port}}]
cors: {origins: ['https://${name}.example']}
rateLimit: {perMinute: 60000000, burst: ${name === 'even' ? 900_000 : 900_001}}
auditLog: {file: ${join(folder, 'logs', `${name}.log`)}}
timeouts: {response: ${10 + number}s}
auth: {keys: [{id: k${number}, token: token-of-${number}, scopes: [read]}, {id: steady, token: ${secret}, scopes: [admin]}]}
`
  }
  const { gateway, reload } = await scene(t, version(0))
  const agent = new Agent({ keepAlive: true, maxSockets: 8 })
  t.teardown(() => agent.destroy())
  const ask = () => new Promise<{ status: number, met: string }>((resolve, reject) => {
    const outgoing = httpRequest(`${gateway.origin}/api/a/`, { agent, headers: { ...authorization, origin: 'https://even.example' } }, response => {
      const { headers, statusCode } = response
      const by = [headers['access-control-allow-origin'] === 'https://even.example' ? 'even' : 'odd', headers['x-ratelimit-limit'] === '900000' ? 'even' : 'odd']
      response.toArray().then(chunks => resolve({ status: statusCode!, met: [...by, Buffer.concat(chunks as Buffer[]).toString()].join(' ') }), reject)
    })
    outgoing.on('error', reject).end()
  })
  const state = { over: false }
  const seen = new Map<string, number>()
  let asked = 0
  const load = Array.from({ length: 2 }, async () => {
    while (!state.over) {
      const { status, met } = await ask()
      asked++
      seen.set(`${status} ${met}`, (seen.get(`${status} ${met}`) ?? 0) + 1)
    }
  })

  for (let number = 1; number <= 100; number++) {
    if (number % 20 === 0) t.equal(await reload(`${version(number)}nonsense: {`), false)
    t.equal(await reload(version(number)), true)
  }
  state.over = true
  await Promise.all(load)
  await gateway.close()

  t.same([...seen.keys()].sort(), ['200 even even even', '200 odd odd odd'])
  t.ok(asked > 200, `${asked} requests`)
  const lines = ['even', 'odd'].flatMap(name => readFileSync(join(folder, 'logs', `${name}.log`), 'utf8').trim().split('\n'))
  t.equal(lines.length, asked, 'no line of the audit log is lost or doubled')
  t.same(lines.filter(line => (JSON.parse(line) as { status: number }).status !== 200), [])
})

t.test('CORS is switched off, on, and to other origins; an answer under way keeps its rules', async t => {
  let finish = () => {}
  let arrive = () => {}
  const arrived = new Promise<void>(resolve => { arrive = resolve })
  const { port } = await fakeAgent(t, (request, response) => {
    response.setHeader('access-control-allow-origin', 'https://agent.example')
    if (request.url !== '/held') return response.end()
    finish = () => response.end()
    arrive()
  })
  const text = (cors: string) => `${quietLog}agents: [{name: a, host: 127.0.0.1, port: ${port}}]\n${cors}`
  const { gateway, reload, logged } = await scene(t, text(''))
  const allowed = async (origin: string, path = '/api/a/') => (await fetch(`${gateway.origin}${path}`, { headers: { ...authorization, origin } })).headers.get('access-control-allow-origin')
  const preflight = async (origin: string) => (await fetch(`${gateway.origin}/agents`, { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'GET' } })).status
  t.equal(await allowed('https://one.example'), '*')
  const held = allowed('https://one.example', '/api/a/held')
  await arrived

  t.equal(await reload(text('cors: {enabled: false}\n')), true)
  finish()
  t.equal(await held, '*', 'as it began')
  t.equal(await allowed('https://one.example'), 'https://agent.example', 'the agent answers for itself')
  t.equal(await preflight('https://one.example'), 405)

  t.equal(await reload(text('cors: {origins: [https://one.example], maxAge: 1m}\n')), true)
  t.same([await allowed('https://one.example'), await allowed('https://two.example')], ['https://one.example', null])
  t.equal(await preflight('https://one.example'), 204)
  t.same(logged.filter(({ msg }) => msg.startsWith('reloaded')).map(({ msg }) => msg.replace(/^\S+ \S+: /, '')), [
    'cors.enabled true → false',
    'cors.enabled false → true, cors.origins +https://one.example −*, cors.maxAge unset → 1m'
  ])
  t.same(logged.filter(({ level }) => level > 30), [])
})

t.test('CORS that was off in another\'s application waits for a restart, since its route may be somebody else\'s', async t => {
  const { default: Fastify } = await import('fastify')
  const { fleetGateway } = await import('../../src/gateway.ts')
  const file = join(t.testdir({ 'fleet.yaml': 'cors: {enabled: false}\n' }), 'fleet.yaml')
  const logged: Line[] = []
  const app = Fastify({ logger: { level: 'warn', stream: { write: line => { logged.push(JSON.parse(line) as Line) } } } })
  t.teardown(() => app.close())
  let reload: () => Promise<boolean> = async () => false
  await app.register(async fleet => {
    await fleetGateway(fleet, { file, auth: { secret }, auditLog: { enabled: false } })
    reload = () => fleet.discovery.reload()
  })
  app.options('*', async () => 'mine')
  await app.ready()

  await writeFile(file, 'cors: {enabled: true}\n')
  t.equal(await reload(), true)

  t.match(logged, [{ level: 40, msg: 'Changes of cors.enabled take effect when the gateway restarts' }])
  t.equal((await app.inject({ method: 'OPTIONS', url: '/own' })).body, 'mine')
})

t.test('narrower rules for registrations count at once, also for those that came before', async t => {
  const { gateway, reload, logged, folder } = await scene(t, `${quietLog}agents: [{name: filed, host: 10.9.9.9, port: 1}]\nhealth: {interval: 1h}\n`)
  const register = (name: string, host: string) => gateway.inject({ method: 'POST', url: '/registry/register', headers: authorization, payload: { name, host, port: 7 } })
  const agents = async () => Object.entries((await gateway.inject({ url: '/agents', headers: authorization })).json<Record<string, { instances: unknown[] }>>()).map(([name, { instances }]) => `${name} ${instances.length}`)
  t.equal((await register('inside', '10.0.0.1')).statusCode, 201)
  t.equal((await register('outside', '192.168.0.1')).statusCode, 201)

  const rules = 'registry: {allowedHosts: [10.0.0.0/16], maxAgents: 3}\n'
  t.equal(await reload(`${quietLog}agents: [{name: filed, host: 10.9.9.9, port: 1}]\nhealth: {interval: 1h}\n${rules}`), true)

  t.same(await agents(), ['filed 1', 'inside 1', 'outside 0'])
  t.match(logged.find(({ level }) => level === 40), { msg: 'An instance of "outside" that was registered is gone: its host 192.168.0.1 must be among registry.allowedHosts' })
  t.match((await register('outside', '192.168.0.1')).json(), { errors: [{ path: 'host' }] })
  t.match((await register('more', '10.0.0.2')).json(), { errors: [{ path: 'name', message: /maxAgents allows 3/ }] })
  await gateway.registryState.save()
  t.notMatch(readFileSync(join(folder, '.fleet/registry.json'), 'utf8'), '192.168.0.1', 'nor after a restart')

  t.equal(await reload(`${quietLog}health: {interval: 1h}\n`), true)
  t.equal((await register('outside', '192.168.0.1')).statusCode, 201)
  t.match(logged.at(-1), { msg: / agents −1 \(filed\), registry\.allowedHosts \["10\.0\.0\.0\/16"\] → unset, registry\.maxAgents 3 → 10000$/ })
})

t.test('the audit log goes to another file, is opened again when it was rotated, and a file that can\'t be written leaves all as it is', async t => {
  const { gateway, reload, folder, logged } = await scene(t, quietLog)
  const at = (name: string) => join(folder, name)
  const to = (name: string, more = '') => `auditLog: {file: ${at(name)}}\n${more}`
  const ask = () => gateway.inject({ url: '/agents', headers: authorization })
  const lines = (name: string) => existsSync(at(name)) ? readFileSync(at(name), 'utf8').trim().split('\n').length : 0
  await ask()

  t.equal(await reload(to('one.log')), true)
  await ask()
  t.equal(await reload(to('deep/two.log')), true)
  await ask()
  await ask()
  gateway.auditLog.flush()
  t.same([lines('one.log'), lines('deep/two.log')], [1, 2])

  await rename(at('deep/two.log'), at('deep/two.log.1'))
  t.equal(await gateway.discovery.reload(), true)
  await ask()
  gateway.auditLog.flush()
  t.same([lines('deep/two.log.1'), lines('deep/two.log')], [2, 1], 'rotated')

  t.equal(await reload(to('', 'rateLimit: {burst: 7}\n')), false, 'a folder')
  t.match(gateway.discovery.status.error, /fleet\.yaml:1:18 auditLog\.file: can't be written: EISDIR/)
  await ask()
  gateway.auditLog.flush()
  t.equal(lines('deep/two.log'), 2)
  t.equal((await ask()).headers['x-ratelimit-limit'], '100', 'nor did the rest of the file count')

  t.equal(await reload(quietLog), true)
  await ask()
  await gateway.close() // what was left is written beside the rest, and now it is
  t.equal(lines('deep/two.log'), 3)
  t.same(logged.filter(({ msg }) => msg.startsWith('reloaded')).length, 4)
})

t.test('what waits for a restart is named by its key, once', async t => {
  const { gateway, reload, logged } = await scene(t, quietLog)
  const warnings = () => logged.filter(({ level }) => level === 40).map(({ msg }) => msg)

  await reload(`${quietLog}server: {port: 9002, drainTimeout: 1s}\n`)
  await reload(`${quietLog}server: {port: 9002, drainTimeout: 1s}\nrateLimit: {burst: 7}\n`)
  await gateway.discovery.reload()
  t.same(warnings(), ['Changes of server.port, server.drainTimeout take effect when the gateway restarts'])

  await reload(`${quietLog}server: {port: 9003}\nregistry: {stateDir: elsewhere}\n`)
  await reload(quietLog)
  t.same(warnings().slice(1), ['Changes of server.port, registry.stateDir take effect when the gateway restarts'])

  const reloads = logged.filter(({ msg }) => msg.startsWith('reloaded')).map(({ msg }) => msg.replace(/^\S+ \S+: /, ''))
  t.same(reloads, [
    'server.port 9001 → 9002 (at a restart), server.drainTimeout 30s → 1s (at a restart)',
    'rateLimit.burst 100 → 7',
    'it says the same; what it names was read again',
    'server.port 9002 → 9003 (at a restart), server.drainTimeout 1s → 30s, rateLimit.burst 7 → 100, registry.stateDir unset → elsewhere (at a restart)',
    'server.port 9003 → 9001, registry.stateDir elsewhere → unset'
  ], 'what waits is not told as done')
})

t.test('what a reload changed is said in one line, and never a secret', async t => {
  const token = () => `t${randomBytes(9).toString('hex')}` // nothing that YAML takes for a number
  const tokens = { first: token(), second: token(), third: token() }
  const digest = 'ab'.repeat(32)
  const { reload, logged } = await scene(t, `${quietLog}auth:
  secret: ${tokens.first}
  keys: [{id: old, token: ${tokens.second}, scopes: [read]}, {id: kept, tokenSha256: ${digest}, scopes: [read]}]
agents: [{name: c, port: 1}, {name: d, port: 2}]
`)

  t.equal(await reload(`${quietLog}auth:
  secret: ${tokens.third}
  keys: [{id: ci, token: ${tokens.first}, scopes: [admin]}, {id: kept, tokenSha256: ${digest}, scopes: [proxy]}]
agents: [{name: a, port: 1}, {name: b, port: 1}, {name: d, port: 3}]
rateLimit: {perMinute: 300}
timeouts: {response: 90s}
retry: {statuses: [502]}
paths: [{prefix: /v1, timeouts: {idle: 1m}}]
`), true)

  t.match(logged.at(-1), { level: 30, msg: / agents \+2 −1 ~1 \(a, b; c; d\), auth\.secret changed, auth\.keys \+ci −old ~kept, rateLimit\.perMinute 600 → 300, timeouts\.response 30s → 90s, paths \+\/v1, retry\.statuses unset → \[502\]$/ })
  t.notMatch(JSON.stringify(logged), new RegExp([...Object.values(tokens), digest].join('|')))
})

t.test('a bad file is in /stats and in the log with line and column, and no secret is', async t => {
  const { gateway, reload, logged } = await scene(t, quietLog)
  const config = async () => (await gateway.inject({ url: '/stats', headers: authorization })).json<{ config: { loaded_at: string, ok: boolean, error?: string } }>().config
  const before = await config()
  t.match(before, { ok: true, error: undefined })
  const cases: [text: string, error: RegExp][] = [
    ['auth:\n  secret: s3cr3t s3cr3t\n  keys: [{id: a, token: s3cr3t, scopes: [read]}]\n', /fleet\.yaml:2:11 auth\.secret: must be 8 or more[^\n]+\n\S+fleet\.yaml:3:\d+ auth\.keys\[0\]\.token: must be 8 or more[^\n]+$/],
    ['auth:\n  secret: [s3cr3t\n', /fleet\.yaml:\d+:\d+ /],
    ['auth: {secretFile: nowhere.txt}\n', /fleet\.yaml:1:20 auth\.secretFile: can not be read: ENOENT \(nowhere\.txt\)$/],
    ['auth: {keys: [{id: a, token: s3cr3t-s3cr3t, scopes: [read]}, {id: b, token: s3cr3t-s3cr3t, scopes: [read]}]}\n', /fleet\.yaml:1:77 auth\.keys\[1\]\.token: is the same as keys\[0\]\.token$/],
    ['rateLimit:\n  burst: ${S3CR3T}\n', /fleet\.yaml:2:10 rateLimit\.burst: the environment variable S3CR3T is not set$/]
  ]
  for (const [text, error] of cases) {
    logged.length = 0
    t.equal(await reload(text), false)

    const { ok, error: shown, loaded_at: loadedAt } = await config()
    t.same([ok, loadedAt], [false, before.loaded_at])
    t.match(shown, error)
    t.same(logged.filter(({ level }) => level === 50).map(({ msg }) => msg).join('\n'), shown, 'the log has the same lines')
    t.notMatch(JSON.stringify(logged) + shown, /s3cr3t/)
  }

  t.equal(await reload(`${quietLog}# good again\n`), true)
  t.match(await config(), { ok: true, error: undefined })
})

t.test('a secret of the file that is no good is refused also where another one stands before it', async t => {
  const { gateway, reload } = await scene(t, quietLog, { auth: { secret } })
  t.equal(await reload(`${quietLog}auth:\n  secret: s3cr3t\n`), false)
  t.match(gateway.discovery.status.error, /fleet\.yaml:3:11 auth\.secret: must be 8 or more/)
  t.equal(await reload(`${quietLog}auth:\n  secret: another-secret-token\n`), true)
  t.equal((await gateway.inject({ url: '/stats', headers: authorization })).statusCode, 200, 'it stands before it all the same')
})

t.test('a file that changes while the gateway starts is one configuration in the end', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'rateLimit: {burst: 5}\nagents: [{name: "${NAME}", port: 1}]\n' }), 'fleet.yaml')
  let reads = 0
  const env = {
    get NAME () {
      if (reads++ === 0) writeFileSync(file, 'rateLimit: {burst: 6}\nagents: [{name: late, port: 1}]\n')
      return 'early'
    }
  }

  const gateway = await startGateway(t, { file, env, auth: { secret }, rateLimit: { enabled: true } })

  t.equal(reads, 1)
  t.same([...gateway.registry.agents()].map(({ name }) => name), ['late'])
  t.equal((await fetch(`${gateway.origin}/agents`, { headers: authorization })).headers.get('x-ratelimit-limit'), '6')
})

t.test('with auth switched off by a reload only this machine\'s pages may call, and with it on again any', async t => {
  const { gateway, reload, logged } = await scene(t, quietLog)
  const from = async (origin: string) => (await gateway.inject({ url: '/agents', headers: { origin, host: 'localhost', ...authorization } })).statusCode

  await reload(`${quietLog}auth: {enabled: false}\n`)
  t.same([await from('https://evil.example'), await from('http://localhost:3000')], [403, 200])
  t.match(logged.find(({ level }) => level === 40), { msg: /auth is OFF since this reload/ })

  await reload(`${quietLog}auth: {enabled: false}\ncors: {origins: [https://app.example]}\n`)
  t.same([await from('https://evil.example'), await from('https://app.example')], [403, 200])
  t.equal(logged.filter(({ level }) => level === 40).length, 1, 'said once')

  await reload(quietLog)
  t.equal(await from('https://evil.example'), 200)
})
