/** What may be configured of tracing; the rest is in the standard variables of OpenTelemetry. */
import { Options, Type, type StaticDecode } from '../../src/options.ts'

export const TracingOptions = Options({
  enabled: Type.Boolean({ default: false, description: 'Whether requests and attempts are recorded as spans, and exported by OTLP.' })
}, 'Traces by OpenTelemetry. Where they go, and which are kept, the `OTEL_…` variables say.')

export type TracingOptions = StaticDecode<typeof TracingOptions>
