/**
 * What is counted of finished exchanges and attempts. Counters hang on the identity of what they count (an agent's rotation, an
 * instance's runtime record), so that they outlive a reload and go with whoever leaves the registry.
 */
import type { RecordableHistogram } from 'node:perf_hooks'
import type { RequestFacts } from '../facts/index.ts'
import type { Rotation } from '../../src/fleet/agent.ts'
import { isFailure, type Attempt } from '../../src/fleet/attempt.ts'
import type { InstanceRuntime } from '../../src/fleet/instance.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import { countLatency, newLatencyBuckets, type LatencyBuckets } from '../../src/latency-buckets.ts'
import { createLatencyHistogram, recordLatency } from './latency.ts'

/** Of one agent. */
export interface AgentCounters {
  requests: number
  /** Answers of 500 and above, and answers that were cut off. */
  errors: number
  /** Attempts beyond a request's first. */
  retries: number
  /** Of ordinary exchanges whose client stayed to the end; null before the first. */
  latency: RecordableHistogram | null
  /** The same in counts that only grow, for who wants the latencies of a stretch of time; null before the first. */
  buckets: LatencyBuckets | null
}

/** Of one instance; here an attempt is what counts as a request. */
export interface InstanceCounters {
  requests: number
  /** Failures, answers of 500 and above, and answers that were cut off. */
  errors: number
}

const noRequests: Readonly<AgentCounters> = { requests: 0, errors: 0, retries: 0, latency: null, buckets: null }
const noAttempts: Readonly<InstanceCounters> = { requests: 0, errors: 0 }

export class Counters {
  requests = 0
  errors = 0
  /** Requests that were forwarded: with at least one attempt. */
  proxied = 0
  readonly #registry: Registry
  readonly #agents = new WeakMap<Rotation, AgentCounters>()
  readonly #instances = new WeakMap<InstanceRuntime, InstanceCounters>()

  constructor (registry: Registry) {
    this.#registry = registry
  }

  /** Counts a finished exchange. */
  countExchange (facts: RequestFacts): void {
    const failed = facts.status >= 500 || facts.ending === 'upstream-aborted'
    const attempts = facts.attempts.length
    this.requests++
    if (failed) this.errors++
    if (attempts > 0) this.proxied++
    const last = facts.attempts[attempts - 1]
    if (facts.ending === 'upstream-aborted' && last !== undefined && !isError(last)) this.#countersOfInstance(last.instance.runtime).errors++

    const agent = facts.agent === null ? undefined : this.#registry.find(facts.agent)
    if (agent === undefined || agent.name !== facts.agent) return // gone; its name may be another's by now
    const counters = this.#countersOfAgent(agent.rotation)
    counters.requests++
    if (failed) counters.errors++
    if (attempts > 1) counters.retries += attempts - 1
    if (facts.stream !== null || facts.ending === 'client-aborted') return
    recordLatency(counters.latency ??= createLatencyHistogram(), facts.durationMs)
    countLatency(counters.buckets ??= newLatencyBuckets(), facts.durationMs)
  }

  /** Counts an attempt whose outcome is known. One that met a closed pooled connection is not one: it is replayed. */
  countAttempt (attempt: Attempt): void {
    if (attempt.outcome === 'stale') return
    const counters = this.#countersOfInstance(attempt.instance.runtime)
    counters.requests++
    if (isError(attempt)) counters.errors++
  }

  /** What was counted of an agent; zeros when it was never used. */
  ofAgent (rotation: Rotation): Readonly<AgentCounters> {
    return this.#agents.get(rotation) ?? noRequests
  }

  /** What was counted of an instance; zeros when it was never used. */
  ofInstance (runtime: InstanceRuntime): Readonly<InstanceCounters> {
    return this.#instances.get(runtime) ?? noAttempts
  }

  #countersOfAgent (rotation: Rotation): AgentCounters {
    let counters = this.#agents.get(rotation)
    if (counters === undefined) {
      counters = { ...noRequests }
      this.#agents.set(rotation, counters)
    }
    return counters
  }

  #countersOfInstance (runtime: InstanceRuntime): InstanceCounters {
    let counters = this.#instances.get(runtime)
    if (counters === undefined) {
      counters = { ...noAttempts }
      this.#instances.set(runtime, counters)
    }
    return counters
  }
}

function isError (attempt: Attempt): boolean {
  return attempt.status >= 500 || isFailure(attempt)
}
