/** WebSocket tunnels, with real WebSockets at both ends, and raw sockets where they would not misbehave. Handshakes: websocket-handshake.test.ts. */
import t, { type Test } from 'tap'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { type Socket } from 'node:net'
import { type Duplex } from 'node:stream'
import fc from 'fast-check'
import { WebSocket, WebSocketServer, type ClientOptions, type ServerOptions } from 'ws'
import { createLineWriter } from '../../plugins/audit-log/line.ts'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import { FrameWalk } from '../../plugins/proxy/frame-walk.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { runs } from '../helpers/fuzz-runs.ts'
import { rawClient } from '../helpers/raw-client.ts'

const switching = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
/** A close frame with code 1001, as a client gets it. */
const goingAway = '\x88\x02\x03\xe9'
const handshake = 'GET /api/chat/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'

/** A gateway in front of rooms; `open()` opens a WebSocket through it and has both its ends. */
async function chat (t: Test, options: FleetGatewayOptions = {}, serverOptions: Partial<ServerOptions> = {}) {
  const agent = await fakeAgent(t, (_request, response) => response.end('quick'))
  const rooms = new WebSocketServer({ ...serverOptions, server: agent.server })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)], ...options })
  return {
    agent,
    gateway,
    async open (clientOptions: ClientOptions = {}) {
      const client = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`, clientOptions)
      const opened = once(client, 'open')
      const [atAgent, request] = await once(rooms, 'connection') as [WebSocket, IncomingMessage]
      await opened
      t.teardown(() => client.terminate())
      return { client, atAgent, request }
    }
  }
}

/** A raw tunnel: the client's end, and the agent's. */
async function rawTunnel (t: Test, options: FleetGatewayOptions = {}, behind = '', clientsBehind = '') {
  const tunnels: Socket[] = []
  const agent = await rawAgent(t, (socket, chunk) => {
    if (!chunk.includes('Upgrade: websocket')) return
    tunnels.push(socket)
    socket.write(switching + behind)
  })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)], ...options })
  const client = await rawClient(t, gateway.port)
  client.send(handshake + clientsBehind)
  await client.until(/\r\n\r\n/)
  return { gateway, client, atAgent: tunnels[0]! }
}

function nextFacts (gateway: ListeningGateway): Promise<RequestFacts> {
  return new Promise(resolve => { const stop = gateway.facts.onFinished(facts => { stop(); resolve(facts) }) })
}

function inFlight (gateway: ListeningGateway): number {
  return gateway.registry.get('chat').instances[0]!.runtime.inFlight
}

t.test('codes and reasons of a close arrive, whoever closes', async t => {
  const { open } = await chat(t)
  const table: [code: number | undefined, reason: string][] = [[1000, 'done'], [1001, ''], [1011, 'oh'], [3000, 'r'.repeat(123)], [4999, 'ü'], [undefined, '']]
  for (const [code, reason] of table) {
    for (const side of ['client', 'agent'] as const) {
      const { client, atAgent } = await open()
      const [closer, other] = side === 'client' ? [client, atAgent] : [atAgent, client]
      const closes = Promise.all([once(closer, 'close'), once(other, 'close')])

      closer.close(code, reason)

      for (const [gotCode, gotReason] of await closes) {
        t.equal(gotCode, code ?? 1005, `${code} by the ${side}`)
        t.equal(String(gotReason), reason)
      }
    }
  }
})

t.test('compression is agreed on end to end, and compressed frames arrive intact', async t => {
  const { open } = await chat(t, {}, { perMessageDeflate: { threshold: 0 } })
  const { client, atAgent, request } = await open({ perMessageDeflate: { threshold: 0 } })
  t.match(request.headers['sec-websocket-extensions'], /permessage-deflate/)
  t.match(client.extensions, /permessage-deflate/)
  const text = JSON.stringify({ words: 'again and '.repeat(20_000) })

  for (const [from, to] of [[client, atAgent], [atAgent, client]] as const) {
    const arrived = once(to, 'message')
    from.send(text)
    t.equal(String((await arrived)[0]), text)
  }
})

t.test('large messages, fragments, pings and pongs pass both ways', async t => {
  const { open, gateway } = await chat(t)
  const finished = nextFacts(gateway)
  const { client, atAgent } = await open({ perMessageDeflate: false })
  const large = randomBytes(10 * 1024 * 1024)

  for (const [from, to] of [[client, atAgent], [atAgent, client]] as const) {
    let arrived = once(to, 'message')
    from.send(large)
    t.ok(large.equals((await arrived)[0] as Buffer))

    arrived = once(to, 'message')
    from.send('in ', { fin: false })
    from.ping('between')
    from.send('parts', { fin: true })
    t.equal(String((await arrived)[0]), 'in parts')
    t.equal(String((await once(from, 'pong'))[0]), 'between')
  }
  client.close()

  const { bytesReceived, bytesSent, ...facts } = await finished
  t.match(facts, { status: 101, stream: 'websocket', ending: 'complete' })
  for (const bytes of [bytesReceived, bytesSent]) t.ok(bytes > large.length && bytes < large.length + 200, `${bytes} bytes, without the handshake`)
})

t.test('what either side sends together with its handshake is the beginning of its stream', async t => {
  const fromClient: string[] = []
  const arrived = new Promise<void>(resolve => {
    void rawAgent(t, (socket, chunk) => {
      const text = chunk.toString('latin1')
      if (text.includes('Upgrade: websocket')) socket.write(`${switching}agent's first`)
      fromClient.push(text)
      if (fromClient.join('').includes('second')) resolve()
    }).then(async agent => {
      const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })
      const client = await rawClient(t, gateway.port)
      client.send(`${handshake}client's first, `)
      t.match(await client.until(/agent's first/), /^HTTP\/1\.1 101 [^]*\r\n\r\nagent's first$/)
      client.send('second')
    })
  })

  await arrived

  t.match(fromClient.join(''), /\r\n\r\nclient's first, second$/)
})

