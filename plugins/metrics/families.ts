/**
 * What `/metrics` says of the fleet: each metric with its type, its meaning and its series. docs/metrics.md describes the same ones, which a
 * test holds against each other. Series are made one by one, so that whoever writes them can pause.
 */
import type { FastifyInstance } from 'fastify'
import type {} from '../discovery/index.ts'
import type {} from '../dns/index.ts'
import type {} from '../facts/index.ts'
import type {} from '../rate-limit/index.ts'
import type {} from '../redis/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { inFlightOf, servingCount, type Agent } from '../../src/fleet/agent.ts'
import { stateOf, type InstanceState } from '../../src/fleet/instance.ts'
import { abortedByLabels, classLabels, methodLabels, reasonLabels, streamLabels, type AgentCounts, type Counts, type Durations, type DurationTable } from './counts.ts'

type Labels = Readonly<Record<string, string>>

/** One line, as prom-client takes it. */
export interface Sample {
  readonly value: number
  /** Where it is not the family's name: `…_bucket`, `…_sum`, `…_count`. */
  readonly metricName?: string
  readonly labels: Labels
  /** What several lines have in common, so that it is put into words once. */
  readonly sharedLabels?: Labels
}

/** All series of one name. */
export interface Family {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly samples: Iterable<Sample>
}

/** What the families are made from. */
export interface FleetFigures {
  readonly fastify: FastifyInstance
  readonly counts: Counts
  readonly version: string
  /** Whether the agent of this name is shown; the gateway's own series always are. */
  readonly sees: (agentName: string) => boolean
}

const states: readonly InstanceState[] = ['up', 'down', 'ejected', 'draining']

/** Every family, in the order in which they are written. */
export function fleetFamilies ({ fastify, counts, version, sees }: FleetFigures): Family[] {
  const { facts, registry, upstream } = fastify
  const agents = [...registry.agents()].filter(({ name }) => sees(name))
  const counted = [...counts.agents()].filter(([name]) => sees(name))
  const withOwn: [string, AgentCounts][] = [['', counts.own], ...counted]

  return [
    gauge('fleet_build_info', 'The version that runs; always 1.', [{ labels: { version }, value: 1 }]),
    histogram('http_server_request_duration_seconds', 'From the request\'s head to the end of its answer, event streams and WebSockets left out.', function * () {
      for (const [route, table] of counts.routes) yield * tableOf(table, { agent: '', route })
      for (const [agent, { durations }] of counted) yield * tableOf(durations, { agent, route: '' })
    }),
    histogram('fleet_stream_duration_seconds', 'How long event streams and WebSockets lasted.', function * () {
      for (const [agent, { streams }] of counted) {
        for (const [index, kind] of streamLabels.entries()) if (streams[index]) yield [{ agent, kind }, streams[index]]
      }
    }),
    gauge('http_server_active_requests', 'Requests begun and not over, event streams and WebSockets included.', [{ labels: {}, value: facts.inFlight }]),
    histogram('fleet_upstream_ttfb_seconds', 'From the beginning of an attempt to the head of the agent\'s answer.', function * () {
      for (const [agent, { ttfb }] of counted) if (ttfb !== null) yield [{ agent }, ttfb]
    }),
    counter('fleet_requests_total', 'Finished requests by agent and status; 499 where the client left before there was one.', function * () {
      for (const [agent, { codes }] of withOwn) {
        for (const [code, { count }] of codes) yield { labels: { agent, code: code === 0 ? 'other' : String(code) }, value: count }
      }
    }),
    counter('fleet_retries_total', 'Attempts beyond a request\'s first, by what the one before came to.', function * () {
      for (const [agent, { retries }] of counted) yield * occurred(retries, reasonLabels, 'reason', agent)
    }),
    counter('fleet_aborted_requests_total', 'Answers that were not received whole, by who went away.', function * () {
      for (const [agent, { aborted }] of withOwn) yield * occurred(aborted, abortedByLabels, 'by', agent)
    }),
    gauge('fleet_instance_state', 'Whether the instance is in this state: 1 for one state, 0 for the others.', inEach(agents, function * (agent) {
      for (const instance of agent.instances) {
        const sharedLabels = { agent: agent.name, instance: instance.id }
        const own = stateOf(instance)
        for (const state of states) yield { sharedLabels, labels: { state }, value: state === own ? 1 : 0 }
      }
    })),
    gauge('fleet_serving_instances', 'Instances that are up, not ejected and not draining.', inEach(agents, function * (agent) {
      yield { labels: { agent: agent.name }, value: servingCount(agent) }
    })),
    gauge('fleet_active_attempts', 'Attempts under way, event streams and WebSockets included.', inEach(agents, function * (agent) {
      yield { labels: { agent: agent.name }, value: inFlightOf(agent) }
    })),
    gauge('fleet_waiting_requests', 'Requests that wait for an instance to have room.', inEach(agents, function * ({ name }) {
      yield { labels: { agent: name }, value: upstream.waiting(name) }
    })),
    leaseFamily(agents),
    plainCounter('fleet_lease_expirations_total', 'Instances that left because their lease ran out.', counts.leaseExpirations),
    plainCounter('fleet_rate_limited_total', 'Requests refused because their client made too many.', counts.rateLimited),
    plainCounter('fleet_auth_failures_total', 'Requests refused for want of a valid token.', counts.authFailures),
    ...configFamilies(fastify),
    ...redisFamilies(fastify),
    ...dnsFamilies(fastify, sees)
  ]
}

