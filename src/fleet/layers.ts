/**
 * What the sources say of an agent, fleet.yaml with what DNS found for it and registrations, and how that becomes one Agent. When which of it changes is the
 * registry's business.
 */
import { NameConflictError } from '../errors.ts'
import type { Agent, AgentPolicy, Rotation } from './agent.ts'
import type { AgentDefinition, DnsSource, InstanceDefinition } from './definitions.ts'
import { authorityOf } from './authority.ts'
import { instanceId, newRuntime, type Instance, type Lease, type Protocol, type Source } from './instance.ts'

/** A registered instance. */
export interface ApiInstance extends InstanceDefinition { readonly lease: Lease | null, readonly trusted: boolean }

/** What one source says of an agent; its instances by authority. */
export interface Layer<I extends InstanceDefinition> {
  aliases?: readonly string[]
  metadata?: Readonly<Record<string, unknown>>
  policy?: AgentPolicy
  /** The file's alone. */
  headers?: readonly string[]
  /** The file's alone. */
  dns?: readonly DnsSource[]
  instances: Map<string, I>
}

/** All that is known of an agent: its layers, and what was made of them. */
export interface Entry {
  readonly name: string
  file: Layer<InstanceDefinition> | null
  api: Layer<ApiInstance>
  /** What DNS answered to what the file asks for, by authority. */
  found: ReadonlyMap<string, InstanceDefinition>
  /** Authorities of instances of the file or of DNS that a DELETE took out; they stay out until the file changes, or DNS drops them. */
  readonly suppressed: Set<string>
  /** Authorities of instances that drain; their runtime records say the same. */
  readonly drained: Set<string>
  /** The instances as they were built last, by origin: an id is hashed once, and one that did not change is the same object again. */
  readonly built: Map<string, Instance>
  readonly rotation: Rotation
  /** When the last instance left, milliseconds since the epoch; null while there is one. */
  emptySince: number | null
  agent: Agent
}

/** How long an agent that lost its last instance is still known (and answered with 503). */
const emptyAgentMs = 10 * 60_000

/** An agent nobody has said anything of yet. */
export function newEntry (name: string): Entry {
  const rotation = { next: 0 }
  const agent: Agent = { name, aliases: [], metadata: {}, policy: {}, instances: [], rotation }
  return { name, file: null, api: { instances: new Map() }, found: new Map(), suppressed: new Set(), drained: new Set(), built: new Map(), rotation, emptySince: null, agent }
}

/** The agent that all layers together describe: what was registered stands before what the file says, and that before what DNS does. @param now milliseconds since the epoch */
export function mergeLayers (entry: Entry, now: number): Agent {
  const { file, api } = entry
  const definitions = new Map<string, ApiInstance & { source: Source }>()
  for (const [authority, definition] of file?.instances ?? []) {
    if (!entry.suppressed.has(authority)) definitions.set(authority, { ...definition, source: 'file', lease: null, trusted: true })
  }
  for (const [authority, definition] of entry.found) {
    // The operator named the name, as with `host`: who answers for it is believed.
    if (!entry.suppressed.has(authority) && !definitions.has(authority)) definitions.set(authority, { ...definition, source: 'dns', lease: null, trusted: true })
  }
  for (const [authority, definition] of api.instances) {
    const named = definitions.get(authority)
    const trusted = definition.trusted || named?.protocol === definition.protocol
    definitions.set(authority, { ...definition, trusted, source: named?.source ?? 'api' })
  }
  const instances = [...definitions].map(([authority, definition]) => toInstance(entry, authority, definition, now))
  return {
    name: entry.name,
    aliases: api.aliases ?? file?.aliases ?? [],
    metadata: api.metadata ?? file?.metadata ?? {},
    policy: { ...file?.policy, ...api.policy },
    ...(file?.headers && { headers: file.headers }),
    instances,
    rotation: entry.rotation
  }
}

function toInstance (entry: Entry, authority: string, definition: ApiInstance & { source: Source }, now: number): Instance {
  const { protocol, host, port, weight, source, lease, trusted } = definition
  const origin = originOf(protocol, authority)
  const built = entry.built.get(origin)
  if (built?.weight === weight && built.source === source && built.trusted === trusted && built.lease === lease) return built
  const id = built?.id ?? instanceId(entry.name, host, port)
  const instance = { id, agent: entry.name, protocol, host, port, origin, weight, source, trusted, lease, runtime: built?.runtime ?? newRuntime(now) }
  entry.built.set(origin, instance)
  return instance
}

/**
 * Takes from what was registered under the entry's name the names that the file gives to others; says what it took.
 * @param owners of the names and aliases of the file
 */
export function yieldNames (entry: Entry, owners: ReadonlyMap<string, string>): string[] {
  if (entry.api.instances.size === 0) return []
  const takerOf = (name: string) => {
    const owner = owners.get(name)
    return owner === entry.name ? undefined : owner
  }
  const taker = takerOf(entry.name)
  if (taker !== undefined) {
    entry.api = { instances: new Map() }
    return [`the registered agent "${entry.name}" was removed: the name is an alias of the file's agent "${taker}"`]
  }
  const aliases = entry.api.aliases ?? []
  const kept = aliases.filter(alias => takerOf(alias) === undefined)
  if (kept.length === aliases.length) return []
  if (kept.length > 0) entry.api.aliases = kept
  else delete entry.api.aliases // so that those of the file, if there are any, stand again
  return aliases.filter(alias => !kept.includes(alias)).map(alias => `the registered agent "${entry.name}" lost its alias "${alias}": it belongs to the file's agent "${takerOf(alias)}"`)
}

