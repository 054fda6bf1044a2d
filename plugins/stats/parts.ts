/**
 * Figures of several processes as those of one: what each has counted so far, in a form that survives JSON, and their sum. Agents that nobody asked
 * are left out, so that a fleet of thousands costs what its traffic does.
 */
import type { Peer } from '../peers/questions.ts'
import type { Counters } from './counters.ts'
import type { AgentStats, LatencyView, ProcessStats, StatsSnapshot } from './snapshot.ts'
import { inFlightOf, type Agent } from '../../src/fleet/agent.ts'
import { newLatencyBuckets, percentilesSince, type LatencyBuckets } from '../../src/latency-buckets.ts'

interface InstancePart { requests: number, errors: number, inFlight: number }

interface AgentPart {
  requests: number
  errors: number
  retries: number
  inFlight: number
  /** How many durations fell into which bucket, in pairs; those that are empty are left out. */
  latency: number[]
  maxMs: number
  instances: Record<string, InstancePart>
}

/** What one process has counted. */
export interface StatsPart {
  requests: number
  errors: number
  proxied: number
  inFlight: number
  uptimeSeconds: number
  /** Pairs, since an agent may have any name. */
  agents: [name: string, part: AgentPart][]
}

const count = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value >= 0

const hasCounts = (value: unknown, ...names: readonly string[]): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && names.every(name => count((value as Record<string, unknown>)[name]))

/** Whether it is what partOf() makes: it comes from other processes, of other versions as well. */
export function isPart (value: unknown): value is StatsPart {
  return hasCounts(value, 'requests', 'errors', 'proxied', 'inFlight', 'uptimeSeconds') && Array.isArray(value['agents']) &&
    value['agents'].every((entry: unknown) => Array.isArray(entry) && typeof entry[0] === 'string' && isAgentPart(entry[1]))
}

function isAgentPart (value: unknown): value is AgentPart {
  if (!hasCounts(value, 'requests', 'errors', 'retries', 'inFlight', 'maxMs')) return false
  const { latency, instances } = value
  return Array.isArray(latency) && latency.every(count) && typeof instances === 'object' && instances !== null &&
    Object.values(instances).every(instance => hasCounts(instance, 'requests', 'errors', 'inFlight'))
}

/** What of a part is of the whole process. */
type Totals = Omit<StatsPart, 'agents'>

export function partOf (totals: Totals, agents: Iterable<Agent>, counters: Counters): StatsPart {
  const parts: StatsPart['agents'] = []
  for (const agent of agents) {
    const { requests, errors, retries, latency, buckets } = counters.ofAgent(agent.rotation)
    const inFlight = inFlightOf(agent)
    if (requests === 0 && inFlight === 0) continue
    const instances: AgentPart['instances'] = {}
    for (const { id, runtime } of agent.instances) instances[id] = { ...counters.ofInstance(runtime), inFlight: runtime.inFlight }
    parts.push([agent.name, { requests, errors, retries, inFlight, latency: pairsOf(buckets), maxMs: (latency?.max ?? 0) / 1_000, instances }])
  }
  return { ...totals, agents: parts }
}

function pairsOf (buckets: LatencyBuckets | null): number[] {
  const pairs: number[] = []
  buckets?.forEach((count, bucket) => { if (count > 0) pairs.push(bucket, count) })
  return pairs
}

/** One process's figures in short. */
export function processOf (peer: Peer, { uptimeSeconds, requests, errors, inFlight }: Totals): ProcessStats {
  return { ...peer, uptime_seconds: uptimeSeconds, total_requests: requests, total_errors: errors, in_flight: inFlight }
}

/**
 * Adds what other processes have counted to the figures of this one: states of instances are as this one sees them. Percentiles are worked out anew,
 * exact to some 6 %.
 * @param own this process's part, of which `snapshot` is made
 */
export function addParts (snapshot: StatsSnapshot, own: StatsPart, others: readonly StatsPart[]): void {
  for (const { requests, errors, proxied, inFlight, uptimeSeconds } of others) {
    snapshot.total_requests += requests
    snapshot.total_errors += errors
    snapshot.total_proxied += proxied
    snapshot.in_flight += inFlight
    snapshot.uptime_seconds = Math.max(snapshot.uptime_seconds, uptimeSeconds)
  }
  const latencies = new Map<AgentStats, AgentPart[]>()
  for (const { agents } of others) {
    for (const [name, part] of agents) {
      const agent = snapshot.agents[name]
      if (agent === undefined) continue // not the caller's to see, or not known here
      addAgent(agent, part)
      const parts = latencies.get(agent)
      if (parts === undefined) latencies.set(agent, [part])
      else parts.push(part)
    }
  }
  const ownParts = new Map(own.agents)
  for (const [name, agent] of Object.entries(snapshot.agents)) {
    const parts = latencies.get(agent)
    if (parts !== undefined) agent.latency_ms = latencyOf([...parts, ...ownParts.has(name) ? [ownParts.get(name)!] : []])
  }
}

function addAgent (agent: AgentStats, { requests, errors, retries, inFlight, instances }: AgentPart): void {
  agent.requests += requests
  agent.errors += errors
  agent.retries += retries
  agent.in_flight += inFlight
  for (const [id, part] of Object.entries(instances)) {
    const instance = Object.hasOwn(agent.instances, id) ? agent.instances[id] : undefined
    if (instance === undefined) continue
    instance.requests += part.requests
    instance.errors += part.errors
    instance.in_flight += part.inFlight
  }
}

function latencyOf (parts: readonly AgentPart[]): LatencyView {
  const buckets = newLatencyBuckets()
  for (const { latency } of parts) {
    for (let index = 0; index + 1 < latency.length; index += 2) buckets[latency[index]!]! += latency[index + 1]!
  }
  const max = Math.max(...parts.map(({ maxMs }) => maxMs))
  const [p50 = 0, p90 = 0, p99 = 0] = percentilesSince(null, buckets, [0.5, 0.9, 0.99]).map(value => Math.min(value, max))
  return { p50, p90, p99, max }
}
