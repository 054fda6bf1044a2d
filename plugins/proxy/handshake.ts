/**
 * One WebSocket handshake with one instance, on a connection of its own: opens it, asks, and says what came of it. What that means for the
 * client is tunnel.ts's to know.
 */
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import type { LookupFunction, Socket } from 'node:net'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import { ConnectTimeoutError, connectTo, maxResponseHeadBytes } from './connector.ts'

export interface HandshakeSettings {
  /** Path and query. */
  readonly path: string
  /** The request's fields, flat. */
  readonly fields: string[]
  readonly connectTimeoutMs: number
  /** From the connection to the head of the answer. */
  readonly responseTimeoutMs: number
  readonly lookup: LookupFunction | undefined
  readonly tlsOf: TlsOf
}

/** Exactly one of the last three is called, unless the handshake is given up before. */
export interface HandshakeOwner {
  /** An interim answer other than 101. @param fields flat */
  onInterim (status: number, fields: string[], reason: string): void
  /** The agent switched to WebSocket. @param head what it sent behind its answer */
  onUpgrade (response: IncomingMessage, socket: Socket, head: Buffer): void
  /** Any other answer. Its body is the owner's to read or destroy. */
  onAnswer (response: IncomingMessage): void
  onFailure (outcome: AttemptOutcome, error: Error): void
}

/** Begins a handshake. The returned function ends it, and the connection unless that was handed over by onUpgrade(). */
export function shakeHands (instance: Instance, settings: HandshakeSettings, owner: HandshakeOwner): () => void {
  let over = false
  let request: ClientRequest | null = null
  let timer: NodeJS.Timeout | undefined

  /** True for the first of all outcomes. */
  function settle (): boolean {
    if (over) return false
    over = true
    clearTimeout(timer)
    return true
  }

  function fail (outcome: AttemptOutcome, error: Error): void {
    if (!settle()) return
    request?.destroy()
    owner.onFailure(outcome, error)
  }

  function ask (socket: Socket): void {
    try {
      request = httpRequest({ method: 'GET', path: settings.path, headers: settings.fields, maxHeaderSize: maxResponseHeadBytes, createConnection: () => socket } as object)
    } catch (error) { // a field that can't be sent
      socket.destroy()
      return fail('aborted', error as Error)
    }
    timer = setTimeout(() => fail('timeout', new Error('no response head in time')), settings.responseTimeoutMs)
    request.on('information', ({ statusCode, rawHeaders, statusMessage }) => { if (!over) owner.onInterim(statusCode, rawHeaders, statusMessage) })
    request.on('upgrade', (response, upgraded: Socket, head) => {
      // A coding or length would have a second reader of the stream see a body where frames are.
      const isWebSocket = (response.headers.upgrade ?? '').toLowerCase() === 'websocket' && response.headers['transfer-encoding'] === undefined
      if (!isWebSocket) {
        upgraded.destroy()
        return fail('invalid', new Error('a switch to what nobody asked for'))
      }
      if (settle()) owner.onUpgrade(response, upgraded, head)
      else upgraded.destroy()
    })
    request.on('response', response => {
      if (response.statusCode === 101) return fail('invalid', new Error('a 101 that does not switch')) // without `Connection: Upgrade` it is an answer to Node
      if (settle()) owner.onAnswer(response)
      else response.destroy()
    })
    request.on('error', error => fail(String((error as NodeJS.ErrnoException).code).startsWith('HPE_') ? 'invalid' : 'reset', error))
    request.end()
  }

  const giveUp = connectTo(instance, { timeoutMs: settings.connectTimeoutMs, lookup: settings.lookup, tlsOf: settings.tlsOf, allowHalfOpen: true }, (error, socket) => {
    if (over) return void socket?.destroy()
    if (socket !== null) return ask(socket)
    fail(error instanceof ConnectTimeoutError ? 'connect-timeout' : 'refused', error ?? new Error('no connection'))
  })

  return () => {
    settle()
    giveUp()
    request?.destroy()
  }
}
