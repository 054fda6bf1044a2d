/**
 * Traces by OpenTelemetry, for who asks for them: a span per request and one per attempt below it, by OTLP. Continues the client's trace, and
 * has the attempt's span be the parent of what the agent records. Off, nothing of OpenTelemetry's SDK is loaded; `proxy` then continues `traceparent`.
 */
import type * as Api from '@opentelemetry/api'
import type { FastifyPluginAsync, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import { systemClock, within, type Clock } from '../../src/clock.ts'
import { parseOptions } from '../../src/options.ts'
import { isTraceparent } from '../../src/traceparent.ts'
import { TracingOptions } from './options.ts'
import { beginTrace, type Spans } from './request-trace.ts'
import { startSdk } from './sdk.ts'

/** Data of `tracing` in fleet.yaml, and seams. */
export interface TracingPluginOptions extends Partial<TracingOptions> {
  /** For `OTEL_SDK_DISABLED` and `OTEL_TRACES_EXPORTER`; OpenTelemetry reads the other variables from the process's own. @default none */
  env?: Readonly<Record<string, string | undefined>>
  clock?: Clock
}

/** What can't be sent in that time at the end is lost. */
const mostFlushMs = 3_000

const tracingPlugin: FastifyPluginAsync<TracingPluginOptions> = async (fastify, opts) => {
  const { env = {}, clock = systemClock, ...data } = opts
  const { enabled } = parseOptions(TracingOptions, data, 'tracing', ['env', 'clock'])
  if (!enabled || env['OTEL_SDK_DISABLED']?.toLowerCase() === 'true' || env['OTEL_TRACES_EXPORTER'] === 'none') return
  const sdk = await startSdk(fastify.log)
  const { api } = sdk

  fastify.addHook('onRequest', function traceRequest (request, _reply, done) {
    request.facts.trace = beginTrace(sdk, {
      facts: request.facts,
      scheme: (request.raw.socket as { encrypted?: boolean }).encrypted === true ? 'https' : 'http',
      route: request.is404 ? undefined : request.routeOptions.url,
      parent: parentOf(request, api)
    })
    done()
  })
  const stopListening = fastify.facts.onFinished(({ trace }) => (trace as Spans | null)?.end())
  fastify.addHook('onClose', async () => {
    await fastify.facts.settled()
    stopListening()
    const ended = await within(mostFlushMs, clock, sdk.shutdown().then(() => true, () => true))
    if (ended === undefined) fastify.log.warn('The last traces could not be exported in time, and are lost')
  })
}

/** The client's span, where its trace can be continued. */
function parentOf ({ raw: { headers } }: FastifyRequest, { ROOT_CONTEXT, createTraceState, trace }: typeof Api): Api.Context {
  const { traceparent, tracestate } = headers
  if (!isTraceparent(traceparent)) return ROOT_CONTEXT
  const [, traceId, spanId, flags] = traceparent.split('-') as [string, string, string, string]
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true, ...(tracestate !== undefined && { traceState: createTraceState(String(tracestate)) }) })
}

export { TracingOptions }
export default fp(tracingPlugin, { name: 'fleet-tracing', fastify: '5.x', decorators: { fastify: ['facts'] } })
