/**
 * The tokens that are revoked, by the SHA-256 of each: a key that is made anew under the same id has another token, and is another key. The set only
 * grows, so whoever merges two of them has what both have, in whatever order.
 */
import { namePattern } from '../../src/agent-options.ts'

/** A token that opens nothing any more. */
export interface Revocation {
  /** SHA-256 of the token, in hexadecimal. */
  readonly digest: string
  /** Of the key that it was the token of, for people. */
  readonly id: string
  /** Milliseconds since the epoch, by the gateway that was told to. */
  readonly at: number
}

const digestForm = /^[0-9a-f]{64}$/
const idForm = new RegExp(namePattern)
/** Of a Date. */
const latest = 8_640_000_000_000_000

export class RevokedTokens {
  readonly #byDigest = new Map<string, Revocation>()
  readonly #listeners = new Set<(added: readonly Revocation[]) => void>()

  get size (): number {
    return this.#byDigest.size
  }

  find (digest: string): Revocation | undefined {
    return this.#byDigest.get(digest)
  }

  /** All of them, the oldest known first. */
  [Symbol.iterator] (): Iterator<Revocation> {
    return this.#byDigest.values()
  }

  /** Takes what is new, and tells listeners before it returns. */
  add (revocations: Iterable<Revocation>): void {
    const added: Revocation[] = []
    for (const revocation of revocations) {
      if (this.#byDigest.has(revocation.digest)) continue
      this.#byDigest.set(revocation.digest, revocation)
      added.push(revocation)
    }
    if (added.length > 0) for (const listener of this.#listeners) listener(added)
  }

  /** Calls `listener` with what was added, in the order in which listeners came; the returned function ends that. */
  onAdded (listener: (added: readonly Revocation[]) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

/** A revocation of these parts, wherever they come from; undefined for what no gateway writes. */
export function revocationOf (digest: unknown, id: unknown, at: number): Revocation | undefined {
  if (typeof digest !== 'string' || !digestForm.test(digest) || typeof id !== 'string' || !idForm.test(id)) return undefined
  return Number.isInteger(at) && at >= 0 && at <= latest ? { digest, id, at } : undefined
}
