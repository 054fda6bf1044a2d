/**
 * What happened to a request, recorded on the request: every plugin that learns something writes it to `request.facts`; stats, health
 * and the audit log read the whole when the exchange is over, aborted ones included. Nobody calls them.
 */
import { nextTick } from 'node:process'
import { setImmediate as nextTurn } from 'node:timers/promises'
import proxyAddress from '@fastify/proxy-addr'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { Attempt } from '../../src/fleet/attempt.ts'
import { keepFacts, refusalBefore } from '../../src/facts-of.ts'
import { whoIsBehind, type ForwardedElement } from '../../src/forwarded.ts'
import { joinLine } from '../../src/pipelining.ts'
import { plainAddress } from '../../src/plain-address.ts'
import { requestIdOf } from '../../src/request-id.ts'

/** How the exchange ended. */
export type Ending =
  /** The client has the whole answer. */
  | 'complete'
  /** The client went away first. */
  | 'client-aborted'
  /** The answer was cut off, because the agent died in the middle of it or a timeout ran out. */
  | 'upstream-aborted'

/** What proxy needs of who traces. */
export interface RequestTrace {
  /** The attempt begins. @returns `traceparent` for the agent */
  begin (attempt: Attempt): string
}

export class RequestFacts {
  /** The client's `X-Request-Id` when it is sane, else a UUID. */
  readonly id: string
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  /** Milliseconds of a monotonic clock, for durations. */
  readonly startedMark: number
  readonly method: string
  /** The request's target as it came. */
  readonly url: string
  /** Address of the client, as far as `server.trustedProxies` are believed. */
  readonly clientAddress: string
  /** The peer is one of `server.trustedProxies`: its forwarding headers are believed. */
  readonly peerTrusted: boolean
  /** What a trusted proxy said of the client in `Forwarded`; null when none did. */
  forwardedElement: ForwardedElement | null = null
  /** Id of the key that opened the gateway; null without auth or before it. Written by auth. */
  keyId: string | null = null
  /** Name of the agent that was asked for, once it was found. Written by proxy. */
  agent: string | null = null
  /** Pattern of the gateway's own route that answered; null where an agent was asked, and where there is no route. Set when the exchange is over. */
  route: string | null = null
  /** It was refused because it had no valid token. Written by auth. */
  unauthenticated = false
  /** The request's spans; null when nobody records it. Written by tracing. */
  trace: RequestTrace | null = null
  /** Each try at an instance, in order. Written by upstream. */
  attempts: Attempt[] = []
  /** Body bytes from the client that were forwarded. Written by proxy. */
  bytesReceived = 0
  /** Body bytes to the client. Written by proxy, and by who streams an answer of the gateway's own; for its other answers, their content length. */
  bytesSent = 0
  /** Code of the problem the gateway answered with. Written by problem. */
  code: string | null = null
  /** 101 for a tunnel. Written when the exchange is over, or by proxy for what went past Fastify. */
  status = 0
  /** `event-stream`, `websocket`, or null for an ordinary exchange. Written by proxy, and by who streams an answer of the gateway's own. */
  stream: 'event-stream' | 'websocket' | null = null
  ending: Ending | null = null
  /** Whole duration, set when the exchange is over. */
  durationMs = 0

  constructor (id: string, method: string, url: string, clientAddress: string, peerTrusted: boolean) {
    this.id = id
    this.method = method
    this.url = url
    this.clientAddress = clientAddress
    this.peerTrusted = peerTrusted
    this.startedAt = Date.now()
    this.startedMark = performance.now()
  }
}

/** Called once per request, when it is over. Must not throw. */
export type FactsListener = (facts: RequestFacts) => void

