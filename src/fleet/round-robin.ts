/**
 * The balancer that is used unless another is named: exact alternation over what is available. Nothing is allocated per request.
 */
import { mayTake, type Balancer } from './balancer.ts'

/** Takes the instances in turn. */
export const roundRobin: Balancer = {
  pick ({ instances, rotation }, choice) {
    const count = instances.length
    for (let step = 0; step < count; step++) {
      const index = (rotation.next + step) % count
      const instance = instances[index]!
      if (mayTake(instance, choice)) {
        rotation.next = (index + 1) % count
        return instance
      }
    }
    return undefined
  }
}
