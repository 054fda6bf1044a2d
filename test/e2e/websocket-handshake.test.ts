/** WebSocket handshakes: which answers the client gets, what is sent again, and who may choose a subprotocol. The tunnel itself: websocket.test.ts. */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { WebSocket as BrowserWebSocket } from 'undici'
import { WebSocket, WebSocketServer, type ServerOptions } from 'ws'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent, rawAgent, type RawAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'

const switching = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'

/** A handshake with its key, as bytes. @param fields lines, each with its end */
function handshake (path = '/api/chat/ws', fields = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n${fields}\r\n`
}

t.test('an expectation that can not be met refuses a handshake as any other request', async t => {
  const agent = await answering(t, switching)
  const gateway = await startGateway(t, { agents: [agentAt('chat', agent)] })
  t.match(await rawRequest(t, gateway.port, handshake('/api/chat/ws', 'Expect: something\r\n')), /^HTTP\/1\.1 417 [^]*FLEET_EXPECTATION_FAILED/)
  t.equal(agent.asked.length, 0)
})

interface ScriptedAgent extends RawAgent {
  /** Handshakes so far; connections also come from probes. */
  readonly asked: Socket[]
}

/** An agent that does this with each handshake. */
async function scripted (t: Test, onHandshake: (socket: Socket, asked: number) => void): Promise<ScriptedAgent> {
  const asked: Socket[] = []
  const agent = await rawAgent(t, socket => onHandshake(socket, asked.push(socket)))
  return { ...agent, asked }
}

/** An agent that answers each handshake with these bytes. @param end closes the connection behind them */
function answering (t: Test, answer: string, end = false): Promise<ScriptedAgent> {
  return scripted(t, socket => { if (end) socket.end(answer, 'latin1'); else socket.write(answer, 'latin1') })
}

/** Rooms at an agent, and what was asked for. */
async function chatAgent (t: Test, options: Partial<ServerOptions> = {}) {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ ...options, server: agent.server })
  const handshakes: IncomingMessage[] = []
  rooms.on('connection', (_socket, request) => { handshakes.push(request) })
  return { agent, rooms, handshakes }
}

function nextFacts (gateway: ListeningGateway): Promise<RequestFacts> {
  return new Promise(resolve => { const stop = gateway.facts.onFinished(facts => { stop(); resolve(facts) }) })
}

/** A gateway whose agent `chat` has these instances. */
function gatewayOf (t: Test, instances: readonly { host: string, port: number }[], agent: object = {}, options: FleetGatewayOptions = {}): Promise<ListeningGateway> {
  return startGateway(t, { ...options, agents: [{ ...agentAt('chat', ...instances), ...agent }] })
}

t.test('a refusal is the client\'s answer with its status, fields and whole body, however that is framed', async t => {
  const table: [what: string, answer: string, expected: RegExp][] = [
    ['401', 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="room"\r\nContent-Length: 5\r\n\r\nwho?\n', /^HTTP\/1\.1 401 [^]*WWW-Authenticate: Basic realm="room"\r\n[^]*\r\n\r\nwho\?\n$/],
    ['403 chunked', 'HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n3\r\n no\r\n0\r\n\r\n', /^HTTP\/1\.1 403 [^]*\r\n\r\n4\r\nnope\r\n3\r\n no\r\n0\r\n\r\n$/],
    ['404 until the end', 'HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nno such room', /^HTTP\/1\.1 404 [^]*no such room/],
    ['426 with the protocol', 'HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 426 [^]*Sec-WebSocket-Version: 13\r\n/],
    ['200', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi', /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nhi$/],
    ['302', 'HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 302 [^]*Location: \/api\/chat\/login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n/],
    ['500', 'HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\noops', /^HTTP\/1\.1 500 Oh\r\n[^]*oops$/],
    ['501', 'HTTP/1.1 501 Never\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 501 Never\r\n/],
    ['204', 'HTTP/1.1 204 No Content\r\n\r\n', /^HTTP\/1\.1 204 /]
  ]
  for (const [what, answer, expected] of table) {
    const agent = await answering(t, answer, what.includes('end'))
    const gateway = await gatewayOf(t, [agent])

    t.match(await rawRequest(t, gateway.port, handshake()), expected, what)
    t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
  }
})

t.test('the body of a refusal arrives whole when it is larger than all buffers', async t => {
  const body = Buffer.alloc(8 * 1024 * 1024, 'x')
  const agent = await fakeAgent(t)
  agent.server.on('upgrade', (_request, socket: Socket) => { socket.end(Buffer.concat([Buffer.from(`HTTP/1.1 403 No\r\nContent-Length: ${body.length}\r\n\r\n`), body])) })
  const gateway = await gatewayOf(t, [agent])
  const client = await rawClient(t, gateway.port)
  const finished = nextFacts(gateway)

  client.send(handshake())

  const answer = await client.closed()
  t.equal(answer.length - answer.indexOf('\r\n\r\n') - 4, body.length)
  t.match(await finished, { status: 403, ending: 'complete', bytesSent: body.length })
})

t.test('a refusal that breaks off is not taken for a whole one', async t => {
  const agent = await answering(t, 'HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n', true)
  const gateway = await gatewayOf(t, [agent])
  const finished = nextFacts(gateway)

  const answer = await rawRequest(t, gateway.port, handshake())

  t.match(answer, /^HTTP\/1\.1 403 [^]*nope/)
  t.notMatch(answer, /\r\n0\r\n\r\n$/)
  t.match(await finished, { ending: 'upstream-aborted' })
})

t.test('what is no answer to a handshake is a 502, and never a 101', async t => {
  const table: [what: string, answer: string][] = [
    ['garbage', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['another protocol', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n'],
    ['no protocol', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n'],
    ['no switch', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n'],
    ['a 101 with a body', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 403 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['an endless head', `HTTP/1.1 101 Switching Protocols\r\n${`X-Pad: ${'x'.repeat(1000)}\r\n`.repeat(200)}`]
  ]
  for (const [what, answer] of table) {
    const agent = await answering(t, answer)
    const gateway = await gatewayOf(t, [agent])

    t.match(await rawRequest(t, gateway.port, handshake()), /^HTTP\/1\.1 502 [^]*FLEET_UPSTREAM_INVALID/, what)
    t.equal(agent.asked.length, 1, 'and is not asked for again')
    t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
  }
})

t.test('whether the accept is right is for the client to say', async t => {
  for (const accept of ['', 'Sec-WebSocket-Accept: d3Jvbmc=\r\n']) {
    const agent = await answering(t, switching.replace('\r\n\r\n', `\r\n${accept}\r\n`))
    const gateway = await gatewayOf(t, [agent])

    const [error] = await once(new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`), 'error') as [Error]

    t.match(error.message, 'Invalid Sec-WebSocket-Accept header')
  }
})

