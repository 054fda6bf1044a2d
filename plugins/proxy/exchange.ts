/**
 * One forwarded request from its take-over to its end: which attempts are made, which outcome the client gets, and what every timeout
 * and every side that goes away means. The rules are CONTRACT section 3; the bytes are moved by AttemptHandler and ClientResponse.
 */
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { RequestFacts } from '../facts/index.ts'
import { BodyTooLargeError, RequestTimeoutError, UpstreamTimeoutError, UpstreamUnreachableError, type FleetError } from '../../src/errors.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { hasFollowers } from '../../src/pipelining.ts'
import { toFleetError } from '../../src/problem.ts'
import type { Chunk } from './agent-connection.ts'
import { AttemptHandler, type AttemptOwner } from './attempt-handler.ts'
import { ClientResponse } from './client-response.ts'
import { failureOf } from './failures.ts'
import { nominatedFields } from './field-names.ts'
import { answerHead, dropsAuthorization, ownFieldsFor, type EndableStream, type ForwardContext, type ForwardTarget } from './forward-context.ts'
import { withoutOwn, type OwnFields } from './own-fields.ts'
import { Placing, type PlacingOwner } from './placing.ts'
import { arrivedBody, bufferedBody, collectBody, noBody, StreamedBody, type RequestBody } from './request-body.ts'
import { requestHead } from './request-head.ts'
import { headersOf } from './reply-headers.ts'
import { interimFields, isBodiless, trailerFields, type ResponseHead } from './response-head.ts'
import { RetryRules } from './retry-rules.ts'

/** RFC 9110 §9.2.2, and PROPFIND and the like by their own RFCs (4918, 3253, 5323, 9110 QUERY). */
export const idempotentMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'PROPFIND', 'PROPPATCH', 'COPY', 'MOVE', 'MKCOL', 'UNLOCK', 'REPORT', 'SEARCH', 'QUERY', 'ACL', 'BIND', 'UNBIND', 'REBIND', 'LINK', 'UNLINK', 'MKCALENDAR', 'MKACTIVITY', 'MERGE', 'CHECKOUT'])

export class Exchange implements AttemptOwner, EndableStream, PlacingOwner {
  readonly #context: ForwardContext
  readonly #target: ForwardTarget
  readonly #facts: RequestFacts
  readonly #request: IncomingMessage
  readonly #reply: FastifyReply
  readonly #response: ClientResponse
  readonly #repeatable: boolean
  readonly #placing: Placing
  /** Made when something fails. */
  #rules: RetryRules | null = null
  #fields: string[] | null = null
  #fieldsWithout = false
  #fieldsOwn: OwnFields | null = null
  #body: RequestBody = noBody
  #current: AttemptHandler | null = null
  /** Of the answer: which fields are the hop's by its `Connection`. */
  #nominated: ReadonlySet<string> | null = null
  #replayed = false
  #over = false
  #idleTimer: NodeJS.Timeout | null = null
  #totalTimer: NodeJS.Timeout | null = null

  constructor (request: FastifyRequest, reply: FastifyReply, target: ForwardTarget, context: ForwardContext) {
    this.#context = context
    this.#target = target
    this.#facts = request.facts
    this.#request = request.raw
    this.#reply = reply
    this.#response = new ClientResponse(reply, request.facts)
    this.#placing = new Placing(context.upstream, target.agent, { headers: request.raw.headers, clientAddress: request.facts.clientAddress }, this)
    this.#repeatable = idempotentMethods.has(request.method) || request.raw.headers['idempotency-key'] !== undefined
  }

