import t from 'tap'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { deadPort } from '../helpers/fake-agent.ts'
import { firstInOrder, neverEject } from '../helpers/first-in-order.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { scriptedAgent, type Arrival } from '../helpers/scripted-agent.ts'
import { askStrictly } from '../helpers/strict-client.ts'

const ok = (body: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`
const refusal = 'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nsorry'

type Fault = '503' | '500' | '501' | 'reset' | 'garbage' | 'silent'
const act: Record<Fault, (arrival: Arrival) => void> = {
  503: ({ socket }) => { socket.write(refusal) },
  500: ({ socket }) => { socket.write(refusal.replace('503', '500')) },
  501: ({ socket }) => { socket.write(refusal.replace('503', '501')) },
  reset: ({ socket }) => { socket.resetAndDestroy() },
  garbage: ({ socket }) => { socket.end('what?\r\n\r\n') },
  silent: () => {}
}
const plain = 'Content-Length: 4\r\n\r\nbody'
const chunked = 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n'
const large = `Content-Length: 70000\r\n\r\n${'x'.repeat(70_000)}`
const bodies = { none: '\r\n', plain, chunked, large } as const

t.test('what is sent again, and how often: each fault, method, kind of body, and number of instances', async t => {
  /** [fault, method, body, Idempotency-Key, attempts that carry it, statuses with one instance and with two of which the second is good] */
  const table: [Fault, string, keyof typeof bodies, boolean, number, number, number][] = [
    ['503', 'GET', 'none', false, 2, 503, 200], ['500', 'GET', 'none', false, 2, 500, 200], ['501', 'GET', 'none', false, 1, 501, 501],
    ['reset', 'GET', 'none', false, 2, 502, 200], ['garbage', 'GET', 'none', false, 1, 502, 502], ['silent', 'GET', 'none', false, 1, 504, 504],
    ['503', 'PUT', 'plain', false, 2, 503, 200], ['reset', 'PUT', 'plain', false, 2, 502, 200], ['reset', 'DELETE', 'none', false, 2, 502, 200],
    ['503', 'PUT', 'chunked', false, 2, 503, 200], ['reset', 'PUT', 'chunked', false, 2, 502, 200],
    ['503', 'PUT', 'large', false, 1, 503, 503], ['reset', 'PUT', 'large', false, 1, 502, 502],
    ['503', 'POST', 'none', false, 1, 503, 503], ['503', 'POST', 'plain', false, 1, 503, 503], ['reset', 'POST', 'plain', false, 1, 502, 502], ['reset', 'POST', 'chunked', false, 1, 502, 502],
    ['503', 'POST', 'plain', true, 2, 503, 200], ['reset', 'POST', 'plain', true, 2, 502, 200], ['reset', 'POST', 'large', true, 1, 502, 502], ['silent', 'POST', 'plain', true, 1, 504, 504],
    ['reset', 'PATCH', 'plain', false, 1, 502, 502], ['503', 'PATCH', 'plain', true, 2, 503, 200], ['503', 'OPTIONS', 'none', false, 2, 503, 200], ['503', 'PROPFIND', 'plain', false, 2, 503, 200]
  ]
  const faulty = await scriptedAgent(t, { onRequest: arrival => { act[arrival.request.target.slice(1) as Fault](arrival) } })
  const good = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write(ok('good')) } })
  const dead = { host: '127.0.0.1', port: await deadPort() }
  const agents = [agentAt('one', faulty), agentAt('two', faulty, good), agentAt('three', dead, faulty, good)]
  const gateway = await startGateway(t, { balancer: firstInOrder, health: { interval: '1h' }, timeouts: { response: '100ms' }, agents })
  neverEject(gateway)
  let count = 0

  for (const [fault, method, body, key, attempts, alone, withOther] of table) {
    for (const [agent, status] of [['one', alone], ['two', withOther], ['three', withOther]] as const) {
      const id = `failover-${count++}`
      const fields = `Host: localhost\r\nX-Request-Id: ${id}\r\n${key ? 'Idempotency-Key: k\r\n' : ''}`
      const { answer, violation } = await askStrictly(gateway.port, method, `${method} /api/${agent}/${fault} HTTP/1.1\r\n${fields}${bodies[body]}`)
      const sent = (faulty.arrivals.get(id) ?? 0) + (good.arrivals.get(id) ?? 0)
      // A used connection that breaks is replayed on a fresh one before the retry.
      const most = attempts === 2 && fault === 'reset' ? [2, 3] : [attempts]
      t.match({ status: answer?.status, violation }, { status, violation: null }, `${fault} ${method} ${body} ${key ? 'with a key ' : ''}at ${agent}`)
      t.ok(most.includes(sent), `${fault} ${method} ${body} at ${agent}: sent ${sent} times`)
    }
  }
  t.same([...faulty.violations, ...good.violations], [])
})

/** Sends requests, so many at a time. */
async function flood (gateway: ListeningGateway, count: number, lanes: number, path = '/api/planner/x', method = 'GET'): Promise<Map<number, number>> {
  const statuses = new Map<number, number>()
  let left = count
  await Promise.all(Array.from({ length: lanes }, async () => {
    while (left-- > 0) {
      const { answer } = await askStrictly(gateway.port, method, `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
      const status = answer?.status ?? 0
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
  }))
  return statuses
}

