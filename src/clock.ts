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

/** Resolves as `promise` does; with undefined when that takes longer than `ms`. @throws what `promise` rejects with in that time */
export async function within<T> (ms: number, clock: Clock, promise: Promise<T>): Promise<T | undefined> {
  let cancel = () => {}
  const isTimeUp = new Promise<undefined>(resolve => { cancel = clock.after(ms, () => resolve(undefined)) })
  return await Promise.race([promise, isTimeUp]).finally(() => cancel())
}
