/**
 * The client that speaks HTTP to agents, with real sockets on both sides: no byte of a body is lost, doubled or another's, whatever else goes on
 * at the same time; connections are used again where they can be and not where they can't; nothing waits for ever, and nothing is left behind.
 */
import t, { type Test } from 'tap'
import { createHash, randomBytes, type Hash } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { getDefaultHighWaterMark, setDefaultHighWaterMark, type Writable } from 'node:stream'
import type { AnswerSink } from '../../plugins/proxy/agent-connection.ts'
import { Connections } from '../../plugins/proxy/connections.ts'
import { bufferedBody, noBody, type RequestBody } from '../../plugins/proxy/request-body.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { createLookupOf } from '../../src/guarded-lookup.ts'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { readAnswers } from '../helpers/answers.ts'
import { closed, fakeAgent, rawAgent, type RawAgent } from '../helpers/fake-agent.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { recordingAgent } from '../helpers/recording-agent.ts'
import { seeded, type Seeded } from '../helpers/seeded.ts'
import { askStrictly } from '../helpers/strict-client.ts'

const isOwn = process.env['FLEET_UPSTREAM_CLIENT'] !== 'undici'
const host = 'Host: localhost\r\n'
const okAnswer = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

const random = seeded()
t.comment(`FLEET_SEED=${random.seed}`)

const unhandled: unknown[] = []
process.on('unhandledRejection', error => { unhandled.push(error) })
process.on('uncaughtException', error => { unhandled.push(error) })

/** All bodies are pieces of it, at places of their own, so that a byte of another body or place is noticed. */
const ocean = randomBytes(8 * 1024 * 1024)

function sha1 (bytes: Buffer): string {
  return createHash('sha1').update(bytes).digest('hex')
}

/** Writes in pieces of random sizes, with backpressure. Returns early when the other side is gone. */
async function pour (random: Seeded, to: Writable, bytes: Buffer, mostBytes: number): Promise<void> {
  for (let at = 0; at < bytes.length && !to.destroyed;) {
    const end = Math.min(bytes.length, at + 1 + random.below(mostBytes))
    if (!to.write(bytes.subarray(at, end)) && !to.destroyed) await drained(to)
    at = end
  }
}

/** Resolves when it takes more, or is gone. */
function drained (to: Writable): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      to.off('drain', done).off('close', done)
      resolve()
    }
    to.on('drain', done).on('close', done)
  })
}

/** Reads with a pause of some turns of the event loop now and then. */
function readSlowly (random: Seeded, from: IncomingMessage): void {
  from.on('data', () => {
    if (random.next() < 0.7) return
    from.pause()
    let turns = random.below(30)
    const turn = () => turns-- > 0 ? setImmediate(turn) : from.resume()
    turn()
  })
}

/**
 * `/get/OFFSET/LENGTH/FRAMING` answers with that piece of the ocean, `/reset/…` resets the connection in the middle of it, `PUT /put` answers with
 * the hash of what it got, read slowly when `/put/slow`.
 */
function oceanAgent (random: Seeded) {
  return (request: IncomingMessage, response: ServerResponse): void => {
    const [, what, offset = '0', length = '0', framing = 'length'] = request.url!.split('/')
    if (what === 'put') {
      const hash = createHash('sha1')
      request.on('data', (chunk: Buffer) => hash.update(chunk))
      request.on('end', () => response.end(hash.digest('hex')))
      if (offset === 'slow') readSlowly(random, request)
      return
    }
    const start = Number(offset)
    const body = ocean.subarray(start, start + Number(length))
    if (framing === 'length') response.setHeader('content-length', body.length)
    if (framing === 'end') {
      response.shouldKeepAlive = false
      response.useChunkedEncodingByDefault = false
      response.removeHeader('transfer-encoding')
    }
    const sent = what === 'reset' ? body.subarray(0, random.below(body.length - 1) + 1) : body
    void pour(random, response, sent, random.oneOf([1_000, 9_000, 40_000, 70_000, 300_000])).then(() => {
      if (what !== 'reset') response.end()
      else if (response.socket !== null && 'encrypted' in response.socket) response.destroy()
      else response.socket?.resetAndDestroy()
    })
  }
}

interface Got { readonly status: number, readonly hash: string, readonly bytes: number, readonly whole: boolean }

