/**
 * The client that speaks HTTP to agents, with real sockets on both sides: no byte of a body is lost, doubled or another's, whatever else goes on
 * at the same time; nothing waits for ever, and nothing is left behind. Which connections are used again is in upstream-connections.test.ts.
 */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createHash, randomBytes, type Hash } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { getDefaultHighWaterMark, setDefaultHighWaterMark, type Writable } from 'node:stream'
import { agentAt, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { readAnswers } from '../helpers/answers.ts'
import { countingAgent, get } from '../helpers/counting-agent.ts'
import { closed, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { okAnswer, recordingAgent } from '../helpers/recording-agent.ts'
import { seeded, type Seeded } from '../helpers/seeded.ts'
import { askStrictly } from '../helpers/strict-client.ts'

const isOwn = process.env['FLEET_UPSTREAM_CLIENT'] !== 'undici'
const host = 'Host: localhost\r\n'

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
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  const gateway = await startGateway(t, { agents: [{ name: 'ocean', tls: { caFile: fileURLToPath(new URL('self-signed.crt', folder)) }, instances: [{ host: '127.0.0.1', port, protocol: 'https' }] }], retry: { attempts: 0 }, ...unprobed })

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
