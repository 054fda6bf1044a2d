import t, { type Test } from 'tap'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { once } from 'node:events'
import { WebSocket, WebSocketServer } from 'ws'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'

interface Held {
  readonly request: IncomingMessage
  /** Answers it. */
  release (status?: number): void
}

/** An agent that answers each request when it is told to. */
async function holdingAgent (t: Test) {
  const held: Held[] = []
  const waiting: (() => void)[] = []
  const agent = await fakeAgent(t, (request: IncomingMessage, response: ServerResponse) => {
    request.resume()
    held.push({ request, release: (status = 200) => { response.writeHead(status).end(request.url) } })
    for (const look of waiting.splice(0)) look()
  })
  return {
    ...agent,
    held,
    /** Resolves when `count` requests have arrived in all. */
    async arrived (count: number): Promise<void> {
      while (held.length < count) await new Promise<void>(resolve => { waiting.push(resolve) })
    }
  }
}

/** Resolves when as many requests wait at the agent. */
async function queued (gateway: ListeningGateway, count: number): Promise<void> {
  while (gateway.upstream.waiting('planner') !== count) await new Promise(resolve => { setImmediate(resolve) })
}

function start (t: Test, concurrency: FleetGatewayOptions['concurrency'], ...agents: readonly { host: string, port: number }[]) {
  return startGateway(t, { concurrency: concurrency!, agents: [agentAt('planner', ...agents)] })
}

const get = (gateway: ListeningGateway, path: string, init: RequestInit = {}) => fetch(`${gateway.origin}/api/planner/${path}`, init)

const textOf = async (reply: Promise<Response>) => (await reply).text()

t.test('what is over the limit is answered with 503 and Retry-After, and what is under it is served', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 2 }, agent)

  const first = get(gateway, 'a')
  const second = get(gateway, 'b')
  await agent.arrived(2)
  const third = await get(gateway, 'c')

  t.equal(third.status, 503)
  t.equal(third.headers.get('retry-after'), '1')
  t.match(await third.json(), { code: 'FLEET_AGENT_BUSY', error: 'The agent is busy' })
  for (const { release } of agent.held) release()
  t.same(new Set([await textOf(first), await textOf(second)]), new Set(['/a', '/b']))
  const later = get(gateway, 'd')
  await agent.arrived(3)
  agent.held[2]!.release()
  t.equal(await textOf(later), '/d')
})

t.test('who waits is served in turn, and the queue is bounded', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 2, queueTimeout: '1h' }, agent)

  const replies = [get(gateway, '0')]
  await agent.arrived(1)
  for (const [index, method] of ['GET', 'POST'].entries()) {
    replies.push(get(gateway, String(index + 1), { method, ...(method === 'POST' && { body: 'x' }) }))
    await queued(gateway, index + 1)
  }
  t.equal((await get(gateway, 'beyond')).status, 503)
  t.equal((await get(gateway, 'beyond', { method: 'POST', body: 'x'.repeat(200_000) })).status, 503)

  for (let index = 0; index < 3; index++) {
    await agent.arrived(index + 1)
    t.equal(agent.held.length, index + 1, 'one at a time')
    agent.held[index]!.release()
    t.equal(await textOf(replies[index]!), `/${index}`)
  }
  t.equal(gateway.upstream.waiting('planner'), 0)
})

t.test('who waits longer than queueTimeout gets 503', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '50ms' }, agent)

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const second = await get(gateway, 'b')

  t.match(await second.json(), { status: 503, code: 'FLEET_AGENT_BUSY', detail: /within 50ms/ })
  t.equal(gateway.upstream.waiting('planner'), 0)
  agent.held[0]!.release()
  t.equal(await textOf(first), '/a')
  t.same(agent.requests, ['GET /a'])
})

t.test('a client that leaves the queue leaves its place to the next', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, agent)

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const impatient = await rawClient(t, gateway.port)
  impatient.send('GET /api/planner/b HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await queued(gateway, 1)
  const third = get(gateway, 'c')
  await queued(gateway, 2)
  impatient.socket.destroy()
  await queued(gateway, 1)
  agent.held[0]!.release()
  await agent.arrived(2)
  agent.held[1]!.release()

  t.equal(await textOf(first), '/a')
  t.equal(await textOf(third), '/c')
  t.same(agent.requests, ['GET /a', 'GET /c'])
})

