/** A request whose head was accepted and whose body then turns out to be no valid HTTP, or whose client leaves early: its answer and its account are one, and it is over. */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { readAnswers } from '../helpers/answers.ts'
import { agentAt, openGateway, quiet, unprobed } from '../helpers/build-gateway.ts'
import { jwtIssuer } from '../helpers/jwt-issuer.ts'
import { quiet as settled, underWay } from '../helpers/quiet.ts'
import { rawClient, rawRequest, type RawClient } from '../helpers/raw-client.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'

const head = (path: string, id: string) => `POST ${path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`
const chunk = '5\r\nhello\r\n'
const invalid = 'no length\r\n'

/** A gateway in front of an agent that answers a GET when it is told to, and no POST; with what it says of each exchange that is over. */
async function start (t: Test, prepare: (app: FastifyInstance) => void = () => {}, options: FleetGatewayOptions = {}, server: FastifyServerOptions = serverOptions()) {
  let requests = 0
  let answer = () => {}
  let tell: (socket: Socket) => void = () => {}
  const agent = await scriptedAgent(t, {
    onBytes: socket => {
      tell(socket)
      return false
    },
    onRequest ({ socket }) {
      requests++
      answer = () => { socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok') }
    }
  })
  const gateway = Fastify(server)
  t.teardown(() => gateway.close())
  prepare(gateway)
  await gateway.register(openGateway, {
    ...quiet, ...unprobed, agents: [agentAt('planner', agent)], ...options
  })
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  const finished: RequestFacts[] = []
  let over = () => {}
  gateway.facts.onFinished(facts => {
    finished.push(facts)
    over()
  })
  const client = await rawClient(t, port)
  const came = () => new Promise<Socket>(resolve => { tell = resolve })
  const isOver = () => new Promise<void>(resolve => { over = resolve })
  return {
    gateway: Object.assign(gateway, { port }),
    client,
    requests: () => requests,
    finished,
    answer: () => answer(),
    /** The connection on which the agent has something. */
    came,
    /** An exchange is over. */
    isOver,
    /** Sends it, and resolves with the connection on which it reached the agent. */
    async begin (bytes: string) {
      const coming = came()
      client.send(bytes)
      return await coming
    },
    /** The body breaks, and with it an exchange is over. */
    async break () {
      const ending = isOver()
      client.send(invalid)
      await ending
    }
  }
}

const connections = ({ server }: FastifyInstance) => new Promise<number>((resolve, reject) => server.getConnections((error, count) => error === null ? resolve(count) : reject(error)))

const problem = (bytes: string) => {
  const answer = readAnswers(bytes, ['POST']).at(-1)!
  const { code, instance } = JSON.parse(answer.body) as { code: string, instance: string }
  return { status: answer.status, bytes: answer.body.length, code, instance, id: answer.valuesOf('x-request-id') }
}

t.test('the answer has the id of the request, its account says what the answer was, and the agent is let go', async t => {
  const { gateway, client, finished, ...exchange } = await start(t)
  const left = once(await exchange.begin(head('/api/planner/x', 'mine') + chunk), 'close')

  await exchange.break()
  t.equal(await connections(gateway), 1, 'that of the client is not over')
  await left

  const { bytes, instance, ...said } = problem(await client.closed())
  t.same(said, { status: 400, code: 'FLEET_BAD_REQUEST', id: ['mine'] })
  t.match(instance, /mine$/)
  t.match(finished, [{ id: 'mine', agent: 'planner', status: 400, code: 'FLEET_BAD_REQUEST', ending: 'complete', bytesSent: bytes, attempts: [{ outcome: 'aborted' }] }])
  t.equal(gateway.facts.inFlight, 0)
})

/** A hook of the application around that has the request `mine` wait. */
function waitingHook () {
  const hook = { go: () => {}, gone: Promise.resolve<unknown>(null), closed: Promise.resolve<unknown>(null), came: Promise.resolve() }
  let tell = () => {}
  hook.came = new Promise<void>(resolve => { tell = resolve })
  return Object.assign(hook, {
    async wait ({ headers, raw: { socket } }: FastifyRequest, { raw }: FastifyReply) {
      if (headers['x-request-id'] !== 'mine') return
      hook.closed = once(socket, 'close')
      hook.gone = headers.upgrade === undefined ? once(raw, 'close') : once(raw.socket!, 'end') // which nobody reads, so that it does not close
      await new Promise<void>(resolve => {
        hook.go = resolve
        tell()
      })
    }
  })
}

const opened = head('/api/planner/x', 'mine') + chunk
const handshake = 'GET /api/planner/room HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
const leaves = ({ socket }: RawClient) => socket.destroy()
const breaks = (client: RawClient) => client.send(invalid)
const left = { status: 499, code: null, ending: 'client-aborted' } as const
const broken = { status: 400, code: 'FLEET_BAD_REQUEST', ending: 'complete' } as const
const ways: [what: string, hookName: 'onRequest' | 'preParsing', request: string, leave: (client: RawClient) => void, facts: Partial<RequestFacts>][] = [
  ['whose body breaks while a hook waits', 'preParsing', opened, breaks, broken],
  ['whose body breaks before it is accounted for', 'onRequest', opened, breaks, broken],
  ['whose client leaves while a hook waits', 'preParsing', opened, leaves, left],
  ['whose client leaves before it is accounted for', 'onRequest', opened, leaves, left],
  ['for a WebSocket whose client leaves while a hook waits', 'preParsing', handshake, leaves, left],
  ['for a WebSocket whose client leaves before it is accounted for', 'onRequest', handshake, leaves, left]
]
for (const [what, hookName, request, leave, facts] of ways) {
  t.test(`a request ${what} does not reach an agent`, async t => {
    const hook = waitingHook()
    const { gateway, client, finished, answer, requests, came } = await start(t, app => app.addHook(hookName as 'preParsing', hook.wait))
    client.send(request)
    await hook.came

    leave(client)
    await hook.gone
    hook.go()
    await settled(gateway)
    if (leave === breaks) t.same(problem(await client.until(/\}$/)).id, ['mine'])

    const has = came()
    const other = await rawClient(t, gateway.port)
    other.send('GET /api/planner/other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
    await has
    answer()
    await other.closed()
    t.match(finished[0], { id: 'mine', ...facts })
    t.same(finished[0]!.attempts, [])
    t.equal(requests(), 1, 'the other one')
    t.equal(underWay(gateway), 0)
    t.equal(gateway.facts.inFlight, 0)
  })
}

t.test('a body that only ended too early is that of a client that left', async t => {
  const { gateway, client, finished, begin, isOver } = await start(t)
  await begin(head('/api/planner/x', 'mine') + chunk)
  const over = isOver()

  client.socket.end()
  await over

  const { status, id } = problem(await client.closed())
  t.same({ status, id }, { status: 400, id: ['mine'] })
  t.match(finished, [{ id: 'mine', status: 499, code: null, ending: 'client-aborted' }])
  t.equal(gateway.facts.inFlight, 0)
})

t.test('so it is on a route of the gateway\'s own', async t => {
  const { gateway, client, finished, isOver } = await start(t)
  const over = isOver()

  client.send(head('/registry/register', 'mine') + chunk + invalid)
  await over

  const { status, id } = problem(await client.closed())
  t.same({ status, id }, { status: 400, id: ['mine'] })
  t.match(finished, [{ id: 'mine', agent: null, status: 400, code: 'FLEET_BAD_REQUEST', ending: 'complete' }])
  t.equal(gateway.facts.inFlight, 0)
})

const first = 'GET /api/planner/first HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: first\r\n\r\n'
/** It only reads, so that it goes on beside the first. */
const secondReading = head('/api/planner/x', 'second').replace('POST', 'GET') + chunk

t.test('behind another request it is answered in its turn, and reaches no agent', async t => {
  const { gateway, client, finished, answer, begin, requests } = await start(t)
  await begin(`${first}${head('/api/planner/x', 'second')}${chunk}${invalid}`)

  answer()

  const bytes = await client.closed()
  t.same(readAnswers(bytes, ['GET', 'POST']).map(({ status, valuesOf }) => [status, valuesOf('x-request-id')]), [[200, ['first']], [400, ['second']]])
  await settled(gateway)
  t.match(finished, [{ id: 'first', status: 200 }, { id: 'second', ...broken, attempts: [] }])
  t.equal(requests(), 1)
})

t.test('behind another request that also only reads its exchange is over at once', async t => {
  const { client, finished, answer, ...exchange } = await start(t)
  await exchange.begin(first)
  await exchange.begin(secondReading)

  await exchange.break()

  t.match(finished, [{ id: 'second', ...broken, attempts: [{ outcome: 'aborted' }] }])
  answer()
  t.same(readAnswers(await client.closed(), ['GET', 'GET']).map(({ status, valuesOf }) => [status, valuesOf('x-request-id')]), [[200, ['first']], [400, ['second']]])
})

t.test('a client that leaves in a body behind another request is noticed', async t => {
  const { gateway, client, finished, begin } = await start(t)
  await begin(first)
  await begin(secondReading)

  client.socket.destroy()
  await settled(gateway)

  t.match(finished, [{ id: 'first', ...left }, { id: 'second', ...left }])
})

for (const [whose, server] of [['serverOptions()', serverOptions()], ['an application\'s own server', {}]] as const) {
  for (const name of ['onRequest', 'preParsing'] as const) {
    t.test(`${whose}: requests in line behind another whose client left while a hook (${name}) waited do not reach an agent`, async t => {
      const hook = waitingHook()
      const { gateway, client, finished, came, isOver, requests } = await start(t, app => app.addHook(name as 'onRequest', hook.wait), {}, server)
      client.send(`${first}GET /api/planner/second HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\n\r\n`)
      await Promise.all([hook.came, came()])

      client.socket.destroy()
      await hook.closed
      hook.go()
      while (finished.length < 2) await isOver()
      await settled(gateway)

      t.match(finished.map(({ id, status }) => [id, status]).sort(), [['first', 499], ['mine', 499]])
      t.equal(requests(), 1, 'the first')
      t.equal(underWay(gateway), 0)
    })
  }
}

t.test('nothing that a client asked for begins after it left', async t => {
  const issuer = await jwtIssuer(t, () => Math.floor(Date.now() / 1_000))
  let publish = () => {}
  const published = new Promise<void>(resolve => { publish = resolve })
  issuer.misbehave((_request, response) => void published.then(() => response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))))
  let arrived = () => {}
  const arriving = new Promise<void>(resolve => { arrived = resolve })
  const { gateway, client, finished } = await start(t, app => app.addHook('onRequest', (_request, _reply, done) => {
    arrived()
    done()
  }), { auth: { jwt: issuer.jwt } })
  const token = await issuer.token({ scope: 'admin' })
  client.send(`DELETE /registry/planner HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\nAuthorization: Bearer ${token}\r\n\r\n`)
  await arriving

  client.socket.destroy()
  await settled(gateway)
  publish()

  const other = await rawClient(t, gateway.port)
  other.send(`GET /registry HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\n\r\n`)
  t.match(readAnswers(await other.closed()), [{ status: 200 }], 'who waited for the same keys')
  t.ok(gateway.registry.find('planner'))
  t.match(finished[0], { id: 'mine', ...left, keyId: null })
})

