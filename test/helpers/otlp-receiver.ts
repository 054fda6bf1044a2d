/** Takes spans by OTLP over HTTP, in JSON, and misbehaves when told. */
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import type { Test } from 'tap'
import { fakeAgent } from './fake-agent.ts'

type Value = string | number | boolean

export interface ReceivedSpan {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string
  readonly name: string
  /** 2 is SERVER, 3 is CLIENT. */
  readonly kind: number
  /** 0 is unset, 2 is an error. */
  readonly status: number
  readonly startMs: number
  readonly endMs: number
  readonly attributes: Readonly<Record<string, Value>>
  readonly resource: Readonly<Record<string, Value>>
}

interface OtlpValue { stringValue?: string, intValue?: number | string, doubleValue?: number, boolValue?: boolean }
interface OtlpAttribute { key: string, value: OtlpValue }
interface OtlpSpan { traceId: string, spanId: string, parentSpanId?: string, name: string, kind: number, status?: { code?: number }, startTimeUnixNano: string, endTimeUnixNano: string, attributes: OtlpAttribute[] }
interface OtlpBody { resourceSpans: { resource: { attributes: OtlpAttribute[] }, scopeSpans: { spans: OtlpSpan[] }[] }[] }

export interface OtlpReceiver {
  readonly endpoint: string
  readonly spans: ReceivedSpan[]
  /** Heads of what came. */
  readonly requests: { url: string, headers: IncomingHttpHeaders }[]
  /** Resolves when something has come. */
  asked (): Promise<void>
  /** Answers instead; null ends that. */
  misbehave (answer: ((request: IncomingMessage, response: ServerResponse) => void) | null): void
  stop (): Promise<void>
}

export async function otlpReceiver (t: Test): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = []
  const requests: OtlpReceiver['requests'] = []
  let override: ((request: IncomingMessage, response: ServerResponse) => void) | null = null
  let tell = () => {}
  const { origin, kill } = await fakeAgent(t, (request, response) => {
    requests.push({ url: request.url!, headers: request.headers })
    tell()
    if (override !== null) return void override(request, response)
    void json(request).then(body => {
      spans.push(...spansOf(body as OtlpBody))
      response.setHeader('content-type', 'application/json').end('{}')
    }, () => {})
  })
  return {
    endpoint: origin,
    spans,
    requests,
    asked: async () => { if (requests.length === 0) await new Promise<void>(resolve => { tell = resolve }) },
    misbehave (answer) { override = answer },
    stop: kill
  }
}

function spansOf ({ resourceSpans }: OtlpBody): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans.map(span => ({
    traceId: span.traceId,
    spanId: span.spanId,
    parentSpanId: span.parentSpanId ?? '',
    name: span.name,
    kind: span.kind,
    status: span.status?.code ?? 0,
    startMs: Number(BigInt(span.startTimeUnixNano) / 1_000n) / 1_000,
    endMs: Number(BigInt(span.endTimeUnixNano) / 1_000n) / 1_000,
    attributes: valuesOf(span.attributes),
    resource: valuesOf(resource.attributes)
  }))))
}

function valuesOf (attributes: readonly OtlpAttribute[]): Record<string, Value> {
  return Object.fromEntries(attributes.map(({ key, value: { stringValue, intValue, doubleValue, boolValue } }) => [key, stringValue ?? boolValue ?? doubleValue ?? Number(intValue)]))
}
