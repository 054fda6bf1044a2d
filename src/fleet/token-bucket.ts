/**
 * Token buckets: `burst` tokens at most, refilled `perMinute`; a request takes one. Pure: the time is passed in, nothing waits.
 *
 * A level is kept in sixty-thousandths of a token, so that a millisecond brings exactly `perMinute` of them: whole numbers, no rounding.
 */

/** What a bucket holds and how fast it fills. Whole numbers, at least 1. */
export interface BucketLimits {
  readonly burst: number
  readonly perMinute: number
}

/** What came of asking for a token. */
export interface Take {
  readonly allowed: boolean
  /** Whole tokens left. */
  readonly tokens: number
  /** Milliseconds until the bucket is full, if nothing is taken. */
  readonly msToFull: number
  /** Milliseconds until there is a token to take; 0 when there is one. */
  readonly msToNext: number
}

/** Units of a token; also the milliseconds of a minute. */
const token = 60_000

/** How many buckets are looked at for an idle one before the least recently used has to go. */
const mostLooked = 16

/** One bucket; begins full. */
export class TokenBucket {
  #burst: number
  #perMinute: number
  #level: number
  #updatedAt: number

  /** @param now milliseconds */
  constructor ({ burst, perMinute }: BucketLimits, now: number) {
    this.#burst = burst
    this.#perMinute = perMinute
    this.#level = burst * token
    this.#updatedAt = Math.floor(now)
  }

  /** Takes a token if there is one. @param now milliseconds; a clock that was set back neither gives nor takes tokens */
  take (now: number): Take {
    this.#refill(now)
    const allowed = this.#level >= token
    if (allowed) this.#level -= token
    const missing = token - this.#level
    return {
      allowed,
      tokens: Math.floor(this.#level / token),
      msToFull: Math.ceil((this.#burst * token - this.#level) / this.#perMinute),
      msToNext: missing <= 0 ? 0 : Math.ceil(missing / this.#perMinute)
    }
  }

  /** Nothing is owed: a new bucket would be the same. */
  isFull (now: number): boolean {
    this.#refill(now)
    return this.#level === this.#burst * token
  }

  /** Takes new limits and stays as full as it was, in proportion: full stays full, empty stays empty. */
  resize ({ burst, perMinute }: BucketLimits, now: number): void {
    if (burst === this.#burst && perMinute === this.#perMinute) return
    this.#refill(now)
    this.#level = Math.floor(this.#level / this.#burst * burst)
    this.#burst = burst
    this.#perMinute = perMinute
  }

  #refill (at: number): void {
    const now = Math.floor(at)
    const elapsed = now - this.#updatedAt
    // A bucket that waited for a clock that was set back would starve its client: the account goes on from the new time.
    this.#updatedAt = now
    if (elapsed > 0) this.#level = Math.min(this.#level + elapsed * this.#perMinute, this.#burst * token)
  }
}

/**
 * A bucket per key, at most so many. To make room a full bucket is dropped first, since it is as good as a new one; when none is found
 * among the next few in turn, the least recently used.
 */
export class TokenBuckets {
  readonly #most: number
  /** In order of use, the least recent first. */
  readonly #buckets = new Map<string, TokenBucket>()
  /** Goes round over all buckets, a few at a time, so that making room costs the same however many there are. */
  #hand: Iterator<[string, TokenBucket]> = this.#buckets.entries()

  constructor (most = 100_000) {
    this.#most = most
  }

  get size (): number {
    return this.#buckets.size
  }

  /** Takes a token from the bucket of `key`, which is resized if the limits have changed. @param now milliseconds */
  take (key: string, limits: BucketLimits, now: number): Take {
    const known = this.#buckets.get(key)
    if (known === undefined) {
      this.#makeRoom(now)
      const bucket = new TokenBucket(limits, now)
      this.#buckets.set(key, bucket)
      return bucket.take(now)
    }
    this.#buckets.delete(key)
    this.#buckets.set(key, known)
    known.resize(limits, now)
    return known.take(now)
  }

  #makeRoom (now: number): void {
    if (this.#buckets.size < this.#most) return
    for (let looked = 0; looked < mostLooked; looked++) {
      const step = this.#hand.next()
      if (step.done === true) {
        this.#hand = this.#buckets.entries()
        continue
      }
      const [key, bucket] = step.value
      if (bucket.isFull(now)) this.#buckets.delete(key)
    }
    if (this.#buckets.size >= this.#most) this.#buckets.delete(this.#buckets.keys().next().value!)
  }
}