function leaseFamily (agents: readonly Agent[]): Family {
  let [held, lapsed] = [0, 0]
  for (const { instances } of agents) {
    for (const { lease } of instances) {
      if (lease === null) continue
      if (lease.lapsedAt === undefined) held++
      else lapsed++
    }
  }
  return gauge('fleet_leases', 'Instances with a lease; those whose lease lapsed are kept because too many did at once.', [
    { labels: { state: 'held' }, value: held },
    { labels: { state: 'lapsed' }, value: lapsed }
  ])
}

function configFamilies (fastify: FastifyInstance): Family[] {
  if (!fastify.hasDecorator('discovery')) return []
  const { ok, loadedAt } = fastify.discovery.status
  return [
    gauge('fleet_config_last_reload_successful', 'Whether what runs is what the file says: 0 after a reload that failed.', [{ labels: {}, value: ok ? 1 : 0 }]),
    gauge('fleet_config_last_reload_success_timestamp_seconds', 'When the configuration that runs was loaded.', [{ labels: {}, value: Date.parse(loadedAt) / 1_000 }])
  ]
}

/** Only where one is configured: an alarm on 0 must not ring where there is none. */
function redisFamilies (fastify: FastifyInstance): Family[] {
  if (!fastify.hasDecorator('redis') || !fastify.redis.enabled) return []
  return [
    gauge('fleet_redis_up', 'Whether the Redis that gateways share answers.', [{ labels: {}, value: fastify.redis.isUp ? 1 : 0 }]),
    ...(fastify.hasDecorator('rateLimiter') ? [plainCounter('fleet_rate_limit_store_failures_total', 'Requests whose limit could not be looked at in common with other gateways.', fastify.rateLimiter.storeFailures)] : [])
  ]
}

/** Only of agents that are looked for there: nobody finds the others, and nothing is wrong with that. */
function dnsFamilies (fastify: FastifyInstance, sees: (agentName: string) => boolean): Family[] {
  const agents = fastify.hasDecorator('dns') ? fastify.dns.agents.filter(({ name }) => sees(name)) : []
  if (agents.length === 0) return []
  return [
    gauge('fleet_dns_addresses', 'Addresses that DNS has of the agent.', agents.map(({ name, instances }) => ({ labels: { agent: name }, value: instances }))),
    counter('fleet_dns_lookup_failures_total', 'Times that DNS was asked for the agent and something was not answered.', function * () {
      for (const { name, failures } of agents) yield { labels: { agent: name }, value: failures }
    })
  ]
}

function gauge (name: string, help: string, samples: Iterable<Sample>): Family {
  return { name, help, type: 'gauge', samples }
}

function counter (name: string, help: string, samples: () => Iterable<Sample>): Family {
  return { name, help, type: 'counter', samples: samples() }
}

function plainCounter (name: string, help: string, value: number): Family {
  return { name, help, type: 'counter', samples: [{ labels: {}, value }] }
}

function histogram (name: string, help: string, series: () => Iterable<[Labels, Durations]>): Family {
  return { name, help, type: 'histogram', samples: histogramSamples(name, series()) }
}

function * inEach (agents: readonly Agent[], samplesOf: (agent: Agent) => Iterable<Sample>): Iterable<Sample> {
  for (const agent of agents) yield * samplesOf(agent)
}

/** What never happened has no series. */
function * occurred (counted: readonly number[], labels: readonly string[], label: string, agent: string): Iterable<Sample> {
  for (const [index, value] of counted.entries()) if (value > 0) yield { labels: { agent, [label]: labels[index]! }, value }
}

function * tableOf (table: DurationTable, { agent, route }: { agent: string, route: string }): Iterable<[Labels, Durations]> {
  for (let slot = 0; slot < table.length; slot++) {
    const durations = table[slot]
    if (durations === undefined) continue
    yield [{ agent, route, method: methodLabels[Math.floor(slot / classLabels.length)]!, status_class: classLabels[slot % classLabels.length]! }, durations]
  }
}

const noLabels: Labels = {}
/** `le` of each list of bounds; lists of so many lines are not made anew for each agent. */
const leLabels = new WeakMap<readonly number[], readonly Labels[]>()

function leLabelsOf (bounds: readonly number[]): readonly Labels[] {
  let labels = leLabels.get(bounds)
  if (labels === undefined) leLabels.set(bounds, labels = [...bounds.map(String), '+Inf'].map(le => ({ le })))
  return labels
}

/** Buckets add up, as Prometheus has them. */
function * histogramSamples (name: string, series: Iterable<[Labels, Durations]>): Iterable<Sample> {
  const [bucketName, sumName, countName] = [`${name}_bucket`, `${name}_sum`, `${name}_count`]
  for (const [sharedLabels, { bounds, counts, sum }] of series) {
    const les = leLabelsOf(bounds)
    const values = Float64Array.from(counts) // they may grow while a pause is made among these lines
    let total = 0
    for (const [index, labels] of les.entries()) {
      total += values[index]!
      yield { metricName: bucketName, sharedLabels, labels, value: total }
    }
    yield { metricName: sumName, sharedLabels, labels: noLabels, value: sum }
    yield { metricName: countName, sharedLabels, labels: noLabels, value: total }
  }
}
