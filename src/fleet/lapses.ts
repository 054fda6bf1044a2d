/**
 * What becomes of instances whose lease ran out. As a rule they are dropped. When more than half of the leased instances lapse at once, it is
 * rather the network, this machine or its clock that failed than all of them, so they are kept for a while (self-preservation, as Eureka has it).
 * All agents' leases are counted together: what keeps heartbeats away knows nothing of agents, and most agents have too few to tell anything by.
 */
import type { Lease } from './instance.ts'
import { originOf, type Entry } from './layers.ts'

/** Of fewer leased instances two that end together are already most of them, so each is taken at its word. */
export const leastLeased = 3

/** The longest that an instance is kept without its lease, and that a lapse counts. */
export const mostMs = 10 * 60_000

/** The leases of one agent, or of all. */
export interface LeaseSurvey {
  /** Instances with a lease. */
  readonly leased: number
  /** Those of them whose lease has run out, whether or not they are kept. */
  readonly over: number
  /** Whether any instance has to be decided about. */
  readonly isConcerned: boolean
  /** When the next lease runs out, milliseconds since the epoch. */
  readonly dueAt: number
}

export class Lapses {
  /** Instances that were dropped because their lease ran out, with the time until which that counts, milliseconds since the epoch. */
  readonly #dropped = new Map<string, number>()
  #areMassive = false
  /** When there were too many for the last time, milliseconds since the epoch. */
  #calmSince = -Infinity

  /** Judges whether too many leases have run out. @param now milliseconds since the epoch */
  judge ({ leased, over }: Pick<LeaseSurvey, 'leased' | 'over'>, now: number): void {
    for (const [key, until] of this.#dropped) if (until <= now) this.#dropped.delete(key)
    const [all, lapsed] = [leased + this.#dropped.size, over + this.#dropped.size]
    const areMassive = all >= leastLeased && lapsed * 2 > all
    if (this.#areMassive && !areMassive) this.#calmSince = now
    this.#areMassive = areMassive
  }

  /**
   * Drops those of an agent's instances whose time is over, by the last judgement, and marks those that are kept.
   * @param keptByAll of registrations that gateways share: the keys of those that all of them keep. Then it drops none itself.
   */
  settle (entry: Entry, now: number, keptByAll?: ReadonlySet<string>): { dropped: number, marked: number, kept: number } {
    const { name, api } = entry
    let [dropped, marked, kept] = [0, 0, 0]
    for (const [authority, registered] of api.instances) {
      const { lease, protocol } = registered
      if (lease === null || !hasRunOut(lease, now)) continue
      const isDraining = drains(entry, originOf(protocol, authority))
      const isNew = lease.lapsedAt === undefined
      if (keptByAll !== undefined && !keptByAll.has(leaseKey(name, authority))) continue
      if (keptByAll !== undefined || (!isDraining && this.#isKept(lease, now))) {
        kept++
        if (!isNew) continue
        marked++
        api.instances.set(authority, { ...registered, lease: { ...lease, lapsedAt: now } })
      } else {
        dropped++
        api.instances.delete(authority)
        // For one ttl: heartbeats come more often than that, so whatever holds up all of them lets all leases run out within that time.
        if (isNew && !isDraining) this.#dropped.set(leaseKey(name, authority), now + Math.min(lease.ttlMs, mostMs))
      }
    }
    return { dropped, marked, kept }
  }

  /** An instance is registered again, so its lapse does not count any more. */
  forget (name: string, authority: string): void {
    this.#dropped.delete(leaseKey(name, authority))
  }

  #isKept ({ ttlMs, lapsedAt }: Lease, now: number): boolean {
    if (lapsedAt === undefined) return this.#areMassive
    // Once most hold their leases again, the others have one more ttl, as after a restart.
    const until = this.#areMassive ? Infinity : this.#calmSince + ttlMs
    return now < Math.min(until, lapsedAt + mostMs)
  }
}

/** Counts the leases of an agent. An instance that drains has said goodbye, so its lapse says nothing of others. */
export function surveyLeases (entry: Entry, now: number): LeaseSurvey {
  let [leased, over, isConcerned, dueAt] = [0, 0, false, Infinity]
  for (const [authority, { lease, protocol }] of entry.api.instances) {
    if (lease === null) continue
    const one = drains(entry, originOf(protocol, authority)) ? 0 : 1
    leased += one
    if (hasRunOut(lease, now)) {
      over += one
      isConcerned = true
    } else {
      dueAt = Math.min(dueAt, lease.expiresAt)
    }
  }
  return { leased, over, isConcerned, dueAt }
}

/** Whether a lease is over, now or at an earlier look: the clock may have been put back since. */
function hasRunOut ({ expiresAt, lapsedAt }: Lease, now: number): boolean {
  return lapsedAt !== undefined || expiresAt <= now
}

function drains ({ built }: Entry, origin: string): boolean {
  return built.get(origin)?.runtime.draining === true
}

/** What a lease goes by. */
export function leaseKey (name: string, authority: string): string {
  return `${name} ${authority}`
}
