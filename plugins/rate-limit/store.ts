/**
 * Token buckets behind @fastify/rate-limit, which by itself counts in fixed windows. Its contract: `current` over `max` means refused.
 */
import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit'
import type { Clock } from '../../src/clock.ts'
import type { BucketLimits, TokenBuckets } from '../../src/fleet/token-bucket.ts'

const minuteMs = 60_000

/** Milliseconds in which an empty bucket fills: what @fastify/rate-limit calls a time window. */
export function refillMs ({ burst, perMinute }: BucketLimits): number {
  return burst * minuteMs / perMinute
}

/** A store whose `max` is the bucket's size and whose time window is its refill; `ttl` is the time to full, or to the next token. */
export function tokenBucketStore (buckets: TokenBuckets, clock: Clock): FastifyRateLimitStoreCtor {
  return class TokenBucketStore implements FastifyRateLimitStore {
    incr (key: string, callback: (error: Error | null, result?: { current: number, ttl: number }) => void, timeWindow: number, max: number): void {
      const perMinute = Math.round(max * minuteMs / timeWindow)
      const { allowed, tokens, msToFull, msToNext } = buckets.take(key, { burst: max, perMinute }, clock.now())
      callback(null, allowed ? { current: max - tokens, ttl: msToFull } : { current: max + 1, ttl: msToNext })
    }

    /** Asked for by routes with limits of their own; keys tell buckets apart, so one store serves all. */
    child (): FastifyRateLimitStore {
      return this
    }
  }
}
