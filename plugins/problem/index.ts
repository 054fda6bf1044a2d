/**
 * Answers every error the gateway makes as RFC 9457 problem details: the error handler, and 404 or 405 for what has no route. What a hook
 * of the application around the gateway throws before any of the gateway's is left to the application's error handler.
 */
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import type { FleetRouteConfig } from '../auth/route-config.ts'
import { MethodNotAllowedError, NotFoundError, type FleetError } from '../../src/errors.ts'
import { renderProblem, toFleetError } from '../../src/problem.ts'
import { pathOf } from '../../src/request-target.ts'
import { RouteTable } from '../../src/route-table.ts'

export interface ProblemPluginOptions {
  /**
   * Also answer unknown paths. Leave it off where the application around the gateway has a not-found handler for the same prefix.
   * @default true
   */
  notFound?: boolean
}

declare module 'fastify' {
  interface FastifyInstance {
    problem: {
      /** Which routes there are, for who has to know without a request. */
      readonly routes: RouteTable<FleetRouteConfig>
      /** The error for a request that no route takes; undefined where the application around the gateway answers it. */
      unrouted (request: FastifyRequest): FleetError | undefined
    }
  }
}

const problemPlugin: FastifyPluginAsync<ProblemPluginOptions> = async (fastify, { notFound = true }) => {
  const routes = new RouteTable<FleetRouteConfig>(fastify.prefix.replace(/\/$/, ''))

  fastify.addHook('onRoute', ({ url, method, config }) => routes.add(url, method, config?.fleet))

  fastify.setErrorHandler(async (thrown, request, reply) => {
    if (request.facts === null) throw thrown // Fastify hands it on to the handler around this one
    const error = toFleetError(thrown)
    if (error.code === 'FLEET_INTERNAL') request.log.error({ err: thrown, requestId: requestIdOf(request) }, 'A defect of the gateway')
    return answer(error, request, reply)
  })

  fastify.decorate('problem', { routes, unrouted: notFound ? (request: FastifyRequest) => unrouted(request, routes) : () => undefined })
  if (notFound) fastify.setNotFoundHandler(async (request, reply) => answer(unrouted(request, routes), request, reply))
}

/** What is wrong with a request that no route takes. */
function unrouted ({ method, originalUrl }: FastifyRequest, routes: RouteTable<FleetRouteConfig>): FleetError {
  const path = pathOf(originalUrl)
  const methods = routes.methodsAt(path)
  if (methods.size === 0 || methods.has(method)) return new NotFoundError(`There is no route for ${method} ${path.slice(0, 256)}`)
  const allow = [...methods].sort().join(', ')
  return new MethodNotAllowedError(`${method} is not allowed here; allowed: ${allow}`, { headers: { allow } })
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

export default fp(problemPlugin, { name: 'fleet-problem', fastify: '5.x' })
