/**
 * The fleet as this page knows it: built from a snapshot, kept up by ticks. Plain objects that change in place; `beat` says that they did.
 */
import { signal } from '@preact/signals'
import type { AgentPicture, AgentRow, AgentStatus, AgentUpdate, AuditEntry, ConfigStatus, InstanceFacts, InstanceRow, Snapshot, Tick, Totals } from '../wire.ts'

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

/** Counts messages of the gateway: who reads it is drawn again with each. */
export const beat = signal(0)
/** Counts samples of the history. */
export const samples = signal(0)
export const agents = new Map<string, FleetAgent>()
export const totals = signal<Totals | null>(null)
export const config = signal<ConfigStatus | null>(null)
/** What to say aloud: what changed its state. */
export const news = signal('')
/** Newest first; null when the gateway keeps no audit log. */
export let requests: AuditEntry[] | null = []
/** Requests that were too many to be shown. */
export const skipped = signal(0)
/** How far the gateway's clock is ahead of ours, in ms. */
let clockAhead = 0
let sampleSeconds = 5
/** Of the gateway as a whole, over the last seconds. */
export const overall = { rate: 0, errorRatio: null as number | null, requests: [] as number[], errors: [] as number[] }

/** What the gateway's clock says. */
export function gatewayNow (): number {
  return Date.now() + clockAhead
}

export function takeSnapshot (snapshot: Snapshot): void {
  clockAhead = snapshot.now - Date.now()
  sampleSeconds = snapshot.sample_seconds
  agents.clear()
  for (const [name, picture] of Object.entries(snapshot.agents)) agents.set(name, meet(name, picture))
  overall.requests.length = overall.errors.length = 0
  overall.rate = 0
  overall.errorRatio = null
  totals.value = snapshot.totals
  config.value = snapshot.config
  requests = snapshot.requests?.toReversed() ?? null
  skipped.value = 0
  countOverall(snapshot.totals)
  beat.value++
  samples.value++
}

function meet (name: string, picture: AgentPicture): FleetAgent {
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

export function takeTick (tick: Tick): void {
  const changes: string[] = []
  clockAhead = tick.now - Date.now()
  for (const [name, update] of Object.entries(tick.agents ?? {})) {
    const known = agents.get(name)
    if (known === undefined) {
      agents.set(name, meet(name, update as AgentPicture))
      changes.push(`${name} joined`)
    } else takeUpdate(known, update, changes)
  }
  for (const name of tick.gone ?? []) {
    agents.delete(name)
    changes.push(`${name} left`)
  }
  for (const agent of agents.values()) count(agent, tick.sample === true)
  countOverall(tick.totals)
  totals.value = tick.totals
  if (tick.config) config.value = tick.config
  if (requests !== null && tick.requests) {
    requests.unshift(...tick.requests.toReversed())
    requests.length = Math.min(requests.length, mostRequests)
  }
  if (tick.skipped) skipped.value += tick.skipped
  if (changes.length > 0) news.value = changes.length > 3 ? `${changes.length} changes of state in the fleet` : changes.join('. ')
  if (tick.sample) samples.value++
  beat.value++
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
    else agent.instances.set(id, { id, agent: agent.name, facts: fact, row: rows[id] ?? [0, 0, 0, 0, 0] })
  }
  for (const [id, row] of Object.entries(rows)) {
    const known = agent.instances.get(id)
    if (known !== undefined) known.row = row
  }
}

function count (agent: FleetAgent, isSample: boolean): void {
  const [, requestCount, errorCount] = agent.row
  Object.assign(agent, rates(agent.requests, agent.errors, requestCount, errorCount))
  if (!isSample) return
  agent.spark.push((requestCount - agent.requestsAtSample) / sampleSeconds)
  if (agent.spark.length > sparkLength) agent.spark.shift()
  agent.requestsAtSample = requestCount
}

function countOverall ({ requests: requestCount, errors }: Totals): void {
  Object.assign(overall, rates(overall.requests, overall.errors, requestCount, errors))
}

/** Adds this second's counters to those of the seconds before, and says what happened in them. */
function rates (requestCounts: number[], errorCounts: number[], requestCount: number, errorCount: number): { rate: number, errorRatio: number | null } {
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

/** `host:port`, IPv6 in brackets. */
export function addressOfInstance ({ host, port }: InstanceFacts): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}
