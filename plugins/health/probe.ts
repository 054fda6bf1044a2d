/**
 * One probe: a connection, with TLS where the instance speaks https, or an HTTP GET when there is a path. Never a pooled socket, so that it asks what a new client would meet.
 */
import http from 'node:http'
import https from 'node:https'
import { connect as connectTcp, type LookupFunction, type Socket } from 'node:net'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import type { Clock } from '../../src/clock.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { ProbeOutcome } from '../../src/fleet/outlier.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import { tlsReason } from '../../src/tls-reasons.ts'
import type { HealthOptions } from './options.ts'

/** What came of a probe; with the reason where it is worth more than a word. */
export type ProbeFinding = ProbeOutcome | { readonly outcome: ProbeOutcome, readonly reason: string }

/** Asks an instance how it is. Settles soon after `signal` aborts, with whatever; an outcome is never an error. */
export type Probe = (instance: Instance, settings: HealthOptions, signal: AbortSignal) => Promise<ProbeFinding>

/** A health page is short; what is longer is not read to its end. */
const maxBodyBytes = 64 * 1024
/** Nor is what takes longer, such as an event stream: the head has decided, and the verdict must not wait for the timeout. */
const maxBodyMs = 500

/** What the gateway's own requests to an instance carry, a flat list of names and values; undefined for nothing. */
export type HeadersOf = (instance: Instance) => readonly string[] | undefined

/** How instances are reached, and what is said to them. */
export interface Ways {
  readonly lookupOf: LookupOf
  readonly tlsOf: TlsOf
  readonly headersOf?: HeadersOf
}

/** How an instance is reached. */
interface Way {
  readonly lookup: LookupFunction | undefined
  /** Undefined where it speaks http. */
  readonly tls: ConnectionOptions | undefined
}

/** @throws Error when files of its agent can't be used */
function wayTo (instance: Instance, { lookupOf, tlsOf }: Ways): Way {
  return { lookup: lookupOf(instance), tls: instance.protocol === 'https' ? tlsOf(instance) : undefined }
}

/** The probe that opens real connections. Certificates are verified as for requests. */
export function createProbe (clock: Clock, ways: Ways): Probe {
  return async (instance, { path, timeout }, signal) => {
    if (path === undefined) return await probeConnection(clock, instance, wayTo(instance, ways), timeout, signal)
    const { outcome, reason } = await askHttp(clock, instance, ways, { path, timeoutMs: timeout, signal })
    return reason === null ? outcome : { outcome, reason }
  }
}

function probeConnection (clock: Clock, { host, port }: Instance, { lookup, tls }: Way, timeoutMs: number, signal: AbortSignal): Promise<ProbeFinding> {
  return new Promise(resolve => {
    let outcome: ProbeOutcome = 'refused'
    let reason: string | null = null
    const options = { host, port, ...(lookup && { lookup }) }
    const socket = tls === undefined ? connectTcp(options) : connectTls({ ...options, ...tls })
    // Not connect()'s own `signal`: Node 20 never takes its listener off again, and this signal lives as long as the instance.
    const onAbort = () => socket.destroy()
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    const cancelTimeout = clock.after(timeoutMs, () => {
      outcome = 'timeout'
      socket.destroy()
    })
    if (tls !== undefined) socket.once('connect', () => { outcome = 'bad' }) // unless there is TLS
    socket.once(tls === undefined ? 'connect' : 'secureConnect', () => {
      outcome = 'ok'
      socket.destroy()
    })
    socket.once('error', error => { reason = tlsReason(error) ?? null }) // 'close' follows
    socket.once('close', () => {
      signal.removeEventListener('abort', onAbort)
      cancelTimeout()
      resolve(reason === null ? outcome : { outcome, reason })
    })
  })
}

/** What an HTTP request to an instance met. */
export interface HttpReport {
  /** `ok` is a 2xx or 3xx; `bad` is any other answer, and what is no answer. */
  readonly outcome: ProbeOutcome
  /** Null when no response head came. */
  readonly status: number | null
  /** Node's code of the failure (`ECONNREFUSED`, `ENOTFOUND`, `HPE_INVALID_CONSTANT`, …); null when there is a status or no code. */
  readonly cause: string | null
  /** Why there is no TLS with it, in words; null for any other failure. */
  readonly reason: string | null
}

/** How to ask. */
export interface Question {
  readonly path: string
  readonly timeoutMs: number
  /** Ends it, with whatever outcome. */
  readonly signal: AbortSignal
  /** Leave when the head is there: an event stream has no end. */
  readonly headOnly?: boolean
}

/** One HTTP GET on a connection of its own. */
export async function askHttp (clock: Clock, instance: Instance, ways: Ways, { path, timeoutMs, signal, headOnly = false }: Question): Promise<HttpReport> {
  const { protocol, host, port } = instance
  let way: Way
  try {
    way = wayTo(instance, ways)
  } catch (error) {
    return { outcome: 'bad', status: null, cause: codeOf(error as Error), reason: tlsReason(error) ?? null }
  }
  return await new Promise(resolve => {
    let outcome: ProbeOutcome | null = null
    let status: number | null = null
    let cause: string | null = null
    let reason: string | null = null
    let connected = false
    const { request } = protocol === 'https' ? https : http
    const headers: Record<string, string> = { 'user-agent': 'fleet-gateway-health', accept: '*/*', connection: 'close' }
    const own = ways.headersOf?.(instance) ?? []
    for (let index = 0; index < own.length; index += 2) headers[own[index]!.toLowerCase()] = own[index + 1]!
    const probe = request({ host, port, path, headers, agent: false, signal, ...(way.lookup && { lookup: way.lookup }), ...way.tls })
    let cancelBody = () => {}
    const cancelTimeout = clock.after(timeoutMs, () => {
      outcome ??= 'timeout'
      probe.destroy()
    })
    probe.once('socket', (socket: Socket) => socket.once('connect', () => { connected = true }))
    probe.once('response', response => {
      status = response.statusCode ?? 0
      outcome = status >= 200 && status < 400 ? 'ok' : 'bad'
      if (headOnly) return probe.destroy()
      cancelBody = clock.after(maxBodyMs, () => probe.destroy())
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxBodyBytes) probe.destroy()
      })
      response.once('error', () => {}) // the head has decided
    })
    probe.once('error', (error: NodeJS.ErrnoException) => {
      cause = codeOf(error)
      reason = tlsReason(error) ?? null
    }) // 'close' follows
    probe.once('close', () => {
      cancelTimeout()
      cancelBody()
      resolve({ outcome: outcome ?? (connected ? 'bad' : 'refused'), status, cause: outcome === null ? cause : null, reason: outcome === null ? reason : null })
    })
    probe.end()
  })
}

/** A name with several addresses fails with all of their errors in one; the first speaks for them. */
function codeOf (error: NodeJS.ErrnoException & { errors?: NodeJS.ErrnoException[] }): string | null {
  return error.code ?? error.errors?.[0]?.code ?? null
}
