/**
 * How much of the data in Redis a gateway has: which data, up to which version, and what it has heard of and not read yet. Versions are the data's, so
 * what is said here holds in whatever order messages and answers come.
 */
import type { SharedPoint } from './lineage.ts'

/** Which data there is in Redis. */
export interface FoundData {
  readonly epoch: string
  readonly version: number
  readonly origin: string
}

export class KnownData {
  /** What was heard of. */
  #heard: Pick<SharedPoint, 'epoch' | 'version'> | null
  /** What the data was made of that was heard of. */
  #origin: string
  /** Of agents that were heard of and not yet read, the first and the last version that is missing here. */
  readonly #unread = new Map<string, { first: number, last: number }>()
  /** What was known when everything began to be read, until it was. */
  #before: SharedPoint | null
  #isReadingAll = false

  /** @param kept what was known when the gateway was last stopped; null when that never was in Redis */
  constructor (kept: SharedPoint | null) {
    this.#heard = kept
    this.#origin = kept?.origin ?? ''
    this.#before = kept
  }

  /** Which data is known; undefined when none ever was. */
  get epoch (): string | undefined {
    return this.#heard?.epoch
  }

  /** The version that was heard of. */
  get version (): number {
    return this.#heard?.version ?? 0
  }

  /** What is the same here as in Redis; null when nothing ever was. */
  get point (): SharedPoint | null {
    if (this.#isReadingAll || this.#heard === null) return this.#before
    let { version } = this.#heard
    for (const { first } of this.#unread.values()) version = Math.min(version, first - 1)
    return { epoch: this.#heard.epoch, version, origin: this.#origin }
  }

  /** A change was told that is none of an agent. */
  hear (version: number): void {
    this.#heard = { epoch: this.#heard!.epoch, version }
  }

  /** A change of an agent was told, which has to be read. */
  hearOf (name: string, version: number): void {
    this.#unread.set(name, { first: this.#unread.get(name)?.first ?? version, last: version })
    this.hear(version)
  }

  /** An agent was read, as it was at a version. */
  wasRead (name: string, version: number): void {
    const missing = this.#unread.get(name)
    if (missing === undefined || version < missing.first) return
    if (version >= missing.last) this.#unread.delete(name)
    else missing.first = version + 1
  }

  /** From now on all of this data is read. */
  beginReadingAll ({ epoch, version, origin }: FoundData): void {
    this.#before = this.point
    this.#isReadingAll = true
    if (epoch !== this.epoch) this.#unread.clear()
    this.#heard = { epoch, version }
    this.#origin = origin
  }

  /** All was read, as it was at this version or a later one. */
  endReadingAll (version: number): void {
    this.#isReadingAll = false
    for (const [name, { last }] of this.#unread) if (last <= version) this.#unread.delete(name)
  }

  /** The origin may change while the data stays: somebody came who knew more of what it was made of. */
  isMadeOf (origin: string): void {
    this.#origin = origin
  }
}
