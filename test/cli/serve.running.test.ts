/** `serve` as a process, while it runs and when it ends: signals, the file it watches, the audit log. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { runCommand } from '../helpers/run-command.ts'
import { launch, serve } from '../helpers/serve-process.ts'

t.test('SIGTERM drains: readiness turns, what is in flight finishes, streams are closed properly, exit 0', async t => {
  const held: (() => void)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/events') return void response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
    held.push(() => response.end('finished'))
  })
  const rooms = new WebSocketServer({ server: agent.server })
  const cwd = t.testdir({ 'fleet.yaml': `server: {drainDelay: 300ms, drainTimeout: 1s}\nagents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n` })
  const { child, port, exited, said } = await serve(t, ['--no-auth'], { cwd, covered: true })
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
  const { child, port, exited, said } = await serve(t, ['--no-auth'], { cwd, covered: true })
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
  const { child, port, said } = await serve(t, [], { cwd, covered: true })
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
  const command = (...args: string[]) => runCommand([...args, '--url', `http://127.0.0.1:${port}`, '--secret', `token-${second.port}`])
  t.match(await command('test'), { code: 1, stdout: /\nfailed {2}configuration\n {10}An older configuration runs, since the file is bad: fleet\.yaml:2:5[^]*\n {10}→ correct the file[^]*\nok {6}a /, stderr: '\n1 of 4 tests failed\n' })
  t.match(JSON.parse((await command('test', '--json')).stdout), { ok: false, config: { ok: false }, agents: { a: { ok: true } } })
  for (const args of [['stats'], ['top', '--once']]) t.match(await command(...args), { stdout: /An older configuration runs/ })

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
  const { child, port, said } = await serve(t, [], { cwd, covered: true })
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
  const { child, port, printed, said, exited } = await serve(t, ['--secret', 'fleet-secret-token'], { cwd, covered: true })
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