t.test('a length in a 101 goes no further', async t => {
  const agent = await answering(t, switching.replace('\r\n\r\n', '\r\nContent-Length: 7\r\n\r\n') + 'payload')
  const gateway = await gatewayOf(t, [agent])
  const client = await rawClient(t, gateway.port)

  client.send(handshake())

  t.notMatch(await client.until(/^HTTP\/1\.1 101 [^]*\r\n\r\npayload$/), /content-length/i)
})

t.test('an agent that does not answer a handshake in time is a 504, and is not asked again', async t => {
  const agent = await scripted(t, () => {})
  const gateway = await gatewayOf(t, [agent], { timeouts: { response: '80ms' } })

  t.match(await rawRequest(t, gateway.port, handshake()), /^HTTP\/1\.1 504 [^]*FLEET_UPSTREAM_TIMEOUT/)
  t.equal(agent.asked.length, 1)
})

t.test('a connection that was refused costs a handshake nothing', async t => {
  const { agent } = await chatAgent(t)
  const gateway = await gatewayOf(t, [{ host: '127.0.0.1', port: await deadPort() }, { host: '127.0.0.1', port: await deadPort() }, agent])
  const finished = nextFacts(gateway)

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`)
  await once(socket, 'open')
  socket.close()

  t.strictSame((await finished).attempts.map(({ outcome }) => outcome), ['refused', 'refused', 'answered'])
})

t.test('a reset before the answer, or a 5xx, sends a handshake to another instance once', async t => {
  const table: [what: string, misbehave: (socket: Socket) => void, outcome: string][] = [
    ['RST', socket => { socket.resetAndDestroy() }, 'reset'],
    ['FIN', socket => { socket.end() }, 'reset'],
    ['half a head', socket => { socket.end('HTTP/1.1 101 Switch') }, 'reset'],
    ['503', socket => { socket.end('HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy') }, 'answered'],
    ['500', socket => { socket.write('HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nnever whole') }, 'answered']
  ]
  for (const [what, misbehave, outcome] of table) {
    const bad = await scripted(t, misbehave)
    const { agent } = await chatAgent(t)
    const gateway = await gatewayOf(t, [bad, agent])
    const finished = nextFacts(gateway)

    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`)
    await once(socket, 'open')
    socket.close()

    const { attempts, status } = await finished
    t.strictSame(attempts.map(({ outcome }) => outcome), [outcome, 'answered'], what)
    t.equal(status, 101)
    t.strictSame(gateway.registry.get('chat').instances.map(({ runtime }) => runtime.inFlight), [0, 0])
  }
})

