/**
 * A named service clients ask for: its instances, other names and policy, as one immutable value that is swapped on a change.
 */
import type { BalancerSettings } from './balancers.ts'
import { isServing, type Instance } from './instance.ts'

export type AgentStatus = 'healthy' | 'degraded' | 'down'

/** Milliseconds; what is left out is as it is anyway. */
export interface Timeouts {
  readonly connect?: number
  readonly response?: number
  readonly idle?: number
  readonly total?: number
}

/** How connections to instances that speak https are opened. Files are PEM files of the gateway's machine. */
export interface AgentTls {
  /** Authorities that are believed instead of the system's. */
  readonly caFile?: string
  /** What the gateway shows of itself. */
  readonly certFile?: string
  readonly keyFile?: string
  readonly passphraseFile?: string
  /** The name that is asked for (SNI) and that the certificate must have, instead of the instance's host. */
  readonly serverName?: string
  /** Whether certificates are verified; true unless said otherwise. */
  readonly verify?: boolean
}

/** What an agent sets differently from the gateway's defaults. Durations are milliseconds, sizes bytes. */
export interface AgentPolicy {
  readonly timeouts?: Timeouts
  readonly retry?: { readonly attempts?: number, readonly statuses?: readonly number[], readonly maxBodyBytes?: number }
  readonly health?: { readonly path?: string, readonly interval?: number, readonly timeout?: number, readonly unhealthyAfter?: number, readonly healthyAfter?: number }
  readonly balancer?: Partial<BalancerSettings>
  readonly concurrency?: { readonly max?: number, readonly queue?: number, readonly queueTimeout?: number }
  /** Timeouts for parts of the agent, by prefix of the path. */
  readonly paths?: readonly { readonly prefix: string, readonly timeouts: Timeouts }[]
  readonly rateLimit?: { readonly enabled?: boolean, readonly perMinute?: number, readonly burst?: number }
  /** The token that opened the gateway is passed on to the agent. */
  readonly forwardAuthorization?: boolean
  /** Of fleet.yaml alone: files of the gateway's machine are nothing that a registration may name. */
  readonly tls?: AgentTls
  /** The agent sees the client's `Host`. */
  readonly preserveHost?: boolean
  /** `Location` is mapped under `/api/{agent}`; true unless said otherwise. */
  readonly rewriteLocation?: boolean
}

export interface Agent {
  readonly name: string
  readonly aliases: readonly string[]
  readonly metadata: Readonly<Record<string, unknown>>
  readonly policy: AgentPolicy
  /** Secrets: what the gateway's requests to the agent carry of its own, a flat list of names and values. Not in `policy`, which is shown and kept. */
  readonly headers?: readonly string[]
  readonly instances: readonly Instance[]
  /** Written by the balancer alone; survives a reload. */
  readonly rotation: Rotation
}

/** Where round robin stands. */
export interface Rotation {
  next: number
}

/** `healthy` when every instance serves, `degraded` when some do, `down` when none does. */
export function statusOf (agent: Agent): AgentStatus {
  const serving = servingCount(agent)
  if (serving === 0) return 'down'
  return serving === agent.instances.length ? 'healthy' : 'degraded'
}

/** How many instances serve: up, not ejected, not draining. One that is due for its trial is not among them before it has passed. */
export function servingCount (agent: Agent): number {
  let count = 0
  for (const instance of agent.instances) if (isServing(instance)) count++
  return count
}

/** Attempts that its instances have under way. */
export function inFlightOf ({ instances }: Agent): number {
  let inFlight = 0
  for (const { runtime } of instances) inFlight += runtime.inFlight
  return inFlight
}
