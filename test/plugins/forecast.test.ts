/** Who would be chosen next: certain where it is, honest where it is not, and without a trace. */
import t from 'tap'
import { forecast, type Forecast } from '../../plugins/upstream/forecast.ts'
import { createBalancer, type BalancerSettings } from '../../src/fleet/balancers.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import { agentOf, agentWith, choice, instanceOf, now } from '../helpers/balancing.ts'

function next (agent: Agent, settings: Partial<BalancerSettings> = {}, changes: { capacity?: number, isBusy?: boolean } = {}): Pick<Forecast, 'by' | 'panic'> & { instance: string | null, candidates: string } {
  const balancerWith = (random: () => number) => createBalancer({ policy: 'round-robin', hashOn: 'address', slowStart: 0, ...settings }, random)
  const { by, panic, instance, candidates } = forecast(agent, { balancerWith, capacity: Infinity, isBusy: false, ...changes }, null, now)
  return { by, panic, instance: instance?.id ?? null, candidates: candidates.map(({ id }) => id).join('') }
}

t.test('the policy\'s choice, a hundred times the same, and then that very choice', async t => {
  for (const policy of ['round-robin', 'weighted', 'least-requests', 'hash'] as const) {
    const agent = agentOf(1, 5, 2)
    const balancer = createBalancer({ policy, hashOn: 'address', slowStart: 0 })
    for (let turn = 0; turn < 8; turn++) {
      const before = JSON.stringify(agent)
      const said = Array.from({ length: 100 }, () => next(agent, { policy }).instance)
      t.equal(JSON.stringify(agent), before, 'nothing has moved')
      t.same(new Set(said), new Set([balancer.pick(agent, choice)!.id]), `${policy}, turn ${turn}`)
    }
  }
})

t.test('lots: of three nobody knows, of two the better one is certain, of two that are alike nobody knows', async t => {
  const slower = agentOf(1, 1)
  slower.instances[0]!.runtime.inFlight = 3
  for (const { runtime } of slower.instances) Object.assign(runtime.latency, { ms: 10, at: now })

  t.match(next(agentOf(1, 1, 1), { policy: 'p2c' }), { by: 'lot', instance: null, candidates: 'abc' })
  t.match(next(slower, { policy: 'p2c' }), { by: 'policy', instance: 'b' })
  t.match(next(agentOf(1, 1), { policy: 'p2c' }), { by: 'lot', instance: null, candidates: 'ab' })
  t.match(next(agentOf(1), { policy: 'p2c' }), { by: 'policy', instance: 'a' })
})

t.test('slow start draws lots only while shares differ and it is the turn of somebody new', async t => {
  const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now - 1_000))

  t.match(next(agent, { slowStart: 10_000 }), { by: 'policy', instance: 'a' })
  agent.rotation.next = 1
  t.match(next(agent, { slowStart: 10_000 }), { by: 'lot', instance: null })
  t.match(next(agentOf(1, 1), { slowStart: 10_000 }), { by: 'policy', instance: 'a' })
})

t.test('panic, a queue, nobody, and a balancer that may not be asked', async t => {
  const agent = agentOf(1, 1)
  for (const { runtime } of agent.instances) runtime.health.up = false

  t.match(next(agent), { by: 'policy', instance: 'a', panic: true, candidates: 'ab' })
  for (const { runtime } of agent.instances) Object.assign(runtime, { inFlight: 1 })
  t.match(next(agent, {}, { capacity: 1, isBusy: true }), { by: 'queue', instance: null, panic: false })
  for (const { runtime } of agent.instances) runtime.draining = true
  t.match(next(agent), { by: 'nobody', instance: null })
  t.match(forecast(agentOf(1), { balancerWith: null, capacity: Infinity, isBusy: false }, null, now), { by: 'application', instance: null })
})
