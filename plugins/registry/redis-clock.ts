/** What time it is at Redis, as far as its answers tell: no later than it is there, however long they were on their way. */

/** So many answers are remembered: when that clock is put back, the old ones count no more soon. */
const fewAnswers = 5

export class RedisClock {
  /** How far that clock is before this process's, at least. The quickest answer knows best. */
  readonly #ahead: number[] = []

  /** An answer came just now that has the time at which it was made, in milliseconds. */
  heard (time: number): void {
    this.#ahead.push(time - performance.now())
    if (this.#ahead.length > fewAnswers) this.#ahead.shift()
  }

  /** It may be another server from now on. */
  forget (): void {
    this.#ahead.length = 0
  }

  /** Milliseconds; needs an answer. */
  now (): number {
    return performance.now() + Math.max(...this.#ahead)
  }
}
