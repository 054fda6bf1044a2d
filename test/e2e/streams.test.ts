import t from 'tap'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import { WebSocket, WebSocketServer } from 'ws'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'

async function responseOf (url: string): Promise<IncomingMessage> {
  const request = httpRequest(url, { agent: false })
  request.end()
  const [response] = await once(request, 'response') as [IncomingMessage]
  return response
}

t.test('events reach the client chunk by chunk, head first', async t => {
  const streams: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => {
    streams.push(response)
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.flushHeaders()
  })
  const gateway = await startGateway(t, { agents: [agentAt('clock', agent)] })

  const response = await responseOf(`${gateway.origin}/api/clock/events`)
  t.equal(response.headers['content-type'], 'text/event-stream', 'the head is here before any event')
  for (const event of ['data: 1\n\n', 'data: 2\n\n']) {
    const arrived = once(response, 'data')
    streams[0]!.write(event)
    t.equal(String((await arrived)[0]), event)
  }
  response.destroy()
  await once(streams[0]!, 'close')
})

t.test('a client that goes away before the head ends the agent\'s work', async t => {
  const arrived = deferred<ServerResponse>()
  const agent = await fakeAgent(t, (_request, response) => arrived.resolve(response))
  const gateway = await startGateway(t, { agents: [agentAt('slow', agent)] })
  const client = await rawClient(t, gateway.port)
  client.send('GET /api/slow/x HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const atAgent = await arrived.promise
  const finished = new Promise<string | null>(resolve => { gateway.facts.onFinished(facts => resolve(facts.ending)) })

  client.socket.destroy()

  await once(atAgent, 'close')
  t.equal(await finished, 'client-aborted')
  t.equal(gateway.registry.get('slow').instances[0]!.runtime.inFlight, 0)
  t.equal(gateway.registry.get('slow').instances[0]!.runtime.health.consecutiveFailures, 0)
})

t.test('a client that goes away in mid-upload ends the agent\'s request', async t => {
  const arrived = deferred<IncomingMessage>()
  const agent = await fakeAgent(t, request => { request.on('error', () => {}); request.resume(); arrived.resolve(request) })
  const gateway = await startGateway(t, { agents: [agentAt('up', agent)] })
  const client = await rawClient(t, gateway.port)
  client.send('POST /api/up/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nbeginning')
  const atAgent = await arrived.promise
  const closed = new Promise(resolve => atAgent.on('close', resolve))

  client.socket.destroy()

  await closed
  t.equal(atAgent.complete, false)
})

t.test('an agent that dies in mid-response is not taken for complete', async t => {
  const heads = ['Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n', 'Content-Length: 100\r\n\r\nhello']
  for (const head of heads) {
    const agent = await rawAgent(t, socket => { socket.end(`HTTP/1.1 200 OK\r\n${head}`) })
    const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })
    const finished = new Promise<string | null>(resolve => { gateway.facts.onFinished(facts => resolve(facts.ending)) })

    const answer = await rawRequest(t, gateway.port, 'GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\n\r\n')

    t.match(answer, /^HTTP\/1\.1 200 [^]*hello/)
    t.notMatch(answer, /\r\n0\r\n\r\n$/)
    t.equal(await finished, 'upstream-aborted')
  }
})

t.test('an answer without length or chunks ends with the agent\'s connection', async t => {
  const agent = await rawAgent(t, socket => { socket.end('HTTP/1.1 200 OK\r\n\r\nall of it') })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  t.equal(await (await fetch(`${gateway.origin}/api/raw/`)).text(), 'all of it')
})

t.test('large bodies pass both ways with equal checksums', async t => {
  const block = randomBytes(1024 * 1024)
  const blocks = 24
  const agent = await fakeAgent(t, (request, response) => {
    if (request.method === 'GET') return void Readable.from(Array.from({ length: blocks }, () => block)).pipe(response)
    const hash = createHash('sha256')
    request.on('data', (chunk: Buffer) => hash.update(chunk))
    request.on('end', () => response.end(hash.digest('hex')))
  })
  const gateway = await startGateway(t, { agents: [agentAt('bulk', agent)] })
  const expected = createHash('sha256')
  for (let index = 0; index < blocks; index++) expected.update(block)
  const sum = expected.digest('hex')

  for (const headers of [{}, { 'content-length': String(blocks * block.length) }]) {
    const upload = httpRequest(`${gateway.origin}/api/bulk/`, { method: 'POST', headers })
    Readable.from(Array.from({ length: blocks }, () => block)).pipe(upload)
    const [response] = await once(upload, 'response') as [IncomingMessage]
    t.equal(await new Response(Readable.toWeb(response) as ReadableStream).text(), sum)
  }
  const hash = createHash('sha256')
  for await (const chunk of await responseOf(`${gateway.origin}/api/bulk/`)) hash.update(chunk as Buffer)
  t.equal(hash.digest('hex'), sum)
})

/** More than all buffers on the way hold: the kernel's, twice, and a MiB of ours. */
const tooMuch = 64 * 1024 * 1024