export interface FactsLog {
  /** Calls `listener` for every finished exchange; the returned function ends that. */
  onFinished (listener: FactsListener): () => void
  /** Exchanges begun and not over. */
  readonly inFlight: number
  /** For `onClose` hooks that want every exchange: those whose connections were cut off are over a few turns of the event loop later. */
  settled (): Promise<void>
  /** Ends the account of an exchange that left Fastify (a WebSocket tunnel). Once; later calls do nothing. */
  finish (facts: RequestFacts): void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Who wants to know about finished exchanges. */
    facts: FactsLog
  }
  interface FastifyRequest {
    /** What happened to this request so far. Set before any other hook of the gateway runs. */
    facts: RequestFacts
    /** Each try at an instance, in order: `facts.attempts`. */
    readonly attempts: readonly Attempt[]
  }
}

/** After so many turns of the event loop nobody waits any longer. */
const maxFinalTurns = 10

export interface FactsPluginOptions {
  /**
   * Addresses and CIDRs whose forwarding headers are believed.
   * @default none
   */
  trustedProxies?: readonly string[]
}

const factsPlugin: FastifyPluginAsync<FactsPluginOptions> = async (fastify, { trustedProxies = [] }) => {
  const trusts = trustedProxies.length === 0 ? null : proxyAddress.compile([...trustedProxies])
  const listeners = new Set<FactsListener>()
  let inFlight = 0

  function finish (facts: RequestFacts): void {
    if (facts.durationMs !== 0) return
    inFlight--
    facts.durationMs = Math.max(performance.now() - facts.startedMark, 0.001)
    facts.ending ??= 'complete'
    for (const listener of listeners) listener(facts)
  }

  function onClose (request: FastifyRequest, reply: FastifyReply): void {
    const { facts } = request
    if (facts.stream === 'websocket') return // the tunnel's end is the end
    const { raw } = reply
    // Under inject() there is no socket and no finish, so an answer that was ended counts as received.
    const received = raw.writableFinished || (raw.writableEnded && raw.socket?.destroyed !== true)
    if (!received) facts.ending ??= 'client-aborted'
    if (facts.status === 0) facts.status = raw.headersSent ? raw.statusCode : 499
    if (facts.bytesSent === 0 && facts.agent === null) facts.bytesSent = Number(reply.getHeader('content-length') ?? 0)
    if (facts.agent === null && !request.is404) facts.route = request.routeOptions.url ?? null
    finish(facts)
  }

  fastify.decorateRequest('facts', null as never)
  fastify.decorateRequest('attempts', { getter () { return this.facts.attempts } })
  fastify.decorate('facts', {
    onFinished (listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    get inFlight () { return inFlight },
    async settled () {
      for (let turns = 0; turns < maxFinalTurns && fastify.facts.inFlight > 0; turns++) await nextTurn()
    },
    finish
  })
  fastify.addHook('onRequest', function recordFacts (request, reply, done) {
    const { raw } = request
    if (reply.raw.socket === null && !reply.raw.destroyed) joinLine(raw, reply.raw) // so that it is told when the connection is over, whoever made the server
    const before = reply.raw.destroyed ? refusalBefore(reply.raw) : undefined
    const id = before?.id ?? requestIdOf(raw.headers['x-request-id'])
    const peer = plainAddress(raw.socket.remoteAddress ?? '')
    const peerTrusted = trusts !== null && trusts(peer, 0)
    const behind = peerTrusted ? whoIsBehind(peer, raw.headers, trusts) : null
    request.facts = new RequestFacts(id, raw.method ?? '', request.originalUrl, behind?.client ?? peer, peerTrusted)
    if (behind !== null) request.facts.forwardedElement = behind.element
    inFlight++
    keepFacts(reply.raw, request.facts)
    reply.header('x-request-id', id)
    if (reply.raw.destroyed) { // while a hook of the application around waited
      Object.assign(request.facts, before)
      nextTick(onClose, request, reply) // when the hooks behind this one have begun what ends then
    } else reply.raw.once('close', () => onClose(request, reply))
    done()
  })
}

export default fp(factsPlugin, { name: 'fleet-facts', fastify: '5.x' })
