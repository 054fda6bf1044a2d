/** A request whose head was accepted and whose body then turns out to be no valid HTTP, or whose client leaves early: its answer and its account are one, and it is over. */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import { fleetGateway } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { readAnswers } from '../helpers/answers.ts'
import { agentAt, quiet, unprobed } from '../helpers/build-gateway.ts'
import { quiet as settled, underWay } from '../helpers/quiet.ts'
import { rawClient, type RawClient } from '../helpers/raw-client.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'

const head = (path: string, id: string) => `POST ${path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`
const chunk = '5\r\nhello\r\n'
const invalid = 'no length\r\n'

/** A gateway in front of an agent that answers a GET when it is told to, and no POST; with what it says of each exchange that is over. */
async function start (t: Test, prepare: (app: FastifyInstance) => void = () => {}) {
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
  const gateway = Fastify(serverOptions())
  t.teardown(() => gateway.close())
  prepare(gateway)
  await gateway.register(fp(fleetGateway), { // not encapsulated, to look at what it keeps
    ...quiet, ...unprobed, agents: [agentAt('planner', agent)]
  })
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  const finished: RequestFacts[] = []
  let over = () => {}
  gateway.facts.onFinished(facts => {
    finished.push(facts)
    over()
  })
  return {
    gateway: Object.assign(gateway, { port }),
    client: await rawClient(t, port),
    requests: () => requests,
    finished,
    answer: () => answer(),
    /** The connection on which the agent has something. */
    came: () => new Promise<Socket>(resolve => { tell = resolve }),
    /** An exchange is over. */
    isOver: () => new Promise<void>(resolve => { over = resolve })
  }
}

const connections = ({ server }: FastifyInstance) => new Promise<number>((resolve, reject) => server.getConnections((error, count) => error === null ? resolve(count) : reject(error)))

const problem = (bytes: string) => {
  const answer = readAnswers(bytes, ['POST']).at(-1)!
  const { code, instance } = JSON.parse(answer.body) as { code: string, instance: string }
  return { status: answer.status, bytes: answer.body.length, code, instance, id: answer.valuesOf('x-request-id') }
}

t.test('the answer has the id of the request, its account says what the answer was, and the agent is let go', async t => {
  const { gateway, client, finished, came, isOver } = await start(t)
  const has = came()
  client.send(head('/api/planner/x', 'mine') + chunk)
  const left = once(await has, 'close')
  const over = isOver()

  client.send(invalid)
  await over
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
  const hook = { go: () => {}, gone: Promise.resolve<unknown>(null), came: Promise.resolve() }
  let tell = () => {}
  hook.came = new Promise<void>(resolve => { tell = resolve })
  return Object.assign(hook, {
    async wait ({ headers }: FastifyRequest, { raw }: FastifyReply) {
      if (headers['x-request-id'] !== 'mine') return
      hook.gone = once(raw, 'close')
      await new Promise<void>(resolve => {
        hook.go = resolve
        tell()
      })
    }
  })
}

const ways: [what: string, hookName: 'onRequest' | 'preParsing', leave: (client: RawClient) => void, facts: Partial<RequestFacts>][] = [
  ['whose body breaks while a hook waits', 'preParsing', client => client.send(invalid), { status: 400, ending: 'complete' }],
  ['whose client leaves while a hook waits', 'preParsing', ({ socket }) => socket.destroy(), { status: 499, ending: 'client-aborted' }],
  ['whose client leaves before it is accounted for', 'onRequest', ({ socket }) => socket.destroy(), { status: 499, ending: 'client-aborted' }]
]
for (const [what, hookName, leave, facts] of ways) {
  t.test(`a request ${what} does not reach an agent`, async t => {
    const hook = waitingHook()
    const { gateway, client, finished, answer, requests, came } = await start(t, app => app.addHook(hookName as 'preParsing', hook.wait))
    client.send(head('/api/planner/x', 'mine') + chunk)
    await hook.came

    leave(client)
    await hook.gone
    hook.go()

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
  const { gateway, client, finished, came, isOver } = await start(t)
  const has = came()
  client.send(head('/api/planner/x', 'mine') + chunk)
  await has
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

t.test('behind another request it is answered in its turn', async t => {
  const { gateway, client, finished, answer, came } = await start(t)
  const has = came()
  client.send(`GET /api/planner/first HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: first\r\n\r\n${head('/api/planner/x', 'second')}${chunk}${invalid}`)
  await has

  answer()

  const bytes = await client.closed()
  t.same(readAnswers(bytes, ['GET', 'POST']).map(({ status }) => status), [200, 400])
  client.socket.end()
  await settled(gateway)
  t.match(finished[0], { id: 'first', status: 200 })
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
