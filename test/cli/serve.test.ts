import t, { type Test } from 'tap'
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { WebSocket, WebSocketServer } from 'ws'
import { serve as serveHere } from '../../src/cli/serve.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { rawClient } from '../helpers/raw-client.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

interface Running {
  readonly child: ChildProcess
  readonly port: number
  /** Standard error so far. */
  readonly said: () => string
  /** Standard output so far. */
  readonly printed: () => string
  readonly exited: Promise<number | null>
}

interface Place { cwd: string, env?: Record<string, string> }

function launch (t: Test, args: readonly string[], { cwd, env = {} }: Place) {
  const child = spawn(process.execPath, ['--enable-source-maps', main, ...args], { cwd, env: { ...process.env, FLEET_SECRET: '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  let printed = ''
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  child.stdout.on('data', (chunk: Buffer) => { printed += chunk.toString() })
  const exited = once(child, 'close').then(([code]) => code as number | null)
  return { child, said: () => said, printed: () => printed, exited }
}

/** Starts `serve` on a free port and waits until it says so. */
async function serve (t: Test, args: readonly string[], place: Place): Promise<Running> {
  const running = launch(t, ['serve', '--port', '0', ...args], place)
  const port = await new Promise<number>((resolve, reject) => {
    running.child.stderr!.on('data', () => {
      const [, found] = /^Fleet Gateway on http:\/\/[^:]+:(\d+)[^]*try /m.exec(running.said()) ?? []
      if (found !== undefined) resolve(Number(found))
    })
    void running.exited.then(code => reject(new Error(`exit ${code}: ${running.said()}`)))
  })
  return { ...running, port }
}

t.test('without any secret one is made and kept with mode 0600; off a terminal only its file is named', async t => {
  const cwd = t.testdir()
  const first = await serve(t, [], { cwd })
  const secret = (await readFile(join(cwd, '.fleet/secret'), 'utf8')).trim()

  t.equal((await stat(join(cwd, '.fleet/secret'))).mode & 0o777, 0o600)
  t.ok(secret.length >= 32)
  t.match(first.said(), /secret from \.fleet\/secret\n +it was made now/)
  t.notMatch(first.said(), secret, 'what is said goes to a log')
  t.equal((await fetch(`http://127.0.0.1:${first.port}/agents`, { headers: { authorization: `Bearer ${secret}` } })).status, 200)
  t.equal((await fetch(`http://127.0.0.1:${first.port}/agents`)).status, 401)
  first.child.kill('SIGTERM')
  t.equal(await first.exited, 0)
  t.notMatch(first.printed(), secret)

  const second = await serve(t, [], { cwd })
  t.notMatch(second.said(), secret, 'not again')
  t.equal((await fetch(`http://127.0.0.1:${second.port}/agents`, { headers: { authorization: `Bearer ${secret}` } })).status, 200)
})

t.test('FLEET_STATE_DIR says where what is kept goes, whatever the file says', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'registry: {stateDir: of-the-file}\n' })
  const { child, exited, said } = await serve(t, [], { cwd, env: { FLEET_STATE_DIR: 'state' } })

  const secret = (await readFile(join(cwd, 'state/secret'), 'utf8')).trim()

  t.match(said(), /secret from state\/secret\n/)
  const command = spawnSync(process.execPath, [main, 'stats', '--url', /http:\S+/.exec(said())![0]], { cwd, env: { ...process.env, FLEET_SECRET: '', FLEET_STATE_DIR: 'state' }, encoding: 'utf8' })
  t.equal(command.status, 0, command.stderr)
  t.ok(secret.length >= 32)
  child.kill('SIGTERM')
  t.equal(await exited, 0)
  t.notMatch((await readdir(cwd)).join(), 'of-the-file')
})

t.test('on a terminal a newly made secret is named, once', async t => {
  const cwd = t.testdir()
  for (const isFirst of [true, false]) {
    const terminal = fakeIo({ isTTY: true })
    terminal.onLine(/try /, () => terminal.signal('SIGTERM'))

    t.equal(await serveHere({ port: 0, fleet: join(cwd, 'fleet.yaml') }, terminal.io), 0)

    const secret = (await readFile(join(cwd, '.fleet/secret'), 'utf8')).trim()
    t.equal(terminal.stderr().includes(secret), isFirst)
    t.match(terminal.stderr(), `there is no ${join(cwd, 'fleet.yaml')}`, 'a missing file is an empty fleet, and is named')
  }
})

