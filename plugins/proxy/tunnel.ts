/**
 * A WebSocket on its way through: the handshake is a request like any other, failing over and refusals included; after the agent's 101 the
 * two connections are joined byte for byte, so that subprotocols, extensions, pings and close codes are theirs alone (RFC 6455).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Ending, RequestFacts } from '../facts/index.ts'
import { DrainingError, UpstreamInvalidError, type FleetError } from '../../src/errors.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { toFleetError } from '../../src/problem.ts'
import { ClientResponse, sendableReason } from './client-response.ts'
import { failureOf } from './failures.ts'
import { answerHead, dropsAuthorization, ownFieldsFor, type EndableStream, type ForwardContext, type ForwardTarget } from './forward-context.ts'
import { shakeHands, type HandshakeOwner } from './handshake.ts'
import { flushHead } from './node-response.ts'
import { Placing, type PlacingOwner } from './placing.ts'
import { requestHead } from './request-head.ts'
import { interimFields } from './response-head.ts'
import { RetryRules } from './retry-rules.ts'
import { SocketPair } from './socket-pair.ts'
import { gatewaysChoice } from './token-protocol.ts'
import type { UpgradeOffer } from './upgrade.ts'

/** The most that is read of a client before the agent has accepted it. */
const maxEarlyBytes = 64 * 1024

export class Tunnel implements HandshakeOwner, EndableStream, PlacingOwner {
  readonly #context: ForwardContext
  readonly #target: ForwardTarget
  readonly #facts: RequestFacts
  readonly #finishFacts: (facts: RequestFacts) => void
  readonly #request: IncomingMessage
  readonly #reply: FastifyReply
  readonly #raw: ServerResponse
  readonly #response: ClientResponse
  readonly #offer: UpgradeOffer
  readonly #rules: RetryRules
  readonly #placing: Placing
  #attempt: Attempt | null = null
  #giveUp: (() => void) | null = null
  /** The idle time of a refusal's body. */
  #timer: NodeJS.Timeout | null = null
  #refusal: IncomingMessage | null = null
  #pair: SocketPair | null = null
  #over = false
  /** What the client sent before there was a tunnel. */
  readonly #early: Buffer[] = []
  #earlyBytes = 0

  constructor (request: FastifyRequest, reply: FastifyReply, offer: UpgradeOffer, target: ForwardTarget, context: ForwardContext, finishFacts: (facts: RequestFacts) => void) {
    this.#context = context
    this.#target = target
    this.#facts = request.facts
    this.#finishFacts = finishFacts
    this.#request = request.raw
    this.#reply = reply
    this.#raw = reply.raw
    this.#response = new ClientResponse(reply, request.facts)
    this.#offer = offer
    this.#placing = new Placing(context.upstream, target.agent, { headers: request.raw.headers, clientAddress: request.facts.clientAddress }, this)
    this.#rules = new RetryRules(target.policy, context.budgetOf(target.agent))
  }

  /** Takes the handshake through to a tunnel or a refusal. Never throws. */
  start (): void {
    this.#context.budgetOf(this.#target.agent).request(this.#facts.startedAt)
    this.#raw.prependListener('close', () => this.#clientClosed())
    this.#context.streams.add(this)
    // A socket that nobody reads does not tell when the client goes away.
    this.#offer.socket.on('data', this.#keepEarly).once('end', this.#leave)
    this.#placing.take()
  }

  onNoInstance (error: FleetError): void {
    this.#fail(error)
  }