t.test('a half-closed tunnel still carries the other way', async t => {
  const { client, atAgent, gateway } = await rawTunnel(t)
  const finished = nextFacts(gateway)

  const clientsEnd = once(atAgent, 'end')
  atAgent.allowHalfOpen = true
  client.socket.end()
  await clientsEnd
  atAgent.write('last words')
  await client.until(/last words$/)
  atAgent.end()

  await finished
  t.equal(inFlight(gateway), 0)
  t.equal(gateway.proxy.openStreams, 0)
})

t.test('a side that dies takes the other with it, and the account says which', async t => {
  const table: [die: (ends: { client: Socket, agent: Socket }) => void, survivor: 'client' | 'agent', ending: string][] = [
    [({ client }) => client.resetAndDestroy(), 'agent', 'client-aborted'],
    [({ client }) => client.destroy(), 'agent', 'client-aborted'],
    [({ agent }) => agent.resetAndDestroy(), 'client', 'upstream-aborted'],
    [({ agent }) => agent.destroy(), 'client', 'upstream-aborted']
  ]
  for (const [die, survivor, ending] of table) {
    const { client, atAgent, gateway } = await rawTunnel(t)
    const finished = nextFacts(gateway)
    const ends = { client: client.socket, agent: atAgent }
    ends[survivor].allowHalfOpen = false
    const over = once(ends[survivor], 'close')

    die(ends)

    await over
    t.equal((await finished).ending, ending)
    t.equal(inFlight(gateway), 0)
    t.equal(gateway.facts.inFlight, 0)
  }
})

t.test('pings of either side keep a tunnel open; silence ends it, and timeouts.total does not', async t => {
  const { open } = await chat(t, { timeouts: { idle: '300ms', total: '1ms', response: '5s' } })
  const { client, atAgent } = await open()
  const start = performance.now()
  let pings = 0

  // Twice as long as silence may last, by turns.
  while (performance.now() - start < 700) {
    const [from, to] = pings++ % 2 === 0 ? [client, atAgent] : [atAgent, client]
    const arrived = once(to, 'ping')
    const pause = new Promise(resolve => { setTimeout(resolve, 20) })
    from.ping()
    await Promise.all([arrived, pause])
  }

  t.equal(client.readyState, WebSocket.OPEN)
  const closes = Promise.all([once(client, 'close'), once(atAgent, 'close')])
  for (const [code] of await closes) t.equal(code, 1006)
})

t.test('when a drain is out of time both sides are told 1001, between two frames', async t => {
  const { open, gateway } = await chat(t)
  const { client, atAgent } = await open()
  const closes = Promise.all([once(client, 'close'), once(atAgent, 'close')])
  const finished = nextFacts(gateway)

  await gateway.drain.begin({ delayMs: 0, timeoutMs: 1 })

  for (const [code] of await closes) t.equal(code, 1001)
  t.match(await finished, { ending: 'complete' })
  t.equal(gateway.proxy.openStreams, 0)
})

t.test('a frame that is under way is finished before the close frame, and nothing follows a close frame', async t => {
  const { client, atAgent, gateway } = await rawTunnel(t)
  const toAgent: Buffer[] = []
  const agentOver = once(atAgent, 'close')
  atAgent.on('data', (chunk: Buffer) => toAgent.push(chunk))
  client.send(Buffer.from([0x88, 0x80, 1, 2, 3, 4])) // the client's close frame
  await once(atAgent, 'data')
  atAgent.write(Buffer.from('\x82\x05be', 'latin1'))
  await client.until(/be$/)

  gateway.proxy.endStreams()
  atAgent.write(Buffer.from('gun\x82\x01x', 'latin1'))

  const received = await client.closed()
  t.equal(received.slice(received.indexOf('\r\n\r\n') + 4), `\x82\x05begun${goingAway}`)
  await agentOver
  t.strictSame([...Buffer.concat(toAgent)], [0x88, 0x80, 1, 2, 3, 4])
})

