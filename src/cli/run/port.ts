/**
 * The port that a program is given: a free one, or a certain one that nobody has yet; and when something listens there.
 */
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { CommandError } from '../io.ts'

/** How long one try to connect may take. */
const connectMs = 1_000

/** Most programs listen within seconds, and are looked at this often so long; */
const pollMs = 50
const quickMs = 10_000
/** for what takes longer this will do. */
const slowPollMs = 500

/**
 * Where ports are looked for. The system gives those above to whoever asks for any (RFC 6335, 6; Linux from 32768 on), so also to others while
 * the program is still starting.
 */
const range = { from: 20_000, to: 32_767 }

/** Somebody has most of the range when so many tries found none. */
const mostTries = 50

/** A port that is free on every address of this machine just now, and that the system does not give to anybody meanwhile. */
export async function freePort (random: () => number = Math.random): Promise<number> {
  for (let tries = 0; tries < mostTries; tries++) {
    const port = range.from + Math.floor(random() * (range.to - range.from + 1))
    if (await isFree(port)) return port
  }
  throw new CommandError(`No free port was found between ${range.from} and ${range.to}; name one with --port`)
}

async function isFree (port: number): Promise<boolean> {
  const server = createServer().listen(port)
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

/** Whether something takes connections there. */
export function isListening (host: string, port: number): Promise<boolean> {
  return new Promise(resolve => {
    // A name such as localhost may have two addresses, and the program only one of them.
    const socket = createConnection({ host, port, autoSelectFamily: true })
    const end = (listens: boolean) => {
      socket.destroy()
      resolve(listens)
    }
    socket.setTimeout(connectMs, () => end(false))
    socket.once('connect', () => end(true))
    socket.on('error', () => end(false))
  })
}

export interface ListenWait {
  /** Ends the wait. */
  readonly signal: AbortSignal
  /** Called once when it takes longer than `patienceMs`. */
  readonly onSlow: () => void
  readonly patienceMs: number
}

/** Resolves with true when something listens there, however long that takes; with false when the wait is ended. Nothing tells of it but trying. */
export async function untilListening (host: string, port: number, { signal, onSlow, patienceMs }: ListenWait): Promise<boolean> {
  const startMark = performance.now()
  let isSlow = false
  while (!signal.aborted) {
    if (await isListening(host, port)) return !signal.aborted
    const elapsedMs = performance.now() - startMark
    if (!isSlow && elapsedMs >= patienceMs) {
      isSlow = true
      onSlow()
    }
    await sleep(elapsedMs < quickMs ? pollMs : slowPollMs, undefined, { signal }).catch(() => {})
  }
  return false
}
