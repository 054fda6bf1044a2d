/**
 * What may be sent again after a failure, counted for one request (CONTRACT section 3). Whether the request itself can be repeated (its
 * method, its body, an answer that began) is the caller's to know, and so is where it goes next.
 */
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { RetryBudget } from '../../src/fleet/retry-budget.ts'
import type { ForwardPolicy } from './policy.ts'

/** Of the attempts that carry request bytes: the first and one retry. A stale replay comes on top, and is not asked for here. */
const mostCarried = 2

export class RetryRules {
  readonly #isRetryStatus: (status: number) => boolean
  readonly #budget: RetryBudget
  #retriesLeft: number
  #carried = 0

  constructor ({ retryAttempts, isRetryStatus }: Pick<ForwardPolicy, 'retryAttempts' | 'isRetryStatus'>, budget: RetryBudget) {
    this.#retriesLeft = retryAttempts
    this.#isRetryStatus = isRetryStatus
    this.#budget = budget
  }

  /** No connection, so nothing was sent: may it go to an instance that was not tried yet? One that takes its time to fail costs budget. */
  afterNoConnection (outcome: AttemptOutcome): boolean {
    return outcome === 'refused' || (outcome === 'connect-timeout' && this.#budget.take(Date.now()))
  }

  /** The connection broke before the head of an answer: may the request be repeated? Such failures are bounded by ejection, not by the budget. */
  afterReset (isRepeatable: boolean): boolean {
    this.#carried++
    return isRepeatable && this.#takeRetry()
  }

  /** The head of an answer came: may the request be repeated instead of passing it on? */
  afterAnswer (status: number, isRepeatable: boolean): boolean {
    this.#carried++
    return isRepeatable && this.#isRetryStatus(status) && this.#mayRetry() && this.#budget.take(Date.now()) && this.#takeRetry()
  }

  #mayRetry (): boolean {
    return this.#retriesLeft > 0 && this.#carried < mostCarried
  }

  #takeRetry (): boolean {
    if (!this.#mayRetry()) return false
    this.#retriesLeft--
    return true
  }
}
