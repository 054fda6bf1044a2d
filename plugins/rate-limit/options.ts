/** What may be configured of rate limits. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const RateLimitOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether requests are limited at all.' }),
  perMinute: Type.Integer({ default: 600, minimum: 1, maximum: 60_000_000, description: 'Tokens that come back per minute, per client.' }),
  burst: Type.Integer({ default: 100, minimum: 1, maximum: 1_000_000, description: 'Tokens a full bucket holds.' })
}, 'A token bucket per client.')

export type RateLimitOptions = StaticDecode<typeof RateLimitOptions>