t.test('app.close() settles with open tunnels, stuck ones and handshakes under way', async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    if (chunk.includes('Upgrade: websocket') && !chunk.includes('/late')) socket.write(switching + (chunk.includes('/stuck') ? '\x82\x7e\xff\xff' : ''), 'latin1')
  })
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })
  const open = async (path: string) => {
    const client = await rawClient(t, gateway.port)
    client.send(handshake.replace('/ws', path))
    return client
  }
  const idle = await open('/idle')
  const stuck = await open('/stuck') // in the middle of a frame that never ends
  await Promise.all([idle.until(/101 /), stuck.until(/\xff\xff$/)])
  const begun = new Promise<void>(resolve => { gateway.upstream.onBegin(() => resolve()) })
  const late = await open('/late')
  await begun

  const closed = gateway.close()
  t.ok((await idle.closed()).endsWith(goingAway))
  t.match(await late.closed(), /^HTTP\/1\.1 503 [^]*FLEET_DRAINING/, 'nobody waits for what would be ended at once')
  t.notOk((await stuck.closed()).endsWith(goingAway))
  await closed
  t.equal(gateway.proxy.openStreams, 0)
})

t.test('tunnels outlive the instance\'s deregistration', async t => {
  const { open, gateway, agent } = await chat(t)
  const { client, atAgent } = await open()

  const gone = await gateway.inject({ method: 'DELETE', url: `/registry/chat?host=${agent.host}&port=${agent.port}` })
  t.equal(gone.statusCode, 200)

  const arrived = once(client, 'message')
  atAgent.send('still here')
  t.equal(String((await arrived)[0]), 'still here')
  const finished = nextFacts(gateway)
  client.close(1000)
  t.equal((await once(atAgent, 'close'))[0], 1000)
  t.match(await finished, { ending: 'complete', agent: 'chat' })
})

t.test('a tunnel is one line in the audit log and one request in the figures', async t => {
  const { open, gateway } = await chat(t)
  const { client } = await open()
  t.match(gateway.stats.snapshot().agents['chat'], { in_flight: 1 })
  const finished = nextFacts(gateway)

  client.send('12345')
  client.close(1000)

  const facts = await finished
  t.match(JSON.parse(createLineWriter()(facts)), { method: 'GET', path: '/api/chat/', agent: 'chat', attempts: 1, status: 101, bytes_in: 6 + 5 + 6 + 2, bytes_out: 2 + 2, ending: undefined, latency_ms: Number })
  t.match(gateway.stats.snapshot().agents['chat'], { requests: 1, errors: 0, retries: 0, in_flight: 0 })
})

/** A frame with a payload of this length. */
const frames = fc.record({ opcode: fc.constantFrom(0, 1, 2, 9, 10), fin: fc.boolean(), masked: fc.boolean(), length: fc.oneof(fc.integer({ min: 0, max: 200 }), fc.constantFrom(125, 126, 127, 65_535, 65_536, 70_000)) })

function frameBytes ({ opcode, fin, masked, length }: { opcode: number, fin: boolean, masked: boolean, length: number }): Buffer {
  const second = (masked ? 0x80 : 0) | (length < 126 ? length : length < 65_536 ? 126 : 127)
  const extended = Buffer.alloc(length < 126 ? 0 : length < 65_536 ? 2 : 8)
  if (extended.length === 2) extended.writeUInt16BE(length)
  if (extended.length === 8) extended.writeBigUInt64BE(BigInt(length))
  return Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | opcode, second]), extended, Buffer.alloc(masked ? 4 : 0, 0x88), Buffer.alloc(length, 0x88)])
}

t.test('frames are told apart however their bytes are cut into chunks', async t => {
  fc.assert(fc.property(fc.array(frames, { minLength: 1, maxLength: 6 }), fc.array(fc.nat(), { maxLength: 8 }), (list, cuts) => {
    const boundaries = new Set([0])
    const bytes = Buffer.concat(list.map(frameBytes))
    let end = 0
    for (const frame of list) boundaries.add(end += frameBytes(frame).length)
    const at = [...cuts.map(cut => cut % bytes.length), bytes.length].sort((a, b) => a - b)
    const walk = new FrameWalk()
    let from = 0
    for (const to of at) {
      walk.follow(bytes.subarray(from, from = to))
      if (walk.isBetweenFrames !== boundaries.has(to) || walk.closeSeen) return false
    }
    const cut = at[0]!
    const stopping = new FrameWalk()
    stopping.follow(bytes.subarray(0, cut))
    const passed = stopping.follow(bytes.subarray(cut), true)
    return boundaries.has(cut + passed) && [...boundaries].every(boundary => boundary < cut || boundary >= cut + passed)
  }), runs(100))

  const walk = new FrameWalk()
  walk.follow(Buffer.from([0x88, 0]))
  t.equal(walk.closeSeen, true)
})

t.test('a client gone in the middle of the joining is nobody\'s crash', async t => {
  const accepted: Duplex[] = []
  const { gateway } = await rawTunnel(t)
  gateway.server.on('connection', (socket: Duplex) => accepted.push(socket))
  const finished = nextFacts(gateway)
  const client = await rawClient(t, gateway.port)
  const answered = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })
  client.send(handshake)
  await answered
  accepted[0]!.destroy(new Error('gone'))

  t.match((await finished).status, 101)
  t.equal(inFlight(gateway), 1, 'the first tunnel\'s')
})
