/** `fleet-gateway run` as a process around real programs, with a gateway over real sockets. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, readdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { CommandError } from '../../src/cli/io.ts'
import { run } from '../../src/cli/program.ts'
import { runInFleet } from '../../src/cli/run.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { listenerCommand, startRunner, untilInstances } from '../helpers/fleet-runner.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const secret = 'fleet-secret-token'
const authorization = `Bearer ${secret}`

/** A gateway with auth, and what programs need to find it. */
async function fleet (t: Test, options: FleetGatewayOptions = {}) {
  const gateway = await startGateway(t, { auth: { secret }, ...options })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  const ask = (path: string) => fetch(`${gateway.origin}/api/${path}`, { headers: { authorization } })
  return { gateway, env, ask }
}

const has = (program: string, ...args: string[]) => spawnSync(program, args).status === 0
const noPython = has('python3', '--version') ? false : 'there is no python3 here'

t.test('a program that knows nothing of the fleet is in it while it runs', async t => {
  const { gateway, env, ask } = await fleet(t)

  const runner = startRunner(t, ['web', '--ttl', '20s', '--alias', 'site', '--alias', 'w', '--health-path', '/', '--', ...listenerCommand('--port={port}', 'at {host}:{port}', '{other}')], { env, covered: true })
  const [, port, url] = await runner.printed(/fleet-gateway: registered web at http:\/\/localhost:(\d+); clients reach it at (\S+)\n/)

  t.equal(url, `${gateway.origin}/api/web`)
  t.match(gateway.registry.get('web'), { aliases: ['site', 'w'], policy: { health: { path: '/' } }, instances: [{ host: 'localhost', port: Number(port), lease: { ttlMs: 20_000 } }] })
  t.match(await (await ask('site/')).json(), { port, host: '127.0.0.1', args: [`--port=${port}`, `at 127.0.0.1:${port}`, '{other}'] })
  t.equal((await ask('web/exit?code=7')).status, 502, 'it ends of its own accord')
  t.equal(await runner.ended, 7)
  t.same(gateway.registry.get('web').instances, [])
  t.match(runner.output(), 'fleet-gateway: that was the last instance of web, which is remembered for ten minutes: requests get 503, and health fails. To have it forgotten now: ')
  t.match(runner.output(), / deregister web\n$/)
})

t.test('without a line of code: what Python serves, by flags and by PORT', { skip: noPython }, async t => {
  const { gateway, env, ask } = await fleet(t)
  const dir = t.testdir({ 'hello.txt': 'hello from Python' })

  const files = startRunner(t, ['files', '--', 'python3', '-m', 'http.server', '{port}', '--bind', '{host}', '--directory', dir], { env })
  const words = startRunner(t, ['words', '--health-path', '/health', '--', 'python3', join(root, 'examples/agents/words.py')], { env })
  await Promise.all([files.printed(/registered files/), words.printed(/registered words/)])

  t.equal(await (await ask('files/hello.txt')).text(), 'hello from Python')
  t.same(await (await ask('words/count?text=to+be+or+not+to+be')).json(), { words: 6, different: 4 })
  for (const runner of [files, words]) runner.kill('SIGTERM')
  t.same(await Promise.all([files.ended, words.ended]), [143, 143], 'Python is ended by the signal, as a shell tells it')
  t.same(['files', 'words'].map(name => gateway.registry.get(name).instances), [[], []])
})

t.test('several of one name are instances of one agent, on ports of their own', async t => {
  const { gateway, env, ask } = await fleet(t)
  const port = await deadPort()

  startRunner(t, ['web', '--', ...listenerCommand()], { env })
  startRunner(t, ['web', '--port', String(port), '--host', '127.0.0.1', '--', ...listenerCommand()], { env })
  await untilInstances(gateway, 'web', 2)

  const seen = await Promise.all([1, 2, 3, 4].map(async () => (await (await ask('web/')).json() as { port: string }).port))
  t.equal(new Set(seen).size, 2)
  t.ok(seen.includes(String(port)))
})