t.test('of two failures the client gets the last, and there is no third attempt', async t => {
  const first = await scripted(t, socket => { socket.resetAndDestroy() })
  const second = await answering(t, 'HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy')
  const third = await answering(t, switching)
  const gateway = await gatewayOf(t, [first, second, third])

  t.match(await rawRequest(t, gateway.port, handshake()), /^HTTP\/1\.1 503 Busy\r\nRetry-After: 7\r\n[^]*busy$/)
  t.equal(third.asked.length, 0)
})

t.test('a handshake is repeated on the same instance when there is no other, and not at all when that is not wanted', async t => {
  const flaky = await scripted(t, (socket, asked) => { if (asked === 1) socket.resetAndDestroy(); else socket.write(switching) })
  const once = await gatewayOf(t, [flaky])
  const client = await rawClient(t, once.port)
  client.send(handshake())
  await client.until(/^HTTP\/1\.1 101 /)
  t.equal(flaky.asked.length, 2)

  for (const [retry, status] of [[{ attempts: 0 }, 503], [{ statuses: [502] }, 503]] as const) {
    const busy = await answering(t, 'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n')
    const never = await gatewayOf(t, [busy], { retry })
    t.match(await rawRequest(t, never.port, handshake()), new RegExp(`^HTTP/1\\.1 ${status} `))
    t.equal(busy.asked.length, 1)
  }
})

t.test('the budget bounds handshakes that are repeated for their answer, but not those that were reset', async t => {
  const busy = await answering(t, 'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n')
  const gateway = await gatewayOf(t, [busy])
  // Of one second: whatever else the clock does, the whole run takes far fewer than the budget of the next ones allows for.
  const runs = 60

  const answers = await Promise.all(Array.from({ length: runs }, () => rawRequest(t, gateway.port, handshake())))

  t.ok(answers.every(answer => answer.startsWith('HTTP/1.1 503 ')))
  t.ok(busy.asked.length < 2 * runs, `${busy.asked.length} attempts for ${runs} handshakes`)

  const resetting = await scripted(t, socket => { socket.resetAndDestroy() })
  const other = await gatewayOf(t, [resetting])
  await Promise.all(Array.from({ length: runs }, () => rawRequest(t, other.port, handshake())))
  t.equal(resetting.asked.length, 2 * runs)
})

