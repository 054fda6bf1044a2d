/**
 * The last exchanges that finished. Keeping one costs a store, since its facts are kept as they are; entries are made when somebody asks.
 */
import { randomBytes } from 'node:crypto'
import type { RequestFacts } from '../facts/index.ts'
import { pathOf } from '../../src/request-target.ts'
import { entryOf, type AuditEntry } from './entry.ts'

/** How many are kept. */
export const mostRecent = 1_000

/** A longer target is cut when it is kept: a thousand of 32 KiB would be 32 MiB. Characters. */
const longestUrl = 2_048

/** Numbers exchanges from 0 in the order in which they finish; keeps the last `mostRecent`. */
export class RecentExchanges {
  /** In a cursor, tells this run of the gateway from others. */
  readonly #run = randomBytes(6).toString('hex')
  readonly #kept: (RequestFacts | null)[] = new Array<RequestFacts | null>(mostRecent).fill(null)
  #end = 0

  /** The number that the next one gets. */
  get end (): number {
    return this.#end
  }

  /** The number of the oldest that is kept. */
  get begin (): number {
    return Math.max(0, this.#end - mostRecent)
  }

  add (facts: RequestFacts): void {
    this.#kept[this.#end % mostRecent] = facts.url.length > longestUrl ? withShortUrl(facts) : facts
    this.#end++
  }

  /** @param number from `begin` to below `end` */
  factsAt (number: number): RequestFacts {
    return this.#kept[number % mostRecent]!
  }

  /** As factsAt(), for who is shown it. */
  entryAt (number: number): AuditEntry {
    return entryOf(this.factsAt(number), this.idOf(number))
  }

  /** What `since` and `Last-Event-ID` take: everything after this exchange. -1 is before the first. */
  idOf (number: number): string {
    return `${this.#run}-${number + 1}`
  }

  /** The number of the first exchange after that id; 0 for an id of an earlier run, after which all of this run are. Undefined when it is no id. */
  after (id: string): number | undefined {
    const [, run, number] = idPattern.exec(id) ?? []
    if (number === undefined) return undefined
    return run === this.#run ? Math.min(Number(number), this.#end) : 0
  }
}

const idPattern = /^([0-9a-f]{12})-(\d{1,15})$/

function withShortUrl (facts: RequestFacts): RequestFacts {
  return Object.assign(Object.create(Object.getPrototypeOf(facts) as object) as RequestFacts, facts, { url: shortened(facts.url) })
}

/** The beginning of a long target's path, as a string of its own: a slice would keep the whole. */
function shortened (url: string): string {
  return Buffer.from(pathOf(url).slice(0, longestUrl)).toString()
}
