/** The leases of all agents: when the next is over, how many there are, and what becomes of those that ran out. */
import type { Clock } from '../clock.ts'
import type { Lease } from './instance.ts'
import { Lapses, leaseKey, surveyLeases } from './lapses.ts'
import { forgetTime, type Entry } from './layers.ts'

/** Leases as they were found by the last look at them. */
export interface LeaseCount {
  /** Instances that have one, which may have run out. */
  readonly leased: number
  /** Instances that are kept although theirs ran out. */
  readonly lapsed: number
}

/** A lease that is over. */
export interface LeaseOver {
  readonly name: string
  readonly authority: string
  /** What the lease goes by. */
  readonly key: string
  /** Whether it ran out at an earlier look, and its instance was kept. */
  readonly isKept: boolean
}

/** What a look at the leases came to. */
export interface LeasesLook {
  /** Agents that have had no instance for so long that they are forgotten. */
  readonly forgotten: readonly Entry[]
  /** Agents of which instances left, or are kept although their lease ran out. */
  readonly changed: readonly Entry[]
  /** Whether anything went. */
  readonly hasLost: boolean
}

export class Leases {
  readonly #clock: Clock
  readonly #lapses = new Lapses()
  #count: LeaseCount = { leased: 0, lapsed: 0 }
  /** Before this time nothing runs out: a lower bound, milliseconds since the epoch. */
  #dueAt = Infinity

  constructor (clock: Clock) {
    this.#clock = clock
  }

  get count (): LeaseCount {
    return this.#count
  }

  /** A lease of so long from now on. */
  begin (ttlMs: number): Lease {
    return this.until(ttlMs, this.#clock.now() + ttlMs)
  }

  /** A lease that ends then, milliseconds since the epoch. */
  until (ttlMs: number, expiresAt: number): Lease {
    this.#dueAt = Math.min(this.#dueAt, expiresAt)
    return { ttlMs, expiresAt }
  }

  /** An agent is forgotten when it had no instance for long. */
  watch (entry: Entry): void {
    this.#dueAt = Math.min(this.#dueAt, forgetTime(entry))
  }

  /** An instance is registered again, so its lapse does not count any more. */
  forgetLapse (name: string, authority: string): void {
    this.#lapses.forget(name, authority)
  }

  /** Those that are over as far as it is known here; others may know of a heartbeat. */
  over (entries: ReadonlyMap<string, Entry>): LeaseOver[] {
    const now = this.#clock.now()
    const over: LeaseOver[] = []
    if (now < this.#dueAt) return over
    for (const { name, api } of entries.values()) {
      for (const [authority, { lease }] of api.instances) {
        if (lease === null || lease.expiresAt > now) continue
        over.push({ name, authority, key: leaseKey(name, authority), isKept: lease.lapsedAt !== undefined })
      }
    }
    return over
  }

  /**
   * Decides about leases that ran out, and takes the instances that leave from what is registered of their agents.
   * @param keptByAll of registrations that gateways share: the keys of those that all of them keep. Then no lease is judged here.
   * @returns null when nothing is due
   */
  look (entries: ReadonlyMap<string, Entry>, keptByAll?: ReadonlySet<string>): LeasesLook | null {
    const now = this.#clock.now()
    if (now < this.#dueAt) return null
    this.#dueAt = Infinity
    const forgotten: Entry[] = []
    const concerned: Entry[] = []
    const changed: Entry[] = []
    let [leased, over, dropped, lapsed] = [0, 0, 0, 0]
    for (const entry of entries.values()) {
      const survey = surveyLeases(entry, now)
      leased += survey.leased
      over += survey.over
      if (survey.isConcerned) concerned.push(entry)
      const forgetAt = forgetTime(entry)
      this.#dueAt = Math.min(this.#dueAt, survey.dueAt, forgetAt > now ? forgetAt : Infinity)
      if (forgetAt <= now) forgotten.push(entry)
    }
    this.#lapses.judge({ leased, over }, now)
    for (const entry of concerned) {
      const settled = this.#lapses.settle(entry, now, keptByAll)
      dropped += settled.dropped
      lapsed += settled.kept
      if (settled.dropped + settled.marked > 0) changed.push(entry)
    }
    this.#count = { leased: leased - over + lapsed, lapsed }
    // For how long they are kept depends on what becomes of others, or others decide.
    if (lapsed > 0 || (keptByAll !== undefined && over > 0)) this.#dueAt = now
    return { forgotten, changed, hasLost: forgotten.length + dropped > 0 }
  }
}