t.test('the secret comes from flag, environment, its file, fleet.yaml, in that order', async t => {
  const cwd = t.testdir({ 'token.txt': 'from-env-file\n', 'fleet.yaml': 'auth: {secret: from-fleet-yaml}\n' })
  const table: [string[], Record<string, string>, string][] = [
    [['--secret', 'from-the-flag'], { FLEET_SECRET: 'from-the-env', FLEET_SECRET_FILE: 'token.txt' }, 'from-the-flag'],
    [[], { FLEET_SECRET: 'from-the-env', FLEET_SECRET_FILE: 'token.txt' }, 'from-the-env'],
    [[], { FLEET_SECRET_FILE: 'token.txt' }, 'from-env-file'],
    [[], {}, 'from-fleet-yaml']
  ]
  for (const [args, env, secret] of table) {
    const { child, port, said, exited } = await serve(t, args, { cwd, env })
    t.equal((await fetch(`http://127.0.0.1:${port}/agents`, { headers: { authorization: `bearer ${secret}` } })).status, 200, secret)
    t.notMatch(said(), secret)
    child.kill('SIGTERM')
    t.equal(await exited, 0)
  }
})

t.test('flags and environment win over the file; --no-auth, --no-rate-limit and --no-cors switch off', async t => {
  const agent = await fakeAgent(t)
  const cwd = t.testdir({ 'fleet.yml': `server: {port: 1, host: 192.0.2.1}\nagents:\n  - {name: planner, host: 127.0.0.1, port: ${agent.port}}\n` })
  const { port, said } = await serve(t, ['--fleet-yaml', 'fleet.yml', '--no-auth', '--no-rate-limit', '--no-cors'], { cwd, env: { FLEET_HOST: '127.0.0.1', FLEET_PORT: '2' } })

  t.match(said(), /auth +OFF/)
  const reply = await fetch(`http://127.0.0.1:${port}/api/planner/x`, { headers: { authorization: 'Bearer mine' } })
  t.equal(reply.status, 200)
  t.equal(reply.headers.get('ratelimit'), null)
  t.equal(reply.headers.get('access-control-allow-origin'), null)
  t.match(await reply.text(), 'Bearer mine', 'with auth off Authorization is the agent\'s')
  t.equal((await fetch(`http://127.0.0.1:${port}/agents`, { headers: { origin: 'https://evil.example' } })).status, 403)
})

t.test('--rate-limit N allows N a minute', async t => {
  const { port } = await serve(t, ['--rate-limit', '2', '--secret', 'fleet-secret-token'], { cwd: t.testdir() })
  const ask = async () => (await fetch(`http://127.0.0.1:${port}/agents`, { headers: { authorization: 'Bearer fleet-secret-token' } })).status

  t.same([await ask(), await ask(), await ask()], [200, 200, 429])
})

