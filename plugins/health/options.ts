/** What may be configured of health checks. Agents override these one by one; bounds and words are in src/agent-options.ts, for both. */
import { healthFields, healthRules } from '../../src/agent-options.ts'
import { Duration, Options, Type, type StaticDecode } from '../../src/options.ts'

export const HealthOptions = Options({
  path: healthFields(Duration).path,
  interval: Duration({ default: '10s', ...healthRules.interval }),
  timeout: Duration({ default: '2s', ...healthRules.timeout }),
  unhealthyAfter: Type.Integer({ default: 3, ...healthRules.unhealthyAfter }),
  healthyAfter: Type.Integer({ default: 2, ...healthRules.healthyAfter })
}, 'How instances are probed.')

export type HealthOptions = StaticDecode<typeof HealthOptions>
