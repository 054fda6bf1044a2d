/**
 * What one name has of one type of records, as far as can be told: an answer counts at once, that there is nothing only when it is said twice
 * in a row, and no answer not at all. So no hiccup of a name server empties an agent.
 */

/** What came back. */
export type Reply<R> =
  | { readonly kind: 'records', readonly records: readonly R[], /** How long they hold, where that is known. */ readonly ttlMs?: number }
  | { readonly kind: 'nothing' }
  | { readonly kind: 'failure', readonly reason: string }

export class Question<R> {
  #known: readonly R[] = []
  #answered = false
  #doubted = false

  /** The records that hold; none before the first answer. */
  get known (): readonly R[] {
    return this.#known
  }

  /** Whether there was an answer that counts. */
  get isAnswered (): boolean {
    return this.#answered
  }

  /** There are records, but the last answer said that there are none, and none has confirmed it yet. */
  get isDoubted (): boolean {
    return this.#doubted && this.#known.length > 0
  }

  take (reply: Reply<R>): void {
    if (reply.kind === 'failure') return
    if (reply.kind === 'nothing' && !this.#doubted && (this.#known.length > 0 || !this.#answered)) {
      this.#doubted = true
      return
    }
    this.#known = reply.kind === 'records' ? reply.records : []
    this.#answered = true
    this.#doubted = false
  }
}
