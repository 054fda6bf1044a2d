/**
 * Upgrade requests on their way into Fastify. Node hands every request with an `Upgrade` to the server's `upgrade` listeners and takes its
 * parser off the socket; WebSocket requests to agents go through the router like any other, so that all hooks run, and everything else
 * (h2c, or a WebSocket elsewhere) is served as if nothing had been offered (RFC 9110 §7.8), unless the application around the gateway has
 * listeners of its own: what does not lead to an agent is theirs.
 */
import { ServerResponse, type IncomingMessage, type Server } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { announcesBody } from '../../src/announced-body.ts'
import { endLingering } from '../../src/linger.ts'
import { afterAnswers } from '../../src/pipelining.ts'

/** The connection behind an upgrade request. */
export interface UpgradeOffer {
  readonly socket: Socket
  /** What the client sent behind its request. */
  readonly head: Buffer
}

const offers = new WeakMap<IncomingMessage, UpgradeOffer>()

/** The connection of a request that came as a WebSocket upgrade; undefined for any other. */
export function upgradeOffer (raw: IncomingMessage): UpgradeOffer | undefined {
  return offers.get(raw)
}

/**
 * Listens for upgrades on Fastify's server.
 * @param isOurs whether a request's target leads to an agent
 * @returns stops listening
 */
export function acceptUpgrades (fastify: FastifyInstance, isOurs: (target: string) => boolean): () => void {
  const server = fastify.server as Server
  const taker = { fastify, isOurs }
  const listening = gateways.get(server) ?? listen(server)
  listening.takers.add(taker)
  return () => {
    listening.takers.delete(taker)
    if (listening.takers.size > 0) return
    listening.stop()
    gateways.delete(server)
  }
}

interface Taker {
  readonly fastify: FastifyInstance
  readonly isOurs: (target: string) => boolean
}

type UpgradeListener<R> = (raw: IncomingMessage, socket: Socket, head: Buffer) => R

interface Listening {
  readonly takers: Set<Taker>
  readonly stop: () => void
}

/** One listener per server, however many gateways are on it: what is nobody's must be served once, not left to the other. */
const gateways = new WeakMap<Server, Listening>()

function listen (server: Server): Listening {
  const takers = new Set<Taker>()
  const stopDiverting = divert(server, (raw, socket, head) => {
    const taker = [...takers].find(({ isOurs }) => isOurs(raw.url ?? ''))
    if (taker === undefined) return false
    const take = isWebSocket(raw) ? route.bind(null, taker.fastify) : serveWithoutUpgrade.bind(null, server)
    afterAnswers(socket, () => take(raw, socket, head))
    return true
  })
  const serveNobodys = (raw: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (server.listenerCount('upgrade') > 1) return
    afterAnswers(socket as Socket, () => serveWithoutUpgrade(server, raw, socket as Socket, head))
  }
  server.on('upgrade', serveNobodys)
  const listening: Listening = {
    takers,
    stop () {
      server.off('upgrade', serveNobodys)
      stopDiverting()
    }
  }
  gateways.set(server, listening)
  return listening
}

/**
 * Offers each upgrade to `take` first, and keeps those that it took from the server's listeners. The listeners that an application has for
 * its own WebSockets commonly refuse what they don't know (`ws` with a path), or route it a second time (@fastify/websocket), and no
 * listener can stop an event on its way to the others.
 * @returns ends that
 */
function divert (server: Server, take: UpgradeListener<boolean>): () => void {
  const { emit } = server as { emit: (event: string | symbol, ...args: unknown[]) => boolean }
  function offerFirst (this: Server, event: string | symbol, ...args: unknown[]): boolean {
    if (event === 'upgrade' && take(...args as Parameters<UpgradeListener<boolean>>)) return true
    return emit.call(this, event, ...args)
  }
  const hadOwn = Object.hasOwn(server, 'emit')
  server.emit = offerFirst
  return () => {
    if (server.emit !== offerFirst) return
    if (hadOwn) server.emit = emit
    else delete (server as { emit?: unknown }).emit
  }
}

/** A handshake has no body (RFC 6455 §4.1), and in HTTP/1.0 there are no upgrades (RFC 9110 §7.8). */
function isWebSocket ({ method, headers, httpVersion }: IncomingMessage): boolean {
  return method === 'GET' && httpVersion === '1.1' && !announcesBody(headers) && offersWebSocket(headers.upgrade)
}

/** Several protocols may be offered, and the server choose (RFC 9110 §7.8). */
function offersWebSocket (upgrade: string | undefined): boolean {
  return upgrade !== undefined && upgrade.split(',').some(protocol => protocol.trim().toLowerCase() === 'websocket')
}

function route (fastify: FastifyInstance, raw: IncomingMessage, socket: Socket, head: Buffer): void {
  offers.set(raw, { socket, head })
  socket.on('error', () => socket.destroy())
  const response = new ServerResponse(raw)
  response.shouldKeepAlive = false
  response.assignSocket(socket)
  // A refusal is written like any answer; after it the connection has no parser to read a next request.
  response.once('finish', () => {
    response.detachSocket(socket)
    response.emit('close') // as Node does: the exchange is over, however long the client takes to close
    endLingering(socket)
  })
  fastify.routing(raw, response)
}

/** Puts the request back in front of the socket, without its offer, and lets the server read it again. */
function serveWithoutUpgrade (server: Server, raw: IncomingMessage, socket: Socket, head: Buffer): void {
  let text = `${raw.method} ${raw.url} HTTP/${raw.httpVersion}\r\n`
  const { rawHeaders } = raw
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]!
    const lower = name.toLowerCase()
    if (lower === 'upgrade' || lower === 'http2-settings') continue
    const value = lower === 'connection' ? withoutUpgrade(rawHeaders[index + 1]!) : rawHeaders[index + 1]!
    if (lower === 'connection' && value === '') continue
    text += `${name}: ${value}\r\n`
  }
  socket.unshift(Buffer.concat([Buffer.from(`${text}\r\n`, 'latin1'), head]))
  server.emit(socket instanceof TLSSocket ? 'secureConnection' : 'connection', socket)
}

function withoutUpgrade (connection: string): string {
  return connection.split(',').map(option => option.trim()).filter(option => !['upgrade', 'http2-settings'].includes(option.toLowerCase())).join(', ')
}
