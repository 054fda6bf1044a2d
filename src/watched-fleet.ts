/**
 * The fleet as one who watches it sees it: built from a snapshot, kept up by ticks. The console's page and `fleet-gateway top` share it, so it
 * needs nothing of either. Plain objects that change in place.
 */
import { addressOfInstance } from './figures.ts'
import type { AgentPicture, AgentRow, AgentStatus, AgentUpdate, AuditEntry, ConfigStatus, InstanceFacts, InstanceRow, RedisState, Snapshot, Tick, Totals } from '../plugins/console/wire.ts'

export interface FleetInstance {
  readonly id: string
  readonly agent: string
  facts: InstanceFacts
  row: InstanceRow
}

export interface FleetAgent {
  readonly name: string
  aliases: readonly string[]
  status: AgentStatus
  row: AgentRow
  readonly instances: Map<string, FleetInstance>
  /** Requests a second in each of the last samples, oldest first. */
  readonly spark: number[]
  /** Over the last seconds. */
  rate: number
  /** Of the requests of the last seconds; null when there were none. */
  errorRatio: number | null
  /** Counters of the last seconds, oldest first. */
  readonly requests: number[]
  readonly errors: number[]
  requestsAtSample: number
}

/** So many samples are drawn. */
const sparkLength = 60
/** Rates are those of so many seconds. */
const rateSeconds = 5
/** So many finished requests are kept. */
const mostRequests = 1_000

/** What happened in the last seconds. */
export interface Rates {
  /** Requests a second. */
  rate: number
  /** Of these requests; null when there were none. */
  errorRatio: number | null
}

export class WatchedFleet {
  readonly agents = new Map<string, FleetAgent>()
  /** Of the gateway as a whole. */
  readonly overall: Rates & { readonly requests: number[], readonly errors: number[] } = { rate: 0, errorRatio: null, requests: [], errors: [] }
  totals: Totals | null = null
  config: ConfigStatus | null = null
  /** Of the Redis that gateways share; null where they share none. */
  redis: RedisState | null = null
  /** Newest first; null when the gateway keeps no audit log. */
  requests: AuditEntry[] | null = []
  /** Requests that were too many to be shown. */
  skipped = 0
  /** How far the gateway's clock is ahead of ours, in ms. */
  #clockAhead = 0
  #sampleSeconds = 5

  /** What the gateway's clock says, in ms since the epoch. */
  now (): number {
    return Date.now() + this.#clockAhead
  }

