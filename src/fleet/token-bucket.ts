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

/** A bucket in the order of use. */
interface Place {
  readonly key: string
  readonly bucket: TokenBucket
  /** Used less recently. */
  older: Place | null
  /** Used more recently. */
  newer: Place | null
}

/**
 * A bucket per key, at most so many. To make room a full bucket is dropped first, since it is as good as a new one; when none is found
 * among the next few in turn, the least recently used.
 *
 * The order is a list of its own: a Map's order would do, but finding its first key skips all that were deleted before, and an iterator
 * that is kept (for the turn) keeps every table the Map ever had.
 */
export class TokenBuckets {
  readonly #most: number
  readonly #places = new Map<string, Place>()
  #oldest: Place | null = null
  #newest: Place | null = null
  /** Goes round over all buckets, a few at a time, so that making room costs the same however many there are. */
  #hand: Place | null = null

  constructor (most = 100_000) {
    this.#most = most
  }

  get size (): number {
    return this.#places.size
  }

  /** Takes a token from the bucket of `key`, which is resized if the limits have changed. @param now milliseconds */
  take (key: string, limits: BucketLimits, now: number): Take {
    const known = this.#places.get(key)
    if (known === undefined) {
      this.#makeRoom(now)
      const bucket = new TokenBucket(limits, now)
      const place = { key, bucket, older: null, newer: null }
      this.#places.set(key, place)
      this.#append(place)
      return bucket.take(now)
    }
    if (known !== this.#newest) {
      this.#unlink(known)
      this.#append(known)
    }
    known.bucket.resize(limits, now)
    return known.bucket.take(now)
  }

  #makeRoom (now: number): void {
    if (this.#places.size < this.#most) return
    for (let looked = 0; looked < mostLooked; looked++) {
      const place = this.#hand ?? this.#oldest
      if (place === null) return
      this.#hand = place.newer
      if (place.bucket.isFull(now)) this.#drop(place)
    }
    if (this.#places.size >= this.#most) this.#drop(this.#oldest!)
  }

  #drop (place: Place): void {
    this.#unlink(place)
    this.#places.delete(place.key)
  }

  #append (place: Place): void {
    place.older = this.#newest
    if (this.#newest === null) this.#oldest = place
    else this.#newest.newer = place
    this.#newest = place
  }

  #unlink (place: Place): void {
    const { older, newer } = place
    if (this.#hand === place) this.#hand = newer
    if (older === null) this.#oldest = newer
    else older.newer = newer
    if (newer === null) this.#newest = older
    else newer.older = older
    place.older = place.newer = null
  }
}
