/**
 * Who there is: agents, their other names, instances and leases, from two sources that are merged into one immutable Agent each.
 * Knows nothing of files, HTTP or health. Every change is complete before the function returns, so that nobody sees half of one.
 */
import { AgentNotFoundError, InstanceNotFoundError, InvalidRegistrationError, NameConflictError } from '../errors.ts'
import type { Clock } from '../clock.ts'
import type { Agent, AgentPolicy, Rotation } from './agent.ts'
import { authorityOf, instanceId, newRuntime, type Instance, type InstanceRuntime, type Lease, type Protocol, type Source } from './instance.ts'
import { nearestNames } from './nearest-names.ts'

/** What a source says of one instance. */
export interface InstanceDefinition {
  readonly host: string
  readonly port: number
  readonly protocol: Protocol
  readonly weight: number
}

/** What a source says of one agent. A field that is left out is not this source's business. */
export interface AgentDefinition {
  readonly name: string
  readonly aliases?: readonly string[]
  readonly metadata?: Readonly<Record<string, unknown>>
  readonly policy?: AgentPolicy
  readonly instances: readonly InstanceDefinition[]
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
}

/** What the registration API added, in a form that JSON can hold. */
export interface RegistryState {
  readonly version: 1
  readonly agents: readonly (Omit<AgentDefinition, 'instances'> & { readonly instances: readonly SavedInstance[] })[]
}

/** What a change did to the instances. */
export interface RegistryChange {
  readonly added: readonly Instance[]
  /** Gone from the registry; requests in flight on them may still finish. */
  readonly removed: readonly Instance[]
}

/** What a change of the file did. */
export interface FileChange extends RegistryChange {
  /** What registrations lost to names of the file, a sentence each. */
  readonly dropped: readonly string[]
}

export interface RegistryLimits {
  /** The most agents the registration API may bring the fleet to. */
  readonly maxAgents: number
  /** The most instances of one agent. */
  readonly maxInstancesPerAgent: number
}

type ChangeListener = (change: RegistryChange) => void

interface ApiInstance extends InstanceDefinition { readonly lease: Lease | null, readonly trusted: boolean }

interface Layer<I extends InstanceDefinition> {
  aliases?: readonly string[]
  metadata?: Readonly<Record<string, unknown>>
  policy?: AgentPolicy
  instances: Map<string, I>
}

interface Entry {
  readonly name: string
  file: Layer<InstanceDefinition> | null
  api: Layer<ApiInstance>
  /** Authorities of file instances that a DELETE took out; they stay out until the file changes. */
  readonly suppressed: Set<string>
  readonly runtimes: Map<string, InstanceRuntime>
  readonly rotation: Rotation
  /** When the last instance left, milliseconds since the epoch; null while there is one. */
  emptySince: number | null
  agent: Agent
}

/** How long an agent that lost its last instance is still known (and answered with 503). */
const emptyAgentMs = 10 * 60_000

export class Registry {
  readonly #clock: Clock
  readonly #limits: RegistryLimits
  readonly #entries = new Map<string, Entry>()
  readonly #names = new Map<string, Entry>()
  readonly #listeners = new Set<ChangeListener>()
  /** Who owns each name and alias of the file, also where a registration's aliases stand in for the file's just now. */
  #fileOwners: ReadonlyMap<string, string> = new Map()
  #leased = 0
  /** Whether registrations changed without anybody who registers having asked for it. */
  #unkept = false

  constructor (clock: Clock, limits: RegistryLimits = { maxAgents: 10_000, maxInstancesPerAgent: 1_000 }) {
    this.#clock = clock
    this.#limits = limits
  }

  /** The agent with this name or alias. */
  find (nameOrAlias: string): Agent | undefined {
    return this.#names.get(nameOrAlias)?.agent
  }

  /**
   * The agent with this name or alias.
   * @throws AgentNotFoundError with the nearest known names
   */
  get (nameOrAlias: string): Agent {
    const agent = this.find(nameOrAlias)
    if (agent === undefined) throw this.#agentNotFound(nameOrAlias)
    return agent
  }

