/**
 * Refuses requests whose framing or target is ambiguous (RFC 9112) before any other hook sees them. What Node's parser refuses by
 * itself never comes here: src/server.ts answers that.
 */
import type { IncomingMessage } from 'node:http'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { BadRequestError, ExpectationFailedError, LoopDetectedError, NotImplementedError, type FleetError } from '../../src/errors.ts'
import { isAuthority, isServedForm } from '../../src/request-target.ts'
import { targetProblem } from './request-path.ts'

export interface GuardPluginOptions {
  /** This process's own name in `Via`; a request that carries it has been here before. */
  viaPseudonym?: string
}

/** The connection can't be trusted to agree with us about where the next request begins. */
const closing = { headers: { connection: 'close' } }

export interface Guard {
  /** Why a request with this target would be refused, whatever else it has; undefined when it would not. */
  targetProblem (target: string): string | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    /** What is refused before anything else looks at a request. */
    guard: Guard
  }
}

const guardPlugin: FastifyPluginAsync<GuardPluginOptions> = async (fastify, { viaPseudonym }) => {
  fastify.decorate('guard', { targetProblem })
  fastify.addHook('onRequest', function guardRequest (request, reply, done) {
    if (reply.raw.destroyed) return void reply.hijack() // the client has left: nothing begins that nobody waits for
    done(requestProblem(request.raw, request.originalUrl, viaPseudonym))
  })
}

/** The error to answer with, or undefined when the request may go on. */
function requestProblem (raw: IncomingMessage, target: string, viaPseudonym: string | undefined): FleetError | undefined {
  const { headers, httpVersion } = raw
  // Node's parser also takes 0.9 and 2.0, which it can't speak.
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return new BadRequestError('The only versions that are spoken are HTTP/1.1 and HTTP/1.0', closing)
  if (!isServedForm(target, raw.method)) return new BadRequestError('The request target has no form that is served', closing)
  const problem = targetProblem(target)
  if (problem !== undefined) return new BadRequestError(problem)

  const coding = headers['transfer-encoding']
  if (coding !== undefined) {
    const framing = codingProblem(coding, raw)
    if (framing !== undefined) return framing
  }

  const host = headers.host
  if (host === undefined ? httpVersion !== '1.0' : !isAuthority(host)) return new BadRequestError('The Host header is missing or invalid', closing)
  if (countHosts(raw.rawHeaders) > 1) return new BadRequestError('The request has more than one Host header', closing)

  // Of a WebSocket handshake, or over HTTP/1.0; all others Node's listeners refuse earlier.
  if (headers.expect !== undefined && headers.expect.toLowerCase() !== '100-continue') return new ExpectationFailedError('The only expectation that can be met is 100-continue', closing)
  if (viaPseudonym !== undefined && headers.via?.includes(viaPseudonym)) {
    return new LoopDetectedError('An agent\'s address leads back to this gateway')
  }
  return undefined
}

/** RFC 9112 §6.1: `chunked`, once, and nothing else; never in HTTP/1.0; never beside a length. */
function codingProblem (coding: string, { httpVersion, headers }: IncomingMessage): FleetError | undefined {
  const codings = coding.toLowerCase().split(',').map(name => name.trim())
  if (httpVersion === '1.0') return new BadRequestError('HTTP/1.0 has no transfer codings', closing)
  if (headers['content-length'] !== undefined) return new BadRequestError('The request has both a length and a transfer coding', closing)
  if (codings.includes('')) return new BadRequestError('The Transfer-Encoding header is empty', closing)
  if (codings.some(name => name !== 'chunked')) return new NotImplementedError('No transfer coding but "chunked" is implemented', closing)
  if (codings.length > 1) return new BadRequestError('The request is chunked more than once', closing)
  return undefined
}

function countHosts (rawHeaders: readonly string[]): number {
  let count = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]!
    if (name.length === 4 && name.toLowerCase() === 'host') count++
  }
  return count
}

export default fp(guardPlugin, { name: 'fleet-guard', fastify: '5.x' })
