/**
 * The dynamic upstream resolver: which instance serves the next attempt, and how many are under way. Forwarding itself is the proxy's.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../registry/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import type { FleetError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Asker, Balancer } from '../../src/fleet/balancer.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { recordLatency } from '../../src/fleet/latency.ts'
import { parseOptions, type Static } from '../../src/options.ts'
import { createChooser, type Chooser } from './chooser.ts'
import type { Forecast } from './forecast.ts'
import { BalancerOptions, ConcurrencyOptions } from './options.ts'
import { Places, busy, noInstance, type Waiter } from './places.ts'

/** Called when an attempt begins or its outcome is known. Must not throw. */
export type AttemptListener = (attempt: Attempt) => void

export interface Upstream {
  /**
   * The next available instance that is not in `tried`, by the agent's balancer; any wanted one when all are down or ejected (panic mode).
   * @param asker whose request it is, for balancers that look at that
   * @throws NoInstanceAvailableError; AgentBusyError when it is only that they are full
   */
  resolve (agent: Agent, tried: readonly Instance[], asker?: Asker): Instance
  /**
   * Gives a request its instance: at once where one has room, else in its turn. Exactly one of the waiter's callbacks is called, once, unless
   * it leaves before.
   */
  place (agent: Agent, waiter: Waiter): void
  /** The instance that the next request would get, as far as that is known. Moves nothing, unlike resolve(). */
  forecast (agent: Agent, asker: Asker | null): Forecast
  /** What holds for the agent: durations in milliseconds. */
  settingsOf (agent: Agent): { balancer: BalancerOptions, concurrency: ConcurrencyOptions, ownBalancer: boolean }
  /** Whether an available instance that was not tried could take an attempt at once. */
  hasRoom (agent: Agent, tried: readonly Instance[]): boolean
  /** Keeps a place at the instance as an attempt would. @returns gives it back, once */
  hold (instance: Instance): () => void
  /** The waiter wants no place any more; nothing when it has one or none. */
  leave (agent: Agent, waiter: Waiter): void
  /** The error of a request that would not get a place now, nor one in the queue: to say so before a body is read. */
  refusal (agent: Agent): FleetError | undefined
  /** How many requests wait for a place at the agent. */
  waiting (agentName: string): number
  /** An instance of the agent can take requests again: who waits is asked. */
  reconsider (agentName: string): void
  /** Counts an attempt as begun. Its owner calls settle() once and release() once. */
  begin (instance: Instance): Attempt
  /** The outcome is known: the response head arrived, or it failed. */
  settle (attempt: Attempt, outcome: AttemptOutcome, status?: number): void
  /** The attempt no longer occupies its instance. */
  release (attempt: Attempt): void
  /**
   * The instance moved bytes: a slow probe then means busy, not dead.
   * @param ofRequest it took a part of the request, so that its time to answer has not begun
   */
  progress (attempt: Attempt, ofRequest?: boolean): void
  onBegin (listener: AttemptListener): () => void
  onSettled (listener: AttemptListener): () => void
  /**
   * Takes new defaults for all agents, as `balancer` in fleet.yaml has them, and `concurrency`; what is left out is back to its own default.
   * @throws OptionsError; nothing has changed then
   */
  reconfigure (options: { concurrency?: object }): void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Chooses the instance for each attempt, and keeps account of attempts. */
    upstream: Upstream
  }
}

/** Data of `balancer` in fleet.yaml, `concurrency`, and seams. */
export interface UpstreamPluginOptions extends Partial<Static<typeof BalancerOptions>> {
  /** Chooses for all agents, whatever policy they name. @default the one that an agent names */
  balancer?: Balancer
  /** As in fleet.yaml. */
  concurrency?: Partial<Static<typeof ConcurrencyOptions>>
  clock?: Clock
  /** From 0 to below 1, for what is drawn by lot. @default Math.random */
  random?: () => number
}

const upstreamPlugin: FastifyPluginAsync<UpstreamPluginOptions> = async (fastify, opts) => {
  const { balancer: ownBalancer, clock = systemClock, random = Math.random, ...data } = opts
  const { registry } = fastify
  const beginListeners = new Set<AttemptListener>()
  const settledListeners = new Set<AttemptListener>()
  let chooser = chooserOf(data)
  const places = new Places(clock, () => chooser, name => named(name))

  function chooserOf ({ concurrency = {}, ...balancer }: { concurrency?: object }): Chooser {
    const defaults = { balancer: parseOptions(BalancerOptions, balancer, 'balancer'), concurrency: parseOptions(ConcurrencyOptions, concurrency, 'concurrency') }
    return createChooser(defaults, random, ownBalancer)
  }

  /** The agent of this name; whose alias it has become meanwhile is another agent, which nobody was let in to. */
  function named (name: string): Agent | undefined {
    const agent = registry.find(name)
    return agent?.name === name ? agent : undefined
  }

  /** The agent as it is now: since the request came, its instance may have left and another taken its place. */
  function present (agent: Agent): Agent {
    return named(agent.name) ?? agent
  }

  fastify.decorate('upstream', {
    resolve (agent, tried, asker) {
      const now = clock.now()
      const instance = chooser.pick(agent, tried, asker ?? null, now)
      if (instance === undefined) throw chooser.isBusy(agent, tried, now) ? busy(agent) : noInstance(agent)
      return instance
    },
    forecast: (agent, asker) => chooser.forecast(present(agent), asker, clock.now()),
    settingsOf (agent) {
      const { policy, concurrency } = chooser.settingsOf(agent)
      return { balancer: policy, concurrency, ownBalancer: ownBalancer !== undefined }
    },
    place: (agent, waiter) => places.place(present(agent), waiter),
    leave: (agent, waiter) => places.leave(agent, waiter),
    hasRoom: (agent, tried) => chooser.hasRoom(present(agent), tried, clock.now()),
    hold ({ agent, runtime }) {
      runtime.inFlight++
      return () => {
        runtime.inFlight--
        places.freed(agent)
      }
    },
    refusal: agent => places.refusal(agent),
    waiting: name => places.waiting(name),
    reconsider: name => places.freed(name),
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
      const { runtime, agent } = attempt.instance
      runtime.inFlight--
      places.freed(agent)
    },
    progress (attempt, ofRequest = false) {
      attempt.instance.runtime.lastProgressAt = clock.now()
      if (ofRequest && attempt.outcome === 'pending') attempt.sentMark = performance.now()
    },
    onBegin (listener) {
      beginListeners.add(listener)
      return () => beginListeners.delete(listener)
    },
    onSettled (listener) {
      settledListeners.add(listener)
      return () => settledListeners.delete(listener)
    },
    reconfigure (options) {
      chooser = chooserOf(options)
      places.changed()
    }
  })
  const stopWatching = registry.onChange(() => places.changed())
  fastify.addHook('onClose', async () => stopWatching())
}

export { BalancerOptions, ConcurrencyOptions }
export type { Forecast, Waiter }
export default fp(upstreamPlugin, { name: 'fleet-upstream', fastify: '5.x', decorators: { fastify: ['registry'] } })
