/**
 * Changes that this gateway has acknowledged, while others that were made before them have not been heard of or read here: what is known (`KnownData.point`)
 * does not say that they are. If Redis loses its data now, and another gateway writes it again without them, only this says that they are missing.
 */
import { versionIn, type SharedPoint } from './lineage.ts'

/** What a script is run with: the authority is empty where it is all of the agent. */
export type Change = readonly [script: 'write' | 'remove' | 'drain', name: string, authority: string, ...args: readonly (string | number)[]]

export interface OwnChange {
  readonly epoch: string
  readonly version: number
  readonly what: Change
}

export class OwnChanges {
  #changes: readonly OwnChange[] = []

  /** @param point what is known, the change included */
  add (change: OwnChange, point: SharedPoint | null): void {
    this.#changes = beyond([...this.#changes, change], point)
  }

  /** Those that neither are in data that was found nor in what is known, the first first. */
  missingIn ({ origin }: { readonly origin: string }, point: SharedPoint | null): Change[] {
    return beyond(this.#changes, point)
      .filter(({ epoch, version }) => version > versionIn(origin, epoch))
      .toSorted((a, b) => a.version - b.version)
      .map(({ what }) => what)
  }
}

function beyond (changes: readonly OwnChange[], point: SharedPoint | null): OwnChange[] {
  return changes.filter(({ epoch, version }) => epoch === point?.epoch && version > point.version)
}
