/**
 * Requests of one agent that wait for a place at an instance, because all that could serve them are full: first come, first served, for a
 * while at most. Which instance has a place, and what becomes of who waited too long, is the upstream plugin's.
 */
import type { Clock } from '../clock.ts'

/** Who waits. A waiter is in one line at most. */
export interface WaitingLine<Waiter> {
  readonly size: number
  /** Puts it at the end. `onTimeout` is called when it still waits after `timeoutMs`; it has left the line then. */
  add (waiter: Waiter, timeoutMs: number, onTimeout: () => void): void
  /** Takes it out, wherever it stands; nothing when it does not wait. */
  remove (waiter: Waiter): void
  /**
   * Offers a place to each in turn, and lets go who took one.
   * @param hasPlace asked before each offer; a long line is not asked through for nothing
   * @param offer whether it took one; never asked again for the same waiter after true
   */
  serve (offer: (waiter: Waiter) => boolean, hasPlace: () => boolean): void
}

/** An empty line. */
export function createWaitingLine<Waiter> (clock: Clock): WaitingLine<Waiter> {
  /** In the order in which they came, with what ends their patience. */
  const waiting = new Map<Waiter, () => void>()

  function remove (waiter: Waiter): void {
    waiting.get(waiter)?.()
    waiting.delete(waiter)
  }

  return {
    get size () { return waiting.size },
    add (waiter, timeoutMs, onTimeout) {
      const cancel = clock.after(timeoutMs, () => {
        waiting.delete(waiter)
        onTimeout()
      })
      waiting.set(waiter, cancel)
    },
    remove,
    serve (offer, hasPlace) {
      for (const waiter of waiting.keys()) {
        if (!hasPlace()) return
        // An offer may end others: a request that is placed can fail at once, and its client with it.
        if (waiting.has(waiter) && offer(waiter)) remove(waiter)
      }
    }
  }
}
