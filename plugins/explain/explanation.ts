/**
 * What becomes of a request, as far as it can be known without making it: who is asked, what holds for them, and in the order of CONTRACT.md's
 * refusals the first that it would meet. Reads what the plugins know, and changes nothing.
 */
import { METHODS } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type {} from '../dns/index.ts'
import type {} from '../guard/index.ts'
import type {} from '../health/index.ts'
import type {} from '../problem/index.ts'
import type {} from '../proxy/index.ts'
import type {} from '../rate-limit/index.ts'
import type { FleetRouteConfig } from '../auth/index.ts'
import type { Forecast } from '../upstream/index.ts'
import { dnsView } from '../../src/dns-view.ts'
import { AgentNotFoundError, BadRequestError, ForbiddenError, MethodNotAllowedError, NoInstanceAvailableError, NotFoundError, isFleetError, type FleetError } from '../../src/errors.ts'
import { statusOf, type Agent } from '../../src/fleet/agent.ts'
import type { Asker } from '../../src/fleet/balancer.ts'
import { availabilityInWords, isAvailable, isDueForTrial, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { formatMs } from '../../src/options.ts'
import { mayTouch, type Principal } from '../../src/principal.ts'
import { isDecodable, pathOf, routableTarget } from '../../src/request-target.ts'
import type { FoundRoute, RouteTable } from '../../src/route-table.ts'

/** Whose request it would be, and what it asks for. */
export interface Question {
  readonly method: string
  /** Path and query, as a request has them. */
  readonly target: string
  readonly principal: Principal
  /** Who may be told: agents that this one may not touch stay out of the answer. */
  readonly teller: Principal
  readonly asker: Asker
  readonly now: number
}

export type Explanation = ReturnType<typeof explain>

/** @param gateway with its plugins */
export function explain (gateway: FastifyInstance, question: Question) {
  const { routes } = gateway.problem
  const { method, target, principal } = question
  const path = pathOf(routableTarget(target))
  const framing = methodProblem(method) ?? targetProblem(gateway, target, path)
  const route = framing === undefined ? routes.find(method, path) : undefined
  const config = route?.config
  const isProxy = config?.scope === 'proxy'
  const asked = isProxy ? gateway.proxy.read(target) : undefined
  const name = isProxy ? asked?.name : decoded(route?.params['name'])
  const known = name === undefined ? undefined : gateway.registry.find(name)
  // Nobody may learn by another's key of agents that his own is not for, nor of names like theirs.
  if (principal !== question.teller && name !== undefined && !mayTouch(question.teller, known?.name ?? name)) throw new ForbiddenError('This key is not for that agent')
  const seen = known !== undefined && mayTouch(question.teller, known.name) ? known : undefined
  const forecast = isProxy && seen !== undefined ? gateway.upstream.forecast(seen, question.asker) : undefined

  const refusal = framing ?? (route === undefined ? routeProblem(method, path, routes) : undefined) ??
    permissionProblem(gateway, principal, config, isProxy ? askedFor(route!) : name) ??
    (isProxy ? agentProblem(gateway, asked === undefined, name, known, forecast) : name !== undefined && known === undefined ? unknownAgent(gateway, name) : undefined)
  return {
    method,
    target,
    outcome: refusal !== undefined ? 'refused' : isProxy ? 'forwarded' : 'answered',
    refusal: refusal === undefined ? null : { status: refusal.statusCode, code: refusal.code, detail: refusal.message },
    route: route === undefined ? null : { path: isProxy ? patternOf(route.url) : route.url.replaceAll(/:(\w+)/g, '{$1}'), needs: needsOf(config) },
    key: { id: principal.id, scopes: principal.scopes, agents: agentsOf(principal, question.teller) },
    rate_limit: route === undefined ? null : rateLimitOf(gateway, principal, config, isProxy ? seen : undefined),
    agent: seen === undefined ? null : agentOf(gateway, seen, name!, asked?.rest),
    policy: asked === undefined || seen === undefined ? null : policyOf(gateway, seen, asked.rest, method),
    instances: seen === undefined ? [] : seen.instances.map(instance => instanceOf(gateway, seen, instance, question.now)),
    next: forecast === undefined || refusal !== undefined ? null : nextOf(gateway, seen!, forecast, question.now)
  }
}

function agentOf (gateway: FastifyInstance, agent: Agent, askedAs: string, path: string | undefined) {
  const names = gateway.hasDecorator('dns') ? gateway.dns.namesOf(agent.name) : []
  return { name: agent.name, asked_as: askedAs, status: statusOf(agent), ...(path !== undefined && { path }), ...dnsView(names) }
}

const notAscii = /[\u0080-\uffff]/

/** Node's parser refuses a method that it does not know, whatever the path. */
function methodProblem (method: string): FleetError | undefined {
  return METHODS.includes(method) ? undefined : new BadRequestError(`The request is not valid HTTP: there is no method ${method}`)
}

function targetProblem (gateway: FastifyInstance, target: string, path: string): FleetError | undefined {
  if (!target.startsWith('/')) return new BadRequestError('The path has to begin with "/"')
  const problem = gateway.hasDecorator('guard') ? gateway.guard.targetProblem(target) : undefined
  if (problem !== undefined) return new BadRequestError(problem)
  if (notAscii.test(target)) return new BadRequestError('The path and the query may have ASCII characters only, others percent-encoded') // Node's parser says it
  return isDecodable(path) ? undefined : new BadRequestError('The path is no valid UTF-8 when it is decoded')
}

function routeProblem (method: string, path: string, routes: RouteTable<FleetRouteConfig>): FleetError {
  const methods = [...routes.methodsAt(path)].sort()
  if (methods.length === 0) return new NotFoundError(`There is no route for ${method} ${path.slice(0, 256)}`)
  return new MethodNotAllowedError(`${method} is not allowed here; allowed: ${methods.join(', ')}`)
}

function permissionProblem (gateway: FastifyInstance, principal: Principal, config: FleetRouteConfig | undefined, name: string | undefined): FleetError | undefined {
  if (!gateway.hasDecorator('auth') || !gateway.auth.enabled || config?.public === true || config?.optionalAuth === true) return undefined
  return gateway.auth.refusalFor(principal, config?.scope ?? 'admin', name)
}

function agentProblem (gateway: FastifyInstance, namesNobody: boolean, name: string | undefined, known: Agent | undefined, forecast: Forecast | undefined): FleetError | undefined {
  if (namesNobody) return new NotFoundError('The path names no agent: /api/{agent}/…')
  if (known === undefined) return unknownAgent(gateway, name!)
  const refusal = gateway.upstream.refusal(known)
  if (refusal !== undefined) return refusal
  return forecast?.by === 'nobody' ? new NoInstanceAvailableError(`The agent "${known.name}" has no instance that can take the request`) : undefined
}

function unknownAgent (gateway: FastifyInstance, name: string): FleetError {
  try {
    gateway.registry.get(name)
  } catch (error) {
    if (isFleetError(error)) return error
  }
  return new AgentNotFoundError(`No agent is registered as "${name.slice(0, 64)}"`)
}

function agentsOf ({ agents }: Principal, teller: Principal): Principal['agents'] {
  return agents === '*' ? '*' : agents.filter(name => mayTouch(teller, name))
}

/** The agent whose permission is asked for, as auth reads it from the route's wildcard. */
function askedFor ({ params }: FoundRoute<FleetRouteConfig>): string {
  return (decoded(params['*']) ?? '').split('/', 1)[0]!
}

function decoded (segment: string | undefined): string | undefined {
  try {
    return segment === undefined ? undefined : decodeURIComponent(segment)
  } catch {
    return segment
  }
}

function patternOf (url: string): string {
  return url.replace(/\/?\*?$/, '/{agent}/{path}')
}

function needsOf (config: FleetRouteConfig | undefined): string | null {
  return config?.public === true || config?.optionalAuth === true ? null : config?.scope ?? 'admin'
}

function rateLimitOf (gateway: FastifyInstance, principal: Principal, config: FleetRouteConfig | undefined, agent: Agent | undefined) {
  if (!gateway.hasDecorator('rateLimiter') || config?.rateLimit === false) return { enabled: false }
  const { enabled, perMinute, burst } = gateway.rateLimiter.limitsOf(principal, agent)
  if (!enabled) return { enabled }
  const client = principal.named ? `key ${principal.id}` : 'the client\'s address'
  return { enabled, per_minute: perMinute, burst, bucket: agent?.policy.rateLimit === undefined ? client : `${client}, for this agent alone` }
}

/** Of these an agent may answer; others are the inventions of its own. */
const commonStatuses = Array.from({ length: 12 }, (_, index) => 500 + index)

function policyOf (gateway: FastifyInstance, agent: Agent, path: string, method: string) {
  const policy = gateway.proxy.policyAt(agent, path)
  const { balancer: { policy: name, hashOn, slowStart }, concurrency: { max, queue, queueTimeout }, ownBalancer } = gateway.upstream.settingsOf(agent)
  const idempotent = gateway.proxy.isIdempotent(method)
  return {
    timeouts: {
      connect: formatMs(policy.connectTimeoutMs),
      response: formatMs(policy.responseTimeoutMs),
      idle: formatMs(policy.idleTimeoutMs),
      total: policy.totalTimeoutMs === null ? null : formatMs(policy.totalTimeoutMs)
    },
    path_prefix: policy.prefix ?? null,
    retry: {
      attempts: policy.retryAttempts,
      statuses: commonStatuses.filter(policy.isRetryStatus),
      max_body_bytes: policy.maxRetryBodyBytes,
      repeatable: idempotent && policy.retryAttempts > 0,
      why: policy.retryAttempts === 0 ? 'retry.attempts is 0: only what was never sent goes elsewhere' : idempotent ? `${method} is idempotent` : `${method} is not idempotent: only with an Idempotency-Key`
    },
    balancer: ownBalancer ? { policy: 'the application\'s own' } : { policy: name, ...(name === 'hash' && { hash_on: hashOn }), slow_start: formatMs(slowStart) },
    concurrency: { max: max ?? null, queue, queue_timeout: formatMs(queueTimeout), waiting: gateway.upstream.waiting(agent.name) },
    headers: policy.ownHeaders,
    forward_authorization: policy.forwardAuthorization,
    preserve_host: policy.preserveHost,
    rewrite_location: policy.rewriteLocation
  }
}

function instanceOf (gateway: FastifyInstance, agent: Agent, instance: Instance, now: number) {
  const { id, host, port, protocol, weight, source, lease, runtime: { inFlight, health } } = instance
  const capacity = gateway.upstream.settingsOf(agent).concurrency.max ?? Infinity
  const probes = gateway.hasDecorator('health') ? gateway.health.settingsOf(instance) : undefined
  return {
    id,
    host,
    port,
    protocol,
    weight,
    source,
    state: stateOf(instance),
    available: isAvailable(instance, now, capacity),
    why: availabilityInWords(instance, now, capacity),
    in_flight: inFlight,
    lease: lease === null ? null : { expires_at: new Date(lease.expiresAt).toISOString(), ...(lease.lapsedAt !== undefined && { lapsed: true }) },
    ejected_until: health.ejectedUntil === 0 ? null : new Date(health.ejectedUntil).toISOString(),
    probes: { ...(probes && { asks: probes.path === undefined ? 'a connection' : `GET ${probes.path}`, interval: formatMs(probes.interval) }), good_in_a_row: health.probeSuccesses, failed_in_a_row: health.probeFailures }
  }
}

function nextOf (gateway: FastifyInstance, agent: Agent, { by, instance, candidates, panic }: Forecast, now: number) {
  const { policy } = gateway.upstream.settingsOf(agent).balancer
  return {
    instance: instance?.id ?? null,
    candidates: candidates.map(({ id }) => id),
    panic,
    why: `${panic ? 'no instance is available, so all are tried all the same; ' : ''}${wordsOf(by, policy, candidates.length)}${instance !== null && isDueForTrial(instance, now) ? '; it is the trial of that instance' : ''}`
  }
}

const policyWords: Readonly<Record<string, string>> = {
  'round-robin': 'it is its turn',
  weighted: 'it is its turn by weight',
  'least-requests': 'it has the least to do for its weight',
  p2c: 'it is the better one of two, by how fast they answer',
  hash: 'it is the one for this client'
}

function wordsOf (by: Forecast['by'], policy: string, count: number): string {
  if (by === 'queue') return 'all instances are full, so the request would wait for a place'
  if (by === 'application') return 'the application\'s own balancer decides, which is not asked in vain'
  if (by === 'lot') return `one of these, and which one is drawn by lot (${policy})`
  return count === 1 ? 'it is the only one that may be taken' : policyWords[policy] ?? policy
}
