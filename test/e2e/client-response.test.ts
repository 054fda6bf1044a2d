/**
 * Short answers and events go past ServerResponse, as one string. Nobody may notice: the client gets the bytes that ServerResponse would have
 * written, whatever a host application has set, and who has put himself between the answer and its connection is asked as ever.
 */
import t, { type Test } from 'tap'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { ServerResponse } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import fleetGateway, { serverOptions, type FleetGatewayOptions } from '../../src/index.ts'
import { readAnswers, type Answer } from '../helpers/answers.ts'
import { agentAt } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'
import { okAnswer, recordingAgent } from '../helpers/recording-agent.ts'

const unhandled: unknown[] = []
process.on('unhandledRejection', error => { unhandled.push(error) })
process.on('uncaughtException', error => { unhandled.push(error) })

type Hook = (request: FastifyRequest, reply: FastifyReply) => void

interface HostSettings {
  /** Run before anything of the gateway. */
  readonly hook?: Hook
  readonly options?: FleetGatewayOptions
  readonly server?: FastifyServerOptions
}

/** Somebody's application with the gateway in it; not listening. */
async function hostApp (t: Test, agents: NonNullable<FleetGatewayOptions['agents']>, { hook, options, server }: HostSettings = {}): Promise<FastifyInstance> {
  const app: FastifyInstance = Fastify({ ...serverOptions(), ...server })
  t.teardown(() => app.close())
  if (hook !== undefined) {
    app.addHook('onRequest', (request, reply, done) => {
      hook(request, reply)
      done()
    })
  }
  await app.register(fleetGateway, {
    auth: { enabled: false },
    rateLimit: { enabled: false },
    auditLog: { enabled: false },
    cors: { enabled: false },
    health: { interval: '1h' },
    retry: { attempts: 0 },
    ...(process.env['FLEET_UPSTREAM_CLIENT'] === 'undici' && { upstreamClient: 'undici' }),
    agents,
    ...options
  })
  return app
}

async function portOf (app: FastifyInstance): Promise<number> {
  if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 })
  return (app.server.address() as AddressInfo).port
}

const host = 'Host: localhost\r\n'
const last = `GET /api/planner/last HTTP/1.1\r\n${host}X-Request-Id: last\r\nConnection: close\r\n\r\n`

/** Puts itself between an answer and its connection, and passes everything on. */
function passOn (raw: ServerResponse, onHead: () => void): void {
  const { writeHead, write, end } = raw
  const patched = raw as unknown as Record<'writeHead' | 'write' | 'end', (...parameters: unknown[]) => unknown>
  patched.writeHead = (...parameters) => {
    onHead()
    return Reflect.apply(writeHead, raw, parameters) as unknown
  }
  patched.write = (...parameters) => Reflect.apply(write, raw, parameters) as unknown
  patched.end = (...parameters) => Reflect.apply(end, raw, parameters) as unknown
}

/** What an agent sends, and what the client has when the next is due. */
type Piece = readonly [bytes: string, arrived: RegExp]

interface State {
  readonly name: string
  /** To the request of this state. @default `ok` with its length */
  readonly answer?: string | readonly Piece[]
  /** The line and the fields of the request. @default a GET of HTTP/1.1 */
  readonly method?: string
  readonly version?: '1.0' | '1.1'
  readonly fields?: string
  readonly body?: string
  /** What comes right behind it on the connection. @default a request that closes it */
  readonly behind?: string
  readonly hook?: Hook
  readonly options?: FleetGatewayOptions
  readonly server?: FastifyServerOptions
  /** Of the answers, interim ones left out. @default 200 twice */
  readonly statuses?: readonly number[]
  /** What the first final answer is at least. */
  readonly first?: Partial<Pick<Answer, 'status' | 'reason' | 'body' | 'framing' | 'trailers'>>
  /** What is in the head of the first final answer, and what is not. */
  readonly has?: RegExp
  readonly hasNot?: RegExp
}

const ok = 'HTTP/1.1 200 OK\r\n'
const chunks = 'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'
const oldDate = 'Thu, 01 Jan 1970 00:00:00 GMT'
const eventHead = `${ok}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n`
const events: readonly Piece[] = [
  [`${eventHead}9\r\ndata: 0\n\n\r\n`, /data: 0/],
  ['9\r\ndata: 1\n\n\r\n', /data: 1/],
  ['9\r\ndata: 2\n\n\r\na\r\ndata: \xe9\xff\n\n\r\n', /data: \xe9\xff/],
  ['0\r\n\r\n', /\r\n0\r\n\r\n/]
]
const stays = 'GET /api/planner/last HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: stays\r\n\r\n'

