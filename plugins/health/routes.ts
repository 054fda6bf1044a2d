/**
 * The answers to "how are you": /health for people and monitors, /health/live and /health/ready for whoever starts and stops processes.
 */
import type { FastifyInstance, FastifyPluginAsync, FastifyRequest } from 'fastify'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../drain/index.ts'
import type {} from '../registry/index.ts'
import type { RedisState } from '../registry/registrations.ts'
import type { Clock } from '../../src/clock.ts'
import { DrainingError } from '../../src/errors.ts'
import { servingCount, type Agent } from '../../src/fleet/agent.ts'
import { isHealthy, stateOf, type Instance, type InstanceState } from '../../src/fleet/instance.ts'
import { hasScope, mayTouch } from '../../src/principal.ts'
import type { Health, HealthNote } from './index.ts'

/** How one agent fares; who may not know more gets the figures alone. */
export interface ServiceHealth {
  healthy: boolean
  healthy_instances: number
  total_instances: number
  instances?: { id: string, host: string, port: number, healthy: boolean, state: InstanceState, why: string | null, since: string | null }[]
  friendly_names?: readonly string[]
}

/** The body of `GET /health`. */
export interface HealthReport {
  status: 'healthy' | 'degraded'
  gateway: 'ok'
  uptime_seconds: number
  /** Only where gateways share one. Nothing of `status`: without it the fleet is served as it is known. */
  redis?: RedisState
  services: Record<string, ServiceHealth>
}

export interface HealthRouteOptions {
  clock: Clock
  /** Aborts when the application begins to close. */
  closing: AbortSignal
}

/** What a client waits before it asks an unready gateway again. */
const retryAfterSeconds = '1'

/** `/health`, `/health/live` and `/health/ready`, and the probe on demand. */
export const healthRoutes: FastifyPluginAsync<HealthRouteOptions> = async (fastify, { clock, closing }) => {
  const startedAt = clock.now()
  let ready = false

  fastify.addHook('onReady', async () => { ready = true })
  fastify.addHook('onRequest', async (_request, reply) => { reply.header('cache-control', 'no-store') })

  fastify.get('/health', { config: { fleet: { optionalAuth: true, rateLimit: false } } }, async request => {
    return healthReport(fastify, name => maySeeDetails(request, name), startedAt, clock.now())
  })

  fastify.get('/health/live', { config: { fleet: { public: true, rateLimit: false } } }, async () => ({ status: 'ok' }))

  fastify.get('/health/ready', { config: { fleet: { public: true, rateLimit: false } } }, async () => {
    if (!ready) throw new DrainingError('The gateway is starting', { headers: { 'retry-after': retryAfterSeconds } })
    if (fastify.hasDecorator('drain') && fastify.drain.draining) {
      throw new DrainingError('The gateway is shutting down', { headers: { 'retry-after': retryAfterSeconds } })
    }
    const takesRegistrations = !fastify.hasDecorator('registrations') || fastify.registrations.isAvailable
    return { status: 'ready', ...(!takesRegistrations && { degraded: ['redis'] }) }
  })

  // Nothing here has a body; HTTP libraries name the type of one that is not there, and whoever sends one need not be asked again.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })

  // A POST, since it makes the gateway do something; who may read may ask.
  fastify.post<{ Params: { name: string, id: string } }>('/registry/:name/instances/:id/probe', { config: { fleet: { scope: 'read' } } }, async (request, reply) => {
    const { name, id } = request.params
    const { outcome, status, cause, path, latencyMs } = await fastify.health.check(fastify.registry.instance(name, id))
    if (closing.aborted) reply.header('connection', 'close') // or the listener would wait for the client to hang up
    return { ok: outcome === 'ok', outcome, status, cause, path, latency_ms: latencyMs }
  })
}

/** Addresses are for who may read them; where there is no auth that is everybody. */
function maySeeDetails (request: FastifyRequest, agentName: string): boolean {
  const { server } = request
  if (!server.hasDecorator('auth') || !server.auth.enabled) return true
  const { principal } = request
  return principal !== null && hasScope(principal, 'read') && mayTouch(principal, agentName)
}

function healthReport (fastify: FastifyInstance, seesDetails: (name: string) => boolean, startedAt: number, now: number): HealthReport {
  const services: [string, ServiceHealth][] = []
  let status: HealthReport['status'] = 'healthy'
  for (const agent of fastify.registry.agents()) {
    const service = serviceHealth(agent)
    if (!service.healthy) status = 'degraded'
    services.push([agent.name, seesDetails(agent.name) ? { ...service, ...details(agent, fastify.health) } : service])
  }
  const redis = fastify.hasDecorator('registrations') ? fastify.registrations.redis : undefined
  // fromEntries() makes "__proto__" a key as any other
  return { status, gateway: 'ok', uptime_seconds: (now - startedAt) / 1_000, ...(redis !== undefined && { redis }), services: Object.fromEntries(services) }
}

function serviceHealth (agent: Agent): ServiceHealth {
  const available = servingCount(agent)
  return { healthy: available > 0, healthy_instances: available, total_instances: agent.instances.length }
}

function details ({ instances, aliases }: Agent, health: Health): Pick<ServiceHealth, 'instances' | 'friendly_names'> {
  return { instances: instances.map(instance => instanceHealth(instance, health.lastChange(instance))), friendly_names: aliases }
}

function instanceHealth (instance: Instance, note: HealthNote | undefined) {
  const { id, host, port } = instance
  return { id, host, port, healthy: isHealthy(instance), state: stateOf(instance), why: note?.reason ?? null, since: note === undefined ? null : new Date(note.at).toISOString() }
}
