/** The arithmetic of the benchmark: medians, spreads, and ratios taken pair by pair. Pure, so that test/bench.test.ts can check it. */

/** The middle of some numbers, the mean of the two middle ones when they are even in number; NaN of none. */
export function median (numbers) {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return NaN
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** The value that a share of the sorted numbers does not exceed (nearest rank); NaN of none. */
export function percentile (sorted, share) {
  return sorted.length === 0 ? NaN : sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)]
}

/**
 * Median and spread; undefined of no numbers.
 * @param {readonly number[]} numbers
 */
export function summary (numbers) {
  const finite = numbers.filter(Number.isFinite)
  if (finite.length === 0) return undefined
  return { median: median(finite), min: Math.min(...finite), max: Math.max(...finite), count: finite.length }
}

/** Both values of a figure in each round in which both have one. */
const pairsOf = (rounds, baseRounds, key) => rounds.map((round, index) => [round?.[key], baseRounds[index]?.[key]]).filter(pair => pair.every(Number.isFinite))

/**
 * In how many of the rounds in which both have a figure one of the two is 0 or less: of a difference, that it is smaller than the noise.
 * @returns {{ count: number, of: number }}
 */
export function countNotPositive (rounds, baseRounds, key) {
  const pairs = pairsOf(rounds, baseRounds, key)
  return { count: pairs.filter(([value, base]) => value <= 0 || base <= 0).length, of: pairs.length }
}

/**
 * One figure of one entry against another's, round by round: each ratio is taken within a round, so that what changed on the machine between
 * rounds falls out. Rounds in which either has no figure are left out. Undefined when one is 0 or less in any round: to leave out such a round
 * would leave out the best or the worst.
 * @param {readonly (Record<string, number> | undefined)[]} rounds of the one; undefined where a round was invalid
 * @param {readonly (Record<string, number> | undefined)[]} baseRounds of the other, in the same order
 * @param {string} key
 */
export function pairRatio (rounds, baseRounds, key) {
  if (countNotPositive(rounds, baseRounds, key).count > 0) return undefined
  return summary(pairsOf(rounds, baseRounds, key).map(([value, base]) => value / base))
}

/** Of a core, in per cent: what others may take in a round that counts as undisturbed. */
export const undisturbedPercent = 5

/**
 * How many rounds there were in all, and in how many others took more than that of the proxy's core.
 * @param {readonly { entries: readonly { rounds: readonly (Record<string, number> | undefined)[] }[] }[]} results
 */
export function countDisturbed (results) {
  const shares = results.flatMap(({ entries }) => entries.flatMap(({ rounds }) => rounds.flatMap(round => round?.othersPercent === undefined ? [] : [round.othersPercent])))
  return { rounds: shares.length, disturbed: shares.filter(share => share > undisturbedPercent).length }
}
