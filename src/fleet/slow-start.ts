/**
 * Spares an instance that is new or came back, whatever the balancer: it sits out of most choices at first, then of fewer and fewer. Caches
 * are cold then, and a hundred requests at once may be what it died of.
 */
import { mayTake, type Balancer, type Choice } from './balancer.ts'
import type { Instance } from './instance.ts'

/** Where an instance starts: in so many of the choices it takes part. */
const leastShare = 0.1

/**
 * The balancer, asked about fewer instances while some have not served for long.
 * @param slowStartMs how long it takes until an instance takes part in every choice
 * @param random from 0 to below 1
 */
export function withSlowStart (balancer: Balancer, slowStartMs: number, random: () => number): Balancer {
  return {
    pick (agent, choice) {
      const resting = restingOf(agent.instances, choice)
      return balancer.pick(agent, resting === null ? choice : { ...choice, tried: [...choice.tried, ...resting] })
    }
  }

  /** Those that sit out this time: never all, since shares are in proportion to the largest. Among equals nothing changes. */
  function restingOf (instances: readonly Instance[], choice: Choice): Instance[] | null {
    let largest = 0
    let smallest = 1
    for (const instance of instances) {
      if (!mayTake(instance, choice)) continue
      const share = shareOf(instance, choice.now)
      largest = Math.max(largest, share)
      smallest = Math.min(smallest, share)
    }
    if (smallest >= largest) return null
    return instances.filter(instance => {
      const share = shareOf(instance, choice.now)
      return share < largest && random() * largest >= share
    })
  }

  function shareOf ({ runtime }: Instance, now: number): number {
    return Math.min(Math.max((now - runtime.health.servingSince) / slowStartMs, leastShare), 1)
  }
}
