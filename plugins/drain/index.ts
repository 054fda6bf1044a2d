/**
 * An orderly end: readiness turns 503, the listener closes, what is in flight finishes, streams are closed properly when time runs out.
 */
import type { Server } from 'node:http'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import type {} from '../proxy/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { closeWaitingConnections, hasFollowers } from '../../src/pipelining.ts'

export interface Drain {
  /** No new work is wanted; from the first call of begin(), or from the moment the application closes. */
  readonly draining: boolean
  /**
   * Begins to drain, once; later calls get the same promise. Resolves when nothing is in flight, or when the time is over and the
   * remaining streams were told to end. The caller then closes the application.
   */
  begin (settings: { delayMs: number, timeoutMs: number }): Promise<void>
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The orderly end. */
    drain: Drain
  }
}

export interface DrainPluginOptions {
  clock?: Clock
}

/** Where more comes all the time, only so much of it is taken: as many turns of the event loop, a connection each. */
const mostTurns = 1_000
/** What was sent on the last connection is here after as many without another one. */
const quietTurns = 3

/** What streams get to say goodbye in. */
const farewellMs = 1_500

const drainPlugin: FastifyPluginAsync<DrainPluginOptions> = async (fastify, { clock = systemClock }) => {
  const { facts } = fastify
  let draining = false
  let drained: Promise<void> | null = null
  let wake: (() => void) | null = null

  const sleep = (ms: number) => new Promise<void>(resolve => { clock.after(ms, resolve) })
  const stopListening = facts.onFinished(() => { if (facts.inFlight === 0) wake?.() })

  /** Resolves when nothing is in flight or the time is over. */
  function quiet (timeoutMs: number): Promise<void> {
    if (facts.inFlight === 0) return Promise.resolve()
    return new Promise(resolve => {
      const cancel = clock.after(timeoutMs, resolve)
      wake = () => { cancel(); resolve() }
    })
  }

  /** What has arrived already is taken first. A turn of the event loop takes one connection, and the next one what was sent on it. */
  async function takeArrived (server: Server): Promise<void> {
    let hasCome = false
    const note = () => { hasCome = true }
    server.on('connection', note)
    for (let turns = 0, quiet = 0; quiet < quietTurns && turns < mostTurns; turns++, quiet = hasCome ? 0 : quiet + 1) {
      hasCome = false
      await new Promise(setImmediate)
    }
    server.off('connection', note)
  }

  async function drainAll ({ delayMs, timeoutMs }: { delayMs: number, timeoutMs: number }): Promise<void> {
    draining = true
    if (delayMs > 0) await sleep(delayMs)
    const server = fastify.server as Server
    await takeArrived(server)
    if (server.listening) server.close() // also closes idle connections
    await quiet(timeoutMs)
    if (facts.inFlight > 0 && fastify.hasDecorator('proxy')) fastify.proxy.endStreams()
    await quiet(farewellMs)
    server.closeAllConnections()
    closeWaitingConnections(server)
  }

  fastify.decorate('drain', {
    get draining () { return draining },
    begin: settings => (drained ??= drainAll(settings))
  })
  // Forwarded answers go past this hook; the proxy asks for itself.
  fastify.addHook('onSend', function closeWhenDraining ({ raw }, reply, _payload, done) {
    if (draining && !hasFollowers(raw.socket, reply.raw)) reply.header('connection', 'close')
    done()
  })
  fastify.addHook('preClose', async () => { draining = true })
  fastify.addHook('onClose', async () => stopListening())
}

export default fp(drainPlugin, { name: 'fleet-drain', fastify: '5.x', decorators: { fastify: ['facts'] } })
