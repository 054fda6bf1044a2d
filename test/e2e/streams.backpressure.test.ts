/** Readers that stop, and streams by the hundred: what the process holds for them is bounded, and nothing is left when they are gone. */
import t, { type Test } from 'tap'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent, type RawAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'

const mebibyte = 1024 * 1024

/** The gateway's two sockets of one exchange. */
interface Ends { client: Socket, agent: Socket }

/** Bytes that the gateway took from one socket and did not hand to the kernel on the other. */
function held (from: Socket, to: Socket): number {
  return from.bytesRead - (to.bytesWritten - to.writableLength)
}

/** Begins an exchange with `request` and has the gateway's sockets of it. The agent reads only where `onData` of `rawAgent` does. */
async function exchangeWith (t: Test, agent: RawAgent, request: string) {
  const gateway = await startGateway(t, { agents: [agentAt('bulk', agent)] })
  const ends: Partial<Ends> = {}
  // Probes open connections as well: the last one that is opened is the exchange's.
  const onConnect = (message: unknown) => {
    const { socket } = message as { socket: Socket }
    socket.once('connect', () => { if (socket.remotePort === agent.port) ends.agent = socket })
  }
  gateway.server.once('connection', (socket: Socket) => { ends.client = socket })
  const client = await rawClient(t, gateway.port)
  subscribe('net.client.socket', onConnect)
  t.teardown(() => unsubscribe('net.client.socket', onConnect))
  const begun = new Promise<void>(resolve => { gateway.upstream.onBegin(() => resolve()) })
  client.send(request)
  await begun
  return { gateway, client, ends: ends as Ends }
}

/** Resolves when nothing was read from `socket` for a hundred looks at it. */
async function stalled (socket: () => Socket | undefined): Promise<void> {
  for (let before = -1, still = 0; still < 100;) {
    await new Promise(resolve => { setTimeout(resolve, 1) })
    const read = socket()?.bytesRead ?? 0
    still = read === before && read > 64 * 1024 ? still + 1 : 0
    before = read
  }
}

/** Writes without end, as fast as it is taken. */
function flood (socket: Socket, frame: Buffer): void {
  const push = () => {
    while (!socket.destroyed && socket.write(frame)) { /* until it is full */ }
  }
  socket.on('drain', push)
  push()
}

const block = Buffer.alloc(64 * 1024, 'x')
const chunk = Buffer.concat([Buffer.from('10000\r\n'), block, Buffer.from('\r\n')])

