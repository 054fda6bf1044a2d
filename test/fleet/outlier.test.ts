import fc from 'fast-check'
import t from 'tap'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import { isAvailable, isHealthy, newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { beginTrial, forgetProbes, isConclusive, longestEjectionMs, needsFastProbe, recordAttempt, recordProbe, type ProbeOutcome } from '../../src/fleet/outlier.ts'

const start = 1_700_000_000_000
const thresholds = { unhealthyAfter: 3, healthyAfter: 2 }

function instanceOf (port: number): Instance {
  return { id: `i${port}`, agent: 'planner', protocol: 'http', host: 'localhost', port, origin: `http://localhost:${port}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }
}

function agentOf (count: number): Agent {
  const instances = Array.from({ length: count }, (_, index) => instanceOf(8_501 + index))
  return { name: 'planner', aliases: [], metadata: {}, policy: {}, instances, rotation: { next: 0 } }
}

/** An agent with `count` instances, and a clock and a shorthand for what happens to the first of them. */
function scene (count = 2) {
  const agent = agentOf(count)
  const first = agent.instances[0]!
  return {
    agent,
    first,
    second: agent.instances[1]!,
    now: start,
    begin (instance = first): Attempt {
      const attempt: Attempt = { instance, instanceId: instance.id, startedMark: 0, outcome: 'pending', status: 0, durationMs: 0 }
      beginTrial(attempt, this.now)
      return attempt
    },
    settle (attempt: Attempt, outcome: AttemptOutcome, status = 0) {
      Object.assign(attempt, { outcome, status })
      return recordAttempt(agent, attempt, this.now)
    },
    attempt (outcome: AttemptOutcome, status = 0, instance = first) {
      return this.settle(this.begin(instance), outcome, status)
    },
    fail (times: number, outcome: AttemptOutcome = 'refused', status = 0, instance = first) {
      return Array.from({ length: times }, () => this.attempt(outcome, status, instance))
    },
    probe (...results: boolean[]) {
      return results.map(ok => recordProbe(first, ok, thresholds, this.now))
    },
    /** How long the first instance is still ejected. */
    get leftMs () { return first.runtime.health.ejectedUntil - this.now },
    get state () { return stateOf(first) }
  }
}

t.test('probes: so many failures in a row are down, so many successes in a row are up', async t => {
  const cases: [results: string, state: string][] = [
    ['', 'up'],
    ['--', 'up'],
    ['--+--', 'up'],
    ['---', 'down'],
    ['---+', 'down'],
    ['---+-+', 'down'],
    ['---++', 'up'],
    ['---++--', 'up'],
    ['---++---', 'down']
  ]
  for (const [results, state] of cases) {
    const s = scene()
    s.probe(...[...results].map(result => result === '+'))
    t.equal(s.state, state, results)
  }
})

t.test('attempts: five failures in a row eject for 30 s', async t => {
  const cases: [name: string, outcome: AttemptOutcome, status: number, state: string][] = [
    ['refused', 'refused', 0, 'ejected'],
    ['connect timeout', 'connect-timeout', 0, 'ejected'],
    ['reset', 'reset', 0, 'ejected'],
    ['timeout', 'timeout', 0, 'ejected'],
    ['no HTTP', 'invalid', 0, 'ejected'],
    ['502', 'answered', 502, 'ejected'],
    ['503', 'answered', 503, 'ejected'],
    ['504', 'answered', 504, 'ejected'],
    ['500', 'answered', 500, 'up'],
    ['501', 'answered', 501, 'up'],
    ['404', 'answered', 404, 'up'],
    ['stale', 'stale', 0, 'up'],
    ['aborted', 'aborted', 0, 'up']
  ]
  for (const [name, outcome, status, state] of cases) {
    const s = scene()
    s.fail(4, outcome, status)
    t.equal(s.state, 'up', `four times ${name}`)
    s.fail(1, outcome, status)
    t.equal(s.state, state, `five times ${name}`)
    if (state === 'ejected') t.equal(s.leftMs, 30_000)
  }
})

t.test('a success ends the run of failures; what says nothing does not', async t => {
  const cases: [outcome: AttemptOutcome, status: number, state: string][] = [
    ['answered', 200, 'up'],
    ['answered', 404, 'up'],
    ['answered', 500, 'ejected'],
    ['aborted', 0, 'ejected'],
    ['stale', 0, 'ejected']
  ]
  for (const [outcome, status, state] of cases) {
    const s = scene()
    s.fail(4)
    s.attempt(outcome, status)
    s.fail(1)
    t.equal(s.state, state, `${outcome} ${status}`)
  }
})

t.test('the last healthy instance is never ejected', async t => {
  const alone = scene(1)
  alone.fail(50)
  t.equal(alone.state, 'up')

  const s = scene(2)
  s.fail(5)
  s.fail(50, 'refused', 0, s.second)
  t.same([s.state, stateOf(s.second)], ['ejected', 'up'])

  const draining = scene(2)
  draining.second.runtime.draining = true
  draining.fail(50)
  t.equal(draining.state, 'up', 'one that drains takes nothing over')

  const down = scene(2)
  down.second.runtime.health.up = false
  down.fail(50)
  t.equal(down.state, 'up', 'nor does one that is down')
})

t.test('one that went on failing is ejected as soon as another one can take over', async t => {
  const s = scene(2)
  s.fail(5, 'answered', 503, s.second)
  s.fail(20)
  s.now += 30_000
  s.attempt('answered', 200, s.second)

  s.fail(1)

  t.same([s.state, stateOf(s.second)], ['ejected', 'up'])
})

t.test('after its time one trial request decides', async t => {
  const s = scene()
  s.fail(5, 'timeout')
  t.equal(isAvailable(s.first, s.now + 29_999), false)
  s.now += 30_000
  t.equal(isAvailable(s.first, s.now), true)

  const trial = s.begin()
  t.equal(isAvailable(s.first, s.now), false, 'one only')
  s.settle(trial, 'answered', 200)

  t.equal(s.state, 'up')
  t.equal(isAvailable(s.first, s.now), true)
  s.fail(5, 'timeout')
  t.equal(s.leftMs, 60_000, 'the first time is not forgotten yet')
})

t.test('a trial that decides nothing for 30 s makes room for the next, and is an attempt like any other then', async t => {
  const s = scene()
  s.fail(5, 'timeout')
  s.now += 30_000
  const hanging = s.begin()

  t.equal(isAvailable(s.first, s.now + 29_999), false)
  s.now += 30_000
  t.equal(isAvailable(s.first, s.now), true)
  const next = s.begin()
  t.equal(isAvailable(s.first, s.now), false, 'again one only')
  s.settle(hanging, 'answered', 200)
  t.equal(s.state, 'ejected')
  t.equal(isAvailable(s.first, s.now), false, 'and the next is still the trial')
  s.settle(next, 'answered', 200)

  t.equal(s.state, 'up')
})

t.test('with nobody else to serve, who answers in panic mode is back before its time', async t => {
  const leave: [name: string, act: (second: Instance) => void][] = [
    ['down', ({ runtime }) => { runtime.health.up = false }],
    ['draining', ({ runtime }) => { runtime.draining = true }]
  ]
  for (const [name, act] of leave) {
    const s = scene()
    s.fail(5, 'answered', 503)
    t.equal(s.attempt('answered', 200), null, 'while there is another one its time counts')
    act(s.second)

    t.equal(s.attempt('answered', 503), null, name)
    t.equal(s.attempt('answered', 500), null, name)
    t.equal(s.state, 'ejected', name)
    t.equal(s.attempt('answered', 200), 'restored', name)

    t.equal(s.state, 'up', name)
  }
})

t.test('of an instance that is down as well the probes have the last word', async t => {
  const s = scene()
  s.fail(5, 'answered', 503)
  s.now += 30_000
  const trial = s.begin()
  s.probe(false, false, false)

  t.equal(s.settle(trial, 'answered', 200), null)
  t.equal(s.state, 'down')
  t.same(s.probe(true, true), [null, 'up'])
})

t.test('one that is down gets no trial, and one that drains decides its own', async t => {
  const s = scene()
  s.fail(5, 'answered', 503)
  s.now += 30_000
  s.probe(false, false, false)
  s.begin()
  t.equal(s.first.runtime.health.trial, null)

  const other = scene()
  other.fail(5, 'answered', 503)
  other.now += 30_000
  const trial = other.begin()
  other.first.runtime.draining = true
  t.equal(isAvailable(other.first, other.now), false)
  other.settle(trial, 'answered', 200)
  t.equal(other.state, 'draining')
  other.first.runtime.draining = false
  t.equal(other.state, 'up', 'so it is when it registers again')
})

t.test('of two that fail at the same time one stays', async t => {
  const s = scene()
  const attempts = Array.from({ length: 10 }, (_, index) => s.begin(s.agent.instances[index % 2]))

  for (const attempt of attempts) s.settle(attempt, 'refused')

  t.same([s.state, stateOf(s.second)], ['ejected', 'up'])
})

t.test('one that is due for its trial does not count as one that can take over', async t => {
  const s = scene()
  s.fail(5, 'timeout')
  s.now += 30_000

  s.fail(20, 'timeout', 0, s.second)

  t.equal(stateOf(s.second), 'up')
})

t.test('an instance is worth asking often from its first failed probe until a good one, or until it is restored', async t => {
  const s = scene()
  const fast = () => needsFastProbe(s.first)

  t.equal(fast(), false)
  s.probe(false)
  t.equal(fast(), true)
  s.probe(true)
  t.equal(fast(), false)
  s.probe(false, false, false, true)
  t.equal(fast(), true, 'down')
  s.probe(true)
  t.equal(fast(), false)
  s.probe(false)
  s.fail(5, 'answered', 503)
  s.probe(true)
  t.equal(fast(), false, 'ejected for answers')
  s.probe(false)
  forgetProbes(s.first)
  t.equal(fast(), false, 'asked something else')
})

t.test('a failed trial does not take out the last one there is', async t => {
  const s = scene()
  s.fail(5, 'timeout')
  s.second.runtime.health.up = false
  s.now += 30_000

  s.attempt('timeout')

  t.equal(s.state, 'up')
  s.second.runtime.health.up = true
  s.fail(5, 'timeout')
  t.equal(s.leftMs, 60_000, 'and what it did is remembered')
})

t.test('each change is told of once', async t => {
  const s = scene()
  t.same(s.fail(6), [null, null, null, null, 'ejected', null])
  t.same(s.probe(true, true, true), [null, 'restored', null])
  t.same(s.probe(false, false, false, false), [null, null, 'down', null])
  t.same(s.probe(true, true, true), [null, 'up', null])
  s.fail(5, 'answered', 503)
  s.now += s.leftMs
  t.equal(s.attempt('answered', 503), 'ejected')
  s.now += s.leftMs
  t.equal(s.attempt('answered', 500), null)
  t.equal(s.attempt('answered', 200), 'restored')
})

t.test('each failed trial ejects for longer, 300 s at most', async t => {
  const s = scene()
  s.fail(5, 'timeout')
  const lengths = []
  for (let count = 0; count < 12; count++) {
    lengths.push(s.leftMs / 1_000)
    s.now += s.leftMs
    s.attempt('answered', 503)
  }
  t.same(lengths, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300])
})

t.test('a trial that says nothing makes room for the next', async t => {
  for (const [outcome, status] of [['aborted', 0], ['stale', 0], ['answered', 500]] as const) {
    const s = scene()
    s.fail(5)
    s.now += 30_000

    s.attempt(outcome, status)

    t.equal(s.state, 'ejected', outcome)
    t.equal(isAvailable(s.first, s.now), true, outcome)
  }
})

t.test('only the trial decides: not what began before, nor in panic mode', async t => {
  const s = scene()
  const old = s.begin()
  const older = s.begin()
  s.fail(5)
  s.attempt('answered', 200)
  t.equal(s.state, 'ejected', 'its time is not over')
  s.now += 30_000

  const trial = s.begin()
  s.settle(old, 'answered', 200)
  t.equal(s.state, 'ejected')
  s.settle(older, 'refused')
  t.equal(s.leftMs, 0, 'not any longer')
  s.settle(trial, 'answered', 204)

  t.equal(s.state, 'up')
})

t.test('two good probes restore what could not be connected to, at once', async t => {
  const s = scene()
  s.probe(true, true, true)
  s.fail(5)
  t.equal(needsFastProbe(s.first), true)

  s.probe(true)
  t.equal(s.state, 'ejected', 'earlier probes do not count')
  s.probe(true)

  t.equal(s.state, 'up')
  t.equal(needsFastProbe(s.first), false)
})

t.test('probes do not restore what was ejected for its answers', async t => {
  const s = scene()
  s.fail(4)
  s.fail(1, 'answered', 503)

  t.equal(needsFastProbe(s.first), false)
  s.probe(true, true, true, true)

  t.equal(s.state, 'ejected')
})

t.test('one that was down as well starts afresh when it is back', async t => {
  const s = scene()
  s.fail(5, 'answered', 503)
  s.probe(false, false, false)
  t.equal(s.state, 'down')

  s.probe(true, true)

  t.equal(s.state, 'up')
})

t.test('a trial that ends after probes restored the instance is an attempt like any other', async t => {
  const s = scene()
  s.fail(5)
  s.now += 30_000
  const trial = s.begin()
  s.probe(true, true)

  s.settle(trial, 'refused')

  t.equal(s.state, 'up')
})

t.test('flapping costs more each time; five good minutes make up for one ejection', async t => {
  const s = scene()
  const flap = () => {
    s.fail(5)
    const { leftMs } = s
    s.probe(true, true)
    return leftMs / 1_000
  }
  t.same([flap(), flap(), flap()], [30, 60, 90])
  s.now += 299_999
  t.equal(flap(), 120)
  s.now += 600_000
  t.equal(flap(), 90)
  s.now += 60 * 60_000
  t.equal(flap(), 30)
})

t.test('to have been down makes no ejection younger, and what failed while it was ejected is forgiven', async t => {
  const s = scene()
  s.fail(5)
  s.fail(4)
  s.probe(true, true)
  s.fail(1)
  t.equal(s.state, 'up')
  s.now += 299_999
  s.probe(false, false, false, true, true)
  s.now += 1

  s.fail(5)

  t.equal(s.leftMs, 30_000)
})

t.test('a probe that times out while requests make progress says nothing', async t => {
  const cases: [outcome: ProbeOutcome, progressMs: number, conclusive: boolean][] = [
    ['timeout', -1, true],
    ['timeout', 0, false],
    ['timeout', 500, false],
    ['refused', 500, true],
    ['bad', 500, true],
    ['ok', 500, true]
  ]
  for (const [outcome, progressMs, conclusive] of cases) {
    const instance = instanceOf(8_501)
    instance.runtime.lastProgressAt = start + progressMs
    t.equal(isConclusive(instance, outcome, start), conclusive, `${outcome} ${progressMs}`)
  }
  t.equal(isConclusive(instanceOf(8_501), 'timeout', start), true, 'never used')
})

type Step =
  | { kind: 'begin', at: number }
  | { kind: 'settle', at: number, outcome: AttemptOutcome, status: number }
  | { kind: 'probe', at: number, ok: boolean }
  | { kind: 'wait', ms: number }

const index = fc.nat(1_000)
const outcomes: AttemptOutcome[] = ['answered', 'refused', 'connect-timeout', 'reset', 'stale', 'timeout', 'invalid', 'aborted']
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('begin' as const), at: index }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('settle' as const), at: index, outcome: fc.constantFrom(...outcomes), status: fc.constantFrom(200, 404, 500, 502, 503) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('probe' as const), at: index, ok: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(10, 1_000, 31_000, 301_000) }) }
)

/** Runs steps on an agent of `count` instances, calling `check` after each. */
function play (count: number, steps: readonly Step[], check: (s: ReturnType<typeof scene>, pending: readonly Attempt[]) => void): void {
  const s = scene(count)
  const pending: Attempt[] = []
  for (const step of steps) {
    if (step.kind === 'wait') s.now += step.ms
    if (step.kind === 'begin') pending.push(s.begin(s.agent.instances[step.at % count]))
    if (step.kind === 'probe') recordProbe(s.agent.instances[step.at % count]!, step.ok, thresholds, s.now)
    if (step.kind === 'settle' && pending.length > 0) {
      const [attempt] = pending.splice(step.at % pending.length, 1)
      s.settle(attempt!, step.outcome, step.status)
    }
    check(s, pending)
  }
}

t.test('passive judgement alone never ejects all instances of an agent', async t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 300 }), (count, steps) => {
    play(count, steps.filter(({ kind }) => kind !== 'probe'), s => {
      if (!s.agent.instances.some(isHealthy)) throw new Error('nobody is left')
    })
  }), { numRuns: 300 })
  t.pass()
})

t.test('a health record is consistent after anything that can happen', async t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 3 }), fc.array(step, { maxLength: 300 }), (count, steps) => {
    play(count, steps, (s, pending) => {
      for (const { runtime: { health } } of s.agent.instances) {
        const ejected = health.ejectedUntil > 0
        const holds = (health.ejectedFor !== null) === ejected &&
          (health.trial === null || (ejected && pending.includes(health.trial))) &&
          health.ejectedUntil - s.now <= longestEjectionMs &&
          health.ejections >= (ejected ? 1 : 0) &&
          (health.up || health.probeSuccesses < thresholds.healthyAfter) &&
          (!health.up || health.probeFailures < thresholds.unhealthyAfter)
        if (!holds) throw new Error(JSON.stringify({ ...health, trial: health.trial !== null }))
      }
    })
  }), { numRuns: 300 })
  t.pass()
})

t.test('whatever happened, an instance that does well is back in the end', async t => {
  fc.assert(fc.property(fc.array(step, { maxLength: 200 }), steps => {
    let last: ReturnType<typeof scene> | undefined
    let open: readonly Attempt[] = []
    play(2, steps, (s, pending) => { last = s; open = pending })
    if (last === undefined) return
    for (const attempt of open) last.settle(attempt, 'aborted')
    last.probe(true, true)
    last.now += longestEjectionMs
    last.attempt('answered', 200)
    if (last.state !== 'up') throw new Error(last.state)
  }))
  t.pass()
})
