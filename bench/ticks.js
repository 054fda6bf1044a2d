/**
 * A thread that posts the time at which each request of a constant rate is due, when it is. Timers of the event loop come up to a millisecond
 * late, which is more than what is measured. Its data: how many ticks, and the milliseconds between them.
 */
import { parentPort, workerData } from 'node:worker_threads'

/** A clock that all threads share, in milliseconds. */
const now = () => Number(process.hrtime.bigint()) / 1e6
const never = new Int32Array(new SharedArrayBuffer(4))

const startedAt = now()
for (let tick = 1; tick <= workerData.count; tick++) {
  const dueAt = startedAt + tick * workerData.everyMs
  Atomics.wait(never, 0, 0, Math.max(0, dueAt - now()))
  parentPort.postMessage(dueAt)
}
