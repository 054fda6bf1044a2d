/**
 * Counting through @fastify/rate-limit: limiters with numbers and keys of their own over one set of buckets.
 */
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Clock } from '../../src/clock.ts'
import type { BucketLimits, TokenBuckets } from '../../src/fleet/token-bucket.ts'
import { fillMs, tokenBucketStore } from './store.ts'

/** A way to count requests against certain numbers. */
export interface Limiter {
  /** Takes a token for the request; `isExceeded` when there was none. (`isAllowed` means "on an allow list", and there is none.) */
  readonly take: ReturnType<FastifyInstance['createRateLimit']>
  readonly burst: number
  /** The value of `RateLimit-Policy`. */
  readonly policy: string
}

export type LimiterFactory = (limits: BucketLimits, keyOf: (request: FastifyRequest) => string) => Limiter

/** Registers @fastify/rate-limit where nobody else meets it, and gives a function that makes limiters over `buckets`. */
export async function limiterFactory (fastify: FastifyInstance, buckets: TokenBuckets, clock: Clock): Promise<LimiterFactory> {
  return new Promise((resolve, reject) => {
    fastify.register(async scope => {
      // Where a host application has the plugin too, it would lend us its createRateLimit(), which counts in the host's store.
      scope.hasDecorator = name => Object.hasOwn(scope, name)
      await scope.register(rateLimit, { global: false, store: tokenBucketStore(buckets, clock) })
      resolve((limits, keyOf) => createLimiter(scope, limits, keyOf))
    }).then(undefined, reject)
  })
}

function createLimiter (scope: FastifyInstance, { burst, perMinute }: BucketLimits, keyGenerator: (request: FastifyRequest) => string): Limiter {
  const windowMs = fillMs({ burst, perMinute })
  return {
    // As a function, since a plain number of milliseconds would be cut to a whole one, and the rate with it.
    take: scope.createRateLimit({ max: burst, timeWindow: () => windowMs, keyGenerator }),
    burst,
    // draft-ietf-httpapi-ratelimit-headers: the quota, and the seconds in which all of it comes back.
    policy: `"default";q=${burst};w=${Math.ceil(windowMs / 1_000)}`
  }
}
