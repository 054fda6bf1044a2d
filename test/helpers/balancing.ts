/** An agent without a server, for tests of what chooses among its instances, and who is chosen. */
import type { Agent } from '../../src/fleet/agent.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Asker, Balancer, Choice } from '../../src/fleet/balancer.ts'
import { createBalancer, type BalancerPolicy, type BalancerSettings } from '../../src/fleet/balancers.ts'
import { newRuntime, type Instance } from '../../src/fleet/instance.ts'
import { seeded } from './seeded.ts'

/** Milliseconds since the epoch, at which everything happens unless a test says otherwise. */
export const now = 1_000_000

/** A first attempt on nobody's behalf. */
export const choice: Choice = { tried: [], now, panic: false, capacity: Infinity, asker: null }

/** What the instances of agentOf() are called, a letter each. */
export const names = 'abcdefghijklmnopqrstuvwxyz'

/** An instance that is well and idle. @param servingSince always, when left out */
export function instanceOf (id: string, weight = 1, servingSince = 0): Instance {
  return { id, agent: 'planner', protocol: 'http', host: id, port: 9000, origin: `http://${id}:9000`, weight, source: 'file', trusted: true, lease: null, runtime: newRuntime(servingSince) }
}

/** An agent of these instances. */
export function agentWith (...instances: Instance[]): Agent {
  return { name: 'planner', aliases: [], metadata: {}, policy: {}, instances, rotation: { next: 0 } }
}

/** Instances a, b, c and so on, of these weights. */
export function agentOf (...weights: number[]): Agent {
  return agentWith(...weights.map((weight, index) => instanceOf(names[index]!, weight)))
}

/** A balancer whose choices are the same each time. */
export function balancerOf (policy: BalancerPolicy, settings: Partial<BalancerSettings> = {}, random = seeded(1).next): Balancer {
  return createBalancer({ policy, hashOn: 'address', slowStart: 0, ...settings }, random)
}

/** Who is picked, in a row: `a b a`. */
export function picks (balancer: Balancer, agent: Agent, count: number, changes: Partial<Choice> = {}): string {
  return Array.from({ length: count }, () => balancer.pick(agent, { ...choice, ...changes })?.id ?? 'none').join(' ')
}

/** How often each is picked. */
export function sharesOf (balancer: Balancer, agent: Agent, count: number, changes: Partial<Choice> = {}): Record<string, number> {
  const shares = Object.fromEntries(agent.instances.map(({ id }) => [id, 0]))
  for (const id of picks(balancer, agent, count, changes).split(' ')) shares[id] = (shares[id] ?? 0) + 1
  return shares
}

/** A client at this address. */
export function askerAt (clientAddress: string, headers: Asker['headers'] = {}): Asker {
  return { clientAddress, headers }
}

/** A client of its own for each number. */
export function client (number: number): Asker {
  return askerAt(`10.${number >> 16 & 255}.${number >> 8 & 255}.${number & 255}`)
}

/** An attempt that came out so. */
export function attemptThat (outcome: AttemptOutcome, status = 0): Attempt {
  return { instance: instanceOf('a'), instanceId: 'a', startedMark: 0, outcome, status, durationMs: 0 }
}

/** The agent answered with this status. */
export function answer (status: number): Attempt {
  return attemptThat('answered', status)
}