  /** Takes the request through to its end. Never throws; what goes wrong is the client's answer. */
  start (): void {
    const { agent, policy } = this.#target
    this.#context.budgetOf(agent).request(this.#facts.startedAt)
    // Before the facts' own listener, so that the account is complete when it is read.
    this.#response.raw.prependListener('close', () => this.#clientClosed())
    if (policy.totalTimeoutMs !== null) this.#totalTimer = setTimeout(() => this.#totalTimedOut(), policy.totalTimeoutMs)

    const { headers } = this.#request
    const length = Number(headers['content-length'] ?? 0)
    const chunked = headers['transfer-encoding'] !== undefined
    if (length > this.#context.bodyLimit) return this.#fail(this.#tooLarge())
    if (!chunked && length === 0) return this.#placing.take()

    const refusal = this.#context.upstream.refusal(agent)
    if (refusal !== undefined) return this.#fail(refusal)
    if (!chunked && length <= policy.maxRetryBodyBytes) {
      const arrived = arrivedBody(this.#request, length)
      if (arrived !== null) return this.#beginWith(arrived)
      this.#armIdleTimer()
      return collectBody(this.#request, length, () => this.#touch(), bytes => {
        if (this.#over) return
        this.#disarmIdleTimer()
        this.#beginWith(bytes) // only now: that may have taken the client a while
      })
    }
    this.#body = new StreamedBody(this.#request, {
      maxReplayBytes: policy.maxRetryBodyBytes,
      limitBytes: this.#context.bodyLimit,
      onProgress: chunkLength => {
        this.#facts.bytesReceived += chunkLength
        this.#touch()
        this.#context.onStreamed(chunkLength)
        if (this.#current !== null) this.#context.upstream.progress(this.#current.attempt, true)
      },
      trailers: () => {
        const trailers = trailerFields(this.#request.rawTrailers, this.#context.names, nominatedFields(headers.connection))
        return policy.own === null ? trailers : withoutOwn(trailers, policy.own)
      },
      onTooLarge: () => this.#fail(this.#tooLarge())
    })
    this.#placing.take() // nothing is read before there is a place
  }

  #beginWith (body: Buffer): void {
    this.#facts.bytesReceived = body.length
    this.#body = bufferedBody(body)
    this.#placing.take()
  }

  onInstance (instance: Instance): void {
    if (!this.#body.complete) this.#armIdleTimer()
    this.#begin(instance, false)
  }

  onNoInstance (error: FleetError): void {
    this.#fail(error)
  }

  onInterim (handler: AttemptHandler, status: number, fields: string[], reason: string): void {
    this.#context.upstream.progress(handler.attempt)
    if (status === 103 || status === 102) this.#response.inform(status, reason, interimFields(fields, this.#context.names, this.#target.corsEnabled))
  }

  onHead (handler: AttemptHandler, status: number, fields: string[], reason: string): void {
    this.#context.upstream.settle(handler.attempt, 'answered', status)
    if (!this.#isRepeated(status)) return this.#startResponse(handler, status, fields, reason)
    handler.discard()
    this.#placing.repeat()
  }

  onWhole (handler: AttemptHandler, status: number, fields: string[], reason: string, body: string): void {
    if (this.#over) return // what was freed with the place may have ended it
    if (this.#isRepeated(status)) return this.#placing.repeat()
    if (body !== '') this.#context.onStreamed(body.length)
    let head: ResponseHead
    try {
      head = this.#headFor(handler, status, fields)
      this.#response.sendWhole(status, reason, head, body, this.#context.writesTogether(), () => this.#boundWhatIsUnread())
    } catch (error) {
      return this.#fail(failureOf('invalid', error as Error))
    }
    if (head.isEventStream) this.#facts.stream = 'event-stream'
    this.#finish()
  }

  onChunk (handler: AttemptHandler, chunk: Chunk, release: (() => void) | null): boolean {
    this.#touch()
    this.#context.onStreamed(chunk.length)
    this.#context.upstream.progress(handler.attempt)
    if (this.#response.write(chunk, release)) return true
    this.#response.raw.once('drain', () => {
      this.#touch()
      handler.resume()
    })
    return false
  }

  onEnd (_handler: AttemptHandler, trailers: string[] | null): void {
    this.#finish()
    this.#response.end(trailers && trailerFields(trailers, this.#context.names, this.#nominated))
    this.#boundWhatIsUnread()
  }

  /** What is left is the client's to read: its own inactivity ends it, until Node's keep-alive time takes over. */
  #boundWhatIsUnread (): void {
    const { raw } = this.#response
    const { socket } = raw
    if (socket === null) raw.once('socket', () => queueMicrotask(() => this.#boundWhatIsUnread())) // it waits for its turn, and leaves all at once
    else if (socket instanceof Socket && socket.writableLength > 0) {
      socket.setTimeout(this.#target.policy.idleTimeoutMs)
      raw.prependOnceListener('finish', () => socket.setTimeout(0)) // before Node's own: an answer behind it may have an agent to wait for
    }
  }

  onFailure (handler: AttemptHandler, outcome: AttemptOutcome, error: Error): void {
    if (this.#over) return
    this.#body.detach()
    if (outcome === 'stale') {
      this.#replayed = true // it is no retry
      return this.#begin(handler.attempt.instance, true)
    }
    const failure = failureOf(outcome, error)
    if (outcome === 'reset') {
      if (this.#retryRules().afterReset(this.#mayRepeat())) return this.#placing.repeat(failure)
    } else if (!handler.sent && this.#body.replayable && this.#retryRules().afterNoConnection(outcome)) return this.#placing.goOn(failure)
    this.#fail(failure)
  }

  mayReplay (sent: boolean): boolean {
    return !this.#replayed && !this.#over && (sent ? this.#mayRepeat() : this.#body.replayable)
  }

  onBreak (_handler: AttemptHandler, error: Error): void {
    this.#finish()
    this.#context.report(new UpstreamUnreachableError('The agent broke off in the middle of its answer', {}, { cause: error }), this.#facts)
    this.#response.cut()
  }

  endStream (): void {
    if (this.#over) return
    this.#current?.cancel('aborted')
    this.#finish()
    this.#response.endStream()
  }

  /** Sends the request to an instance. @param fresh on a connection that was never used */
  #begin (instance: Instance, fresh: boolean): void {
    const { upstream, connections } = this.#context
    const { policy, path } = this.#target
    try {
      const fields = this.#fieldsFor(instance)
      const connection = connections.acquire(instance, fresh ? 'none' : this.#mayRepeat() ? 'any' : 'settled')
      const attempt = upstream.begin(instance)
      this.#facts.attempts.push(attempt)
      const handler = new AttemptHandler(this, upstream, attempt, connection, policy.responseTimeoutMs)
      this.#current = handler
      const { trace } = this.#facts
      const traced = trace === null ? fields : [...fields, 'traceparent', trace.begin(attempt)]
      handler.start({ method: this.#facts.method, path, fields: traced, body: this.#body, connectTimeoutMs: policy.connectTimeoutMs, mayWait: this.#context.writesTogether() })
    } catch (error) { // called from timers and body listeners, where nobody would catch it
      this.#fail(toFleetError(error))
    }
  }

  #fieldsFor (instance: Instance): string[] {
    const { policy, prefix } = this.#target
    const dropAuthorization = dropsAuthorization(this.#target, instance)
    const own = ownFieldsFor(this.#target, instance)
    if (this.#fields === null || this.#fieldsWithout !== dropAuthorization || this.#fieldsOwn !== own) {
      this.#fields = requestHead(this.#request, this.#facts, { dropAuthorization, preserveHost: policy.preserveHost, own, prefix }, this.#context)
      this.#fieldsWithout = dropAuthorization
      this.#fieldsOwn = own
    }
    return this.#fields
  }

  #retryRules (): RetryRules {
    this.#rules ??= new RetryRules(this.#target.policy, this.#context.budgetOf(this.#target.agent))
    return this.#rules
  }

  /** Whether an answer is not the client's, since the request goes out once more. */
  #isRepeated (status: number): boolean {
    if (status < 500 || !this.#retryRules().afterAnswer(status, this.#mayRepeat())) return false
    this.#body.detach()
    return true
  }

  /** The request is such that it can be sent once more, and nobody would notice. */
  #mayRepeat (): boolean {
    return this.#repeatable && this.#body.complete && this.#body.replayable && !this.#response.began
  }

  /** The head as the client gets it. @throws when it is ambiguous */
  #headFor (handler: AttemptHandler, status: number, rawFields: string[]): ResponseHead {
    const replyHeaders = headersOf(this.#reply)
    const head = answerHead(rawFields, this.#context, this.#target, {
      status,
      method: this.#facts.method,
      instance: handler.attempt.instance,
      replyHeaders,
      canChunk: this.#request.httpVersion === '1.1'
    })
    if ((this.#isLastOfDrain() || !this.#body.complete) && replyHeaders['connection'] === undefined) head.fields.push('connection', 'close')
    return head
  }

  #startResponse (handler: AttemptHandler, status: number, rawFields: string[], reason: string): void {
    let isEventStream: boolean
    try {
      const head = this.#headFor(handler, status, rawFields)
      isEventStream = head.isEventStream
      this.#nominated = head.nominated
      this.#response.start(status, reason, head)
    } catch (error) {
      handler.cancel('invalid')
      return this.#fail(failureOf('invalid', error as Error))
    }
    if (isEventStream) this.#becomeStream()
    if (isBodiless(status, this.#facts.method)) {
      // Whatever the agent says of a body that can't be there, the answer is complete.
      if (isEventStream) handler.cancel('answered') // its agent may never end it, and would keep the next request on the connection waiting
      return this.#response.end(null)
    }
    // What came of the body with the head, in the same read, leaves with it; no head waits for more.
    queueMicrotask(() => {
      if (this.#over) return
      this.#response.flush()
      this.#armIdleTimer()
    })
  }

  #becomeStream (): void {
    this.#facts.stream = 'event-stream'
    this.#context.streams.add(this)
    if (this.#totalTimer !== null) clearTimeout(this.#totalTimer)
    this.#totalTimer = null
  }

  /** @param outcome of the attempt that is under way; `aborted` unless it is the agent's fault */
  #fail (error: FleetError, outcome: AttemptOutcome = 'aborted'): void {
    if (this.#over) return
    this.#current?.cancel(outcome)
    this.#finish()
    this.#context.report(error, this.#facts)
    if (this.#isLastOfDrain()) this.#reply.header('connection', 'close')
    this.#response.problem(error)
  }

  /** Whether the client's connection ends with this answer: while draining, unless more requests of it wait for theirs. */
  #isLastOfDrain (): boolean {
    return this.#context.isDraining() && !hasFollowers(this.#request.socket, this.#response.raw)
  }

  #clientClosed (): void {
    if (this.#over) return
    this.#current?.cancel('aborted')
    this.#finish()
  }

  #finish (): void {
    this.#over = true
    this.#placing.stop()
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer)
    if (this.#totalTimer !== null) clearTimeout(this.#totalTimer)
    this.#idleTimer = this.#totalTimer = null
    if (this.#facts.stream !== null) this.#context.streams.delete(this)
    this.#body.finish()
    this.#context.kept = this
  }

  #tooLarge (): FleetError {
    return new BodyTooLargeError(`The body is over the limit of ${this.#context.bodyLimit} bytes`)
  }

  #armIdleTimer (): void {
    this.#idleTimer ??= setTimeout(() => this.#idledOut(), this.#target.policy.idleTimeoutMs)
  }

  #disarmIdleTimer (): void {
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer)
    this.#idleTimer = null
  }

  #touch (): void {
    this.#idleTimer?.refresh()
  }

  #idledOut (): void {
    this.#idleTimer = null
    if (this.#response.raw.headersSent) {
      this.#current?.cancel('aborted')
      this.#finish()
      return this.#response.cut()
    }
    if (this.#current?.sent === false) return this.#armIdleTimer() // opening a connection, and waiting for a place, have clocks of their own
    if (this.#body.complete && this.#current?.requestSent) return // the response timeout watches from here on
    const clientIsSlow = this.#current === null || this.#body.waitsForClient
    if (clientIsSlow) this.#fail(new RequestTimeoutError('The body stopped coming'))
    else this.#fail(new UpstreamTimeoutError('The agent stopped taking the body', { proxyStatus: 'http_response_timeout' }), 'timeout')
  }

  #totalTimedOut (): void {
    // With the whole request there it is the agent that took too long; else nobody knows.
    if (!this.#response.raw.headersSent) return this.#fail(new UpstreamTimeoutError('The exchange took longer than it may'), this.#body.complete ? 'timeout' : 'aborted')
    this.#current?.cancel('aborted')
    this.#finish()
    this.#response.cut()
  }
}
