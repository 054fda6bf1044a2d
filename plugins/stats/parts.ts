/**
 * Figures of several processes as those of one: what each has counted so far, in a form that survives JSON, and their sum. Agents that nobody asked
 * are left out, so that a fleet of thousands costs what its traffic does.
 */
import type { Peer } from '../peers/questions.ts'
import type { Counters } from './counters.ts'
import type { LatencyView } from './latency.ts'
import type { AgentStats, StatsSnapshot } from './index.ts'
import { inFlightOf, type Agent } from '../../src/fleet/agent.ts'
import { newLatencyBuckets, percentilesSince, type LatencyBuckets } from '../../src/latency-buckets.ts'

interface InstancePart { requests: number, errors: number, in_flight: number }

interface AgentPart {
  requests: number
  errors: number
  retries: number
  in_flight: number
  /** How many durations fell into which bucket, in pairs; those that are empty are left out. */
  latency: number[]
  max_ms: number
  instances: Record<string, InstancePart>
}

/** What one process has counted. */
export interface StatsPart {
  requests: number
  errors: number
  proxied: number
  in_flight: number
  uptime_seconds: number
  /** Pairs, since an agent may have any name. */
  agents: [name: string, part: AgentPart][]
}

/** One process, in `/stats` of several. */
export interface ProcessStats {
  host: string
  pid: number
  /** Which worker of its gateway it is, from 1; left out where there is one process. */
  worker?: number
  uptime_seconds: number
  total_requests: number
  total_errors: number
  in_flight: number
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
    for (const { id, runtime } of agent.instances) instances[id] = { ...counters.ofInstance(runtime), in_flight: runtime.inFlight }
    parts.push([agent.name, { requests, errors, retries, in_flight: inFlight, latency: pairsOf(buckets), max_ms: (latency?.max ?? 0) / 1_000, instances }])
  }
  return { ...totals, agents: parts }
}

function pairsOf (buckets: LatencyBuckets | null): number[] {
  const pairs: number[] = []
  buckets?.forEach((count, bucket) => { if (count > 0) pairs.push(bucket, count) })
  return pairs
}

/** One process's figures in short. */
export function processOf ({ host, pid, worker }: Peer, { uptime_seconds, requests, errors, in_flight }: Totals): ProcessStats {
  return { host, pid, ...(worker !== undefined && { worker }), uptime_seconds, total_requests: requests, total_errors: errors, in_flight }
}

/**
 * Adds what other processes have counted to the figures of this one: states of instances are as this one sees them. Percentiles are worked out anew,
 * exact to some 6 %.
 * @param own this process's part, of which `snapshot` is made
 */
export function addParts (snapshot: StatsSnapshot, own: StatsPart, others: readonly StatsPart[]): void {
  for (const { requests, errors, proxied, in_flight, uptime_seconds } of others) {
    snapshot.total_requests += requests
    snapshot.total_errors += errors
    snapshot.total_proxied += proxied
    snapshot.in_flight += in_flight
    snapshot.uptime_seconds = Math.max(snapshot.uptime_seconds, uptime_seconds)
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

function addAgent (agent: AgentStats, { requests, errors, retries, in_flight, instances }: AgentPart): void {
  agent.requests += requests
  agent.errors += errors
  agent.retries += retries
  agent.in_flight += in_flight
  for (const [id, part] of Object.entries(instances)) {
    const instance = agent.instances[id]
    if (instance === undefined) continue
    instance.requests += part.requests
    instance.errors += part.errors
    instance.in_flight += part.in_flight
  }
}

function latencyOf (parts: readonly AgentPart[]): LatencyView {
  const buckets = newLatencyBuckets()
  for (const { latency } of parts) {
    for (let index = 0; index + 1 < latency.length; index += 2) buckets[latency[index]!]! += latency[index + 1]!
  }
  const max = Math.max(...parts.map(({ max_ms }) => max_ms))
  const [p50 = 0, p90 = 0, p99 = 0] = percentilesSince(null, buckets, [0.5, 0.9, 0.99]).map(value => Math.min(value, max))
  return { p50, p90, p99, max }
}
