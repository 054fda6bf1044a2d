/**
 * How agents, instances and leases look in the HTTP API.
 */
import type { DnsNameStatus } from '../dns/index.ts'
import type { HealthNote } from '../health/index.ts'
import { dnsView } from '../../src/dns-view.ts'
import { inFlightOf, statusOf, type Agent, type AgentPolicy, type AgentTls, type Timeouts } from '../../src/fleet/agent.ts'
import { isHealthy, stateOf, type Instance, type Lease } from '../../src/fleet/instance.ts'
import { formatMs } from '../../src/options.ts'

/** A lease: `ttl` as it was asked for, `expires_at` in ISO 8601; `lapsed` when that is over and the instance is kept all the same. */
export function leaseView ({ ttlMs, expiresAt, lapsedAt }: Lease) {
  return { ttl_seconds: ttlMs / 1_000, expires_at: new Date(expiresAt).toISOString(), ...(lapsedAt !== undefined && { lapsed: true }) }
}

/** One instance, for /registry and the answers to registrations. */
export function instanceView (instance: Instance) {
  const { id, protocol, host, port, weight, source, lease } = instance
  return { id, host, port, protocol, healthy: isHealthy(instance), state: stateOf(instance), weight, source, lease: lease && leaseView(lease) }
}

/** What is known of an agent elsewhere. */
export interface AgentKnowledge {
  /** By which it is looked for in DNS. */
  readonly names: readonly DnsNameStatus[]
  /** What last decided about an instance's health. */
  readonly noteOf: (instance: Instance) => HealthNote | undefined
}

/** One agent, for /agents. */
export function agentView (agent: Agent, { names, noteOf }: AgentKnowledge) {
  return {
    status: statusOf(agent),
    instances: agent.instances.map(instance => ({ ...instanceView(instance), in_flight: instance.runtime.inFlight, ...noteView(noteOf(instance)) })),
    friendly_names: agent.aliases,
    metadata: agent.metadata,
    in_flight: inFlightOf(agent),
    ...dnsView(names)
  }
}

function noteView (note: HealthNote | undefined) {
  return { why: note?.reason ?? null, since: note === undefined ? null : new Date(note.at).toISOString() }
}

/** One agent, for /registry. */
export function registryView (agent: Agent) {
  return { instances: agent.instances.map(instanceView), friendly_names: agent.aliases, metadata: agent.metadata, policy: policyView(agent.policy) }
}

/** Durations as fleet.yaml writes them. */
function policyView ({ timeouts, health, balancer, concurrency, paths, tls, ...rest }: AgentPolicy) {
  return {
    ...(timeouts && { timeouts: timeoutsView(timeouts) }),
    ...(health && { health: withDurations(health, ['interval', 'timeout']) }),
    ...(balancer && { balancer: withDurations(balancer, ['slowStart']) }),
    ...(concurrency && { concurrency: withDurations(concurrency, ['queueTimeout']) }),
    ...(paths && { paths: paths.map(({ prefix, timeouts }) => ({ prefix, timeouts: timeoutsView(timeouts) })) }),
    ...(tls && { tls: tlsView(tls) }),
    ...rest
  }
}

/** Where files are on the gateway's machine is nobody's business. */
function tlsView ({ serverName, verify = true }: AgentTls) {
  return { verify, ...(serverName !== undefined && { serverName }) }
}

function timeoutsView (timeouts: Timeouts) {
  return withDurations(timeouts, ['connect', 'response', 'idle', 'total'])
}

/** The settings with those of these names written as durations. */
function withDurations<S extends object> (settings: S, names: readonly (keyof S & string)[]) {
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, (names as readonly string[]).includes(name) ? formatMs(value as number) : value]))
}
