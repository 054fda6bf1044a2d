/** What may be configured of how instances are chosen, and of how much they take. Agents override these one by one; bounds and words are in src/agent-options.ts, for both. */
import { balancerRules, concurrencyRules } from '../../src/agent-options.ts'
import { balancerPolicies } from '../../src/fleet/balancers.ts'
import { Duration, Options, Type, type StaticDecode } from '../../src/options.ts'

export const BalancerOptions = Options({
  policy: balancerRules.policy({ default: balancerPolicies[0] }),
  hashOn: balancerRules.hashOn({ default: 'address' }),
  slowStart: Duration({ default: '0s', ...balancerRules.slowStart })
}, 'How the instance for a request is chosen among those that are available.')

export const ConcurrencyOptions = Options({
  max: Type.Optional(Type.Integer(concurrencyRules.max)),
  queue: Type.Integer({ default: 0, ...concurrencyRules.queue }),
  queueTimeout: Duration({ default: '5s', ...concurrencyRules.queueTimeout })
}, 'How many requests an instance gets at once, and how many wait for a place. What is over that is answered with 503 and `Retry-After`.')

export type BalancerOptions = StaticDecode<typeof BalancerOptions>
export type ConcurrencyOptions = StaticDecode<typeof ConcurrencyOptions>
