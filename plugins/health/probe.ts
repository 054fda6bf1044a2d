/**
 * One probe: a TCP connection, or an HTTP GET when there is a path. Never a pooled socket, so that it asks what a new client would meet.
 */
import http from 'node:http'
import https from 'node:https'
import { connect, type LookupFunction, type Socket } from 'node:net'
import type { Clock } from '../../src/clock.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { ProbeOutcome } from '../../src/fleet/outlier.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { HealthOptions } from './options.ts'

/** Asks an instance how it is. Settles soon after `signal` aborts, with whatever; an outcome is never an error. */
export type Probe = (instance: Instance, settings: HealthOptions, signal: AbortSignal) => Promise<ProbeOutcome>

/** A health page is short; what is longer is not read to its end. */
const maxBodyBytes = 64 * 1024
/** Nor is what takes longer, such as an event stream: the head has decided, and the verdict must not wait for the timeout. */
const maxBodyMs = 500

/** What the gateway's own requests to an instance carry, a flat list of names and values; undefined for nothing. */
export type HeadersOf = (instance: Instance) => readonly string[] | undefined

/** The probe that opens real connections. TLS certificates are verified. */
export function createProbe (clock: Clock, lookupOf: LookupOf, headersOf: HeadersOf = () => undefined): Probe {
  return (instance, { path, timeout }, signal) => path === undefined
    ? probeTcp(clock, instance, lookupOf(instance), timeout, signal)
    : askHttp(clock, instance, lookupOf(instance), { path, headers: headersOf(instance), timeoutMs: timeout, signal }).then(({ outcome }) => outcome)
}

function probeTcp (clock: Clock, { host, port }: Instance, lookup: LookupFunction | undefined, timeoutMs: number, signal: AbortSignal): Promise<ProbeOutcome> {
  return new Promise(resolve => {
    let outcome: ProbeOutcome = 'refused'
    const socket = connect({ host, port, ...(lookup && { lookup }) })
    // Not connect()'s own `signal`: Node 20 never takes its listener off again, and this signal lives as long as the instance.
    const onAbort = () => socket.destroy()
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    const cancelTimeout = clock.after(timeoutMs, () => {
      outcome = 'timeout'
      socket.destroy()
    })
    socket.once('connect', () => {
      outcome = 'ok'
      socket.destroy()
    })
    socket.once('error', () => {}) // 'close' follows
    socket.once('close', () => {
      signal.removeEventListener('abort', onAbort)
      cancelTimeout()
      resolve(outcome)
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
}

/** How to ask. */
export interface Question {
  readonly path: string
  readonly headers?: readonly string[] | undefined
  readonly timeoutMs: number
  /** Ends it, with whatever outcome. */
  readonly signal: AbortSignal
  /** Leave when the head is there: an event stream has no end. */
  readonly headOnly?: boolean
}

/** One HTTP GET on a connection of its own. */
export function askHttp (clock: Clock, { protocol, host, port }: Instance, lookup: LookupFunction | undefined, { path, headers: own = [], timeoutMs, signal, headOnly = false }: Question): Promise<HttpReport> {
  return new Promise(resolve => {
    let outcome: ProbeOutcome | null = null
    let status: number | null = null
    let cause: string | null = null
    let connected = false
    const { request } = protocol === 'https' ? https : http
    const headers: Record<string, string> = { 'user-agent': 'fleet-gateway-health', accept: '*/*', connection: 'close' }
    for (let index = 0; index < own.length; index += 2) headers[own[index]!.toLowerCase()] = own[index + 1]!
    const probe = request({ host, port, path, headers, agent: false, signal, ...(lookup && { lookup }) })
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
    probe.once('error', (error: NodeJS.ErrnoException) => { cause = codeOf(error) }) // 'close' follows
    probe.once('close', () => {
      cancelTimeout()
      cancelBody()
      resolve({ outcome: outcome ?? (connected ? 'bad' : 'refused'), status, cause: outcome === null ? cause : null })
    })
    probe.end()
  })
}

/** A name with several addresses fails with all of their errors in one; the first speaks for them. */
function codeOf (error: NodeJS.ErrnoException & { errors?: NodeJS.ErrnoException[] }): string | null {
  return error.code ?? error.errors?.[0]?.code ?? null
}
