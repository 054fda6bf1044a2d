/** src/fleet/balancer.ts and the balancers beside it, slow start, and the latency they look at. */
import t from 'tap'
import fc from 'fast-check'
import { statusOf, type Agent } from '../../src/fleet/agent.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Asker, Balancer, Choice } from '../../src/fleet/balancer.ts'
import { balancerPolicies, createBalancer, type BalancerPolicy, type BalancerSettings } from '../../src/fleet/balancers.ts'
import { isAvailable, isServing, newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { recordLatency, trustIn, type LatencyRecord } from '../../src/fleet/latency.ts'
import { recordAttempt, recordProbe } from '../../src/fleet/outlier.ts'
import { roundRobin } from '../../src/fleet/round-robin.ts'
import { smoothWeighted } from '../../src/fleet/smooth-weighted.ts'

const now = 1_000_000

const choice: Choice = { tried: [], now, panic: false, capacity: Infinity, asker: null }

const names = 'abcdefghijklmnopqrstuvwxyz'

/** @param servingSince always, when left out */
function instanceOf (id: string, weight = 1, servingSince = 0): Instance {
  return { id, agent: 'planner', protocol: 'http', host: id, port: 9000, origin: `http://${id}:9000`, weight, source: 'file', trusted: true, lease: null, runtime: newRuntime(servingSince) }
}

function agentWith (...instances: Instance[]): Agent {
  return { name: 'planner', aliases: [], metadata: {}, policy: {}, instances, rotation: { next: 0 } }
}

/** Instances a, b, c and so on, of these weights. */
function agentOf (...weights: number[]): Agent {
  return agentWith(...weights.map((weight, index) => instanceOf(names[index]!, weight)))
}

function balancerOf (policy: BalancerPolicy, settings: Partial<BalancerSettings> = {}, random = seeded(1)): Balancer {
  return createBalancer({ policy, hashOn: 'address', slowStart: 0, ...settings }, random)
}

/** Numbers from 0 to below 1 that are the same each time (mulberry32). */
function seeded (seed: number): () => number {
  let state = seed
  return () => {
    state = state + 0x6d2b79f5 | 0
    let bits = Math.imul(state ^ state >>> 15, 1 | state)
    bits = bits + Math.imul(bits ^ bits >>> 7, 61 | bits) ^ bits
    return ((bits ^ bits >>> 14) >>> 0) / 2 ** 32
  }
}

/** Who is picked, in a row: `a b a`. */
function picks (balancer: Balancer, agent: Agent, count: number, changes: Partial<Choice> = {}): string {
  return Array.from({ length: count }, () => balancer.pick(agent, { ...choice, ...changes })?.id ?? 'none').join(' ')
}

/** How often each is picked. */
function sharesOf (balancer: Balancer, agent: Agent, count: number, changes: Partial<Choice> = {}): Record<string, number> {
  const shares = Object.fromEntries(agent.instances.map(({ id }) => [id, 0]))
  for (const id of picks(balancer, agent, count, changes).split(' ')) shares[id] = (shares[id] ?? 0) + 1
  return shares
}

function askerAt (clientAddress: string, headers: Asker['headers'] = {}): Asker {
  return { clientAddress, headers }
}

/** A client of its own for each number. */
function client (number: number): Asker {
  return askerAt(`10.${number >> 16 & 255}.${number >> 8 & 255}.${number & 255}`)
}

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
        const balancer = balancerOf(policy, { slowStart }, seeded(seed))
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
      const random = [seeded(7), seeded(7)]
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
      const shares = sharesOf(balancerOf('p2c', {}, seeded(seed)), measured(slowest, ...others), 1_000)
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

/** An attempt that came out so. */
function attemptThat (outcome: AttemptOutcome, status = 0): Attempt {
  return { instance: instanceOf('a'), instanceId: 'a', startedMark: 0, outcome, status, durationMs: 0 }
}

function answer (status: number): Attempt {
  return attemptThat('answered', status)
}

t.test('latency', async t => {
  const measuredNow = (ms: number): LatencyRecord => ({ ms, at: now })

  t.test('is what was measured first', async t => {
    const record: LatencyRecord = { ms: 0, at: 0 }
    t.equal(trustIn(record, now), 0)
    recordLatency(record, answer(200), 12, now)
    t.same(record, { ms: 12, at: now })
    t.equal(trustIn(record, now), 1)
  })

  t.test('rises at once and falls with time', async t => {
    const record = measuredNow(10)
    recordLatency(record, answer(200), 100, now)
    t.equal(record.ms, 100)

    recordLatency(record, answer(200), 10, now)
    t.equal(record.ms, 100, 'no time has passed')

    recordLatency(record, answer(200), 10, now + 10_000)
    t.ok(Math.abs(record.ms - (10 + 90 / Math.E)) < 0.001, String(record.ms))
  })

  t.test('is forgotten after half a minute without an answer', async t => {
    const record = measuredNow(1_000)
    t.ok(trustIn(record, now + 29_999) > 0)
    t.equal(trustIn(record, now + 30_000), 0)
    recordLatency(record, answer(200), 3, now + 30_000)
    t.equal(record.ms, 3)
  })

  t.test('survives a clock that is put back', async t => {
    t.equal(trustIn(measuredNow(1), now - 3_600_000), 1)
  })

  t.test('is never lowered by what is no good answer', async t => {
    const quick: Attempt[] = [
      ...(['refused', 'connect-timeout', 'reset', 'timeout', 'invalid', 'stale', 'aborted'] as const).map(outcome => attemptThat(outcome)),
      ...[429, 500, 501, 502, 503, 504, 505].map(answer)
    ]
    for (const attempt of quick) {
      const [slow, unknown] = [measuredNow(5_000), { ms: 0, at: 0 }]
      recordLatency(slow, attempt, 0.1, now + 5_000)
      recordLatency(unknown, attempt, 0.1, now)

      t.ok(slow.ms >= 5_000, `${attempt.outcome} ${attempt.status}: ${slow.ms}`)
      t.ok(unknown.at === 0 || unknown.ms >= 1_000, `${attempt.outcome} ${attempt.status} where nothing is known: ${unknown.ms}`)
    }
  })

  t.test('is raised by failures, and by whatever took long', async t => {
    const table: [Attempt, took: number, ms: number][] = [
      [attemptThat('refused'), 1, 1_000], [attemptThat('timeout'), 30_000, 30_000], [answer(503), 1, 1_000],
      [answer(500), 1, 10], [answer(500), 700, 700], [attemptThat('aborted'), 700, 700], [attemptThat('stale'), 700, 10], [answer(404), 700, 700]
    ]
    for (const [attempt, took, ms] of table) {
      const record = measuredNow(10)
      recordLatency(record, attempt, took, now)
      t.equal(record.ms, ms, `${attempt.outcome} ${attempt.status}`)
    }
  })

  t.test('is never nothing, so that requests in flight count', async t => {
    const record: LatencyRecord = { ms: 0, at: 0 }
    recordLatency(record, answer(200), 0, now)
    t.ok(record.ms > 0)
  })
})

t.test('hash', async t => {
  const hash = balancerOf('hash')
  /** Who serves each of so many clients. */
  const mapOf = (agent: Agent, clients: number, balancer = hash) => Array.from({ length: clients }, (_, number) => balancer.pick(agent, { ...choice, asker: client(number) })!.id)

  t.test('decides as ever: a next version must not move clients', async t => {
    t.equal(mapOf(agentOf(1, 1, 1, 1), 24).join(''), 'adbbdbaaaabbcacdcbbacbcc')
    t.equal(mapOf(agentOf(1, 2, 3), 24).join(''), 'acbbcbaaccbbcccccbbccbcc')
  })

  t.test('decides by ids of instances alone, not by their order or anything before', async t => {
    const agent = agentOf(3, 1, 2, 1)
    const other = agentWith(...[...agent.instances].reverse().map(({ id, weight }) => instanceOf(id, weight)))

    t.same(mapOf(agent, 500), mapOf(other, 500, balancerOf('hash')))
    t.same(mapOf(agent, 500), mapOf(agent, 500))
  })

  t.test('moves only clients of an instance that goes, and moves clients only to one that comes', async t => {
    const weights = fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 2, maxLength: 8 })
    fc.assert(fc.property(weights, fc.nat(), (all, which) => {
      const agent = agentOf(...all)
      const gone = agent.instances[which % all.length]!
      const without = agentWith(...agent.instances.filter(instance => instance !== gone))
      const [before, after] = [mapOf(agent, 300), mapOf(without, 300)]
      return before.every((id, index) => id === gone.id || id === after[index])
    }))
  })

  t.test('treats one that is down as one that went, and one that was tried likewise', async t => {
    const agent = agentOf(1, 1, 1, 1)
    const [first] = agent.instances
    const before = mapOf(agent, 300)
    const others = mapOf(agentWith(...agent.instances.slice(1)), 300)
    first!.runtime.health.up = false

    t.same(mapOf(agent, 300), others)
    first!.runtime.health.up = true
    t.same(mapOf(agent, 300), before, 'and when it is back, so are its clients')
    const retried = before.map((_, number) => hash.pick(agent, { ...choice, asker: client(number), tried: [first!] })!.id)
    t.same(retried, others)
  })

  t.test('has an order for each client, in which retries go on', async t => {
    const agent = agentOf(1, 1, 1, 1)
    const orders = new Set<string>()
    for (let number = 0; number < 500; number++) {
      const tried: Instance[] = []
      for (let next = hash.pick(agent, { ...choice, asker: client(number) }); next !== undefined; next = hash.pick(agent, { ...choice, asker: client(number), tried })) tried.push(next)
      t.equal(tried.length, 4)
      orders.add(tried.map(({ id }) => id).join(''))
    }
    t.equal(orders.size, 24, 'clients of a dead instance spread over all others')
  })

  t.test('spreads clients by weight', async t => {
    const table = [[1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 3], [10, 1, 1], [5, 4, 3, 2, 1], [1_000, 1_000]]
    for (const weights of table) {
      const clients = 20_000
      const counts = new Map<string, number>()
      for (const id of mapOf(agentOf(...weights), clients)) counts.set(id, (counts.get(id) ?? 0) + 1)
      const total = weights.reduce((sum, weight) => sum + weight)
      for (const [index, weight] of weights.entries()) {
        const expected = clients * weight / total
        const got = counts.get(names[index]!) ?? 0
        t.ok(Math.abs(got - expected) < 5 * Math.sqrt(expected), `${weights.join(', ')}: ${names[index]} has ${got}, not ${expected}`)
      }
    }
  })

  t.test('spreads keys that differ in one letter, over instances whose ids do', async t => {
    const agent = agentWith(...Array.from({ length: 10 }, (_, index) => instanceOf(`00000000000${index}`)))
    const byUser = balancerOf('hash', { hashOn: 'header:x-user' })
    const counts = new Map<string, number>()
    for (let number = 0; number < 10_000; number++) {
      const { id } = byUser.pick(agent, { ...choice, asker: askerAt('::1', { 'x-user': `user-${number}` }) })!
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    for (const [id, count] of counts) t.ok(Math.abs(count - 1_000) < 160, `${id}: ${count}`)
    t.equal(counts.size, 10)
  })

  t.test('tells clients apart by what hashOn names, and by address where that is missing', async t => {
    const agent = agentOf(...Array<number>(20).fill(1))
    const served = (hashOn: string, headers: Asker['headers'], address = '192.0.2.1') => balancerOf('hash', { hashOn }).pick(agent, { ...choice, asker: askerAt(address, headers) })!.id
    const byAddress = served('address', {})
    const by = (key: string) => served('address', {}, key)
    const table: [hashOn: string, headers: Asker['headers'], key: string | null][] = [
      ['header:X-User', { 'x-user': 'ada' }, 'ada'],
      ['header:x-user', { 'x-user': ' ada ' }, ' ada '],
      ['header:x-user', { 'x-user': ['ada', 'bob'] }, 'ada, bob'],
      ['header:x-user', {}, null],
      ['header:x-user', { 'x-user': '' }, null],
      ['header:x-user', { 'X-User': 'ada' }, null],
      ['header:constructor', {}, null],
      ['header:__proto__', {}, null],
      ['cookie:sid', { cookie: 'sid=1' }, '1'],
      ['cookie:sid', { cookie: 'a=b; sid=1; c=d' }, '1'],
      ['cookie:sid', { cookie: 'a=b;sid=1=2' }, '1=2'],
      ['cookie:sid', { cookie: 'sid=1; sid=2' }, '1'],
      ['cookie:sid', { cookie: 'sid="1"' }, '"1"'],
      ['cookie:sid', { cookie: 'xsid=1; sidx=2; SID=3' }, null],
      ['cookie:sid', { cookie: 'sid' }, null],
      ['cookie:sid', { cookie: 'sid=' }, null],
      ['cookie:sid', {}, null],
      ['address', { 'x-user': 'ada', cookie: 'sid=1' }, null]
    ]
    for (const [hashOn, headers, key] of table) {
      t.equal(served(hashOn, headers), key === null ? byAddress : by(key), `${hashOn} of ${JSON.stringify(headers)}`)
    }
    t.not(by('ada'), byAddress)
  })

  t.test('takes turns for whoever can not be told apart at all', async t => {
    t.equal(picks(hash, agentOf(1, 1), 4), 'a b a b')
    t.equal(picks(hash, agentOf(1, 1), 4, { asker: askerAt('') }), 'a b a b')
  })
})

