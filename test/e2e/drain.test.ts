/** SIGTERM and the real process: nothing that has arrived is lost, nobody can hold it up for longer than allowed, and it ends with 0. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { type IncomingMessage, type ServerResponse } from 'node:http'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { fakeAgent, type FakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

interface Running {
  readonly child: ChildProcess
  readonly said: () => string
  /** Resolves when it has said something that matches. */
  says (pattern: RegExp): Promise<void>
  readonly ended: Promise<{ code: number | null, signal: string | null }>
}

function launch (t: Test, yaml: string): Running {
  const cwd = t.testdir({ 'fleet.yaml': yaml })
  const child = spawn(...unmeasured(process.execPath, main, 'serve', '--port', '0', '--no-auth'), { cwd, stdio: ['ignore', 'ignore', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  const ended = once(child, 'close').then(([code, signal]) => ({ code: code as number | null, signal: signal as string | null }))
  async function says (pattern: RegExp): Promise<void> {
    while (!pattern.test(said)) await Promise.race([once(child.stderr, 'data'), ended.then(() => { if (!pattern.test(said)) throw new Error(said) })])
  }
  return { child, said: () => said, says, ended }
}

async function serve (t: Test, yaml: string): Promise<Running & { port: number }> {
  const running = launch(t, yaml)
  await running.says(/try /)
  return { ...running, port: Number(/^Fleet Gateway on http:\/\/[^:]+:(\d+)/m.exec(running.said())![1]) }
}

const fleet = (agent: FakeAgent, server = '') => `server: {${server}}\nagents: [{name: a, host: 127.0.0.1, port: ${agent.port}}]\n`
const get = (path: string) => `GET /api/a${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`

t.test('connections and requests that had arrived before the signal was seen are served', async t => {
  const agent = await fakeAgent(t, (request, response) => response.end(`answer ${request.url}`))
  const { child, port, ended } = await serve(t, fleet(agent))
  child.kill('SIGSTOP') // as one that is busy for a while
  const clients = await Promise.all(Array.from({ length: 8 }, () => rawClient(t, port)))
  for (const [index, client] of clients.entries()) client.send(get(`/${index}`))

  child.kill('SIGTERM')
  child.kill('SIGCONT')

  const received = await Promise.all(clients.map(client => client.closed()))
  t.same(received.map(text => /answer \/\d/.exec(text)?.[0]), clients.map((_, index) => `answer /${index}`))
  t.same(await ended, { code: 0, signal: null })
})

t.test('requests that wait their turn on a busy connection are served, also those that come during the drain; the last answer closes it', async t => {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (request, response) => request.url!.startsWith('/held') ? void held.push(response) : response.end(`answer ${request.url}`))
  const { child, port, says, ended } = await serve(t, fleet(agent))
  const client = await rawClient(t, port)
  client.send(get('/held') + get('/held-too'))
  while (held.length < 2) await once(agent.server, 'request')

  child.kill('SIGTERM')
  await says(/SIGTERM/)
  client.send(get('/third') + 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n')
  while (!agent.requests.includes('GET /third')) await once(agent.server, 'request')
  for (const response of held) response.end(`answer ${response.req.url}`)

  const received = await client.closed()
  t.same(received.match(/answer \/[a-z-]+/g), ['answer /held', 'answer /held-too', 'answer /third'])
  t.match(received, /HTTP\/1\.1 503 [^]*FLEET_DRAINING/)
  const heads = received.split(/(?=HTTP\/1\.1 )/)
  t.same(heads.map(head => /^connection: close/im.test(head)), [false, false, false, true])
  t.same(await ended, { code: 0, signal: null })
})

t.test('an upload goes on to its end, idle connections close at once, and nobody new is let in', async t => {
  const arrived: IncomingMessage[] = []
  const agent = await fakeAgent(t, (request, response) => {
    arrived.push(request)
    let bytes = 0
    request.on('data', (chunk: Buffer) => { bytes += chunk.length }).on('end', () => response.end(`got ${bytes}`))
  })
  const { child, port, ended } = await serve(t, fleet(agent))
  const idle = await Promise.all(Array.from({ length: 500 }, async () => {
    const client = await rawClient(t, port)
    client.send('GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await client.until(/\r\n\r\n/)
    return client
  }))
  const uploader = await rawClient(t, port)
  uploader.send(`POST /api/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n${'x'.repeat(1_000_000)}`)
  while (arrived.length === 0) await once(agent.server, 'request')

  child.kill('SIGTERM')
  await Promise.all(idle.map(client => client.closed()))
  await t.rejects(rawClient(t, port), { code: 'ECONNREFUSED' })
  uploader.send('x'.repeat(1_000_000))

  t.match(await uploader.closed(), /^HTTP\/1\.1 200 [^]*connection: close[^]*got 2000000$/i)
  t.same(await ended, { code: 0, signal: null })
})

t.test('a client that never reads, one that never finishes and an agent that never answers are waited for until drainTimeout, and no longer', async t => {
  const block = Buffer.alloc(64 * 1024)
  const agent = await fakeAgent(t, (request, response) => {
    request.on('error', () => {})
    if (request.url !== '/flood') return
    const push = () => { while (!response.destroyed) if (!response.write(block)) return response.once('drain', push) }
    push()
  })
  const { child, port, says, ended } = await serve(t, fleet(agent, 'drainTimeout: 500ms'))
  const deaf = await rawClient(t, port)
  deaf.socket.pause()
  deaf.send(get('/flood'))
  const stuck = await rawClient(t, port)
  stuck.send(get('/stuck'))
  const endless = await rawClient(t, port)
  endless.send('PUT /api/a/endless HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n')
  while (agent.requests.length < 3) await once(agent.server, 'request')

  child.kill('SIGTERM')
  await says(/SIGTERM/)

  t.same(await ended, { code: 0, signal: null })
  t.notMatch(await stuck.closed(), /HTTP\/1\.1 200/)
})

t.test('a reload that is under way harms no end', async t => {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(response) })
  const { child, port, says, ended, said } = await serve(t, fleet(agent))
  const client = await rawClient(t, port)
  client.send(get('/held'))
  while (held.length === 0) await once(agent.server, 'request')

  await writeFile(join(t.testdirName, 'fleet.yaml'), `agents: [{name: b, port: ${agent.port}}]\n`)
  child.kill('SIGHUP')
  child.kill('SIGTERM')
  await says(/SIGTERM/)
  held[0]!.end('finished')

  t.match(await client.closed(), /^HTTP\/1\.1 200 [^]*finished$/)
  t.same(await ended, { code: 0, signal: null })
  t.notMatch(said(), /defect|Error|UnhandledPromise/)
})

t.test('a signal at any time of the start ends it, without a word about errors', async t => {
  const agent = await fakeAgent(t)
  const moments: ((running: Running) => Promise<unknown>)[] = [
    async ({ child }) => once(child, 'spawn'),
    async ({ child }) => once(child.stderr!, 'data'),
    async ({ says }) => says(/try /)
  ]

  for (const moment of moments) {
    const running = launch(t, fleet(agent))
    await moment(running)
    running.child.kill('SIGTERM')

    const { code, signal } = await running.ended
    t.ok(code === 0 || signal === 'SIGTERM', `${code} ${signal}`) // before it listens there is nothing to end in order
    t.notMatch(running.said(), /defect|Error|UnhandledPromise/)
  }
})

t.test('what came before the signal is served, even when nobody has looked at it yet', async t => {
  const agent = await fakeAgent(t, (request, response) => response.end(`answer ${request.url}`))
  const { child, port, ended } = await serve(t, fleet(agent))
  const clients = await Promise.all(Array.from({ length: 20 }, async () => rawClient(t, port)))
  await Promise.all(clients.map(async client => {
    client.send('GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await client.until(/alive|\}/)
  }))
  // Stopped, it can look at nothing; the requests and the signal are there together when it goes on.
  child.kill('SIGSTOP')
  for (const [index, client] of clients.entries()) client.send(get(`/${index}`))
  await Promise.all(clients.filter(({ socket }) => socket.writableLength > 0).map(async ({ socket }) => once(socket, 'drain')))
  child.kill('SIGTERM')
  child.kill('SIGCONT')

  for (const [index, client] of clients.entries()) t.match(await client.closed(), `answer /${index}`)
  t.same(await ended, { code: 0, signal: null })
})

for (const [what, last] of [
  ['a WebSocket', 'GET /api/a/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'],
  ['CONNECT', 'CONNECT a:80 HTTP/1.1\r\nHost: localhost\r\n\r\n']
] as const) {
  t.test(`${what} behind a request that is never answered holds no end up`, { timeout: 20_000 }, async t => {
    const agent = await fakeAgent(t, () => {})
    const { child, port, says, ended } = await serve(t, fleet(agent, 'drainTimeout: 200ms') + 'timeouts: {response: 1h}\n')
    const client = await rawClient(t, port)
    client.send(get('/never') + last)
    while (agent.requests.length === 0) await once(agent.server, 'request')

    child.kill('SIGTERM')
    await says(/SIGTERM/)

    t.same(await ended, { code: 0, signal: null })
    await client.closed()
  })
}