  onInterim (status: number, fields: string[], reason: string): void {
    if (this.#attempt !== null) this.#context.upstream.progress(this.#attempt)
    if (status === 103 || status === 102) this.#response.inform(status, reason, interimFields(fields, this.#context.names, this.#target.corsEnabled))
  }

  onUpgrade (response: IncomingMessage, agentSocket: Socket, head: Buffer): void {
    this.#settle('answered', 101)
    let text: string
    try {
      text = this.#switchingHead(response)
    } catch (error) {
      agentSocket.destroy()
      return this.#fail(failureOf('invalid', error as Error))
    }
    const { socket } = this.#offer
    this.#facts.stream = 'websocket'
    this.#facts.status = 101
    this.#raw.detachSocket(socket)
    socket.off('data', this.#keepEarly).off('end', this.#leave).pause()
    socket.write(text, 'latin1')
    const { upstream } = this.#context
    const attempt = this.#attempt!
    this.#pair = new SocketPair(socket, agentSocket, Buffer.concat([this.#offer.head, ...this.#early]), head, {
      idleTimeoutMs: this.#target.policy.idleTimeoutMs,
      onProgress: () => upstream.progress(attempt),
      onEnd: ending => this.#closed(ending)
    })
  }

  /** The agent said no, or something else than 101: its answer is the client's, unless another instance may be asked. */
  onAnswer (response: IncomingMessage): void {
    const status = response.statusCode ?? 502
    this.#settle('answered', status)
    if (this.#rules.afterAnswer(status, !this.#response.began)) {
      response.destroy()
      this.#release()
      return this.#placing.repeat()
    }
    this.#pass(response, status)
  }

