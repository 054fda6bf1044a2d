import t from 'tap'
import fc from 'fast-check'
import { statusOf, type Agent } from '../../src/fleet/agent.ts'
import type { Attempt } from '../../src/fleet/attempt.ts'
import type { Choice } from '../../src/fleet/balancer.ts'
import { roundRobin } from '../../src/fleet/round-robin.ts'
import { isAvailable, isServing, newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'

const now = 1_000_000

const choice: Choice = { tried: [], now, panic: false, capacity: Infinity, asker: null }

function agentOf (count: number): Agent {
  const instances = Array.from({ length: count }, (_, index): Instance => ({
    id: `i${index}`, agent: 'planner', protocol: 'http', host: 'localhost', port: 9000 + index, origin: `http://localhost:${9000 + index}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime()
  }))
  return { name: 'planner', aliases: [], metadata: {}, policy: {}, instances, rotation: { next: 0 } }
}

function picks (agent: Agent, count: number): string[] {
  return Array.from({ length: count }, () => roundRobin.pick(agent, choice)?.id ?? 'none')
}

t.test('instances alternate exactly', async t => {
  t.same(picks(agentOf(3), 7), ['i0', 'i1', 'i2', 'i0', 'i1', 'i2', 'i0'])
})

t.test('an instance that may not take requests is passed over, and alternation goes on among the rest', async t => {
  const table: [string, (instance: Instance) => void][] = [
    ['down', ({ runtime }) => { runtime.health.up = false }],
    ['draining', ({ runtime }) => { runtime.draining = true }],
    ['ejected', ({ runtime }) => { runtime.health.ejectedUntil = now + 1 }]
  ]
  for (const [state, spoil] of table) {
    const agent = agentOf(3)
    spoil(agent.instances[1]!)

    t.equal(stateOf(agent.instances[1]!), state)
    t.same(picks(agent, 4), ['i0', 'i2', 'i0', 'i2'], state)
    t.equal(statusOf(agent), 'degraded')
  }
})

t.test('an ejected instance whose time is over takes exactly one trial request', async t => {
  const [instance] = agentOf(1).instances
  instance!.runtime.health.ejectedUntil = now

  t.equal(isAvailable(instance!, now), true)
  t.equal(isServing(instance!), false, 'until it has passed it does not count as serving')
  instance!.runtime.health.trial = {} as Attempt
  t.equal(isAvailable(instance!, now), false)
})

t.test('panic mode takes what is down or ejected, but never what drains', async t => {
  const agent = agentOf(3)
  agent.instances[0]!.runtime.health.up = false
  agent.instances[1]!.runtime.health.ejectedUntil = now + 1
  agent.instances[2]!.runtime.draining = true

  t.equal(roundRobin.pick(agent, choice), undefined)
  t.equal(roundRobin.pick(agent, { ...choice, panic: true })?.id, 'i0')
  t.equal(roundRobin.pick(agent, { ...choice, panic: true, tried: agent.instances.slice(0, 2) }), undefined)
  t.equal(statusOf(agent), 'down')
})

t.test('an agent without instances has nobody to pick and is down', async t => {
  t.equal(roundRobin.pick(agentOf(0), choice), undefined)
  t.equal(statusOf(agentOf(0)), 'down')
})

t.test('whatever is available, the pick is available and untried, and shares differ by at most one', async t => {
  fc.assert(fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 40 }), (up, rounds) => {
    const agent = agentOf(up.length)
    up.forEach((value, index) => { agent.instances[index]!.runtime.health.up = value })
    const counts = new Map<Instance, number>()
    for (let round = 0; round < rounds; round++) {
      const picked = roundRobin.pick(agent, choice)
      if (picked === undefined) return !agent.instances.some(instance => isAvailable(instance, now))
      if (!isAvailable(picked, now)) return false
      counts.set(picked, (counts.get(picked) ?? 0) + 1)
    }
    const shares = agent.instances.filter(instance => isAvailable(instance, now)).map(instance => counts.get(instance) ?? 0)
    return Math.max(...shares) - Math.min(...shares) <= 1
  }))
})
