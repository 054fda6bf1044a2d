/**
 * The dynamic upstream resolver: which instance serves the next attempt, and how many are under way. Forwarding itself is the proxy's.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../registry/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { NoInstanceAvailableError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import { roundRobin, type Balancer } from '../../src/fleet/balancer.ts'
import type { Instance } from '../../src/fleet/instance.ts'

/** Called when an attempt begins or its outcome is known. Must not throw. */
export type AttemptListener = (attempt: Attempt) => void

export interface Upstream {
  /**
   * The next available instance that is not in `tried`; any wanted one when all are down or ejected (panic mode).
   * @throws NoInstanceAvailableError
   */
  resolve (agent: Agent, tried: readonly Instance[]): Instance
  /**
   * As resolve(), but undefined when there is none: for a retry.
   * @param panic also one that is down or ejected, when nothing was sent yet and so nothing can be made worse
   */
  another (agent: Agent, tried: readonly Instance[], panic?: boolean): Instance | undefined
  /** Counts an attempt as begun. Its owner calls settle() once and release() once. */
  begin (instance: Instance): Attempt
  /** The outcome is known: the response head arrived, or it failed. */
  settle (attempt: Attempt, outcome: AttemptOutcome, status?: number): void
  /** The attempt no longer occupies its instance. */
  release (attempt: Attempt): void
  /** The instance moved bytes: a slow probe then means busy, not dead. */
  progress (attempt: Attempt): void
  onBegin (listener: AttemptListener): () => void
  onSettled (listener: AttemptListener): () => void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Chooses the instance for each attempt, and keeps account of attempts. */
    upstream: Upstream
  }
}

export interface UpstreamPluginOptions {
  /** @default round robin */
  balancer?: Balancer
  clock?: Clock
}

const upstreamPlugin: FastifyPluginAsync<UpstreamPluginOptions> = async (fastify, { balancer = roundRobin, clock = systemClock }) => {
  const beginListeners = new Set<AttemptListener>()
  const settledListeners = new Set<AttemptListener>()
  const { registry } = fastify

  /**
   * The agent as it is now, and whom of it the request tried: since it came, its instance may have left and another taken its place. After a
   * change an instance is another object with the same record.
   */
  function present (agent: Agent, tried: readonly Instance[]): [Agent, readonly Instance[]] {
    const now = registry.find(agent.name)
    if (now === undefined || now === agent || now.name !== agent.name) return [agent, tried]
    return [now, now.instances.filter(({ runtime }) => tried.some(instance => instance.runtime === runtime))]
  }

  fastify.decorate('upstream', {
    resolve (agent, tried) {
      const now = clock.now()
      const instance = balancer.pick(agent, tried, now) ?? balancer.pick(agent, tried, now, true)
      if (instance === undefined) {
        throw new NoInstanceAvailableError(`The agent "${agent.name}" has no instance that can take the request`, { headers: { 'retry-after': '1' } })
      }
      return instance
    },
    another (asked, met, panic = false) {
      const now = clock.now()
      const [agent, tried] = present(asked, met)
      return balancer.pick(agent, tried, now) ?? (panic ? balancer.pick(agent, tried, now, true) : undefined)
    },
    begin (instance) {
      instance.runtime.inFlight++
      const attempt: Attempt = { instance, instanceId: instance.id, startedMark: performance.now(), outcome: 'pending', status: 0, durationMs: 0 }
      for (const listener of beginListeners) listener(attempt)
      return attempt
    },
    settle (attempt, outcome, status = 0) {
      attempt.outcome = outcome
      attempt.status = status
      attempt.durationMs = performance.now() - attempt.startedMark
      if (outcome === 'answered') attempt.instance.runtime.lastProgressAt = clock.now()
      for (const listener of settledListeners) listener(attempt)
    },
    release (attempt) {
      attempt.instance.runtime.inFlight--
    },
    progress (attempt) {
      attempt.instance.runtime.lastProgressAt = clock.now()
    },
    onBegin (listener) {
      beginListeners.add(listener)
      return () => beginListeners.delete(listener)
    },
    onSettled (listener) {
      settledListeners.add(listener)
      return () => settledListeners.delete(listener)
    }
  })
}

export default fp(upstreamPlugin, { name: 'fleet-upstream', fastify: '5.x', decorators: { fastify: ['registry'] } })
