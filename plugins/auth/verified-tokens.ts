/**
 * Tokens whose signature was verified, so that it need not be for each request. By digest, the least recently used one goes first: what is
 * kept is no token, and little.
 */
import { hash } from 'node:crypto'
import type { Principal } from '../../src/principal.ts'

interface Verified {
  readonly principal: Principal
  /** Milliseconds since the epoch. */
  readonly until: number
}

export class VerifiedTokens {
  readonly #most: number
  readonly #entries = new Map<string, Verified>()
  #generation = 0

  /** @param most so many are kept */
  constructor (most = 1_000) {
    this.#most = most
  }

  /** @param generation of the keys: what others verified counts no more */
  find (token: string, generation: number, now: number): Principal | null {
    this.#keepUp(generation)
    const name = nameOf(token)
    const entry = this.#entries.get(name)
    if (entry === undefined) return null
    this.#entries.delete(name)
    if (entry.until <= now) return null
    this.#entries.set(name, entry)
    return entry.principal
  }

  /** @param generation of the keys that verified it, which may have gone meanwhile: then nothing is kept */
  add (token: string, generation: number, principal: Principal, until: number): void {
    if (generation < this.#generation) return
    this.#keepUp(generation)
    this.#entries.set(nameOf(token), { principal, until })
    if (this.#entries.size > this.#most) this.#entries.delete(this.#entries.keys().next().value!)
  }

  get size (): number {
    return this.#entries.size
  }

  #keepUp (generation: number): void {
    if (generation === this.#generation) return
    this.#entries.clear()
    this.#generation = generation
  }
}

function nameOf (token: string): string {
  return hash('sha256', token, 'base64')
}
