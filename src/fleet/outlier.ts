/**
 * Judges instances: by probes (up or down) and by finished attempts (ejected for a while). Writes an instance's health record and
 * nothing else; when to probe, and what to do with the verdict, is the health plugin's and the balancer's.
 */
import type { Agent } from './agent.ts'
import { isConnectionFailure, isFailure, type Attempt } from './attempt.ts'
import { isDueForTrial, isHealthy, type HealthRecord, type Instance } from './instance.ts'

/** How many probes in a row change the verdict. */
export interface ProbeThresholds {
  readonly unhealthyAfter: number
  readonly healthyAfter: number
}

/** What a probe found: an answer, no connection, no answer in time, or an answer that is not a good one. */
export type ProbeOutcome = 'ok' | 'refused' | 'timeout' | 'bad'

/** Failures of live requests in a row that eject an instance. */
const failuresToEject = 5
/** The first ejection takes this long, the second twice as long, and so on. */
const ejectionMs = 30_000
/** No ejection takes longer. */
export const longestEjectionMs = 300_000
/** A trial that has decided nothing for so long (an upload that goes on, an agent that hangs) no longer keeps the next one away. */
const longestTrialMs = 30_000
/** For each such time without an ejection one of those before is forgotten: who flaps stays out longer each time. */
const forgetEjectionMs = 300_000

/** What a judgement changed: the probes' verdict, or whether live requests got the instance ejected. */
export type HealthChange = 'up' | 'down' | 'ejected' | 'restored'

/**
 * Whether a probe's outcome says anything. One that timed out while live requests made progress met a busy instance, not a dead one.
 * @param beganAt when the probe began, milliseconds since the epoch
 */
export function isConclusive (instance: Instance, outcome: ProbeOutcome, beganAt: number): boolean {
  return outcome !== 'timeout' || instance.runtime.lastProgressAt < beganAt
}

/**
 * Counts a probe. `healthyAfter` good ones restore an instance that is down, or that is ejected because it could not be connected to.
 * @param now milliseconds since the epoch
 * @returns what that changed, null when nothing
 */
export function recordProbe (instance: Instance, ok: boolean, { unhealthyAfter, healthyAfter }: ProbeThresholds, now: number): HealthChange | null {
  const { health } = instance.runtime
  if (!ok) {
    health.probeSuccesses = 0
    health.probeFailures++
    if (!health.up || health.probeFailures < unhealthyAfter) return null
    health.up = false
    return 'down'
  }
  health.probeFailures = 0
  health.probeSuccesses++
  if (!awaitsProbes(instance) || health.probeSuccesses < healthyAfter) return null
  const change = health.up ? 'restored' : 'up'
  health.up = true
  endEjection(health, now)
  return change
}

/** The next probe asks something else, so that those before are none of the same row. The verdict stays until there is another. */
export function forgetProbes ({ runtime: { health } }: Instance): void {
  health.probeFailures = 0
  health.probeSuccesses = 0
}

/** Down, or ejected because it could not be connected to: probes can restore it. */
export function awaitsProbes (instance: Instance): boolean {
  const { up, ejectedFor } = instance.runtime.health
  return !up || ejectedFor === 'connection'
}

/** Worth asking often: probes can restore it, or its last one failed and there is no verdict yet. */
export function needsFastProbe (instance: Instance): boolean {
  return awaitsProbes(instance) || instance.runtime.health.probeFailures > 0
}

/**
 * Makes an attempt that begins now the trial of an instance whose ejection is over. Any other attempt is none, such as one in panic
 * mode before that time.
 */
export function beginTrial (attempt: Attempt, now: number): void {
  if (!isDueForTrial(attempt.instance, now)) return
  const { health } = attempt.instance.runtime
  health.trial = attempt
  health.trialUntil = now + longestTrialMs
}

/**
 * Counts an attempt whose outcome is known.
 * A 500 says nothing of the instance either way, and neither does a client that went away: such a trial makes room for the next.
 * Where nobody else serves, each attempt on an ejected instance is as good as a trial: who answers in panic mode is back.
 * @param agent the instance's agent as it is now, since its last healthy instance is never ejected
 * @returns what that changed, null when nothing; `ejected` again when a trial failed
 */
export function recordAttempt (agent: Agent, attempt: Attempt, now: number): HealthChange | null {
  const { instance } = attempt
  const { health } = instance.runtime
  const isTrial = health.trial === attempt
  if (isTrial) health.trial = null
  if (isSuccess(attempt)) {
    health.consecutiveFailures = 0
    return health.ejectedUntil > 0 && (isTrial || !hasAnother(agent, instance)) ? endEjection(health, now) : null
  }
  if (!isFailure(attempt)) return null
  health.consecutiveFailures++
  if (isTrial) {
    // With nobody to take over, an ejection would only turn requests away from the one that might serve them.
    return hasAnother(agent, instance) ? eject(health, isConnectionFailure(attempt), now) : endEjection(health, now)
  }
  const mayEject = health.consecutiveFailures >= failuresToEject && isHealthy(instance) && hasAnother(agent, instance)
  return mayEject ? eject(health, isConnectionFailure(attempt), now) : null
}

function isSuccess ({ outcome, status }: Attempt): boolean {
  return outcome === 'answered' && status < 500
}

/** There is an instance to take over: up, wanted and not ejected. One that is due for its trial has yet to show that it can. */
function hasAnother (agent: Agent, instance: Instance): boolean {
  return agent.instances.some(other => other.runtime !== instance.runtime && !other.runtime.draining && isHealthy(other))
}

function eject (health: HealthRecord, noConnection: boolean, now: number): HealthChange {
  const forgotten = health.ejectedUntil > 0 ? 0 : Math.floor((now - health.restoredAt) / forgetEjectionMs)
  health.ejections = Math.max(health.ejections - forgotten, 0) + 1
  health.ejectedUntil = now + Math.min(ejectionMs * health.ejections, longestEjectionMs)
  health.ejectedFor = noConnection ? 'connection' : 'answer'
  health.consecutiveFailures = 0
  health.probeSuccesses = 0 // what probes found before can't restore it
  return 'ejected'
}

/** Puts it back into the rotation. How often it was ejected is not forgotten at once. */
function endEjection (health: HealthRecord, now: number): HealthChange | null {
  if (health.ejectedUntil > 0) health.restoredAt = now
  health.servingSince = now
  health.ejectedUntil = 0
  health.ejectedFor = null
  health.consecutiveFailures = 0
  health.trial = null
  return health.up ? 'restored' : null // of one that is down as well, probes have the last word
}