t.test('nor where it left before anybody asked who it is', async t => {
  const hook = waitingHook()
  const { gateway, client, finished, isOver } = await start(t, app => app.addHook('onRequest', hook.wait))
  client.send('DELETE /registry/planner HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\n\r\n')
  await hook.came

  client.socket.destroy()
  await hook.gone
  const over = isOver()
  hook.go()
  await over

  t.ok(gateway.registry.find('planner'))
  t.match(finished, [{ id: 'mine', ...left, keyId: null }])
})

t.test('what an application streams is let go of, also when it begins too late', async t => {
  const hook = waitingHook()
  const source = new Readable({ read () {} })
  const { client } = await start(t, app => {
    app.addHook('preHandler', hook.wait as never)
    app.post('/stream', (_request, reply) => reply.send(source))
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  })
  client.send(head('/stream', 'mine') + chunk)
  await hook.came
  const closed = once(source, 'close')

  client.send(invalid)
  await hook.gone
  hook.go()

  await closed
  t.same(problem(await client.closed()).status, 400)
})

t.test('an answer to HEAD has no body', async t => {
  const { client, finished, ...exchange } = await start(t)
  await exchange.begin(head('/api/planner/x', 'mine').replace('POST', 'HEAD') + chunk)
  await exchange.break()

  const [answer, ...more] = readAnswers(await client.closed(), ['HEAD'])
  t.match(answer, { status: 400, body: '' })
  t.same(more, [])
  t.match(finished, [{ ...broken, bytesSent: 0 }])
})

