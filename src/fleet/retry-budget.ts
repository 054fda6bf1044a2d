/**
 * Bounds retries of what an agent answered, so that a struggling fleet is not hit harder: at most 20 % of the requests of the last
 * ten seconds, but ten a second always.
 */

const windowSeconds = 10
const share = 0.2
const alwaysPerSecond = 10

export class RetryBudget {
  readonly #requests = new Array<number>(windowSeconds).fill(0)
  readonly #retries = new Array<number>(windowSeconds).fill(0)
  #second = 0

  /** Counts a request. @param now milliseconds since the epoch */
  request (now: number): void {
    this.#requests[this.#slot(now)]!++
  }

  /** Counts a retry and returns true when the budget allows one, else false. @param now milliseconds since the epoch */
  take (now: number): boolean {
    const slot = this.#slot(now)
    const allowed = this.#retries[slot]! < alwaysPerSecond || sum(this.#retries) < share * sum(this.#requests)
    if (allowed) this.#retries[slot]!++
    return allowed
  }

  /** The present second's slot, with those of seconds that passed unseen set to zero. */
  #slot (now: number): number {
    const second = Math.floor(now / 1_000)
    const passed = Math.min(Math.max(second - this.#second, 0), windowSeconds)
    for (let step = 1; step <= passed; step++) {
      const slot = (this.#second + step) % windowSeconds
      this.#requests[slot] = 0
      this.#retries[slot] = 0
    }
    if (passed === windowSeconds) {
      this.#requests.fill(0)
      this.#retries.fill(0)
    }
    this.#second = Math.max(second, this.#second)
    return this.#second % windowSeconds
  }
}

function sum (counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0)
}