t.test('what keeps it from starting is said in a line, with the exit code that belongs to it', async t => {
  const taken = await fakeAgent(t)
  const cwd = t.testdir({ 'bad.yaml': 'agents:\n  - name: a\n    prot: 80\nserver:\n  port: 99999\n', 'syntax.yaml': 'agents: [\n', 'short.txt': 'abc' })
  const table: [string[], Record<string, string>, number, RegExp][] = [
    [['serve', '--fleet', 'bad.yaml'], {}, 1, /^bad\.yaml:3:5 agents\[0\]\.prot: unknown key, did you mean "port"\?[^]*bad\.yaml:5:9 server\.port/m],
    [['serve', '--fleet', 'syntax.yaml'], {}, 1, /^syntax\.yaml:\d+:\d+/],
    [['serve', '--port', String(taken.port), '--secret', 'fleet-secret-token'], {}, 1, /is in use/],
    [['serve', '--host', '192.0.2.1', '--secret', 'fleet-secret-token'], {}, 1, /not an address of this machine/],
    [['serve', '--secret', 'short'], {}, 2, /--secret must be 8 or more/],
    [['serve'], { FLEET_SECRET_FILE: 'missing.txt' }, 1, /FLEET_SECRET_FILE can't be read/],
    [['serve'], { FLEET_SECRET_FILE: 'short.txt' }, 1, /must be 8 or more/],
    [['serve'], { FLEET_PORT: 'x' }, 2, /FLEET_PORT must be a port/],
    [['serve', '--port', 'x'], {}, 2, /whole number from 0 to 65535/],
    [['serve', '--no-auth', '--secret', 'fleet-secret-token'], {}, 2, /contradict/],
    [['serve', '--nonsense'], {}, 2, /unknown option/],
    [['nonsense'], {}, 2, /unknown command/]
  ]
  for (const [args, env, code, message] of table) {
    const { said, exited } = launch(t, args, { cwd, env })
    t.equal(await exited, code, args.join(' '))
    t.match(said(), message)
    t.notMatch(said(), /\n\s+at /, 'no stack')
  }
  const version = launch(t, ['--version'], { cwd })
  t.equal(await version.exited, 0)
  t.match(version.printed(), /^\d+\.\d+\.\d+\n$/)
  const help = launch(t, ['serve', '--help'], { cwd })
  t.equal(await help.exited, 0)
  t.match(help.printed(), /--fleet-yaml[^]*Examples:/)
})

t.test('SIGTERM drains: readiness turns, what is in flight finishes, streams are closed properly, exit 0', async t => {
  const held: (() => void)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/events') return void response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
    held.push(() => response.end('finished'))
  })
  const rooms = new WebSocketServer({ server: agent.server })
  const cwd = t.testdir({ 'fleet.yaml': `server: {drainDelay: 300ms, drainTimeout: 1s}\nagents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n` })
  const { child, port, exited, said } = await serve(t, ['--no-auth'], { cwd })
  const socket = new WebSocket(`ws://127.0.0.1:${port}/api/a/`)
  await Promise.all([once(rooms, 'connection'), once(socket, 'open')])
  const events = await rawClient(t, port)
  events.send('GET /api/a/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await events.until(/data: 1/)
  const pending = await rawClient(t, port)
  pending.send('GET /api/a/slow HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(agent.server, 'request')

  await rawClient(t, port) // connected, and never heard of again
  child.kill('SIGTERM')
  child.kill('SIGTERM') // a Ctrl-C arrives twice
  while (!said().includes('SIGTERM')) await once(child.stderr!, 'data')
  const ready = await fetch(`http://127.0.0.1:${port}/health/ready`)
  t.equal(ready.status, 503)
  t.equal(ready.headers.get('connection'), 'close')
  held[0]!()
  t.match(await pending.until(/finished/), /^HTTP\/1\.1 200 [^]*connection: close/i)
  t.equal((await once(socket, 'close'))[0], 1001)
  t.match(await events.closed(), /\r\n0\r\n\r\n$/, 'a proper end')
  t.equal(await exited, 0)
})

t.test('a second signal after half a second ends it at once', async t => {
  const agent = await fakeAgent(t, () => {})
  const cwd = t.testdir({ 'fleet.yaml': `agents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n` })
  const { child, port, exited, said } = await serve(t, ['--no-auth'], { cwd })
  const stuck = await rawClient(t, port)
  stuck.send('GET /api/a/stuck HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(agent.server, 'request')
  child.kill('SIGINT')
  while (!said().includes('SIGINT')) await once(child.stderr!, 'data')

  const again = setInterval(() => child.kill('SIGINT'), 100)
  t.equal(await exited, 130)
  clearInterval(again)
})

t.test('the file is watched: a good change applies without harm, a bad one is reported and changes nothing', async t => {
  const [first, second] = [await fakeAgent(t), await fakeAgent(t)]
  const yaml = (port: number) => `auth: {keys: [{id: one, token: token-${port}, scopes: [admin]}]}\nagents:\n  - {name: a, host: 127.0.0.1, port: ${port}}\n`
  const cwd = t.testdir({ 'fleet.yaml': yaml(first.port) })
  const { child, port, said } = await serve(t, [], { cwd })
  const ask = (token: number, path = '/api/a/x') => fetch(`http://127.0.0.1:${port}${path}`, { headers: { authorization: `Bearer token-${token}` } })
  t.equal((await ask(first.port)).status, 200)

  await writeFile(join(cwd, 'fleet.yaml'), yaml(second.port))
  await once(second.server, 'connection') // its first probe
  t.equal((await ask(second.port)).status, 200, 'the new key and the new agent')
  t.equal((await ask(first.port)).status, 401, 'the old key is gone')

  await writeFile(join(cwd, 'fleet.yaml'), 'agents:\n  - nme: a\n')
  while (!said().includes('fleet.yaml:2:5')) await once(child.stderr!, 'data')
  t.equal((await ask(second.port)).status, 200)
  t.match((await (await ask(second.port, '/stats')).json() as { config: object }).config, { ok: false, error: /fleet\.yaml:2:5/ })

  await writeFile(join(cwd, 'fleet.yaml'), yaml(first.port).replace(/token: [^,]+/, 'tokenFile: missing.txt'))
  while (!said().includes('missing.txt')) await once(child.stderr!, 'data')
  t.equal((await ask(second.port)).status, 200, 'a key file that is missing leaves keys and agents as they are')
  t.equal((await (await ask(second.port)).json() as { port: number }).port, second.port)

  await writeFile(join(cwd, 'fleet.yaml'), yaml(first.port))
  child.kill('SIGHUP')
  await once(first.server, 'connection')
  t.equal((await ask(first.port)).status, 200)
})

t.test('a secret that was made counts until fleet.yaml names one', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'agents: []\n' })
  const { child, port, said } = await serve(t, [], { cwd })
  const made = (await readFile(join(cwd, '.fleet/secret'), 'utf8')).trim()
  const ask = async (token: string) => (await fetch(`http://127.0.0.1:${port}/agents`, { headers: { authorization: `Bearer ${token}` } })).status
  t.equal(await ask(made), 200)

  await writeFile(join(cwd, 'fleet.yaml'), 'auth: {secret: added-later-secret}\n')
  while (!said().includes('reloaded fleet.yaml: auth.secret changed')) await once(child.stderr!, 'data')

  t.same([await ask('added-later-secret'), await ask(made)], [200, 401])
})

