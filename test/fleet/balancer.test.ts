/** src/fleet/balancer.ts and what holds for every balancer; those that take turns; and who is available at all. */
import t from 'tap'
import fc from 'fast-check'
import { statusOf } from '../../src/fleet/agent.ts'
import type { Attempt } from '../../src/fleet/attempt.ts'
import { balancerPolicies } from '../../src/fleet/balancers.ts'
import { isAvailable, isServing, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { recordLatency } from '../../src/fleet/latency.ts'
import { roundRobin } from '../../src/fleet/round-robin.ts'
import { smoothWeighted } from '../../src/fleet/smooth-weighted.ts'
import { agentOf, agentWith, answer, balancerOf, choice, client, instanceOf, now, picks, sharesOf } from '../helpers/balancing.ts'
import { seeded } from '../helpers/seeded.ts'

/** Ways in which an instance may not be picked, and panic mode's word on them. */
const spoilt: [state: string, spoil: (instance: Instance) => void, panicTakesIt: boolean][] = [
  ['down', ({ runtime }) => { runtime.health.up = false }, true],
  ['draining', ({ runtime }) => { runtime.draining = true }, false],
  ['ejected', ({ runtime }) => { runtime.health.ejectedUntil = Infinity }, true]
]

t.test('every policy', async t => {
  for (const policy of balancerPolicies) {
    await t.test(`${policy} never picks who may not be picked, and in the end everybody else`, async t => {
      const conditions = fc.record({ weight: fc.integer({ min: 1, max: 20 }), state: fc.constantFrom('up', 'up', 'down', 'draining', 'ejected', 'tried'), inFlight: fc.nat(3), ageMs: fc.nat(60_000) })
      fc.assert(fc.property(fc.array(conditions, { minLength: 1, maxLength: 6 }), fc.boolean(), fc.constantFrom(0, 30_000), fc.integer(), (fleet, panic, slowStart, seed) => {
        const agent = agentOf(...fleet.map(({ weight }) => weight))
        const tried: Instance[] = []
        fleet.forEach(({ state, ageMs }, index) => {
          const instance = agent.instances[index]!
          instance.runtime.health.servingSince = now - ageMs
          if (state === 'tried') tried.push(instance)
          spoilt.find(([name]) => name === state)?.[1](instance)
        })
        const allowed = agent.instances.filter((instance, index) => {
          const { state } = fleet[index]!
          return state === 'up' || (panic && state !== 'draining' && state !== 'tried')
        })
        const balancer = balancerOf(policy, { slowStart }, seeded(seed).next)
        const picked = new Set<Instance>()
        for (let round = 0; round < 3_000; round++) {
          const instance = balancer.pick(agent, { tried, now: now + round * 100, panic, capacity: Infinity, asker: client(round) })
          if (instance === undefined) return allowed.length === 0
          if (!allowed.includes(instance)) return false
          picked.add(instance)
          recordLatency(instance.runtime.latency, answer(200), instance.weight, now + round * 100)
          // As if each answered at once, but for those that have something to do whenever one looks.
          for (const [index, { runtime }] of agent.instances.entries()) runtime.inFlight = round % 7 < fleet[index]!.inFlight ? 1 : 0
        }
        return picked.size === allowed.length
      }), { numRuns: 60 })
    })

    await t.test(`${policy} has nobody for an agent without instances, and the only one for an agent with one`, async t => {
      t.equal(picks(balancerOf(policy), agentOf(), 1), 'none')
      t.equal(picks(balancerOf(policy, { slowStart: 10_000 }), agentWith(instanceOf('a', 3, now)), 4, { asker: client(1) }), 'a a a a')
    })

    for (const [state, spoil, panicTakesIt] of spoilt) {
      await t.test(`${policy} takes what is ${state} in panic mode ${panicTakesIt ? 'only' : 'neither'}`, async t => {
        const agent = agentOf(1)
        spoil(agent.instances[0]!)

        t.equal(stateOf(agent.instances[0]!), state)
        t.equal(picks(balancerOf(policy), agent, 1, { asker: client(1) }), 'none')
        t.equal(picks(balancerOf(policy), agent, 1, { asker: client(1), panic: true }), panicTakesIt ? 'a' : 'none')
        t.equal(picks(balancerOf(policy), agent, 1, { asker: client(1), panic: true, tried: agent.instances }), 'none')
      })
    }

    await t.test(`${policy} has forgotten nothing when it is made anew, as for an agent that changed`, async t => {
      const [once, anew] = [agentOf(3, 2, 1), agentOf(3, 2, 1)]
      const random = [seeded(7).next, seeded(7).next]
      const balancer = balancerOf(policy, {}, random[0])

      for (let round = 0; round < 20; round++) {
        const same = { asker: client(round) }
        const other = { ...anew, instances: [...anew.instances] }
        t.equal(picks(balancerOf(policy, {}, random[1]), other, 1, same), picks(balancer, once, 1, same))
      }
    })
  }
})

t.test('an agent of which nothing is well is down, and one of which something is, degraded', async t => {
  const agent = agentOf(1, 1)
  agent.instances[0]!.runtime.health.up = false
  t.equal(statusOf(agent), 'degraded')
  agent.instances[1]!.runtime.draining = true
  t.equal(statusOf(agent), 'down')
  t.equal(statusOf(agentOf()), 'down')
})

t.test('an ejected instance whose time is over takes exactly one trial request', async t => {
  const { instances: [instance] } = agentOf(1)
  instance!.runtime.health.ejectedUntil = now

  t.equal(isAvailable(instance!, now), true)
  t.equal(isServing(instance!), false, 'until it has passed it does not count as serving')
  Object.assign(instance!.runtime.health, { trial: {} as Attempt, trialUntil: now + 1 })
  t.equal(isAvailable(instance!, now), false)
})

t.test('round robin', async t => {
  t.test('alternates exactly, whatever the weights', async t => {
    t.equal(picks(roundRobin, agentOf(1, 5, 1), 7), 'a b c a b c a')
  })

  t.test('passes over who may not be picked, and alternates among the rest', async t => {
    for (const [state, spoil] of spoilt) {
      const agent = agentOf(1, 1, 1)
      spoil(agent.instances[1]!)

      t.equal(picks(roundRobin, agent, 4), 'a c a c', state)
    }
  })

  t.test('gives shares that differ by at most one, whoever is there', async t => {
    fc.assert(fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 40 }), (up, rounds) => {
      const agent = agentOf(...up.map(() => 1))
      up.forEach((value, index) => { agent.instances[index]!.runtime.health.up = value })
      const shares = sharesOf(roundRobin, agent, rounds)
      const available = agent.instances.filter(instance => isAvailable(instance, now)).map(({ id }) => shares[id]!)
      return available.length === 0 || Math.max(...available) - Math.min(...available) <= 1
    }))
  })
})

