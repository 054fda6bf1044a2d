/**
 * The last exchanges that finished. What is kept of one is copied into a place that is there already: a thousand facts kept as they are would be
 * moved by each collection of the young, and become garbage among the old. Entries are made when somebody asks.
 */
import { randomBytes } from 'node:crypto'
import { entryIdPattern } from '../../src/audit-query.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Ending, RequestFacts } from '../facts/index.ts'
import { pathOf } from '../../src/request-target.ts'
import { entryOf, type AuditEntry } from './entry.ts'

/** How many are kept. */
export const mostRecent = 1_000

/** A longer target is cut when it is kept: a thousand of 32 KiB would be 32 MiB. Characters. */
const longestUrl = 2_048

/** What is kept of a finished exchange; the fields are those of its facts. */
export type KeptFacts = Pick<RequestFacts, 'id' | 'startedAt' | 'clientAddress' | 'keyId' | 'method' | 'url' | 'agent' | 'status' | 'durationMs' | 'bytesReceived' | 'bytesSent' | 'code'> & {
  readonly ending: Ending | null
  readonly attempts: readonly KeptAttempt[]
}

interface KeptAttempt {
  instanceId: string
  outcome: AttemptOutcome
  status: number
  durationMs: number
}

/** A place for one exchange. */
class Place implements KeptFacts {
  id = ''
  startedAt = 0
  clientAddress = ''
  keyId: string | null = null
  method = ''
  url = ''
  agent: string | null = null
  status = 0
  durationMs = 0
  bytesReceived = 0
  bytesSent = 0
  code: string | null = null
  ending: Ending | null = null
  readonly attempts: KeptAttempt[] = []

  take (facts: RequestFacts): void {
    const { url, attempts } = facts
    this.id = facts.id
    this.startedAt = facts.startedAt
    this.clientAddress = facts.clientAddress
    this.keyId = facts.keyId
    this.method = facts.method
    this.url = url.length > longestUrl ? shortened(url) : url
    this.agent = facts.agent
    this.status = facts.status
    this.durationMs = facts.durationMs
    this.bytesReceived = facts.bytesReceived
    this.bytesSent = facts.bytesSent
    this.code = facts.code
    this.ending = facts.ending
    if (this.attempts.length > attempts.length) this.attempts.length = attempts.length
    for (let index = 0; index < attempts.length; index++) {
      const { instanceId, outcome, status, durationMs } = attempts[index]!
      const kept = this.attempts[index]
      if (kept === undefined) {
        this.attempts.push({ instanceId, outcome, status, durationMs })
        continue
      }
      kept.instanceId = instanceId
      kept.outcome = outcome
      kept.status = status
      kept.durationMs = durationMs
    }
  }
}

/** Numbers exchanges from 0 in the order in which they finish; keeps the last `mostRecent`. */
export class RecentExchanges {
  /** In a cursor, tells this run of the gateway from others. */
  readonly #run = randomBytes(6).toString('hex')
  readonly #places: Place[] = []
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
    if (this.#places.length < mostRecent) this.#places.push(new Place())
    this.#places[this.#end++ % mostRecent]!.take(facts)
  }

  /** @param number from `begin` to below `end` */
  factsAt (number: number): KeptFacts {
    return this.#places[number % mostRecent]!
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
    const [, run, number] = entryIdPattern.exec(id) ?? []
    if (number === undefined) return undefined
    return run === this.#run ? Math.min(Number(number), this.#end) : 0
  }
}

/** The beginning of a long target's path, as a string of its own: a slice would keep the whole. */
function shortened (url: string): string {
  return Buffer.from(pathOf(url).slice(0, longestUrl)).toString()
}
