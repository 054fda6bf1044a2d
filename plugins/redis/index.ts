/**
 * `fastify.redis`: one connection to the Redis (or Valkey) that several gateways share, and whether it answers. What is kept there is the
 * business of who uses it. Not configured, nothing of the client is loaded.
 */
import type { Redis } from 'ioredis'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { systemClock, within, type Clock } from '../../src/clock.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { redisReason } from '../../src/redis-reasons.ts'
import { readAccess } from './access.ts'
import { RedisOptions } from './options.ts'

export interface FleetRedis {
  /** Whether a server is configured. */
  readonly enabled: boolean
  /** Commands fail at once while there is no connection, and after half a second without an answer. Null when none is configured. */
  readonly client: Redis | null
  /** A key of this fleet. All keys with the same first part are in one hash slot. */
  key (...parts: readonly string[]): string
  /** Whether the server answered when it was last asked, which is twice a second; one that was lost, the last two times. */
  readonly isUp: boolean
  /** Calls `listener` whenever `isUp` changes; the returned function ends that. */
  onStatus (listener: (isUp: boolean) => void): () => void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The Redis that several gateways share. */
    redis: FleetRedis
  }
}

/** Data of `redis` in fleet.yaml, and seams. */
export interface RedisPluginOptions extends Partial<RedisOptions> {
  clock?: Clock
}

/** A request may wait for an answer, so it is not waited for long. */
const commandTimeoutMs = 500
const pingMs = 500
/** One that was lost is back after so many answers in a row, half a second apart: whatever follows from it must not change with each of one that flaps. */
const answersToReturn = 2
/** A connection on which nothing comes for so long is given up for another: the other end may be gone without a word. */
const silentMs = 4_000
/** The start waits so long for a server; without one the gateway begins with what it remembers. */
const startMs = 2_000
const mostRetryMs = 1_000
/** The first Redis that has all commands that are used (`ZADD … GT`, https://redis.io/docs/latest/commands/zadd/). Valkey says it is a 7.2. */
const oldestServer = [6, 2] as const

const redisPlugin: FastifyPluginAsync<RedisPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, ...data } = opts
  const options = parseOptions(RedisOptions, data, 'redis', ['clock'])
  const key = ([first = '', ...others]: readonly string[]) => [`${options.keyPrefix}{${first}}`, ...others].join(':')
  const { access, problems } = readAccess(options)
  if (problems.length > 0) throw new OptionsError('redis', problems)
  if (access === null) {
    fastify.decorate('redis', { enabled: false, client: null, key: (...parts) => key(parts), isUp: false, onStatus: () => () => {} })
    return
  }
  const { Redis: Client } = await import('ioredis')
  const client = new Client({
    ...access,
    lazyConnect: true,
    connectionName: 'fleet-gateway',
    enableAutoPipelining: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false, // whoever asked has had an error, and may have asked again
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    connectTimeout: startMs,
    socketTimeout: silentMs,
    retryStrategy: times => Math.min(25 * 2 ** Math.min(times, 10), mostRetryMs) * (0.75 + Math.random() / 2)
  })
  const listeners = new Set<(isUp: boolean) => void>()
  let isUp = false
  let isTold = false
  let isAsking = false
  let reason = 'no connection'
  /** Answers in a row that it takes to be up: one, before it ever was; and how many there were. */
  let answersWanted = 1
  let answers = 0

  function became (up: boolean): void {
    if (up) answersWanted = answersToReturn
    else answers = 0
    if (up === isUp && isTold) return
    isTold = true
    isUp = up
    if (up) fastify.log.info('Redis answers')
    else fastify.log.warn(`Redis does not answer (${reason}): what is known of the fleet goes on serving, and registrations are refused until it does`)
    for (const listener of listeners) listener(up)
  }

  async function ask (): Promise<void> {
    if (isAsking || client.status !== 'ready') return
    isAsking = true
    try {
      await client.ping()
      if (++answers >= answersWanted) became(true)
    } catch (error) {
      reason = redisReason(error)
      became(false)
    } finally {
      isAsking = false
    }
  }

  /** Such a server answers, and would fail in the middle of something. A user that may not ask for the version has an administrator who knows it. */
  async function tellOldServer (): Promise<void> {
    const [, version = '', major, minor] = /^redis_version:((\d+)\.(\d+)\S*)/m.exec(await client.info('server').catch(() => '')) ?? []
    if (Number(major) < oldestServer[0] || (Number(major) === oldestServer[0] && Number(minor) < oldestServer[1])) {
      fastify.log.error(`Redis ${version} is too old to share a fleet, which needs ${oldestServer.join('.')} or later, or Valkey: what is registered is lost with its data`)
    }
  }

  client.on('error', error => { reason = redisReason(error) })
  client.on('ready', () => {
    if (answersWanted === 1) void ask() // nobody waits for the clock at the start
    void tellOldServer()
  })
  client.on('close', () => became(false))
  const stopAsking = clock.every(pingMs, () => { void ask() })

  const isUpForTheFirstTime = new Promise<void>(resolve => { listeners.add(up => { if (up) resolve() }) })
  client.connect().catch(() => {}) // it goes on trying, and says so above
  await within(startMs, clock, isUpForTheFirstTime)

  fastify.decorate('redis', {
    enabled: true,
    client,
    key: (...parts) => key(parts),
    get isUp () { return isUp },
    onStatus (listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    }
  })
  fastify.addHook('onClose', async () => {
    stopAsking()
    client.removeAllListeners('close')
    client.disconnect()
  })
}

export { RedisOptions }
export default fp(redisPlugin, { name: 'fleet-redis', fastify: '5.x' })
