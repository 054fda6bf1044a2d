/**
 * The end of an answer that somebody may not take.
 */
import type { Stream } from 'node:stream'
import type { Clock } from './clock.ts'

/** What a client gets to take the rest in. */
const farewellMs = 1_000

/** Cuts off what was told to end, unless it is over by itself a second later: nothing waits for a client that takes nothing. */
export function cutOffSoon (stream: Stream & { destroy: () => unknown }, clock: Clock): void {
  const stopWaiting = clock.after(farewellMs, () => stream.destroy())
  stream.once('close', stopWaiting)
}
