/**
 * Takes the instance with the least to do for its weight. Suits requests of very different length: streams, long answers.
 */
import { mayTake, type Balancer } from './balancer.ts'
import type { Instance } from './instance.ts'
import { nextByWeight } from './smooth-weighted.ts'

/** Takes the one with the fewest attempts in flight for its weight; of several such in turn, by weight, so that an idle fleet is used evenly. */
export const leastRequests: Balancer = {
  pick (agent, choice) {
    let least = Infinity
    for (const instance of agent.instances) if (mayTake(instance, choice)) least = Math.min(least, loadOf(instance))
    return nextByWeight(agent, instance => loadOf(instance) === least && mayTake(instance, choice))
  }
}

function loadOf ({ runtime, weight }: Instance): number {
  return runtime.inFlight / weight
}
