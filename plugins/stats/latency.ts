/**
 * Latencies of an agent: recorded in microseconds, read in milliseconds.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import type { LatencyView } from './snapshot.ts'

/** One hour in microseconds; what takes longer counts as this. */
const highestMicros = 3_600_000_000

/** An empty histogram of about 28 KiB, however much is recorded. */
export function createLatencyHistogram (): RecordableHistogram {
  return createHistogram({ lowest: 1, highest: highestMicros, figures: 2 })
}

/** Adds a duration. */
export function recordLatency (histogram: RecordableHistogram, durationMs: number): void {
  histogram.record(Math.min(Math.max(Math.round(durationMs * 1_000), 1), highestMicros))
}

/** What a histogram says; of none at all, zeros. */
export function latencyView (histogram: RecordableHistogram | null): LatencyView {
  if (histogram === null) return { p50: 0, p90: 0, p99: 0, max: 0 }
  return { p50: histogram.percentile(50) / 1_000, p90: histogram.percentile(90) / 1_000, p99: histogram.percentile(99) / 1_000, max: histogram.max / 1_000 }
}
