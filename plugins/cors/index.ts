/**
 * Cross-origin requests of browsers: @fastify/cors, which answers real preflights before auth sees them. An `OPTIONS` that is no preflight
 * is an ordinary request and goes on. Register it before auth: a preflight carries no credentials.
 */
import fastifyCors from '@fastify/cors'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/route-config.ts'
import { corsProblems } from '../../src/config-rules.ts'
import { loopbackOrigin } from '../../src/loopback.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { CorsOptions } from './options.ts'

/** Data of `cors` in fleet.yaml, and who may call without auth. */
export interface CorsSettings extends Partial<Omit<CorsOptions, 'maxAge'>> {
  /** A duration such as `10m`, or milliseconds. */
  maxAge?: string | number
  /** Only origins of this machine may call, on any port, instead of `origins`: for a gateway without auth. */
  loopbackOnly?: boolean
}

/** Data and seams. */
export interface CorsPluginOptions extends CorsSettings {
  /** Where it is off now, reconfigure() may switch it on: takes the route `OPTIONS *` already. @default false */
  switchable?: boolean
}

export interface Cors {
  /** It can be switched on: it was on at the start, or `switchable`. */
  readonly switchable: boolean
  /** Takes new rules at once, for the requests that come from now on. @throws OptionsError */
  reconfigure (settings: CorsSettings): void
  /** As reconfigure(), in two steps: what is wrong fails here, and what is returned applies it. @throws OptionsError */
  prepare (settings: CorsSettings): () => void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The gateway answers for cross-origin requests, so the agents' `Access-Control-*` don't count. */
    corsEnabled: boolean
    /** What the gateway answers to cross-origin requests. */
    cors: Cors
  }
}

/** What scripts of another origin may read of an answer, beside what every browser shows. */
const exposedHeaders = [
  'X-Request-Id', 'RateLimit', 'RateLimit-Policy', 'X-RateLimit-Limit', 'X-RateLimit-Remaining', 'X-RateLimit-Reset',
  'Retry-After', 'Location', 'Proxy-Status', 'Link', 'ETag'
].join(', ')

/** What is answered, made once for all requests. */
interface Rules {
  /** Everybody gets the same answer. */
  readonly anyOrigin: boolean
  readonly preflight: fastifyCors.FastifyCorsOptions
  readonly ordinary: fastifyCors.FastifyCorsOptions
}

/** Null when it is off. @throws OptionsError */
function rulesOf ({ loopbackOnly = false, ...data }: CorsSettings): Rules | null {
  const options = parseOptions(CorsOptions, data, 'cors', ['loopbackOnly', 'switchable'])
  if (!options.enabled) return null
  const anyOrigin = !loopbackOnly && options.origins.includes('*')
  const problems = loopbackOnly ? [] : corsProblems(options)
  if (problems.length > 0) throw new OptionsError('cors', problems)
  const preflight: fastifyCors.FastifyCorsOptions = {
    origin: loopbackOnly ? [loopbackOrigin] : anyOrigin ? '*' : [...options.origins],
    methods: options.methods.join(', '),
    credentials: options.credentials,
    exposedHeaders,
    ...(options.headers && { allowedHeaders: options.headers.join(', ') }),
    ...(options.maxAge !== undefined && { maxAge: Math.floor(options.maxAge / 1_000) })
  }
  return { anyOrigin, preflight, ordinary: { ...preflight, preflight: false } }
}

const corsPlugin: FastifyPluginAsync<CorsPluginOptions> = async (fastify, opts) => {
  const { switchable: givenSwitchable = false, ...settings } = opts
  let rules = rulesOf(settings)
  const switchable = givenSwitchable || rules !== null

  function prepare (next: CorsSettings): () => void {
    const prepared = rulesOf(next)
    if (prepared !== null && !switchable) throw new OptionsError('cors', [{ path: 'enabled', message: 'can not be switched on here: it was off at the start', at: 'value' }])
    return () => { rules = prepared }
  }

  fastify.decorate('corsEnabled', { getter: () => rules !== null })
  fastify.decorate('cors', { switchable, prepare, reconfigure: next => prepare(next)() })
  if (!switchable) return

  const stopMarking = markRoutes(fastify)
  const answerCors = await registerCors(fastify, {
    // Asked by nobody while it is off: the hook below does not come here then.
    delegator: (request: FastifyRequest, done: (error: Error | null, options?: fastifyCors.FastifyCorsOptions) => void) => {
      done(null, isPreflight(request) ? rules!.preflight : rules!.ordinary)
    }
  })
  stopMarking()

  // @fastify/cors says that there are 0 bytes of what a 204 never has (RFC 9110 §8.6).
  fastify.addHook('onSend', function dropLength (_request, reply, payload, done) {
    if (reply.statusCode === 204) void reply.removeHeader('content-length')
    done(null, payload)
  })

  fastify.addHook('onRequest', function addCorsHeaders (request, reply, done) {
    if (rules === null) return done()
    const { anyOrigin } = rules
    if (request.raw.headers.origin !== undefined) {
      return answerCors.call(this, request, reply, error => {
        if (anyOrigin) dropVary(reply)
        done(error)
      })
    }
    // No cross-origin request (Fetch §3.2); what a cache must know to keep the answer for one is all that is said.
    if (anyOrigin) void reply.header('access-control-allow-origin', '*')
    else void reply.header('vary', 'Origin')
    done()
  })
}

/** The Fetch standard's CORS-preflight request; any other `OPTIONS` is the agent's. */
function isPreflight ({ raw: { method, headers } }: FastifyRequest): boolean {
  return method === 'OPTIONS' && headers.origin !== undefined && headers['access-control-request-method'] !== undefined
}

/** With a delegator @fastify/cors always adds `Vary: Origin`; where every origin gets the same answer that would only split caches. */
function dropVary (reply: FastifyReply): void {
  if (reply.getHeader('vary') === 'Origin') void reply.removeHeader('vary')
}

/** The route that @fastify/cors adds for preflights must neither ask for a token nor count; the returned function ends the marking. */
function markRoutes (fastify: FastifyInstance): () => void {
  let marking = true
  fastify.addHook('onRoute', route => {
    if (marking) route.config = { ...route.config, fleet: { public: true, rateLimit: false, isForPreflights: true } }
  })
  return () => { marking = false }
}

/**
 * Registers @fastify/cors on a stand-in for the instance, and gives back its hook: most requests need not go through it. In an application
 * that has @fastify/cors itself, its request decorator is there already, and a second one would be refused.
 */
async function registerCors (fastify: FastifyInstance, options: fastifyCors.FastifyCorsOptions): Promise<onRequestHookHandler> {
  const hooks: onRequestHookHandler[] = []
  const standIn = Object.create(fastify, {
    addHook: { value: (_name: 'onRequest', hook: onRequestHookHandler) => { hooks.push(hook) } },
    ...(fastify.hasRequestDecorator('corsPreflightEnabled') && { decorateRequest: { value: () => standIn } })
  }) as FastifyInstance
  await new Promise<void>((resolve, reject) => {
    fastifyCors(standIn, options, error => { error ? reject(error) : resolve() })
  })
  return hooks[0]!
}

export { CorsOptions }
export default fp(corsPlugin, { name: 'fleet-cors', fastify: '5.x' })
