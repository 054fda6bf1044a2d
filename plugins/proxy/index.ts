/**
 * `/api/{agent}/{path}`: forwards to an instance of the agent. @fastify/http-proxy owns the routes; each request is taken over from it as
 * soon as all onRequest hooks have passed, before any body parser looks at it, and goes through the engine in exchange.ts.
 */
import { randomBytes } from 'node:crypto'
import httpProxy from '@fastify/http-proxy'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/index.ts'
import type {} from '../cors/index.ts'
import type {} from '../drain/index.ts'
import type {} from '../facts/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { NotFoundError } from '../../src/errors.ts'
import type { Agent, Rotation } from '../../src/fleet/agent.ts'
import { createLookupOf, type LookupOf } from '../../src/guarded-lookup.ts'
import { RetryBudget } from '../../src/fleet/retry-budget.ts'
import { mountPath } from '../../src/mount-path.ts'
import { OptionsError, Type, parseOptions, type Static } from '../../src/options.ts'
import { createTlsOf, type TlsOf } from '../../src/tls-agents.ts'
import { agentPath, type AgentPath } from './agent-path.ts'
import { Connections, upstreamClients, type UpstreamClient } from './connections.ts'
import { Exchange, idempotentMethods } from './exchange.ts'
import { createReporter } from './failure-log.ts'
import type { ForwardContext, ForwardTarget } from './forward-context.ts'
import { FieldNames } from './field-names.ts'
import { mustNotGoOn } from './max-forwards.ts'
import { acceptAllMethods, forwardedMethods } from './methods.ts'
import { OpenStreams } from './open-streams.ts'
import { PathsOptions, RetryOptions, TimeoutsOptions } from './options.ts'
import { createPolicyTable, type ForwardPolicy } from './policy.ts'
import { TraceStarter } from './trace-context.ts'
import { Tunnel } from './tunnel.ts'
import { acceptUpgrades, upgradeOffer } from './upgrade.ts'

const ProxyOptions = Type.Object({
  timeouts: TimeoutsOptions,
  retry: RetryOptions,
  paths: PathsOptions,
  bodyLimit: Type.Optional(Type.Integer({ minimum: 1, description: 'Bytes; unlimited when left out.' }))
}, { additionalProperties: false })

/** Data as in fleet.yaml (`timeouts`, `retry`, `paths`, `server.bodyLimit` in bytes), and seams. */
export interface ProxyPluginOptions {
  timeouts?: Partial<Static<typeof TimeoutsOptions>>
  retry?: Partial<Static<typeof RetryOptions>>
  paths?: Static<typeof PathsOptions>
  bodyLimit?: number
  /** This process's own name in `Via`. @default random */
  viaPseudonym?: string
  /** How names of instances are resolved. @default those that registered themselves may not lead to refused addresses */
  lookupOf?: LookupOf
  /** How TLS connections to instances are opened. @default as the agent's `tls` says */
  tlsOf?: TlsOf
  /** Told the length of each body chunk that passes, either way. */
  onStreamed?: (bytes: number) => void
  /** The path under which the agents are. @default `/api` */
  path?: string
  /** Who speaks HTTP to agents: our own client, or undici's. @default `own` */
  upstreamClient?: UpstreamClient
}

/** Names of the seams. */
const seams = ['viaPseudonym', 'lookupOf', 'tlsOf', 'onStreamed', 'path', 'upstreamClient']

export interface Proxy {
  /** Takes new defaults; exchanges under way keep theirs. @throws OptionsError */
  reconfigure (options: Pick<ProxyPluginOptions, 'timeouts' | 'retry' | 'paths'>): void
  /** Ends open event streams and tunnels properly towards both sides, and from now on those that open later. */
  endStreams (): void
  /** Requests from now on are sent over connections with TLS that are made from now on; for when what `tlsOf` says is different. */
  renewTls (): void
  readonly openStreams: number
  /** Whom a request target under the proxy's path names, and what of it the agent gets; undefined when it names nobody. */
  read (target: string): AgentPath | undefined
  /** What holds for requests to this path of the agent. */
  policyAt (agent: Agent, path: string): ForwardPolicy & { readonly prefix: string | undefined, readonly ownHeaders: readonly string[] }
  /** Whether requests with this method may be sent again without an `Idempotency-Key`. */
  isIdempotent (method: string): boolean
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The forwarding engine. */
    proxy: Proxy
  }
}

/** With so many requests under way they are written together: of two it costs more than it saves, of four less (docs/performance.md). */
const leastTogether = 4

