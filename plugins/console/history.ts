/**
 * Fifteen minutes of each agent's figures, read from counters that exist anyway: nothing is done for a request. An agent that was never
 * used costs nothing, any other 5 KiB, however much it is used.
 */
import type {} from '../registry/index.ts'
import type { Stats } from '../stats/index.ts'
import { inFlightOf, type Agent, type Rotation } from '../../src/fleet/agent.ts'
import { newLatencyBuckets, percentilesSince, type LatencyBuckets } from '../../src/latency-buckets.ts'
import type { AgentHistory } from './wire.ts'

/** How far apart samples are, in seconds. */
export const sampleSeconds = 5
/** Fifteen minutes. */
const kept = 15 * 60 / sampleSeconds
/** Of what `spark` tells: five minutes. */
const sparkLength = 60

/** Where each figure is in the one array of an agent. */
const figures = ['requests', 'errors', 'p50', 'p99', 'in_flight'] as const
type Figure = typeof figures[number]

/** One agent's samples: figure by figure, each a ring of `kept` places that all agents fill at the same time. */
interface Ring {
  readonly samples: Float32Array
  /** Counters at the last sample. */
  requests: number
  errors: number
  buckets: LatencyBuckets | null
}

const percentiles = [0.5, 0.99]

export class History {
  /** By what of an agent outlives a reload. */
  readonly #rings = new WeakMap<Rotation, Ring>()
  readonly #stats: Stats
  /** How many samples were taken since the start. */
  #taken = 0
  #takenAt = 0

  constructor (stats: Stats) {
    this.#stats = stats
  }

  /** Takes a sample of each agent. @param now milliseconds since the epoch */
  sample (agents: Iterable<Agent>, now: number): void {
    const place = this.#taken % kept
    for (const agent of agents) this.#sampleOf(agent, place)
    this.#taken++
    this.#takenAt = now
  }

  #sampleOf (agent: Agent, place: number): void {
    const { requests, errors, buckets } = this.#stats.ofAgent(agent)
    const inFlight = inFlightOf(agent)
    let ring = this.#rings.get(agent.rotation)
    if (ring === undefined) {
      if (requests === 0 && inFlight === 0) return
      ring = { samples: new Float32Array(figures.length * kept), requests: 0, errors: 0, buckets: null }
      this.#rings.set(agent.rotation, ring)
    }
    const [p50, p99] = requests === ring.requests || buckets === null ? [0, 0] : percentilesSince(ring.buckets, buckets, percentiles)
    const sample: Record<Figure, number> = { requests: requests - ring.requests, errors: errors - ring.errors, p50: p50!, p99: p99!, in_flight: inFlight }
    for (const [index, figure] of figures.entries()) ring.samples[index * kept + place] = sample[figure]
    if (requests === ring.requests) return
    ring.requests = requests
    ring.errors = errors
    if (buckets !== null) (ring.buckets ??= newLatencyBuckets()).set(buckets)
  }

  /** Median and 99th percentile of the last sample, in ms; zeros when nothing was asked. */
  latest (agent: Agent): [p50: number, p99: number] {
    const ring = this.#rings.get(agent.rotation)
    if (ring === undefined || this.#taken === 0) return [0, 0]
    const place = (this.#taken - 1) % kept
    return [rounded(ring.samples[figures.indexOf('p50') * kept + place]!), rounded(ring.samples[figures.indexOf('p99') * kept + place]!)]
  }

  /** Requests in each of the last samples, oldest first; undefined when there were none. */
  spark (agent: Agent): number[] | undefined {
    const requests = this.#series(agent, 'requests', sparkLength)
    return requests.some(count => count > 0) ? requests : undefined
  }

  /** All that is known of an agent. */
  of (agent: Agent): AgentHistory {
    const series = Object.fromEntries(figures.map(figure => [figure, this.#series(agent, figure, kept)])) as Record<Figure, number[]>
    return { agent: agent.name, interval_seconds: sampleSeconds, ended_at: this.#takenAt, ...series }
  }

  /** Oldest first, as many as there are and `most` at most. */
  #series (agent: Agent, figure: Figure, most: number): number[] {
    const length = Math.min(this.#taken, most)
    const ring = this.#rings.get(agent.rotation)
    if (ring === undefined) return new Array<number>(length).fill(0)
    const start = figures.indexOf(figure) * kept
    return Array.from({ length }, (_, index) => rounded(ring.samples[start + (this.#taken - length + index) % kept]!))
  }
}

function rounded (value: number): number {
  return Math.round(value * 100) / 100
}