t.test('the audit log has a line per request and never a secret', async t => {
  const agent = await fakeAgent(t)
  const cwd = t.testdir({ 'fleet.yaml': `agents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n` })
  const { child, port, printed, said, exited } = await serve(t, ['--secret', 'fleet-secret-token'], { cwd })
  await fetch(`http://127.0.0.1:${port}/api/a/x?token=query-secret`, { headers: { authorization: 'Bearer fleet-secret-token', 'x-request-id': 'mine' } })
  await fetch(`http://127.0.0.1:${port}/api/a/x`, { headers: { authorization: 'Bearer wrong-secret-token' } })
  child.kill('SIGTERM')
  await exited

  const lines = printed().trim().split('\n').map(line => JSON.parse(line) as Record<string, unknown>)
  t.match(lines, [
    { request_id: 'mine', client: '127.0.0.1', method: 'GET', path: '/api/a/x', agent: 'a', attempts: 1, status: 200, latency_ms: Number, bytes_out: Number, time: /^\d{4}-/ },
    { path: '/api/a/x', agent: null, status: 401, code: 'FLEET_UNAUTHENTICATED' }
  ])
  t.notMatch(printed() + said(), /query-secret|wrong-secret|fleet-secret/)
})

t.test('a signal while it waits for its file ends it well', async t => {
  const cwd = t.testdir()
  t.equal(spawnSync('mkfifo', [join(cwd, 'pipe.yaml')]).status, 0)
  const { child, exited, said } = launch(t, ['serve', '--fleet', 'pipe.yaml'], { cwd })
  const writer = await open(join(cwd, 'pipe.yaml'), 'w') // when somebody reads

  child.kill('SIGTERM')

  while (!said().includes('\n')) await once(child.stderr, 'data')
  t.equal(said(), 'SIGTERM: ended before it listened\n')
  await writer.close()
  t.equal(await exited, 0)
})

t.test('what hangs in the system is left by a second signal', async t => {
  const cwd = t.testdir()
  t.equal(spawnSync('mkfifo', [join(cwd, 'pipe.yaml')]).status, 0)
  const { child, exited, said } = launch(t, ['serve', '--fleet', 'pipe.yaml'], { cwd })
  const writer = await open(join(cwd, 'pipe.yaml'), 'w')
  t.teardown(() => writer.close())
  child.kill('SIGTERM')
  while (!said().includes('\n')) await once(child.stderr, 'data')

  const again = setInterval(() => child.kill('SIGTERM'), 100)

  await exited
  clearInterval(again)
  t.equal(child.signalCode, 'SIGTERM')
})
