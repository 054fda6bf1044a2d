/**
 * Picks the instance for an attempt. Round robin: exact alternation over what is available; nothing is allocated per request.
 */
import type { Agent } from './agent.ts'
import { isAvailable, type Instance } from './instance.ts'

/** Chooses one of an agent's instances; undefined when none may take the attempt. */
export interface Balancer {
  /**
   * @param tried instances that this request already tried; they are not picked
   * @param now milliseconds since the epoch
   * @param panic also take instances that are down or ejected (never one that drains)
   */
  pick (agent: Agent, tried: readonly Instance[], now: number, panic?: boolean): Instance | undefined
}

/** Takes the instances in turn. */
export const roundRobin: Balancer = {
  pick (agent, tried, now, panic = false) {
    const { instances, rotation } = agent
    const count = instances.length
    for (let step = 0; step < count; step++) {
      const index = (rotation.next + step) % count
      const instance = instances[index]!
      if ((panic ? !instance.runtime.draining : isAvailable(instance, now)) && !tried.includes(instance)) {
        rotation.next = (index + 1) % count
        return instance
      }
    }
    return undefined
  }
}