  onFailure (outcome: AttemptOutcome, error: Error): void {
    if (this.#over) return
    this.#settle(outcome)
    this.#release()
    const failure = failureOf(outcome, error)
    if (this.#rules.afterNoConnection(outcome)) return this.#placing.goOn(failure)
    if (outcome === 'reset' && this.#rules.afterReset(!this.#response.began)) return this.#placing.repeat(failure) // a handshake is a GET without a body
    this.#fail(failure)
  }

  endStream (): void {
    if (this.#pair !== null) return this.#pair.leave()
    if (this.#over) return
    if (this.#raw.headersSent) return this.#cut() // a refusal: Node's server has let go of the connection, so that nobody else would end it
    this.#settle('aborted')
    this.#giveUp?.()
    this.#fail(new DrainingError('The gateway is shutting down', { headers: { 'retry-after': '1' } }))
  }

  readonly #keepEarly = (chunk: Buffer): void => {
    this.#early.push(chunk)
    this.#earlyBytes += chunk.length
    if (this.#earlyBytes > maxEarlyBytes) this.#offer.socket.pause()
  }

  readonly #leave = (): void => { this.#offer.socket.destroy() }

  onInstance (instance: Instance): void {
    const { upstream, lookupOf, tlsOf } = this.#context
    const { policy, path } = this.#target
    try {
      const fields = this.#fieldsFor(instance)
      const attempt = upstream.begin(instance)
      this.#attempt = attempt
      this.#facts.attempts.push(attempt)
      if (this.#facts.trace !== null) fields.push('traceparent', this.#facts.trace.begin(attempt))
      this.#giveUp = shakeHands(instance, { path, fields, connectTimeoutMs: policy.connectTimeoutMs, responseTimeoutMs: policy.responseTimeoutMs, lookup: lookupOf(instance), tlsOf }, this)
    } catch (error) { // a timer's callback has nobody to catch it
      this.#fail(toFleetError(error))
    }
  }

  #fieldsFor (instance: Instance): string[] {
    const { prefix, policy } = this.#target
    const fields = requestHead(this.#request, this.#facts, { dropAuthorization: dropsAuthorization(this.#target, instance), preserveHost: policy.preserveHost, own: ownFieldsFor(this.#target, instance), prefix }, this.#context)
    if (!policy.preserveHost) fields.unshift('Host', authorityOf(instance.host, instance.port))
    fields.push('Connection', 'Upgrade', 'Upgrade', 'websocket')
    return fields
  }

  /** The 101 as the client gets it. @throws when the agent's is ambiguous */
  #switchingHead (response: IncomingMessage): string {
    const { fields } = this.#head(response)
    const { headers } = this.#request
    const choice = response.headers['sec-websocket-protocol'] === undefined ? gatewaysChoice(headers['sec-websocket-protocol']) : undefined
    if (choice !== undefined) fields.push('Sec-WebSocket-Protocol', choice)
    fields.push('Connection', 'Upgrade', 'Upgrade', 'websocket')
    let text = `HTTP/1.1 101 ${sendableReason(101, response.statusMessage)}\r\n`
    for (let index = 0; index < fields.length; index += 2) {
      const lower = fields[index]!.toLowerCase()
      if (lower === 'content-length' || (lower === 'connection' && fields[index + 1] !== 'Upgrade')) continue // RFC 9110 §8.6; a drain's `close`
      text += `${fields[index]}: ${fields[index + 1]}\r\n`
    }
    return `${text}\r\n`
  }

  /** Passes a refusal on, body and all. */
  #pass (response: IncomingMessage, status: number): void {
    this.#refusal = response
    response.on('error', () => this.#cut())
    try {
      const { fields } = this.#head(response)
      if (this.#reply.getHeader('connection') === undefined) fields.push('connection', 'close')
      this.#raw.writeHead(status, sendableReason(status, response.statusMessage), fields)
    } catch (error) {
      response.destroy()
      return this.#fail(new UpstreamInvalidError('What the agent answered is not valid HTTP', {}, { cause: error }))
    }
    const { socket } = this.#offer
    const idle = this.#timer = setTimeout(() => this.#cut(), this.#target.policy.idleTimeoutMs)
    const attempt = this.#attempt!
    response.on('data', (chunk: Buffer) => {
      idle.refresh()
      this.#context.upstream.progress(attempt)
      this.#facts.bytesSent += chunk.length
      if (!this.#raw.write(chunk)) response.pause()
    })
    // Of the socket: Node tells the answer no more, since it has let go of an upgrade's connection.
    socket.on('drain', () => {
      idle.refresh()
      response.resume()
    })
    response.on('end', () => {
      this.#end()
      this.#raw.end()
      if (socket.writableLength > 0) socket.setTimeout(this.#target.policy.idleTimeoutMs, () => socket.destroy())
    })
    flushHead(this.#raw)
  }

  /** A refusal that breaks off in the middle is not to be taken for a whole one. */
  #cut (): void {
    if (this.#over) return
    this.#end()
    this.#facts.ending = 'upstream-aborted'
    this.#refusal?.destroy()
    this.#raw.destroy()
    this.#offer.socket.destroy()
  }

  #closed (ending: Ending): void {
    this.#facts.bytesSent = this.#pair!.bytesFromAgent
    this.#facts.bytesReceived = this.#pair!.bytesFromClient
    this.#facts.ending = ending
    this.#end()
    this.#finishFacts(this.#facts)
  }

  #head (response: IncomingMessage) {
    return answerHead(response.rawHeaders, this.#context, this.#target, {
      status: response.statusCode ?? 0,
      method: 'GET',
      instance: this.#attempt!.instance,
      replyHeaders: this.#reply.getHeaders() as Record<string, string>,
      canChunk: true
    })
  }

  #settle (outcome: AttemptOutcome, status = 0): void {
    if (this.#attempt?.outcome === 'pending') this.#context.upstream.settle(this.#attempt, outcome, status)
  }

  #release (): void {
    if (this.#attempt !== null) this.#context.upstream.release(this.#attempt)
    this.#attempt = null
  }

  #fail (error: FleetError): void {
    if (this.#over) return
    this.#end()
    this.#context.report(error, this.#facts)
    this.#response.problem(error)
  }

  /** The client went away before there was a tunnel. */
  #clientClosed (): void {
    if (this.#over || this.#pair !== null) return
    this.#settle('aborted')
    this.#giveUp?.()
    this.#end()
  }

  #end (): void {
    this.#over = true
    this.#placing.stop()
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#context.streams.delete(this)
    this.#release()
  }
}