const states: readonly State[] = [
  { name: 'a length', answer: okAnswer, first: { body: 'ok', framing: 'length' }, has: /\r\nDate: .*\r\nConnection: keep-alive\r\nKeep-Alive: timeout=1$/ },
  { name: 'chunks', answer: ok + chunks, first: { body: 'ok', framing: 'chunked' } },
  { name: 'two chunks', answer: `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n`, first: { body: 'ok!' } },
  { name: 'chunks and trailers', answer: `${ok}Trailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n`, first: { trailers: 'X-T: 1' } },
  { name: 'chunks of nothing', answer: `${ok}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, first: { body: '', framing: 'chunked' } },
  { name: 'a length of 0', answer: `${ok}Content-Length: 0\r\n\r\n`, first: { body: '', framing: 'length' } },
  { name: 'bytes beyond ASCII', answer: `${ok}X-A: \xe9\xff\r\nContent-Length: 3\r\n\r\n\x00\x80\xff`, first: { body: '\x00\x80\xff' }, has: /\r\nX-A: \xe9\xff\r\n/ },
  { name: '8 KiB', answer: `${ok}Content-Length: 8192\r\n\r\n${'x'.repeat(8_192)}`, first: { body: 'x'.repeat(8_192) } },
  { name: 'the head alone, then the body', answer: [[`${ok}Content-Length: 2\r\n\r\n`, /\r\n\r\n$/], ['ok', /ok/]], first: { body: 'ok' } },
  { name: 'the head alone, then the end', answer: [[`${ok}Transfer-Encoding: chunked\r\n\r\n`, /\r\n\r\n$/], ['0\r\n\r\n', /\r\n0\r\n/]], first: { body: '' } },
  { name: '204', answer: 'HTTP/1.1 204 No Content\r\n\r\n', statuses: [204, 200], hasNot: /content-length|transfer-encoding/i },
  { name: '204 with a length of 0', answer: 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', statuses: [204, 200], hasNot: /content-length/i },
  { name: '304', answer: 'HTTP/1.1 304 Not Modified\r\nETag: "e"\r\n\r\n', statuses: [304, 200] },
  { name: '304 with a length', answer: 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n', statuses: [304, 200] },
  { name: 'HEAD', method: 'HEAD', answer: `${ok}Content-Length: 5\r\n\r\n`, has: /\r\nContent-Length: 5\r\n/ },
  { name: 'HEAD without a length', method: 'HEAD', answer: `${ok}\r\n` },
  { name: 'HEAD in chunks', method: 'HEAD', answer: `${ok}Transfer-Encoding: chunked\r\n\r\n` },
  { name: 'an error', answer: 'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno', statuses: [500, 200], first: { body: 'no' } },
  { name: 'a Date', answer: `${ok}Date: ${oldDate}\r\nContent-Length: 2\r\n\r\nok`, has: /\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n/ },
  { name: 'a Date in odd case, in chunks', answer: `${ok}dATE: ${oldDate}\r\n${chunks}`, has: /\r\ndATE: Thu, 01 Jan 1970 00:00:00 GMT\r\n/ },
  { name: 'a reason of its own', answer: 'HTTP/1.1 200 All is well\r\nContent-Length: 2\r\n\r\nok', first: { reason: 'All is well' } },
  { name: 'no reason', answer: 'HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok', first: { reason: '' } },
  { name: 'a reason beyond ASCII', answer: 'HTTP/1.1 404 P\xe9rdu\r\nContent-Length: 2\r\n\r\nno', statuses: [404, 200], first: { reason: 'Not Found' } },
  { name: 'a status nobody knows', answer: 'HTTP/1.1 599 \r\nContent-Length: 2\r\n\r\nno', statuses: [599, 200], first: { body: 'no' } },
  { name: 'fields twice', answer: `${ok}Set-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nX-A: 2\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nok` },
  { name: 'events', answer: events, first: { body: 'data: 0\n\ndata: 1\n\ndata: 2\n\ndata: \xe9\xff\n\n', framing: 'chunked' } },
  { name: 'all events at once', answer: events.map(([bytes]) => bytes).join(''), first: { framing: 'chunked' } },
  { name: 'a POST', method: 'POST', fields: 'Content-Length: 2\r\n', body: 'hi', first: { body: 'ok' } },

  { name: 'HTTP/1.0 and a length', version: '1.0', behind: '', statuses: [200], first: { body: 'ok' }, has: /\r\nConnection: close$/ },
  { name: 'HTTP/1.0 and chunks', version: '1.0', answer: ok + chunks, behind: '', statuses: [200], first: { body: 'ok', framing: 'close' } },
  { name: 'HTTP/1.0 that would stay', version: '1.0', fields: 'Connection: keep-alive\r\n', first: { body: 'ok' } },
  { name: 'HTTP/1.0 and events', version: '1.0', answer: events, behind: '', statuses: [200], first: { framing: 'close' } },
  { name: 'Connection: close', fields: 'Connection: close\r\n', behind: '', statuses: [200], has: /\r\nConnection: close$/ },
  { name: 'Connection: close and chunks', fields: 'Connection: close\r\n', answer: ok + chunks, behind: '', statuses: [200], first: { body: 'ok' } },
  { name: 'Connection: close and events', fields: 'Connection: close\r\n', answer: events, behind: '', statuses: [200], first: { framing: 'chunked' } },
  { name: 'Expect: 100-continue', method: 'POST', fields: 'Expect: 100-continue\r\nContent-Length: 2\r\n', body: 'hi', first: { body: 'ok' } },
  { name: 'requests behind it', behind: `${stays}${stays}${stays}${last}`, statuses: [200, 200, 200, 200, 200] },
  { name: 'requests behind events', answer: events, behind: `${stays}${stays}${last}`, statuses: [200, 200, 200, 200] },
  { name: 'interim answers first', answer: `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${okAnswer}`, first: { body: 'ok' } },

  { name: 'a hook\'s array', hook: (_request, reply) => { void reply.header('x-list', ['a', 'b']) }, has: /\r\nx-list: a\r\nx-list: b\r\n/ },
  { name: 'a hook\'s numbers', hook: (_request, reply) => { void reply.header('x-number', 42).header('x-zero', 0) }, has: /\r\nx-number: 42\r\nx-zero: 0\r\n/ },
  { name: 'a hook\'s empty value', hook: (_request, reply) => { void reply.header('x-empty', '') }, has: /\r\nx-empty: \r\n/ },
  { name: 'a hook\'s value beyond ASCII', hook: (_request, reply) => { void reply.header('x-latin', 'Zo\xeb') }, has: /\r\nx-latin: Zo\xeb\r\n/ },
  {
    name: 'a hook\'s cookies beside the agent\'s',
    answer: `${ok}Set-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok`,
    hook: (_request, reply) => { void reply.header('set-cookie', 'b=2').header('set-cookie', 'c=3') },
    has: /\r\nSet-Cookie: a=1\r\n[^]*\r\nset-cookie: b=2\r\nset-cookie: c=3\r\n/
  },
  { name: 'a hook\'s field in place of the agent\'s', answer: `${ok}X-A: agent\r\nContent-Length: 2\r\n\r\nok`, hook: (_request, reply) => { void reply.header('X-A', 'host') }, has: /\r\nx-a: host\r\n/, hasNot: /agent/ },
  { name: 'a hook\'s date', hook: (_request, reply) => { void reply.header('date', oldDate) }, has: /\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n/, hasNot: /\r\nDate: / },
  { name: 'a hook\'s vary', answer: `${ok}Vary: A\r\nContent-Length: 2\r\n\r\nok`, hook: (_request, reply) => { void reply.header('vary', 'B') }, has: /\r\nvary: A, B\r\n/ },
  { name: 'a hook\'s trailer', answer: ok + chunks, hook: (_request, reply) => { void reply.header('trailer', 'x-t') }, first: { body: 'ok' } },
  { name: 'a hook\'s connection: close', hook: (_request, reply) => { void reply.header('connection', 'close') }, behind: '', statuses: [200], has: /\r\nconnection: close\r\n/, hasNot: /keep-alive/i },
  { name: 'a hook\'s connection: close, in chunks', answer: ok + chunks, hook: (_request, reply) => { void reply.header('connection', 'close') }, behind: '', statuses: [200], first: { body: 'ok' } },
  { name: 'a hook\'s keep-alive', hook: (_request, reply) => { void reply.header('keep-alive', 'timeout=1') }, first: { body: 'ok' } },
  { name: 'what a hook set on the raw answer', hook: (_request, reply) => { reply.raw.setHeader('X-Raw', '1').setHeader('X-Raws', ['2', '3']) }, has: /\r\nx-raw: 1\r\nx-raws: 2\r\nx-raws: 3\r\n/i },
  {
    name: 'what a hook set on both',
    answer: `${ok}X-Raw: agent\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok`,
    hook: (_request, reply) => {
      reply.raw.setHeader('X-Raw', '1').setHeader('Set-Cookie', 'b=2')
      void reply.header('set-cookie', 'c=3')
    },
    has: /\r\nset-cookie: a=1\r\n(?:[^]*\r\n)?set-cookie: c=3\r\n/i,
    hasNot: /agent/
  },
  { name: 'events with a hook\'s fields', answer: events, hook: (_request, reply) => { void reply.header('x-list', ['a', 'b']).header('x-number', 42) }, has: /\r\nx-list: a\r\nx-list: b\r\n/ },
  { name: 'an answer that shall have no date', hook: (_request, reply) => { reply.raw.sendDate = false }, hasNot: /\r\ndate: /i },
  { name: 'an answer that shall be the last', hook: (_request, reply) => { reply.raw.shouldKeepAlive = false }, behind: '', statuses: [200], has: /\r\nConnection: close$/ },

  { name: 'a hook\'s length, too long', hook: (_request, reply) => { void reply.header('content-length', '5') }, first: { body: 'ok', framing: 'length' } },
  { name: 'a hook\'s length, too short', hook: (_request, reply) => { void reply.header('content-length', 1) }, first: { body: 'ok', framing: 'length' } },
  { name: 'a hook\'s length, of chunks', answer: ok + chunks, hook: (_request, reply) => { void reply.header('content-length', '5') }, first: { body: 'ok', framing: 'chunked' } },
  { name: 'a hook\'s length, of events', answer: events, hook: (_request, reply) => { void reply.header('content-length', '5') }, first: { framing: 'chunked' } },
  { name: 'a hook\'s length, of a 204', answer: 'HTTP/1.1 204 No Content\r\n\r\n', statuses: [204, 200], hook: (_request, reply) => { void reply.header('content-length', '5') }, hasNot: /content-length/i },
  { name: 'a hook\'s length, of a HEAD', method: 'HEAD', answer: `${ok}Content-Length: 2\r\n\r\n`, hook: (_request, reply) => { void reply.header('content-length', '5') }, has: /\r\nContent-Length: 2\r\n/, hasNot: /\r\ncontent-length: 5/ },
  { name: 'a hook\'s coding', hook: (_request, reply) => { void reply.header('transfer-encoding', 'chunked') }, first: { body: 'ok', framing: 'length' } },
  { name: 'a hook\'s coding, of chunks', answer: ok + chunks, hook: (_request, reply) => { void reply.header('transfer-encoding', 'gzip') }, first: { body: 'ok', framing: 'chunked' } },
  { name: 'a length set on the raw answer', hook: (_request, reply) => { reply.raw.setHeader('Content-Length', '5') }, first: { body: 'ok', framing: 'length' } },
  { name: 'a length set on the raw answer, of chunks', answer: ok + chunks, hook: (_request, reply) => { reply.raw.setHeader('Content-Length', '5') }, first: { body: 'ok', framing: 'chunked' } },
  { name: 'a coding set on the raw answer', hook: (_request, reply) => { reply.raw.setHeader('Transfer-Encoding', 'chunked') }, first: { body: 'ok', framing: 'length' } },

  { name: 'connections that say nothing of how long they stay', server: { keepAliveTimeout: 0 }, has: /\r\nConnection: keep-alive$/, hasNot: /\r\nKeep-Alive/ },
  { name: 'the same, in chunks', answer: ok + chunks, server: { keepAliveTimeout: 0 }, hasNot: /\r\nKeep-Alive/ },
  { name: 'connections for two requests', server: { maxRequestsPerSocket: 2 }, behind: stays, has: /\r\nKeep-Alive: timeout=1, max=2/ },
  { name: 'all that the gateway says itself', fields: 'Origin: http://a.example\r\n', options: { rateLimit: { enabled: true }, cors: { enabled: true, origins: ['http://a.example'] } }, has: /\r\naccess-control-allow-origin: http:\/\/a\.example\r\n/ },
  { name: 'the same, in chunks', answer: ok + chunks, fields: 'Origin: http://a.example\r\n', options: { rateLimit: { enabled: true }, cors: { enabled: true, origins: ['http://a.example'] } } }
]

/** What differs from run to run: the time, this gateway's name, and what is left of a limit. */
function constant (bytes: string): string {
  return bytes
    .replaceAll(/(\r\nDate: )\w{3}, \d\d \w{3} (?!1970)\d{4} \d\d:\d\d:\d\d GMT\r\n/g, '$1<now>\r\n')
    .replaceAll(/(\r\nvia: 1\.1 )fleet-[0-9a-f]{12}\r\n/g, '$1<this>\r\n')
    .replaceAll(/\r\n(?:x-)?ratelimit[^\r]*/g, line => line.replaceAll(/\d+/g, '0'))
}

t.test('the client gets byte for byte what ServerResponse would have written', async t => {
  const agent = await recordingAgent(t)
  let state: State = states[0]!
  let heads = 0
  let connected: (socket: Socket) => void = () => {}
  agent.answer = (socket, request) => {
    if (request.target !== '/x') return void socket.write(okAnswer)
    const { answer = okAnswer } = state
    socket.write(Buffer.from(typeof answer === 'string' ? answer : answer[0]![0], 'latin1'))
    connected(socket)
  }
  const setUp = (isPatched: boolean, { options, server }: State) => hostApp(t, [agentAt('planner', agent)], {
    hook (request, reply) {
      if (request.url === '/api/planner/x') state.hook?.(request, reply)
      if (isPatched) passOn(reply.raw, () => { heads++ })
    },
    ...(options && { options }),
    ...(server && { server })
  }).then(app => {
    Object.assign(app.server, { keepAliveTimeout: 1_000 }, server) // a row that fails must not wait for long
    return portOf(app)
  })
  const ordinary = await Promise.all([setUp(false, states[0]!), setUp(true, states[0]!)])

  async function transcript (port: number): Promise<string> {
    const { answer, method = 'GET', version = '1.1', fields = '', body = '', behind = last } = state
    const reached = new Promise<Socket>(resolve => { connected = resolve })
    const client = await rawClient(t, port)
    client.send(`${method} /api/planner/x HTTP/${version}\r\n${host}X-Request-Id: x\r\n${fields}\r\n${body}${behind}`)
    if (typeof answer === 'object') {
      const socket = await reached
      for (const [index, [, arrived]] of answer.entries()) {
        if (index === answer.length - 1 && version === '1.0') break // its end is that of the connection
        await client.until(arrived)
        if (index + 1 < answer.length) socket.write(Buffer.from(answer[index + 1]![0], 'latin1'))
      }
    }
    return client.closed()
  }

  for (state of states) {
    const { name, method = 'GET', statuses = [200, 200], first = {}, has = /^/, hasNot } = state
    const isOrdinary = state.options === undefined && state.server === undefined
    const [plainPort, patchedPort] = isOrdinary ? ordinary : await Promise.all([setUp(false, state), setUp(true, state)])

    const plain = await transcript(plainPort)
    heads = 0
    const patched = await transcript(patchedPort)

    t.equal(constant(plain), constant(patched), name)
    t.equal(heads, statuses.length, `${name}: ServerResponse wrote the other`)
    let answers: Answer[] = []
    t.doesNotThrow(() => { answers = readAnswers(plain, [method]).filter(({ status }) => status >= 200) }, `${name}: in step`)
    t.same(answers.map(({ status }) => status), statuses, name)
    t.ok(answers.every(({ complete }) => complete), `${name}: whole`)
    t.match(answers[0], first, name)
    t.match(answers[0]?.head, has, name)
    if (hasNot !== undefined) t.notMatch(answers[0]?.head, hasNot, name)
  }
  t.same(unhandled, [])
})

const unsendable: readonly [what: string, name: string, value: string | string[]][] = [
  ['a name with a field in it', 'x-a: 1\r\nSet-Cookie', 'evil=1'],
  ['a name with a space', 'x a', '1'],
  ['an empty name', '', '1'],
  ['a value beyond latin1', 'x-a', 'Zo\u2615'],
  ['a value that would be CR LF as latin1', 'x-a', 'a\u010d\u010aSet-Cookie: evil=1'],
  ['a value with CR LF', 'x-a', 'a\r\nSet-Cookie: evil=1'],
  ['a value with NUL', 'x-a', 'a\0b'],
  ['one of two values', 'x-a', ['good', 'a\r\nSet-Cookie: evil=1']]
]

t.test('a hook\'s field that can\'t be sent makes a problem of the answer, and nothing else', { timeout: 60_000 }, async t => {
  const agent = await recordingAgent(t)
  const answers: Readonly<Record<string, string>> = {
    '/length': `${ok}X-Agent: 1\r\nContent-Length: 2\r\n\r\nok`,
    '/length?raw': `${ok}X-Agent: 1\r\nContent-Length: 2\r\n\r\nok`,
    '/chunks': ok + chunks,
    '/large': `${ok}X-Agent: 1\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`,
    '/events': `${eventHead}9\r\ndata: 0\n\n\r\n0\r\n\r\n`
  }
  agent.answer = (socket, request) => { socket.write(answers[request.target] ?? okAnswer) }
  let set: typeof unsendable[number] | null = null
  const hook: Hook = (request, reply) => {
    if (request.url.endsWith('?raw')) reply.raw.setHeader('x-raw', '1')
    if (set !== null) void reply.header(set[1], set[2])
  }
  const app = await hostApp(t, [agentAt('planner', agent), agentAt('gone', { host: '127.0.0.1', port: await deadPort() })], { hook })
  const port = await portOf(app)
  const ask = async (path: string) => {
    const answer = await rawRequest(t, port, `GET /api/${path} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`)
    return readAnswers(answer)
  }

  for (const path of ['planner/length', 'planner/length?raw', 'planner/chunks', 'planner/large', 'planner/events', 'gone/x']) {
    for (const field of unsendable) {
      const what = `${field[0]}: ${path}`
      set = field

      const bad = await ask(path)
      set = null
      const good = await ask(path)

      t.match(bad, [{ status: /^5\d\d$/, complete: true }], what)
      t.match(bad[0]?.valuesOf('content-type'), [/^application\/problem\+json/], what)
      t.match(bad[0]?.body, /"code":"FLEET_/, what)
      for (const name of ['set-cookie', 'x-agent']) t.same(bad[0]?.valuesOf(name), [], `${what}: ${name}`)
      t.match(good, [{ status: path === 'gone/x' ? 502 : 200, complete: true }], `${what}: and without it`)
    }
  }
  t.same(unhandled, [])
})

/** What somebody who stands between the answer and its connection was given. */
type Given = [chunk: unknown, encoding: unknown]

function bytesOf ([chunk, encoding]: Given): Buffer {
  if (typeof chunk === 'string') return Buffer.from(chunk, typeof encoding === 'string' ? encoding as BufferEncoding : 'utf8')
  if (chunk instanceof Uint8Array) return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
  if (chunk === undefined || chunk === null || typeof chunk === 'function') return Buffer.alloc(0)
  throw new Error(`neither text nor bytes: ${typeof chunk}`)
}

function sha1 (...bytes: Uint8Array[]): string {
  const hash = createHash('sha1')
  for (const part of bytes) hash.update(part)
  return hash.digest('hex')
}

t.test('who keeps what an answer is written from has the right bytes for good', async t => {
  const bodies = new Map([1_048_576, 1_048_576, 1_048_576, 300_000, 20_000, 8_000, 7_000, 300, 1, 0].map((length, index) => [`/${index}`, randomBytes(length)]))
  const agent = await fakeAgent(t, (request, response): void => {
    const [, path = '', framing] = /^(\/\d+)\/(\w+)$/.exec(request.url!) ?? []
    const body = bodies.get(path) ?? Buffer.from('ok')
    if (framing === 'events') response.setHeader('content-type', 'text/event-stream')
    if (framing === 'length') return void response.end(body)
    response.write(body.subarray(0, body.length >> 1))
    response.end(body.subarray(body.length >> 1))
  })
  const kept = new Map<string, Given[]>()
  const hook: Hook = ({ url }, { raw }) => {
    const given: Given[] = []
    const { write, end } = raw
    const patched = raw as unknown as Record<'write' | 'end', (...parameters: unknown[]) => unknown>
    kept.set(url, given)
    patched.write = (...parameters) => {
      given.push([parameters[0], parameters[1]])
      return Reflect.apply(write, raw, parameters) as unknown
    }
    patched.end = (...parameters) => {
      given.push([parameters[0], parameters[1]])
      return Reflect.apply(end, raw, parameters) as unknown
    }
  }
  const app = await hostApp(t, [agentAt('planner', agent)], { hook })
  const port = await portOf(app)
  const get = async (path: string) => {
    const reply = await fetch(`http://127.0.0.1:${port}/api/planner${path}`)
    return new Uint8Array(await reply.arrayBuffer())
  }
  const paths = [...bodies.keys()].flatMap(path => ['length', 'chunks', 'events'].map(framing => `${path}/${framing}`))

  const [first, ...others] = paths
  const got = new Map([[first!, await get(first!)]])
  await Promise.all(others.map(async path => got.set(path, await get(path)))) // all at the same time
  for (const path of paths.toReversed()) await get(`${path}?again`)           // and one after another

  for (const path of paths) {
    const sent = sha1(bodies.get(path.slice(0, path.lastIndexOf('/')))!)
    t.equal(sha1(got.get(path)!), sent, `${path}: at the client`)
    t.equal(sha1(...kept.get(`/api/planner${path}`)!.map(bytesOf)), sent, `${path}: kept`)
  }
  t.same(unhandled, [])
})