t.test('the limit is per instance, and full instances are passed over', async t => {
  const [one, other] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1, queue: 1, queueTimeout: '1h' }, one, other)

  const replies = [get(gateway, 'a'), get(gateway, 'b')]
  await Promise.all([one.arrived(1), other.arrived(1)])
  replies.push(get(gateway, 'c'))
  await queued(gateway, 1)
  other.held[0]!.release()
  await other.arrived(2)
  other.held[1]!.release()
  replies.push(get(gateway, 'd'))
  await other.arrived(3)

  t.equal(one.held.length, 1, 'which is still busy')
  other.held[2]!.release()
  one.held[0]!.release()
  t.same((await Promise.all(replies.map(textOf))).sort(), ['/a', '/b', '/c', '/d'])
})

t.test('busy is no reason for panic: an instance that is down is not asked while others are only full', async t => {
  const [one, down] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1 }, one, down)
  gateway.registry.get('planner').instances[1]!.runtime.health.up = false

  const first = get(gateway, 'a')
  await one.arrived(1)

  t.match(await (await get(gateway, 'b')).json(), { code: 'FLEET_AGENT_BUSY' })
  t.same(down.requests, [])
  one.held[0]!.release()
  await first
})

t.test('an instance that refuses sends the request to the end of no queue: it waits for the other', async t => {
  const dead = { host: '127.0.0.1', port: await deadPort() }
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 1, queueTimeout: '1h' }, dead, agent)
  gateway.registry.get('planner').rotation.next = 1

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const second = get(gateway, 'b', { method: 'POST', body: 'x' })
  await queued(gateway, 1)
  agent.held[0]!.release()
  await agent.arrived(2)
  agent.held[1]!.release()

  t.equal(await textOf(first), '/a')
  t.equal(await textOf(second), '/b')
})

t.test('a retry on a full agent of one instance finds its place again', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 1, queueTimeout: '1h' }, agent)

  const reply = get(gateway, 'a')
  await agent.arrived(1)
  agent.held[0]!.release(503)
  await agent.arrived(2)
  agent.held[1]!.release()

  t.equal((await reply).status, 200)
})

t.test('a slow upload holds no place before it is there', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1 }, agent)
  const slow = await rawClient(t, gateway.port)
  slow.send('POST /api/planner/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1')

  const quick = get(gateway, 'quick')
  await agent.arrived(1)
  agent.held[0]!.release()
  t.equal(await textOf(quick), '/quick')
  slow.send('2')
  await agent.arrived(2)
  agent.held[1]!.release()

  t.match(await slow.until(/\/slow/), /^HTTP\/1\.1 200/)
})

t.test('a WebSocket keeps its place until it ends, and waits for one as any request', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.end('plain') })
  const sockets = new WebSocketServer({ server: agent.server })
  t.teardown(() => { for (const socket of sockets.clients) socket.terminate() })
  const gateway = await start(t, { max: 1, queue: 1, queueTimeout: '1h' }, agent)

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/chat`)
  await once(socket, 'open')
  const waiting = get(gateway, 'x')
  await queued(gateway, 1)
  t.equal((await get(gateway, 'y')).status, 503)
  const refused = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/chat`)
  const [, response] = await once(refused, 'unexpected-response') as [unknown, IncomingMessage]
  t.equal(response.statusCode, 503)
  response.destroy()
  const closed = once(socket, 'close')
  socket.close()
  await closed

  t.equal(await textOf(waiting), 'plain')
})

t.test('a reload that raises the limit, and an instance that comes, serve who waits', async t => {
  const [one, other] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, one)

  const replies = [get(gateway, 'a')]
  await one.arrived(1)
  replies.push(get(gateway, 'b'), get(gateway, 'c'))
  await queued(gateway, 2)
  gateway.upstream.reconfigure({ concurrency: { max: 2, queue: 5, queueTimeout: '1h' } })
  await one.arrived(2)
  await queued(gateway, 1)
  gateway.registry.register({ name: 'planner', host: other.host, port: other.port })
  await other.arrived(1)

  for (const { release } of [...one.held, ...other.held]) release()
  t.same((await Promise.all(replies.map(textOf))).sort(), ['/a', '/b', '/c'])
})

