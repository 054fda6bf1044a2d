/** `serve` as a process: what it starts with, and what keeps it from starting. What it does then is in serve.running.test.ts. */
import { spawnSync } from 'node:child_process'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { serve as serveHere } from '../../src/cli/serve.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { launch, main, serve } from '../helpers/serve-process.ts'

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
