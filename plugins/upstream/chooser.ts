/**
 * Which instance may serve an attempt: the balancer and the capacity that hold for an agent, asked first for those that are available, then,
 * when all are down or ejected, for any (panic mode).
 */
import type { Agent } from '../../src/fleet/agent.ts'
import { isAmong, type Asker, type Balancer } from '../../src/fleet/balancer.ts'
import { createBalancer } from '../../src/fleet/balancers.ts'
import { hasPlace, isAvailable, type Instance } from '../../src/fleet/instance.ts'
import { forecast, type Forecast } from './forecast.ts'
import type { BalancerOptions, ConcurrencyOptions } from './options.ts'

/** What agents can override, one by one. */
export interface ChooserDefaults {
  readonly balancer: BalancerOptions
  readonly concurrency: ConcurrencyOptions
}

/** What holds for one agent. */
interface AgentSettings {
  readonly balancer: Balancer
  /** What made the balancer, unless the application brought one. */
  readonly policy: BalancerOptions
  readonly concurrency: ConcurrencyOptions
  /** `concurrency.max`, as a number in any case. */
  readonly capacity: number
}

export interface Chooser {
  /** The settings that hold for the agent. */
  settingsOf (agent: Agent): AgentSettings
  /** The instance for an attempt, in panic mode if it must be; undefined when there is none that could take it now. */
  pick (agent: Agent, tried: readonly Instance[], asker: Asker | null, now: number): Instance | undefined
  /** What pick() would choose for a request that has tried nobody, as far as that is known. Moves nothing. */
  forecast (agent: Agent, asker: Asker | null, now: number): Forecast
  /** Whether an available instance that was not tried could take an attempt now. */
  hasRoom (agent: Agent, tried: readonly Instance[], now: number): boolean
  /** Whether it is only for being full that instances can't take an attempt: to wait is worth it. */
  isBusy (agent: Agent, tried: readonly Instance[], now: number): boolean
}

/**
 * @param random from 0 to below 1, for what is drawn by lot
 * @param ownBalancer chooses for all agents, whatever policy they name
 */
export function createChooser (defaults: ChooserDefaults, random: () => number, ownBalancer: Balancer | undefined): Chooser {
  /** Agents are immutable values, so each is looked at once. */
  const known = new WeakMap<Agent, AgentSettings>()
  const standardBalancer = ownBalancer ?? createBalancer(defaults.balancer, random)

  function settingsOf (agent: Agent): AgentSettings {
    let settings = known.get(agent)
    if (settings === undefined) known.set(agent, settings = resolve(agent))
    return settings
  }

  function resolve ({ policy: own }: Agent): AgentSettings {
    const concurrency = { ...defaults.concurrency, ...own.concurrency }
    const policy = { ...defaults.balancer, ...own.balancer }
    const balancer = own.balancer === undefined || ownBalancer !== undefined ? standardBalancer : createBalancer(policy, random)
    return { balancer, policy, concurrency, capacity: concurrency.max ?? Infinity }
  }

  function isBusy (agent: Agent, tried: readonly Instance[], now: number): boolean {
    const { capacity } = settingsOf(agent)
    if (capacity === Infinity) return false
    const untried = agent.instances.filter(instance => !isAmong(tried, instance))
    const healthy = untried.filter(instance => isAvailable(instance, now))
    const wanted = healthy.length > 0 ? healthy : untried.filter(({ runtime }) => !runtime.draining)
    return wanted.length > 0 && !wanted.some(instance => hasPlace(instance, capacity))
  }

  return {
    settingsOf,
    isBusy,
    forecast (agent, asker, now) {
      const { policy, capacity } = settingsOf(agent)
      const balancerWith = ownBalancer === undefined ? (lot: () => number) => createBalancer(policy, lot) : null
      return forecast(agent, { balancerWith, capacity, isBusy: isBusy(agent, [], now) }, asker, now)
    },
    hasRoom (agent, tried, now) {
      const { capacity } = settingsOf(agent)
      return agent.instances.some(instance => isAvailable(instance, now, capacity) && !isAmong(tried, instance))
    },
    pick (agent, tried, asker, now) {
      const { balancer, capacity } = settingsOf(agent)
      const instance = balancer.pick(agent, { tried, now, panic: false, capacity, asker })
      if (instance !== undefined || isBusy(agent, tried, now)) return instance
      return balancer.pick(agent, { tried, now, panic: true, capacity, asker })
    }
  }
}
