/**
 * Revoked tokens that several gateways have in common: one hash in Redis, by digest. What is revoked is written and told to all in one step, and who
 * hears of it needs to read nothing. The set only grows, so there is no order to keep and nothing to decide: whenever there is doubt (a new connection,
 * a number of entries that is not the own one) a gateway reads everything, and writes what the others had not heard of.
 */
import type { Redis } from 'ioredis'
import type { FastifyBaseLogger } from 'fastify'
import type {} from '../redis/index.ts'
import type { FleetRedis } from '../redis/index.ts'
import { within, type Clock } from '../../src/clock.ts'
import { redisReason } from '../../src/redis-reasons.ts'
import { createSubscription } from '../../src/redis-subscription.ts'
import { revocationOf, type Revocation, type RevokedTokens } from './revoked-tokens.ts'

export interface SharedOptions {
  readonly redis: FleetRedis
  readonly tokens: RevokedTokens
  readonly clock: Clock
  readonly log: FastifyBaseLogger
  /** Takes what others have revoked. */
  readonly learn: (revocations: readonly Revocation[]) => void
}

export interface SharedTokens {
  /** Resolves when this gateway and Redis have the same, or can't have it just now. */
  begin (): Promise<void>
  /** Resolves when all who listen have been told. @throws what Redis says, or the way to it: some may have been told all the same */
  tell (revocations: readonly Revocation[]): Promise<void>
  /** Looks whether something was not heard of. Does nothing while Redis can't be asked. */
  check (): Promise<void>
  close (): Promise<void>
}

/** KEYS: the hash. ARGV: channel, then a digest and what is said of it, for each token. Told first: what fails half way has revoked too much, not too little. */
const revokeScript = `
for index = 2, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[1], ARGV[index] .. ' ' .. ARGV[index + 1])
end
for index = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
return 1`

type Revoke = (key: string, channel: string, ...fields: string[]) => Promise<unknown>

/** So many are read or written at once. */
const chunk = 500
/** The start waits so long for what others have revoked. */
const beginMs = 5_000

export function shareTokens ({ redis, tokens, clock, log, learn }: SharedOptions): SharedTokens {
  const client = redis.client!
  const key = redis.key('revoked')
  const channel = redis.key('revoked', 'changes')
  client.defineCommand('fleet_revoke', { numberOfKeys: 1, lua: revokeScript })
  const commands = client as Redis & { fleet_revoke: Revoke }
  let isClosed = false
  /** Whether this gateway and Redis have the same, but for messages that are on their way. */
  let isUnited = false
  let isWarned = false
  /** How many entries the hash has that are no revocations: no gateway has written them. */
  let strange = 0
  let uniting: Promise<void> | null = null
  let wake = () => {}
  const isUnitedOnce = new Promise<void>(resolve => { wake = resolve })

  async function write (revocations: readonly Revocation[]): Promise<void> {
    for (let from = 0; from < revocations.length; from += chunk) {
      await commands.fleet_revoke(key, channel, ...revocations.slice(from, from + chunk).flatMap(({ digest, id, at }) => [digest, `${at} ${id}`]))
    }
  }

  async function readAll (): Promise<Map<string, Revocation | undefined>> {
    const found = new Map<string, Revocation | undefined>()
    for await (const page of client.hscanStream(key, { count: chunk }) as AsyncIterable<string[]>) {
      for (let index = 0; index < page.length; index += 2) found.set(page[index]!, readEntry(page[index]!, page[index + 1]!))
    }
    return found
  }

  async function becomeEqual (): Promise<void> {
    const found = await readAll()
    learn([...found.values()].filter(revocation => revocation !== undefined))
    strange = [...found.keys()].filter(digest => tokens.find(digest) === undefined).length
    const missing = [...tokens].filter(({ digest }) => found.get(digest) === undefined)
    await write(missing)
    if (missing.length > 0) log.info({ keys: missing.map(({ id }) => id) }, 'Revoked keys that Redis did not have are told to the other gateways')
    if (strange > 0) log.warn({ entries: strange }, 'Left out of the revoked keys in Redis: entries that no gateway has written')
  }

  /** One at a time. Whether it went well is `isUnited`. */
  function unite (): Promise<void> {
    uniting ??= becomeEqual().then(() => {
      isUnited = true
      isWarned = false
      wake()
    }, (error: unknown) => {
      isUnited = false
      if (!isWarned && !isClosed) log.warn(`Revoked keys can not be shared just now: ${redisReason(error)}`)
      isWarned = true
    }).finally(() => { uniting = null })
    return uniting
  }

  /** Also after one that has begun already: it may have read before there was reason to. */
  function uniteAnew (): void {
    isUnited = false
    void (uniting ?? Promise.resolve()).then(() => { if (redis.isUp && !isClosed) return unite() })
  }

  function heard (message: string): void {
    const space = message.indexOf(' ')
    const revocation = readEntry(message.slice(0, space), message.slice(space + 1))
    if (revocation !== undefined) learn([revocation])
  }

  const stopWatching = redis.onStatus(isUp => {
    isUnited = false
    if (!isUp) return
    uniteAnew()
    if (subscription.isHearing) subscription.renew() // of a line that was cut both ends may know nothing
  })
  const subscription = createSubscription(client, { channels: [channel], clock, log, onMessage: heard, onHearing: uniteAnew })

  return {
    async begin () {
      subscription.begin()
      if (redis.isUp) await within(beginMs, clock, isUnitedOnce)
    },

    async tell (revocations) {
      try {
        await write(revocations)
      } catch (error) {
        isUnited = false
        throw error
      }
    },

    async check () {
      if (!redis.isUp || uniting !== null) return
      try {
        if (isUnited && await client.hlen(key) === tokens.size + strange) return
      } catch {
        return // it is in the log that Redis does not answer
      }
      const before = tokens.size
      await unite()
      if (tokens.size > before && subscription.isHearing) subscription.renew() // it should have been told
    },

    async close () {
      isClosed = true
      stopWatching()
      subscription.close()
      await uniting
    }
  }
}

/** What a field and its value in the hash stand for. */
function readEntry (digest: string, said: string): Revocation | undefined {
  const [, at, id] = /^(\d{1,16}) (\S+)$/.exec(said) ?? []
  return revocationOf(digest, id, Number(at))
}
