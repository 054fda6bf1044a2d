/**
 * How long an instance takes to answer of late: an average that forgets with time and follows every peak at once, as Finagle and Linkerd
 * keep it ("peak EWMA"). So a slow answer is believed at once, and only time and good answers make up for it.
 */
import { isFailure, type Attempt } from './attempt.ts'

/** Written by upstream alone, through recordLatency(). */
export interface LatencyRecord {
  /** Milliseconds from the sent request to the head of the answer. */
  ms: number
  /** When it was measured last, milliseconds since the epoch; 0 is never. */
  at: number
}

/** After this time a measurement counts for 1/e of what it did. */
const decayMs = 10_000
/** What is older than this tells nothing any more. */
const forgottenMs = 3 * decayMs
/** What a failure counts for at least: nothing is as quick as a refused connection. */
const failureMs = 1_000
/** The clock's steps are coarser than some answers; nobody is infinitely fast. */
const leastMs = 0.01

/** How far what was measured is to be believed: 1 just now, and less with time. */
export function trustIn ({ at }: LatencyRecord, now: number): number {
  const ageMs = Math.max(now - at, 0)
  return at === 0 || ageMs >= forgottenMs ? 0 : Math.exp(-ageMs / decayMs)
}

/**
 * Takes note of an attempt whose outcome is known.
 * @param ms how long it took
 * @param now milliseconds since the epoch
 */
export function recordLatency (record: LatencyRecord, attempt: Attempt, ms: number, now: number): void {
  const { outcome, status } = attempt
  if (outcome === 'stale') return
  const trust = trustIn(record, now)
  const known = trust === 0 ? 0 : record.ms
  if (isFailure(attempt)) return set(record, Math.max(known, ms, failureMs), now)
  if (outcome === 'answered' && status < 500 && status !== 429) return set(record, ms >= known ? ms : known * trust + ms * (1 - trust), now)
  // An error that came quickly, or a client that did not wait, shows nobody to be fast; one that took long shows somebody to be slow.
  if (trust > 0 && ms > known) set(record, ms, now)
}

function set (record: LatencyRecord, ms: number, now: number): void {
  record.ms = Math.max(ms, leastMs)
  record.at = now
}
