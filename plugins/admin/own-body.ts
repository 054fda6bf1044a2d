/**
 * Bodies that the gateway reads itself: JSON in UTF-8 as it stands, whatever charset is told (RFC 8259 §8.1, §11), and no longer silent than any other
 * body. What agents get is not read here.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { announcesBody } from '../../src/announced-body.ts'
import { BadRequestError, RequestTimeoutError } from '../../src/errors.ts'

export interface OwnBodyOptions {
  /** The most bytes of a body. */
  readonly maxBytes: number
  /** How long it may stand still, milliseconds; asked each time. */
  readonly idleMs: () => number
}

/** Timeouts are precise to this. */
const lookMs = 100

/** Makes all routes of `scope` read their bodies so. */
export function readOwnBodies (scope: FastifyInstance, { maxBytes, idleMs }: OwnBodyOptions): void {
  scope.addHook('preParsing', function watchBody (request, reply, payload, done) {
    if (!announcesBody(request.headers)) return done(null, payload) // HTTP libraries tell of one that is not there
    const coding = request.headers['content-encoding'] ?? 'identity'
    if (coding.trim().toLowerCase() !== 'identity') return done(new BadRequestError('Send the body without a Content-Encoding'))
    refuseWhenSilent(request, reply, idleMs())
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

/** Looks at the connection now and then, since who listens to the body itself sets it flowing before its reader is there. */
function refuseWhenSilent ({ raw }: FastifyRequest, reply: FastifyReply, idleMs: number): void {
  let received = raw.socket.bytesRead
  let since = performance.now()
  const timer = setInterval(() => {
    if (raw.complete || raw.destroyed || reply.sent) return clearInterval(timer)
    if (raw.socket.bytesRead !== received) {
      received = raw.socket.bytesRead
      since = performance.now()
    } else if (performance.now() - since >= idleMs) {
      clearInterval(timer)
      void reply.header('connection', 'close').send(new RequestTimeoutError(`The body stood still for ${idleMs / 1_000} s`))
    }
  }, Math.min(idleMs, lookMs))
  reply.raw.once('close', () => clearInterval(timer))
}
