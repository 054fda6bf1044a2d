/**
 * Answers of Redis about single agents, which come by two connections and in any order: which of them counts, and which lacks a change that is on its way.
 */
export class AgentReads {
  /** How many answers about an agent are under way, and the version of the latest that came: an older one may come later. */
  readonly #asked = new Map<string, { count: number, version: number }>()
  /** How many changes of an agent are on their way: what is read meanwhile lacks what they are about. */
  readonly #writing = new Map<string, number>()

  /** Asks something of an agent whose answer is applied: which version was applied has to be known until the last of these is over. */
  async asking<A> (name: string, ask: () => Promise<A>): Promise<A> {
    const answers = this.#asked.get(name) ?? { count: 0, version: 0 }
    this.#asked.set(name, answers)
    answers.count++
    try {
      return await ask()
    } finally {
      if (--answers.count === 0) this.#asked.delete(name)
    }
  }

  /** Changes an agent in Redis. */
  async writing<A> (name: string, write: () => Promise<A>): Promise<A> {
    this.#writing.set(name, (this.#writing.get(name) ?? 0) + 1)
    try {
      return await write()
    } finally {
      const others = this.#writing.get(name)! - 1
      if (others > 0) this.#writing.set(name, others)
      else this.#writing.delete(name)
    }
  }

  isWriting (name: string): boolean {
    return this.#writing.has(name)
  }

  /** An answer to who is `asking` came. @returns the latest version that did, and whether it is this one */
  came (name: string, version: number): { latest: number, isLatest: boolean } {
    const answers = this.#asked.get(name)!
    const isLatest = version >= answers.version
    if (isLatest) answers.version = version
    return { latest: answers.version, isLatest }
  }

  /** Other data is read from now on, whose versions are others. */
  restart (): void {
    for (const answers of this.#asked.values()) answers.version = 0
  }
}