t.test('a client that stops reading makes the agent wait instead of filling memory', async t => {
  const agentWrote = { bytes: 0 }
  const block = Buffer.alloc(64 * 1024)
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/quick') return void response.end('quick')
    const push = () => {
      while (agentWrote.bytes < tooMuch) {
        agentWrote.bytes += block.length
        if (!response.write(block)) return response.once('drain', push)
      }
    }
    push()
  })
  const gateway = await startGateway(t, { agents: [agentAt('flood', agent)] })
  const client = await rawClient(t, gateway.port)
  client.socket.pause()

  client.send('GET /api/flood/ HTTP/1.1\r\nHost: localhost\r\n\r\n')

  // It waits when nothing more is written while others come and go.
  let before = 0
  do {
    before = agentWrote.bytes
    for (let index = 0; index < 20; index++) await (await fetch(`${gateway.origin}/api/flood/quick`)).text()
  } while (agentWrote.bytes === 0 || (agentWrote.bytes !== before && agentWrote.bytes < tooMuch))
  t.ok(agentWrote.bytes < tooMuch, `the agent wrote ${agentWrote.bytes} bytes before it had to wait`)
})

t.test('30 connections that hang, half open or stuck, do not keep others from being served', async t => {
  const agent = await fakeAgent(t, (request, response) => { if (request.url === '/quick') response.end('quick') })
  const gateway = await startGateway(t, { agents: [agentAt('mixed', agent)] })
  for (let index = 0; index < 10; index++) {
    (await rawClient(t, gateway.port)).send('GET /api/mixed/stuck HTTP/1.1\r\nHost: localhost\r\n\r\n')
    ;(await rawClient(t, gateway.port)).send('GET /api/mixed/half HTTP/1.1\r\nHo')
    ;(await rawClient(t, gateway.port)).send('POST /api/mixed/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx')
  }

  t.equal(await (await fetch(`${gateway.origin}/api/mixed/quick`)).text(), 'quick')
})

t.test('an idle body is cut off after timeouts.idle, either way', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    request.resume()
    if (request.url === '/down') response.write('beginning')
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('idle', agent), timeouts: { idle: '60ms' } }] })

  const down = await rawClient(t, gateway.port)
  down.send('GET /api/idle/down HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.match(await down.closed(), /beginning\r\n$/)
  const up = await rawClient(t, gateway.port)
  up.send('POST /api/idle/up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nbeginning')
  t.match(await up.until(/FLEET_REQUEST_TIMEOUT/), /^HTTP\/1\.1 408 /)
  const small = await rawClient(t, gateway.port)
  small.send('POST /api/idle/up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nbeginning')
  t.match(await small.until(/FLEET_REQUEST_TIMEOUT/), /^HTTP\/1\.1 408 /)
})

t.test('timeouts.total ends an ordinary exchange but not an event stream', async t => {
  const streams: ServerResponse[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/head') return
    response.writeHead(200, { 'content-type': request.url === '/events' ? 'text/event-stream' : 'text/plain' })
    response.write('data: 1\n\n')
    streams.push(response)
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('total', agent), timeouts: { total: '80ms', response: '70ms' } }] })

  const events = await responseOf(`${gateway.origin}/api/total/events`)
  await once(events, 'data')
  t.match(await rawRequest(t, gateway.port, 'GET /api/total/plain HTTP/1.1\r\nHost: localhost\r\n\r\n'), /data: 1\n\n\r\n$/)
  t.equal((await fetch(`${gateway.origin}/api/total/head`)).status, 504)
  const later = once(events, 'data')
  streams[0]!.write('data: 2\n\n')
  t.equal(String((await later)[0]), 'data: 2\n\n')
  events.destroy()
})

t.test('WebSockets are tunnelled: subprotocol, text, binary, ping, close code', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server, handleProtocols: offered => [...offered][0] ?? false })
  const closed = new Promise<number>(resolve => rooms.on('connection', socket => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
    socket.on('close', resolve)
  }))
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)], auth: { secret: 'fleet-secret-token' } })
  const finished = new Promise<{ status: number, stream: string | null }>(resolve => { gateway.facts.onFinished(resolve) })

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/ws`, ['v2', 'fleet.bearer.fleet-secret-token'])
  await once(socket, 'open')
  t.equal(socket.protocol, 'v2')
  for (const message of ['text', Buffer.alloc(200_000, 7)]) {
    socket.send(message)
    const [data, isBinary] = await once(socket, 'message') as [Buffer, boolean]
    t.same(isBinary ? data : data.toString(), message)
  }
  socket.ping('are you there')
  t.equal(String((await once(socket, 'pong'))[0]), 'are you there')
  socket.close(4001, 'enough')
  t.equal((await once(socket, 'close'))[0], 4001)
  t.equal(await closed, 4001)
  t.match(await finished, { status: 101, stream: 'websocket', agent: 'chat', bytesSent: Number })
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})

t.test('a refused WebSocket is the agent\'s status and body; ours where it never came that far', async t => {
  const agent = await fakeAgent(t)
  agent.server.on('upgrade', (_request, socket) => socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: no\r\n\r\nnope'))
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)], auth: { secret: 'fleet-secret-token' } })
  const head = (path: string, token: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n`

  t.match(await rawRequest(t, gateway.port, head('/api/chat/ws', 'fleet-secret-token')), /^HTTP\/1\.1 403 [^]*X-Why: no[^]*nope$/)
  t.match(await rawRequest(t, gateway.port, head('/api/chat/ws', 'wrong-token')), /^HTTP\/1\.1 401 [^]*FLEET_UNAUTHENTICATED/)
  t.match(await rawRequest(t, gateway.port, head('/api/nobody/ws', 'fleet-secret-token')), /^HTTP\/1\.1 404 [^]*FLEET_AGENT_NOT_FOUND/)
  await agent.kill()
  t.match(await rawRequest(t, gateway.port, head('/api/chat/ws', 'fleet-secret-token')), /^HTTP\/1\.1 502 [^]*FLEET_UPSTREAM_UNREACHABLE/)
})

