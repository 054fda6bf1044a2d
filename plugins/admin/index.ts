/**
 * The registry over HTTP: who is in the fleet (`/agents`, `/registry`), registration, heartbeats, removal; keys (keys.ts); and the index at `/`.
 * Rules are the registry's; this file is about bodies, permissions and answers.
 */
import type { Server } from 'node:net'
import type { FastifyPluginAsync, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/index.ts'
import type {} from '../dns/index.ts'
import type {} from '../health/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { RegistrationOptions, toRegistration } from '../../src/agent-options.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { AgentNotFoundError, BadRequestError, ForbiddenError, InstanceNotFoundError, InvalidRegistrationError, isFleetError } from '../../src/errors.ts'
import { canonicalHost, registrationHostProblem, type RegistrationHostRules } from '../../src/fleet/address.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import type { InstanceRuntime, Source } from '../../src/fleet/instance.ts'
import type { Registration } from '../../src/fleet/registry.ts'
import { mountPath } from '../../src/mount-path.ts'
import { checkOptions, parseOptions } from '../../src/options.ts'
import { isOwnAddress } from '../../src/own-address.ts'
import { anyone, hasScope, mayTouch } from '../../src/principal.ts'
import { answerIndex } from './index-page.ts'
import { addKeyRoutes } from './keys.ts'
import { readOwnBodies } from './own-body.ts'
import { agentView, instanceView, leaseView, registryView } from './views.ts'

export interface AdminPluginOptions {
  /** Hosts that registrations may name. @default what the registry was told; any that is not refused anyway */
  allowedHosts?: readonly string[]
  /** How long the body of a registration may stand still, milliseconds; asked for each. @default five minutes */
  idleMs?: () => number
  clock?: Clock
}

/** As `timeouts.idle` has it. */
const defaultIdleMs = 5 * 60_000

/** Of a registration's body. */
const maxBodyBytes = 256 * 1024

/** How often a draining instance is looked at. */
const drainCheckMs = 100

interface NameParams { name: string }
interface InstanceParams extends NameParams { id: string }

const adminPlugin: FastifyPluginAsync<AdminPluginOptions> = async (fastify, { allowedHosts, idleMs = () => defaultIdleMs, clock = systemClock }) => {
  const { registry, registrations } = fastify
  /** Asked each time: a reload changes them. */
  const hostRules = (): RegistrationHostRules => {
    const hosts = allowedHosts ?? (fastify.hasDecorator('registryRules') ? fastify.registryRules.allowedHosts : undefined)
    return hosts === undefined ? {} : { allowedHosts: hosts }
  }
  const mountedAt = mountPath(fastify.prefix)
  const open = { config: { fleet: { public: true } } }
  const reading = { config: { fleet: { scope: 'read' } } } as const
  const changing = { config: { fleet: { scope: 'register' } }, bodyLimit: maxBodyBytes } as const

  readOwnBodies(fastify, { maxBytes: maxBodyBytes, idleMs })

  fastify.get('/', open, (request, reply) => answerIndex(request, reply, mountedAt))

  fastify.get('/agents', reading, async request => byName(request, shown))
  fastify.get<{ Params: NameParams }>('/agents/:name', reading, async request => shown(registry.get(request.params.name)))
  fastify.get('/registry', reading, async request => byName(request, registryView))

  fastify.post('/registry/register', changing, async (request, reply) => {
    const registration = readRegistration(request.body)
    if (!mayTouch(request.principal, registration.name)) throw new ForbiddenError(`This key may not register "${registration.name}"`)
    const { name } = registration
    const taken = registration.aliases?.find(alias => isOthers(request, alias))
    if (taken !== undefined) throw new ForbiddenError(`This key may not take the name "${taken}"`)
    const known = registry.find(name)
    const trusted = hasScope(request.principal ?? anyone, 'admin')
    const given = known && credentialsFor(known)
    if (!trusted && given !== undefined) throw new ForbiddenError(`"${name}" is given ${given}, so only a key with the scope admin may register instances of it`)
    const { created, instance } = await registrations.register({ ...registration, trusted }).finally(() => watchDrains(name)) // who registers in vain stays on its way out
    reconsider(name)
    void reply.code(created ? 201 : 200).header('location', `${mountedAt}/registry/${encodeURIComponent(name)}/instances/${instance.id}`)
    return { message: `registered ${name}`, name, instance: instanceView(instance), ...(instance.lease && { lease: leaseView(instance.lease) }) }
  })

  fastify.put<{ Params: InstanceParams }>('/registry/:name/instances/:id', changing, async request => {
    const { id } = request.params
    const instance = await registrations.heartbeat(await ownAgent(request, agent => registry.instance(agent.name, id)), id)
    return { message: `renewed ${id}`, name: instance.agent, instance: instanceView(instance), lease: instance.lease && leaseView(instance.lease) }
  })

  fastify.delete<{ Params: NameParams, Querystring: { host?: string, port?: string, drain?: string } }>('/registry/:name', changing, async request => {
    const { host, port } = request.query
    const isDrain = readDrain(request.query)
    if (host === undefined && port === undefined) {
      if (isDrain) throw new BadRequestError('Instances are drained one by one: name one by ?host=…&port=…, or DELETE /registry/{name}/instances/{id}?drain=true')
      return deregistered(await registrations.removeAgent(await ownAgent(request)))
    }
    const name = await ownAgent(request, agent => instanceAt(agent, host, port))
    return await takeOut(name, instanceAt(registry.get(name), host, port), isDrain)
  })

  fastify.delete<{ Params: InstanceParams, Querystring: { drain?: string } }>('/registry/:name/instances/:id', changing, async request => {
    const { id } = request.params
    const isDrain = readDrain(request.query)
    return await takeOut(await ownAgent(request, agent => registry.instance(agent.name, id)), id, isDrain)
  })

  addKeyRoutes(fastify)

  function shown (agent: Agent) {
    return agentView(agent, {
      names: fastify.hasDecorator('dns') ? fastify.dns.namesOf(agent.name) : [],
      noteOf: instance => fastify.hasDecorator('health') ? fastify.health.lastChange(instance) : undefined
    })
  }

  /**
   * The agent in the path. Its names may have changed hands since auth looked, while the body of the request was awaited.
   * @param needs what has to be known of it as well
   */
  async function ownAgent ({ params, principal }: FastifyRequest<{ Params: NameParams }>, needs: (agent: Agent) => unknown = () => {}): Promise<string> {
    const find = () => {
      const agent = registry.get(params.name)
      if (!mayTouch(principal, agent.name)) throw new ForbiddenError('This key is not for that agent')
      needs(agent)
      return agent.name
    }
    try {
      return find()
    } catch (error) {
      const isUnknown = isFleetError(error) && (error.code === AgentNotFoundError.code || error.code === InstanceNotFoundError.code)
      if (!isUnknown || !await registrations.catchUp(registry.find(params.name)?.name ?? params.name)) throw error
      return find()
    }
  }

  /** Whether the name is an agent's that other keys are for, so that this one must not lead its clients elsewhere. */
  function isOthers ({ principal }: FastifyRequest, name: string): boolean {
    return fastify.hasDecorator('auth') && principal !== null && fastify.auth.isOthers(name, principal)
  }

  /** Who waits for a place at the agent may have one now, or nobody to wait for: a drain that begins or ends is no change of the registry. */
  function reconsider (name: string): void {
    if (fastify.hasDecorator('upstream')) fastify.upstream.reconsider(name)
  }

  async function takeOut (nameOrAlias: string, id: string, isDrain: boolean) {
    if (!isDrain) return await removeInstance(nameOrAlias, id)
    const instance = await registrations.drain(nameOrAlias, id)
    reconsider(instance.agent)
    if (!registrations.endsDrainOf(instance)) removeWhenIdle(instance.agent, id, instance.runtime)
    return { message: `draining ${id} of ${instance.agent}`, name: instance.agent, instance: instanceView(instance), ...noteOf(instance.source) }
  }

  async function removeInstance (nameOrAlias: string, id: string) {
    const { instance: { source }, ...removed } = await registrations.removeInstance(nameOrAlias, id)
    const answer = deregistered(removed, source === 'dns')
    if (answer.note !== undefined || registry.find(removed.name)?.instances.length !== 0) return answer
    return { ...answer, note: 'That was its last instance: requests get 503 until one registers again' }
  }

  function deregistered ({ name, inFile }: { name: string, inFile: boolean }, inDns = false) {
    return { message: `deregistered ${name}`, ...noteOf(inFile ? 'file' : inDns ? 'dns' : 'api') }
  }

  /** For how long an instance stays out that somebody else than who registers names as well. */
  function noteOf (source: Source): { note?: string } {
    if (source === 'api') return {}
    const whence = source === 'file'
      ? 'It is in fleet.yaml, so it stays out until what that file says changes, or the gateway restarts'
      : 'It was found in DNS, so it stays out until DNS names it no more, what fleet.yaml says changes, or the gateway restarts'
    return { note: registrations.redis === undefined ? whence : `${whence}; here alone, since each gateway has its own file` }
  }

  /** Also of what looked for a moment as if it were wanted again. */
  function watchDrains (name: string): void {
    for (const instance of registry.find(name)?.instances ?? []) {
      if (instance.runtime.draining && !registrations.endsDrainOf(instance)) removeWhenIdle(instance.agent, instance.id, instance.runtime)
    }
  }

  /** By the runtime record of what drains: asked again, it is still one drain. */
  const watches = new Map<InstanceRuntime, () => void>()
  function removeWhenIdle (name: string, id: string, runtime: InstanceRuntime): void {
    if (watches.has(runtime)) return
    const stop = clock.every(drainCheckMs, () => {
      const instance = registry.find(name)?.instances.find(candidate => candidate.id === id)
      if (instance?.runtime.draining && instance.runtime.inFlight > 0) return
      stop()
      watches.delete(runtime)
      if (!instance?.runtime.draining) return // it is gone, or was registered again
      removeInstance(name, id).catch((error: unknown) => fastify.log.error(error, 'A drained instance could not be removed'))
    })
    watches.set(runtime, stop)
  }
  fastify.addHook('onClose', async () => {
    for (const stop of watches.values()) stop()
  })

  function byName<V> (request: FastifyRequest, view: (agent: Agent) => V): Record<string, V> {
    const visible = [...registry.agents()].filter(agent => mayTouch(request.principal, agent.name))
    return Object.fromEntries(visible.map(agent => [agent.name, view(agent)]))
  }

  function readRegistration (body: unknown): Registration {
    const errors = checkOptions(RegistrationOptions, body).map(({ path, message }) => ({ path, message }))
    if (errors.length > 0) throw invalid(errors)
    const registration = toRegistration(parseOptions(RegistrationOptions, body, ''))
    const problem = registrationHostProblem(registration.host, hostRules()) ??
      (isOwnAddress(fastify.server as Server, registration.host, registration.port) ? 'is the gateway\'s own address' : undefined)
    if (problem !== undefined) throw invalid([{ path: 'host', message: problem }])
    return registration
  }
}

function invalid (errors: { path: string, message: string }[]) {
  return new InvalidRegistrationError(errors.map(({ path, message }) => `${path} ${message}`.trim()).join('; '), { errors })
}

function readDrain ({ drain = 'false' }: { drain?: string }): boolean {
  if (drain !== 'true' && drain !== 'false') throw new BadRequestError('drain must be "true" or "false"')
  return drain === 'true'
}

/** What instances of the agent are trusted with, in words; undefined for nothing. */
function credentialsFor ({ headers, policy }: Agent): string | undefined {
  if (headers !== undefined || policy.tls?.certFile !== undefined) return 'credentials of the gateway'
  return policy.forwardAuthorization === true ? 'the clients\' tokens' : undefined
}

/** The id of the agent's instance at an address. */
function instanceAt (agent: Agent, host: string | undefined, port: string | undefined): string {
  if (host === undefined || port === undefined || !/^\d{1,5}$/.test(port)) throw new BadRequestError('Name an instance by both host and port: ?host=localhost&port=9000')
  const wanted = authorityOf(canonicalHost(host), Number(port))
  const instance = agent.instances.find(candidate => authorityOf(candidate.host, candidate.port) === wanted)
  if (instance === undefined) throw new InstanceNotFoundError(`The agent "${agent.name}" has no such instance`, { nearest: nearestAddresses(agent, Number(port)) })
  return instance.id
}

/** In the form that was asked for; those with the same port first, since a host has several names. */
function nearestAddresses ({ instances }: Agent, port: number): string[] {
  const ofPort = instances.filter(instance => instance.port === port)
  const others = instances.filter(instance => instance.port !== port)
  return [...ofPort, ...others].slice(0, 3).map(instance => authorityOf(instance.host, instance.port))
}

export default fp(adminPlugin, { name: 'fleet-admin', fastify: '5.x', encapsulate: true, decorators: { fastify: ['registry', 'registrations'] } })
