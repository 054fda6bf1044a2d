/**
 * Which instance the next request would get, asked without moving anything: what balancers remember is put back, and where they draw lots it
 * is said that nobody knows.
 */
import type { Agent } from '../../src/fleet/agent.ts'
import type { Asker, Balancer, Choice } from '../../src/fleet/balancer.ts'
import { hasPlace, isAvailable, type Instance } from '../../src/fleet/instance.ts'

export interface Forecast {
  /** Who decides: the agent's policy, a lot that it draws, or the application's own balancer; a queue where all are full; nobody where there is nobody. */
  readonly by: 'policy' | 'lot' | 'application' | 'queue' | 'nobody'
  /** Null unless it is certain. */
  readonly instance: Instance | null
  /** Who may be taken at all. */
  readonly candidates: readonly Instance[]
  /** All are down or ejected, and are tried all the same. */
  readonly panic: boolean
}

/** What the forecast is made with. */
export interface Choosing {
  /** The policy's balancer, drawing lots with this; null for the application's own, which nobody may ask in vain. */
  readonly balancerWith: ((random: () => number) => Balancer) | null
  readonly capacity: number
  readonly isBusy: boolean
}

/** At the ends, and at random: whoever could be drawn comes up in one of them when there are two. */
const lots: readonly (() => number)[] = [() => 0, () => 1 - Number.EPSILON, () => 0.5, ...Array.from({ length: 20 }, () => Math.random)]

export function forecast (agent: Agent, { balancerWith, capacity, isBusy }: Choosing, asker: Asker | null, now: number): Forecast {
  const available = agent.instances.filter(instance => isAvailable(instance, now, capacity))
  if (available.length === 0 && isBusy) return { by: 'queue', instance: null, candidates: [], panic: false }
  const panic = available.length === 0
  const candidates = panic ? agent.instances.filter(instance => hasPlace(instance, capacity)) : available
  if (candidates.length === 0) return { by: 'nobody', instance: null, candidates, panic: false }
  if (balancerWith === null) return { by: 'application', instance: null, candidates, panic }
  const choice: Choice = { tried: [], now, panic, capacity, asker }
  const chosen = new Set<Instance | undefined>()
  let draws = false
  for (const lot of lots) {
    const balancer = balancerWith(() => {
      draws = true
      return lot()
    })
    chosen.add(asIfNot(agent, () => balancer.pick(agent, choice)))
    if (!draws) break
  }
  const [instance = null] = chosen
  const isCertain = chosen.size === 1 && (!draws || candidates.length <= 2)
  return isCertain ? { by: 'policy', instance, candidates, panic } : { by: 'lot', instance: null, candidates, panic }
}

/** All that balancers write. */
function asIfNot<T> ({ rotation, instances }: Agent, act: () => T): T {
  const { next } = rotation
  const credits = instances.map(({ runtime }) => runtime.credit)
  try {
    return act()
  } finally {
    rotation.next = next
    for (const [index, { runtime }] of instances.entries()) runtime.credit = credits[index]!
  }
}
