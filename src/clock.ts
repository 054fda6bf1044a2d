/**
 * Time as a seam: whatever waits or asks for the time gets a Clock, so that tests can move it by hand.
 */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now (): number
  /** Runs `fn` every `intervalMs`; the returned function stops it. Never keeps the process alive. */
  every (intervalMs: number, fn: () => void): () => void
  /** Runs `fn` once after `delayMs`; the returned function cancels it. Never keeps the process alive. */
  after (delayMs: number, fn: () => void): () => void
}

/** The real time. */
export const systemClock: Clock = {
  now: () => Date.now(),
  every (intervalMs, fn) {
    const timer = setInterval(fn, intervalMs).unref()
    return () => clearInterval(timer)
  },
  after (delayMs, fn) {
    const timer = setTimeout(fn, delayMs).unref()
    return () => clearTimeout(timer)
  }
}
