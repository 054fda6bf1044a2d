/** What may be configured of rate limits. Keys and agents override all but the last; bounds and words are in src/agent-options.ts, for all. */
import { rateLimitRules } from '../../src/agent-options.ts'
import { Options, Type, type StaticDecode } from '../../src/options.ts'

const substitutes = ['local', 'open', 'closed'] as const

export const RateLimitOptions = Options({
  enabled: Type.Boolean({ default: true, ...rateLimitRules.enabled }),
  perMinute: Type.Integer({ default: 600, ...rateLimitRules.perMinute }),
  burst: Type.Integer({ default: 100, ...rateLimitRules.burst }),
  onStoreFailure: Type.Unsafe<typeof substitutes[number]>({
    default: 'local',
    anyOf: substitutes.map(substitute => ({ const: substitute })),
    errorMessage: `must be one of ${substitutes.map(substitute => `"${substitute}"`).join(', ')}`,
    description: 'With `redis`, whose buckets all gateways share, what happens while it does not answer: each gateway counts by itself; nothing is counted; requests for agents that are limited are refused with 503.'
  })
}, 'A token bucket per client, from which each request takes one. The client is the named key, else the address.')

export type RateLimitOptions = StaticDecode<typeof RateLimitOptions>
