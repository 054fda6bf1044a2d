/**
 * Opens connections to instances, with a connect timeout that is precise (undici's own is good to about a second).
 */
import { connect as connectTcp, type LookupFunction, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { Instance } from '../../src/fleet/instance.ts'
import type { TlsOf } from '../../src/tls-agents.ts'

/** Bytes; more in the head of an answer, of whatever kind of request, is an invalid one. */
export const maxResponseHeadBytes = 128 * 1024

/** No connection in time; `code` tells it from a refused one. */
export class ConnectTimeoutError extends Error {
  readonly code = 'FLEET_CONNECT_TIMEOUT'
  constructor (timeoutMs: number) {
    super(`No connection in ${timeoutMs} ms`)
  }
}

export type ConnectCallback = (error: Error | null, socket: Socket | null) => void

export interface ConnectSettings {
  readonly timeoutMs: number
  /** Resolves the host's name. @default the system's */
  readonly lookup?: LookupFunction | undefined
  /** For instances that speak https. */
  readonly tlsOf: TlsOf
  /** Keep our side open when the agent closes its own: for tunnels. */
  readonly allowHalfOpen?: boolean
  /** Where to read, without TLS: see net.connect(). With TLS the bytes come as `data`. */
  readonly onread?: { buffer: () => Uint8Array, callback: (length: number, buffer: Uint8Array) => boolean } | undefined
}

/** Opens one connection to `instance`, with TLS where it speaks https. Calls back exactly once; the returned function gives up. */
export function connectTo (instance: Instance, settings: ConnectSettings, callback: ConnectCallback): () => void {
  const { timeoutMs } = settings
  let socket: Socket
  try {
    socket = openSocket(instance, settings)
  } catch (error) { // files of its agent that can't be used
    return failLater(error as Error, callback)
  }
  const connected = instance.protocol === 'https' ? 'secureConnect' : 'connect'
  let over = false
  function settle (error: Error | null): void {
    if (over) return
    over = true
    clearTimeout(timer)
    socket.off(connected, onConnect)
    socket.off('error', settle)
    if (error === null) return callback(null, socket)
    socket.on('error', () => {}) // a second error of a socket that was given up concerns nobody
    socket.destroy()
    callback(error, null)
  }
  const onConnect = () => settle(null)
  const timer = setTimeout(() => settle(new ConnectTimeoutError(timeoutMs)), timeoutMs)
  socket.once(connected, onConnect)
  socket.on('error', settle)
  return () => settle(new Error('given up'))
}

function openSocket (instance: Instance, { lookup, tlsOf, allowHalfOpen = false, onread }: ConnectSettings): Socket {
  const { host, port, protocol } = instance
  const options = { host, port, allowHalfOpen, noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000, ...(lookup && { lookup }) }
  return protocol === 'https' ? connectTls({ ...options, ...tlsOf(instance) }) : connectTcp({ ...options, ...(onread && { onread }) })
}

/** In a turn of its own, as every other failure. */
function failLater (error: Error, callback: ConnectCallback): () => void {
  let over = false
  function settle (): void {
    if (over) return
    over = true
    clearImmediate(failing)
    callback(error, null)
  }
  const failing = setImmediate(settle)
  return settle
}