/** An agent, in bytes, with an answer for each path; nothing of it is a ServerResponse. */
const variety: Readonly<Record<string, string>> = {
  '/length': 'HTTP/1.1 200 All is well\r\nX-Twice: 1\r\nContent-Length: 2\r\n\r\nok',
  '/chunks': `HTTP/1.1 200 All is well\r\n${chunks}`,
  '/events': 'HTTP/1.1 200 All is well\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n0\r\n\r\n',
  '/large': `HTTP/1.1 200 All is well\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`,
  '/empty': 'HTTP/1.1 200 All is well\r\nContent-Length: 0\r\n\r\n',
  '/nothing': 'HTTP/1.1 204 All is well\r\n\r\n'
}

async function variousAgent (t: Test) {
  const agent = await recordingAgent(t)
  agent.answer = (socket, request) => { socket.write(variety[request.target] ?? okAnswer) }
  return agent
}

t.test('a tracer that has patched ServerResponse is asked for each answer, and what it sets arrives', async t => {
  const { writeHead } = ServerResponse.prototype
  const heads: unknown[] = []
  t.teardown(() => { ServerResponse.prototype.writeHead = writeHead })
  ServerResponse.prototype.writeHead = function (this: ServerResponse, ...parameters: unknown[]) {
    heads.push(parameters[0])
    this.setHeader('x-traced', 'yes')
    return Reflect.apply(writeHead, this, parameters) as ServerResponse
  } as typeof writeHead
  const app = await hostApp(t, [agentAt('planner', await variousAgent(t))])
  const port = await portOf(app)

  for (const path of Object.keys(variety)) {
    heads.length = 0
    const [answer, ...others] = readAnswers(await rawRequest(t, port, `GET /api/planner${path} HTTP/1.1\r\n${host}\r\n${last}`))

    t.same(heads, [path === '/nothing' ? 204 : 200, 200], path)
    for (const { valuesOf } of [answer!, ...others]) t.same(valuesOf('x-traced'), ['yes'], path)
  }
})

