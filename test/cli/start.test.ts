/** What `serve` says when it starts: the few lines that matter, to a person and to a log. */
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { serve, type ServeFlags } from '../../src/cli/serve.ts'
import { onboardHint } from '../../src/cli/target.ts'
import { logDestination } from '../../src/cli/terminal-log.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeIo, type FakeIo } from '../helpers/fake-io.ts'

interface Options extends ServeFlags {
  isTTY?: boolean
  env?: Record<string, string>
  /** Before it is told to end. */
  meanwhile?: (io: FakeIo) => void
}

/** Starts, waits for the last line, ends it. @returns what was said */
async function start (t: Test, yaml: string | null, { isTTY = false, env = { FLEET_SECRET: 'fleet-secret-token' }, meanwhile = io => io.signal('SIGTERM'), ...flags }: Options = {}): Promise<string> {
  const file = join(t.testdir(yaml === null ? {} : { 'fleet.yaml': yaml }), 'fleet.yaml')
  const io = fakeIo({ isTTY, env })
  io.onLine(/^ {2}try .*\n.*\n/m, () => meanwhile(io))
  t.equal(await serve({ port: 0, fleet: file, ...flags }, io.io), 0)
  t.equal(io.stdout(), '', 'standard output is the audit log\'s')
  return io.stderr().replaceAll(t.testdirName, '.')
}

t.test('a fleet that answers', async t => {
  const agent = await fakeAgent(t)
  const said = await start(t, `agents:\n  - {name: planner, host: 127.0.0.1, port: ${agent.port}}\n  - {name: coder, host: 127.0.0.1, port: ${agent.port}}\n`)

  t.match(said, /^Fleet Gateway on http:\/\/127\.0\.0\.1:\d+\n {2}agents {2}planner, coder, 2 instances \(\.\/fleet\.yaml\), all answer\n {2}auth {4}secret from FLEET_SECRET\n {2}limits {2}600 requests a minute per client, 100 at once\n/)
  t.match(said, /\n {2}try {5}curl http:\/\/127\.0\.0\.1:\d+\/health\n {10}curl -H "Authorization: Bearer \$FLEET_SECRET" http:\/\/127\.0\.0\.1:\d+\/api\/planner\/\n {10}fleet-gateway agents --url http:\/\/127\.0\.0\.1:\d+ --fleet \.\/fleet\.yaml\n/)
  t.notMatch(said, 'fleet-secret-token')
})

t.test('who registered earlier is told from who is in the file', async t => {
  const folder = t.testdir({ 'fleet.yaml': 'agents: [{name: planner, port: 1}]\n', '.fleet': { 'registry.json': JSON.stringify({ version: 1, agents: ['coder', 'planner'].map(name => ({ name, instances: [{ host: 'localhost', port: name.length, protocol: 'http', weight: 1, trusted: true }] })) }) } })
  const said = async () => {
    const io = fakeIo({ env: { FLEET_SECRET: 'fleet-secret-token' } })
    io.onLine(/^ {2}try .*\n.*\n/m, () => io.signal('SIGINT'))
    t.equal(await serve({ port: 0, fleet: join(folder, 'fleet.yaml') }, io.io), 0)
    t.match(io.stderr(), /SIGINT: .*; Ctrl-C again ends it at once\n/)
    return io.stderr().replaceAll(folder, '.')
  }

  t.match(await said(), / agents {2}(planner, coder|coder, planner), 3 instances \(2 of them registered earlier, the others in \.\/fleet\.yaml\)/)
  await writeFile(join(folder, 'fleet.yaml'), 'agents: []\n')
  t.match(await said(), / agents {2}(planner, coder|coder, planner), 2 instances \(registered earlier, and none in \.\/fleet\.yaml\)/)
})

t.test('with a certificate of its own it says how to believe it', async t => {
  const [crt, key] = ['crt', 'key'].map(kind => join(import.meta.dirname, `../fixtures/self-signed.${kind}`)) as [string, string]

  t.match(await start(t, `server: {tls: {certFile: ${crt}, keyFile: ${key}}}\n`), `curl --cacert ${crt} https://`)
})

