/** What may be configured of rate limits. Keys and agents override these; bounds and words are in src/agent-options.ts, for all. */
import { rateLimitRules } from '../../src/agent-options.ts'
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const RateLimitOptions = Options({
  enabled: Type.Boolean({ default: true, ...rateLimitRules.enabled }),
  perMinute: Type.Integer({ default: 600, ...rateLimitRules.perMinute }),
  burst: Type.Integer({ default: 100, ...rateLimitRules.burst })
}, 'A token bucket per client, from which each request takes one. The client is the named key, else the address.')

export type RateLimitOptions = StaticDecode<typeof RateLimitOptions>