t.test('a listener of the end of an answer finds the agent\'s status and reason in it', async t => {
  let finished: (found: unknown) => void = () => {}
  const hook: Hook = (_request, { raw }) => { raw.once('finish', () => finished([raw.statusCode, raw.statusMessage, raw.headersSent, raw.writableEnded])) }
  const app = await hostApp(t, [agentAt('planner', await variousAgent(t))], { hook })
  const port = await portOf(app)

  for (const path of [...Object.keys(variety), '/usual']) {
    const found = new Promise(resolve => { finished = resolve })
    const client = await rawClient(t, port)
    client.send(`GET /api/planner${path} HTTP/1.1\r\n${host}\r\n`)

    t.same(await found, [path === '/nothing' ? 204 : 200, path === '/usual' ? 'OK' : 'All is well', true, true], path)
  }
})

t.test('a client that asks for short answers and reads none is cut off when idle', { timeout: 30_000 }, async t => {
  const agent = await recordingAgent(t)
  agent.answer = `${ok}Content-Length: 7000\r\n\r\n${'x'.repeat(7_000)}`
  const app = await hostApp(t, [agentAt('planner', agent)], { options: { timeouts: { idle: '300ms' } } })
  const port = await portOf(app)
  const accepted = once(app.server, 'connection') as Promise<[Socket]>
  const client = connect({ port, host: '127.0.0.1' }).pause()
  t.teardown(() => client.destroy())
  client.on('error', () => {})

  client.write(stays.repeat(3_000)) // 21 MB: more than the system keeps for it
  const [connection] = await accepted
  connection.on('error', () => {})
  await once(connection, 'close')

  t.ok(connection.destroyed)
  const [answer] = readAnswers(await rawRequest(t, port, last))
  t.match(answer, { status: 200, complete: true }, 'who reads is served')
})