t.test('either side of a tunnel that dies takes the other with it', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })
  const url = `ws://127.0.0.1:${gateway.port}/api/chat/`

  const first = new WebSocket(url)
  const [atAgent] = await once(rooms, 'connection') as [WebSocket]
  await once(first, 'open')
  atAgent.terminate()
  t.equal((await once(first, 'close'))[0], 1006)

  const second = new WebSocket(url)
  const [other] = await once(rooms, 'connection') as [WebSocket]
  await once(second, 'open')
  second.terminate()
  t.equal((await once(other, 'close'))[0], 1006)
})

t.test('a WebSocket\'s handshake carries the client\'s fields, and a close without a code stays one', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/ws?x=1`, { headers: { cookie: 'a=1', 'x-mine': 'yes' } })
  const [atAgent, request] = await once(rooms, 'connection') as [WebSocket, IncomingMessage]
  t.match(request.headers, { cookie: 'a=1', 'x-mine': 'yes', 'x-forwarded-for': '127.0.0.1', 'x-forwarded-prefix': '/api/chat', host: `127.0.0.1:${agent.port}` })
  t.equal(request.url, '/ws?x=1')
  await once(socket, 'open')
  socket.close()
  t.equal((await once(atAgent, 'close'))[0], 1005)
})

t.test('a client that leaves during the handshake leaves nothing behind', async t => {
  const agent = await fakeAgent(t)
  const handshakes: Duplex[] = []
  agent.server.on('upgrade', (_request, socket: Duplex) => { handshakes.push(socket.resume().on('end', () => socket.end())) })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })
  const finished = new Promise<string | null>(resolve => { gateway.facts.onFinished(facts => resolve(facts.ending)) })
  const client = await rawClient(t, gateway.port)
  client.send('GET /api/chat/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  await once(agent.server, 'upgrade')
  const left = once(handshakes[0]!, 'close')

  client.socket.destroy()

  await left
  t.equal(await finished, 'client-aborted')
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})

t.test('200 open event streams do not starve anybody', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/quick') response.end('quick')
    else response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
  })
  const gateway = await startGateway(t, { agents: [agentAt('clock', agent)] })

  const streams = await Promise.all(Array.from({ length: 200 }, () => responseOf(`${gateway.origin}/api/clock/events`)))
  t.equal(await (await fetch(`${gateway.origin}/api/clock/quick`)).text(), 'quick')
  for (const stream of streams) stream.destroy()
})

t.test('offers of other protocols are ignored and the request served, with its body', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, 'POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\nhi')

  t.match(answer, /^HTTP\/1\.1 200 [^]*"body":"hi"/)
  t.notMatch(answer, /h2c|HTTP2/)
  t.match(await rawRequest(t, gateway.port, 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n'), /^HTTP\/1\.1 200 /)
})

/** A promise and what settles it. */
function deferred<T> () {
  let settle!: (value: T) => void
  const promise = new Promise<T>(resolve => { settle = resolve })
  return { promise, resolve: settle }
}

t.test('a WebSocket whose client stopped reading is over when its agent is, or when it idles', async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    socket.write(Buffer.alloc(20_000_000))
    if (chunk.includes('/dies')) setImmediate(() => socket.destroy())
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('chat', agent), timeouts: { idle: '100ms' } }] })
  for (const path of ['dies', 'idles']) {
    const accepted = once(gateway.server, 'connection') as Promise<[Duplex]>
    const client = await rawClient(t, gateway.port)
    const [atGateway] = await accepted
    client.socket.pause()

    client.send(`GET /api/chat/${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)

    await once(atGateway, 'close')
    t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0, path)
  }
})

t.test('a refusal of a WebSocket that never ends is held to timeouts.idle, and its client to closing', async t => {
  const agent = await rawAgent(t, socket => { socket.write('HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nabc') })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('chat', agent), timeouts: { idle: '60ms' } }] })
  for (const name of ['chat', 'nobody']) {
    const accepted = once(gateway.server, 'connection') as Promise<[Duplex]>
    const client = await rawClient(t, gateway.port)
    const [atGateway] = await accepted

    client.send(`GET /api/${name}/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`)

    await once(atGateway, 'close')
    t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0, name)
  }
})
