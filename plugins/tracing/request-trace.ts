/**
 * The spans of one request: SERVER for the request, and below it CLIENT for each attempt, by OpenTelemetry's conventions for HTTP. What they
 * say is read from the facts when the exchange is over; only ids have to be there before.
 */
import type * as Api from '@opentelemetry/api'
import type { RequestFacts, RequestTrace } from '../facts/index.ts'
import { isFailure, type Attempt } from '../../src/fleet/attempt.ts'
import { pathOf } from '../../src/request-target.ts'

/** Others are `_OTHER`: the values of this attribute must be few. */
const knownMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH', 'QUERY'])
const mostPathLength = 1_024

interface Tracing {
  readonly api: typeof Api
  readonly tracer: Api.Tracer
}

/** What is known of a request when it begins. */
export interface Begun {
  readonly facts: RequestFacts
  readonly scheme: string
  /** As it was declared; undefined for unknown paths. */
  readonly route: string | undefined
  readonly parent: Api.Context
}

/** Begins the span of a request. @returns null when the sampler wants none */
export function beginTrace (tracing: Tracing, { facts, scheme, route, parent }: Begun): Spans | null {
  const { api: { SpanKind, trace }, tracer } = tracing
  const method = knownMethods.has(facts.method) ? facts.method : 'HTTP'
  const attributes = {
    ...methodOf(facts.method),
    'url.scheme': scheme,
    'url.path': pathOf(facts.url).slice(0, mostPathLength),
    'client.address': facts.clientAddress,
    ...(route !== undefined && { 'http.route': route }),
    'fleet.request_id': facts.id
  }
  const span = tracer.startSpan(route === undefined ? method : `${method} ${route}`, { kind: SpanKind.SERVER, startTime: facts.startedAt, attributes }, parent)
  return span.isRecording() ? new Spans(tracing, facts, span, trace.setSpan(parent, span)) : null
}

export class Spans implements RequestTrace {
  readonly #tracing: Tracing
  readonly #facts: RequestFacts
  readonly #span: Api.Span
  readonly #context: Api.Context
  readonly #attempts = new Map<Attempt, Api.Span>()

  constructor (tracing: Tracing, facts: RequestFacts, span: Api.Span, context: Api.Context) {
    this.#tracing = tracing
    this.#facts = facts
    this.#span = span
    this.#context = context
  }

  begin (attempt: Attempt): string {
    const { api: { SpanKind }, tracer } = this.#tracing
    const { method, agent } = this.#facts
    const { instance: { protocol, host, port } } = attempt
    const number = this.#attempts.size + 1
    const attributes = {
      ...methodOf(method),
      'server.address': host,
      'server.port': port,
      'url.scheme': protocol,
      ...(number > 1 && { 'http.request.resend_count': number - 1 }),
      ...(agent !== null && { 'fleet.agent': agent }),
      'fleet.instance': attempt.instanceId,
      'fleet.attempt': number
    }
    const span = tracer.startSpan(knownMethods.has(method) ? method : 'HTTP', { kind: SpanKind.CLIENT, startTime: this.#at(attempt.startedMark), attributes }, this.#context)
    this.#attempts.set(attempt, span)
    const { traceId, spanId, traceFlags } = span.spanContext()
    return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`
  }

  /** Everything is known now. */
  end (): void {
    const { SpanStatusCode } = this.#tracing.api
    const { agent, keyId, status, ending, code, durationMs, stream, startedMark } = this.#facts
    for (const [attempt, span] of this.#attempts) this.#endAttempt(attempt, span)
    const span = this.#span
    if (agent !== null) span.setAttribute('fleet.agent', agent)
    if (keyId !== null) span.setAttribute('fleet.key', keyId)
    if (stream !== null) span.setAttribute('fleet.stream', stream)
    const answered = status > 0 && !(ending === 'client-aborted' && status === 499)
    if (answered) span.setAttribute('http.response.status_code', status)
    if (status >= 500) span.setAttribute('error.type', code ?? String(status))
    else if (ending !== null && ending !== 'complete') span.setAttribute('error.type', ending)
    // What a client does is no fault of ours; an answer that broke off is, whatever its status.
    if (status >= 500 || ending === 'upstream-aborted') span.setStatus({ code: SpanStatusCode.ERROR })
    span.end(this.#at(startedMark + durationMs))
  }

  #endAttempt (attempt: Attempt, span: Api.Span): void {
    const { outcome, status, startedMark, durationMs } = attempt
    span.setAttribute('fleet.outcome', outcome)
    if (status > 0) span.setAttribute('http.response.status_code', status)
    const isError = outcome === 'answered' ? status >= 400 : outcome !== 'pending'
    if (isError) span.setAttribute('error.type', outcome === 'answered' ? String(status) : outcome)
    if (isFailure(attempt) || (outcome === 'answered' && status >= 400)) span.setStatus({ code: this.#tracing.api.SpanStatusCode.ERROR })
    span.end(this.#at(outcome === 'pending' ? performance.now() : startedMark + durationMs))
  }

  /** Milliseconds since the epoch, of a mark of the monotonic clock. */
  #at (mark: number): number {
    return this.#facts.startedAt + mark - this.#facts.startedMark
  }
}

function methodOf (method: string): Api.Attributes {
  return knownMethods.has(method) ? { 'http.request.method': method } : { 'http.request.method': '_OTHER', 'http.request.method_original': method }
}
