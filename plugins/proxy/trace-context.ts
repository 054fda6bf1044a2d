/**
 * W3C Trace Context: a valid `traceparent` of the client is continued, else one is started. Where nothing is recorded the parent id of a
 * continued trace stays the client's (Trace Context §3.1: a party that records no span forwards the header as it is).
 */
import { randomFillSync } from 'node:crypto'

const idBytes = 24
const batchBytes = idBytes * 256

/** Starts traces. Random bytes are drawn in batches, since one draw costs about as much as 200 bytes more. */
export class TraceStarter {
  readonly #pool = Buffer.alloc(batchBytes)
  #used = batchBytes

  /** A new `traceparent`, not sampled. */
  start (): string {
    if (this.#used === batchBytes) {
      randomFillSync(this.#pool)
      this.#used = 0
    }
    const hex = this.#pool.toString('hex', this.#used, this.#used + idBytes)
    this.#used += idBytes
    return `00-${hex.slice(0, 32)}-${hex.slice(32)}-00`
  }
}
