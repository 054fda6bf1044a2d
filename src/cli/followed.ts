/**
 * A gateway's event stream that is followed over its ends, until somebody ends that.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { GatewayAwayError, type GatewayClient } from './client.ts'
import { eventsIn, type StreamEvent } from './event-stream.ts'
import { CommandError, type CommandIo } from './io.ts'

/** Before it asks a gateway again that has gone away: at first, */
const leastPauseMs = 250
/** and at most. */
const mostPauseMs = 5_000

export interface Following {
  /** Ends it: what waits then throws. */
  readonly signal: AbortSignal
  /** Told once each time that the stream has ended, and each time that it is there again. */
  readonly tell: (text: string, isAway: boolean) => void
  /** An event that is longer is none of a gateway's. @default 1 MiB */
  readonly mostCharacters?: number
}

/** @throws CommandError when there is no such stream, or it can't be had any more; a gateway that goes away is waited for */
export async function * followed (client: GatewayClient, path: string, { signal, tell, mostCharacters }: Following): AsyncGenerator<StreamEvent, never> {
  const { url } = client.target
  let lastEventId: string | undefined
  let wasOpen = false
  let isAway = false
  for (let pauseMs = leastPauseMs; ; pauseMs = Math.min(pauseMs * 2, mostPauseMs)) {
    try {
      for await (const event of eventsIn(client.stream(path, lastEventId, signal), mostCharacters)) {
        if (isAway) tell(`The gateway at ${url} is back`, false)
        wasOpen = true
        isAway = false
        pauseMs = leastPauseMs
        lastEventId = event.id
        yield event
      }
    } catch (error) {
      if (error instanceof RangeError) throw strangeStream(client)
      if (!wasOpen || !(error instanceof GatewayAwayError)) throw error
    }
    if (!isAway) tell(`The gateway at ${url} has ended the stream; waiting for it`, true)
    isAway = true
    await sleep(pauseMs, undefined, { signal })
  }
}

/** What to say of events that no gateway sends. */
export function strangeStream ({ target: { url } }: GatewayClient): CommandError {
  return new CommandError(`What answers at ${url} is no Fleet Gateway, to go by its event stream: correct --url or FLEET_URL`)
}

/** Runs `use` until it ends, a signal asks for an end, or nobody reads any more; only in the first case are its errors anybody's business. */
export async function untilEnded (io: CommandIo, use: (ending: AbortController) => Promise<void>): Promise<void> {
  const ending = new AbortController()
  const end = () => ending.abort()
  const leave = io.onSignal(end)
  io.stdout.once('error', end).once('close', end)
  try {
    await use(ending)
  } catch (error) {
    if (!ending.signal.aborted) throw error
  } finally {
    io.stdout.off('error', end).off('close', end)
    leave()
  }
}
