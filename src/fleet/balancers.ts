/**
 * The balancers by the names that fleet.yaml has for them.
 */
import type { Balancer } from './balancer.ts'
import { roundRobin } from './round-robin.ts'

/** The policies there are; the first is what counts when nobody says anything. */
export const balancerPolicies = ['round-robin', 'weighted', 'least-requests', 'p2c', 'hash'] as const

export type BalancerPolicy = typeof balancerPolicies[number]

/** How instances of an agent are chosen. */
export interface BalancerSettings {
  readonly policy: BalancerPolicy
  /** `address`, `header:NAME` or `cookie:NAME`: what of a request `hash` looks at. */
  readonly hashOn: string
  /** Over how many milliseconds the share of an instance that is new or came back grows to its full size; 0 is at once. */
  readonly slowStart: number
}

/** The balancer for these settings. What it remembers is on the agent and its instances, so one more for the same agent goes on where it stood. */
export function createBalancer (_settings: BalancerSettings): Balancer {
  return roundRobin
}
