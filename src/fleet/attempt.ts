/**
 * One try at one instance for a request, and how it came out.
 */
import type { Instance } from './instance.ts'

export type AttemptOutcome =
  /** Still under way. */
  | 'pending'
  /** The response head arrived; `status` says which. */
  | 'answered'
  /** No connection: refused, unreachable, or the name does not resolve. Nothing was sent. */
  | 'refused'
  /** No connection in `timeouts.connect`. Nothing was sent. */
  | 'connect-timeout'
  /** The connection broke before the response head. */
  | 'reset'
  /** The connection broke: a reused one before the response head, or any before something was sent. Replayed on a fresh one, counts against nobody. */
  | 'stale'
  /** No response head in `timeouts.response`. */
  | 'timeout'
  /** What came back is not HTTP. */
  | 'invalid'
  /** The client went away, or the request was not worth going on with; says nothing of the instance. */
  | 'aborted'

export interface Attempt {
  readonly instance: Instance
  readonly instanceId: string
  /** Milliseconds of the monotonic clock (performance.now()). */
  readonly startedMark: number
  /** When a byte of the request's body moved last, on the same clock; absent where none did after the attempt began. */
  sentMark?: number
  outcome: AttemptOutcome
  /** Status of the agent's answer; 0 without one. */
  status: number
  /** Until the outcome was known: the response head, or the failure. */
  durationMs: number
}

/** The instance could not be talked to at all. */
export function isConnectionFailure ({ outcome }: Attempt): boolean {
  return outcome === 'refused' || outcome === 'connect-timeout' || outcome === 'reset'
}

/** Counts against the instance: no connection, no answer in time, or 502, 503, 504. A 500 is the agent's word, and clients' aborts nobody's fault. */
export function isFailure (attempt: Attempt): boolean {
  return isConnectionFailure(attempt) || attempt.outcome === 'timeout' || attempt.outcome === 'invalid' ||
    (attempt.outcome === 'answered' && attempt.status >= 502 && attempt.status <= 504)
}
