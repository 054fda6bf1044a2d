/** What may be configured of how instances are chosen. Agents override these one by one; bounds and words are in src/agent-options.ts, for both. */
import { balancerRules } from '../../src/agent-options.ts'
import { Duration, Options, type StaticDecode } from '../../src/options.ts'

export const BalancerOptions = Options({
  policy: balancerRules.policy({ default: 'round-robin' }),
  hashOn: balancerRules.hashOn({ default: 'address' }),
  slowStart: Duration({ default: '0s', ...balancerRules.slowStart })
}, 'How the instance for a request is chosen among those that are available.')

export type BalancerOptions = StaticDecode<typeof BalancerOptions>