interface Asking { method?: string, body?: Buffer, chunked?: boolean, slow?: boolean, abortAt?: number, parked?: Promise<void> }

/** One exchange on a connection of its own. */
function ask (random: Seeded, url: string, { method = 'GET', body, chunked = false, slow = false, abortAt = Infinity, parked }: Asking = {}): Promise<Got> {
  return new Promise(resolve => {
    const headers = body === undefined ? {} : chunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': body.length }
    const asking = httpRequest(url, { method, agent: false, headers })
    const hash: Hash = createHash('sha1')
    let status = 0
    let bytes = 0
    let whole = false
    let answered = false
    const settle = () => resolve({ status, hash: hash.digest('hex'), bytes, whole })
    asking.on('error', () => {})
    asking.on('response', response => {
      answered = true
      response.on('close', settle)
      status = response.statusCode!
      response.on('error', () => {})
      response.on('data', (chunk: Buffer) => {
        hash.update(chunk)
        bytes += chunk.length
        if (bytes >= abortAt) asking.destroy()
      })
      response.on('end', () => { whole = response.complete })
      if (slow) readSlowly(random, response)
      if (parked === undefined) return
      response.pause()
      void parked.then(() => response.resume())
    })
    asking.on('close', () => { if (!answered) settle() })
    if (body === undefined) asking.end()
    else void pour(random, asking, body, random.oneOf([2_000, 30_000, 200_000])).then(() => asking.end())
  })
}

