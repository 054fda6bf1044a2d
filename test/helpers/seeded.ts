/** Random choices that can be made again: the seed is `FLEET_SEED`, and a test says which it was. */

/** `npm test` is the same each time, so that what fails is what was changed; the soak looks further with other seeds. */
export const runSeed = Number(process.env['FLEET_SEED'] ?? 1)

export interface Seeded {
  readonly seed: number
  /** From 0 to below 1. */
  next (): number
  /** An integer from 0 to below `bound`. */
  below (bound: number): number
  oneOf<T> (items: readonly T[]): T
}

/** mulberry32 */
export function seeded (seed = runSeed): Seeded {
  let state = seed >>> 0
  function next (): number {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
  const below = (bound: number) => Math.floor(next() * bound)
  return { seed, next, below, oneOf: items => items[below(items.length)]! }
}
