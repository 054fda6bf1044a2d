/**
 * The fleet in words: what fleet.yaml, registrations and the state file say of agents, before the registry makes Agents of it.
 */
import type { AgentPolicy } from './agent.ts'
import type { Protocol } from './instance.ts'

/** What a source says of one instance. */
export interface InstanceDefinition {
  readonly host: string
  readonly port: number
  readonly protocol: Protocol
  readonly weight: number
}

/** Which records say where instances are. */
export const dnsTypes = ['A', 'AAAA', 'SRV'] as const

export type DnsType = typeof dnsTypes[number]

/** A name in DNS whose records are instances of an agent. */
export interface DnsSource {
  /** In lower case, without a dot at its end. */
  readonly name: string
  /** `A` and `AAAA` when left out. */
  readonly type?: DnsType
  /** Of all its addresses; SRV records have their own. */
  readonly port?: number
  readonly protocol: Protocol
  /** Of all its addresses; SRV records have their own. */
  readonly weight: number
  /** Who is asked; the system's name servers when left out. */
  readonly resolvers?: readonly string[]
  /** Bounds of the time after which it is asked again, which is the TTL otherwise. */
  readonly minRefreshMs: number
  readonly maxRefreshMs: number
}

/** What a source says of one agent. A field that is left out is not this source's business. */
export interface AgentDefinition {
  readonly name: string
  readonly aliases?: readonly string[]
  readonly metadata?: Readonly<Record<string, unknown>>
  readonly policy?: AgentPolicy
  /** Fields of the gateway's own, flat; fleet.yaml's alone. */
  readonly headers?: readonly string[]
  readonly instances: readonly InstanceDefinition[]
  /** Further instances are found there; fleet.yaml's alone. */
  readonly dns?: readonly DnsSource[]
}

/** One registration: an agent's settings and one instance, leased when `ttlMs` is given. */
export interface Registration {
  readonly name: string
  readonly host: string
  readonly port: number
  readonly protocol?: Protocol
  readonly weight?: number
  readonly aliases?: readonly string[]
  readonly metadata?: Readonly<Record<string, unknown>>
  readonly policy?: AgentPolicy
  readonly ttlMs?: number
  /** Made with admin rights. A later registration without them takes nothing away, unless it changes the protocol. */
  readonly trusted?: boolean
}

/** An instance's registration as it is kept over a restart; without `expiresAt`, since a restart grants one full ttl. */
export interface SavedInstance extends InstanceDefinition {
  readonly trusted?: boolean
  readonly ttlMs?: number
  /** It is on its way out. */
  readonly draining?: boolean
}

/** What the registration API added, in a form that JSON can hold. */
export interface RegistryState {
  readonly version: 1
  /** Which data of the registry that gateways share was known here when this was written, how much of it, and of which data that was made. */
  readonly shared?: { readonly epoch: string, readonly version: number, readonly origin?: string }
  readonly agents: readonly (Omit<AgentDefinition, 'instances' | 'headers' | 'dns'> & { readonly instances: readonly SavedInstance[] })[]
}
