/**
 * A token bucket per client. @fastify/rate-limit counts, over our store; one hook of ours says who is counted, by which limits, and
 * answers (draft-ietf-httpapi-ratelimit-headers). Register it behind auth, since the client is the key where there is one, and behind redis,
 * where several gateways shall count together.
 */
import fastifyRateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../auth/index.ts'
import type {} from '../facts/index.ts'
import type {} from '../redis/index.ts'
import type {} from '../registry/index.ts'
import { createAddressKeys } from '../../src/address-key.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { RateLimitUnavailableError, RateLimitedError, isFleetError, type FleetError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import { TokenBuckets } from '../../src/fleet/token-bucket.ts'
import { parseOptions } from '../../src/options.ts'
import type { Principal } from '../../src/principal.ts'
import { RateLimitOptions } from './options.ts'
import { Quotas, type Limits, type Quota } from './quota.ts'
import { SharedBuckets } from './shared.ts'
import { sharedBucketStore, tokenBucketStore } from './store.ts'

export interface RateLimiter {
  /** Takes new limits at once; buckets stay as full as they are, in proportion. @throws OptionsError */
  reconfigure (options: Partial<RateLimitOptions>): void
  /** The limits of a key, or of whoever has none, for an agent or for the gateway's own routes. */
  limitsOf (principal: Pick<Principal, 'rateLimit'> | null, agent: Pick<Agent, 'policy'> | undefined): Limits
  /** Requests that could not be counted in common with other gateways, since Redis did not answer; 0 where none is configured. */
  readonly storeFailures: number
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The limits per client. */
    rateLimiter: RateLimiter
  }
}

/** Data of `rateLimit` in fleet.yaml, and seams. */
export interface RateLimitPluginOptions extends Partial<RateLimitOptions> {
  clock?: Clock
  /** The most buckets that are kept. @default 100 000 */
  maxBuckets?: number
}

/** What `onStoreFailure` comes to, for the log. */
const substituteWords: Readonly<Record<RateLimitOptions['onStoreFailure'], string>> = {
  local: 'this gateway counts by itself',
  open: 'nothing is counted',
  closed: 'what is limited is refused at agents'
}

/** Whose bucket a request takes from, and by which limits. */
interface Ticket {
  readonly key: string
  readonly quota: Quota
}

const ticketOf = Symbol('fleet.rateLimitTicket')

type Ticketed = FastifyRequest & { [ticketOf]: Ticket }

