/**
 * Durations counted in buckets: eight to each doubling, so exact to some 6 %, in 1 KiB. Counts only grow, so whoever keeps a copy has the
 * durations of any stretch of time as the difference, without a second thing to write for each request.
 */

/** Eight buckets to each doubling of a microsecond, up to 71 minutes. */
const stepsLog2 = 3
const steps = 1 << stepsLog2
const bucketCount = 32 * steps
const highestMicros = 0xffffffff

/** How many durations fell into each bucket. */
export type LatencyBuckets = Uint32Array

export function newLatencyBuckets (): LatencyBuckets {
  return new Uint32Array(bucketCount)
}

/** Counts a duration. */
export function countLatency (buckets: LatencyBuckets, durationMs: number): void {
  buckets[bucketOf(durationMs)]!++
}

function bucketOf (durationMs: number): number {
  const micros = Math.min(Math.max(durationMs * 1_000, 1), highestMicros) >>> 0
  const octave = 31 - Math.clz32(micros)
  const step = octave < stepsLog2 ? (micros << (stepsLog2 - octave)) & (steps - 1) : (micros >>> (octave - stepsLog2)) & (steps - 1)
  return octave * steps + step
}

/** The middle of a bucket, in milliseconds. */
function middleOf (bucket: number): number {
  return 2 ** Math.floor(bucket / steps) * (1 + (bucket % steps + 0.5) / steps) / 1_000
}

/**
 * Percentiles of what was counted since `before`, in milliseconds; zeros when nothing was.
 * @param before counts of an earlier time; null for the beginning
 * @param shares such as 0.5 and 0.99, ascending
 */
export function percentilesSince (before: Readonly<LatencyBuckets> | null, buckets: Readonly<LatencyBuckets>, shares: readonly number[]): number[] {
  let total = 0
  for (let bucket = 0; bucket < bucketCount; bucket++) total += buckets[bucket]! - (before?.[bucket] ?? 0)
  if (total === 0) return shares.map(() => 0)
  let seen = 0
  let bucket = -1
  return shares.map(share => {
    const rank = Math.ceil(share * total)
    while (seen < rank) {
      bucket++
      seen += buckets[bucket]! - (before?.[bucket] ?? 0)
    }
    return middleOf(bucket)
  })
}