t.test('what a request of inject() has that can\'t be sent never becomes a field at the agent', { timeout: 60_000 }, async t => {
  const agent = await recordingAgent(t)
  const app = await hostApp(t, [agentAt('planner', agent)], { options: { server: { trustedProxies: ['127.0.0.0/8'] } } })
  const evil = 'a\u010d\u010aX-Evil: 3' // CR LF when only the low bytes are taken
  const table: [string, Record<string, string>][] = [
    ['a value', { 'x-a': evil }],
    ['a value with CR LF', { 'x-a': 'a\r\nX-Evil: 3' }],
    ['a value beyond latin1', { 'x-a': 'Zo\u2615' }],
    ['a name', { 'x-a: 1\u010d\u010ax-evil': '3' }],
    ['a name with CR LF', { 'x-a: 1\r\nx-evil': '3' }],
    ['the host', { host: evil }],
    ['a host that a proxy told of', { 'x-forwarded-host': evil }],
    ['a protocol that a proxy told of', { 'x-forwarded-proto': evil }],
    ['an address that a proxy told of', { 'x-forwarded-for': `127.0.0.1, ${evil}` }],
    ['a subprotocol', { 'sec-websocket-protocol': evil }]
  ]
  for (const [name, headers] of table) {
    const reply = await app.inject({ url: '/api/planner/x', headers })

    t.equal(reply.statusCode, 400, name)
    t.match(reply.json(), { code: 'FLEET_BAD_REQUEST' }, name)
    t.same(agent.requests.filter(({ target }) => target === '/x'), [], name)
  }
  t.equal((await app.inject({ url: '/api/planner/forwarded', headers: { forwarded: `for=127.0.0.1, ${evil}` } })).statusCode, 200)
  t.match(agent.requests.find(({ target }) => target === '/forwarded')?.valuesOf('forwarded'), [/^for=127\.0\.0\.1;[^,]*$/], 'what is malformed is not passed on')
  t.equal((await app.inject({ url: '/api/planner/x', headers: { 'x-a': 'Zo\xeb' } })).statusCode, 200)
  t.same(agent.requests.filter(({ target }) => target === '/x').map(({ valuesOf }) => valuesOf('x-a')), [['Zo\xeb']])
  t.same(unhandled, [])
})