const rateLimitPlugin: FastifyPluginAsync<RateLimitPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, maxBuckets, ...data } = opts
  let options = parseOptions(RateLimitOptions, data, 'rateLimit')
  let quotas = new Quotas(options)
  const addressKey = createAddressKeys()
  const buckets = new TokenBuckets(maxBuckets)
  const shared = shareBuckets()

  const createRateLimit = await limiterFactory(fastify, {
    global: false,
    store: shared === null ? tokenBucketStore(buckets, clock) : sharedBucketStore(shared, { buckets, clock, mode: substitute }),
    keyGenerator: request => (request as Ticketed)[ticketOf].key
  })
  const limiters = new WeakMap<Quota, ReturnType<CreateRateLimit>>()

  /** One per quota: numbers cost @fastify/rate-limit less than functions that it would await. */
  function limiterOf (quota: Quota): ReturnType<CreateRateLimit> {
    let limiter = limiters.get(quota)
    if (limiter === undefined) limiters.set(quota, limiter = createRateLimit({ max: quota.burst, timeWindow: timeWindowOf(quota) }))
    return limiter
  }

  /** The buckets of all gateways; null when this one is alone. */
  function shareBuckets (): SharedBuckets | null {
    if (!fastify.hasDecorator('redis') || fastify.redis.client === null) return null
    const { redis, log } = fastify
    return new SharedBuckets({
      redis,
      client: fastify.redis.client,
      clock,
      onLost: why => log.warn(`Redis does not answer for rate limits (${why}): ${substituteWords[options.onStoreFailure]} until it does`),
      onFound: () => log.info('Rate limits are counted by all gateways together again')
    })
  }

  function substitute (): 'local' | 'open' | FleetError {
    if (options.onStoreFailure !== 'closed') return options.onStoreFailure
    return new RateLimitUnavailableError('The limits that gateways share can not be looked at just now; try again in 1 s', { headers: { 'retry-after': '1' } })
  }

  function clientOf (request: FastifyRequest): string {
    const { principal } = request
    if (principal?.named) return `key:${principal.id}`
    return `ip:${addressKey(request.facts?.clientAddress ?? request.ip)}`
  }

  /** Null for what is not limited. */
  function ticketFor (request: FastifyRequest): Ticket | null {
    if (request.is404) return null
    const route = request.routeOptions.config.fleet
    if (route?.rateLimit === false) return null
    const agent = route?.scope === 'proxy' ? askedAgent(request) : undefined
    const override = agent?.policy.rateLimit
    const quota = quotas.of(request.principal?.rateLimit, override)
    if (!quota.enabled) return null
    const client = clientOf(request)
    return { quota, key: override === undefined ? client : `${client} agent:${agent!.name}` }
  }

  function askedAgent ({ params }: FastifyRequest): Agent | undefined {
    if (!fastify.hasDecorator('registry')) return undefined
    const path = (params as Record<string, string | undefined>)['*'] ?? ''
    const end = path.indexOf('/')
    return fastify.registry.find(end === -1 ? path : path.slice(0, end))
  }

  /** Null when nobody counts. Who looks after the fleet has to get in above all while Redis is away, so only requests for agents are refused then. */
  async function resultOf (request: FastifyRequest, { quota }: Ticket) {
    try {
      return await limiterOf(quota)(request)
    } catch (error) {
      if (isFleetError(error) && error.code === RateLimitUnavailableError.code && request.routeOptions.config.fleet?.scope !== 'proxy') return null
      throw error
    }
  }

  fastify.decorateRequest(ticketOf, null)
  fastify.decorate('rateLimiter', {
    reconfigure (changed) {
      options = parseOptions(RateLimitOptions, changed, 'rateLimit')
      quotas = new Quotas(options)
    },
    limitsOf (principal, agent) {
      const { enabled, perMinute, burst } = quotas.of(principal?.rateLimit, agent?.policy.rateLimit)
      return { enabled, perMinute, burst }
    },
    get storeFailures () { return shared?.failures ?? 0 }
  })
  if (shared !== null) fastify.addHook('onClose', async () => shared.close())
  fastify.addHook('onRequest', async function limitRate (request, reply) {
    const ticket = ticketFor(request)
    if (ticket === null) return
    ;(request as Ticketed)[ticketOf] = ticket
    const result = await (shared === null ? limiterOf(ticket.quota)(request) : resultOf(request, ticket))
    if (reply.raw.destroyed) return void reply.hijack() // the client left: nothing begins that its account does not have
    if (result === null || result.isAllowed) return // on an allow list: there is none
    if (result.remaining === ticket.quota.burst) return // nothing was counted: there is nothing to tell
    const seconds = String(result.ttlInSeconds)
    addHeaders(reply, ticket.quota, result.remaining, seconds)
    if (result.isExceeded) {
      throw new RateLimitedError(`More requests than ${ticket.quota.perMinute} a minute; try again in ${seconds} s`, { headers: { 'retry-after': seconds } })
    }
  })
}

/** It would cut the fraction off a number, but not off what a function says. */
function timeWindowOf ({ windowMs }: Quota): number | (() => number) {
  return Number.isInteger(windowMs) ? windowMs : () => windowMs
}

function addHeaders (reply: FastifyReply, { burst, policy }: Quota, remaining: number, seconds: string): void {
  void reply.header('ratelimit-policy', policy)
    .header('ratelimit', `"default";r=${remaining};t=${seconds}`)
    .header('x-ratelimit-limit', String(burst))
    .header('x-ratelimit-remaining', String(remaining))
    .header('x-ratelimit-reset', seconds)
}

type CreateRateLimit = FastifyInstance['createRateLimit']

/**
 * Registers @fastify/rate-limit. In an application that has it already it would leave that one's decorator, and so that one's store, in
 * place; then it decorates a stand-in for the instance instead.
 */
async function limiterFactory (fastify: FastifyInstance, options: fastifyRateLimit.RateLimitPluginOptions & { store: fastifyRateLimit.FastifyRateLimitStoreCtor }): Promise<CreateRateLimit> {
  if (!fastify.hasDecorator('createRateLimit')) {
    await fastify.register(fastifyRateLimit, options)
    return fastify.createRateLimit
  }
  const decorators: Record<string, unknown> = {}
  const standIn = Object.create(fastify, {
    hasDecorator: { value: () => false },
    decorate: { value: (name: string, value: unknown) => { decorators[name] = value } }
  }) as FastifyInstance
  await (fastifyRateLimit as unknown as FastifyPluginAsync<typeof options>)(standIn, options)
  return decorators['createRateLimit'] as CreateRateLimit
}

export { RateLimitOptions }
export default fp(rateLimitPlugin, { name: 'fleet-rate-limit', fastify: '5.x' })
