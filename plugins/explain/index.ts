/**
 * `GET /explain?method=&path=&key=`: what the gateway would do with a request, without doing it. Nothing is sent to an agent, and no turn is
 * taken.
 */
import type { FastifyPluginAsync, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import type {} from '../problem/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { BadRequestError, ForbiddenError } from '../../src/errors.ts'
import { mountPath } from '../../src/mount-path.ts'
import { anyone, hasScope, type Principal } from '../../src/principal.ts'
import { explain } from './explanation.ts'

export interface ExplainPluginOptions {
  clock?: Clock
}

interface ExplainQuery { method?: string | string[], path?: string | string[], key?: string | string[] }

/** Of a method; no request has a longer one. */
const methodPattern = /^[A-Z][A-Z-]{0,31}$/

const explainPlugin: FastifyPluginAsync<ExplainPluginOptions> = async (fastify, { clock = systemClock }) => {
  const mount = mountPath(fastify.prefix)

  /** Whose request is explained. */
  function subjectOf (request: FastifyRequest, key: string | undefined): Principal {
    const caller = request.principal ?? anyone
    if (key === undefined || key === caller.id) return caller
    if (!hasScope(caller, 'admin')) throw new ForbiddenError('Only a key with the scope "admin" may ask for another key')
    const principal = fastify.hasDecorator('auth') ? fastify.auth.keyOf(key) : undefined
    if (principal === undefined) throw new BadRequestError(`There is no key "${key.slice(0, 64)}"`)
    return principal
  }

  await fastify.register(async scope => {
    scope.get<{ Querystring: ExplainQuery }>('/explain', { config: { fleet: { scope: 'read' } } }, async (request, reply) => {
      const { method = 'GET', path, key } = request.query
      if (typeof method !== 'string' || !methodPattern.test(method)) throw new BadRequestError('method must be one, such as GET')
      if (typeof path !== 'string' || path === '') throw new BadRequestError('path must be one, such as /api/my-agent/')
      if (key !== undefined && typeof key !== 'string') throw new BadRequestError('key must be one id')
      void reply.header('cache-control', 'no-store')
      return explain(fastify, {
        method,
        target: mount !== '' && (path === mount || path.startsWith(`${mount}/`)) ? path : mount + path,
        principal: subjectOf(request, key),
        teller: request.principal ?? anyone,
        asker: { headers: request.headers, clientAddress: request.facts?.clientAddress ?? request.ip },
        now: clock.now()
      })
    })
  })
}

export default fp(explainPlugin, { name: 'fleet-explain', fastify: '5.x', decorators: { fastify: ['problem', 'registry', 'upstream'] } })
