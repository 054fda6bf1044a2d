/** What several gateways on one Redis say together. */
import { once } from 'node:events'
import t from 'tap'
import type { StatsSnapshot } from '../../plugins/stats/index.ts'
import { agentAt, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'

async function statsOf (gateway: ListeningGateway, query = '?gateways=all', token?: string): Promise<StatsSnapshot> {
  return await (await fetch(`${gateway.origin}/stats${query}`, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } })).json() as StatsSnapshot
}

t.test('figures of all gateways are added up, for who may see the agents, and told apart from those of one', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const agent = await fakeAgent(t)
  const keys = [{ id: 'all', token: 'token-of-all', scopes: ['admin' as const] }, { id: 'some', token: 'token-of-some', scopes: ['read' as const], agents: ['planner'] }]
  const settings = { ...unprobed, auth: { keys }, redis: { url: redis.url }, agents: [agentAt('planner', agent), agentAt('critic', agent)] }
  const [a, b] = await Promise.all([startGateway(t, settings), startGateway(t, settings)])
  const call = (gateway: ListeningGateway, name: string) => fetch(`${gateway.origin}/api/${name}/x`, { headers: { authorization: 'Bearer token-of-all' } })
  for (const [gateway, name] of [[a, 'planner'], [a, 'planner'], [b, 'planner'], [b, 'critic']] as const) t.equal((await call(gateway, name)).status, 200)
  let all = await statsOf(a, '?gateways=all', 'token-of-all')
  while (all.processes!.length < 2) all = await statsOf(a, '?gateways=all', 'token-of-all') // the other is being told of

  t.match(all, { silent: 0, total_proxied: 4, agents: { planner: { requests: 3 }, critic: { requests: 1 } } })
  t.match(all.processes, [{ id: a.peers.self.id }, { id: b.peers.self.id }], 'who answers is the first')
  t.equal(Object.values(all.agents['planner']!.instances)[0]!.requests, 3)
  const own = await statsOf(a, '', 'token-of-all')
  t.equal(own.agents['planner']!.requests, 2)
  t.notOk('processes' in own)
  const { max } = all.agents['planner']!.latency_ms
  t.ok(max > 0 && all.agents['planner']!.latency_ms.p50 <= max)
  const some = await statsOf(b, '?gateways=all', 'token-of-some')
  t.same(Object.keys(some.agents), ['planner'])
  t.equal((await fetch(`${a.origin}/stats?gateways=one`, { headers: { authorization: 'Bearer token-of-all' } })).status, 400)

  await redis.kill()
  const alone = await statsOf(a, '?gateways=all', 'token-of-all')
  t.match(alone, { silent: null, processes: [{ id: a.peers.self.id }], agents: { planner: { requests: 2 } } })

  await redis.restart()
  for (;;) if ((await statsOf(a, '?gateways=all', 'token-of-all')).processes!.length === 2) break
})

t.test('whatever is published in Redis ends no gateway, and is no figure of another', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const settings = { ...unprobed, auth: { enabled: false }, redis: { url: redis.url } }
  const [a, b] = await Promise.all([startGateway(t, settings), startGateway(t, settings)])
  const register = (port: number) => fetch(`${a.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name: 'planner', port }) })
  t.equal((await register(9_001)).status, 201)
  const nested = `{"question":${'['.repeat(5_000)}${']'.repeat(5_000)}}`
  const { epoch } = await redis.ask(async client => ({ epoch: await client.hget('fleet:{registry}:meta', 'epoch') }))
  const garbage = [
    'x', 'null', '[]', '5', '{}', '{"question":{"toString":1,"valueOf":1}}', nested, '{"question":1}', '{"question":1,"from":null,"topic":null}',
    '{"question":1,"from":{"id":1},"value":{}}', '{"question":1,"from":"__proto__","topic":"stats"}', '{"question":1,"from":"x","topic":"registry-local","detail":{"what":"removeAgent","name":"planner"}}',
    `${epoch} NaN x planner`, `${epoch} 1e400 put planner`, `${epoch} 99 put ../x`, ' '
  ]
  const channels = await redis.ask(client => client.call('PUBSUB', 'CHANNELS')) as string[]
  t.ok(channels.length >= 5, channels.join(' '))

  await redis.ask(async client => { for (const channel of channels) for (const text of garbage) await client.publish(channel, text) })

  t.equal((await register(9_002)).status, 201)
  while (b.registry.find('planner')?.instances.length !== 2) await statsOf(b)
  t.same(a.registry.get('planner').instances.length, 2)

  const forging = new AbortController()
  a.peers.answer('stats', () => { forging.abort(); return { agents: [null] } })
  const all = await statsOf(b)
  t.match(all, { silent: 1, processes: [{ id: b.peers.self.id }], total_errors: 0 })
  t.ok(forging.signal.aborted, 'it was asked')
})

t.test('without a Redis all gateways are this one', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth: { enabled: false }, agents: [agentAt('planner', agent)] })
  await once(agent.server, 'connection')

  t.match(await statsOf(gateway), { silent: 0, processes: [{ id: gateway.peers.self.id }] })
})
