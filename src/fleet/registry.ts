/**
 * Who there is: agents, their other names, instances and leases, from the file, DNS and registrations, which are merged into one immutable Agent
 * each. Knows nothing of files, HTTP or health. Every change is complete before the function returns, so that nobody sees half of one.
 */
import { AgentNotFoundError, InstanceNotFoundError, InvalidRegistrationError, NameConflictError, NoInstanceAvailableError, type FleetError } from '../errors.ts'
import type { Clock } from '../clock.ts'
import type { Agent } from './agent.ts'
import type { AgentDefinition, InstanceDefinition, Registration, RegistryState, SavedInstance } from './definitions.ts'
import { authorityOf } from './authority.ts'
import type { Instance, Lease } from './instance.ts'
import { definitionAt, fileOwners, isEmptyRegistration, layerAt, mergeLayers, namesOf, newEntry, originOf, restoreSettings, sameLayer, settingsOf, takeSettings, toLayer, Undone, unregisteredAt, yieldNames, type ApiInstance, type Entry, type LayerAt } from './layers.ts'
import { Leases, type LeaseCount, type LeaseOver } from './leases.ts'
import { nearestNames } from './nearest-names.ts'

export type { AgentDefinition, InstanceDefinition, Registration, RegistryState, SavedInstance } from './definitions.ts'

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
  /** The most instances of all agents together that the registration API may bring the fleet to. @default no bound but the other two */
  readonly maxInstances?: number
}

/** An agent as gateways share it. */
export type SharedAgent = RegistryState['agents'][number]

/** How an agent is replaced by what gateways agreed on. */
export interface Replacing {
  /** Whether an agent of which nothing is registered any more was removed as a whole, and so is unknown at once; else it is known for ten minutes. */
  readonly isRemoved?: boolean
  /** Authorities of instances that stay as they are here, the very same objects: a change of them is on its way. */
  readonly except?: ReadonlySet<string>
  /** Whether aliases, metadata and policy do. */
  readonly exceptSettings?: boolean
}

type ChangeListener = (change: RegistryChange) => void

type InstanceRegistration = Pick<Registration, 'host' | 'port' | 'protocol' | 'weight' | 'ttlMs' | 'trusted'>

export class Registry {
  readonly #clock: Clock
  #limits: RegistryLimits
  readonly #entries = new Map<string, Entry>()
  readonly #names = new Map<string, Entry>()
  readonly #listeners = new Set<ChangeListener>()
  /** Who owns each name and alias of the file, also where a registration's aliases stand in for the file's just now. */
  #fileOwners: ReadonlyMap<string, string> = new Map()
  readonly #leases: Leases
  /** How many instances there are in all. */
  #instanceCount = 0
  #revision = 0
  /** Whether registrations changed without anybody who registers having asked for it. */
  #unkept = false
  readonly #undone = new Undone()
  /** Whether who is not here is nowhere; else nobody is told that an agent does not exist. */
  isWhole: () => boolean = () => true

  constructor (clock: Clock, limits: RegistryLimits = { maxAgents: 10_000, maxInstancesPerAgent: 1_000 }) {
    this.#clock = clock
    this.#limits = limits
    this.#leases = new Leases(clock)
  }

  /** From now on; who is there already stays. */
  limit (limits: RegistryLimits): void {
    this.#limits = limits
  }

  /** The agent with this name or alias. */
  find (nameOrAlias: string): Agent | undefined {
    return this.#names.get(nameOrAlias)?.agent
  }

  /**
   * The agent with this name or alias.
   * @throws AgentNotFoundError with the nearest known names; NoInstanceAvailableError while it is not known who there is
   */
  get (nameOrAlias: string): Agent {
    const agent = this.find(nameOrAlias)
    if (agent === undefined) throw this.#agentNotFound(nameOrAlias)
    return agent
  }

  /** The instance as it is known now; undefined when it is gone. Who keeps one may keep it longer than what it says holds. */
  current ({ agent, runtime }: Instance): Instance | undefined {
    return this.find(agent)?.instances.find(instance => instance.runtime === runtime)
  }