const proxyPlugin: FastifyPluginAsync<ProxyPluginOptions> = async (fastify, opts) => {
  const { viaPseudonym = `fleet-${randomBytes(6).toString('hex')}`, path = '/api', lookupOf = createLookupOf(undefined), tlsOf = createTlsOf(fastify.registry, fastify.log), onStreamed = () => {}, upstreamClient = 'own', ...data } = opts
  const { bodyLimit = Infinity, ...defaults } = parseOptions(ProxyOptions, { timeouts: {}, retry: {}, paths: [], ...data }, '', seams)
  if (fastify.initialConfig.http2 === true) throw new Error('The gateway forwards HTTP/1.1: create the application without http2, and let a proxy in front speak HTTP/2')
  if (!upstreamClients.includes(upstreamClient)) throw new OptionsError('', [{ path: 'upstreamClient', message: `must be one of ${upstreamClients.join(', ')} (got ${JSON.stringify(upstreamClient)})`, at: 'value' }])
  const { registry, upstream } = fastify
  const prefix = `${mountPath(fastify.prefix)}${path}`
  const { caseSensitive, routerOptions } = fastify.initialConfig
  const hasCors = fastify.hasDecorator('corsEnabled')
  const isCaseSensitive = routerOptions?.caseSensitive ?? caseSensitive ?? true
  const connections = new Connections(lookupOf, tlsOf, upstreamClient)
  const streams = new OpenStreams()
  const budgets = new WeakMap<Rotation, RetryBudget>()
  let policies = createPolicyTable(defaults)

  const context: ForwardContext = {
    upstream,
    connections,
    lookupOf,
    tlsOf,
    writesTogether: () => fastify.facts.inFlight >= leastTogether,
    bodyLimit,
    viaPseudonym,
    sendsTrailers: upstreamClient === 'own',
    names: new FieldNames(),
    traces: new TraceStarter(),
    isDraining: () => fastify.hasDecorator('drain') && fastify.drain.draining,
    streams,
    kept: null,
    report: createReporter(fastify.log),
    onStreamed,
    budgetOf (agent) {
      let budget = budgets.get(agent.rotation)
      if (budget === undefined) budgets.set(agent.rotation, budget = new RetryBudget())
      return budget
    }
  }

  function targetOf (request: FastifyRequest): ForwardTarget {
    const asked = agentPath(request.originalUrl, prefix, isCaseSensitive)
    if (asked === undefined) throw new NotFoundError(`Name an agent: ${prefix}/{agent}/…`)
    const agent = registry.get(asked.name)
    request.facts.agent = agent.name
    const policy = policies.of(agent, asked.rest)
    return {
      agent,
      policy,
      path: asked.rest,
      prefix: `${prefix}/${asked.segment}`,
      knownPrefixes: prefixesOf(agent),
      authorizationIsGateways: request.authorizationIsGateways === true,
      corsEnabled: hasCors && fastify.corsEnabled
    }
  }

  const knownPrefixes = new WeakMap<Agent, readonly string[]>()
  function prefixesOf (agent: Agent): readonly string[] {
    let prefixes = knownPrefixes.get(agent)
    if (prefixes === undefined) knownPrefixes.set(agent, prefixes = [agent.name, ...agent.aliases].map(name => `${prefix}/${name}`))
    return prefixes
  }

  function takeOver (request: FastifyRequest, reply: FastifyReply): void {
    const target = targetOf(request)
    if (request.method === 'OPTIONS' && mustNotGoOn(request.raw.headers)) return void reply.code(204).header('allow', forwardedMethods.join(', ')).send()
    const offer = upgradeOffer(request.raw)
    reply.hijack()
    // The client left while a hook waited: nobody would hear of it any more. Of a socket that offers an upgrade nobody reads, and it only ends then.
    if (reply.raw.destroyed) return
    if (offer?.socket.readableEnded === true) return void offer.socket.destroy()
    if (offer === undefined) new Exchange(request, reply, target, context).start()
    else new Tunnel(request, reply, offer, target, context, facts => fastify.facts.finish(facts)).start()
  }

  fastify.decorate('proxy', {
    reconfigure ({ timeouts = {}, retry = {}, paths = [] }) {
      policies = createPolicyTable({
        timeouts: parseOptions(TimeoutsOptions, timeouts, 'timeouts'),
        retry: parseOptions(RetryOptions, retry, 'retry'),
        paths: parseOptions(PathsOptions, paths, 'paths')
      })
    },
    endStreams: () => streams.endAll(),
    renewTls: () => connections.leaveTls(),
    get openStreams () { return streams.size },
    read: target => agentPath(target, prefix, isCaseSensitive),
    policyAt (agent, path) {
      const policy = policies.of(agent, path)
      return { ...policy, prefix: policies.prefixAt(agent, path), ownHeaders: policy.own?.fields.filter((_, index) => index % 2 === 0) ?? [] }
    },
    isIdempotent: method => idempotentMethods.has(method)
  })

  await fastify.register(async scope => {
    acceptAllMethods(scope)
    scope.addHook('preParsing', function takeOverRequest (request, reply, _payload, done) {
      try {
        takeOver(request, reply)
      } catch (error) {
        done(error as Error)
      }
    })
    scope.removeAllContentTypeParsers() // those of the application: http-proxy brings its own, and one of the same type would stop the start
    await scope.register(httpProxy, {
      upstream: '',
      prefix: path,
      httpMethods: [...forwardedMethods],
      config: { fleet: { scope: 'proxy' } },
      replyOptions: { getUpstream: () => { throw new Error('every request is taken over before') } }
    })
  })

  const stopUpgrades = acceptUpgrades(fastify, target => agentPath(target, prefix, isCaseSensitive) !== undefined)
  const stopWatching = registry.onChange(({ removed }) => {
    for (const instance of removed) connections.leave(instance)
  })
  fastify.addHook('preClose', async () => {
    stopUpgrades()
    streams.endAll()
  })
  fastify.addHook('onClose', async () => {
    stopWatching()
    connections.destroy()
  })
}

export { PathsOptions, RetryOptions, TimeoutsOptions }
export default fp(proxyPlugin, { name: 'fleet-proxy', fastify: '5.x', decorators: { fastify: ['registry', 'upstream', 'facts'] } })
