/**
 * Which exchanges are asked for: the parameters of `GET /audit`, and of `auditLog.recent()`.
 */
import { namePattern } from '../../src/agent-options.ts'
import { sinceRule, statusesIn, statusesRule, timeIn } from '../../src/audit-query.ts'
import { BadRequestError } from '../../src/errors.ts'
import { mostRecent, type KeptFacts, type RecentExchanges } from './recent.ts'

/** What somebody wants to see; what is left out means all. */
export interface AuditFilter {
  /** Name of an agent; where a registry runs an alias as well. */
  agent?: string
  /** Statuses and classes, separated by commas: `404`, `5xx`, `429,5xx`. */
  status?: string
  /**
   * Exchanges that finished since then: an entry's id (those after it), ISO 8601, a duration back from now (`5m`); a number is milliseconds
   * since the epoch.
   */
  since?: string | number
  /** The newest so many, from 1 to 1,000; with an entry's id in `since` the next so many after it. @default 1000 */
  limit?: number
  /** Whether the caller may see exchanges with that agent; null is those without one. */
  sees?: (agentName: string | null) => boolean
}

/** What is kept by a filter. */
export type Predicate = (facts: KeptFacts) => boolean

/** The exchanges that a filter means, as they are now. */
export interface Selection {
  /** Numbers in the ring, ascending. */
  readonly numbers: readonly number[]
  /** From which number on the next ones are new. */
  readonly next: number
  /** Of those after the id in `since`, how many are not kept any more. */
  readonly missed: number
}

const agentPattern = new RegExp(namePattern)

/**
 * @param nameOf what agent an alias means
 * @throws BadRequestError naming what is wrong
 */
export function predicateOf ({ agent, status, sees }: AuditFilter, nameOf: (nameOrAlias: string) => string): Predicate {
  const name = agent === undefined ? undefined : nameOf(agentIn(agent))
  const isWanted = status === undefined ? undefined : statusesOf(status)
  return facts => (name === undefined || facts.agent === name) && (isWanted === undefined || isWanted(facts.status)) && (sees === undefined || sees(facts.agent))
}

/** @throws BadRequestError */
export function agentIn (text: unknown): string {
  if (typeof text !== 'string' || !agentPattern.test(text)) throw new BadRequestError('agent must be the name or alias of one agent')
  return text
}

function statusesOf (text: unknown): (status: number) => boolean {
  const isAmong = typeof text === 'string' ? statusesIn(text) : undefined
  if (isAmong === undefined) throw new BadRequestError(`status ${statusesRule}`)
  return isAmong
}

/** From which number on, and whether an id said so. @throws BadRequestError */
export function beginningOf (since: string | number | undefined, ring: RecentExchanges, now: number): { first: number, isId: boolean } {
  if (since === undefined) return { first: ring.begin, isId: false }
  const after = typeof since === 'string' ? ring.after(since) : undefined
  if (after !== undefined) return { first: after, isId: true }
  const time = typeof since === 'number' ? since : timeOf(since, now)
  let first = ring.end
  while (first > ring.begin && finishedAt(ring.factsAt(first - 1)) >= time) first--
  return { first, isId: false }
}

function finishedAt ({ startedAt, durationMs }: KeptFacts): number {
  return startedAt + durationMs
}

/** Milliseconds since the epoch. */
function timeOf (since: unknown, now: number): number {
  const time = typeof since === 'string' ? timeIn(since, now) : undefined
  if (time === undefined) throw new BadRequestError(`since ${sinceRule}`)
  return time
}

/** @throws BadRequestError naming what is wrong */
export function select (filter: AuditFilter, ring: RecentExchanges, now: number, nameOf: (nameOrAlias: string) => string): Selection {
  const matches = predicateOf(filter, nameOf)
  const limit = limitIn(filter.limit) ?? mostRecent
  const { first, isId } = beginningOf(filter.since, ring, now)
  const numbers: number[] = []
  if (isId) {
    let next = Math.max(first, ring.begin)
    for (; next < ring.end && numbers.length < limit; next++) if (matches(ring.factsAt(next))) numbers.push(next)
    return { numbers, next, missed: Math.max(0, ring.begin - first) }
  }
  for (let number = ring.end - 1; number >= first && numbers.length < limit; number--) if (matches(ring.factsAt(number))) numbers.push(number)
  return { numbers: numbers.reverse(), next: ring.end, missed: 0 }
}

/** @throws BadRequestError */
export function limitIn (limit: unknown): number | undefined {
  if (limit === undefined) return undefined
  const number = typeof limit === 'string' && /^\d{1,4}$/.test(limit) ? Number(limit) : limit
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > mostRecent) throw new BadRequestError(`limit must be a whole number from 1 to ${mostRecent}`)
  return number
}
