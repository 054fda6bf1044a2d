/**
 * `fastify.dns`: finds instances by the names that `dns` of an agent in fleet.yaml gives, and keeps the registry equal to what name servers say.
 * Which of their answers count, question.ts knows; when they are asked again, name-watch.ts.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../discovery/index.ts'
import type {} from '../registry/index.ts'
import { systemClock, within, type Clock } from '../../src/clock.ts'
import type { AgentDefinition, DnsType, InstanceDefinition } from '../../src/fleet/definitions.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import { NameWatch } from './name-watch.ts'

/** A name, and how asking for it went. */
export interface DnsNameStatus {
  readonly agent: string
  readonly name: string
  /** `A` and `AAAA` when left out. */
  readonly type?: DnsType
  /** Whether the last round of questions was answered; not before the first one was. */
  readonly ok: boolean
  /** Why it was not, as name servers put it: `SERVFAIL`, `TIMEOUT`. */
  readonly error?: string
  /** When a round was last answered, milliseconds since the epoch; null when none was. */
  readonly answeredAt: number | null
  /** How many instances the name leads to. */
  readonly instances: number
}

/** What came of it for an agent. */
export interface DnsAgentStatus {
  readonly name: string
  /** How many instances all its names lead to. */
  readonly instances: number
  /** Rounds of questions in which something was not answered, for as long as it is looked for. */
  readonly failures: number
}

export interface Dns {
  /** Each name that is asked for. */
  readonly names: readonly DnsNameStatus[]
  /** Those by which instances of an agent are looked for. */
  namesOf (agent: string): readonly DnsNameStatus[]
  /** Those that are looked for. */
  readonly agents: readonly DnsAgentStatus[]
  /** Resolves when no question is under way. */
  settled (): Promise<void>
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Finds instances in DNS. */
    dns: Dns
  }
}

export interface DnsPluginOptions {
  clock?: Clock
}

/** The names of one agent. */
interface NamedAgent {
  watches: Map<string, NameWatch>
  /** What the registry was told last. */
  found: readonly InstanceDefinition[]
  /** Rounds of questions in which something was not answered. */
  failures: number
}

/** The most instances that are found for an agent; as many as may register. */
const mostInstances = 1_000

/** A start waits for the first answers, but not for longer. */
const firstAnswersMs = 5_000

const dnsPlugin: FastifyPluginAsync<DnsPluginOptions> = async (fastify, { clock = systemClock }) => {
  const { discovery, registry, log } = fastify
  const agents = new Map<string, NamedAgent>()
  const asking = new Set<Promise<void>>()

  /** Names that go are asked for no more, those that stay go on, and for new ones questions begin. */
  function take (definitions: readonly AgentDefinition[]): void {
    const named = new Map(definitions.map(({ name, dns = [] }) => [name, new Map(dns.map(source => [JSON.stringify(source), source]))]))
    for (const [name, { watches }] of agents) {
      const sources = named.get(name)
      for (const [key, watch] of watches) {
        if (sources?.has(key) === true) continue
        watch.stop()
        watches.delete(key)
      }
      if (sources === undefined || sources.size === 0) agents.delete(name)
    }
    for (const [name, sources] of named) {
      if (sources.size === 0) continue
      const agent = agents.get(name) ?? { watches: new Map<string, NameWatch>(), found: [], failures: 0 }
      agents.set(name, agent)
      for (const [key, source] of sources) {
        if (agent.watches.has(key)) continue
        const watch: NameWatch = new NameWatch(source, clock, { onRound: () => answered(name, watch), onDue: () => begin(watch) })
        agent.watches.set(key, watch)
        begin(watch)
      }
      // The file may have brought the agent back.
      publish(name, agent)
    }
  }

  function begin (watch: NameWatch): void {
    const round = watch.ask().catch((error: unknown) => log.error(error, `${watch.source.name} could not be looked up`)).finally(() => asking.delete(round))
    asking.add(round)
  }

  const failing = new WeakSet<NameWatch>()
  const leadingNowhere = new WeakSet<NameWatch>()
  function answered (name: string, watch: NameWatch): void {
    const { source, failure, instances } = watch
    if (failure !== null && !failing.has(watch)) {
      failing.add(watch)
      log.warn(`${source.name} could not be looked up (${failure}); what is known of it stays: ${instances.length} of the instances of "${name}"`)
    } else if (failure === null && failing.delete(watch)) log.info(`${source.name} can be looked up again`)
    if (instances.length > 0) leadingNowhere.delete(watch)
    else if (watch.isAnswered && !leadingNowhere.has(watch)) {
      leadingNowhere.add(watch)
      log.warn(`${source.name} leads to nobody: DNS has no such records, so "${name}" has no instance by it`)
    }
    const agent = agents.get(name)
    if (agent === undefined) return
    if (failure !== null) agent.failures++
    publish(name, agent)
  }

  function publish (name: string, agent: NamedAgent): void {
    const watches = [...agent.watches.values()]
    const found = new Map(watches.flatMap(watch => watch.instances).map(instance => [keyOf(instance), instance]))
    // A name of which nothing is known yet may lead to those that are there.
    if (!watches.every(watch => watch.isAnswered)) for (const instance of agent.found) if (!found.has(keyOf(instance))) found.set(keyOf(instance), instance)
    // In an order that does not depend on the name server's, which turns the records at each answer.
    agent.found = [...found].sort(([one], [other]) => one < other ? -1 : 1).slice(0, mostInstances).map(([, instance]) => instance)
    const { added, removed } = registry.replaceFound(name, agent.found)
    if (added.length + removed.length === 0) return
    log.info({ instances: agent.found.length, added: added.length, removed: removed.length }, `DNS has other instances of "${name}"`)
    if (found.size > mostInstances) log.warn(`${found.size} instances of "${name}" are in DNS; ${mostInstances} are used`)
  }

  function namesOf (agent: string): DnsNameStatus[] {
    return [...agents.get(agent)?.watches.values() ?? []].map(({ source: { name, type }, failure, answeredAt, instances }) => ({
      agent,
      name,
      ...(type !== undefined && { type }),
      ok: failure === null && answeredAt !== null,
      ...(failure !== null && { error: failure }),
      answeredAt,
      instances: instances.length
    }))
  }

  fastify.decorate('dns', {
    get names () { return [...agents.keys()].flatMap(namesOf) },
    namesOf,
    get agents () { return [...agents].map(([name, { found, failures }]) => ({ name, instances: found.length, failures })) },
    async settled () {
      while (asking.size > 0) await Promise.all(asking)
    }
  })
  const stopListening = discovery.onReload(({ agents: definitions }) => take(definitions))
  fastify.addHook('onReady', async () => {
    await within(firstAnswersMs, clock, fastify.dns.settled())
  })
  fastify.addHook('onClose', async () => {
    stopListening()
    for (const { watches } of agents.values()) for (const watch of watches.values()) watch.stop()
    agents.clear()
  })
  take(discovery.loaded.agents)
}

function keyOf ({ host, port }: InstanceDefinition): string {
  return authorityOf(host, port)
}

export default fp(dnsPlugin, { name: 'fleet-dns', fastify: '5.x', decorators: { fastify: ['registry', 'discovery'] } })
