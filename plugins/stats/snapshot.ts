/** What `/stats` answers. Types only, for the console's page as well. */
import type { InstanceState } from '../../src/fleet/instance.ts'

/** Milliseconds; all zero when nothing was measured. Exact to 1 %. */
export interface LatencyView {
  p50: number
  p90: number
  p99: number
  max: number
}

/** One instance in `/stats`; attempts are what is counted. */
export interface InstanceStats {
  requests: number
  errors: number
  in_flight: number
  state: InstanceState
}

/** One agent in `/stats`. */
export interface AgentStats {
  requests: number
  /** Answers of 500 and above, and answers that were cut off. */
  errors: number
  /** Attempts beyond a request's first. */
  retries: number
  in_flight: number
  /** Of ordinary exchanges; event streams and WebSockets last as long as they are wanted. */
  latency_ms: LatencyView
  /** By instance id. */
  instances: Record<string, InstanceStats>
}

/** The leases there are. */
export interface LeaseStats {
  total: number
  /** Of these, run out: their instances are kept because too many did at once. */
  lapsed: number
}

/** An agent of the file that is not there, or not with all of its instances. */
export interface TakenOutStats {
  agent: string
  /** Each `host:port` that is missing; left out when the whole agent is. */
  instances?: readonly string[]
}

/** How the configuration that runs came to be. */
export interface ConfigStats {
  /** ISO 8601; null without a discovery plugin. */
  loaded_at: string | null
  /** False when the file on disk is bad and an earlier one runs. */
  ok: boolean
  error?: string
  /** What the file has and somebody took out of the fleet; left out when that is nothing. */
  taken_out?: readonly TakenOutStats[]
}

/** One process, in `/stats` of several. */
export interface ProcessStats {
  /** Made at random at its start. */
  id: string
  host: string
  /** Which worker of its gateway it is, from 1, and its process id; left out where that has one process. */
  worker?: number
  pid?: number
  uptime_seconds: number
  total_requests: number
  total_errors: number
  in_flight: number
}

/** The answer of `/stats`. */
export interface StatsSnapshot {
  total_requests: number
  total_errors: number
  total_proxied: number
  uptime_seconds: number
  registered_agents: number
  /** Names and aliases under /api. */
  routes: number
  in_flight: number
  /** Of the agents below. */
  leases: LeaseStats
  config: ConfigStats
  /** By agent name; without a prototype, so that any name is an ordinary key. */
  agents: Record<string, AgentStats>
  /** Each process whose figures are in these, this one first; left out where one process is all there is. */
  processes?: ProcessStats[]
  /** So many more were asked and did not answer; null when they could not be asked, so that these are the figures of this gateway alone. */
  silent?: number | null
}