t.test('at most 1 MiB is held for a client that stops reading', async t => {
  const table: [what: string, head: string, body: Buffer, request: string][] = [
    ['with a length', 'HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n', block, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\n\r\n'],
    ['chunked', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', chunk, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\n\r\n'],
    ['until the end', 'HTTP/1.1 200 OK\r\n\r\n', block, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\n\r\n'],
    ['events', 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n', chunk, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\n\r\n'],
    ['a WebSocket', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', block, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'],
    ['a refused WebSocket', 'HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n', chunk, 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n']
  ]
  for (const [what, head, body, request] of table) {
    const agent = await rawAgent(t, socket => { socket.write(head); flood(socket, body) })
    const { client, ends } = await exchangeWith(t, agent, request)
    client.socket.pause()

    await stalled(() => ends.agent)

    const bytes = held(ends.agent, ends.client)
    t.comment(`${what}: ${Math.round(bytes / 1024)} KiB held`)
    t.ok(bytes <= mebibyte, `${what}: ${bytes} bytes`)
    const over = new Promise(resolve => agent.connections.at(-1)!.on('close', resolve))
    client.socket.destroy()
    await over
  }
})

t.test('at most 1 MiB is held for an agent that stops reading', async t => {
  const table: [what: string, head: string, body: Buffer][] = [
    ['with a length', 'POST /api/bulk/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000\r\n\r\n', block],
    ['chunked', 'POST /api/bulk/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n', chunk],
    ['a WebSocket', 'GET /api/bulk/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', block],
    ['a WebSocket that nobody has accepted', 'GET /api/bulk/never HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', block]
  ]
  for (const [what, head, body] of table) {
    const agent = await rawAgent(t, (socket, first) => {
      socket.pause()
      if (first.includes('Upgrade') && !first.includes('never')) socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    })
    const { gateway, client, ends } = await exchangeWith(t, agent, head)
    flood(client.socket, body)

    await stalled(() => ends.client)

    const bytes = ends.agent === undefined ? ends.client.bytesRead : held(ends.client, ends.agent)
    t.comment(`${what}: ${Math.round(bytes / 1024)} KiB held`)
    t.ok(bytes <= mebibyte, `${what}: ${bytes} bytes`)
    agent.server.close()
    for (const socket of agent.connections) socket.destroy()
    client.socket.destroy()
    await gateway.close()
  }
})

/** `npm test` opens some hundreds; a soak may ask for thousands. */
const streamCount = Number(process.env['STREAMS'] ?? 300)

t.test(`${streamCount} open streams starve nobody, and leave nothing behind`, async t => {
  const agents = await Promise.all([0, 1].map(number => fakeAgent(t, (request, response) => {
    if (request.url === '/quick') return void response.end(String(number))
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
  })))
  const gateway = await startGateway(t, { agents: [agentAt('clock', ...agents), agentAt('lone', agents[0]!)] })
  const responses: IncomingMessage[] = []
  const open = async () => {
    const request = httpRequest(`${gateway.origin}/api/lone/events`, { agent: false })
    request.end()
    const [response] = await once(request, 'response') as [IncomingMessage]
    await once(response, 'data')
    responses.push(response)
  }
  for (let begun = 0; begun < streamCount; begun += 100) await Promise.all(Array.from({ length: Math.min(100, streamCount - begun) }, open))
  const { runtime } = gateway.registry.get('lone').instances[0]!
  t.equal(gateway.proxy.openStreams, streamCount)
  t.equal(runtime.inFlight, streamCount)

  let answers = ''
  for (let index = 0; index < 10; index++) answers += await (await fetch(`${gateway.origin}/api/clock/quick`)).text()
  t.match(answers, /^(?:01){5}$|^(?:10){5}$/, 'the others alternate')
  t.equal(await (await fetch(`${gateway.origin}/api/lone/quick`)).text(), '0')

  const over = new Promise<void>(resolve => {
    let left = streamCount
    gateway.facts.onFinished(facts => { if (facts.stream !== null && --left === 0) resolve() })
  })
  for (const response of responses) response.destroy()
  await over
  t.equal(gateway.proxy.openStreams, 0)
  t.equal(runtime.inFlight, 0)
  t.equal(gateway.facts.inFlight, 0)
  while (await openConnections(agents[0]!.server) > 2) await new Promise(setImmediate) // those of the quick requests may be kept
  while (await openConnections(gateway.server) > 2) await new Promise(setImmediate)
  t.pass('no connection is left')
})

function openConnections (server: { getConnections (callback: (error: Error | null, count: number) => void): void }): Promise<number> {
  return new Promise((resolve, reject) => server.getConnections((error, count) => error === null ? resolve(count) : reject(error)))
}

t.test('streams of two ways at once: each chunk of the answer depends on one of the request', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.flushHeaders()
    request.on('data', (chunk: Buffer) => response.write(`{"got":"${String(chunk)}"}\n`))
    request.on('end', () => response.end('{"end":true}\n'))
  })
  const gateway = await startGateway(t, { agents: [agentAt('echo', agent)] })
  const request = httpRequest(`${gateway.origin}/api/echo/`, { method: 'POST', agent: false, headers: { 'transfer-encoding': 'chunked' } })
  request.write('first')
  const [response] = await once(request, 'response') as [IncomingMessage]
  t.equal(String((await once(response, 'data'))[0]), '{"got":"first"}\n')

  for (let number = 0; number < 50; number++) {
    const arrived = once(response, 'data')
    request.write(String(number))
    t.equal(String((await arrived)[0]), `{"got":"${number}"}\n`)
  }
  const last = once(response, 'data')
  request.end()

  t.equal(String((await last)[0]), '{"end":true}\n')
})

