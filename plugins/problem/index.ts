/**
 * Answers every error the gateway makes as RFC 9457 problem details: the error handler, and 404 or 405 for what has no route. What a hook
 * of the application around the gateway throws before any of the gateway's is left to the application's error handler.
 */
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import { MethodNotAllowedError, NotFoundError, type FleetError } from '../../src/errors.ts'
import { renderProblem, toFleetError } from '../../src/problem.ts'

export interface ProblemPluginOptions {
  /**
   * Also answer unknown paths. Leave it off where the application around the gateway has a not-found handler for the same prefix.
   * @default true
   */
  notFound?: boolean
}

interface KnownRoute { pattern: RegExp, methods: Set<string> }

const problemPlugin: FastifyPluginAsync<ProblemPluginOptions> = async (fastify, { notFound = true }) => {
  const routes = new Map<string, KnownRoute>()
  const prefix = fastify.prefix.replace(/\/$/, '')

  fastify.addHook('onRoute', ({ url, method }) => {
    if (url.endsWith('*') && method === 'OPTIONS') return // the route that @fastify/cors adds for preflights
    // Fastify routes the prefix itself with and without a slash at its end, and tells of it here for HEAD only.
    const isRoot = prefix !== '' && (url === prefix || url === `${prefix}/`)
    const key = isRoot ? prefix : url
    const route = routes.get(key) ?? { pattern: toPattern(key, isRoot), methods: new Set() }
    for (const name of Array.isArray(method) ? method : [method]) route.methods.add(name)
    routes.set(key, route)
  })

  fastify.setErrorHandler(async (thrown, request, reply) => {
    if (request.facts === null) throw thrown // Fastify hands it on to the handler around this one
    const error = toFleetError(thrown)
    if (error.code === 'FLEET_INTERNAL') request.log.error({ err: thrown, requestId: requestIdOf(request) }, 'A defect of the gateway')
    return answer(error, request, reply)
  })

  if (!notFound) return
  fastify.setNotFoundHandler(async (request, reply) => {
    const path = pathOf(request.originalUrl)
    const methods = new Set<string>()
    for (const route of routes.values()) if (route.pattern.test(path)) for (const method of route.methods) methods.add(method)
    if (methods.size === 0 || methods.has(request.method)) return answer(new NotFoundError(`There is no route for ${request.method} ${path.slice(0, 256)}`), request, reply)
    const allow = [...methods].sort().join(', ')
    return answer(new MethodNotAllowedError(`${request.method} is not allowed here; allowed: ${allow}`, { headers: { allow } }), request, reply)
  })
}

function answer (error: FleetError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { status, headers, body } = renderProblem(error, requestIdOf(request))
  if (request.facts) request.facts.code = error.code
  return reply.code(status).headers(headers).serializer((text: string) => text).send(body)
}

/** The facts plugin's id where it runs, else Fastify's. */
function requestIdOf (request: FastifyRequest): string {
  return (request as { facts?: { id: string } | null }).facts?.id ?? String(request.id)
}

function pathOf (url: string): string {
  const query = url.indexOf('?')
  return query === -1 ? url : url.slice(0, query)
}

/** `/registry/:name` matches one segment, `/api/*` whatever follows. */
function toPattern (url: string, mayEndInSlash: boolean): RegExp {
  const source = url.split('/').map(part => {
    if (part === '*') return '.*'
    if (part.startsWith(':')) return '[^/]+'
    return part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  }).join('/')
  return new RegExp(`^${source}${mayEndInSlash ? '/?' : ''}$`)
}

export default fp(problemPlugin, { name: 'fleet-problem', fastify: '5.x' })
