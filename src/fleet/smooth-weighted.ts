/**
 * Turns by weight, spread out as nginx does it: with weights 5, 1 and 1 it is a a b a c a a, and never five in a row that need not be.
 */
import type { Agent } from './agent.ts'
import { mayTake, type Balancer } from './balancer.ts'
import type { Instance } from './instance.ts'

/** Takes the instances in turn, each as often as its weight says. */
export const smoothWeighted: Balancer = {
  pick: (agent, choice) => nextByWeight(agent, instance => mayTake(instance, choice))
}

/**
 * The next one among those that take part. Each is credited its weight, and who has most is taken and pays for all: after as many turns as
 * the weights add up to, everybody has had theirs and all credits are what they were.
 */
export function nextByWeight ({ instances }: Agent, takesPart: (instance: Instance) => boolean): Instance | undefined {
  let total = 0
  for (const instance of instances) if (takesPart(instance)) total += instance.weight
  let next: Instance | undefined
  for (const instance of instances) {
    if (!takesPart(instance)) continue
    const { runtime, weight } = instance
    // Credits in the scale of other weights, or of others who took part, would starve or favour somebody for long.
    runtime.credit = Math.min(Math.max(runtime.credit, -2 * total), 2 * total) + weight
    if (next === undefined || runtime.credit > next.runtime.credit) next = instance
  }
  if (next !== undefined) next.runtime.credit -= total
  return next
}