t.test('an upload that trickles reaches the agent piece by piece', async t => {
  const pieces: string[] = []
  let notify = () => {}
  const agent = await fakeAgent(t, (request, response) => {
    request.on('data', (piece: Buffer) => { pieces.push(String(piece)); notify() })
    request.on('end', () => response.end(pieces.join('')))
  })
  const gateway = await startGateway(t, { agents: [agentAt('slow', agent)] })
  const request = httpRequest(`${gateway.origin}/api/slow/`, { method: 'PUT', agent: false })

  for (let number = 0; number < 10; number++) {
    const arrived = new Promise<void>(resolve => { notify = resolve })
    request.write(`${number},`)
    await arrived
    t.equal(pieces.join('').endsWith(`${number},`), true)
  }
  request.end()

  const [response] = await once(request, 'response') as [IncomingMessage]
  t.equal(String((await once(response, 'data'))[0]), '0,1,2,3,4,5,6,7,8,9,')
})

t.test('an event stream is passed on byte for byte, whatever it is made of', async t => {
  const pieces = ['\ufeff', ': a comment\n\n', ':\r\n\r\n', 'data: one\r\ndata: two\r\n\r\n', 'id: 7\rdata: cr\r\r', 'event: e\nretry: 10\ndata\n\n', 'data: half', ' a line\n\n']
  const streams: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => { streams.push(response.writeHead(200, { 'content-type': 'Text/Event-Stream; charset=utf-8' })); response.flushHeaders() })
  const gateway = await startGateway(t, { agents: [agentAt('clock', agent)] })
  const request = httpRequest(`${gateway.origin}/api/clock/`, { agent: false })
  request.end()
  const [response] = await once(request, 'response') as [IncomingMessage]

  for (const piece of pieces) {
    const arrived = once(response, 'data')
    streams[0]!.write(piece)
    t.equal(String((await arrived)[0]), piece)
  }
  t.equal(gateway.proxy.openStreams, 1)
  const ended = once(response, 'end')
  response.resume()
  gateway.proxy.endStreams()
  await ended
  t.equal(response.complete, true, 'a drain ends it with its last chunk')
})

t.test('clients of HTTP/1.0 and HEAD requests get streams as they can take them; codings stay as they are', async t => {
  const squeezed = Buffer.from('1f8b0800000000000003', 'hex')
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', ...(request.url === '/gzip' && { 'content-encoding': 'gzip' }) })
    if (request.url === '/gzip') return void response.end(squeezed)
    response.flushHeaders()
    response.write('data: 1\n\n')
    if (request.url === '/ends') response.end()
  })
  const gateway = await startGateway(t, { agents: [agentAt('clock', agent)] })
  const old = await rawClient(t, gateway.port)
  old.send('GET /api/clock/ends HTTP/1.0\r\nHost: localhost\r\n\r\n')
  t.match(await old.closed(), /^HTTP\/1\.1 200 OK\r\n(?![^]*transfer-encoding)[^]*\r\n\r\ndata: 1\n\n$/i)

  const head = await rawClient(t, gateway.port)
  head.send('HEAD /api/clock/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  t.match(await head.closed(), /^HTTP\/1\.1 200 OK\r\n[^]*text\/event-stream[^]*\r\n\r\n$/)
  t.equal(gateway.proxy.openStreams, 0)

  const gzip = await rawClient(t, gateway.port)
  gzip.send('GET /api/clock/gzip HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  t.ok((await gzip.closed()).includes(squeezed.toString('latin1')))
})
