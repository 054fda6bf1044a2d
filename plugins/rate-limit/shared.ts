/**
 * Token buckets of all gateways together, in Redis: the arithmetic of src/fleet/token-bucket.ts as one script on the server's time, so that
 * neither two gateways nor two clocks can count differently. Who does not answer in time is not asked again until it answers.
 */
import type { Redis } from 'ioredis'
import type { FleetRedis } from '../redis/index.ts'
import type { Clock } from '../../src/clock.ts'
import type { BucketLimits, Take } from '../../src/fleet/token-bucket.ts'
import { redisReason } from '../../src/redis-reasons.ts'

/**
 * A request waits so long for its token, then it is decided without. That is counted in ticks: when it is this process that stood still, the
 * answer may be there and not read yet, and one tick is all that has passed.
 */
const answerMs = 250
const tickMs = 50
/** Between two questions whether it answers again. */
const askAgainMs = 250
/** It does after so many answers in a row: the buckets must not change with each of a Redis that flaps. */
const answersToReturn = 2

/**
 * Takes a token if there is one. KEYS: the bucket. ARGV: burst, tokens a minute. The bucket is a text, `level time burst perMinute`, the level in sixty-thousandths of a token; all
 * are whole numbers that a double holds. It expires when it would be full, since a new one is the same. A refusal takes nothing, so there is
 * nothing to write, but for a clock that was set back: the account goes on from the new time, or its client would starve until the old one.
 */
export const takeScript = `
local token = 60000
local burst, perMinute = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local full = burst * token
local level, isChanged = full, false
local kept = redis.pcall('GET', KEYS[1])
local keptLevel, at, keptBurst, keptPerMinute = string.match(type(kept) == 'string' and kept or '', '^(%d+) (%d+) ([1-9]%d*) ([1-9]%d*)$')
if keptLevel then
  level, at, keptBurst, keptPerMinute = tonumber(keptLevel), tonumber(at), tonumber(keptBurst), tonumber(keptPerMinute)
  if now > at then level = math.min(level + (now - at) * keptPerMinute, keptBurst * token) end
  if keptBurst ~= burst or keptPerMinute ~= perMinute then
    level = math.floor(level / keptBurst * burst)
    isChanged = true
  end
  if now < at then isChanged = true end
end
local allowed = 0
if level >= token then
  level = level - token
  allowed = 1
end
local msToFull = math.ceil((full - level) / perMinute)
if allowed == 1 or isChanged then redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f %.0f', level, now, burst, perMinute), 'PX', msToFull) end
return { allowed, math.floor(level / token), msToFull, math.max(0, math.ceil((token - level) / perMinute)) }`

type Answer = [allowed: number, tokens: number, msToFull: number, msToNext: number]

type TakeToken = (key: string, burst: number, perMinute: number) => Promise<Answer>

/** A request without its token yet. */
interface Waiting {
  readonly sinceTick: number
  readonly finish: (take: Take | null, why: string) => void
}

/** What the buckets need, and whom they tell. */
export interface SharedBucketsOptions {
  readonly redis: FleetRedis
  readonly client: Redis
  readonly clock: Clock
  /** Called when the first request could not be decided in common; not again before `onFound`. */
  readonly onLost: (why: string) => void
  /** Called when requests are decided in common again. */
  readonly onFound: () => void
}

/** A bucket per key, the same ones in all gateways of a fleet. */
export class SharedBuckets {
  readonly #redis: FleetRedis
  readonly #client: Redis
  readonly #takeToken: TakeToken
  readonly #clock: Clock
  readonly #onLost: (why: string) => void
  readonly #onFound: () => void
  #isLost = false
  #failures = 0
  /** In a row, since it was lost. */
  #answers = 0
  #stopAsking = () => {}
  /** In the order in which they asked. */
  readonly #waiting = new Set<Waiting>()
  #tick = 0
  #stopTicking: (() => void) | null = null
  #isClosed = false

  constructor ({ redis, client, clock, onLost, onFound }: SharedBucketsOptions) {
    this.#redis = redis
    this.#client = client
    this.#clock = clock
    this.#onLost = onLost
    this.#onFound = onFound
    client.defineCommand('fleetTakeToken', { numberOfKeys: 1, lua: takeScript })
    const commands = client as unknown as { fleetTakeToken: TakeToken }
    this.#takeToken = (key, burst, perMinute) => commands.fleetTakeToken(key, burst, perMinute)
  }

  /** How many requests could not be decided in common. */
  get failures (): number {
    return this.#failures
  }

  /** Calls `decide` once, with null when the bucket can't be had; then at once while it is known that it can't. */
  take (key: string, { burst, perMinute }: BucketLimits, decide: (take: Take | null) => void): void {
    if (this.#isLost) {
      this.#failures++
      return decide(null)
    }
    const finish = (take: Take | null, why: string) => {
      if (!this.#waiting.delete(waiting)) return
      if (take === null) this.#lose(why)
      decide(take)
    }
    const waiting = { sinceTick: this.#tick, finish }
    this.#waiting.add(waiting)
    this.#stopTicking ??= this.#clock.every(tickMs, () => this.#giveUpLate())
    this.#takeToken(this.#redis.key(`limit ${key}`), burst, perMinute).then(
      ([allowed, tokens, msToFull, msToNext]) => finish({ allowed: allowed === 1, tokens, msToFull, msToNext }, ''),
      (error: unknown) => finish(null, redisReason(error))
    )
  }

  close (): void {
    this.#isClosed = true
    this.#stopAsking()
    this.#stopTicking?.()
  }

  /** Those who asked first are first; nobody waits, nothing ticks. */
  #giveUpLate (): void {
    this.#tick++
    for (const { sinceTick, finish } of this.#waiting) {
      if ((this.#tick - sinceTick) * tickMs <= answerMs) return
      finish(null, `no answer in ${answerMs} ms`)
    }
    this.#stopTicking?.()
    this.#stopTicking = null
  }

  #lose (why: string): void {
    this.#failures++
    if (this.#isLost || this.#isClosed) return
    this.#isLost = true
    this.#answers = 0
    this.#onLost(why)
    this.#askLater()
  }

  #askLater (): void {
    this.#stopAsking = this.#clock.after(askAgainMs, () => { void this.#ask() })
  }

  /** It is back when it does what it is wanted for: one that is full, or only reads, answers a PING as well. */
  async #ask (): Promise<void> {
    const askedAt = performance.now()
    const isAnswered = await this.#takeToken(this.#redis.key('limit'), 1, 60_000_000).then(() => true, () => false)
    if (this.#isClosed) return
    this.#answers = isAnswered && performance.now() - askedAt <= answerMs ? this.#answers + 1 : 0
    if (this.#answers < answersToReturn) return this.#askLater()
    this.#isLost = false
    this.#onFound()
  }
}