  /** All agents, in the order in which they came. */
  * agents (): IterableIterator<Agent> {
    for (const entry of this.#entries.values()) yield entry.agent
  }

  get size (): number {
    return this.#entries.size
  }

  /** Every name and alias. */
  names (): IterableIterator<string> {
    return this.#names.keys()
  }

  /** Calls `listener` after each change that added or removed instances; the returned function ends that. */
  onChange (listener: ChangeListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /**
   * Makes the file's part of the fleet equal to `definitions`, in one step. What was registered stays, except that an agent
   * whose definition in the file changed takes its settings from the file again, and what a DELETE took out comes back. Where a
   * registration holds a name of the file, the file is right: nobody who registers may keep a file from being applied.
   * @throws NameConflictError when two agents of the file claim a name; nothing has changed then
   */
  replaceFile (definitions: readonly AgentDefinition[]): FileChange {
    this.#fileOwners = fileOwners(definitions)
    const gone = new Map([...this.#entries].filter(([, entry]) => entry.file !== null))
    const touched = new Set<Entry>()
    for (const definition of definitions) {
      gone.delete(definition.name)
      const entry = this.#entries.get(definition.name) ?? this.#newEntry(definition.name)
      const layer = toLayer(definition)
      if (entry.file !== null && !sameLayer(entry.file, layer)) entry.api = { instances: entry.api.instances }
      entry.file = layer
      entry.suppressed.clear()
      touched.add(entry)
    }
    for (const entry of gone.values()) {
      entry.file = null
      entry.suppressed.clear()
      touched.add(entry)
    }
    const dropped: string[] = []
    for (const entry of this.#entries.values()) {
      const lost = this.#yieldNames(entry)
      dropped.push(...lost)
      // An agent that is only remembered makes room for one that is there.
      if (lost.length > 0 || (isEmptyRegistration(entry) && namesOf(entry).some(name => this.#fileOwners.has(name)))) touched.add(entry)
    }
    if (dropped.length > 0) this.#unkept = true
    // Names are freed before others take them, so that an alias may move from one agent to another in one reload.
    for (const entry of touched) this.#releaseNames(entry)
    const change = this.#publish([...touched].map(entry => isEmptyRegistration(entry) ? this.#forget(entry) : this.#rebuild(entry)))
    return { ...change, dropped }
  }

  /**
   * Adds an instance, or renews one that is known by its host:port: given fields replace, nothing is duplicated.
   * @throws NameConflictError InvalidRegistrationError; nothing has changed then
   */
  register (registration: Registration): { created: boolean, agent: Agent, instance: Instance } {
    const { name, host, port, protocol, weight, aliases, metadata, policy, ttlMs, trusted = false } = registration
    const owner = this.#ownerOf(name) ?? name
    if (owner !== name) throw new NameConflictError(`"${name}" is an alias of the agent "${owner}"`)
    for (const alias of aliases ?? []) {
      const holder = this.#ownerOf(alias) ?? name
      if (holder !== name) throw new NameConflictError(`The alias "${alias}" belongs to the agent "${holder}"`)
    }
    const existing = this.#entries.get(name)
    const authority = authorityOf(host, port)
    const known = existing?.agent.instances.find(instance => authorityOf(instance.host, instance.port) === authority)
    if (existing === undefined && this.#entries.size >= this.#limits.maxAgents) throw tooMany('name', `registry.maxAgents allows ${this.#limits.maxAgents} agents`)
    if (known === undefined && (existing?.agent.instances.length ?? 0) >= this.#limits.maxInstancesPerAgent) throw tooMany('port', `an agent may have ${this.#limits.maxInstancesPerAgent} instances`)

    const entry = existing ?? this.#newEntry(name)
    if (aliases !== undefined) entry.api.aliases = aliases.filter(alias => alias !== name)
    if (metadata !== undefined) entry.api.metadata = metadata
    if (policy !== undefined) entry.api.policy = { ...entry.api.policy, ...policy }
    const registered = entry.api.instances.get(authority)
    const sameOrigin = registered !== undefined && (protocol ?? registered.protocol) === registered.protocol
    const lease = ttlMs !== undefined ? this.#lease(ttlMs) : known?.lease ? this.#lease(known.lease.ttlMs) : null
    entry.api.instances.set(authority, {
      host,
      port,
      protocol: protocol ?? known?.protocol ?? 'http',
      weight: weight ?? known?.weight ?? 1,
      lease,
      trusted: trusted || (sameOrigin && registered.trusted) // what the file says of it lasts only as long as the file says it
    })
    entry.suppressed.delete(authority)
    const runtime = entry.runtimes.get(runtimeKey(protocol ?? known?.protocol ?? 'http', authority))
    if (runtime !== undefined) runtime.draining = false
    this.#releaseNames(entry)
    this.#publish([this.#rebuild(entry)])
    const id = instanceId(name, host, port)
    return { created: known === undefined, agent: entry.agent, instance: entry.agent.instances.find(instance => instance.id === id)! }
  }

  /**
   * Renews an instance's lease; an instance without one is left as it is.
   * @throws AgentNotFoundError InstanceNotFoundError, also when the lease ran out and expire() has not been called since
   */
  heartbeat (name: string, id: string): Instance {
    const entry = this.#entry(name)
    const { host, port, lease } = this.#instance(entry, id)
    if (lease !== null && lease.expiresAt <= this.#clock.now()) throw this.#instanceNotFound(entry, id)
    const authority = authorityOf(host, port)
    const registered = entry.api.instances.get(authority)
    if (lease !== null && registered !== undefined) {
      entry.api.instances.set(authority, { ...registered, lease: this.#lease(lease.ttlMs) })
      this.#rebuild(entry)
    }
    return this.#instance(entry, id)
  }

  /**
   * Removes an agent with all its instances; it is unknown at once.
   * @returns whether fleet.yaml still has it, so that it comes back when the file changes
   * @throws AgentNotFoundError
   */
  removeAgent (nameOrAlias: string): { inFile: boolean, name: string } {
    const entry = this.#entry(nameOrAlias)
    const inFile = entry.file !== null
    this.#publish([this.#forget(entry)])
    return { inFile, name: entry.name }
  }

  /**
   * Removes one instance. The agent stays known for ten minutes after its last.
   * @returns whether fleet.yaml still has it
   * @throws AgentNotFoundError InstanceNotFoundError
   */
  removeInstance (nameOrAlias: string, id: string): { inFile: boolean, name: string, instance: Instance } {
    const entry = this.#entry(nameOrAlias)
    const instance = this.#instance(entry, id)
    const authority = authorityOf(instance.host, instance.port)
    const inFile = entry.file?.instances.has(authority) ?? false
    entry.api.instances.delete(authority)
    if (inFile) entry.suppressed.add(authority)
    this.#releaseNames(entry)
    this.#publish([this.#rebuild(entry)])
    return { inFile, name: entry.name, instance }
  }

  /**
   * Takes an instance out of the rotation; whoever drains removes it when its requests have ended.
   * @throws AgentNotFoundError InstanceNotFoundError
   */
  drain (nameOrAlias: string, id: string): Instance {
    const instance = this.#instance(this.#entry(nameOrAlias), id)
    instance.runtime.draining = true
    return instance
  }

  /** The instance with this id. @throws AgentNotFoundError InstanceNotFoundError */
  instance (nameOrAlias: string, id: string): Instance {
    return this.#instance(this.#entry(nameOrAlias), id)
  }

  /** Drops what is over: leases that ran out, and agents without an instance for ten minutes. Returns whether registrations changed, also by a file that claimed their names. */
  expire (): boolean {
    const now = this.#clock.now()
    const changes: RegistryChange[] = []
    if (this.#leased > 0) {
      for (const entry of this.#entries.values()) {
        const lapsed = [...entry.api.instances].filter(([, { lease }]) => lease !== null && lease.expiresAt <= now)
        if (lapsed.length === 0) continue
        for (const [authority] of lapsed) entry.api.instances.delete(authority)
        this.#releaseNames(entry)
        changes.push(this.#rebuild(entry))
      }
    }
    let forgotten = false
    for (const entry of this.#entries.values()) {
      // One that fleet.yaml gives no instances is there on purpose.
      const isLeft = entry.file === null || entry.file.instances.size > 0
      if (isLeft && entry.emptySince !== null && now - entry.emptySince >= emptyAgentMs) {
        changes.push(this.#forget(entry))
        forgotten = true
      }
    }
    if (changes.length > 0) this.#publish(changes)
    const changed = forgotten || changes.length > 0 || this.#unkept
    this.#unkept = false
    return changed
  }

  /** What the registration API added, for keeping over a restart. */
  exportState (): RegistryState {
    const agents = []
    for (const { name, api } of this.#entries.values()) {
      if (api.instances.size === 0) continue
      const instances = [...api.instances.values()].map(({ lease, ...definition }) => ({ ...definition, ...(lease && { ttlMs: lease.ttlMs }) }))
      agents.push({ name, ...settingsOf(api), instances })
    }
    return { version: 1, agents }
  }

  /** Takes back what exportState() gave; leased instances get one full ttl. What clashes with fleet.yaml is left out and returned. */
  importState (state: RegistryState): { skipped: string[] } {
    const skipped: string[] = []
    for (const { name, instances, aliases, metadata, policy } of state.agents) {
      const settings = { ...(aliases && { aliases }), ...(metadata && { metadata }), ...(policy && { policy }) }
      for (const instance of instances) {
        try {
          this.register({ name, ...instance, ...settings })
        } catch (error) {
          skipped.push(`${name}: ${(error as Error).message}`)
        }
      }
    }
    return { skipped }
  }

  #newEntry (name: string): Entry {
    const rotation = { next: 0 }
    const agent: Agent = { name, aliases: [], metadata: {}, policy: {}, instances: [], rotation }
    return { name, file: null, api: { instances: new Map() }, suppressed: new Set(), runtimes: new Map(), rotation, emptySince: null, agent }
  }

  #entry (nameOrAlias: string): Entry {
    const entry = this.#names.get(nameOrAlias)
    if (entry === undefined) throw this.#agentNotFound(nameOrAlias)
    return entry
  }

  #instance (entry: Entry, id: string): Instance {
    const instance = entry.agent.instances.find(candidate => candidate.id === id)
    if (instance === undefined) throw this.#instanceNotFound(entry, id)
    return instance
  }

  #instanceNotFound (entry: Entry, id: string) {
    const nearest = entry.agent.instances.filter(known => known.id !== id).slice(0, 3).map(known => known.id)
    return new InstanceNotFoundError(`The agent "${entry.name}" has no instance "${id.slice(0, 64)}"`, { nearest })
  }

  /** The agent that has this name or alias, or gets it back from the file when registrations leave. */
  #ownerOf (name: string): string | undefined {
    const holder = this.#names.get(name)?.name
    if (holder !== undefined) return holder
    const owner = this.#fileOwners.get(name)
    return owner !== undefined && this.#entries.get(owner)?.file ? owner : undefined
  }

  #agentNotFound (name: string) {
    const nearest = nearestNames(name, this.#names.keys())
    const hint = nearest.length === 0 ? '' : `; did you mean ${nearest.map(known => `"${known}"`).join(' or ')}?`
    return new AgentNotFoundError(`No agent is registered as "${name.slice(0, 64)}"${hint}`, { nearest })
  }

  #lease (ttlMs: number): Lease {
    return { ttlMs, expiresAt: this.#clock.now() + ttlMs }
  }

  /** Takes from what was registered under the entry's name the names that the file gives to others; says what it took. */
  #yieldNames (entry: Entry): string[] {
    if (entry.api.instances.size === 0) return []
    const takerOf = (name: string) => {
      const owner = this.#fileOwners.get(name)
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

  #releaseNames (entry: Entry): void {
    for (const name of namesOf(entry)) {
      if (this.#names.get(name) === entry) this.#names.delete(name)
    }
  }

  /** Merges the layers of an entry into a new Agent and puts it under its names. */
  #rebuild (entry: Entry): RegistryChange {
    const before = entry.agent
    // What registrations said of an agent of the file goes with the last of them.
    if (entry.file !== null && entry.api.instances.size === 0) entry.api = { instances: entry.api.instances }
    const { file, api } = entry
    const definitions = new Map<string, ApiInstance & { source: Source }>()
    for (const [authority, definition] of file?.instances ?? []) {
      if (!entry.suppressed.has(authority)) definitions.set(authority, { ...definition, source: 'file', lease: null, trusted: true })
    }
    for (const [authority, definition] of api.instances) {
      const inFile = definitions.get(authority)
      const trusted = definition.trusted || inFile?.protocol === definition.protocol
      definitions.set(authority, { ...definition, trusted, source: inFile?.source ?? 'api' })
    }
    const instances = [...definitions].map(([authority, definition]) => this.#toInstance(entry, authority, definition))
    const agent: Agent = {
      name: entry.name,
      aliases: api.aliases ?? file?.aliases ?? [],
      metadata: api.metadata ?? file?.metadata ?? {},
      policy: { ...file?.policy, ...api.policy },
      instances,
      rotation: entry.rotation
    }
    entry.agent = agent
    entry.emptySince = instances.length > 0 ? null : entry.emptySince ?? this.#clock.now()
    this.#entries.set(entry.name, entry)
    for (const name of [agent.name, ...agent.aliases]) this.#names.set(name, entry)
    return this.#settle(entry, before.instances, instances)
  }

  #toInstance (entry: Entry, authority: string, definition: ApiInstance & { source: Source }): Instance {
    const { protocol, host, port, weight, source, lease, trusted } = definition
    const key = runtimeKey(protocol, authority)
    const runtime = entry.runtimes.get(key) ?? newRuntime()
    entry.runtimes.set(key, runtime)
    return { id: instanceId(entry.name, host, port), agent: entry.name, protocol, host, port, origin: `${protocol}://${authority}`, weight, source, trusted, lease, runtime }
  }

  #forget (entry: Entry): RegistryChange {
    this.#releaseNames(entry)
    this.#entries.delete(entry.name)
    const { instances } = entry.agent
    entry.agent = { ...entry.agent, instances: [] }
    return this.#settle(entry, instances, [])
  }

  /** Tells what came and went by runtime record, counts leases, and forgets the records of what went. */
  #settle (entry: Entry, before: readonly Instance[], after: readonly Instance[]): RegistryChange {
    const kept = new Set(after.map(({ runtime }) => runtime))
    const had = new Set(before.map(({ runtime }) => runtime))
    this.#leased += countLeases(after) - countLeases(before)
    for (const [key, runtime] of entry.runtimes) if (!kept.has(runtime)) entry.runtimes.delete(key)
    return { added: after.filter(({ runtime }) => !had.has(runtime)), removed: before.filter(({ runtime }) => !kept.has(runtime)) }
  }

  #publish (changes: readonly RegistryChange[]): RegistryChange {
    const change = { added: changes.flatMap(({ added }) => added), removed: changes.flatMap(({ removed }) => removed) }
    if (change.added.length + change.removed.length > 0) for (const listener of this.#listeners) listener(change)
    return change
  }
}

/** Who owns each name and alias of the file. @throws NameConflictError when two agents claim one */
function fileOwners (definitions: readonly AgentDefinition[]): Map<string, string> {
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

function namesOf ({ name, agent }: Entry): string[] {
  return [name, ...agent.aliases]
}

/** Neither in the file nor registered any more: known only so that it can be answered with 503 for a while. */
function isEmptyRegistration ({ file, api }: Entry): boolean {
  return file === null && api.instances.size === 0
}

function tooMany (path: string, message: string) {
  return new InvalidRegistrationError(`The fleet is full: ${message}`, { errors: [{ path, message }] })
}

function runtimeKey (protocol: Protocol, authority: string): string {
  return `${protocol}://${authority}`
}

function countLeases (instances: readonly Instance[]): number {
  return instances.reduce((count, { lease }) => lease === null ? count : count + 1, 0)
}

function settingsOf ({ aliases, metadata, policy }: Layer<InstanceDefinition>) {
  return { ...(aliases && { aliases }), ...(metadata && { metadata }), ...(policy && { policy }) }
}

function toLayer (definition: AgentDefinition): Layer<InstanceDefinition> {
  return { ...settingsOf({ ...definition, instances: new Map() }), instances: new Map(definition.instances.map(instance => [authorityOf(instance.host, instance.port), instance])) }
}

function sameLayer (a: Layer<InstanceDefinition>, b: Layer<InstanceDefinition>): boolean {
  const text = ({ instances, ...settings }: Layer<InstanceDefinition>) => JSON.stringify([settings, [...instances]])
  return text(a) === text(b)
}