t.test('who waits at an agent that is removed gets 503 at once', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, agent)

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const second = get(gateway, 'b')
  await queued(gateway, 1)
  gateway.registry.removeAgent('planner')

  t.match(await (await second).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
  agent.held[0]!.release()
  t.equal(await textOf(first), '/a', 'what is in flight finishes')
})

t.test('under load no instance ever has more than its limit, and nobody is lost', async t => {
  let running = 0
  let most = 0
  const agent = await fakeAgent(t, (request, response) => {
    most = Math.max(most, ++running)
    request.resume()
    request.on('end', () => setImmediate(() => { running--; response.end('ok') }))
  })
  const gateway = await start(t, { max: 3, queue: 1_000, queueTimeout: '1h' }, agent)

  const replies = await Promise.all(Array.from({ length: 300 }, (_, index) => get(gateway, String(index), index % 3 === 0 ? { method: 'POST', body: 'x'.repeat(index * 300) } : {})))

  t.ok(replies.every(({ status }) => status === 200))
  t.ok(most <= 3, `${most} at once`)
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.inFlight, 0)
})

t.test('an instance that is back serves who waits, by its probes or when the next request comes', async t => {
  const [full, back] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await startGateway(t, { concurrency: { max: 1, queue: 5, queueTimeout: '1h' }, health: { interval: '100ms', unhealthyAfter: 1 }, agents: [agentAt('planner', full, back)] })
  const [, instance] = gateway.registry.get('planner').instances
  await back.kill()
  while (instance!.runtime.health.up) await new Promise(resolve => { setImmediate(resolve) })

  const replies = [get(gateway, 'a')]
  await full.arrived(1)
  replies.push(get(gateway, 'b'))
  await queued(gateway, 1)
  await back.revive()
  await back.arrived(1)
  t.equal(gateway.upstream.waiting('planner'), 0)

  back.held[0]!.release()
  t.equal(await textOf(replies[1]!), '/b')
  full.held[0]!.release()
  await replies[0]
})

t.test('who comes while others wait does not keep them from an instance that has room', async t => {
  const [full, back] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await startGateway(t, { concurrency: { max: 1, queue: 5, queueTimeout: '1h' }, health: { interval: '1h' }, agents: [agentAt('planner', full, back)] })
  await gateway.health.firstRound()
  const [, { runtime }] = gateway.registry.get('planner').instances as [unknown, { runtime: { health: { up: boolean } } }]
  runtime.health.up = false

  const replies = [get(gateway, 'a')]
  await full.arrived(1)
  replies.push(get(gateway, 'b'))
  await queued(gateway, 1)
  runtime.health.up = true // and nobody is told
  replies.push(get(gateway, 'c'))
  await back.arrived(1)

  t.same(back.requests.at(-1), 'GET /b', 'the first of those who wait')
  back.held[0]!.release()
  await back.arrived(2)
  back.held[1]!.release()
  full.held[0]!.release()
  t.same(await Promise.all(replies.map(textOf)), ['/a', '/b', '/c'])
})

t.test('an ejection that runs out frees a place for who waits', async t => {
  const [full, ejected] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const clock = fakeClock()
  const gateway = await startGateway(t, { clock, concurrency: { max: 1, queue: 5, queueTimeout: '1h' }, health: { interval: '1h' }, agents: [agentAt('planner', full, ejected)] })
  await gateway.health.firstRound()
  Object.assign(gateway.registry.get('planner').instances[1]!.runtime.health, { ejectedUntil: clock.now() + 30_000, ejectedFor: 'answer', ejections: 1 })

  const replies = [get(gateway, 'a')]
  await full.arrived(1)
  replies.push(get(gateway, 'b'))
  await queued(gateway, 1)
  clock.advance(30_000)
  await ejected.arrived(1)

  for (const { release } of [...full.held, ...ejected.held]) release()
  t.same(await Promise.all(replies.map(textOf)), ['/a', '/b'])
})