t.test('an agent\'s field arrives, whatever objects in JavaScript have by nature', async t => {
  const names = ['Constructor', 'constructor', 'valueOf', 'toString', 'hasOwnProperty', '__proto__', '__defineGetter__']
  const agent = await recordingAgent(t)
  const fields = names.map((name, index) => `${name}: ${index}\r\n`).join('')
  const answers: Readonly<Record<string, string>> = {
    '/length': `${ok}${fields}Content-Length: 2\r\n\r\nok`,
    '/large': `${ok}${fields}Content-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`
  }
  agent.answer = (socket, request) => { socket.write(answers[request.target] ?? okAnswer) }
  const hooks: [string, Hook][] = [
    ['no hook', () => {}],
    ['a hook', (_request, reply) => { void reply.header('x-a', '1') }],
    ['a hook on the raw answer', (_request, reply) => { reply.raw.setHeader('x-a', '1') }]
  ]
  for (const [name, hook] of hooks) {
    const port = await portOf(await hostApp(t, [agentAt('planner', agent)], { hook }))
    for (const path of Object.keys(answers)) {
      const [answer] = readAnswers(await rawRequest(t, port, `GET /api/planner${path} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`))

      t.match(answer, { status: 200, complete: true }, `${name}: ${path}`)
      for (const [index, field] of names.entries()) t.ok(answer?.valuesOf(field.toLowerCase()).includes(String(index)), `${name}: ${path}: ${field}`)
    }
  }
})

