/**
 * The one stream this page lives on: opened, read, and opened again when it ends or falls silent.
 */
import { signal } from '@preact/signals'
import type { Bye, Snapshot, Tick } from '../wire.ts'
import { messagesOf } from './event-stream.ts'
import { takeSnapshot, takeTick } from './fleet.ts'
import { addressOf, credentials, keepToken, refusalOf, token, you } from './gateway.ts'

export type Connection =
  | { state: 'connecting' }
  | { state: 'connected' }
  /** Until `retryAt`; why it ended is in words. */
  | { state: 'waiting', retryAt: number, reason: string }
  /** A token is needed; why the last one was no good is in words. */
  | { state: 'sign-in', reason: string | null }

export const connection = signal<Connection>({ state: 'connecting' })
/** When the gateway was last heard, by our clock; null before it ever was. */
export const heardAt = signal<number | null>(null)

/** The gateway says something every second. When it has not for so long, what is shown is old, */
export const staleMs = 3_500
/** and after this the connection is given up. */
const silentMs = 8_000
const shortestWaitMs = 1_000
const longestWaitMs = 15_000

let current: AbortController | null = null
let wake = () => {}
let failures = 0

/** Runs for as long as the page does. */
export async function stayConnected (): Promise<never> {
  for (;;) {
    if (connection.value.state !== 'sign-in') {
      const reason = await readOnce()
      if (reason !== null) await waitBefore(reason)
    } else await new Promise<void>(resolve => { wake = resolve })
  }
}

/** Opens the stream now, with the token there is now. */
export function connectNow (): void {
  failures = 0
  if (connection.value.state !== 'connected') connection.value = { state: 'connecting' }
  current?.abort()
  wake()
}

/** Forgets the token. */
export function signOut (reason: string | null = null): void {
  keepToken(null)
  connection.value = { state: 'sign-in', reason }
  current?.abort()
}

/** Reads a stream to its end. @returns why it ended; null when there is nothing to wait for */
async function readOnce (): Promise<string | null> {
  const controller = current = new AbortController()
  const wasToken = token.value
  let watchdog = setTimeout(() => controller.abort(), silentMs)
  try {
    const response = await fetch(addressOf('console/events'), { headers: { ...credentials(), accept: 'text/event-stream' }, signal: controller.signal, cache: 'no-store' })
    if (response.status === 401 || response.status === 403) {
      if (token.value !== wasToken) return null
      const { message } = await refusalOf(response)
      signOut(wasToken === null ? null : response.status === 401 ? 'This token does not open the gateway.' : message)
      return null
    }
    if (!response.ok || response.body === null) return (await refusalOf(response)).message
    for await (const { event, data } of messagesOf(response.body)) {
      clearTimeout(watchdog)
      watchdog = setTimeout(() => controller.abort(), silentMs)
      const bye = take(event, data)
      if (bye?.reason === 'unauthorized') {
        signOut('The token that you signed in with is not valid any more.')
        return null
      }
      if (bye !== undefined) return 'The gateway is shutting down'
    }
    return 'The gateway ended the connection'
  } catch {
    if (connection.value.state === 'sign-in' || token.value !== wasToken) return null
    return controller.signal.aborted ? 'The gateway is silent' : 'The gateway can\'t be reached'
  } finally {
    clearTimeout(watchdog)
  }
}

function take (event: string, data: string): Bye | undefined {
  const message = JSON.parse(data) as unknown
  heardAt.value = Date.now()
  if (event === 'bye') return message as Bye
  if (event === 'snapshot') {
    failures = 0
    you.value = (message as Snapshot).you
    takeSnapshot(message as Snapshot)
    connection.value = { state: 'connected' }
  } else if (event === 'tick') takeTick(message as Tick)
  return undefined
}

async function waitBefore (reason: string): Promise<void> {
  const waitMs = Math.min(shortestWaitMs * 2 ** failures++, longestWaitMs) * (0.8 + Math.random() * 0.4)
  connection.value = { state: 'waiting', retryAt: Date.now() + waitMs, reason }
  await new Promise<void>(resolve => {
    const timer = setTimeout(resolve, waitMs)
    wake = () => { clearTimeout(timer); resolve() }
  })
  if (connection.value.state === 'waiting') connection.value = { state: 'connecting' }
}

addEventListener('online', connectNow)
