/**
 * The connections of the client that speaks HTTP to agents: used again where they can be and not where they can't, ended when their time is over,
 * and their bytes nobody else's.
 */
import t, { type Test } from 'tap'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import type { AnswerSink } from '../../plugins/proxy/agent-connection.ts'
import { Connections } from '../../plugins/proxy/connections.ts'
import { bufferedBody, noBody, type RequestBody } from '../../plugins/proxy/request-body.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { createLookupOf } from '../../src/guarded-lookup.ts'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { countingAgent, get } from '../helpers/counting-agent.ts'
import { closed, rawAgent, type RawAgent } from '../helpers/fake-agent.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { okAnswer } from '../helpers/recording-agent.ts'

const isOwn = process.env['FLEET_UPSTREAM_CLIENT'] !== 'undici'

const unhandled: unknown[] = []
process.on('unhandledRejection', error => { unhandled.push(error) })
process.on('uncaughtException', error => { unhandled.push(error) })

/** All bodies are pieces of it, at places of their own, so that a byte of another place is noticed. */
const ocean = randomBytes(1024 * 1024)

t.test('one connection carries all requests that come one after the other', async t => {
  const framings = [okAnswer, 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', 'HTTP/1.1 204 No Content\r\n\r\n', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n', 'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok', 'HTTP/1.1 103 x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n']
  if (!isOwn) framings.splice(3, 1) // undici takes the length of a 304 for that of a body
  let count = 0
  const { agent, used } = await countingAgent(t, socket => socket.write(framings[count++ % framings.length]!))
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })

  for (let index = 0; index < 60; index++) t.ok((await get(gateway.port)).answer)

  t.equal(count, 60)
  t.equal(used.size, 1)
})

t.test('an idle connection is kept as long as the agent says, less a second, and ends after its time', async t => {
  const table: [hint: string, reused: boolean][] = [['', true], ['Keep-Alive: timeout=5\r\n', true], ['Keep-Alive: timeout=1\r\n', false], ['Keep-Alive: timeout=0\r\n', false], ['Connection: close\r\n', false]]
  for (const [hint, reused] of table) {
    const { agent, used } = await countingAgent(t, socket => socket.write(`HTTP/1.1 200 OK\r\n${hint}Content-Length: 2\r\n\r\nok`))
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })

    for (let index = 0; index < 3; index++) await get(gateway.port)

    if (isOwn || hint !== 'Keep-Alive: timeout=1\r\n') t.equal(used.size, reused ? 1 : 3, hint)
  }
})

/** A gateway in front of an agent that answers at once. `clock.aheadMs` puts the time forward that the client goes by. */
async function underClock (t: Test) {
  const { now } = performance
  const clock = { aheadMs: 0 }
  performance.now = () => now.call(performance) + clock.aheadMs
  t.teardown(() => { performance.now = now })
  const { agent, used } = await countingAgent(t, socket => socket.write(okAnswer))
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  return { clock, used, gateway }
}

t.test('idle connections are ended by the gateway when their time is over, and later requests have one connection again', { skip: !isOwn && 'undici has its own clock' }, async t => {
  const { clock, used, gateway } = await underClock(t)
  await Promise.all([get(gateway.port), get(gateway.port)])
  const before = [...used]

  clock.aheadMs = 4_001
  await Promise.all(before.map(closed))
  clock.aheadMs = 0
  for (let index = 0; index < 3; index++) await get(gateway.port)

  t.equal(used.size, before.length + 1)
})

t.test('a connection whose time ran out is replaced by one that is reused, and that ends with the gateway', { skip: !isOwn && 'undici has its own clock' }, async t => {
  const { clock, used, gateway } = await underClock(t)
  await get(gateway.port)

  clock.aheadMs = 4_001 // noticed by the next request, before the connections are looked through
  for (let index = 0; index < 3; index++) await get(gateway.port)

  t.equal(used.size, 2)
  const over = [...used].map(closed)
  clock.aheadMs = 0
  await gateway.close()
  await Promise.all(over)
})

t.test('bytes on an idle connection end it, and are nobody\'s answer', async t => {
  for (const bytes of ['x', '\r\n', 'HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil']) {
    const { agent, used } = await countingAgent(t, socket => socket.write(okAnswer))
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
    await get(gateway.port)
    const [first] = used
    const over = closed(first!)

    first!.write(bytes)
    await over

    t.match((await get(gateway.port)).answer, { status: 200, body: 'ok' }, bytes)
    t.equal(used.size, 2)
  }
})

t.test('an answer that comes before the upload is over is passed on whole, and the connection not used again', async t => {
  const body = ocean.subarray(0, 700_000)
  for (const framing of ['length', 'chunked']) {
    const { agent, used } = await countingAgent(t, (socket, request) => {
      if (!request.startsWith('POST')) return socket.write(okAnswer)
      socket.pause() // the rest of the upload is not read
      if (framing === 'length') socket.write(`HTTP/1.1 413 Too Much\r\nContent-Length: ${body.length}\r\n\r\n`)
      else socket.write(`HTTP/1.1 413 Too Much\r\nTransfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n`)
      socket.write(body)
      if (framing === 'chunked') socket.write('\r\n0\r\n\r\n')
    })
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
    const asking = httpRequest(`${gateway.origin}/api/planner/`, { method: 'POST', agent: false, headers: { 'transfer-encoding': 'chunked' } })
    asking.on('error', () => {})
    asking.write('begun')
    const [response] = await once(asking, 'response') as [IncomingMessage]
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)

    t.equal(response.statusCode, 413)
    t.ok(Buffer.concat(chunks).equals(body))
    asking.destroy()
    t.match((await get(gateway.port)).answer, { status: 200, body: 'ok' })
    t.equal(used.size, 2)
    await quiet(gateway)
    t.equal(underWay(gateway), 0)
  }
})