t.test('a client that leaves while its handshake waits to be repeated ends it', async t => {
  const agent = await scripted(t, (socket, asked) => { if (asked === 1) socket.resetAndDestroy() })
  const gateway = await gatewayOf(t, [agent])
  const finished = nextFacts(gateway)
  const client = await rawClient(t, gateway.port)
  const settled = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })
  client.send(handshake())
  await settled

  client.socket.destroy()

  t.match(await finished, { ending: 'client-aborted', status: 499 })
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})

t.test('going on after a connect timeout costs budget; the last one is a 504', async t => {
  const silent = await silentTls(t)
  const { agent } = await chatAgent(t)
  const gateway = await startGateway(t, { agents: [{ name: 'chat', instances: [silent, agentAt('chat', agent).instances[0]!] }], timeouts: { connect: '60ms' } })
  const finished = nextFacts(gateway)
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`)
  await once(socket, 'open')
  socket.close()
  t.strictSame((await finished).attempts.map(({ outcome }) => outcome), ['connect-timeout', 'answered'])

  const others = [silent, await silentTls(t)]
  const hopeless = await startGateway(t, { agents: [{ name: 'chat', instances: others }], timeouts: { connect: '60ms' } })
  const attempts: number[] = []
  hopeless.facts.onFinished(facts => { attempts.push(facts.attempts.length) })
  const answers = await Promise.all(Array.from({ length: 60 }, () => rawRequest(t, hopeless.port, handshake())))
  t.ok(answers.every(answer => /^HTTP\/1\.1 504 [^]*FLEET_UPSTREAM_TIMEOUT/.test(answer)))
  t.ok(attempts.includes(2) && attempts.includes(1), 'some went on, until the budget was spent')
})

/** An https instance that takes connections and never says a word, so that none of them is ever open. */
async function silentTls (t: Test) {
  const { host, port } = await rawAgent(t, () => {})
  return { host, port, protocol: 'https' as const }
}

t.test('auth, limits and unknown agents answer a handshake in HTTP', async t => {
  const { agent } = await chatAgent(t)
  const keys = [{ id: 'reader', token: 'reader-token', scopes: ['read' as const] }, { id: 'other', token: 'other-token', scopes: ['proxy' as const], agents: ['nobody'] }]
  const gateway = await gatewayOf(t, [agent], {}, { auth: { secret: 'fleet-secret-token', keys }, rateLimit: { enabled: true, perMinute: 1, burst: 1 } })
  const ask = (token: string, path?: string) => rawRequest(t, gateway.port, handshake(path, token === '' ? '' : `Authorization: Bearer ${token}\r\n`))

  t.match(await ask(''), /^HTTP\/1\.1 401 [^]*www-authenticate: Bearer[^]*FLEET_UNAUTHENTICATED/i)
  t.match(await ask('wrong-token'), /^HTTP\/1\.1 401 [^]*FLEET_UNAUTHENTICATED/)
  t.match(await ask('reader-token'), /^HTTP\/1\.1 403 [^]*FLEET_FORBIDDEN/)
  t.match(await ask('other-token'), /^HTTP\/1\.1 403 [^]*FLEET_FORBIDDEN/)
  t.match(await ask('fleet-secret-token', '/api/nobody/ws'), /^HTTP\/1\.1 404 [^]*FLEET_AGENT_NOT_FOUND/)
  t.match(await ask('fleet-secret-token'), /^HTTP\/1\.1 429 [^]*retry-after: [^]*FLEET_RATE_LIMITED/i)
  t.match(await ask('fleet-secret-token', '/api/chat/../x'), /^HTTP\/1\.1 400 /)
})

t.test('other offers, methods and versions are ordinary requests', async t => {
  const agent = await fakeAgent(t)
  const gateway = await gatewayOf(t, [agent])
  const table: [what: string, request: string, expected: RegExp][] = [
    ['h2c', 'GET /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n', /^HTTP\/1\.1 200 /],
    ['TLS', 'GET /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: TLS/1.2\r\n\r\n', /^HTTP\/1\.1 200 /],
    ['POST', 'POST /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi', /^HTTP\/1\.1 200 [^]*"body":"hi"/],
    ['a GET with a body', 'GET /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi', /^HTTP\/1\.1 200 [^]*"body":"hi"/],
    ['a chunked body', 'GET /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n', /^HTTP\/1\.1 200 [^]*"body":"hi"/],
    ['HTTP/1.0', 'GET /api/chat/x HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', /^HTTP\/1\.1 200 /],
    ['without Connection: Upgrade', 'GET /api/chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUpgrade: websocket\r\n\r\n', /^HTTP\/1\.1 200 /]
  ]
  for (const [what, request, expected] of table) {
    const answer = await rawRequest(t, gateway.port, request)

    t.match(answer, expected, what)
    t.notMatch(answer, /"upgrade"/i, `${what}: the offer goes no further`)
  }
})

t.test('a handshake is known however its fields are written', async t => {
  const { agent, handshakes } = await chatAgent(t)
  const gateway = await gatewayOf(t, [agent], {}, { auth: { secret: 'fleet-secret-token' } })
  const table = ['Connection: keep-alive, Upgrade\r\nUpgrade: websocket', 'connection: upgrade\r\nupgrade: WebSocket', 'CONNECTION: UPGRADE\r\nUPGRADE: WEBSOCKET', 'Connection: Upgrade\r\nUpgrade: h2c, websocket']
  for (const fields of table) {
    const client = await rawClient(t, gateway.port)

    client.send(`GET /api/chat/ws HTTP/1.1\r\nHost: localhost\r\n${fields}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: fleet.bearer.fleet-secret-token\r\n\r\n`)

    t.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 101 [^]*Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n/, fields)
    t.match(handshakes.at(-1)!.headers, { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-protocol': undefined })
    client.socket.destroy()
  }
})

t.test('a handshake behind a request on the same connection waits for its answer', async t => {
  const slow = await fakeAgent(t, (request, response) => { setImmediate(() => response.end(`answer to ${request.url}`)) })
  const rooms = new WebSocketServer({ server: slow.server })
  rooms.on('connection', socket => socket.send('welcome'))
  const gateway = await gatewayOf(t, [slow])
  const client = await rawClient(t, gateway.port)

  client.send(`GET /api/chat/first HTTP/1.1\r\nHost: localhost\r\n\r\n${handshake()}`)

  t.match(await client.until(/welcome/), /^HTTP\/1\.1 200 [^]*answer to \/first[^]*HTTP\/1\.1 101 [^]*welcome$/)
})

t.test('hints reach a client before the tunnel opens', async t => {
  const agent = await answering(t, `HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n${switching}`)
  const gateway = await gatewayOf(t, [agent])
  const client = await rawClient(t, gateway.port)

  client.send(handshake())

  t.match(await client.until(/HTTP\/1\.1 101 [^]*\r\n\r\n/), /^HTTP\/1\.1 103 Early Hints\r\nLink: <\/x>; rel=preload\r\n\r\nHTTP\/1\.1 101 /)
})

t.test('subprotocols are chosen by the agent', async t => {
  const { agent, handshakes } = await chatAgent(t, { handleProtocols: offered => [...offered].find(protocol => protocol.startsWith('v')) ?? false })
  const gateway = await gatewayOf(t, [agent])
  const table: [offered: string[], chosen: string][] = [[['v1'], 'v1'], [['x', 'v2', 'v3'], 'v2'], [['v2', 'fleet.bearer.token'], 'v2'], [['fleet.bearer.token', 'v2'], 'v2'], [[], '']]
  for (const [offered, chosen] of table) {
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`, offered)
    await once(socket, 'open')

    t.equal(socket.protocol, chosen)
    t.notMatch(handshakes.at(-1)!.headers['sec-websocket-protocol'] ?? '', /fleet/)
    socket.terminate()
  }
})

