/**
 * One probe: a TCP connection, or an HTTP GET when there is a path. Never a pooled socket, so that it asks what a new client would meet.
 */
import http from 'node:http'
import https from 'node:https'
import { connect, type LookupFunction, type Socket } from 'node:net'
import type { Clock } from '../../src/clock.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { ProbeOutcome } from '../../src/fleet/outlier.ts'
import { createLookupOf, type LookupOf } from '../../src/guarded-lookup.ts'
import type { HealthOptions } from './options.ts'

/** Asks an instance how it is. Settles soon after `signal` aborts, with whatever; an outcome is never an error. */
export type Probe = (instance: Instance, settings: HealthOptions, signal: AbortSignal) => Promise<ProbeOutcome>

/** A health page is short; what is longer is not read to its end. */
const maxBodyBytes = 64 * 1024

/** The probe that opens real connections. TLS certificates are verified. */
export function createProbe (clock: Clock, lookupOf: LookupOf = createLookupOf(undefined)): Probe {
  return (instance, { path, timeout }, signal) => path === undefined
    ? probeTcp(clock, instance, lookupOf(instance), timeout, signal)
    : probeHttp(clock, instance, lookupOf(instance), path, timeout, signal)
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

function probeHttp (clock: Clock, { protocol, host, port }: Instance, lookup: LookupFunction | undefined, path: string, timeoutMs: number, signal: AbortSignal): Promise<ProbeOutcome> {
  return new Promise(resolve => {
    let outcome: ProbeOutcome | null = null
    let connected = false
    const { request } = protocol === 'https' ? https : http
    const headers = { 'user-agent': 'fleet-gateway-health', accept: '*/*', connection: 'close' }
    const probe = request({ host, port, path, headers, agent: false, signal, ...(lookup && { lookup }) })
    const cancelTimeout = clock.after(timeoutMs, () => {
      outcome ??= 'timeout'
      probe.destroy()
    })
    probe.once('socket', (socket: Socket) => socket.once('connect', () => { connected = true }))
    probe.once('response', response => {
      const { statusCode = 0 } = response
      outcome = statusCode >= 200 && statusCode < 400 ? 'ok' : 'bad'
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxBodyBytes) probe.destroy()
      })
      response.once('error', () => {}) // the head has decided
    })
    probe.once('error', () => {}) // 'close' follows
    probe.once('close', () => {
      cancelTimeout()
      resolve(outcome ?? (connected ? 'bad' : 'refused'))
    })
    probe.end()
  })
}
