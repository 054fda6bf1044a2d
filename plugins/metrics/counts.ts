/**
 * What is counted of finished exchanges and attempts between two scrapes. This runs for every request, so it adds to numbers that are there
 * and makes no labels; those are put beside them when somebody asks (families.ts). However clients, agents and registrations behave, there
 * are as many numbers as the agents that are there have, and those of at most a thousand that left.
 */
import type { RequestFacts } from '../facts/index.ts'
import type { Clock } from '../../src/clock.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Registry } from '../../src/fleet/registry.ts'

/** Upper bounds of what ordinary exchanges and first bytes take, in seconds: up to the longest that timeouts allow by default. */
export const durationBounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
/** Of event streams and WebSockets, which last as long as they are wanted. */
const streamBounds = [1, 10, 60, 300, 1_800, 3_600, 14_400, 86_400]

/** Methods that are told apart; the rest is one. */
export const methodLabels = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'OTHER']
const otherMethod = methodLabels.length - 1
const methodIndexes = new Map(methodLabels.map((method, index) => [method, index]))

/** By the status's first digit; agents may answer with statuses that no class has. */
export const classLabels = ['other', '1xx', '2xx', '3xx', '4xx', '5xx']

/** Why a request was sent again: what its attempt before came to. */
const reasons = { answered: '5xx', refused: 'refused', 'connect-timeout': 'connect-timeout', reset: 'reset', timeout: 'timeout', invalid: 'invalid', stale: 'stale', aborted: 'other', pending: 'other' } as const satisfies Record<AttemptOutcome, string>
export const reasonLabels = [...new Set(Object.values(reasons))]
const reasonIndexes = Object.fromEntries(Object.entries(reasons).map(([outcome, reason]) => [outcome, reasonLabels.indexOf(reason)])) as Record<AttemptOutcome, number>

export const streamLabels = ['event-stream', 'websocket'] as const
export const abortedByLabels = ['client', 'agent']

/** Names of agents that left, whose counts are still told, so that their last requests are seen by the next scrape. */
const maxGone = 1_000
const keepGoneMs = 10 * 60_000

/** A histogram: how many durations fell into each bucket, and their sum. */
export class Durations {
  readonly bounds: readonly number[]
  /** One more than there are bounds: what is above all of them. */
  readonly counts: Float64Array
  sum = 0

  constructor (bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Float64Array(bounds.length + 1)
  }

  observe (ms: number): void {
    const seconds = ms / 1_000
    const { bounds } = this
    let index = 0
    while (index < bounds.length && seconds > bounds[index]!) index++
    this.counts[index]!++
    this.sum += seconds
  }
}

/** Durations by method and class of status: a slot for each pair, filled when the pair first occurs. */
export type DurationTable = (Durations | undefined)[]

function newTable (): DurationTable {
  return new Array<Durations | undefined>(methodLabels.length * classLabels.length).fill(undefined)
}

/** What was counted of an agent; for requests that concern none, of the gateway. */
export class AgentCounts {
  /** By status; 0 stands for what is none. */
  readonly codes = new Map<number, { count: number }>()
  readonly durations = newTable()
  ttfb: Durations | null = null
  /** By reason. */
  readonly retries = reasonLabels.map(() => 0)
  /** By who went away. */
  readonly aborted = abortedByLabels.map(() => 0)
  /** By kind of stream. */
  readonly streams: (Durations | null)[] = streamLabels.map(() => null)
  /** Since when the agent is known to have left, milliseconds since the epoch. */
  goneSince: number | null = null
}

export class Counts {
  rateLimited = 0
  authFailures = 0
  leaseExpirations = 0
  /** Of requests that concern no agent, or none that there is. */
  readonly own = new AgentCounts()
  /** Durations of the gateway's own routes, by pattern; the empty one is for paths that have no route. */
  readonly routes = new Map<string, DurationTable>()
  readonly #registry: Registry
  readonly #clock: Clock
  readonly #agents = new Map<string, AgentCounts>()

  constructor (registry: Registry, clock: Clock) {
    this.#registry = registry
    this.#clock = clock
  }

  /** How many names of agents have counts. */
  get size (): number {
    return this.#agents.size
  }

  /** Counts a finished exchange. */
  countExchange (facts: RequestFacts): void {
    const { agent, attempts, status, stream } = facts
    const counts = agent === null ? this.own : this.#of(agent)
    const known = status >= 100 && status < 600
    const code = known ? status : 0
    const ofCode = counts.codes.get(code)
    if (ofCode === undefined) counts.codes.set(code, { count: 1 })
    else ofCode.count++

    if (stream === null) {
      const table = agent === null ? this.#tableOf(facts.route ?? '') : counts.durations
      const slot = (methodIndexes.get(facts.method) ?? otherMethod) * classLabels.length + (known ? status / 100 | 0 : 0)
      ;(table[slot] ??= new Durations(durationBounds)).observe(facts.durationMs)
    } else {
      (counts.streams[stream === 'websocket' ? 1 : 0] ??= new Durations(streamBounds)).observe(facts.durationMs)
    }
    for (let index = 1; index < attempts.length; index++) counts.retries[reasonIndexes[attempts[index - 1]!.outcome]]!++
    // Who leaves a stream is what ends it as a rule.
    if (facts.ending !== 'complete') {
      if (facts.ending === 'upstream-aborted') counts.aborted[1]!++
      else if (stream === null) counts.aborted[0]!++
    }
    if (facts.code !== null) this.#countRefusal(facts)
  }

  /** Counts an attempt whose outcome is known. */
  countAttempt (attempt: Attempt): void {
    if (attempt.outcome !== 'answered') return
    const counts = this.#of(attempt.instance.agent)
    ;(counts.ttfb ??= new Durations(durationBounds)).observe(attempt.durationMs)
  }

  /** What was counted of agents, those included that left of late. */
  agents (): ReadonlyMap<string, AgentCounts> {
    this.#forgetGone(maxGone)
    return this.#agents
  }

  #countRefusal ({ unauthenticated, code }: RequestFacts): void {
    if (unauthenticated) this.authFailures++
    else if (code === 'FLEET_RATE_LIMITED') this.rateLimited++
  }

  #of (name: string): AgentCounts {
    return this.#agents.get(name) ?? this.#add(name)
  }

  #add (name: string): AgentCounts {
    // Nobody may be scraping. Every so often is enough, since so many names have come since the last time.
    if (this.#agents.size >= this.#registry.size + maxGone) this.#forgetGone(maxGone / 2)
    const counts = new AgentCounts()
    this.#agents.set(name, counts)
    return counts
  }

  #tableOf (route: string): DurationTable {
    let table = this.routes.get(route)
    if (table === undefined) this.routes.set(route, table = newTable())
    return table
  }

  /** Forgets agents that left long ago, and of the others the first to come when there are more than `most`. */
  #forgetGone (most: number): void {
    const now = this.#clock.now()
    const gone: string[] = []
    for (const [name, counts] of this.#agents) {
      if (this.#registry.find(name)?.name === name) { // a name may have become another agent's alias
        counts.goneSince = null
        continue
      }
      counts.goneSince ??= now
      if (now - counts.goneSince >= keepGoneMs) this.#agents.delete(name)
      else gone.push(name)
    }
    for (const name of gone.slice(0, Math.max(gone.length - most, 0))) this.#agents.delete(name)
  }
}