t.test('the lease is kept by heartbeats, and a lost one is taken again', async t => {
  const { gateway, env } = await fleet(t)
  let beats = 0
  const beaten = new Promise<void>(resolve => {
    gateway.facts.onFinished(({ method }) => { if (method === 'PUT' && ++beats === 7) resolve() })
  })

  const runner = startRunner(t, ['web', '--ttl', '1', '--', ...listenerCommand()], { env })
  await beaten
  t.equal(gateway.registry.get('web').instances.length, 1, 'two ttls later')
  const [{ id } = { id: '' }] = gateway.registry.get('web').instances
  gateway.registry.removeAgent('web')
  await untilInstances(gateway, 'web', 1)

  t.equal(gateway.registry.get('web').instances[0]!.id, id)
  await runner.printed(/registered web[^]*registered web/)
})

t.test('a gateway that is away, at first or in between, is said once and is no matter for the program', async t => {
  const port = await deadPort()
  const env = { FLEET_URL: `http://127.0.0.1:${port}`, FLEET_SECRET: secret }
  const gatewayThere = async () => {
    const gateway = await buildGateway(t, { auth: { secret } })
    await gateway.listen({ host: '127.0.0.1', port })
    return gateway
  }

  const runner = startRunner(t, ['web', '--ttl', '1s', '--', ...listenerCommand()], { env })
  await runner.printed(/pid \d+/)
  const first = await gatewayThere()
  await untilInstances(first, 'web', 1)
  await first.close()
  await runner.printed(/registered web[^]*No gateway listens/)
  const second = await gatewayThere()
  await untilInstances(second, 'web', 1)
  await runner.printed(/registered web[^]*registered web/)

  t.equal(runner.output().match(/No gateway listens/g)?.length, 2, runner.output())
  t.match(runner.output(), /^fleet-gateway: No gateway listens .*\nfleet-gateway: web is started all the same, and registered when the gateway is there\n/)
  await second.close()
  runner.kill('SIGTERM')
  t.equal(await runner.ended, 0, 'nor when there is none in the end')
})

t.test('what would be refused is said before anything is started', async t => {
  const { env, gateway } = await fleet(t, {
    auth: { keys: [{ id: 'all', token: secret, scopes: ['admin'] }, { id: 'reader', token: 'reader-token', scopes: ['read', 'proxy'] }, { id: 'other', token: 'other-token', scopes: ['register'], agents: ['other'] }] }
  })
  const empty = t.testdir({})
  const stranger = await fakeAgent(t)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as { port: number }
  const cases: [args: string[], env: Record<string, string>, code: number, said: RegExp][] = [
    [['web'], { FLEET_SECRET: 'wrong-token' }, 1, /does not take the token from FLEET_SECRET/],
    [['web'], { FLEET_SECRET: '' }, 1, /asks for a token, and none was found/],
    [['web'], { FLEET_SECRET: 'reader-token' }, 1, /\(the token is from FLEET_SECRET\)/],
    [['web'], { FLEET_SECRET: 'other-token' }, 1, /\(the token is from FLEET_SECRET\)/],
    [['web'], { FLEET_URL: stranger.origin }, 1, /is no Fleet Gateway/],
    [['web'], { FLEET_URL: `${gateway.origin}/prefix` }, 1, /./],
    [['web'], { FLEET_URL: 'nowhere' }, 2, /FLEET_URL must be an address/],
    [['web', '--port', String(port)], {}, 1, new RegExp(`Something listens on localhost:${port} already`)],
    [['web', '--port', '0'], {}, 2, /whole number from 1 to 65535/],
    [['web', '--ttl', 'soon'], {}, 2, /--ttl must be/],
    [['web', '--ttl', '10ms'], {}, 2, /--ttl must be/],
    [['web', '--drain-timeout', 'soon'], {}, 2, /It must be a duration/],
    [['web', '--alias', 'a b'], {}, 2, /--alias must match/],
    [['web', '--health-path', 'health'], {}, 2, /--health-path must be a path/],
    [['web', '--host', '0.0.0.0'], {}, 2, /--host /],
    [['a b'], {}, 2, /The name must match/]
  ]

  for (const [args, more, code, said] of cases) {
    const { io, stderr } = fakeIo({ env: { PATH: process.env['PATH'] ?? '', ...env, ...more } })

    t.equal(await run(['run', ...args, '--fleet', join(empty, 'fleet.yaml'), '--', 'touch', join(empty, 'started')], io), code, args.join(' '))
    t.match(stderr(), said)
    t.notMatch(stderr(), /-token\b/)
  }
  t.same(await readdir(empty), [], 'nothing was started')
  const { io, stderr } = fakeIo({ env })
  t.equal(await run(['run', 'web'], io), 2)
  t.match(stderr(), /missing required argument 'command'/)
})

