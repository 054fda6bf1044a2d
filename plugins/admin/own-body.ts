/**
 * Bodies that the gateway reads itself: JSON in UTF-8 as it stands (RFC 8259 §8.1), and no longer silent than any other body. What agents get is
 * not read here.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { announcesBody } from '../../src/announced-body.ts'
import { BadRequestError, RequestTimeoutError, type FleetError } from '../../src/errors.ts'

export interface OwnBodyOptions {
  /** The most bytes of a body. */
  readonly maxBytes: number
  /** How long it may stand still, milliseconds; asked each time. */
  readonly idleMs: () => number
}

/** Makes all routes of `scope` read their bodies so. */
export function readOwnBodies (scope: FastifyInstance, { maxBytes, idleMs }: OwnBodyOptions): void {
  scope.addHook('preParsing', function watchBody (request, reply, payload, done) {
    const problem = codingProblem(request)
    if (problem !== undefined) return done(problem)
    if (announcesBody(request.headers)) refuseWhenSilent(request, reply, idleMs())
    done(null, payload)
  })
  scope.removeAllContentTypeParsers()
  const parseJson = scope.getDefaultJsonParser('error', 'error')
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  scope.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer', bodyLimit: maxBytes }, (request, body, done) => {
    if (request.facts) request.facts.bytesReceived = body.length
    // HTTP libraries name the type of a body that is not there: of a heartbeat, a removal.
    if (body.length === 0) return done(null, undefined)
    let text: string
    try {
      text = utf8.decode(body)
    } catch (cause) {
      return done(new BadRequestError('The body is not UTF-8', {}, { cause }))
    }
    void parseJson(request, text, done)
  })
  scope.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(new BadRequestError('Send the body as application/json'))
  })
}

/** Why a body can't be taken for what it stands for. */
function codingProblem ({ headers }: FastifyRequest): FleetError | undefined {
  const coding = headers['content-encoding'] ?? 'identity'
  if (coding.trim().toLowerCase() !== 'identity') return new BadRequestError('Send the body without a Content-Encoding')
  const charset = /;\s*charset\s*=\s*"?([^\s";]*)/i.exec(headers['content-type'] ?? '')?.[1] ?? 'utf-8'
  if (!/^(utf-?8|us-ascii)$/i.test(charset)) return new BadRequestError('Send the body in UTF-8')
  return undefined
}

/** Looks at the connection now and then, since who listens to the body itself sets it flowing before its reader is there. */
function refuseWhenSilent ({ raw }: FastifyRequest, reply: FastifyReply, idleMs: number): void {
  let received = raw.socket.bytesRead
  const timer = setInterval(() => {
    if (raw.complete || raw.destroyed || reply.sent) return clearInterval(timer)
    if (raw.socket.bytesRead === received) {
      clearInterval(timer)
      void reply.header('connection', 'close').send(new RequestTimeoutError(`The body stood still for ${idleMs / 1_000} s`))
    }
    received = raw.socket.bytesRead
  }, idleMs)
  reply.raw.once('close', () => clearInterval(timer))
}
