/**
 * `fastify.peers`: the other processes that serve the same fleet, and what they can be asked: the workers of this gateway (`serve --workers`), and
 * all gateways that share its Redis. What is asked, and what is made of the answers, is the business of who asks.
 */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../redis/index.ts'
import type { FleetRedis } from '../redis/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { createSubscription } from '../../src/redis-subscription.ts'
import { Questions, type Heard, type Peer, type PeerAnswer } from './questions.ts'
import type { ToWorker, WorkerChannel } from './worker-channel.ts'

/** What a process says to a question; it must survive JSON. @param detail what the question is about */
export type Answerer = (detail: unknown) => unknown

export interface Peers {
  /** This process. */
  readonly self: Peer
  /** Whether this process is one of several workers of its gateway. */
  readonly hasWorkers: boolean
  /** Has this process answer questions of a topic. */
  answer (topic: string, answerer: Answerer): void
  /**
   * Asks all workers of this gateway, or all gateways (each with its workers), this process included; without others only itself.
   * Who does not answer within a second is counted as silent. Gateways answer to the topic `stats` alone. Rejects when Redis can't be asked.
   */
  ask (whom: Circle, topic: string, detail?: unknown): Promise<Heard>
}

/** Who is asked. */
export type Circle = 'workers' | 'gateways'

declare module 'fastify' {
  interface FastifyInstance {
    /** The other processes that serve the same fleet. */
    peers: Peers
  }
}

export interface PeersPluginOptions {
  /** The way to the other workers of this gateway. @default there are none */
  workers?: WorkerChannel
  clock?: Clock
}

/** Who is asked has so long for an answer. */
const patienceMs = 1_000

/** What may be asked through Redis: anybody who has it can ask, so nothing that changes something or tells more than figures. */
const topicsOfGateways = new Set(['stats'])

/** The object that a text is as JSON; undefined for anything else. */
function objectIn (text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? value as Record<string, unknown> : undefined
  } catch {
    return undefined
  }
}

function isPeer (value: unknown): value is Peer {
  const { id, host } = (value ?? {}) as Partial<Peer>
  return typeof id === 'string' && typeof host === 'string'
}

/** Puts a question to all of a circle. */
type Ask = (topic: string, detail: unknown) => Promise<Heard>

const peersPlugin: FastifyPluginAsync<PeersPluginOptions> = async (fastify, { workers, clock = systemClock }) => {
  const self: Peer = { id: randomBytes(6).toString('hex'), host: hostname(), ...(workers && { worker: workers.worker, pid: workers.pid }) }
  const answerers = new Map<string, Answerer>()

  /** Undefined for a topic that this process knows nothing of: another version of it may. */
  async function answerTo (topic: string, detail: unknown): Promise<unknown> {
    try {
      return await answerers.get(topic)?.(detail)
    } catch (error) {
      fastify.log.error(error, `A question of another process could not be answered (${topic})`)
      return undefined
    }
  }

  async function askSelf (topic: string, detail: unknown): Promise<Heard> {
    return { answers: [{ from: self, value: await answerTo(topic, detail) }], silent: 0 }
  }

  function overWorkers (channel: WorkerChannel): Ask {
    const questions = new Questions(clock, patienceMs)
    const stop = channel.onMessage((message: ToWorker) => {
      const { kind, question } = message
      if (kind === 'asked') questions.expect(question, message.count)
      else if (kind === 'answer') questions.hear(question, message)
      else void answerTo(message.topic, message.detail).then(value => channel.send({ kind: 'answer', question, to: message.from, from: self, value: value ?? null }))
    })
    // From here on this process has all that questions are about, and asks what it has missed by then.
    fastify.addHook('onReady', async () => channel.send({ kind: 'ready' }))
    fastify.addHook('onClose', async () => {
      stop()
      questions.close()
    })
    return (topic, detail) => questions.ask(async question => {
      channel.send({ kind: 'ask', question, topic, detail })
      return undefined
    })
  }

  function overRedis (redis: FleetRedis): Ask {
    const client = redis.client!
    const questions = new Questions(clock, patienceMs)
    const everybody = redis.key('peers')
    const own = redis.key('peers', self.id)

    function heard (text: string, channel: string): void {
      const { question, from, topic, detail, value } = objectIn(text) ?? {}
      if (typeof question !== 'number') return // whoever has the server can publish anything
      if (channel === own) {
        if (isPeer(from)) questions.hear(question, { from, value })
        return
      }
      if (typeof from !== 'string' || typeof topic !== 'string') return
      void (topicsOfGateways.has(topic) ? answerTo(topic, detail) : Promise.resolve(null))
        .then(value => client.publish(redis.key('peers', from), JSON.stringify({ question, from: self, value: value ?? null })))
        .catch(() => {}) // who asked counts it as silent
    }

    const subscription = createSubscription(client, { channels: [everybody, own], clock, log: fastify.log, onMessage: heard })
    fastify.addHook('onReady', async () => subscription.begin())
    fastify.addHook('onClose', async () => {
      questions.close()
      subscription.close()
    })
    return (topic, detail) => questions.ask(question => client.publish(everybody, JSON.stringify({ question, from: self.id, topic, detail })))
  }

  const circles: Readonly<Record<Circle, Ask>> = {
    workers: workers === undefined ? askSelf : overWorkers(workers),
    gateways: fastify.hasDecorator('redis') && fastify.redis.enabled ? overRedis(fastify.redis) : (topic, detail) => circles.workers(topic, detail)
  }

  fastify.decorate('peers', {
    self,
    hasWorkers: workers !== undefined,
    answer (topic, answerer) { answerers.set(topic, answerer) },
    ask: (whom, topic, detail = null) => circles[whom](topic, detail)
  })
}

export type { Heard, Peer, PeerAnswer, WorkerChannel }
export default fp(peersPlugin, { name: 'fleet-peers', fastify: '5.x' })