t.test('who waits for an agent that becomes another one\'s alias is not let in to that', async t => {
  const [agent, other] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, agent)

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const second = get(gateway, 'b')
  await queued(gateway, 1)
  gateway.registry.replaceFile([{ name: 'other', aliases: ['planner'], instances: [{ host: other.host, port: other.port, protocol: 'http', weight: 1 }] }])

  t.match(await (await second).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
  t.same(other.requests, [])
  agent.held[0]!.release()
  await first
})

t.test('a request keeps its place over the pause before its retry', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1 }, agent)

  const reply = get(gateway, 'a')
  await agent.arrived(1)
  const settled = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })
  agent.held[0]!.release(503)
  await settled
  t.equal((await get(gateway, 'b')).status, 503, 'the place is taken')
  await agent.arrived(2)
  agent.held[1]!.release()

  t.equal((await reply).status, 200)
  t.same(agent.requests, ['GET /a', 'GET /a'])
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.inFlight, 0)
})

t.test('an instance that still sends an answer nobody wants keeps its place until that is over', async t => {
  const [slow, other] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1 }, slow, other)
  const [instance] = gateway.registry.get('planner').instances

  const reply = get(gateway, 'a')
  await slow.arrived(1)
  const { socket } = slow.held[0]!.request
  const cut = once(socket, 'close')
  socket.write('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nno')
  await other.arrived(1)

  t.equal(instance!.runtime.inFlight, 1)
  await cut
  t.equal(instance!.runtime.inFlight, 0)
  other.held[0]!.release()
  t.equal(await textOf(reply), '/a')
})

t.test('a drain of the only instance tells who waits at once, and its end serves again', async t => {
  const agent = await holdingAgent(t)
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, agent)
  const { id } = gateway.registry.get('planner').instances[0]!

  const first = get(gateway, 'a')
  await agent.arrived(1)
  const second = get(gateway, 'b')
  await queued(gateway, 1)
  await gateway.inject({ method: 'DELETE', url: `/registry/planner/instances/${id}?drain=true` })

  t.match(await (await second).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
  await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', host: agent.host, port: agent.port } })
  const third = get(gateway, 'c')
  await queued(gateway, 1)
  agent.held[0]!.release()
  await agent.arrived(2)
  agent.held[1]!.release()
  t.same([await textOf(first), await textOf(third)], ['/a', '/c'])
})

t.test('who waits for another instance than the one with room keeps nobody from that', async t => {
  const [full, other] = await Promise.all([holdingAgent(t), holdingAgent(t)])
  const gateway = await start(t, { max: 1, queue: 5, queueTimeout: '1h' }, other, full)
  const [open, busy] = gateway.registry.get('planner').instances
  const asker = { headers: {}, clientAddress: '' }
  const release = gateway.upstream.hold(busy!)
  const placed: string[] = []
  const picky = { tried: [open!], asker, hasTried: true, onPlace: () => { placed.push('picky') }, onRefused: () => t.fail('it may wait') }
  gateway.upstream.place(gateway.registry.get('planner'), picky)
  t.equal(gateway.upstream.waiting('planner'), 1)

  const reply = get(gateway, 'a', { method: 'POST', body: 'x' })
  await other.arrived(1)
  other.held[0]!.release()

  t.equal(await textOf(reply), '/a')
  release()
  await Promise.resolve()
  t.same(placed, ['picky'])
})

t.test('a balancer that chooses nobody is an answer at once, with and without a limit', async t => {
  const agent = await holdingAgent(t)
  for (const concurrency of [{}, { max: 1, queue: 5, queueTimeout: '1h' }]) {
    const gateway = await startGateway(t, { concurrency, balancer: { pick: () => undefined }, agents: [agentAt('planner', agent)] })

    t.match(await (await get(gateway, 'a')).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
    t.match(await (await get(gateway, 'b', { method: 'POST', body: 'x' })).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
  }
  t.same(agent.requests, [])
})
