/** What may be configured of health checks. Agents override these one by one (src/agent-options.ts). */
import { Duration, Options, Type, type StaticDecode } from '../../src/options.ts'

export const HealthOptions = Options({
  path: Type.Optional(Type.String({ pattern: '^/[!-~]*$', errorMessage: 'must be a path that starts with "/"', description: 'Probe by HTTP GET of this path; by TCP connect when it is left out.' })),
  interval: Duration({ default: '10s', minimumMs: 100, description: 'Between two probes of an instance that is up.' }),
  timeout: Duration({ default: '2s', minimumMs: 10, description: 'How long a probe may take.' }),
  unhealthyAfter: Type.Integer({ default: 3, minimum: 1, maximum: 100, description: 'Failed probes in a row until an instance is down.' }),
  healthyAfter: Type.Integer({ default: 2, minimum: 1, maximum: 100, description: 'Good probes in a row until it is up again.' })
}, 'How instances are watched.')

export type HealthOptions = StaticDecode<typeof HealthOptions>