  takeSnapshot (snapshot: Snapshot): void {
    this.#clockAhead = snapshot.now - Date.now()
    this.#sampleSeconds = snapshot.sample_seconds
    this.agents.clear()
    for (const [name, picture] of Object.entries(snapshot.agents)) this.agents.set(name, meet(name, picture, this.#sampleSeconds))
    Object.assign(this.overall, { rate: 0, errorRatio: null, requests: [], errors: [] })
    this.totals = snapshot.totals
    this.config = snapshot.config
    this.redis = snapshot.redis ?? null
    this.requests = snapshot.requests?.toReversed() ?? null
    this.skipped = 0
    this.#countOverall(snapshot.totals)
  }

  /** @returns what changed its state, in words */
  takeTick (tick: Tick): string[] {
    const changes: string[] = []
    this.#clockAhead = tick.now - Date.now()
    for (const [name, update] of Object.entries(tick.agents ?? {})) {
      const known = this.agents.get(name)
      if (known !== undefined) takeUpdate(known, update, changes)
      else if (isWhole(update)) {
        this.agents.set(name, meet(name, update, this.#sampleSeconds))
        changes.push(`${name} joined`)
      }
    }
    for (const name of tick.gone ?? []) {
      this.agents.delete(name)
      changes.push(`${name} left`)
    }
    for (const agent of this.agents.values()) count(agent, tick.sample === true, this.#sampleSeconds)
    this.#countOverall(tick.totals)
    this.totals = tick.totals
    if (tick.config) this.config = tick.config
    this.redis = tick.redis ?? null
    if (this.requests !== null && tick.requests) {
      this.requests.unshift(...tick.requests.toReversed())
      this.requests.length = Math.min(this.requests.length, mostRequests)
    }
    if (tick.skipped) this.skipped += tick.skipped
    return changes
  }

  #countOverall ({ requests, errors }: Totals): void {
    Object.assign(this.overall, rates(this.overall.requests, this.overall.errors, requests, errors))
  }
}

const statusRank = { down: 0, degraded: 1, healthy: 2 } as const
const stateRank = { down: 0, ejected: 1, draining: 2, up: 3 } as const

export function byName (a: FleetAgent, b: FleetAgent): number {
  return a.name < b.name ? -1 : 1
}

/** Worst first. */
export function byStatus (a: FleetAgent, b: FleetAgent): number {
  return statusRank[a.status] - statusRank[b.status] || byName(a, b)
}

/** Worst first. */
export function byState (a: FleetInstance, b: FleetInstance): number {
  return stateRank[a.facts.state] - stateRank[b.facts.state]
}

/** What is told of an agent for the first time is all of it. */
function isWhole (update: AgentUpdate): update is AgentPicture {
  return update.status !== undefined && update.row !== undefined && update.aliases !== undefined
}

function meet (name: string, picture: AgentPicture, sampleSeconds: number): FleetAgent {
  const { aliases, status, row, spark } = picture
  const agent: FleetAgent = {
    name,
    aliases,
    status,
    row,
    instances: new Map(),
    spark: (spark ?? []).map(count => count / sampleSeconds),
    rate: (spark?.at(-1) ?? 0) / sampleSeconds,
    errorRatio: null,
    requests: [row[1]],
    errors: [row[2]],
    requestsAtSample: row[1]
  }
  takeInstances(agent, picture)
  return agent
}

function takeUpdate (agent: FleetAgent, update: AgentUpdate, changes: string[]): void {
  if (update.aliases) agent.aliases = update.aliases
  if (update.row) agent.row = update.row
  for (const id of update.gone ?? []) {
    const left = agent.instances.get(id)
    if (agent.instances.delete(id)) changes.push(`${agent.name}: ${addressOfInstance(left!.facts)} left`)
  }
  for (const [id, facts] of Object.entries(update.facts ?? {})) {
    const before = agent.instances.get(id)
    if (before !== undefined && before.facts.state !== facts.state) changes.push(`${agent.name}: ${addressOfInstance(facts)} is ${facts.state}`)
  }
  takeInstances(agent, update)
  if (update.status) {
    agent.status = update.status
    changes.unshift(`${agent.name} is ${update.status}`)
  }
}

function takeInstances (agent: FleetAgent, { facts = {}, rows = {} }: AgentUpdate): void {
  for (const [id, fact] of Object.entries(facts)) {
    const known = agent.instances.get(id)
    if (known !== undefined) known.facts = fact
    else agent.instances.set(id, { id, agent: agent.name, facts: fact, row: Object.hasOwn(rows, id) ? rows[id]! : [0, 0, 0, 0, 0] })
  }
  for (const [id, row] of Object.entries(rows)) {
    const known = agent.instances.get(id)
    if (known !== undefined) known.row = row
  }
}

function count (agent: FleetAgent, isSample: boolean, sampleSeconds: number): void {
  const [, requestCount, errorCount] = agent.row
  Object.assign(agent, rates(agent.requests, agent.errors, requestCount, errorCount))
  if (!isSample) return
  agent.spark.push((requestCount - agent.requestsAtSample) / sampleSeconds)
  if (agent.spark.length > sparkLength) agent.spark.shift()
  agent.requestsAtSample = requestCount
}

/** Adds this second's counters to those of the seconds before, and says what happened in them. */
function rates (requestCounts: number[], errorCounts: number[], requestCount: number, errorCount: number): Rates {
  requestCounts.push(requestCount)
  errorCounts.push(errorCount)
  if (requestCounts.length > rateSeconds + 1) {
    requestCounts.shift()
    errorCounts.shift()
  }
  const asked = requestCount - requestCounts[0]!
  const failed = errorCount - errorCounts[0]!
  return { rate: asked / Math.max(requestCounts.length - 1, 1), errorRatio: asked === 0 ? null : Math.min(failed / asked, 1) }
}
