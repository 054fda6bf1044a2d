/**
 * Cross-origin requests of browsers: @fastify/cors, which answers real preflights before auth sees them. An `OPTIONS` that is no preflight
 * is an ordinary request and goes on. Register it before auth: a preflight carries no credentials.
 */
import fastifyCors from '@fastify/cors'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/route-config.ts'
import { loopbackOrigin } from '../../src/loopback.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { CorsOptions } from './options.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The gateway answers for cross-origin requests, so the agents' `Access-Control-*` don't count. */
    corsEnabled: boolean
  }
}

/** Data of `cors` in fleet.yaml, and seams. */
export interface CorsPluginOptions extends Partial<Omit<CorsOptions, 'maxAge'>> {
  /** A duration such as `10m`, or milliseconds. */
  maxAge?: string | number
  /** Only origins of this machine may call, on any port, instead of `origins`: for a gateway without auth. */
  loopbackOnly?: boolean
}

/** What scripts of another origin may read of an answer, beside what every browser shows. */
const exposedHeaders = [
  'X-Request-Id', 'RateLimit', 'RateLimit-Policy', 'X-RateLimit-Limit', 'X-RateLimit-Remaining', 'X-RateLimit-Reset',
  'Retry-After', 'Location', 'Proxy-Status', 'Link', 'ETag'
].join(', ')

const corsPlugin: FastifyPluginAsync<CorsPluginOptions> = async (fastify, opts) => {
  const { loopbackOnly = false, ...data } = opts
  const options = parseOptions(CorsOptions, data, 'cors')
  fastify.decorate('corsEnabled', options.enabled)
  if (!options.enabled) return

  const anyOrigin = !loopbackOnly && options.origins.includes('*')
  const everybody = anyOrigin ? '*' : !loopbackOnly && options.origins.includes('null') ? 'null' : null // a sandboxed frame of any page has the latter
  if (options.credentials && everybody !== null) {
    throw new OptionsError('cors', [{ path: 'credentials', message: `can not be true while origins has "${everybody}": name the origins`, at: 'value' }])
  }

  const settings: fastifyCors.FastifyCorsOptions = {
    origin: loopbackOnly ? [loopbackOrigin] : anyOrigin ? '*' : [...options.origins],
    methods: options.methods.join(', '),
    credentials: options.credentials,
    exposedHeaders,
    ...(options.headers && { allowedHeaders: options.headers.join(', ') }),
    ...(options.maxAge !== undefined && { maxAge: Math.floor(options.maxAge / 1_000) })
  }
  const ordinary = { ...settings, preflight: false }

  const stopMarking = markRoutes(fastify)
  const answerCors = await registerCors(fastify, {
    delegator: (request: FastifyRequest, done: (error: Error | null, options?: fastifyCors.FastifyCorsOptions) => void) => {
      done(null, isPreflight(request) ? settings : ordinary)
    }
  })
  stopMarking()

  // @fastify/cors says that there are 0 bytes of what a 204 never has (RFC 9110 §8.6).
  fastify.addHook('onSend', function dropLength (_request, reply, payload, done) {
    if (reply.statusCode === 204) void reply.removeHeader('content-length')
    done(null, payload)
  })

  fastify.addHook('onRequest', function addCorsHeaders (request, reply, done) {
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
    if (marking) route.config = { ...route.config, fleet: { public: true, rateLimit: false } }
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