t.test('slow start', async t => {
  const slowStart = 60_000
  const policies = ['round-robin', 'weighted', 'least-requests', 'p2c'] as const
  const choices = 20_000
  /** The share of the second of two, that has served for so long, of what it will have in the end. */
  const shareAt = (policy: BalancerPolicy, ageMs: number) => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now - ageMs))
    return sharesOf(balancerOf(policy, { slowStart }, seeded(ageMs)), agent, choices)['b']! / (choices / 2)
  }

  for (const policy of policies) {
    t.test(`${policy} lets the share of a new instance grow from about a tenth to all of it`, async t => {
      const ages = [0, 12_000, 24_000, 36_000, 48_000, 60_000]
      const shares = ages.map(age => shareAt(policy, age))

      t.ok(shares[0]! > 0.08 && shares[0]! < 0.22, `at first ${shares[0]}`)
      for (const [index, share] of shares.entries()) if (index > 0) t.ok(share > shares[index - 1]!, `it grows: ${shares.join(' ')}`)
      t.ok(shares[5]! > 0.95 && shares[5]! < 1.05, `in the end ${shares[5]}`)
    })

    t.test(`${policy} is what it is without when all are equally new`, async t => {
      for (const ageMs of [0, 30_000, 60_000]) {
        const fleet = () => agentWith(instanceOf('a', 3, now - ageMs), instanceOf('b', 2, now - ageMs), instanceOf('c', 1, now - ageMs))
        t.equal(picks(balancerOf(policy, { slowStart }, seeded(3)), fleet(), 30), picks(balancerOf(policy, {}, seeded(3)), fleet(), 30))
      }
    })
  }

  t.test('spares an instance again whenever it comes back', async t => {
    const later = now + 3_600_000
    const rules = { unhealthyAfter: 1, healthyAfter: 1 }
    const trial = { ...answer(200), instance: instanceOf('b') }
    const table: [name: string, comeBack: (agent: Agent, instance: Instance) => void][] = [
      ['up', (_agent, instance) => { recordProbe(instance, false, rules, later - 1); recordProbe(instance, true, rules, later) }],
      ['restored by probes', (_agent, instance) => { Object.assign(instance.runtime.health, { ejectedUntil: later + 1, ejectedFor: 'connection' }); recordProbe(instance, true, rules, later) }],
      ['restored by its trial', (agent, instance) => { Object.assign(instance.runtime.health, { ejectedUntil: later, trial }); recordAttempt(agent, Object.assign(trial, { instance }), later) }]
    ]
    for (const [name, comeBack] of table) {
      const agent = agentOf(1, 1)
      const instance = agent.instances[1]!
      comeBack(agent, instance)

      t.equal(isServing(instance), true, name)
      t.ok(sharesOf(balancerOf('round-robin', { slowStart }), agent, 1_000, { now: later })['b']! < 150, name)
      recordProbe(instance, true, rules, later + slowStart)
      t.equal(sharesOf(balancerOf('round-robin', { slowStart }), agent, 1_000, { now: later + slowStart })['b'], 500, name)
    }
  })

  t.test('leaves the old ones their exact alternation', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b'), instanceOf('new', 1, now))
    const sequence = picks(balancerOf('round-robin', { slowStart }), agent, 300).split(' ').filter(id => id !== 'new')

    t.ok(sequence.every((id, index) => index === 0 || id !== sequence[index - 1]))
  })

  t.test('does not keep a request from the only instance that is left', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now - 1_000), instanceOf('c', 1, now))
    agent.instances[0]!.runtime.health.up = false

    for (const policy of policies) {
      const shares = sharesOf(balancerOf(policy, { slowStart }), agent, 100)
      t.equal(shares['b']! + shares['c']!, 100, policy)
    }
  })

  t.test('compares with whoever has served longest, when all are new', async t => {
    const agent = agentWith(instanceOf('a', 1, now - 30_000), instanceOf('b', 1, now - 15_000))

    const { a, b } = sharesOf(balancerOf('round-robin', { slowStart }), agent, 3_000)

    t.equal(a! + b!, 3_000, 'there is always somebody')
    t.ok(b! > 900 && b! < 1_100, `half a share against one is a third, not ${b} of 3000`)
  })

  t.test('does not move clients under hash', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now))
    const ids = (settings: Partial<BalancerSettings>) => Array.from({ length: 100 }, (_, number) => balancerOf('hash', settings).pick(agent, { ...choice, asker: client(number) })!.id)

    t.same(ids({ slowStart }), ids({}))
  })

  t.test('survives a clock that is put back', async t => {
    const agent = agentWith(instanceOf('a', 1, now + 3_600_000), instanceOf('b', 1, now + 3_600_000))

    t.equal(picks(balancerOf('round-robin', { slowStart }), agent, 4), 'a b a b')
  })
})
