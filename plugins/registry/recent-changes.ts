/**
 * What was changed of late, part by part, as far as this gateway knows: by itself, and by others. If Redis loses its data, and another gateway writes it
 * again without some of that, or loses it once more before all had read it, only this says which state of a part is the later one: versions go on growing from
 * data to data. It is not kept over a restart.
 */
import type { Clock } from '../../src/clock.ts'
import { includes, madeOf, type SharedPoint } from './lineage.ts'

/** A part of an agent, an instance by its authority, the settings or all of it (''), and the version of its last change. */
export interface PartChange {
  readonly name: string
  readonly part: string
  readonly version: number
}

/** A change as the data says in which it was heard of. */
export interface DataChange extends PartChange {
  readonly epoch: string
  /** The version of that data in which it is: a change that was made again has an older one. */
  readonly by: number
}

interface Recent extends DataChange {
  readonly at: number
}

/** What stands for the settings of an agent where others have an authority. */
export const settingsPart = '='

/** By then Redis has forgotten as well what was changed since data was lost (`touchedMs` in scripts.ts). */
const recentMs = 10 * 60_000
/** So many are looked through for what is older. */
const fewest = 64
/** No more are told to others at once, the latest: what was made again in data is as young there as what was changed since. */
const most = 10_000

class Changes {
  readonly #changes = new Map<string, Recent>()
  #mostBeforePruning = fewest

  add (key: string, change: Recent): void {
    this.#changes.set(key, change)
    if (this.#changes.size <= this.#mostBeforePruning) return
    for (const [other, { at }] of this.#changes) if (change.at - at > recentMs) this.#changes.delete(other)
    this.#mostBeforePruning = Math.max(fewest, 2 * this.#changes.size)
  }

  /** Unless what is there is the later one. */
  addLater (key: string, change: Recent): void {
    if ((this.#changes.get(key)?.version ?? -1) <= change.version) this.add(key, change)
  }

  get size (): number {
    return this.#changes.size
  }

  [Symbol.iterator] (): IterableIterator<[string, Recent]> {
    return this.#changes[Symbol.iterator]()
  }
}

export class RecentChanges {
  readonly #clock: Clock
  /** What this gateway has changed, and acknowledged: that is its state at once, whatever else it has not heard of or read yet. */
  readonly #made = new Changes()
  /** What else was changed, by the data in which that was heard of. Of others than that which is known, and that which was before, nothing is kept. */
  readonly #told = new Map<string, Changes>()

  constructor (clock: Clock) {
    this.#clock = clock
  }

  made (epoch: string, version: number, name: string, parts: readonly string[]): void {
    for (const part of parts) this.#made.add(`${name} ${part}`, { epoch, version, by: version, name, part, at: this.#clock.now() })
  }

  /** @param before the data of which more is known than of this one */
  told (change: DataChange, before: string | undefined): void {
    const { epoch, name, part } = change
    let changes = this.#told.get(epoch)
    if (changes === undefined) {
      for (const other of this.#told.keys()) if (other !== before) this.#told.delete(other)
      this.#told.set(epoch, changes = new Changes())
    }
    changes.addLater(`${name} ${part}`, { ...change, at: this.#clock.now() })
  }

  /** How many are held. */
  get size (): number {
    return [this.#made, ...this.#told.values()].reduce((sum, { size }) => sum + size, 0)
  }

  /**
   * What was not part of what data with this origin was made of. Of what others have changed only what is known here counts.
   * @param point what is known; null where that says nothing of what others have changed
   */
  missingIn (origin: string, point: SharedPoint | null): PartChange[] {
    const all = new Map<string, PartChange>()
    const there = madeOf(origin)
    const since = this.#clock.now() - recentMs
    const take = (key: string, change: Recent) => {
      if (change.at < since || includes(there, change) || (all.get(key)?.version ?? -1) > change.version) return
      const { name, part, version } = change
      all.set(key, { name, part, version })
    }
    for (const [key, change] of this.#made) take(key, change)
    for (const [key, change] of this.#told.get(point?.epoch ?? '') ?? []) if (change.by <= point!.version) take(key, change)
    const changes = [...all.values()]
    return changes.length <= most ? changes : changes.sort((a, b) => b.version - a.version).slice(0, most)
  }
}
