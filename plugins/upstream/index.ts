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
import type { Asker, Balancer } from '../../src/fleet/balancer.ts'
import { createBalancer } from '../../src/fleet/balancers.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { recordLatency } from '../../src/fleet/latency.ts'
import { parseOptions, type Static } from '../../src/options.ts'
import { BalancerOptions } from './options.ts'

/** Called when an attempt begins or its outcome is known. Must not throw. */
export type AttemptListener = (attempt: Attempt) => void

export interface Upstream {
  /**
   * The next available instance that is not in `tried`, by the agent's balancer; any wanted one when all are down or ejected (panic mode).
   * @param asker whose request it is, for balancers that look at that
   * @throws NoInstanceAvailableError
   */
  resolve (agent: Agent, tried: readonly Instance[], asker?: Asker): Instance
  /**
   * As resolve(), but undefined when there is none: for a retry.
   * @param panic also one that is down or ejected, when nothing was sent yet and so nothing can be made worse
   */
  another (agent: Agent, tried: readonly Instance[], asker?: Asker, panic?: boolean): Instance | undefined
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
  /**
   * Takes new defaults for all agents, as `balancer` in fleet.yaml has them; what is left out is back to its own default.
   * @throws OptionsError; nothing has changed then
   */
  reconfigure (options: object): void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Chooses the instance for each attempt, and keeps account of attempts. */
    upstream: Upstream
  }
}

/** Data of `balancer` in fleet.yaml, and seams. */
export interface UpstreamPluginOptions extends Partial<Static<typeof BalancerOptions>> {
  /** Chooses for all agents, whatever policy they name. @default the one that an agent names */
  balancer?: Balancer
  clock?: Clock
  /** From 0 to below 1, for what is drawn by lot. @default Math.random */
  random?: () => number
}

const upstreamPlugin: FastifyPluginAsync<UpstreamPluginOptions> = async (fastify, opts) => {
  const { balancer: ownBalancer, clock = systemClock, random = Math.random, ...data } = opts
  const beginListeners = new Set<AttemptListener>()
  const settledListeners = new Set<AttemptListener>()
  let defaults: BalancerOptions
  let standard: Balancer
  let chosen: WeakMap<Agent, Balancer>

  function reconfigure (options: object): void {
    defaults = parseOptions(BalancerOptions, options, 'balancer')
    standard = ownBalancer ?? createBalancer(defaults, random)
    chosen = new WeakMap()
  }

  function balancerOf (agent: Agent): Balancer {
    const settings = agent.policy.balancer
    if (settings === undefined || ownBalancer !== undefined) return standard
    // Agents are immutable values, so each is looked at once.
    let balancer = chosen.get(agent)
    if (balancer === undefined) chosen.set(agent, balancer = createBalancer({ ...defaults, ...settings }, random))
    return balancer
  }

  function pick (agent: Agent, tried: readonly Instance[], asker: Asker | null, mayPanic: boolean): Instance | undefined {
    const balancer = balancerOf(agent)
    const now = clock.now()
    return balancer.pick(agent, { tried, now, panic: false, asker }) ?? (mayPanic ? balancer.pick(agent, { tried, now, panic: true, asker }) : undefined)
  }

  reconfigure(data)
  fastify.decorate('upstream', {
    resolve (agent, tried, asker) {
      const instance = pick(agent, tried, asker ?? null, true)
      if (instance === undefined) {
        throw new NoInstanceAvailableError(`The agent "${agent.name}" has no instance that can take the request`, { headers: { 'retry-after': '1' } })
      }
      return instance
    },
    another: (agent, tried, asker, panic = false) => pick(agent, tried, asker ?? null, panic),
    begin (instance) {
      instance.runtime.inFlight++
      const attempt: Attempt = { instance, instanceId: instance.id, startedMark: performance.now(), outcome: 'pending', status: 0, durationMs: 0 }
      for (const listener of beginListeners) listener(attempt)
      return attempt
    },
    settle (attempt, outcome, status = 0) {
      attempt.outcome = outcome
      attempt.status = status
      const mark = performance.now()
      const now = clock.now()
      const { runtime } = attempt.instance
      attempt.durationMs = mark - attempt.startedMark
      if (outcome === 'answered') runtime.lastProgressAt = now
      recordLatency(runtime.latency, attempt, mark - (attempt.sentMark ?? attempt.startedMark), now) // a client that sends slowly makes no instance slow
      for (const listener of settledListeners) listener(attempt)
    },
    release (attempt) {
      attempt.instance.runtime.inFlight--
    },
    progress (attempt) {
      attempt.instance.runtime.lastProgressAt = clock.now()
      if (attempt.outcome === 'pending') attempt.sentMark = performance.now()
    },
    onBegin (listener) {
      beginListeners.add(listener)
      return () => beginListeners.delete(listener)
    },
    onSettled (listener) {
      settledListeners.add(listener)
      return () => settledListeners.delete(listener)
    },
    reconfigure
  })
}

export { BalancerOptions }
export default fp(upstreamPlugin, { name: 'fleet-upstream', fastify: '5.x', decorators: { fastify: ['registry'] } })
