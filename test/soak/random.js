/** One seeded source of chance for the whole soak; each part draws from a branch of its own, so that parts do not disturb each other's order. */

/** @param {number} seed @returns numbers from 0 to below 1 (mulberry32), and what is made of them */
export function randomFrom (seed) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const integer = (least, most) => least + Math.floor(next() * (most - least + 1))
  return {
    next,
    /** Both bounds included. */
    integer,
    chance: share => next() < share,
    pick: list => list[integer(0, list.length - 1)],
    shuffle (list) {
      const copy = [...list]
      for (let last = copy.length - 1; last > 0; last--) {
        const other = integer(0, last)
        ;[copy[last], copy[other]] = [copy[other], copy[last]]
      }
      return copy
    },
    /** A generator of its own, the same for the same name and seed. */
    branch (name) {
      let hash = seed >>> 0
      for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193) >>> 0
      return randomFrom(hash)
    }
  }
}
