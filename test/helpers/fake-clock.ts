/** A clock that stands still until it is told to move. */
import type { Clock } from '../../src/clock.ts'

export interface FakeClock extends Clock {
  /** Moves time on, running what falls due on the way, in order. */
  advance (ms: number): void
}

interface Timer { dueAt: number, everyMs: number | null, fn: () => void }

/** @param startMs milliseconds since the epoch */
export function fakeClock (startMs = 1_700_000_000_000): FakeClock {
  let now = startMs
  const timers = new Set<Timer>()

  function add (delayMs: number, everyMs: number | null, fn: () => void) {
    const timer = { dueAt: now + delayMs, everyMs, fn }
    timers.add(timer)
    return () => { timers.delete(timer) }
  }

  return {
    now: () => now,
    every: (intervalMs, fn) => add(intervalMs, intervalMs, fn),
    after: (delayMs, fn) => add(delayMs, null, fn),
    advance (ms) {
      const end = now + ms
      for (;;) {
        const due = [...timers].filter(timer => timer.dueAt <= end).sort((a, b) => a.dueAt - b.dueAt)[0]
        if (due === undefined) break
        now = due.dueAt
        if (due.everyMs === null) timers.delete(due)
        else due.dueAt += due.everyMs
        due.fn()
      }
      now = end
    }
  }
}