t.test('instances that do not answer are named, a few of them, and what tells why', async t => {
  const dead = await deadPort()
  const said = await start(t, `agents:\n${Array.from({ length: 9 }, (_, index) => `  - {name: a${index}, host: 127.0.0.1, port: ${dead}}\n`).join('')}`)

  t.match(said, new RegExp(` {2}agents {2}a0, a1, a2, a3, a4, a5, a6, a7 and 1 more, 9 instances \\(\\./fleet\\.yaml\\)\n {10}a0 at 127\\.0\\.0\\.1:${dead} does not answer\n`))
  t.equal(said.match(/does not answer/g)?.length, 5)
  t.match(said, /\n {10}and 4 more instances without an answer\n/)
  t.match(said, /\n {10}fleet-gateway test --url http:\S+ --fleet \S+ {5}# what is wrong with whom, and what to do\n/)
  t.notMatch(said, '/api/', 'nobody to call')
})

t.test('the first probes are waited for, but not for ever; who has not been heard from does not answer yet', async t => {
  const held: (() => void)[] = []
  const slow = await fakeAgent(t, (_request, response) => { held.push(() => response.end()) })
  const mute = await fakeAgent(t, () => {})
  const file = join(t.testdir({ 'fleet.yaml': `health: {path: /}\nagents: [{name: slow, host: 127.0.0.1, port: ${slow.port}}]\n` }), 'fleet.yaml')
  const io = fakeIo({ env: { FLEET_SECRET: 'fleet-secret-token' } })
  let before = ''
  slow.server.on('request', () => setImmediate(() => setImmediate(() => {
    before = io.stderr()
    for (const answer of held.splice(0)) answer()
  })))
  io.onLine(/^ {2}try .*\n.*\n/m, () => io.signal('SIGTERM'))

  t.equal(await serve({ port: 0, fleet: file }, io.io), 0)

  t.notMatch(before, 'agents', 'nothing is said before its answer')
  t.match(io.stderr(), / {2}agents {2}slow, 1 instance \(\S+\), all answer\n/)
  t.match(await start(t, `health: {path: /}\nagents: [{name: mute, host: 127.0.0.1, port: ${mute.port}}]\n`), / {2}agents {2}mute, 1 instance \(\.\/fleet\.yaml\), 1 not heard from yet\n/)
})

t.test('a secret is made when nothing can fail any more before it is named', async t => {
  const taken = await fakeAgent(t)
  const dir = t.testdir({ '.fleet': { secret: 'abc def ghi\n' } })
  const io = fakeIo({ isTTY: true, env: { NO_COLOR: '1' } })
  io.onLine(/^ {2}try .*\n.*\n/m, () => io.signal('SIGTERM'))

  await t.rejects(serve({ port: taken.port, fleet: join(dir, 'fleet.yaml') }, fakeIo({ isTTY: true }).io), /is in use/)
  t.same(await readdir(join(dir, '.fleet')), ['secret'], 'not yet')
  t.equal(await serve({ port: 0, fleet: join(dir, 'fleet.yaml') }, io.io), 0)

  const secret = (await readFile(join(dir, '.fleet/secret'), 'utf8')).trim()
  t.match(io.stderr(), `it was made now; use it as  Authorization: Bearer ${secret}`)
  const [aside] = (await readdir(join(dir, '.fleet'))).filter(name => name.startsWith('secret.damaged-'))
  t.equal(await readFile(join(dir, '.fleet', aside!), 'utf8'), 'abc def ghi\n', 'what was no secret is set aside')
})

t.test('an empty fleet: how to get one', async t => {
  t.match(await start(t, 'agents: []\n'), / {2}agents {2}none yet \(\.\/fleet\.yaml\)\n[^]*fleet-gateway register my-agent PORT --url http:\S+ --fleet \.\/fleet\.yaml\n/)
  t.match(await start(t, null), / {2}agents {2}none: there is no \.\/fleet\.yaml yet; "fleet-gateway onboard --fleet \.\/fleet\.yaml" writes one\n/)
  for (const file of ['fleet.yaml', './fleet.yaml']) t.equal(onboardHint(file, 'fleet-gateway'), '"fleet-gateway onboard" writes one')
})

t.test('auth off is loud, and louder where others can reach it', async t => {
  t.match(await start(t, null, { auth: false, isTTY: true, env: { TERM: 'xterm' } }), /auth {4}.*OFF: anybody/)
  t.match(await start(t, null, { auth: false, host: '0.0.0.0' }), /try {5}curl http:\/\/127\.0\.0\.1:\d+\/health\n/, 'an address that answers')
  t.match(await start(t, null, { auth: false, host: '0.0.0.0' }), /auth {4}OFF: anybody who reaches this port can use and change the fleet\n {10}and 0\.0\.0\.0 is reached from other machines\n/)
  t.notMatch(await start(t, null, { auth: false }), 'other machines')
})

t.test('how to send the token, wherever it is from', async t => {
  const agent = await fakeAgent(t)
  const agents = `agents: [{name: a, host: 127.0.0.1, port: ${agent.port}}]\n`

  t.match(await start(t, agents, { env: {} }), /Bearer \$\(cat \.\/\.fleet\/secret\)" http/)
  t.match(await start(t, agents, { secret: 'fleet-secret-token', env: {} }), /Bearer \$TOKEN" http/)
  t.match(await start(t, `auth: {keys: [{id: a, token: token-token, scopes: [admin]}]}\n${agents}`, { env: {} }), /secret from \.\/fleet\.yaml\n[^]*Bearer \$TOKEN" http/)
  t.match(await start(t, agents, { auth: false, env: {} }), /\n {10}curl http:\/\/127\.0\.0\.1:\d+\/api\/a\/\n/)
})

t.test('a signal while it is still looking around ends it in order', async t => {
  const io = fakeIo()
  io.onLine(/^Fleet Gateway on/, () => io.signal('SIGINT'))

  t.equal(await serve({ port: 0, fleet: join(t.testdir(), 'fleet.yaml'), secret: 'fleet-secret-token' }, io.io), 0)
  t.match(io.stderr(), /SIGINT: no new connections/)
})

t.test('a signal before it listens ends it at once, and well', async t => {
  const file = join(t.testdir(), 'fleet.yaml')
  const io = fakeIo()
  const ended = serve({ port: 0, fleet: file }, io.io)
  io.signal('SIGTERM')
  io.signal('SIGTERM')

  t.equal(await ended, 0)
  t.equal(io.stderr(), 'SIGTERM: ended before it listened\n')
  t.same(await readdir(t.testdirName), [], 'no secret was made')
})

t.test('a reload that is asked for while it starts does not end it', async t => {
  const io = fakeIo({ env: { FLEET_SECRET: 'fleet-secret-token' } })
  io.onLine(/^ {2}try .*\n.*\n/m, () => io.signal('SIGTERM'))
  const ended = serve({ port: 0, fleet: join(t.testdir(), 'fleet.yaml') }, io.io)
  io.signal('SIGHUP')

  t.equal(await ended, 0)
  t.match(io.stderr(), /SIGTERM: no new connections/)
})

t.test('a bad change of the file is a line for a person, and an object for a log', async t => {
  const bad = async (io: FakeIo) => {
    io.onLine(/unknown key/, () => io.signal('SIGTERM'))
    await writeFile(join(t.testdirName, 'fleet.yaml'), 'agnts: []\n')
    io.signal('SIGHUP')
  }
  for (const isTTY of [true, false]) {
    const file = join(t.testdir({ 'fleet.yaml': 'agents: []\n' }), 'fleet.yaml')
    const io = fakeIo({ isTTY, env: { FLEET_SECRET: 'fleet-secret-token', NO_COLOR: '1' } })
    io.onLine(/^ {2}try .*\n.*\n/m, () => { void bad(io) })

    t.equal(await serve({ port: 0, fleet: file }, io.io), 0)

    const lines = io.stderr().split('\n').filter(line => line.includes('unknown key'))
    t.ok(lines.length > 0)
    for (const line of lines) t.match(line, isTTY ? /^(warning|error) {2}.*fleet\.yaml:1:1 agnts: unknown key, did you mean "agents"\?/ : /^\{"level":\d+,.*agnts/)
  }
})

t.test('a good change of the file is said with what it changed', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'agents: []\n' }), 'fleet.yaml')
  const io = fakeIo({ isTTY: true, env: { FLEET_SECRET: 'fleet-secret-token', NO_COLOR: '1' } })
  const dead = await deadPort()
  io.onLine(/reloaded \S+:/, () => io.signal('SIGTERM'))
  io.onLine(/^ {2}try .*\n.*\n/m, () => { void writeFile(file, `agents: [{name: planner, host: 127.0.0.1, port: ${dead}}]\n`) })

  t.equal(await serve({ port: 0, fleet: file }, io.io), 0)

  t.match(io.stderr(), `\ninfo  reloaded ${file}: agents +1 (planner)\n`)
  t.notMatch(io.stderr(), 'listening on', 'that was said in other words')
})

t.test('the log at a terminal has what a person needs, and no orders for the terminal', async t => {
  const io = fakeIo({ isTTY: true, env: { NO_COLOR: '1' } })
  const { write } = logDestination(io.io)

  write(JSON.stringify({ level: 40, time: 1, pid: 2, hostname: 'h', agent: 'a\u001b[2J', instance: 'i', change: 'down', reason: 'r', msg: 'An instance is down: r' }) + '\n')
  write(JSON.stringify({ level: 50, time: 1, err: { message: 'broken', stack: 'Error: broken\n    at here' } }) + '\n')
  write(JSON.stringify({ level: 30, time: 1, msg: 'hello', figures: { a: 1 } }) + '\n')

  t.equal(io.stderr(), 'warning  An instance is down: r; agent a; instance i\nerror  broken\nError: broken\n    at here\ninfo  hello; figures {"a":1}\n')
})
