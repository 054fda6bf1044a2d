/** Random histories of an agent's instances against a model that keeps what happened and knows the contract's sentences, not the counters. */
import fc from 'fast-check'
import t from 'tap'
import type { Agent } from '../../src/fleet/agent.ts'
import { isFailure, type Attempt, type AttemptOutcome } from '../../src/fleet/attempt.ts'
import { roundRobin } from '../../src/fleet/round-robin.ts'
import { isAvailable, isServing, newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { beginTrial, recordAttempt, recordProbe, type HealthChange } from '../../src/fleet/outlier.ts'
import { runs } from '../helpers/fuzz-runs.ts'

const start = 1_700_000_000_000
const trialMs = 30_000

type Event =
  | { kind: 'request' }
  | { kind: 'settle', at: number, outcome: AttemptOutcome, status: number }
  | { kind: 'burst', at: number, times: number, outcome: AttemptOutcome, status: number }
  | { kind: 'probe', at: number, ok: boolean, times: number }
  | { kind: 'wait', ms: number }
  | { kind: 'drain', at: number, draining: boolean }

/** Failures are common, or nobody would be ejected often. */
const outcomes: AttemptOutcome[] = ['answered', 'answered', 'refused', 'refused', 'refused', 'connect-timeout', 'reset', 'stale', 'timeout', 'invalid', 'aborted']
const at = fc.nat(1_000)
const ending = { at, outcome: fc.constantFrom(...outcomes), status: fc.constantFrom(200, 302, 404, 500, 501, 502, 503, 504) }
const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('request' as const) }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('settle' as const), ...ending }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('burst' as const), times: fc.integer({ min: 1, max: 6 }), ...ending }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('probe' as const), at, ok: fc.boolean(), times: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(1, 1_000, 29_999, 30_000, 60_000, 300_000, 700_000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drain' as const), at, draining: fc.boolean() }) }
)
const setting = fc.record({
  count: fc.integer({ min: 1, max: 4 }),
  unhealthyAfter: fc.integer({ min: 1, max: 4 }),
  healthyAfter: fc.integer({ min: 1, max: 3 }),
  events: fc.array(event, { maxLength: 200 })
})
type Setting = typeof setting extends fc.Arbitrary<infer Value> ? Value : never

/** What the model remembers of an instance. */
interface Past {
  /** Results of probes, the latest last; since its last ejection. */
  probes: boolean[]
  allProbes: boolean[]
  /** Outcomes that count, the latest last, since the last ejection or its end. */
  failuresInARow: number
  ejections: number
  restoredAt: number
  /** Attempts that a due instance got, with their time, and that have not come out. */
  trials: Map<Attempt, number>
}

function fail (what: string): never {
  throw new Error(what)
}

