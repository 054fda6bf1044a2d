/**
 * What was changed of late, part by part, as far as this gateway knows: by itself, and by others. If Redis loses its data, and another gateway writes it
 * again without some of that, or loses it once more before all had read it, only this says which state of a part is the later one: versions go on growing from
 * data to data. It is not kept over a restart.
 */
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

/** What stands for the settings of an agent where others have an authority. */
export const settingsPart = '='

/** Of so many parts, those that were changed last, gateways and Redis know it. */
export const mostRecent = 10_000

class Changes {
  readonly #changes = new Map<string, DataChange>()

  /** Takes the place of what is there. */
  add (change: DataChange): void {
    this.#changes.set(keyOf(change), change)
    if (this.#changes.size < 2 * mostRecent) return
    const kept = latest([...this])
    this.#changes.clear()
    for (const change of kept) this.#changes.set(keyOf(change), change)
  }

  /** Unless what is there is the later one. */
  addLater (change: DataChange): void {
    if ((this.#changes.get(keyOf(change))?.version ?? -1) <= change.version) this.add(change)
  }

  [Symbol.iterator] (): IterableIterator<DataChange> {
    return this.#changes.values()
  }
}

export class RecentChanges {
  /** What this gateway has changed, and acknowledged: that is its state at once, whatever else it has not heard of or read yet. */
  readonly #made = new Changes()
  /** What else was changed, by the data in which that was heard of. Of others than that which is known, and that which was before, nothing is kept. */
  readonly #told = new Map<string, Changes>()

  made (epoch: string, version: number, name: string, parts: readonly string[]): void {
    for (const part of parts) this.#made.add({ epoch, version, by: version, name, part })
  }

  /** @param before the data of which more is known than of this one */
  told (change: DataChange, before: string | undefined): void {
    const { epoch } = change
    let changes = this.#told.get(epoch)
    if (changes === undefined) {
      for (const other of this.#told.keys()) if (other !== before) this.#told.delete(other)
      this.#told.set(epoch, changes = new Changes())
    }
    changes.addLater(change)
  }

  /**
   * What was not part of what data with this origin was made of. Of what others have changed only what is known here counts.
   * @param point what is known; null where that says nothing of what others have changed
   */
  missingIn (origin: string, point: SharedPoint | null): PartChange[] {
    const there = madeOf(origin)
    const missing = new Map<string, DataChange>()
    const take = (change: DataChange) => {
      const key = keyOf(change)
      if (!includes(there, change) && (missing.get(key)?.version ?? -1) <= change.version) missing.set(key, change)
    }
    for (const change of this.#made) take(change)
    for (const change of this.#told.get(point?.epoch ?? '') ?? []) if (change.by <= point!.version) take(change)
    return latest([...missing.values()])
  }
}

function keyOf ({ name, part }: PartChange): string {
  return `${name} ${part}`
}

function latest<C extends PartChange> (changes: C[]): C[] {
  return changes.length <= mostRecent ? changes : changes.sort((a, b) => b.version - a.version).slice(0, mostRecent)
}
