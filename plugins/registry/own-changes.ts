/**
 * What this gateway has changed, and acknowledged, while changes that were made before had not been heard of or read here: what is known
 * (`KnownData.point`) does not say of it that it is. If Redis loses its data just then, and another gateway writes it again, only this says what is
 * missing there; and if this gateway writes it, what of it others may not have heard of. It is not kept over a restart.
 */
import { parentOf, type SharedPoint } from './lineage.ts'

/** A part of an agent: an instance by its authority, or the settings. */
export interface OwnChange {
  readonly name: string
  readonly part: string
  /** The last change of it. */
  readonly version: number
}

/** What stands for the settings of an agent where others have an authority. */
export const settingsPart = '='

/** So many are looked through for what is known by now. */
const fewest = 64

export class OwnChanges {
  readonly #changes = new Map<string, OwnChange & { readonly epoch: string }>()
  #mostBeforePruning = fewest

  /** @param point what is known, this change included */
  add (epoch: string, version: number, name: string, parts: readonly string[], point: SharedPoint | null): void {
    if (isWithin({ epoch, version }, point)) return
    for (const part of parts) this.#changes.set(`${name} ${part}`, { epoch, version, name, part })
    if (this.#changes.size <= this.#mostBeforePruning) return
    for (const [key, change] of this.#changes) if (isWithin(change, point)) this.#changes.delete(key)
    this.#mostBeforePruning = Math.max(fewest, 2 * this.#changes.size)
  }

  /** What was changed after what data with this origin was made of, and is not part of what is known. */
  missingIn (origin: string, point: SharedPoint | null): OwnChange[] {
    const parent = parentOf(origin)
    return [...this.#changes.values()].filter(change => change.epoch === parent?.epoch && change.version > parent.version && !isWithin(change, point))
  }
}

/** Other data than what is known is of no interest any more. */
function isWithin ({ epoch, version }: { readonly epoch: string, readonly version: number }, point: SharedPoint | null): boolean {
  return epoch !== point?.epoch || version <= point.version
}
