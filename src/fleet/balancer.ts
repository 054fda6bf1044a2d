/**
 * What a balancer is, and who may be picked at all. Each policy is a file of its own beside this one; balancers.ts finds them by name.
 */
import type { Agent } from './agent.ts'
import { hasPlace, isAvailable, type Instance } from './instance.ts'

/** Who asks: what a balancer may look at of a request. */
export interface Asker {
  /** By lower-case name, as Node has them. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** As far as trusted proxies are believed. */
  readonly clientAddress: string
}

/** What an instance is wanted for. */
export interface Choice {
  /** Instances that this request already tried; they are not picked. */
  readonly tried: readonly Instance[]
  /** Milliseconds since the epoch. */
  readonly now: number
  /** Also take instances that are down or ejected (never one that drains). */
  readonly panic: boolean
  /** The most attempts an instance may have under way; Infinity when that is not bounded. */
  readonly capacity: number
  /** Null where nobody asks: for what is not done on behalf of a request. */
  readonly asker: Asker | null
}

/** Chooses one of an agent's instances; undefined when none may take the attempt. What outlives a reload is in an agent's rotation and an instance's runtime. */
export interface Balancer {
  pick (agent: Agent, choice: Choice): Instance | undefined
}

/** Whether the instance may be picked: every balancer asks this, and nothing else. */
export function mayTake (instance: Instance, { tried, now, panic, capacity }: Choice): boolean {
  const isOpen = panic ? hasPlace(instance, capacity) : isAvailable(instance, now, capacity)
  return isOpen && !isAmong(tried, instance)
}

/** Whether it is one of them: by its record, since after a reload an instance can be another object. */
export function isAmong (instances: readonly Instance[], { runtime }: Instance): boolean {
  return instances.length > 0 && instances.some(instance => instance.runtime === runtime)
}