/** Plays a history, comparing after each event. */
function play ({ count, unhealthyAfter, healthyAfter, events }: Setting) {
  const instances = Array.from({ length: count }, (_, index): Instance => ({ id: `i${index}`, agent: 'planner', protocol: 'http', host: 'localhost', port: 8_501 + index, origin: `http://localhost:${8_501 + index}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }))
  const agent: Agent = { name: 'planner', aliases: [], metadata: {}, policy: {}, instances, rotation: { next: 0 } }
  const pasts = new Map(instances.map((instance): [Instance, Past] => [instance, { probes: [], allProbes: [], failuresInARow: 0, ejections: 0, restoredAt: 0, trials: new Map() }]))
  const pending: Attempt[] = []
  let now = start

  function begin (instance: Instance, isChosen: boolean): Attempt {
    const { health } = instance.runtime
    const past = pasts.get(instance)!
    const attempt: Attempt = { instance, instanceId: instance.id, startedMark: 0, outcome: 'pending', status: 0, durationMs: 0 }
    if (isChosen && health.ejectedUntil > 0) {
      if (now < health.ejectedUntil) fail('chosen before its time')
      if ([...past.trials.values()].some(beganAt => now - beganAt < trialMs)) fail('two trials')
    }
    beginTrial(attempt, now)
    if (health.trial === attempt) past.trials.set(attempt, now)
    else if (isChosen && health.ejectedUntil > 0) fail('chosen, and no trial')
    return attempt
  }

  function settle (attempt: Attempt, outcome: AttemptOutcome, status: number): void {
    const { instance } = attempt
    const { health } = instance.runtime
    const past = pasts.get(instance)!
    const before = { state: healthState(instance), until: health.ejectedUntil, others: instances.filter(other => other !== instance && isServing(other)).length }
    const wasTrial = health.trial === attempt
    past.trials.delete(attempt)
    Object.assign(attempt, { outcome, status: outcome === 'answered' ? status : 0 })
    const isGood = outcome === 'answered' && status < 500
    if (isGood) past.failuresInARow = 0
    else if (isFailure(attempt)) past.failuresInARow++

    const change = recordAttempt(agent, attempt, now)

    const isEjection = health.ejectedUntil > 0 && health.ejectedUntil !== before.until
    const mustEject = before.others > 0 && isFailure(attempt) && (wasTrial || (before.state === 'up' && past.failuresInARow >= 5))
    if (isEjection !== mustEject) fail(`ejected: ${isEjection}, and should be: ${mustEject}`)
    if (isEjection) {
      if (before.others === 0) fail('the last one was ejected')
      const forgotten = before.until > 0 ? 0 : Math.floor((now - past.restoredAt) / 300_000)
      past.ejections = Math.max(past.ejections - forgotten, 0) + 1
      if (health.ejectedUntil - now !== Math.min(30_000 * past.ejections, 300_000)) fail(`ejected for ${health.ejectedUntil - now} ms, the ${past.ejections}th time`)
      if ((health.ejectedFor === 'connection') !== (outcome === 'refused' || outcome === 'connect-timeout' || outcome === 'reset')) fail('ejected for something else')
      past.probes = []
      past.failuresInARow = 0
    }
    const isRestored = before.until > 0 && health.ejectedUntil === 0
    const mustBeRestored = before.until > 0 && ((isGood && (wasTrial || before.others === 0)) || (wasTrial && isFailure(attempt) && before.others === 0))
    if (isRestored !== mustBeRestored) fail(`restored: ${isRestored}, and should be: ${mustBeRestored}`)
    if (isRestored) restored(past)
    expectChange(change, before.state, healthState(instance), isEjection ? 'ejected' : 'restored', isEjection)
  }

  function restored (past: Past): void {
    past.restoredAt = now
    past.failuresInARow = 0
    past.trials.clear()
  }

  function probe (instance: Instance, ok: boolean): void {
    const { health } = instance.runtime
    const past = pasts.get(instance)!
    const before = { state: healthState(instance), until: health.ejectedUntil, ejectedFor: health.ejectedFor }
    past.probes.push(ok)
    past.allProbes.push(ok)

    const change = recordProbe(instance, ok, { unhealthyAfter, healthyAfter }, now)

    const wentDown = before.state !== 'down' && !health.up
    const mustGoDown = before.state !== 'down' && past.allProbes.length >= unhealthyAfter && past.allProbes.slice(-unhealthyAfter).every(good => !good)
    if (wentDown !== mustGoDown) fail(`went down: ${wentDown}, and should have: ${mustGoDown}`)
    const isBack = (before.state === 'down' || before.ejectedFor === 'connection') && health.up && health.ejectedUntil === 0
    const mustBeBack = (before.state === 'down' || before.ejectedFor === 'connection') && past.probes.length >= healthyAfter && past.probes.slice(-healthyAfter).every(Boolean)
    if (isBack !== mustBeBack) fail(`restored by probes: ${isBack}, and should be: ${mustBeBack}`)
    if (isBack && before.until > 0) restored(past)
    if (isBack) past.failuresInARow = 0
    if (!isBack && health.ejectedUntil !== before.until) fail('a probe changed an ejection')
    expectChange(change, before.state, healthState(instance), health.up ? (before.state === 'down' ? 'up' : 'restored') : 'down', false)
  }

  for (const step of events) {
    const instance = 'at' in step ? instances[step.at % count]! : instances[0]!
    if (step.kind === 'wait') now += step.ms
    if (step.kind === 'drain') instance.runtime.draining = step.draining
    if (step.kind === 'probe') for (let times = 0; times < step.times; times++) probe(instance, step.ok)
    if (step.kind === 'burst') for (let times = 0; times < step.times; times++) settle(begin(instance, false), step.outcome, step.status)
    if (step.kind === 'settle' && pending.length > 0) settle(pending.splice(step.at % pending.length, 1)[0]!, step.outcome, step.status)
    if (step.kind === 'request') {
      const chosen = roundRobin.pick(agent, { tried: [], now, panic: false, capacity: Infinity, asker: null })
      const taken = chosen ?? roundRobin.pick(agent, { tried: [], now, panic: true, capacity: Infinity, asker: null })
      if (taken === undefined && instances.some(({ runtime }) => !runtime.draining)) fail('nobody takes it, and somebody could')
      if (chosen === undefined && instances.some(isServing)) fail('panic, and somebody serves')
      if (taken !== undefined) pending.push(begin(taken, chosen !== undefined))
    }
    for (const { runtime: { health } } of instances) {
      for (const counter of [health.probeFailures, health.probeSuccesses, health.consecutiveFailures, health.ejections, health.ejectedUntil]) if (counter < 0) fail('a counter is negative')
      if (health.trial !== null && (!pending.includes(health.trial) || health.ejectedUntil === 0)) fail('a trial of nobody')
    }
  }

  return { agent, instances, pending, settle, probe, get now () { return now }, wait (ms: number) { now += ms }, begin, healthyAfter }
}

/** Of the drain nothing is known here. */
function healthState (instance: Instance): 'up' | 'down' | 'ejected' {
  const { up, ejectedUntil } = instance.runtime.health
  return !up ? 'down' : ejectedUntil > 0 ? 'ejected' : 'up'
}

/** A change is told exactly when the state changed (or the ejection was a new one), and is called what it is. */
function expectChange (change: HealthChange | null, before: string, after: string, name: HealthChange, isAgain: boolean): void {
  const expected = before !== after || isAgain ? name : null
  if (change !== expected) fail(`told of ${String(change)}, and should of ${String(expected)} (${before} to ${after})`)
}

t.test('whatever happens, ejections, verdicts, trials and what is told of them are as the contract says', async t => {
  fc.assert(fc.property(setting, history => { play(history) }), runs(3_000))
  t.pass()
})

t.test('whatever happened, all are up again after good probes, good answers and time', async t => {
  fc.assert(fc.property(setting, history => {
    const s = play(history)

    for (const { runtime } of s.instances) runtime.draining = false
    for (const instance of s.instances) for (let times = 0; times < s.healthyAfter; times++) s.probe(instance, true)
    s.wait(300_000) // the longest ejection; requests that hang from before keep no trial away
    for (let requests = 0; requests < s.instances.length * 2; requests++) {
      const chosen = roundRobin.pick(s.agent, { tried: [], now: s.now, panic: false, capacity: Infinity, asker: null }) ?? fail('nobody is available')
      s.settle(s.begin(chosen, true), 'answered', 200)
    }

    for (const instance of s.instances) if (stateOf(instance) !== 'up') fail(stateOf(instance))
    for (const instance of s.instances) if (!isAvailable(instance, s.now)) fail('up, and not available')
  }), runs(500))
  t.pass()
})