/** Random exchanges, many at a time; what is wrong with what came of them. */
async function storm (random: Seeded, gateway: ListeningGateway, count: number, atOnce: number, framings: readonly string[] = ['length', 'length', 'chunked', 'end']): Promise<string[]> {
  const wrong: string[] = []
  let left = count
  const one = async () => {
    const length = 1 + random.below(random.oneOf([2_000, 60_000, 300_000, 1_500_000]))
    const offset = random.below(ocean.length - length)
    const expected = ocean.subarray(offset, offset + length)
    const slow = random.next() < 0.4
    const kind = random.oneOf(['get', 'get', 'get', 'put', 'put', 'abort', 'reset'])
    const framing = random.oneOf(framings)
    const path = `${kind === 'reset' ? 'reset' : 'get'}/${offset}/${length}/${framing}`
    switch (kind) {
      case 'put': {
        const got = await ask(random, `${gateway.origin}/api/ocean/put${random.next() < 0.4 ? '/slow' : ''}`, { method: 'PUT', body: expected, chunked: random.next() < 0.5, abortAt: Infinity })
        if (got.status !== 200 || got.hash !== sha1(Buffer.from(sha1(expected)))) wrong.push(`put of ${length} at ${offset}: ${JSON.stringify(got)}`)
        return
      }
      case 'abort': {
        const got = await ask(random, `${gateway.origin}/api/ocean/${path}`, { slow, abortAt: random.below(length) })
        if (got.bytes > length) wrong.push(`${path}: aborted with ${got.bytes} bytes`)
        return
      }
      case 'reset': {
        const got = await ask(random, `${gateway.origin}/api/ocean/${path}`, { slow })
        if (got.whole && got.status === 200) wrong.push(`${path}: broke off, and was taken for whole`)
        return
      }
      default: {
        const got = await ask(random, `${gateway.origin}/api/ocean/${path}`, { slow })
        if (got.status !== 200 || !got.whole || got.bytes !== length || got.hash !== sha1(expected)) wrong.push(`${path}: ${JSON.stringify(got)}`)
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, async () => { while (left-- > 0) await one() }))
  return wrong
}

/** For tests of one connection: no probes come between. */
const unprobed = { health: { interval: '1h' } } as const

t.test('bodies of all framings and sizes, many at once, to fast and slow readers, amid aborts and resets, are byte for byte right', async t => {
  const agent = await fakeAgent(t, oceanAgent(random))
  const gateway = await startGateway(t, { agents: [agentAt('ocean', agent)], retry: { attempts: 0 }, ...unprobed })

  // These read nothing while the storm goes on: what was read for them waits in the buffers it was read into.
  let release = () => {}
  const parked = new Promise<void>(resolve => { release = resolve })
  const waiting = Array.from({ length: 8 }, async (_, index) => {
    const length = 6 * 1024 * 1024 + index
    const offset = random.below(ocean.length - length)
    const got = await ask(random, `${gateway.origin}/api/ocean/get/${offset}/${length}/length`, { parked, ...(index % 4 === 0 && { abortAt: 3_000_000 }) })
    if (index % 4 !== 0) t.match(got, { status: 200, whole: true, bytes: length, hash: sha1(ocean.subarray(offset, offset + length)) }, `parked ${index}`)
  })

  const wrong = await storm(random, gateway, Number(process.env['FLEET_STORM'] ?? 250), 30)

  t.same(wrong.slice(0, 5), [], `FLEET_SEED=${random.seed}`)
  release()
  await Promise.all(waiting)
  await quiet(gateway)
  t.equal(underWay(gateway, 'ocean'), 0)
  t.same(unhandled, [])
})

t.test('the same with TLS to the agent', async t => {
  const folder = new URL('../fixtures/', import.meta.url)
  const [key, cert] = await Promise.all(['key', 'crt'].map(type => readFile(new URL(`self-signed.${type}`, folder))))
  const server = createTlsServer({ key, cert }, oceanAgent(random))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  // The certificate is nobody's: for once it is not looked at. Node warns of that, rightly.
  const { emitWarning } = process
  process.emitWarning = () => {}
  process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0'
  t.teardown(() => {
    delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']
    process.emitWarning = emitWarning
    server.close()
    server.closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  const gateway = await startGateway(t, { agents: [{ name: 'ocean', instances: [{ host: '127.0.0.1', port, protocol: 'https' }] }], retry: { attempts: 0 }, ...unprobed })

  // Not until the end of the connection: Node tells nobody whether TLS ended properly.
  const wrong = await storm(random, gateway, 60, 10, ['length', 'chunked'])

  t.same(wrong.slice(0, 5), [], `FLEET_SEED=${random.seed}`)
  await quiet(gateway)
  t.equal(underWay(gateway, 'ocean'), 0)
  t.same(unhandled, [])
})

t.test('an application with larger stream buffers changes nothing: an upload to a slow agent goes on', async t => {
  const usual = getDefaultHighWaterMark(false)
  setDefaultHighWaterMark(false, 4 * 1024 * 1024)
  t.teardown(() => setDefaultHighWaterMark(false, usual))
  const agent = await fakeAgent(t, oceanAgent(random))
  const gateway = await startGateway(t, { agents: [agentAt('ocean', agent)], ...unprobed })
  const body = ocean.subarray(0, 6 * 1024 * 1024)

  for (const chunked of [true, false]) {
    const got = await ask(random, `${gateway.origin}/api/ocean/put/slow`, { method: 'PUT', body, chunked })

    t.match(got, { status: 200, hash: sha1(Buffer.from(sha1(body))) })
  }
})

t.test('a body of very small chunks is put together', async t => {
  const text = ocean.toString('hex', 0, 60_000)
  const tiny = [...text].map(letter => `1;an=extension\r\n${letter}\r\n`).join('')
  const agent = await rawAgent(t, socket => { socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${tiny}0\r\n\r\n`) })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })

  const { answer } = await askStrictly(gateway.port, 'GET', `GET /api/planner/ HTTP/1.1\r\n${host}\r\n`)

  t.ok(answer?.body === text)
})

t.test('trailers of a request reach the agent, without those of framing, of the hop and of credentials', { skip: !isOwn && 'undici sends none' }, async t => {
  const agent = await recordingAgent(t)
  agent.answer = okAnswer
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  const trailers = ['X-Sum: 7', 'x-sum: 8', 'X-Bytes: caf\xe9', 'Host: other', 'Authorization: Bearer x', 'X-Fleet-Token: y', 'X_Fleet_Token: z', 'Proxy-Authorization: Basic x', 'Connection: close', 'Keep-Alive: x', 'TE: x', 'Upgrade: x', 'Expect: 100-continue', 'X-Forwarded-For: 1.2.3.4', 'Forwarded: for=x', 'X-Request-Id: evil', 'traceparent: x', 'Set-Cookie: a=b', 'X-Mine: 1']

  const { answer } = await askStrictly(gateway.port, 'POST', Buffer.from(`POST /api/planner/ HTTP/1.1\r\n${host}Connection: X-Mine\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\n${trailers.join('\r\n')}\r\n\r\n`, 'latin1'))

  t.match(answer, { status: 200 })
  t.match(agent.requests, [{ body: 'hi', framing: 'chunked', complete: true }])
  t.equal(agent.requests[0]!.trailers, 'X-Sum: 7\r\nx-sum: 8\r\nX-Bytes: caf\xe9')
  t.same(agent.requests[0]!.valuesOf('trailer'), ['X-Sum'])
})

t.test('trailers of an answer that its Connection names stay behind', async t => {
  const agent = await rawAgent(t, socket => { socket.write('HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nx-mine: 2\r\n\r\n') })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })

  const { answer } = await askStrictly(gateway.port, 'GET', `GET /api/planner/ HTTP/1.1\r\n${host}\r\n`)

  t.same(answer?.trailers, [['X-Sum', '1']])
})

t.test('the head of an upload reaches the agent before the first byte of its body', { skip: !isOwn && 'undici waits for the body' }, async t => {
  let received = ''
  let notify = () => {}
  const arrived = new Promise<void>(resolve => { notify = resolve })
  const agent = await rawAgent(t, (socket, chunk) => {
    received += String(chunk)
    notify()
    if (received.endsWith('0\r\n\r\n')) socket.write(okAnswer)
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  const client = await rawClient(t, gateway.port)
  client.send(`POST /api/planner/ HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n`)

  await arrived

  t.match(received, /^POST \/ HTTP\/1\.1\r\n[^]*\r\n\r\n$/)
  client.send('2\r\nhi\r\n0\r\n\r\n')
  await client.until(/\r\n\r\nok$/)
  t.match(received, /\r\n\r\n2\r\nhi\r\n0\r\n\r\n$/)
})

/** An agent that answers byte by byte, and which connections carried requests. */
async function countingAgent (t: Test, answer: (socket: Socket, request: string) => void) {
  const used = new Set<Socket>()
  const agent = await rawAgent(t, (socket, chunk) => {
    used.add(socket)
    for (const [request] of chunk.toString('latin1').matchAll(/[A-Z]+ \S+ HTTP\/1\.1\r\n/g)) answer(socket, request)
  })
  return { agent, used }
}

const get = (port: number, path = '', method = 'GET') => askStrictly(port, method, `${method} /api/planner/${path} HTTP/1.1\r\n${host}\r\n`)

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

t.test('stray bodies of HEAD, 204 and 304 reach nobody, whether they come with their head or behind it', async t => {
  const stray = 'HTTP/1.1 200 OK\r\nX-Stray: 1\r\nContent-Length: 5\r\n\r\nstray'
  const table: [method: string, head: string][] = [
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'], ['HEAD', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'], ['GET', 'HTTP/1.1 204 No Content\r\n\r\n'], ['GET', 'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n'],
    ['GET', 'HTTP/1.1 304 Not Modified\r\n\r\n'], ['GET', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n'], ['GET', 'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n'], ['GET', okAnswer]
  ]
  for (const [method, head] of table) {
    for (const later of [false, true]) {
      let carrier: Socket | undefined
      const { agent } = await countingAgent(t, (socket, request) => {
        if (!request.includes('/odd')) return socket.write(okAnswer)
        carrier = socket
        socket.write(later ? head : head + stray)
      })
      const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })

      const { answer } = await get(gateway.port, 'odd', method)
      const over = closed(carrier!)
      if (later) carrier!.write(stray)
      await over
      const next = await get(gateway.port)

      t.equal(answer?.status, Number(head.slice(9, 12)), `${method} ${head}`)
      t.match(next.answer, { status: 200, body: 'ok' })
    }
  }
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

t.test('idle connections are ended by the gateway when their time is over, and later requests have one connection again', { skip: !isOwn && 'undici has its own clock' }, async t => {
  const { now } = performance
  let aheadMs = 0
  performance.now = () => now.call(performance) + aheadMs
  t.teardown(() => { performance.now = now })
  const { agent, used } = await countingAgent(t, socket => socket.write(okAnswer))
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  await Promise.all([get(gateway.port), get(gateway.port)])
  const before = [...used]

  aheadMs = 4_001
  await Promise.all(before.map(closed))
  aheadMs = 0
  for (let index = 0; index < 3; index++) await get(gateway.port)

  t.equal(used.size, before.length + 1)
})

t.test('a connection whose time ran out is replaced by one that is reused, and that ends with the gateway', { skip: !isOwn && 'undici has its own clock' }, async t => {
  const { now } = performance
  let aheadMs = 0
  performance.now = () => now.call(performance) + aheadMs
  t.teardown(() => { performance.now = now })
  const { agent, used } = await countingAgent(t, socket => socket.write(okAnswer))
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  await get(gateway.port)

  aheadMs = 4_001 // noticed by the next request, before the connections are looked through
  for (let index = 0; index < 3; index++) await get(gateway.port)

  t.equal(used.size, 2)
  const over = [...used].map(closed)
  aheadMs = 0
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
  const connections = new Connections(createLookupOf(undefined), 'own')
  t.teardown(() => connections.destroy())
  const instance = { host, port, protocol: 'http', origin: `http://${host}:${port}`, runtime: {} } as unknown as Instance
  return {
    connections,
    /** Sends a request and resolves with the connection, released, when it has its answer. */
    async exchange (body: RequestBody, onChunk: AnswerSink['onChunk'] = () => true): Promise<void> {
      const connection = connections.acquire(instance, 'any')
      await new Promise<void>((resolve, reject) => {
        const sink: AnswerSink = { onSend () {}, onSent () {}, onInterim () {}, onHead () {}, onChunk, onWhole: () => resolve(), onEnd: () => resolve(), onFault: (_fault, error) => reject(error) }
        connection.send({ method: 'PUT', path: '/', fields: [], body, connectTimeoutMs: 3_000 }, sink)
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

t.test('large answers to pipelined requests come whole and in order', async t => {
  const length = 1_500_000
  const agent = await fakeAgent(t, oceanAgent(random))
  const gateway = await startGateway(t, { agents: [agentAt('ocean', agent)], ...unprobed })
  const framings = ['length', 'chunked', 'length', 'chunked', 'length', 'length']
  const client = await rawClient(t, gateway.port)

  client.send(framings.map((framing, index) => `GET /api/ocean/get/${index * 1_000}/${length}/${framing} HTTP/1.1\r\n${host}${index === framings.length - 1 ? 'Connection: close\r\n' : ''}\r\n`).join(''))

  const answers = readAnswers(await client.closed(), framings.map(() => 'GET'))
  t.equal(answers.length, framings.length)
  for (const [index, { complete, body }] of answers.entries()) t.ok(complete && body === ocean.toString('latin1', index * 1_000, index * 1_000 + length), `answer ${index}`)
})

t.test('an agent that closes or resets while an upload is streamed: the client is told, and nothing is left', async t => {
  for (const how of ['end', 'destroy', 'resetAndDestroy'] as const) {
    const agent = await rawAgent(t, (socket, chunk) => { if (chunk.includes('POST')) socket[how]() })
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
    const asking = httpRequest(`${gateway.origin}/api/planner/`, { method: 'POST', agent: false, headers: { 'transfer-encoding': 'chunked' } })
    asking.on('error', () => {})
    asking.write(ocean.subarray(0, 300_000))

    const [response] = await once(asking, 'response') as [IncomingMessage]

    t.equal(response.statusCode, 502, how)
    response.resume()
    asking.end()
    await once(response, 'close')
    await quiet(gateway)
    t.equal(underWay(gateway), 0)
  }
})

t.test('a client that leaves while its answers wait in line leaves nothing behind', async t => {
  const { agent } = await countingAgent(t, (socket, request) => {
    if (request.includes('/first')) return
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${ocean.length}\r\n\r\n`)
    socket.write(ocean)
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  let begun = 0
  const all = new Promise<void>(resolve => { gateway.upstream.onSettled(() => { if (++begun === 8) resolve() }) })
  const client = await rawClient(t, gateway.port)
  client.send(['first', ...Array.from({ length: 8 }, (_, index) => `large-${index}`)].map(path => `GET /api/planner/${path} HTTP/1.1\r\n${host}\r\n`).join(''))
  await all
  t.equal(underWay(gateway), 9)

  client.socket.destroy()

  await quiet(gateway)
  t.equal(underWay(gateway), 0)
})

t.test('nothing of all this threw where nobody catches', async t => {
  t.same(unhandled, [])
})
