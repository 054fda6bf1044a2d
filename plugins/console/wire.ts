/**
 * What the console's page and its gateway say to each other. Types only: the page is built for browsers, and shares nothing else.
 */
import type { AuditEntry } from '../audit-log/entry.ts'
import type { RedisState } from '../registry/registrations.ts'
import type { AgentStatus } from '../../src/fleet/agent.ts'
import type { InstanceState, Protocol, Source } from '../../src/fleet/instance.ts'
import type { Scope } from '../../src/principal.ts'

export type { AgentStatus, AuditEntry, InstanceState, RedisState, Scope }

/** What of an instance changes seldom. Times are milliseconds since the epoch. */
export interface InstanceFacts {
  host: string
  port: number
  protocol: Protocol
  weight: number
  source: Source
  state: InstanceState
  /** What decided about its state last, in words; null before anything did. */
  why: string | null
  /** When that was. */
  since: number | null
  /** When its ejection ends and a trial request decides. */
  until: number | null
  /** How often it was ejected of late. */
  ejections: number
  lease: { ttl_seconds: number, expires_at: number, lapsed: boolean } | null
}

/** What of an instance changes with each request: in flight, attempts, failed ones, latency in ms, probes failed in a row. */
export type InstanceRow = [inFlight: number, requests: number, errors: number, latencyMs: number, probeFailures: number]

/** The same of an agent; the percentiles (ms) are those of the last sample, 0 when nothing was asked in it. */
export type AgentRow = [inFlight: number, requests: number, errors: number, retries: number, p50: number, p99: number]

/** One agent, or what changed of it. Instances are by id. */
export interface AgentUpdate {
  status?: AgentStatus
  aliases?: readonly string[]
  row?: AgentRow
  facts?: Record<string, InstanceFacts>
  rows?: Record<string, InstanceRow>
  /** Ids of instances that left. */
  gone?: string[]
}

/** One agent as a whole. */
export interface AgentPicture extends AgentUpdate {
  status: AgentStatus
  aliases: readonly string[]
  row: AgentRow
  facts: Record<string, InstanceFacts>
  rows: Record<string, InstanceRow>
  /** Requests in each of the last samples, oldest first; left out when there were none. */
  spark?: number[]
}

export interface Totals {
  uptime_seconds: number
  requests: number
  errors: number
  proxied: number
  in_flight: number
  /** Of these clients watch. */
  watching: number
}

export interface ConfigStatus {
  loaded_at: string | null
  ok: boolean
  error?: string
}

/** Who the caller is. */
export interface You {
  /** The key's id; null for the shared secret and where nobody is asked. */
  id: string | null
  scopes: readonly Scope[]
  agents: readonly string[] | '*'
  /** False when auth is off. */
  authenticated: boolean
}

/** First message of a stream, and again whenever the stream has to begin anew. */
export interface Snapshot {
  now: number
  sample_seconds: number
  you: You
  totals: Totals
  config: ConfigStatus
  /** Only where gateways share one. */
  redis?: RedisState
  agents: Record<string, AgentPicture>
  /** Finished requests, newest last; null when there is no audit log to ask. */
  requests: AuditEntry[] | null
}

/** Every second. */
export interface Tick {
  now: number
  totals: Totals
  /** With this tick a sample of the history was taken. */
  sample?: true
  config?: ConfigStatus
  redis?: RedisState
  agents?: Record<string, AgentUpdate>
  /** Names of agents that left. */
  gone?: string[]
  requests?: AuditEntry[]
  /** Requests that were too many to be shown. */
  skipped?: number
}

/** Last message of a stream that the gateway ends. */
export interface Bye {
  reason: 'unauthorized' | 'closing'
}

/** `GET /console/agents/{name}/history`: one entry per sample, oldest first. */
export interface AgentHistory {
  agent: string
  interval_seconds: number
  /** When the last sample was taken, milliseconds since the epoch. */
  ended_at: number
  requests: number[]
  errors: number[]
  p50: number[]
  p99: number[]
  in_flight: number[]
}
