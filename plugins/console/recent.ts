/**
 * Finished requests between two ticks, as many as a page can show: failures first, of the rest an even sample.
 */
import type { AuditEntry } from './wire.ts'

/** So many are passed on with one tick, of each kind. */
const mostFailures = 50
const mostOthers = 100

export class Recent {
  readonly #failures: AuditEntry[] = []
  readonly #others: AuditEntry[] = []
  readonly #random: () => number
  #seenFailures = 0
  #seenOthers = 0

  /** @param random from 0 to below 1 */
  constructor (random: () => number = Math.random) {
    this.#random = random
  }

  add (entry: AuditEntry): void {
    if (entry.status >= 500 || entry.ending === 'upstream-aborted') this.#sample(this.#failures, entry, mostFailures, ++this.#seenFailures)
    else this.#sample(this.#others, entry, mostOthers, ++this.#seenOthers)
  }

  /** What there is, oldest first, and how many there were beyond; then begins anew. */
  take (): { entries: AuditEntry[], skipped: number } {
    const entries = [...this.#failures, ...this.#others].sort((a, b) => a.time < b.time ? -1 : a.time > b.time ? 1 : 0)
    const skipped = this.#seenFailures + this.#seenOthers - entries.length
    this.#failures.length = this.#others.length = this.#seenFailures = this.#seenOthers = 0
    return { entries, skipped }
  }

  /** Reservoir sampling: each of those seen is as likely to be kept. */
  #sample (kept: AuditEntry[], entry: AuditEntry, most: number, seen: number): void {
    if (kept.length < most) kept.push(entry)
    else {
      const place = Math.floor(this.#random() * seen)
      if (place < most) kept[place] = entry
    }
  }
}