t.test('an upstream client that does not exist is refused at the start, by the option\'s name', async t => {
  for (const upstreamClient of ['Undici', 'constructor', 'toString']) {
    const app = Fastify()
    t.teardown(() => app.close())

    await t.rejects(async () => {
      await app.register(fleetGateway, { auth: { enabled: false }, auditLog: { enabled: false }, upstreamClient: upstreamClient as 'undici' })
      await app.ready()
    }, /upstreamClient/, upstreamClient)
  }
})

t.test('a short answer is one write to the client\'s connection', { skip: process.env['FLEET_UPSTREAM_CLIENT'] === 'undici' && 'undici tells the head before it has the body' }, async t => {
  const agent = await recordingAgent(t)
  const answers = [okAnswer, 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n']
  const writes: string[] = []
  const app = await hostApp(t, [agentAt('planner', agent)], {
    hook: ({ raw: { socket } }) => {
      const { write } = socket
      socket.write = function (this: Socket, ...args: unknown[]) {
        writes.push(String(args[0]))
        return write.apply(this, args as Parameters<Socket['write']>)
      } as Socket['write']
    }
  })

  for (const answer of answers) {
    agent.answer = socket => { socket.write(answer) }
    const client = await rawClient(t, await portOf(app))
    client.send(`GET /api/planner/x HTTP/1.1\r\n${host}\r\n`)
    const received = await client.until(/ok/)

    t.same(writes.splice(0), [received])
  }
})
