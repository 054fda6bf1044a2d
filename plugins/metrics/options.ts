/** What may be configured of the metrics. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const MetricsOptions = Options({
  enabled: Type.Boolean({ default: true, description: 'Whether there is `/metrics`. Without it nothing is counted for it either.' })
}, 'What a Prometheus server reads at `GET /metrics`.')

export type MetricsOptions = StaticDecode<typeof MetricsOptions>
