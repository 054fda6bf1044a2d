/**
 * The balancers by the names that fleet.yaml has for them.
 */
import type { Balancer } from './balancer.ts'
import { leastRequests } from './least-requests.ts'
import { rendezvous } from './rendezvous.ts'
import { roundRobin } from './round-robin.ts'
import { withSlowStart } from './slow-start.ts'
import { smoothWeighted } from './smooth-weighted.ts'
import { twoChoices } from './two-choices.ts'

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

/**
 * The balancer for these settings. What it remembers is on the agent and its instances, so another one for the same agent goes on from there.
 * @param random from 0 to below 1
 */
export function createBalancer ({ policy, hashOn, slowStart }: BalancerSettings, random: () => number = Math.random): Balancer {
  const balancer = makers[policy](hashOn, random)
  // Slow start would send a client elsewhere now and then, and that is what `hash` is there to prevent.
  return slowStart === 0 || policy === 'hash' ? balancer : withSlowStart(balancer, slowStart, random)
}

const makers: Readonly<Record<BalancerPolicy, (hashOn: string, random: () => number) => Balancer>> = {
  'round-robin': () => roundRobin,
  weighted: () => smoothWeighted,
  'least-requests': () => leastRequests,
  p2c: (_hashOn, random) => twoChoices(random),
  hash: rendezvous
}