t.test('what is refused later is said once, and tried again while the program runs', async t => {
  const other = await fakeAgent(t)
  const { gateway, env } = await fleet(t, { agents: [{ ...agentAt('other', other), aliases: ['site'] }] })

  const runner = startRunner(t, ['web', '--ttl', '1s', '--alias', 'site', '--', ...listenerCommand()], { env })
  await runner.printed(/The alias "site" belongs to the agent "other"\nfleet-gateway: web runs on, and this is tried again until it works\n/)
  gateway.registry.removeAgent('other')
  await untilInstances(gateway, 'web', 1)

  await runner.printed(/registered web/)
  t.equal(runner.output().match(/belongs to/g)?.length, 1)
})

t.test('exit codes are those of a shell, and what never listened is not registered', async t => {
  const { gateway, env } = await fleet(t)
  let registrations = 0
  gateway.registry.onChange(() => { registrations++ })
  const dir = t.testdir({ 'no-program': 'text', folder: {} })
  await chmod(join(dir, 'no-program'), 0o644)
  const cases: [command: string[], code: number, said: RegExp][] = [
    [['sh', '-c', 'exit 3'], 3, /web ended before it listened on localhost:\d+, so it was not registered/],
    [['sh', '-c', 'exit 0'], 0, /ended before it listened/],
    [['sh', '-c', 'kill -9 $$'], 137, /ended before it listened/],
    [['no-such-program-anywhere'], 127, /^$/],
    [[join(dir, 'missing/program')], 127, /^$/],
    [[join(dir, 'no-program')], 126, /^$/],
    [[join(dir, 'folder')], 126, /^$/]
  ]

  for (const [[file = '', ...args], code, said] of cases) {
    const { io, stderr } = fakeIo({ env: { PATH: process.env['PATH'] ?? '', ...env } })

    t.equal(await runInFleet('web', [file, ...args], {}, io).catch((error: CommandError) => error.exitCode), code, [file, ...args].join(' '))
    t.match(stderr(), said)
  }
  t.equal(registrations, 0)
  const { io, stderr } = fakeIo({ env: { PATH: process.env['PATH'] ?? '', ...env } })
  t.equal(await run(['run', 'web', '--', 'no-such-program-anywhere'], io), 127)
  t.equal(stderr(), 'no-such-program-anywhere is not found: is it installed, and on the PATH?\n')
})

t.test('the program gets no token of the gateway\'s, and else the environment as it is', async t => {
  const { env } = await fleet(t)
  const secretFile = join(t.testdir({ secret }), 'secret')

  for (const given of [{ FLEET_SECRET: secret }, { FLEET_SECRET: '', FLEET_SECRET_FILE: secretFile }]) {
    const runner = startRunner(t, ['web', '--', process.execPath, '-e', 'console.log("env " + JSON.stringify(process.env))'], { env: { ...env, ...given, AGENT_TOKEN: 'its-own' } })
    t.equal(await runner.ended, 0)
    const [, printed = ''] = /^env (.*)$/m.exec(runner.output()) ?? []

    t.match(JSON.parse(printed), { AGENT_TOKEN: 'its-own', FLEET_URL: env.FLEET_URL, PORT: /^\d+$/, PATH: process.env['PATH'] })
    t.notMatch(printed, 'FLEET_SECRET')
    t.notMatch(printed, secret)
  }
})

t.test('streams are the program\'s own', async t => {
  const { env } = await fleet(t)

  const runner = startRunner(t, ['web', '--', 'sh', '-c', 'read line; echo "out $line"; echo "err $line" >&2'], { env })
  runner.write('typed\n')

  t.equal(await runner.ended, 0)
  t.match(runner.output(), /^out typed$/m)
  t.match(runner.output(), /^err typed$/m)
})
