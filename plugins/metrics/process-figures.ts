/**
 * What the process costs: processor time, memory, open files, the event loop's delay, garbage collection; under prom-client's names, so that
 * dashboards for Node fit. The plain figures are prom-client's own. Two of its parts (event loop, garbage collection) never stop what they
 * start, and two (handles, requests) list every socket at each scrape; the former are written here, the latter left out.
 */
import { PerformanceObserver, constants, monitorEventLoopDelay, performance, type PerformanceEntry } from 'node:perf_hooks'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import heapSize from 'prom-client/lib/metrics/heapSizeAndUsed.js'
import heapSpaces from 'prom-client/lib/metrics/heapSpacesSizeAndUsed.js'
import memory from 'prom-client/lib/metrics/osMemoryHeap.js'
import cpu from 'prom-client/lib/metrics/processCpuTotal.js'
import maxFiles from 'prom-client/lib/metrics/processMaxFileDescriptors.js'
import openFiles from 'prom-client/lib/metrics/processOpenFileDescriptors.js'
import startTime from 'prom-client/lib/metrics/processStartTime.js'
import version from 'prom-client/lib/metrics/version.js'
import type { Clock } from '../../src/clock.ts'

/** How often the loop's delay is measured; this much of each measurement is the wait that was asked for. */
const resolutionMs = 20
/** Two scrapers must not take half of each other's measurements away. */
const leastWindowMs = 10_000

const gcKinds: Readonly<Record<number, string>> = {
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb'
}

/** What costs something while it measures. */
interface Measuring {
  start (): void
  stop (): void
}

/** Adds the figures to the registry. Collections and the loop's delay are measured from `start()` on; again it does nothing. */
export function addProcessFigures (registry: Registry, clock: Clock): Measuring {
  for (const addTo of [cpu, startTime, memory, openFiles, maxFiles, heapSize, heapSpaces, version]) addTo(registry)
  const parts = [addLoopFigures(registry, clock), addGcFigures(registry)]
  let isStarted = false
  return {
    start () {
      if (isStarted) return
      isStarted = true
      for (const part of parts) part.start()
    },
    stop () { for (const part of parts) part.stop() }
  }
}

function addLoopFigures (registry: Registry, clock: Clock): Measuring {
  const registers = [registry]
  const delays = monitorEventLoopDelay({ resolution: resolutionMs })
  let measuredSince = clock.now()

  const lag = (part: string, help: string, read: () => number) => new Gauge({
    name: `nodejs_eventloop_lag_${part}seconds`,
    help,
    registers,
    collect () { this.set(delays.count === 0 ? 0 : Math.max(read() / 1e9 - resolutionMs / 1_000, 0)) }
  })
  lag('min_', 'The least delay of the event loop since it was last read.', () => delays.min)
  lag('max_', 'The greatest delay of the event loop since it was last read.', () => delays.max)
  lag('mean_', 'The mean delay of the event loop since it was last read.', () => delays.mean)
  lag('p50_', 'The median delay of the event loop since it was last read.', () => delays.percentile(50))
  lag('p90_', 'The 90th percentile of the event loop\'s delay since it was last read.', () => delays.percentile(90))
  lag('p99_', 'The 99th percentile of the event loop\'s delay since it was last read.', () => delays.percentile(99))
  // Registered last, so that it is read last: it begins the next window.
  new Gauge({ // eslint-disable-line no-new
    name: 'nodejs_eventloop_lag_seconds',
    help: 'How long this scrape waited for its turn.',
    registers,
    async collect () {
      const now = clock.now()
      if (now - measuredSince >= leastWindowMs) {
        measuredSince = now
        delays.reset()
      }
      const mark = performance.now()
      await nextTurn()
      this.set((performance.now() - mark) / 1_000)
    }
  })
  new Counter({ // eslint-disable-line no-new
    name: 'nodejs_eventloop_active_seconds_total',
    help: 'How long the event loop was at work; its rate is how busy the loop is, from 0 to 1.',
    registers,
    collect () {
      this.reset()
      this.inc(performance.eventLoopUtilization().active / 1_000)
    }
  })
  return { start: () => { delays.enable() }, stop: () => { delays.disable() } }
}

function addGcFigures (registry: Registry): Measuring {
  const durations = new Histogram({
    name: 'nodejs_gc_duration_seconds',
    help: 'Garbage collections by kind.',
    labelNames: ['kind'],
    buckets: [0.001, 0.01, 0.1, 1, 2, 5],
    registers: [registry]
  })
  const observer = new PerformanceObserver(list => {
    for (const entry of list.getEntries()) {
      const { detail } = entry as PerformanceEntry & { detail?: { kind?: number } }
      durations.observe({ kind: gcKinds[detail?.kind ?? -1] ?? 'other' }, entry.duration / 1_000)
    }
  })
  return { start: () => observer.observe({ entryTypes: ['gc'] }), stop: () => observer.disconnect() }
}
