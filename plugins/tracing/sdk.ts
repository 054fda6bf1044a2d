/**
 * OpenTelemetry's SDK, loaded when it is wanted and not before. It reads the standard variables (`OTEL_EXPORTER_OTLP_…`, `OTEL_TRACES_SAMPLER`,
 * `OTEL_BSP_…`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`) by itself. Nothing global is set: the application around may have its own.
 */
import type * as Api from '@opentelemetry/api'
import type { SpanExporter } from '@opentelemetry/sdk-trace-node'

/** What happened to spans that were to go out. */
export interface ExportLog {
  info (text: string): void
  warn (text: string): void
}

export interface Sdk {
  readonly api: typeof Api
  readonly tracer: Api.Tracer
  /** Sends what waits, and ends. */
  shutdown (): Promise<void>
}

const defaultName = 'fleet-gateway'

/** Loads and starts it. */
export async function startSdk (log: ExportLog): Promise<Sdk> {
  const [api, { BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, { defaultResource, detectResources, envDetector, resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/api'), import('@opentelemetry/sdk-trace-node'), import('@opentelemetry/exporter-trace-otlp-http'), import('@opentelemetry/resources')
  ])
  const resource = defaultResource()
    .merge(resourceFromAttributes({ 'service.name': defaultName }))
    .merge(detectResources({ detectors: [envDetector] }))
  const provider = new NodeTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(reporting(new OTLPTraceExporter(), log))] })
  return { api, tracer: provider.getTracer(defaultName), shutdown: async () => await provider.shutdown() }
}

/** Tells of the first failure, and of the first success behind it: no request is hurt, and no log is flooded. */
function reporting (exporter: SpanExporter, log: ExportLog): SpanExporter {
  let isFailing = false
  return {
    export (spans, done) {
      exporter.export(spans, result => {
        const failed = result.code !== 0
        if (failed && !isFailing) log.warn(`Traces can not be exported: ${reasonOf(result.error)}. They are lost until they can`)
        if (!failed && isFailing) log.info('Traces are exported again')
        isFailing = failed
        done(result)
      })
    },
    shutdown: async () => await exporter.shutdown(),
    forceFlush: async () => await exporter.forceFlush?.()
  }
}

function reasonOf (error: (Error & { code?: unknown }) | undefined): string {
  if (error === undefined) return 'unknown error'
  return typeof error.code === 'string' || typeof error.code === 'number' ? String(error.code) : error.message.slice(0, 200)
}
