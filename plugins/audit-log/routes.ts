/**
 * `GET /audit`: the last exchanges, or, for who accepts an event stream, those that finish from now on.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../drain/index.ts'
import type { Clock } from '../../src/clock.ts'
import { BadRequestError, DrainingError, ForbiddenError, RateLimitedError } from '../../src/errors.ts'
import { hasScope, maySeeExchange, mayTouch, type Principal } from '../../src/principal.ts'
import { addVary } from '../../src/negotiation.ts'
import { wantsEventStream } from './accept.ts'
import type { AuditEntry } from './entry.ts'
import { agentIn, beginningOf, limitIn, predicateOf, select, type AuditFilter } from './filter.ts'
import { lineJson } from './json.ts'
import { LiveStreams } from './live.ts'
import type { RecentExchanges } from './recent.ts'

/** The answer of `GET /audit`. */
export interface AuditAnswer {
  /** The newest last. */
  entries: AuditEntry[]
  /** For `since`: what finishes after these. */
  next: string
  /** Of what finished after the id in `since`, so many are not kept any more. */
  missed: number
}

export interface AuditRouteOptions {
  ring: RecentExchanges
  clock: Clock
  nameOf: (nameOrAlias: string) => string
  /** Given the streams there will be. */
  onStreams: (streams: LiveStreams) => void
}

/** How many entries an answer has where nobody says. */
const defaultLimit = 100
/** How many may be read at once; a page that forgets to close them is found out. */
const mostStreams = 256

export const auditRoutes: FastifyPluginAsync<AuditRouteOptions> = async (fastify, { ring, clock, nameOf, onStreams }) => {
  const isDraining = () => fastify.hasDecorator('drain') && fastify.drain.draining
  const streams = new LiveStreams(ring, clock, isDraining)
  onStreams(streams)

  fastify.get<{ Querystring: Record<string, unknown> }>('/audit', { config: { fleet: { scope: 'read' } } }, async (request, reply) => {
    void reply.header('cache-control', 'no-store')
    addVary(reply, 'accept')
    const filter = filterIn(request)
    if (wantsEventStream(request.headers.accept)) return openStream(request, reply, filter)
    const { numbers, next, missed } = select({ limit: defaultLimit, ...filter }, ring, clock.now(), nameOf)
    const answer: AuditAnswer = { entries: numbers.map(number => ring.entryAt(number)), next: ring.idOf(next - 1), missed }
    return reply.type('application/json; charset=utf-8').send(lineJson(answer))
  })

  // Not only in onClose: that is after the listener has closed, which waits for whoever reads.
  fastify.addHook('preClose', async () => streams.endAll())

  /** @throws BadRequestError; ForbiddenError for an agent that is not the key's */
  function filterIn ({ query, principal }: FastifyRequest<{ Querystring: Record<string, unknown> }>): AuditFilter {
    for (const name of ['agent', 'status', 'since', 'limit']) if (Array.isArray(query[name])) throw new BadRequestError(`${name} must be given once`)
    const limit = limitIn(query['limit'])
    const { agent } = query
    if (agent !== undefined && !mayTouch(principal, nameOf(agentIn(agent)))) throw new ForbiddenError('This key is not for that agent')
    return { ...query, ...(limit !== undefined && { limit }), sees: name => maySeeExchange(principal, name) }
  }

  function openStream (request: FastifyRequest, reply: FastifyReply, filter: AuditFilter): FastifyReply {
    let { principal }: { principal: Principal | null } = request
    const matches = predicateOf({ ...filter, sees: name => maySeeExchange(principal, name) }, nameOf)
    const next = firstOf(request, filter)
    if (isDraining()) throw new DrainingError('The gateway is shutting down', { headers: { 'retry-after': '1' } })
    if (streams.size >= mostStreams) throw new RateLimitedError(`${mostStreams} streams of the audit log are open already`, { headers: { 'retry-after': '5' } })
    const { facts, method } = request
    facts.stream = 'event-stream'
    reply.hijack()
    const { raw } = reply
    if (raw.destroyed) return reply // the client left while a hook waited
    // One stream is one connection: its end is to be seen, and it must not keep a listener from closing.
    raw.writeHead(200, { ...reply.getHeaders() as OutgoingHttpHeaders, 'content-type': 'text/event-stream', 'x-accel-buffering': 'no', connection: 'close' })
    if (method === 'HEAD') {
      raw.end()
      return reply
    }
    raw.flushHeaders()
    streams.add({
      response: raw,
      matches,
      next,
      async isAllowed () {
        if (!fastify.hasDecorator('auth')) return true
        principal = await fastify.auth.principalOf(request)
        return principal !== null && hasScope(principal, 'read')
      },
      onWritten: bytes => { facts.bytesSent += bytes }
    })
    return reply
  }

  /** With which exchange a stream begins: where an earlier one ended, else with what the query asks for, else with the next. */
  function firstOf ({ headers }: FastifyRequest, filter: AuditFilter): number {
    const lastEventId = headers['last-event-id']
    const after = typeof lastEventId === 'string' ? ring.after(lastEventId) : undefined
    if (after !== undefined) return after
    if (filter.since === undefined && filter.limit === undefined) return ring.end
    const { first, isId } = beginningOf(filter.since, ring, clock.now())
    if (isId || filter.limit === undefined) return first
    const { numbers } = select(filter, ring, clock.now(), nameOf)
    return numbers[0] ?? ring.end
  }
}
