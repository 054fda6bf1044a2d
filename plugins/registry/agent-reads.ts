/**
 * Answers of Redis about single agents, which come by two connections and in any order: which of them counts, and of what one lacks a change that is on its way.
 */
export class AgentReads {
  /** How many answers about an agent are under way, and the version of the latest that came, and of the latest that was whole: an older one may come later. */
  readonly #asked = new Map<string, { count: number, version: number, whole: number }>()
  /** Of each agent the parts that changes on their way are about, once for each: what is read meanwhile lacks them. */
  readonly #writing = new Map<string, string[]>()

  /** Asks something of an agent whose answer is applied: which version was applied has to be known until the last of these is over. */
  async asking<A> (name: string, ask: () => Promise<A>): Promise<A> {
    const answers = this.#asked.get(name) ?? { count: 0, version: 0, whole: 0 }
    this.#asked.set(name, answers)
    answers.count++
    try {
      return await ask()
    } finally {
      if (--answers.count === 0) this.#asked.delete(name)
    }
  }

  /** Changes parts of an agent in Redis. */
  async writing<A> (name: string, parts: readonly string[], write: () => Promise<A>): Promise<A> {
    const all = this.#writing.get(name) ?? []
    this.#writing.set(name, all)
    all.push(...parts)
    try {
      return await write()
    } finally {
      for (const part of parts) all.splice(all.indexOf(part), 1)
      if (all.length === 0) this.#writing.delete(name)
    }
  }

  /** The parts of an agent that are being written. */
  beingWritten (name: string): ReadonlySet<string> {
    return new Set(this.#writing.get(name))
  }

  /**
   * An answer to who is `asking` came.
   * @param isWhole whether nothing of the agent is being changed, so that all of the answer is taken
   * @returns whether none that came is later, and up to which version all of the agent was taken
   */
  came (name: string, version: number, isWhole: boolean): { isLatest: boolean, whole: number } {
    const answers = this.#asked.get(name)!
    const isLatest = version >= answers.version
    if (isLatest) answers.version = version
    if (isLatest && isWhole) answers.whole = version
    return { isLatest, whole: answers.whole }
  }

  /** Other data is read from now on, whose versions are others. */
  restart (): void {
    for (const answers of this.#asked.values()) Object.assign(answers, { version: 0, whole: 0 })
  }
}