t.test('an answer that has begun is cut off, and nothing is written into it', async t => {
  const { client, finished, ...exchange } = await start(t)
  const agent = await exchange.begin(head('/api/planner/x', 'mine') + chunk)
  agent.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal')
  await client.until(/hal$/)
  await exchange.break()

  t.match(readAnswers(await client.closed(), ['POST']), [{ status: 200, body: 'hal', complete: false }])
  t.match(finished, [{ id: 'mine', status: 200, ending: 'client-aborted' }])
})

t.test('one whose answer waits for its turn does not take those before it along', async t => {
  for (const [rest, complete] of [['', false], ['lo', true]] as const) {
    const { client, answer, begin } = await start(t)
    await begin(first)
    const agent = await begin(secondReading)
    await new Promise(resolve => agent.write(`HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal${rest}`, resolve))
    await rawRequest(t, client.socket.remotePort!, 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n') // the gateway has read it then

    client.send(invalid)
    await rawRequest(t, client.socket.remotePort!, 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
    answer()

    const [one, two, ...more] = readAnswers(await client.closed(), ['GET', 'GET'])
    t.match(one, { status: 200, body: 'ok', complete: true })
    if (complete) t.match(two, { status: 200, body: 'hallo', complete })
    t.same(more, [])
  }
})

t.test('a refused body that came whole is nothing to one that breaks later on its connection', async t => {
  const { client } = await start(t)
  client.send(head('/api/nobody/x', 'first') + chunk)
  await client.until(/FLEET_AGENT_NOT_FOUND[^]*\}$/)
  client.send(`0\r\n\r\n${head('/api/planner/x', 'second')}${chunk}${invalid}`)

  t.same(readAnswers(await client.closed(), ['POST', 'POST']).map(({ status, valuesOf }) => [status, valuesOf('x-request-id')]), [[404, ['first']], [400, ['second']]])
})

t.test('its response is told once that it is over', async t => {
  let told = 0
  let over: Promise<unknown> = Promise.resolve()
  const { client } = await start(t, app => app.addHook('onRequest', (_request, { raw }, done) => {
    raw.on('close', () => told++)
    over = once(raw.socket!, 'close')
    done()
  }))
  client.send(head('/api/planner/x', 'mine') + chunk + invalid)
  await client.closed()
  client.socket.end()
  await over
  t.equal(told, 1)
})

t.test('one that was answered already gets no second answer', async t => {
  for (const rest of [invalid, null]) {
    const { client, finished } = await start(t)
    client.send(head('/api/nobody/x', 'mine') + chunk)
    await client.until(/FLEET_AGENT_NOT_FOUND[^]*\}$/)

    if (rest === null) client.socket.end()
    else client.send(rest)

    const answers = readAnswers(await client.closed(), ['POST'])
    t.same(answers.map(({ status }) => status), [404])
    t.same(finished.map(({ id, status }) => [id, status]), [['mine', 404]])
  }
})
