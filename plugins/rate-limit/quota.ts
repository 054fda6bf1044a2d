/**
 * Which limits apply to a request: the gateway's, overridden by the key's, overridden by the agent's.
 */
import type { BucketLimits } from '../../src/fleet/token-bucket.ts'
import type { RateLimitOptions } from './options.ts'
import { refillMs } from './store.ts'

/** What the gateway's limits are, and those of a key or an agent. */
export type Limits = Pick<RateLimitOptions, 'enabled' | 'perMinute' | 'burst'>

/** What a key or an agent sets differently. */
export type LimitOverride = Partial<Limits>

/** Limits of one bucket, and what is said of them in answers. */
export interface Quota extends BucketLimits {
  readonly enabled: boolean
  readonly windowMs: number
  /** Value of `RateLimit-Policy`. */
  readonly policy: string
}

/** Quotas by the numbers they have; those are the operator's, so there are few. */
export class Quotas {
  readonly #defaults: Limits
  readonly #default: Quota
  readonly #made = new Map<string, Quota>()

  constructor (defaults: Limits) {
    this.#defaults = defaults
    this.#default = toQuota(defaults)
  }

  of (key: LimitOverride | undefined, agent: LimitOverride | undefined): Quota {
    if (key === undefined && agent === undefined) return this.#default
    const limits = { ...this.#defaults, ...key, ...agent }
    const name = `${limits.enabled} ${limits.perMinute} ${limits.burst}`
    let quota = this.#made.get(name)
    if (quota === undefined) this.#made.set(name, quota = toQuota(limits))
    return quota
  }
}

function toQuota ({ enabled, perMinute, burst }: Limits): Quota {
  const windowMs = refillMs({ burst, perMinute })
  return { enabled, perMinute, burst, windowMs, policy: `"default";q=${burst};w=${Math.ceil(windowMs / 1_000)}` }
}