t.test('a fleet that refuses everything is not hit much harder: at most 20 % more, or ten a second; and through two gateways no more than twice that', async t => {
  let arrived = 0
  const instances = await Promise.all([1, 2, 3].map(() => scriptedAgent(t, { onRequest: ({ socket }) => { arrived++; socket.write(refusal) } })))
  const gateway = await startGateway(t, { agents: [agentAt('planner', ...instances)], health: { interval: '1h' } })
  const front = await startGateway(t, { agents: [agentAt('planner', { host: '127.0.0.1', port: gateway.port })], health: { interval: '1h' } })
  const seconds = (since: number) => Math.ceil((performance.now() - since) / 1_000) + 1
  const mayCome = (count: number, since: number) => Math.max(count * 0.2, seconds(since) * 10) + 20

  const first = performance.now()
  const statuses = await flood(gateway, 1_000, 16)
  const extra = arrived - 1_000
  t.same([...statuses], [[503, 1_000]])
  t.ok(extra > 0 && extra <= mayCome(1_000, first), `${extra} more`)

  const second = performance.now()
  arrived = 0
  await flood(front, 500, 16, '/api/planner/api/planner/x')
  const extraOfTwo = arrived - 500
  t.ok(extraOfTwo <= 0.44 * 500 + mayCome(0, second) * 2, `${extraOfTwo} more through two`)
  await quiet(gateway)
})

t.test('connections to an agent are no more than what is under way, and idle ones go away', async t => {
  const lanes = 24
  const failing = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write(`HTTP/1.1 503 Service Unavailable\r\nContent-Length: 200000\r\n\r\n${'x'.repeat(200_000)}`) } })
  const stuck = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nxxx') } })
  const good = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write(ok('good')) } })
  const gateway = await startGateway(t, {
    balancer: firstInOrder, health: { interval: '1h' }, agents: [agentAt('failing', failing, good), agentAt('stuck', stuck, good), agentAt('good', good)]
  })
  neverEject(gateway)

  await flood(gateway, 300, lanes, '/api/good/x')
  t.ok(good.connections.most <= lanes + 4, `${good.connections.most} for ${lanes} at a time`)
  await flood(gateway, 200, lanes, '/api/failing/x')
  t.ok(failing.connections.most <= lanes + 12, `${failing.connections.most} while answers are dropped`)
  await flood(gateway, 8, 4, '/api/stuck/x') // so few that the budget has a retry for each

  // What an earlier attempt still sends is waited for a second at most, and idle connections are closed: nobody stays.
  await Promise.all([failing.idle(), stuck.idle(), good.idle()])
  for (const agent of ['failing', 'stuck', 'good']) t.equal(underWay(gateway, agent), 0, agent)
})
