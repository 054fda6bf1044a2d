/**
 * Answers requests that no route takes as soon as their turn in the order of refusals has come, before anything of a body is read or waited for. The
 * not-found handler of `fleet-problem` would come last.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/route-config.ts'
import { usualMethods } from '../../src/route-table.ts'
import type {} from './index.ts'

const unroutedPlugin: FastifyPluginAsync = async fastify => {
  const { problem } = fastify
  fastify.addHook('onRequest', function refuseUnrouted (request, reply, done) {
    if (!request.is404 && request.routeOptions.config.fleet?.isForPreflights !== true) return done()
    if (request.originalUrl !== '*') return done(problem.unrouted(request))
    void reply.code(204).header('allow', usualMethods).send() // of the server as a whole (RFC 9110 §9.3.7)
  })
}

export default fp(unroutedPlugin, { name: 'fleet-unrouted', fastify: '5.x', decorators: { fastify: ['problem'] } })