/** Who owns each name and alias of the file. @throws NameConflictError when two agents claim one */
export function fileOwners (definitions: readonly AgentDefinition[]): Map<string, string> {
  const owners = new Map<string, string>()
  for (const { name } of definitions) {
    if (owners.has(name)) throw new NameConflictError(`The agent "${name}" is defined twice`)
    owners.set(name, name)
  }
  for (const { name, aliases } of definitions) {
    for (const alias of aliases ?? []) {
      const owner = owners.get(alias)
      if (owner !== undefined && owner !== name) throw new NameConflictError(`The alias "${alias}" of "${name}" belongs to the agent "${owner}"`)
      owners.set(alias, name)
    }
  }
  return owners
}

/** The names under which the agent is known now. */
export function namesOf ({ name, agent }: Entry): string[] {
  return [name, ...agent.aliases]
}

/** Neither in the file nor registered any more: known only so that it can be answered with 503 for a while. */
export function isEmptyRegistration ({ file, api }: Entry): boolean {
  return file === null && api.instances.size === 0
}

/** `http://host:port`. */
export function originOf (protocol: Protocol, authority: string): string {
  return `${protocol}://${authority}`
}

/** What is said of the instance at this address now; undefined when the agent has none there. */
export function definitionAt (entry: Entry, authority: string): InstanceDefinition | undefined {
  return entry.api.instances.get(authority) ?? unregisteredAt(entry, authority)
}

/** The same without what was registered. */
export function unregisteredAt ({ file, found, suppressed }: Entry, authority: string): InstanceDefinition | undefined {
  return suppressed.has(authority) ? undefined : file?.instances.get(authority) ?? found.get(authority)
}

/** When the agent is forgotten, if nobody comes: never while it has instances or DNS may find some, nor when fleet.yaml gives it none on purpose. */
export function forgetTime ({ file, emptySince }: Entry): number {
  const isLeft = file === null || (file.instances.size > 0 && file.dns === undefined)
  return isLeft && emptySince !== null ? emptySince + emptyAgentMs : Infinity
}

/** Given settings replace what registrations said before. */
export function takeSettings ({ name, api }: Entry, { aliases, metadata, policy }: Pick<AgentDefinition, 'aliases' | 'metadata' | 'policy'>): void {
  if (aliases !== undefined) api.aliases = aliases.filter(alias => alias !== name)
  if (metadata !== undefined) api.metadata = metadata
  if (policy !== undefined) api.policy = { ...api.policy, ...policy }
}

/** Aliases, metadata and policy as far as they are given. */
export function settingsOf ({ aliases, metadata, policy }: Layer<InstanceDefinition>) {
  return { ...(aliases && { aliases }), ...(metadata && { metadata }), ...(policy && { policy }) }
}

/** What registrations say of an agent and of one address of it, at a time. */
export interface LayerAt {
  readonly instance: ApiInstance | undefined
  readonly suppressed: boolean
  readonly drained: boolean
  readonly settings: ReturnType<typeof settingsOf>
  readonly emptySince: number | null
}

/** As it is now. */
export function layerAt (entry: Entry, authority: string): LayerAt {
  const { api, suppressed, drained, emptySince } = entry
  return { instance: api.instances.get(authority), suppressed: suppressed.has(authority), drained: drained.has(authority), settings: settingsOf(api), emptySince }
}

type Settings = LayerAt['settings']

/**
 * Undone registrations in whose place something later stood already: they are to be undone with that. Known by the objects that they made,
 * which are theirs alone.
 */
export class Undone {
  readonly #layers = new WeakMap<object, LayerAt>()
  readonly #settings = new WeakMap<object, object | undefined>()

  /** Nothing of what was made is put back now. */
  add (before: LayerAt, after: LayerAt): void {
    this.#layers.set(after.instance!, before)
    for (const key of ['aliases', 'metadata', 'policy'] as const) this.addSetting(before.settings[key], after.settings[key])
  }

  addSetting (before: object | undefined, after: object | undefined): void {
    if (after !== undefined && after !== before) this.#settings.set(after, before)
  }

  /** The last that was not undone. */
  layer (before: LayerAt): LayerAt {
    const earlier = before.instance && this.#layers.get(before.instance)
    return earlier === undefined ? before : this.layer(earlier)
  }

  /** As layer(), of one setting; undefined when nothing was said. */
  setting<V extends object> (before: V | undefined): V | undefined {
    return before !== undefined && this.#settings.has(before) ? this.setting(this.#settings.get(before) as V | undefined) : before
  }
}

/** Puts back settings that are still what they were made to be; aliases only if all of them are free. Others go with what stands in their place. */
export function restoreSettings (api: Layer<InstanceDefinition>, before: Settings, after: Settings, undone: Undone, isFree: (alias: string) => boolean): void {
  const back = (key: keyof Settings) => {
    if (api[key] !== after[key]) return undone.addSetting(before[key], after[key])
    const value = undone.setting(before[key])
    delete api[key]
    Object.assign(api, value && { [key]: value })
  }
  back('metadata')
  back('policy')
  if ((undone.setting(before.aliases) ?? []).every(isFree)) back('aliases')
}

/** What the file says of an agent. */
export function toLayer (definition: AgentDefinition): Layer<InstanceDefinition> {
  const { headers, dns } = definition
  return { ...settingsOf({ ...definition, instances: new Map() }), ...(headers && { headers }), ...(dns && { dns }), instances: new Map(definition.instances.map(instance => [authorityOf(instance.host, instance.port), instance])) }
}

/** Whether the file says the same once more. Other credentials are no reason to forget what was registered. */
export function sameLayer (a: Layer<InstanceDefinition>, b: Layer<InstanceDefinition>): boolean {
  const text = ({ instances, headers: _, ...settings }: Layer<InstanceDefinition>) => JSON.stringify([settings, [...instances]])
  return text(a) === text(b)
}
