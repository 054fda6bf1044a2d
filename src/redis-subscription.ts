/**
 * What is published in Redis, heard on a connection of its own. Whoever uses it is told when it begins to hear, which may be again and again: what was
 * published in between was missed.
 */
import type { Redis } from 'ioredis'
import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from './clock.ts'
import { redisReason } from './redis-reasons.ts'

export interface SubscriptionOptions {
  readonly channels: readonly string[]
  readonly clock: Clock
  readonly log: FastifyBaseLogger
  readonly onMessage: (message: string, channel: string) => void
  /** From here on nothing is missed. */
  readonly onHearing?: () => void
  /** What is published from here on is missed. */
  readonly onDeaf?: () => void
}

export interface Subscription {
  /** Whether it hears, as far as is known: of a line that was cut both ends may know nothing. */
  readonly isHearing: boolean
  /** Connects, and goes on trying. */
  begin (): void
  /** Hears on a connection of which nothing is known yet. */
  renew (): void
  close (): void
}

/** A line on which nothing is answered for so long is given up. */
const answerMs = 2_000
/** A server that refuses is asked again after this. */
const refusedMs = 1_000

/** @param client whose server it is; its own connection is left alone */
export function createSubscription (client: Redis, { channels, clock, log, onMessage, onHearing, onDeaf }: SubscriptionOptions): Subscription {
  // The client's own way to subscribe anew leaves an error to nobody when the connection ends at that moment.
  const subscriber = client.duplicate({ commandTimeout: answerMs, socketTimeout: undefined, enableAutoPipelining: false, autoResubscribe: false })
  let isHearing = false
  let isClosed = false
  let isTold = false

  function renew (): void {
    if (!isClosed) subscriber.disconnect(true)
  }

  function failed (error: Error): void {
    if (isClosed) return
    if (error.name !== 'ReplyError') return renew()
    if (!isTold) log.warn(`Redis lets nobody hear ${channels.join(' and ')}: ${redisReason(error)}`)
    isTold = true
    clock.after(refusedMs, renew)
  }

  subscriber.on('error', () => {}) // the other connection's are in the log
  subscriber.on('message', (channel: string, message: string) => {
    try {
      onMessage(message, channel)
    } catch (error) { // whoever has the server can publish anything, and no message may end the process
      log.error(error, `A message that was published in Redis could not be taken (${channel})`)
    }
  })
  subscriber.on('close', () => {
    isHearing = false
    onDeaf?.()
  })
  subscriber.on('ready', () => {
    subscriber.subscribe(...channels).then(() => {
      isHearing = true
      isTold = false
      onHearing?.()
    }, failed)
  })

  return {
    get isHearing () { return isHearing },
    begin () { subscriber.connect().catch(() => {}) }, // it goes on trying
    renew,
    close () {
      isClosed = true
      subscriber.removeAllListeners()
      subscriber.on('error', () => {})
      subscriber.disconnect()
    }
  }
}