/** The client by itself, without a gateway around it. */
function clientOf (t: Test, { host, port }: RawAgent) {
  const connections = new Connections(createLookupOf(undefined), () => ({}), 'own')
  t.teardown(() => connections.destroy())
  const instance = { host, port, protocol: 'http', origin: `http://${host}:${port}`, runtime: {} } as unknown as Instance
  return {
    connections,
    /** Sends a request and resolves with the connection, released, when it has its answer. */
    async exchange (body: RequestBody, onChunk: AnswerSink['onChunk'] = () => true, mayWait = false): Promise<void> {
      const connection = connections.acquire(instance, 'any')
      await new Promise<void>((resolve, reject) => {
        const sink: AnswerSink = { onSend () {}, onSent () {}, onInterim () {}, onHead () {}, onChunk, onWhole: () => resolve(), onEnd: () => resolve(), onFault: (_fault, error) => reject(error) }
        connection.send({ method: 'PUT', path: '/', fields: [], body, mayWait, connectTimeoutMs: 3_000 }, sink)
      })
      connection.release()
    }
  }
}

t.test('a connection whose agent answered before it took all of the request is not used again', { skip: !isOwn && 'undici decides by itself' }, async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    if (!chunk.includes('HTTP/1.1\r\n')) return
    socket.pause()
    socket.write(okAnswer)
  })
  const client = clientOf(t, agent)

  await client.exchange(bufferedBody(Buffer.alloc(32 * 1024 * 1024))) // more than the kernel takes
  await client.exchange(noBody)

  t.equal(agent.connections.length, 2)
})

t.test('what an agent says before a request is out is no answer to it', { skip: !isOwn && 'undici writes at once' }, async t => {
  const agent = await rawAgent(t, socket => socket.write(okAnswer))
  const other = await rawAgent(t, () => {})
  const client = clientOf(t, agent)
  await client.exchange(noBody)
  const signal = connect(other.port, other.host)
  t.teardown(() => signal.destroy())
  await once(signal, 'connect')
  signal.write('hello')
  while (other.connections.length === 0) await new Promise(resolve => setImmediate(resolve))
  const exchanged = once(signal, 'data').then(() => client.exchange(noBody, () => true, true))

  // Both are there to be read in one turn, in this order, and what waits is written behind it.
  other.connections[0]!.write('now')
  agent.connections[0]!.write(okAnswer)
  await t.rejects(exchanged, { message: 'the agent said something that nobody asked for' })

  await client.exchange(noBody)
  t.equal(agent.connections.length, 2)
})

t.test('a connection whose time runs out while connections are looked through ends like any other', { skip: !isOwn && 'undici has its own clock' }, async t => {
  const { now } = performance
  const agent = await rawAgent(t, socket => socket.write(okAnswer))
  const client = clientOf(t, agent)
  await client.exchange(noBody)
  const start = performance.now()
  let looks = 0
  performance.now = () => start + (looks++ % 2 === 0 ? 3_999 : 4_001)
  t.teardown(() => { performance.now = now })

  await closed(agent.connections[0]!)

  t.same(unhandled, [])
})

t.test('what waits for a slow client is its own, and takes not much more memory than it has bytes', { skip: !isOwn && 'undici allocates by itself' }, async t => {
  const sizes = [60_000, 100, ...Array.from({ length: 20 }, () => 8_300), 16_000, 20_000, 65_536, 8_193, 70_000, 1]
  const total = sizes.reduce((sum, size) => sum + size)
  let send = () => {}
  const agent = await rawAgent(t, socket => {
    let at = 0
    let index = 0
    send = () => {
      const end = at + sizes[index++]!
      socket.write(ocean.subarray(at, end))
      at = end
    }
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${total}\r\n\r\n`)
    send()
  })
  const client = clientOf(t, agent)
  const chunks: (Buffer | string)[] = []
  const pinned = new Set<ArrayBufferLike>()
  let due = 0
  let received = 0
  let next = sizes[due++]!

  await client.exchange(noBody, chunk => {
    chunks.push(chunk)
    if (typeof chunk !== 'string' && chunk.buffer.byteLength > 8_192) pinned.add(chunk.buffer)
    received += chunk.length
    if (received === next && received < total) {
      next += sizes[due++]!
      send()
    }
    return true
  })

  const whole = Buffer.concat(chunks.map(chunk => typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk))
  t.ok(whole.equals(ocean.subarray(0, total)), 'nobody wrote over what was not given back')
  const bytes = [...pinned].reduce((sum, { byteLength }) => sum + byteLength, 0)
  t.ok(bytes < total * 2, `${bytes} bytes of memory for ${total}`)
})

t.test('nothing of all this threw where nobody catches', async t => {
  t.same(unhandled, [])
})
