/**
 * W3C Trace Context: a valid `traceparent` of the client is continued, else one is started. Nothing is recorded here, so the parent id
 * of a continued trace stays the client's (Trace Context §3.1: a party that records no span forwards the header as it is).
 */
import { randomFillSync } from 'node:crypto'

const form = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/

/** Whether the value of `traceparent` can be continued. Version 00 has exactly four parts. */
export function isTraceparent (value: string | string[] | undefined): boolean {
  return typeof value === 'string' && form.test(value) && (value.length === 55 || !value.startsWith('00'))
}

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
