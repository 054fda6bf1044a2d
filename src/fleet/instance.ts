/**
 * One running copy of an agent: who it is (immutable) and how it fares (its runtime record, which survives a reload).
 * Availability is defined here and nowhere else.
 */
import { createHash } from 'node:crypto'
import type { Attempt } from './attempt.ts'
import { authorityOf } from './authority.ts'
import type { LatencyRecord } from './latency.ts'

export type Protocol = 'http' | 'https'

/** Where a piece of the fleet was learnt from. */
export type Source = 'file' | 'dns' | 'api'

export type InstanceState = 'up' | 'down' | 'ejected' | 'draining'

/** The time an instance stays registered without renewal. */
export interface Lease {
  readonly ttlMs: number
  /** Milliseconds since the epoch. */
  readonly expiresAt: number
  /** When it was found to have run out, milliseconds since the epoch, of an instance that is kept all the same (lapses.ts). */
  readonly lapsedAt?: number
}

/** How well an instance is. Written by the health plugin alone, through the functions of outlier.ts. */
export interface HealthRecord {
  /** The probes' verdict. An instance nobody has probed yet is taken to be up. */
  up: boolean
  /** Failed probes in a row. */
  probeFailures: number
  /** Good probes in a row, counted afresh from each ejection. */
  probeSuccesses: number
  /** Failures of live requests in a row. */
  consecutiveFailures: number
  /** Milliseconds since the epoch; 0 when it is not ejected. After this time one trial request decides. */
  ejectedUntil: number
  /** What it was ejected for: no connection (probes can restore it), or its answers (only a trial request can). */
  ejectedFor: 'connection' | 'answer' | null
  /** How often it was ejected of late; each time is longer. Forgotten step by step while it does well. */
  ejections: number
  /** When its last ejection ended, milliseconds since the epoch: from then on ejections are forgotten. */
  restoredAt: number
  /** Since when it has been serving, milliseconds since the epoch: when it was added, or when its last outage or ejection ended. */
  servingSince: number
  /** The one trial request that is under way. */
  trial: Attempt | null
  /** When a trial that has decided nothing yet is given up for the next one, milliseconds since the epoch. Means nothing without a trial. */
  trialUntil: number
}

/** The mutable record of one (agent, protocol, host, port); it outlives snapshots and reloads. One writer per field. */
export interface InstanceRuntime {
  /** Attempts that have begun and whose body has not ended. Written by upstream. */
  inFlight: number
  /** When the instance last sent or took a byte, milliseconds since the epoch. Written by upstream. */
  lastProgressAt: number
  /** Takes no new requests. Written by the registry. */
  draining: boolean
  /** How long it takes to answer of late. Written by upstream. */
  readonly latency: LatencyRecord
  /** What turns by weight owe it. Written by the balancer. */
  credit: number
  readonly health: HealthRecord
}

/** An instance as the registry's snapshot holds it: immutable but for `runtime`. */
export interface Instance {
  /** Stable over restarts and safe in a URL; tells nothing of the address. */
  readonly id: string
  /** Name of its agent. */
  readonly agent: string
  readonly protocol: Protocol
  /** A host name, an IPv4 literal or an IPv6 literal without brackets. */
  readonly host: string
  readonly port: number
  /** `http://host:port`, IPv6 in brackets. */
  readonly origin: string
  readonly weight: number
  readonly source: Source
  /** Somebody who may do everything named this very origin (fleet.yaml, an admin's registration), so clients' tokens may go there. */
  readonly trusted: boolean
  readonly lease: Lease | null
  readonly runtime: InstanceRuntime
}

/** The id of the instance of `agent` at `host:port`. */
export function instanceId (agent: string, host: string, port: number): string {
  return createHash('sha256').update(`${agent}\0${authorityOf(host, port)}`).digest('hex').slice(0, 12)
}

/**
 * A fresh record: up until somebody finds otherwise.
 * @param servingSince milliseconds since the epoch; always, when left out
 */
export function newRuntime (servingSince = 0): InstanceRuntime {
  return {
    inFlight: 0,
    lastProgressAt: 0,
    draining: false,
    latency: { ms: 0, at: 0 },
    credit: 0,
    health: { up: true, probeFailures: 0, probeSuccesses: 0, consecutiveFailures: 0, ejectedUntil: 0, ejectedFor: null, ejections: 0, restoredAt: 0, servingSince, trial: null, trialUntil: 0 }
  }
}

/** What to call the instance's condition; a wanted drain comes before a found fault. */
export function stateOf (instance: Instance): InstanceState {
  const { draining, health } = instance.runtime
  if (draining) return 'draining'
  if (!health.up) return 'down'
  return health.ejectedUntil > 0 ? 'ejected' : 'up'
}

/** Up and not ejected, whether or not it is wanted. */
export function isHealthy (instance: Instance): boolean {
  const { health } = instance.runtime
  return health.up && health.ejectedUntil === 0
}

/** Healthy and wanted: what is shown of it. May it take a request this moment, isAvailable() tells. */
export function isServing (instance: Instance): boolean {
  return isHealthy(instance) && !instance.runtime.draining
}

/** Not draining and not full, whatever its health: the least that is asked of an instance. @param capacity the most attempts it may have under way */
export function hasPlace ({ runtime }: Instance, capacity: number): boolean {
  return !runtime.draining && runtime.inFlight < capacity
}

/**
 * May take a new request now: not draining, up, not ejected (or due for its one trial request), not full.
 * @param capacity the most attempts it may have under way
 */
export function isAvailable (instance: Instance, now: number, capacity = Infinity): boolean {
  const { health } = instance.runtime
  if (!health.up || !hasPlace(instance, capacity)) return false
  return health.ejectedUntil === 0 || isDueForTrial(instance, now)
}

/** Why it may take a new request now, or may not: isAvailable() in words. What brought it there, `health.lastChange()` tells. */
export function availabilityInWords (instance: Instance, now: number, capacity = Infinity): string {
  const { draining, inFlight, health } = instance.runtime
  if (draining) return 'it drains: nothing new is sent to it'
  if (!health.up) return `its probes fail (${health.probeFailures} in a row)`
  if (inFlight >= capacity) return `it is full: ${inFlight} of ${capacity} requests are under way`
  if (health.ejectedUntil === 0) return health.probeFailures > 0 ? `it serves, though its last probes failed (${health.probeFailures} in a row)` : 'it serves'
  const reason = health.ejectedFor === 'connection' ? 'connections to it failed' : 'its answers were failures'
  if (isDueForTrial(instance, now)) return `it was ejected since ${reason}; that is over, and its next request is the trial`
  return now < health.ejectedUntil ? `it is ejected until ${new Date(health.ejectedUntil).toISOString()}, since ${reason}` : 'its trial request is under way'
}

/** Its ejection is over, and no trial request is under way that may still decide: the next attempt is one. */
export function isDueForTrial ({ runtime: { health } }: Instance, now: number): boolean {
  if (!health.up || health.ejectedUntil === 0 || now < health.ejectedUntil) return false
  return health.trial === null || now >= health.trialUntil
}
