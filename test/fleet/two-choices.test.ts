/** src/fleet/two-choices.ts: the policy p2c. */
import t from 'tap'
import fc from 'fast-check'
import type { Agent } from '../../src/fleet/agent.ts'
import { recordLatency } from '../../src/fleet/latency.ts'
import { agentOf, agentWith, answer, balancerOf, choice, instanceOf, names, now, picks, sharesOf } from '../helpers/balancing.ts'
import { seeded } from '../helpers/seeded.ts'

t.test('p2c', async t => {
  /** An agent whose instances have answered in so many milliseconds just now; null is never. */
  function measured (...latencies: (number | null)[]): Agent {
    const agent = agentOf(...latencies.map(() => 1))
    latencies.forEach((ms, index) => {
      if (ms !== null) Object.assign(agent.instances[index]!.runtime.latency, { ms, at: now })
    })
    return agent
  }

  t.test('of two takes the better one, by latency, requests in flight and weight', async t => {
    type Side = Partial<{ ms: number, inFlight: number, weight: number }>
    const table: [name: string, a: Side, b: Side, better: string][] = [
      ['the faster', { ms: 10 }, { ms: 11 }, 'a'],
      ['the faster, also with a little more to do', { ms: 10, inFlight: 1 }, { ms: 21 }, 'a'],
      ['the slower when the faster has too much to do', { ms: 10, inFlight: 2 }, { ms: 29 }, 'b'],
      ['the heavier of two that are alike', { ms: 10, weight: 1 }, { ms: 10, weight: 2 }, 'b'],
      ['the lighter when it is so much faster', { ms: 10, weight: 1 }, { ms: 31, weight: 3 }, 'a'],
      ['the less busy of two that were never measured', { inFlight: 1 }, {}, 'b'],
      ['the less busy of one that was and one that was not', { inFlight: 1 }, { ms: 5_000 }, 'b'],
      ['one that was never measured and has nothing to do', {}, { ms: 1 }, 'a'],
      ['a light one that was never measured and has nothing to do', { weight: 1 }, { ms: 1, weight: 100 }, 'a']
    ]
    for (const [name, a, b, better] of table) {
      const sides = [a, b]
      const agent = agentWith(...sides.map(({ weight }, index) => instanceOf(names[index]!, weight)))
      sides.forEach(({ ms, inFlight = 0 }, index) => {
        const { runtime } = agent.instances[index]!
        runtime.inFlight = inFlight
        if (ms !== undefined) Object.assign(runtime.latency, { ms, at: now })
      })

      t.equal(picks(balancerOf('p2c'), agent, 8), Array(8).fill(better).join(' '), name)
    }
  })

  t.test('draws everybody alike when there is nothing to tell them apart', async t => {
    const shares = sharesOf(balancerOf('p2c'), measured(null, null, null, null), 4_000)

    for (const share of Object.values(shares)) t.ok(share > 900 && share < 1_100, JSON.stringify(shares))
  })

  t.test('draws alike also when most may not be picked', async t => {
    const agent = agentOf(...Array<number>(26).fill(1))
    for (const { id, runtime } of agent.instances) runtime.draining = !'axyz'.includes(id)

    const { a, x, y, z } = sharesOf(balancerOf('p2c'), agent, 4_000)

    for (const share of [a!, x!, y!, z!]) t.ok(share > 900 && share < 1_100, `${a} ${x} ${y} ${z}`)
  })

  t.test('gives nothing to the slowest while nobody has more to do, and double to the fastest', async t => {
    fc.assert(fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 5 }), fc.integer(), (others, seed) => {
      const slowest = Math.max(...others) * 2
      const shares = sharesOf(balancerOf('p2c', {}, seeded(seed).next), measured(slowest, ...others), 1_000)
      const fastest = names[1 + others.indexOf(Math.min(...others))]!
      return shares['a'] === 0 && shares[fastest]! > 0.7 * 1_000 * 2 / (others.length + 1)
    }))
  })

  t.test('neither floods nor starves an instance that was never measured', async t => {
    const agent = measured(20, 20, null)
    const balancer = balancerOf('p2c')

    // Requests keep coming and none is answered.
    for (let count = 0; count < 300; count++) balancer.pick(agent, choice)!.runtime.inFlight++

    for (const { id, runtime } of agent.instances) t.ok(runtime.inFlight > 90 && runtime.inFlight < 110, `${id} has ${runtime.inFlight}`)
  })

  t.test('comes back to an instance that was slow once', async t => {
    const agent = measured(5, 500)
    const [fast] = agent.instances
    const at = (seconds: number) => {
      const later = now + seconds * 1_000
      recordLatency(fast!.runtime.latency, answer(200), 5, later)
      return sharesOf(balancerOf('p2c'), agent, 100, { now: later })
    }

    t.same(at(1), { a: 100, b: 0 })
    t.same(at(31), { a: 0, b: 100 }, 'what is half a minute old tells nothing, so it is asked')
    recordLatency(agent.instances[1]!.runtime.latency, answer(200), 500, now + 31_000)
    t.same(at(32), { a: 100, b: 0 })
  })

  t.test('returns to a slow instance earlier the more the others have to do', async t => {
    const agent = measured(5, 500)
    const [fast] = agent.instances
    fast!.runtime.inFlight = 19
    const betterAfter = (seconds: number) => {
      const later = now + seconds * 1_000
      fast!.runtime.latency.at = later
      return picks(balancerOf('p2c'), agent, 1, { now: later })
    }

    t.equal(betterAfter(1), 'a')
    t.equal(betterAfter(25), 'b')
  })
})
