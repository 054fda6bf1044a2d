/** An agent as Redis has it, a hash of texts, and as the registry does. */
import type { RegistrationHostRules } from '../../src/fleet/address.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import type { Registration, RegistryState, SharedAgent } from '../../src/fleet/registry.ts'
import { settingsPart, type PartChange } from './recent-changes.ts'
import { asOfThisVersion, keptPolicies, readKeptAgent } from './kept-state.ts'

type KeptAgent = RegistryState['agents'][number]
type KeptInstance = KeptAgent['instances'][number]

/** Fields of the hash and their values, one after the other. */
export type Fields = readonly string[]

/** An agent as scripts take it whole. */
export interface AgentEntry {
  readonly name: string
  readonly aliases: readonly string[]
  readonly fields: Fields
  /** Authorities and ttls in milliseconds, one after the other. */
  readonly leases: readonly (string | number)[]
}

/** Settings one by one, so that two gateways that are told different ones at once lose none. */
export function settingFields ({ name, aliases, metadata, policy = {} }: Pick<Registration, 'name' | 'aliases' | 'metadata' | 'policy'>): Fields {
  return [
    ...(aliases === undefined ? [] : ['aliases', JSON.stringify(aliases.filter(alias => alias !== name))]),
    ...(metadata === undefined ? [] : ['metadata', JSON.stringify(metadata)]),
    ...Object.entries(policy).flatMap(([key, value]) => [`policy.${key}`, JSON.stringify(value)])
  ]
}

/** What a registration leaves of an instance as it is known; the protocol before what depends on it. */
export function notGiven ({ protocol, weight, ttlMs, trusted }: Registration): string[] {
  return Object.entries({ protocol, weight, ttlMs, trusted: trusted || undefined }).filter(([, value]) => value === undefined).map(([key]) => key)
}

/** That it drains is a field of its own. */
export function instanceFields ({ draining: _, ...instance }: KeptInstance): Fields {
  return [`i:${authorityOf(instance.host, instance.port)}`, JSON.stringify(instance)]
}

export function entryOf (agent: KeptAgent): AgentEntry {
  const authorities = agent.instances.map(({ host, port }) => authorityOf(host, port))
  return {
    name: agent.name,
    aliases: agent.aliases ?? [],
    fields: [
      ...settingFields(agent),
      ...agent.instances.flatMap(instanceFields),
      ...agent.instances.flatMap(({ draining }, index) => draining === true ? [`d:${authorities[index]!}`, '0'] : [])
    ],
    leases: agent.instances.flatMap(({ ttlMs }, index) => ttlMs === undefined ? [] : [authorities[index]!, ttlMs])
  }
}

/** What was changed of an agent, as it is by now. */
export interface ChangedEntry extends AgentEntry {
  /** Of each part that was changed, an instance, the settings or all of it (''), the version of that. */
  readonly versions: Readonly<Record<string, number>>
  /** Authorities of all instances that it has. */
  readonly there: readonly string[]
  /** Authorities of instances that are gone. */
  readonly removed: readonly string[]
}

/** @param agent undefined when nothing is registered of it any more */
export function changedEntryOf (name: string, agent: KeptAgent | undefined, changes: readonly PartChange[]): ChangedEntry {
  const versions = Object.fromEntries(changes.map(({ part, version }) => [part, version]))
  if (agent === undefined) delete versions[settingsPart]
  const all = agent?.instances ?? []
  const there = all.map(({ host, port }) => authorityOf(host, port))
  const instances = all.filter((_, index) => there[index]! in versions)
  const removed = Object.keys(versions).filter(part => part !== settingsPart && part !== '' && !there.includes(part))
  return { ...entryOf({ ...(agent ?? { name }), instances }), versions, there, removed }
}

/**
 * What a hash says; null when no instance of it can be taken. It is held to the rules of a registration.
 * @param skipped gets a line for what is left out
 */
export function agentOf (name: string, fields: Fields, rules: RegistrationHostRules, skipped: string[]): SharedAgent | null {
  const policy: Record<string, unknown> = {}
  const settings: Record<string, unknown> = {}
  const instances: unknown[] = []
  const draining = new Set<string>()
  try {
    for (let index = 0; index < fields.length; index += 2) {
      const [field, value] = [fields[index]!, fields[index + 1]!]
      const ofPolicy = field.startsWith('policy.') ? field.slice('policy.'.length) : ''
      if (field.startsWith('d:')) draining.add(field.slice(2))
      else if (field.startsWith('i:')) instances.push(JSON.parse(value))
      else if (field === 'aliases' || field === 'metadata') settings[field] = JSON.parse(value) ?? undefined
      else if (keptPolicies.has(ofPolicy)) policy[ofPolicy] = JSON.parse(value)
      // else it is of the scripts alone, or of a later version
    }
  } catch (error) {
    skipped.push(`${name}: ${(error as Error).message}`)
    return null
  }
  const whole = { name, ...settings, ...(Object.keys(policy).length > 0 && { policy }), instances }
  const strange: string[] = []
  let agent = readKeptAgent(whole, name, rules, strange)
  // Only then, since it takes longer than all else.
  if (strange.length > 0) agent = readKeptAgent(asOfThisVersion(whole), name, rules, skipped)
  if (agent === undefined || agent.instances.length === 0) return null
  const sorted = agent.instances.toSorted((a, b) => a.host < b.host ? -1 : a.host > b.host ? 1 : a.port - b.port) // as on every gateway
  const isDraining = ({ host, port }: KeptInstance) => draining.has(authorityOf(host, port))
  return { ...agent, instances: sorted.map(instance => isDraining(instance) ? { ...instance, draining: true } : instance) }
}
