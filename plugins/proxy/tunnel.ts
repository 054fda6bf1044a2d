/**
 * A WebSocket on its way through: the handshake is an attempt like any other, refusals included; after the agent's 101 the two sockets are
 * joined byte for byte, so that subprotocols, extensions, pings and close codes are theirs alone (RFC 6455).
 */
import { request as httpRequest, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { RequestFacts } from '../facts/index.ts'
import { UpstreamInvalidError, UpstreamTimeoutError, UpstreamUnreachableError, type FleetError } from '../../src/errors.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Asker } from '../../src/fleet/balancer.ts'
import { authorityOf, type Instance } from '../../src/fleet/instance.ts'
import { toFleetError } from '../../src/problem.ts'
import { ClientResponse, sendableReason } from './client-response.ts'
import { ConnectTimeoutError, connectTo } from './connector.ts'
import { dropsAuthorization, type EndableStream, type ForwardContext, type ForwardTarget } from './exchange.ts'
import { requestHead } from './request-head.ts'
import { responseHead } from './response-head.ts'
import type { UpgradeOffer } from './upgrade.ts'

/** Close frames with status 1001, "going away" (RFC 6455 §7.4.1); the one to the agent is masked, with a key of zeros. */
const goingAway = Buffer.from([0x88, 0x02, 0x03, 0xe9])
const goingAwayMasked = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])

/** The most that is read of a client before the agent has accepted it. */
const maxEarlyBytes = 64 * 1024

/** How long both sides may take to close after a close frame. */
const closeMs = 1_000

