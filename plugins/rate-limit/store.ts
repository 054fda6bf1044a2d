/**
 * Token buckets behind @fastify/rate-limit, which by itself counts in fixed windows. Its contract: `current` over `max` means refused.
 */
import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit'
import type { Clock } from '../../src/clock.ts'
import type { FleetError } from '../../src/errors.ts'
import type { BucketLimits, Take, TokenBuckets } from '../../src/fleet/token-bucket.ts'
import type { SharedBuckets } from './shared.ts'

const minuteMs = 60_000

type Callback = (error: Error | null, result?: { current: number, ttl: number }) => void

/** Milliseconds in which an empty bucket fills: what @fastify/rate-limit calls a time window. */
export function refillMs ({ burst, perMinute }: BucketLimits): number {
  return burst * minuteMs / perMinute
}

/** A store whose `max` is the bucket's size and whose time window is its refill; `ttl` is the time to full, or to the next token. */
export function tokenBucketStore (buckets: TokenBuckets, clock: Clock): FastifyRateLimitStoreCtor {
  return class TokenBucketStore implements FastifyRateLimitStore {
    incr (key: string, callback: Callback, timeWindow: number, max: number): void {
      answer(callback, buckets.take(key, limitsOf(timeWindow, max), clock.now()), max)
    }

    /** Asked for by routes with limits of their own; keys tell buckets apart, so one store serves all. */
    child (): FastifyRateLimitStore {
      return this
    }
  }
}

/** Decides when the buckets of all gateways can't be had: by a bucket of this gateway, or by none, or not at all. */
export interface Substitute {
  readonly buckets: TokenBuckets
  readonly clock: Clock
  /** What holds now. */
  mode (): 'local' | 'open' | FleetError
}

/** The same store over the buckets of all gateways. Where a request was not counted, its whole `max` is left. */
export function sharedBucketStore (shared: SharedBuckets, { buckets, clock, mode }: Substitute): FastifyRateLimitStoreCtor {
  return class SharedBucketStore implements FastifyRateLimitStore {
    incr (key: string, callback: Callback, timeWindow: number, max: number): void {
      const limits = limitsOf(timeWindow, max)
      shared.take(key, limits, take => {
        if (take !== null) return answer(callback, take, max)
        const otherwise = mode()
        if (otherwise === 'local') answer(callback, buckets.take(key, limits, clock.now()), max)
        else if (otherwise === 'open') callback(null, { current: 0, ttl: 0 })
        else callback(otherwise)
      })
    }

    child (): FastifyRateLimitStore {
      return this
    }
  }
}

function limitsOf (timeWindow: number, max: number): BucketLimits {
  return { burst: max, perMinute: Math.round(max * minuteMs / timeWindow) }
}

function answer (callback: Callback, { allowed, tokens, msToFull, msToNext }: Take, max: number): void {
  callback(null, allowed ? { current: max - tokens, ttl: msToFull } : { current: max + 1, ttl: msToNext })
}
