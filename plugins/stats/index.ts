/**
 * What the gateway did so far, in numbers: counters and latencies from finished exchanges, and `/stats`. Nobody calls it; it listens. Of several
 * workers `/stats` tells what they did together, and, when it is asked to, of all gateways that share a Redis.
 */
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../discovery/index.ts'
import type {} from '../facts/index.ts'
import type {} from '../peers/index.ts'
import type { Circle, Heard } from '../peers/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { BadRequestError } from '../../src/errors.ts'
import { inFlightOf, type Agent } from '../../src/fleet/agent.ts'
import { stateOf, type Instance } from '../../src/fleet/instance.ts'
import { mayTouch } from '../../src/principal.ts'
import { Counters, type AgentCounters, type InstanceCounters } from './counters.ts'
import { latencyView } from './latency.ts'
import { addParts, isPart, partOf, processOf, type StatsPart } from './parts.ts'
import type { AgentStats, ConfigStats, LeaseStats, StatsSnapshot } from './snapshot.ts'

export interface Stats {
  /** The numbers as they are now, of the agents that `sees` lets through; the totals are the whole gateway's. */
  snapshot (sees?: (agent: Pick<Agent, 'name'>) => boolean): StatsSnapshot
  /** What was counted of the whole gateway so far. */
  readonly totals: Readonly<StatsTotals>
  /** What was counted of an agent so far: live, to be read and not kept. For who looks at thousands of agents every second. */
  ofAgent (agent: Agent): Readonly<AgentCounters>
  /** The same of an instance. */
  ofInstance (instance: Instance): Readonly<InstanceCounters>
}

/** Of the whole gateway. */
export interface StatsTotals {
  requests: number
  errors: number
  /** Requests that were forwarded: with at least one attempt. */
  proxied: number
}

declare module 'fastify' {
  interface FastifyInstance {
    /** What was counted so far. */
    stats: Stats
  }
}

const statsPlugin: FastifyPluginAsync = async fastify => {
  const { facts, registry, upstream } = fastify
  const startMark = performance.now()
  const counters = new Counters(registry)
  const stopFinished = facts.onFinished(exchange => counters.countExchange(exchange))
  const stopSettled = upstream.onSettled(attempt => counters.countAttempt(attempt))

  function agentStats (agent: Agent): AgentStats {
    const { requests, errors, retries, latency } = counters.ofAgent(agent.rotation)
    const byId: AgentStats['instances'] = {}
    for (const instance of agent.instances) {
      const { id, runtime } = instance
      byId[id] = { ...counters.ofInstance(runtime), in_flight: runtime.inFlight, state: stateOf(instance) }
    }
    return { requests, errors, retries, in_flight: inFlightOf(agent), latency_ms: latencyView(latency), instances: byId }
  }

  /** What others are told, and what of it is of the whole process. */
  function part (): StatsPart {
    const { requests, errors, proxied } = counters
    return partOf({ requests, errors, proxied, inFlight: facts.inFlight, uptimeSeconds: uptime() }, registry.agents(), counters)
  }

  const uptime = () => Math.round(performance.now() - startMark) / 1_000

  /** With the figures of others added; as they were for one who has no others. */
  async function withOthers (snapshot: StatsSnapshot, whom: Circle): Promise<StatsSnapshot> {
    if (!fastify.hasDecorator('peers') || (whom === 'workers' && !fastify.peers.hasWorkers)) return snapshot
    const { self } = fastify.peers
    const { heard, isAll } = await askAll(whom)
    const own = part()
    const answers = heard.answers.filter(({ from }) => from.id !== self.id)
    const others = answers.flatMap(({ from, value }) => isPart(value) ? [{ from, value }] : []) // another version may answer otherwise
    addParts(snapshot, own, others.map(({ value }) => value))
    snapshot.processes = [processOf(self, own), ...others.map(({ from, value }) => processOf(from, value))]
    snapshot.silent = isAll && heard.silent !== null ? heard.silent + answers.length - others.length : null
    return snapshot
  }

  /** Where Redis can't be asked, the workers of this gateway still can. */
  async function askAll (whom: Circle): Promise<{ heard: Heard, isAll: boolean }> {
    try {
      return { heard: await fastify.peers.ask(whom, 'stats'), isAll: true }
    } catch {
      return { heard: await fastify.peers.ask('workers', 'stats'), isAll: false }
    }
  }

  if (fastify.hasDecorator('peers')) fastify.peers.answer('stats', part)
  fastify.decorate('stats', {
    totals: counters,
    ofAgent: ({ rotation }) => counters.ofAgent(rotation),
    ofInstance: ({ runtime }) => counters.ofInstance(runtime),
    snapshot (sees = () => true) {
      const seen = [...registry.agents()].filter(sees)
      const agents = Object.create(null) as StatsSnapshot['agents']
      for (const agent of seen) agents[agent.name] = agentStats(agent)
      return {
        total_requests: counters.requests,
        total_errors: counters.errors,
        total_proxied: counters.proxied,
        uptime_seconds: uptime(),
        registered_agents: seen.length,
        routes: seen.reduce((count, { aliases }) => count + 1 + aliases.length, 0),
        in_flight: facts.inFlight,
        leases: leaseStats(seen),
        config: configStats(fastify, sees),
        agents
      }
    }
  })
  fastify.addHook('onClose', async () => {
    stopFinished()
    stopSettled()
  })
  await fastify.register(async routes => {
    routes.get<{ Querystring: { gateways?: unknown } }>('/stats', { config: { fleet: { scope: 'read' } } }, async ({ principal, query: { gateways } }, reply) => {
      if (gateways !== undefined && gateways !== 'all') throw new BadRequestError('gateways must be "all", or be left out')
      void reply.header('cache-control', 'no-store')
      return await withOthers(fastify.stats.snapshot(({ name }) => mayTouch(principal, name)), gateways === 'all' ? 'gateways' : 'workers')
    })
  })
}

function leaseStats (agents: readonly Agent[]): LeaseStats {
  const leases = agents.flatMap(({ instances }) => instances.flatMap(({ lease }) => lease ?? []))
  return { total: leases.length, lapsed: leases.filter(({ lapsedAt }) => lapsedAt !== undefined).length }
}

function configStats (fastify: FastifyInstance, sees: (agent: Pick<Agent, 'name'>) => boolean): ConfigStats {
  if (!fastify.hasDecorator('discovery')) return { loaded_at: null, ok: true }
  const { loadedAt, ok, error } = fastify.discovery.status
  const takenOut = fastify.discovery.takenOut().filter(({ agent }) => sees({ name: agent }))
  return { loaded_at: loadedAt, ok, ...(error !== undefined && { error }), ...(takenOut.length > 0 && { taken_out: takenOut }) }
}

export type { AgentStats, ConfigStats, InstanceStats, LeaseStats, ProcessStats, StatsSnapshot } from './snapshot.ts'
export default fp(statsPlugin, { name: 'fleet-stats', fastify: '5.x', decorators: { fastify: ['facts', 'registry', 'upstream'] } })