export class Tunnel implements EndableStream {
  readonly #context: ForwardContext
  readonly #target: ForwardTarget
  readonly #facts: RequestFacts
  readonly #finishFacts: (facts: RequestFacts) => void
  readonly #request: IncomingMessage
  readonly #reply: FastifyReply
  readonly #raw: ServerResponse
  readonly #offer: UpgradeOffer
  readonly #tried: Instance[] = []
  readonly #asker: Asker
  #attempt: Attempt | null = null
  #giveUp: (() => void) | null = null
  #upstreamRequest: ClientRequest | null = null
  #agentSocket: Socket | null = null
  #timer: NodeJS.Timeout | null = null
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
    this.#offer = offer
    this.#asker = { headers: request.raw.headers, clientAddress: request.facts.clientAddress }
  }

  /** Takes the handshake through to a tunnel or a refusal. Never throws. */
  start (): void {
    this.#raw.prependListener('close', () => this.#clientClosed())
    // A socket that nobody reads does not tell when the client goes away.
    this.#offer.socket.on('data', this.#keepEarly).once('end', this.#leave)
    try {
      this.#begin(this.#context.upstream.resolve(this.#target.agent, this.#tried, this.#asker))
    } catch (error) {
      this.#fail(toFleetError(error))
    }
  }

  endStream (): void {
    const { socket } = this.#offer
    const agent = this.#agentSocket
    if (agent === null) return
    if (socket.writable) socket.end(goingAway)
    if (agent.writable) agent.end(goingAwayMasked)
    // Not unref'd: a socket that is not read keeps no process alive, and whoever closes the application waits for both.
    const last = setTimeout(() => { socket.destroy(); agent.destroy() }, closeMs)
    let open = 2
    for (const side of [socket, agent]) side.once('close', () => { if (--open === 0) clearTimeout(last) })
  }

  readonly #keepEarly = (chunk: Buffer): void => {
    this.#early.push(chunk)
    this.#earlyBytes += chunk.length
    if (this.#earlyBytes > maxEarlyBytes) this.#offer.socket.pause()
  }

  readonly #leave = (): void => { this.#offer.socket.destroy() }

  #begin (instance: Instance): void {
    const { upstream } = this.#context
    this.#tried.push(instance)
    const attempt = upstream.begin(instance)
    this.#attempt = attempt
    this.#facts.attempts.push(attempt)
    this.#giveUp = connectTo(instance, { timeoutMs: this.#target.policy.connectTimeoutMs, lookup: this.#context.lookupOf(instance), allowHalfOpen: true }, (error, socket) => {
      this.#giveUp = null
      if (this.#over) return void socket?.destroy()
      if (socket !== null) return this.#tryHandshake(instance, socket)
      const timedOut = error instanceof ConnectTimeoutError
      this.#settle(timedOut ? 'connect-timeout' : 'refused')
      const next = upstream.another(this.#target.agent, this.#tried, this.#asker, true)
      if (next !== undefined) return this.#begin(next)
      this.#fail(timedOut
        ? new UpstreamTimeoutError('No connection to the agent could be opened in time', { proxyStatus: 'connection_timeout' }, { cause: error })
        : new UpstreamUnreachableError('No connection to the agent could be opened', { proxyStatus: 'connection_refused' }, { cause: error }))
    })
  }

  #tryHandshake (instance: Instance, socket: Socket): void {
    try {
      this.#handshake(instance, socket)
    } catch (error) { // a socket's callback has nobody to catch it
      socket.destroy()
      this.#settle('aborted')
      this.#fail(toFleetError(error))
    }
  }

  #handshake (instance: Instance, socket: Socket): void {
    const { prefix, policy, path } = this.#target
    const fields = requestHead(this.#request, this.#facts, { dropAuthorization: dropsAuthorization(this.#target, instance), preserveHost: policy.preserveHost, prefix }, this.#context)
    if (!policy.preserveHost) fields.unshift('Host', authorityOf(instance.host, instance.port))
    fields.push('Connection', 'Upgrade', 'Upgrade', 'websocket')
    const request = httpRequest({ method: 'GET', path, headers: fields, createConnection: () => socket } as object)
    this.#upstreamRequest = request
    this.#timer = setTimeout(() => {
      this.#settle('timeout')
      request.destroy()
      this.#fail(new UpstreamTimeoutError('The agent did not answer in time'))
    }, policy.responseTimeoutMs)
    request.on('upgrade', (response, agentSocket, head) => this.#upgraded(instance, response, agentSocket as Socket, head))
    request.on('response', response => this.#refused(instance, response))
    request.on('information', () => {})
    request.on('error', error => this.#handshakeFailed(error))
    request.end()
  }

  #handshakeFailed (error: Error): void {
    if (this.#over || this.#attempt?.outcome !== 'pending') return
    const foreign = String((error as NodeJS.ErrnoException).code).startsWith('HPE_')
    this.#settle(foreign ? 'invalid' : 'reset')
    this.#fail(foreign
      ? new UpstreamInvalidError('What the agent answered is not valid HTTP', {}, { cause: error })
      : new UpstreamUnreachableError('The agent closed the connection before it answered', { proxyStatus: 'connection_terminated' }, { cause: error }))
  }

  /** The agent said no, or something else than 101: its answer is the client's. */
  #refused (instance: Instance, response: IncomingMessage): void {
    if (this.#over) return void response.destroy()
    const status = response.statusCode ?? 502
    this.#settle('answered', status, false)
    try {
      const head = this.#head(instance, response)
      head.fields.push('connection', 'close')
      this.#raw.writeHead(status, sendableReason(status, response.statusMessage), head.fields)
    } catch (error) {
      response.destroy()
      return this.#fail(new UpstreamInvalidError('What the agent answered is not valid HTTP', {}, { cause: error }))
    }
    const idle = this.#timer = setTimeout(() => {
      this.#end()
      this.#facts.ending = 'upstream-aborted'
      response.destroy()
      this.#raw.destroy()
      this.#offer.socket.destroy()
    }, this.#target.policy.idleTimeoutMs)
    const attempt = this.#attempt!
    response.on('data', (chunk: Buffer) => {
      idle.refresh()
      this.#context.upstream.progress(attempt)
      this.#facts.bytesSent += chunk.length
      if (!this.#raw.write(chunk)) response.pause()
    })
    this.#raw.on('drain', () => {
      idle.refresh()
      response.resume()
    })
    response.on('end', () => { this.#end(); this.#raw.end() })
    response.on('error', () => { this.#end(); this.#facts.ending = 'upstream-aborted'; this.#raw.destroy() })
  }

  #upgraded (instance: Instance, response: IncomingMessage, agentSocket: Socket, head: Buffer): void {
    const { headers } = response
    const accepted = response.statusCode === 101 && (headers.upgrade ?? '').toLowerCase() === 'websocket' && headers['transfer-encoding'] === undefined
    if (this.#over || !accepted) {
      agentSocket.destroy()
      if (this.#over) return
      this.#settle('invalid')
      return this.#fail(new UpstreamInvalidError('The agent switched to a protocol nobody asked for'))
    }
    this.#settle('answered', 101, false)
    const { socket } = this.#offer
    const { fields } = this.#head(instance, response)
    fields.push('Connection', 'Upgrade', 'Upgrade', 'websocket')
    let text = `HTTP/1.1 101 ${sendableReason(101, response.statusMessage)}\r\n`
    for (let index = 0; index < fields.length; index += 2) text += `${fields[index]}: ${fields[index + 1]}\r\n`

    this.#agentSocket = agentSocket
    this.#facts.stream = 'websocket'
    this.#facts.status = 101
    this.#raw.detachSocket(socket)
    this.#context.streams.add(this)
    socket.write(`${text}\r\n`, 'latin1')
    if (head.length > 0) agentSocket.unshift(head)
    socket.off('data', this.#keepEarly).off('end', this.#leave).pause()
    const early = Buffer.concat([this.#offer.head, ...this.#early])
    if (early.length > 0) socket.unshift(early)
    this.#join(socket, agentSocket)
  }

  /** Joins the two sockets until both have ended, with backpressure and half-close both ways. */
  #join (client: Socket, agent: Socket): void {
    client.setNoDelay(true)
    client.setTimeout(this.#target.policy.idleTimeoutMs, () => this.#closeTunnel('upstream-aborted'))
    agent.on('error', () => this.#closeTunnel('upstream-aborted'))
    client.on('error', () => this.#closeTunnel('client-aborted'))
    agent.on('close', () => this.#closeTunnel('complete'))
    client.on('close', () => this.#closeTunnel('complete'))
    const { upstream } = this.#context
    const attempt = this.#attempt!
    // What the client sends is read only as far as the agent takes it.
    for (const side of [client, agent]) side.on('data', () => upstream.progress(attempt))
    client.pipe(agent)
    agent.pipe(client)
  }

  #closeTunnel (ending: 'complete' | 'client-aborted' | 'upstream-aborted'): void {
    if (this.#over) return
    const client = this.#offer.socket
    const agent = this.#agentSocket!
    this.#facts.bytesSent = agent.bytesRead
    this.#facts.bytesReceived = client.bytesRead
    this.#facts.ending = ending
    this.#end()
    // The other side still gets what was sent before the end, as long as it takes it.
    for (const socket of [client, agent]) {
      socket.setTimeout(closeMs, () => socket.destroy())
      socket.destroySoon()
    }
    this.#finishFacts(this.#facts)
  }

  #head (instance: Instance, response: IncomingMessage) {
    const { names, corsEnabled, viaPseudonym } = this.#context
    const { prefix, knownPrefixes, policy } = this.#target
    return responseHead(response.rawHeaders, names, {
      status: response.statusCode ?? 0,
      method: 'GET',
      instance,
      prefix,
      knownPrefixes,
      rewriteLocation: policy.rewriteLocation,
      corsEnabled,
      viaPseudonym,
      replyHeaders: this.#reply.getHeaders() as Record<string, string>,
      canChunk: true
    })
  }

  #settle (outcome: AttemptOutcome, status = 0, release = true): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    const attempt = this.#attempt!
    if (attempt.outcome === 'pending') this.#context.upstream.settle(attempt, outcome, status)
    if (release) this.#release()
  }

  #release (): void {
    if (this.#attempt !== null) this.#context.upstream.release(this.#attempt)
    this.#attempt = null
  }

  #fail (error: FleetError): void {
    if (this.#over) return
    this.#end()
    this.#context.report(error, this.#facts)
    new ClientResponse(this.#reply, this.#facts).problem(error)
  }

  /** The client went away before there was a tunnel. */
  #clientClosed (): void {
    if (this.#over || this.#agentSocket !== null) return
    if (this.#attempt?.outcome === 'pending') this.#settle('aborted', 0, false)
    this.#giveUp?.()
    this.#upstreamRequest?.destroy()
    this.#end()
  }

  #end (): void {
    this.#over = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#context.streams.delete(this)
    this.#release()
  }
}