  /** All agents, in the order in which they came. */
  * agents (): IterableIterator<Agent> {
    for (const entry of this.#entries.values()) yield entry.agent
  }

  get size (): number {
    return this.#entries.size
  }

  /** Goes up with each change of agents, instances or settings; not with that of a lease or a drain alone. */
  get revision (): number {
    return this.#revision
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
      const entry = this.#entries.get(definition.name) ?? newEntry(definition.name)
      const layer = toLayer(definition)
      if (entry.file !== null && !sameLayer(entry.file, layer)) entry.api = { instances: entry.api.instances }
      entry.file = layer
      if (layer.dns === undefined) entry.found = new Map()
      entry.suppressed.clear()
      touched.add(entry)
    }
    for (const entry of gone.values()) {
      entry.file = null
      entry.found = new Map()
      entry.suppressed.clear()
      touched.add(entry)
    }
    const dropped: string[] = []
    for (const entry of this.#entries.values()) {
      const lost = yieldNames(entry, this.#fileOwners)
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
   * Makes what DNS found for an agent equal to `definitions`, in one step. What left, also if a DELETE had taken it out, is new when it returns.
   * An agent that is not in the file, or asks DNS for nothing, is left as it is.
   */
  replaceFound (name: string, definitions: readonly InstanceDefinition[]): RegistryChange {
    const entry = this.#entries.get(name)
    if (entry?.file?.dns === undefined) return { added: [], removed: [] }
    const { suppressed, file } = entry
    const found = new Map(definitions.map(definition => [authorityOf(definition.host, definition.port), definition]))
    if (JSON.stringify([...found]) === JSON.stringify([...entry.found])) return { added: [], removed: [] }
    for (const authority of suppressed) if (!found.has(authority) && !file.instances.has(authority)) suppressed.delete(authority)
    entry.found = found
    this.#releaseNames(entry)
    return this.#publish([this.#rebuild(entry)])
  }

  /**
   * Adds an instance, or renews one that is known by its host:port: given fields replace, nothing is duplicated.
   * @returns also what makes it as if it had never been, for who can't keep it; it leaves alone what somebody else changed since
   * @throws NameConflictError InvalidRegistrationError; nothing has changed then
   */
  register (registration: Registration): { created: boolean, agent: Agent, instance: Instance, undo: () => void } {
    const { name, host, port } = registration
    this.#refuseNames(registration)
    const existing = this.#entries.get(name)
    const authority = authorityOf(host, port)
    const created = existing === undefined || definitionAt(existing, authority) === undefined
    if (existing === undefined) this.#refuseAgent()
    if (created) this.#refuseInstance(existing?.agent.instances.length ?? 0)

    const entry = existing ?? newEntry(name)
    const before = layerAt(entry, authority)
    takeSettings(entry, registration)
    this.#put(entry, registration)
    this.#releaseNames(entry)
    this.#publish([this.#rebuild(entry)])
    const after = layerAt(entry, authority)
    return { created, agent: entry.agent, instance: entry.built.get(originOf(after.instance!.protocol, authority))!, undo: () => this.#undo(entry, authority, before, after) }
  }

  /**
   * Renews an instance's lease, also one that ran out when the instance was kept all the same; an instance without one is left as it is.
   * @throws AgentNotFoundError InstanceNotFoundError, also when the lease ran out and expire() has not been called since
   */
  heartbeat (name: string, id: string): Instance {
    const entry = this.#entry(name)
    let instance = this.#instance(entry, id)
    if (instance.lease !== null && instance.lease.lapsedAt === undefined && instance.lease.expiresAt <= this.#clock.now()) {
      // It ran out after the last look, so whether it is kept is decided now.
      if (this.#lookAtLeases()) this.#unkept = true
      instance = this.#instance(entry, id)
    }
    if (instance.lease === null) return instance
    return this.#renew(entry, instance, this.#leases.begin(instance.lease.ttlMs))
  }

  /** The commonest change of all, so it replaces just this instance. */
  #renew (entry: Entry, instance: Instance, lease: Lease): Instance {
    const renewed = { ...instance, lease }
    const authority = authorityOf(instance.host, instance.port)
    entry.api.instances.set(authority, { ...entry.api.instances.get(authority)!, lease })
    entry.built.set(renewed.origin, renewed)
    entry.agent = { ...entry.agent, instances: entry.agent.instances.map(other => other === instance ? renewed : other) }
    return renewed
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
    if (inFile || entry.found.has(authority)) entry.suppressed.add(authority)
    this.#releaseNames(entry)
    this.#publish([this.#rebuild(entry)])
    return { inFile, name: entry.name, instance }
  }

  /**
   * Takes an instance out of the rotation; whoever drains removes it when its requests have ended.
   * @throws AgentNotFoundError InstanceNotFoundError
   */
  drain (nameOrAlias: string, id: string): Instance {
    const entry = this.#entry(nameOrAlias)
    const instance = this.#instance(entry, id)
    entry.drained.add(authorityOf(instance.host, instance.port))
    instance.runtime.draining = true
    return instance
  }

  /** The instance with this id. @throws AgentNotFoundError InstanceNotFoundError */
  instance (nameOrAlias: string, id: string): Instance {
    return this.#instance(this.#entry(nameOrAlias), id)
  }

  /**
   * Drops what is over: instances whose lease ran out, unless too many did at once, and agents without an instance for ten minutes.
   * @param keptByAll of registrations that gateways share: the leases that ran out and that all of them keep, as `leasesOver()` names them. Then no
   * lease is judged here.
   * @returns whether registrations changed, also by a file that claimed their names
   */
  expire (keptByAll?: ReadonlySet<string>): boolean {
    const changed = this.#unkept
    this.#unkept = false
    return this.#lookAtLeases(keptByAll) || changed
  }

  /** How many leases expire() found. */
  get leaseCount (): LeaseCount {
    return this.#leases.count
  }

  /**
   * Makes what is registered of one agent equal to what the gateways that share it agreed on. An instance of which nothing changed keeps its lease,
   * another has a full ttl. Names that belong to others here are left to them; limits were the business of who registered.
   * @param agent null for an agent of which nothing is registered any more
   * @returns whether all of it was taken: not where its name belongs to another here, or one of its aliases does
   */
  replaceRegistered (name: string, agent: SharedAgent | null, { isRemoved = false, except, exceptSettings = false }: Replacing = {}): boolean {
    const existing = this.#entries.get(name)
    const owner = this.#ownerOf(name) ?? name
    const saved = owner === name ? agent : null
    let isTaken = saved === agent
    if (saved === null && (existing === undefined || existing.api.instances.size === 0)) return isTaken
    const entry = existing ?? newEntry(name)
    const before = entry.api.instances
    const isKept = (authority: string) => except?.has(authority) === true
    if (exceptSettings) {
      entry.api = { ...settingsOf(entry.api), instances: new Map() }
    } else {
      const aliases = saved?.aliases?.filter(alias => (this.#ownerOf(alias) ?? name) === name)
      entry.api = { ...(saved && settingsOf({ ...saved, instances: before })), instances: new Map() }
      if (aliases !== undefined) entry.api.aliases = aliases
      isTaken &&= aliases?.length === saved?.aliases?.length
    }
    // What drained and is gone may be the file's as well, and serves on then.
    for (const authority of before.keys()) if (!isKept(authority)) entry.drained.delete(authority)
    for (const instance of saved?.instances ?? []) {
      const { host, port, ttlMs, trusted = false, draining = false, ...others } = instance
      const authority = authorityOf(host, port)
      if (isKept(authority)) continue
      if (draining) entry.drained.add(authority)
      else entry.drained.delete(authority)
      const known = before.get(authority)
      const isSame = known !== undefined && known.lease?.ttlMs === ttlMs
      const lease = ttlMs === undefined ? null : isSame ? known.lease : this.#leases.begin(ttlMs)
      entry.api.instances.set(authority, { host, port, ...others, trusted, lease })
      if (known !== undefined) continue
      entry.suppressed.delete(authority)
      this.#leases.forgetLapse(name, authority)
    }
    for (const [authority, instance] of before) if (isKept(authority)) entry.api.instances.set(authority, instance)
    this.#releaseNames(entry)
    const change = isRemoved && isEmptyRegistration(entry) ? this.#forget(entry) : this.#rebuild(entry)
    this.#publish([change])
    return isTaken
  }

  /** What is registered of the agent there; undefined for what the file alone says. */
  exportInstance (name: string, authority: string): SavedInstance | undefined {
    const registered = this.#entries.get(name)?.api.instances.get(authority)
    return registered && savedOf(registered)
  }

  /** What the file, or DNS, says of the agent's instance there; undefined also where a DELETE took that out. */
  definitionOfFile (name: string, authority: string): InstanceDefinition | undefined {
    const entry = this.#entries.get(name)
    return entry && unregisteredAt(entry, authority)
  }

  /** Whether a registration, and not the file alone, has an instance of the agent there. */
  isRegistered (name: string, authority: string): boolean {
    return this.#entries.get(name)?.api.instances.has(authority) ?? false
  }

  /** The leases that are over as far as it is known here; others may know of a heartbeat. */
  leasesOver (): LeaseOver[] {
    return this.#leases.over(this.#entries)
  }

  /** Takes over what is left of a lease from who knows it. @returns the instance; undefined when it has no lease any more */
  renewLease (name: string, authority: string, leftMs: number): Instance | undefined {
    const entry = this.#entries.get(name)
    const registered = entry?.api.instances.get(authority)
    const instance = registered && entry?.built.get(originOf(registered.protocol, authority))
    if (entry === undefined || instance === undefined || !registered?.lease) return undefined
    return this.#renew(entry, instance, this.#leases.until(registered.lease.ttlMs, this.#clock.now() + leftMs))
  }

  /** What the registration API added, for keeping over a restart. */
  exportState (): RegistryState {
    const agents = []
    for (const { name, api, drained } of this.#entries.values()) {
      if (api.instances.size === 0) continue
      const instances = Array.from(api.instances, ([authority, registered]) => ({ ...savedOf(registered), ...(drained.has(authority) && { draining: true }) }))
      agents.push({ name, ...settingsOf(api), instances })
    }
    return { version: 1, agents }
  }

  /** Takes back what exportState() gave; leased instances get one full ttl. What clashes with fleet.yaml is left out and returned. */
  importState (state: RegistryState): { skipped: string[] } {
    const skipped: string[] = []
    const changes: RegistryChange[] = []
    for (const agent of state.agents) {
      try {
        changes.push(this.#takeBack(agent, skipped))
      } catch (error) {
        skipped.push(`${agent.name}: ${(error as Error).message}`)
      }
    }
    this.#publish(changes)
    return { skipped }
  }

  /** Puts back what a registration replaced, as far as it is still what the registration made of it. */
  #undo (entry: Entry, authority: string, replaced: LayerAt, after: LayerAt): void {
    const { api } = entry
    if (this.#entries.get(entry.name) !== entry) return
    if (api.instances.get(authority) !== after.instance) return this.#undone.add(replaced, after)
    const before = this.#undone.layer(replaced)
    this.#releaseNames(entry)
    if (before.instance === undefined) api.instances.delete(authority)
    else api.instances.set(authority, before.instance)
    if (before.suppressed) entry.suppressed.add(authority)
    if (before.drained) entry.drained.add(authority)
    restoreSettings(api, replaced.settings, after.settings, this.#undone, alias => (this.#ownerOf(alias) ?? entry.name) === entry.name)
    // Who had instances, or was not there at all, is not remembered for its last one's sake.
    const isOver = isEmptyRegistration(entry) && before.emptySince === null
    entry.emptySince = before.emptySince
    this.#publish([isOver ? this.#forget(entry) : this.#rebuild(entry)])
  }

  /** @throws NameConflictError InvalidRegistrationError when nothing of the agent can be taken */
  #takeBack (agent: RegistryState['agents'][number], skipped: string[]): RegistryChange {
    const { name, instances } = agent
    if (instances.length === 0) return { added: [], removed: [] }
    this.#refuseNames(agent)
    const existing = this.#entries.get(name)
    if (existing === undefined) this.#refuseAgent()
    const entry = existing ?? newEntry(name)
    takeSettings(entry, agent)
    let count = entry.agent.instances.length
    for (const instance of instances) {
      try {
        if (definitionAt(entry, authorityOf(instance.host, instance.port)) === undefined) this.#refuseInstance(count++)
        this.#put(entry, instance)
      } catch (error) {
        skipped.push(`${name}: ${(error as Error).message}`)
      }
    }
    this.#releaseNames(entry)
    for (const { host, port, draining } of instances) if (draining === true) entry.drained.add(authorityOf(host, port))
    return this.#rebuild(entry)
  }

  /** @throws NameConflictError when a name of the registration belongs to another agent */
  #refuseNames ({ name, aliases = [] }: Pick<AgentDefinition, 'name' | 'aliases'>): void {
    const owner = this.#ownerOf(name) ?? name
    if (owner !== name) throw new NameConflictError(`"${name}" is an alias of the agent "${owner}"`)
    for (const alias of aliases) {
      const holder = this.#ownerOf(alias) ?? name
      if (holder !== name) throw new NameConflictError(`The alias "${alias}" belongs to the agent "${holder}"`)
    }
  }

  #refuseAgent (): void {
    if (this.#entries.size >= this.#limits.maxAgents) throw tooMany('name', `registry.maxAgents allows ${this.#limits.maxAgents} agents`)
  }

  #refuseInstance (count: number): void {
    const { maxInstancesPerAgent, maxInstances = Infinity } = this.#limits
    if (count >= maxInstancesPerAgent) throw tooMany('port', `an agent may have ${maxInstancesPerAgent} instances`)
    if (this.#instanceCount >= maxInstances) throw tooMany('port', `all agents together may have ${maxInstances} instances`)
  }

  /** Puts a registered instance into its layer; what is not given stays as it is known. */
  #put (entry: Entry, { host, port, protocol, weight, ttlMs, trusted = false }: InstanceRegistration): void {
    const authority = authorityOf(host, port)
    const registered = entry.api.instances.get(authority)
    const known = definitionAt(entry, authority)
    const definition = { host, port, protocol: protocol ?? known?.protocol ?? 'http', weight: weight ?? known?.weight ?? 1 }
    const leaseMs = ttlMs ?? registered?.lease?.ttlMs
    entry.api.instances.set(authority, {
      ...definition,
      lease: leaseMs === undefined ? null : this.#leases.begin(leaseMs),
      // What the file says of it lasts only as long as the file says it.
      trusted: trusted || (registered !== undefined && registered.trusted && registered.protocol === definition.protocol)
    })
    entry.suppressed.delete(authority)
    this.#leases.forgetLapse(entry.name, authority)
    entry.drained.delete(authority)
  }

  /** Decides about leases that ran out, and forgets agents that have been empty for long. @returns whether anything went */
  #lookAtLeases (keptByAll?: ReadonlySet<string>): boolean {
    const look = this.#leases.look(this.#entries, keptByAll)
    if (look === null) return false
    const changes = look.forgotten.map(entry => this.#forget(entry))
    for (const entry of look.changed) {
      this.#releaseNames(entry)
      changes.push(this.#rebuild(entry))
    }
    if (changes.length > 0) this.#publish(changes)
    return look.hasLost
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

  #agentNotFound (name: string): FleetError {
    const shown = name.slice(0, 64)
    if (!this.isWhole()) return new NoInstanceAvailableError(`Whether there is an agent "${shown}" is not known yet: the registry that gateways share could not be read since the start`, { headers: { 'retry-after': '1' } })
    const nearest = nearestNames(name, this.#names.keys())
    const hint = nearest.length === 0 ? '' : `; did you mean ${nearest.map(known => `"${known}"`).join(' or ')}?`
    return new AgentNotFoundError(`No agent is registered as "${shown}"${hint}`, { nearest })
  }

  #releaseNames (entry: Entry): void {
    for (const name of namesOf(entry)) {
      if (this.#names.get(name) === entry) this.#names.delete(name)
    }
  }

  /** Puts the Agent that the layers of an entry describe under its names. */
  #rebuild (entry: Entry): RegistryChange {
    const before = entry.agent
    // What registrations said of an agent of the file goes with the last of them.
    if (entry.file !== null && entry.api.instances.size === 0) entry.api = { instances: entry.api.instances }
    const agent = mergeLayers(entry, this.#clock.now())
    entry.agent = agent
    entry.emptySince = agent.instances.length > 0 ? null : entry.emptySince ?? this.#clock.now()
    this.#leases.watch(entry)
    this.#entries.set(entry.name, entry)
    for (const name of [agent.name, ...agent.aliases]) this.#names.set(name, entry)
    const change = this.#settle(entry, before.instances, agent.instances)
    const left = new Set(entry.drained)
    for (const { host, port, runtime } of agent.instances) runtime.draining = left.delete(authorityOf(host, port))
    for (const authority of left) entry.drained.delete(authority)
    return change
  }

  #forget (entry: Entry): RegistryChange {
    this.#releaseNames(entry)
    this.#entries.delete(entry.name)
    const { instances } = entry.agent
    entry.agent = { ...entry.agent, instances: [] }
    return this.#settle(entry, instances, [])
  }

  /** Tells what came and went by runtime record, and forgets the records of what went. */
  #settle (entry: Entry, before: readonly Instance[], after: readonly Instance[]): RegistryChange {
    const kept = new Set(after.map(({ runtime }) => runtime))
    const had = new Set(before.map(({ runtime }) => runtime))
    this.#instanceCount += after.length - before.length
    for (const [origin, { runtime }] of entry.built) if (!kept.has(runtime)) entry.built.delete(origin)
    return { added: after.filter(({ runtime }) => !had.has(runtime)), removed: before.filter(({ runtime }) => !kept.has(runtime)) }
  }

  #publish (changes: readonly RegistryChange[]): RegistryChange {
    this.#revision++
    const change = { added: changes.flatMap(({ added }) => added), removed: changes.flatMap(({ removed }) => removed) }
    // Who still holds one of these (a request whose body is on its way) must not begin anything new on it.
    for (const { runtime } of change.removed) runtime.draining = true
    if (change.added.length + change.removed.length > 0) for (const listener of this.#listeners) listener(change)
    return change
  }
}

function savedOf ({ lease, ...definition }: ApiInstance): SavedInstance {
  return { ...definition, ...(lease && { ttlMs: lease.ttlMs }) }
}

function tooMany (path: string, message: string) {
  return new InvalidRegistrationError(`The fleet is full: ${message}`, { errors: [{ path, message }] })
}
