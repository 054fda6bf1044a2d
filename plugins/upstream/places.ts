/**
 * Gives requests their places at instances: at once where one is free, else in the order in which they came, for as long as
 * `concurrency.queueTimeout` allows.
 */
import type { Clock } from '../../src/clock.ts'
import { AgentBusyError, NoInstanceAvailableError, type FleetError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Asker } from '../../src/fleet/balancer.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { createWaitingLine, type WaitingLine } from '../../src/fleet/waiting-line.ts'
import { formatMs } from '../../src/options.ts'
import { toFleetError } from '../../src/problem.ts'
import type { Chooser } from './chooser.ts'

/** A request that wants an instance. None of these may throw. */
export interface Waiter {
  /** Instances that it tried before. */
  readonly tried: readonly Instance[]
  readonly asker: Asker
  /** It was sent away from an instance: it has waited already, and is given a free place before those who wait. */
  readonly hasTried: boolean
  /** The place is its own if it begins an attempt there before it returns. */
  onPlace (instance: Instance): void
  /** There is none, and none to wait for; NoInstanceAvailableError or AgentBusyError. */
  onRefused (error: FleetError): void
}

/** What a client waits before it asks again. */
const retryAfter = { headers: { 'retry-after': '1' } }

/** No instance at all, or none that is wanted. */
export function noInstance ({ name }: Agent): FleetError {
  return new NoInstanceAvailableError(`The agent "${name}" has no instance that can take the request`, retryAfter)
}

/** All instances are full, and so is the queue, or it took too long. */
export function busy ({ name }: Agent, waitedMs = 0): FleetError {
  const waited = waitedMs === 0 ? '' : `, and none became free within ${formatMs(waitedMs)}`
  return new AgentBusyError(`All instances of the agent "${name}" have as many requests as they may${waited}`, retryAfter)
}

export class Places {
  readonly #clock: Clock
  /** Those in force, which a reload changes. */
  readonly #chooser: () => Chooser
  readonly #agentOf: (name: string) => Agent | undefined
  /** By name of the agent; only of those where somebody waits. */
  readonly #lines = new Map<string, WaitingLine<Waiter>>()
  readonly #due = new Set<string>()
  /** Agents of which the next end of an ejection is waited for. */
  readonly #watched = new Set<string>()

  constructor (clock: Clock, chooser: () => Chooser, agentOf: (name: string) => Agent | undefined) {
    this.#clock = clock
    this.#chooser = chooser
    this.#agentOf = agentOf
  }

  /** Gives a place, at once or later, or refuses: calls back exactly once, unless the waiter leaves before. */
  place (agent: Agent, waiter: Waiter): void {
    const { name } = agent
    // An instance may have come back since the last place became free. Who waits still while there is a place has tried it.
    if (this.#lines.has(name) && this.#hasPlace(agent)) this.#serve(name)
    const isNext = waiter.hasTried || !this.#lines.has(name) || this.#hasPlace(agent)
    if (isNext && this.#placeOrRefuse(agent, waiter)) return
    if (this.#isFull(agent)) return waiter.onRefused(busy(agent))
    this.#wait(agent, waiter)
  }

  /** Why a request that has tried nobody would be refused now: nobody there, or a full queue before full instances. */
  refusal (agent: Agent): FleetError | undefined {
    if (!this.#hasPlace(agent)) return this.#isFull(agent) ? busy(agent) : undefined
    return agent.instances.some(({ runtime }) => !runtime.draining) ? undefined : noInstance(agent)
  }

  /** The waiter wants no place any more. */
  leave (agent: Agent, waiter: Waiter): void {
    if (this.#lines.size === 0) return
    this.#lines.get(agent.name)?.remove(waiter)
    this.#endIfEmpty(agent.name)
  }

  /** How many requests wait for a place at the agent. */
  waiting (agentName: string): number {
    return this.#lines.get(agentName)?.size ?? 0
  }

  /** A place may have become free. Looked at when what is running now is done, so that a connection is given back before it is taken. */
  freed (agentName: string): void {
    if (this.#lines.size === 0 || !this.#lines.has(agentName) || this.#due.has(agentName)) return
    this.#due.add(agentName)
    queueMicrotask(() => {
      this.#due.delete(agentName)
      this.#serve(agentName)
    })
  }

  /** Instances or settings of whatever agents changed. */
  changed (): void {
    for (const name of this.#lines.keys()) this.freed(name)
  }

  /** The queue takes nobody more. */
  #isFull (agent: Agent): boolean {
    return this.waiting(agent.name) >= this.#chooser().settingsOf(agent).concurrency.queue
  }

  #wait (agent: Agent, waiter: Waiter): void {
    const { name } = agent
    let line = this.#lines.get(name)
    if (line === undefined) {
      this.#lines.set(name, line = createWaitingLine(this.#clock))
      this.#serveAfterEjection(name)
    }
    const { queueTimeout } = this.#chooser().settingsOf(agent).concurrency
    line.add(waiter, queueTimeout, () => {
      this.#endIfEmpty(name)
      waiter.onRefused(busy(agent, queueTimeout))
    })
  }

  /** An ejection that runs out frees a place, and nothing else would tell. */
  #serveAfterEjection (name: string): void {
    if (this.#watched.has(name)) return
    const now = this.#clock.now()
    const ends = (this.#agentOf(name)?.instances ?? []).map(({ runtime }) => runtime.health.ejectedUntil).filter(until => until > now)
    if (ends.length === 0) return
    this.#watched.add(name)
    this.#clock.after(Math.min(...ends) - now, () => {
      this.#watched.delete(name)
      this.freed(name)
      if (this.#lines.has(name)) this.#serveAfterEjection(name)
    })
  }

  #serve (name: string): void {
    const agent = this.#agentOf(name)
    this.#lines.get(name)?.serve(waiter => {
      if (agent !== undefined) return this.#placeOrRefuse(agent, waiter)
      waiter.onRefused(new NoInstanceAvailableError(`The agent "${name}" was removed`, retryAfter))
      return true
    }, () => agent === undefined || this.#hasPlace(agent))
    this.#endIfEmpty(name)
  }

  /** Whether anybody at all need not wait now. */
  #hasPlace (agent: Agent): boolean {
    return !this.#chooser().isBusy(agent, [], this.#clock.now())
  }

  /** False when there is nothing for the waiter now that it could not get by waiting. */
  #placeOrRefuse (agent: Agent, waiter: Waiter): boolean {
    const { tried, asker } = waiter
    const chooser = this.#chooser()
    const now = this.#clock.now()
    let instance: Instance | undefined
    try {
      instance = chooser.pick(agent, tried, asker, now)
    } catch (error) { // of a balancer that the application brought
      waiter.onRefused(toFleetError(error))
      return true
    }
    if (instance !== undefined) waiter.onPlace(instance)
    else if (chooser.isBusy(agent, tried, now)) return false
    else waiter.onRefused(noInstance(agent))
    return true
  }

  #endIfEmpty (name: string): void {
    if (this.#lines.get(name)?.size === 0) this.#lines.delete(name)
  }
}