t.test('a browser that has only the token to offer gets its connection', async t => {
  const { agent, handshakes } = await chatAgent(t, { handleProtocols: () => false })
  const gateway = await gatewayOf(t, [agent], {}, { auth: { secret: 'fleet-secret-token' } })
  const open = (protocols: string[]) => new Promise<string | null>(resolve => {
    const socket = new BrowserWebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`, protocols)
    socket.addEventListener('open', () => { resolve(socket.protocol); socket.close() })
    socket.addEventListener('error', () => resolve(null))
  })

  t.equal(await open(['fleet.bearer.fleet-secret-token']), 'fleet.bearer.fleet-secret-token', 'its only offer')
  t.equal(await open(['fleet.bearer', 'fleet.bearer.fleet-secret-token']), 'fleet.bearer', 'no secret where there is a marker')
  t.equal(await open(['chat', 'fleet.bearer', 'fleet.bearer.fleet-secret-token']), 'fleet.bearer', 'the agent chose none, the gateway does')
  t.strictSame(handshakes.map(({ headers }) => headers['sec-websocket-protocol']), [undefined, undefined, 'chat'])
  // That an agent chose none of its own is for the client to judge: this one gives up.
  t.equal(await open(['chat', 'fleet.bearer.fleet-secret-token']), null)
  t.equal(await open(['fleet.bearer', 'fleet.bearer.wrong-token']), null)
})

t.test('a client gone before its connection is opened leaves nothing behind', async t => {
  const gateway = await startGateway(t, { agents: [{ name: 'chat', instances: [await silentTls(t)] }] })
  const finished = nextFacts(gateway)
  const begun = new Promise<void>(resolve => { gateway.upstream.onBegin(() => resolve()) })
  const socket = connect(gateway.port, '127.0.0.1')
  socket.write(handshake())
  await begun

  socket.destroy()

  t.match(await finished, { ending: 'client-aborted', status: 499 })
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})

t.test('after hints went to the client a handshake is repeated nowhere', async t => {
  const hints = 'HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n'
  const failing = await answering(t, `${hints}HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nsorry`)
  const other = await answering(t, switching)
  const gateway = await gatewayOf(t, [failing, other])
  const finished = nextFacts(gateway)
  const client = await rawClient(t, gateway.port)

  client.send(handshake())

  t.match(await client.closed(), /^HTTP\/1\.1 103 [^]*HTTP\/1\.1 503 [^]*sorry$/)
  t.equal((await finished).attempts.length, 1)
})

t.test('a refusal that never ends is cut off when streams are told to end', async t => {
  const agent = await answering(t, 'HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nno')
  const gateway = await gatewayOf(t, [agent])
  const client = await rawClient(t, gateway.port)
  client.send(handshake())
  await client.until(/no$/)

  gateway.proxy.endStreams()

  t.match(await client.closed(), /^HTTP\/1\.1 403 [^]*\r\n\r\nno$/)
  t.equal(gateway.proxy.openStreams, 0)
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})

t.test('a handshake that is under way when streams are told to end gets 503, and holds nobody up', async t => {
  const silent = await rawAgent(t, () => {})
  const gateway = await gatewayOf(t, [silent])
  const client = await rawClient(t, gateway.port)
  const begun = new Promise<void>(resolve => { gateway.upstream.onBegin(() => resolve()) })
  client.send(handshake())
  await begun

  gateway.proxy.endStreams()

  t.match(await client.closed(), /^HTTP\/1\.1 503 [^]*FLEET_DRAINING/)
  t.equal(gateway.proxy.openStreams, 0)
  t.equal(gateway.registry.get('chat').instances[0]!.runtime.inFlight, 0)
})