t.test('weighted', async t => {
  const table: [weights: number[], sequence: string][] = [
    [[5, 1, 1], 'a a b a c a a a a b a c a a'], // the sequence that nginx publishes
    [[1, 1, 1], 'a b c a b c'],
    [[2, 1], 'a b a a b a'],
    [[1, 2, 3], 'c b a c b c c b a c b c'],
    [[1_000], 'a a a']
  ]
  for (const [weights, sequence] of table) {
    t.test(`with weights ${weights.join(', ')} it is ${sequence}`, async t => {
      t.equal(picks(smoothWeighted, agentOf(...weights), sequence.split(' ').length), sequence)
    })
  }

  t.test('gives everybody exactly their weight in each period, wherever it begins', async t => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 8 }), fc.nat(50), (weights, before) => {
      const agent = agentOf(...weights)
      picks(smoothWeighted, agent, before)
      const shares = sharesOf(smoothWeighted, agent, weights.reduce((sum, weight) => sum + weight))
      return agent.instances.every(({ id, weight }) => shares[id] === weight)
    }))
  })

  t.test('begins a new proportion at once when weights change a thousandfold', async t => {
    const before = agentOf(1_000, 1_000)
    picks(smoothWeighted, before, 1)
    const after = agentWith(...before.instances.map(instance => ({ ...instance, weight: 1 })))

    const shares = sharesOf(smoothWeighted, after, 12)

    t.ok(shares['a']! >= 4 && shares['b']! >= 4, JSON.stringify(shares))
  })

  t.test('leaves nobody out for long when the heaviest goes away', async t => {
    const agent = agentOf(1_000, 1, 1)
    picks(smoothWeighted, agent, 503) // until b or c has just had its turn
    agent.instances[0]!.runtime.health.up = false

    const shares = sharesOf(smoothWeighted, agent, 12)

    t.ok(shares['b']! >= 4 && shares['c']! >= 4, JSON.stringify(shares))
  })
})

t.test('least-requests', async t => {
  const table: [name: string, weights: number[], inFlight: number[], picked: string][] = [
    ['the one with the fewest', [1, 1, 1], [2, 1, 3], 'b b b b'],
    ['the fewest for the weight', [1, 4, 1], [1, 3, 1], 'b b b b'],
    ['more for more weight', [1, 3], [1, 4], 'a a a a'],
    ['ties in rotation', [1, 1, 1], [1, 1, 1], 'a b c a'],
    ['ties among some in rotation', [1, 1, 1], [1, 4, 1], 'a c a c'],
    ['ties by weight', [3, 1], [0, 0], 'a a b a'],
    ['a tie by weight in flight, too', [3, 1], [3, 1], 'a a b a'],
    ['a tie of thirds', [3, 6], [1, 2], 'b a b b']
  ]
  for (const [name, weights, inFlight, picked] of table) {
    t.test(`takes ${name}`, async t => {
      const agent = agentOf(...weights)
      inFlight.forEach((count, index) => { agent.instances[index]!.runtime.inFlight = count })

      t.equal(picks(balancerOf('least-requests'), agent, 4), picked)
    })
  }

  t.test('fills everybody in proportion while nothing ends', async t => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }), fc.integer({ min: 1, max: 5 }), (weights, rounds) => {
      const agent = agentOf(...weights)
      const balancer = balancerOf('least-requests')
      const total = weights.reduce((sum, weight) => sum + weight)
      for (let count = 0; count < total * rounds; count++) balancer.pick(agent, choice)!.runtime.inFlight++
      return agent.instances.every(({ runtime, weight }) => Math.abs(runtime.inFlight - weight * rounds) <= weights.length)
    }))
  })
})
