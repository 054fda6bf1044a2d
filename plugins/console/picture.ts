/**
 * The fleet as those who watch know it, and what changed of it since they were last told. One picture serves all of them: each agent is
 * written as JSON once, and a viewer gets those that its key is for.
 */
import type { Health } from '../health/index.ts'
import type {} from '../registry/index.ts'
import type { Stats } from '../stats/index.ts'
import { inFlightOf, statusOf, type Agent } from '../../src/fleet/agent.ts'
import { stateOf, type Instance } from '../../src/fleet/instance.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import type { History } from './history.ts'
import type { AgentPicture, AgentRow, AgentUpdate, InstanceFacts, InstanceRow } from './wire.ts'

/** What the picture is made of. */
export interface PictureSources {
  readonly registry: Registry
  readonly stats: Stats
  readonly history: History
  /** Says what decided about an instance; without it nobody does. */
  readonly health: Health | undefined
}

/** What changed: by agent name, the update as JSON; and the names of those that left. */
export interface Changes {
  readonly updates: ReadonlyMap<string, string>
  readonly gone: readonly string[]
}

interface KnownInstance { instance: Instance, facts: InstanceFacts, row: InstanceRow }

interface KnownAgent {
  agent: Agent
  status: AgentPicture['status']
  row: AgentRow
  readonly instances: Map<string, KnownInstance>
}

export class Picture {
  readonly #sources: PictureSources
  readonly #known = new Map<string, KnownAgent>()

  constructor (sources: PictureSources) {
    this.#sources = sources
  }

  /** Looks at everything again. */
  update (): Changes {
    const updates = new Map<string, string>()
    const present = new Set<string>()
    for (const agent of this.#sources.registry.agents()) {
      present.add(agent.name)
      const known = this.#known.get(agent.name)
      const update = known === undefined ? this.#meet(agent) : this.#renew(known, agent)
      if (update !== null) updates.set(agent.name, JSON.stringify(update))
    }
    const gone = [...this.#known.keys()].filter(name => !present.has(name))
    for (const name of gone) this.#known.delete(name)
    return { updates, gone }
  }

  /** Nobody watches any more. */
  forget (): void {
    this.#known.clear()
  }

  /** Each agent as a whole, as JSON, as it was at the last update. */
  * pictures (sees: (agentName: string) => boolean): Iterable<[name: string, json: string]> {
    for (const [name, known] of this.#known) {
      if (!sees(name)) continue
      const picture = whole(known)
      const spark = this.#sources.history.spark(known.agent)
      yield [name, JSON.stringify(spark === undefined ? picture : { ...picture, spark })]
    }
  }

  #meet (agent: Agent): AgentUpdate {
    const known: KnownAgent = { agent, status: statusOf(agent), row: this.#rowOf(agent), instances: new Map() }
    for (const instance of agent.instances) known.instances.set(instance.id, this.#meetInstance(instance))
    this.#known.set(agent.name, known)
    return whole(known)
  }

  #meetInstance (instance: Instance): KnownInstance {
    return { instance, facts: this.#factsOf(instance), row: this.#instanceRowOf(instance) }
  }

  /** Null when nothing changed. */
  #renew (known: KnownAgent, agent: Agent): AgentUpdate | null {
    const update: AgentUpdate = {}
    if (known.agent.aliases !== agent.aliases) update.aliases = agent.aliases
    const status = statusOf(agent)
    if (status !== known.status) update.status = known.status = status
    const row = this.#rowOf(agent)
    if (differs(row, known.row)) update.row = known.row = row
    if (known.agent !== agent) this.#dropInstances(known, agent, update)
    known.agent = agent
    for (const instance of agent.instances) this.#renewInstance(known, instance, update)
    return Object.keys(update).length === 0 ? null : update
  }

  #dropInstances (known: KnownAgent, agent: Agent, update: AgentUpdate): void {
    const present = new Set(agent.instances.map(({ id }) => id))
    for (const id of known.instances.keys()) {
      if (present.has(id)) continue
      known.instances.delete(id)
      ;(update.gone ??= []).push(id)
    }
  }

  #renewInstance ({ instances }: KnownAgent, instance: Instance, update: AgentUpdate): void {
    const { id } = instance
    const before = instances.get(id)
    if (before === undefined) {
      const met = this.#meetInstance(instance)
      instances.set(id, met)
      ;(update.facts ??= {})[id] = met.facts
      ;(update.rows ??= {})[id] = met.row
      return
    }
    const row = this.#instanceRowOf(instance)
    if (differs(row, before.row)) (update.rows ??= {})[id] = before.row = row
    if (instance === before.instance && !this.#isOther(before.facts, instance)) return
    before.instance = instance
    ;(update.facts ??= {})[id] = before.facts = this.#factsOf(instance)
  }

  /** Whether the facts of an instance that is still the same value have changed: those that are in its runtime record. */
  #isOther ({ state, since, until, ejections }: InstanceFacts, instance: Instance): boolean {
    const { health } = instance.runtime
    return state !== stateOf(instance) || until !== (health.ejectedUntil || null) || ejections !== health.ejections ||
      since !== (this.#sources.health?.lastChange(instance)?.at ?? null)
  }

  #factsOf (instance: Instance): InstanceFacts {
    const { host, port, protocol, weight, source, lease, runtime: { health } } = instance
    const note = this.#sources.health?.lastChange(instance)
    return {
      host,
      port,
      protocol,
      weight,
      source,
      state: stateOf(instance),
      why: note?.reason ?? null,
      since: note?.at ?? null,
      until: health.ejectedUntil || null,
      ejections: health.ejections,
      lease: lease && { ttl_seconds: lease.ttlMs / 1_000, expires_at: lease.expiresAt, lapsed: lease.lapsedAt !== undefined }
    }
  }

  #rowOf (agent: Agent): AgentRow {
    const { requests, errors, retries } = this.#sources.stats.ofAgent(agent)
    return [inFlightOf(agent), requests, errors, retries, ...this.#sources.history.latest(agent)]
  }

  #instanceRowOf (instance: Instance): InstanceRow {
    const { requests, errors } = this.#sources.stats.ofInstance(instance)
    const { inFlight, latency, health } = instance.runtime
    return [inFlight, requests, errors, Math.round(latency.ms * 10) / 10, health.probeFailures]
  }
}

function whole ({ agent, status, row, instances }: KnownAgent): AgentPicture {
  const facts: AgentPicture['facts'] = {}
  const rows: AgentPicture['rows'] = {}
  for (const [id, known] of instances) {
    facts[id] = known.facts
    rows[id] = known.row
  }
  return { status, aliases: agent.aliases, row, facts, rows }
}

function differs (row: readonly number[], before: readonly number[]): boolean {
  for (let index = 0; index < row.length; index++) if (row[index] !== before[index]) return true
  return false
}
