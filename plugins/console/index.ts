/**
 * The console: a page to watch and change the fleet in a browser, and the one event stream it lives on. What it changes it changes through
 * the routes that everybody has; what it shows is read from the registry, stats, health and the audit log, which know nothing of it.
 */
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../audit-log/index.ts'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../discovery/index.ts'
import type {} from '../drain/index.ts'
import type {} from '../facts/index.ts'
import type {} from '../health/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../stats/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { RateLimitedError } from '../../src/errors.ts'
import { cutOffSoon } from '../../src/farewell.ts'
import { parseOptions } from '../../src/options.ts'
import { anyone, hasScope, maySeeExchange, mayTouch, type Principal } from '../../src/principal.ts'
import { pathOf } from '../../src/request-target.ts'
import { addVary, takesGzip } from '../../src/negotiation.ts'
import { readAssets, type Asset } from './assets.ts'
import { History, sampleSeconds } from './history.ts'
import { ConsoleOptions } from './options.ts'
import { Picture } from './picture.ts'
import { Recent } from './recent.ts'
import { Viewer } from './viewer.ts'
import type { AuditEntry, ConfigStatus, Snapshot, Tick, Totals, You } from './wire.ts'

/** Data of `console` in fleet.yaml, and seams. */
export interface ConsolePluginOptions extends Partial<ConsoleOptions> {
  clock?: Clock
}

/** How often those who watch are told. */
const tickMs = 1_000
/** The most streams that are open at once. */
const mostViewers = 100
/** Finished requests that a new viewer is told of. */
const mostRequestsAtOnce = 200

/** Nothing but what comes from here; no frame may show it, and no text can become markup. */
const contentSecurityPolicy = [
  "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:", "base-uri 'none'", "form-action 'none'",
  "frame-ancestors 'none'", "require-trusted-types-for 'script'"
].join('; ')

const consolePlugin: FastifyPluginAsync<ConsolePluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, ...data } = opts
  const { enabled } = parseOptions(ConsoleOptions, data, 'console', ['clock'])
  if (!enabled) return
  const { registry, stats, facts } = fastify
  const startMark = performance.now()
  const history = new History(stats)
  const picture = new Picture({ registry, stats, history, health: fastify.hasDecorator('health') ? fastify.health : undefined })
  const viewers = new Set<Viewer>()
  const recent = new Recent()
  let stopEntries = () => {}
  let lastConfig = ''
  let ticks = 0

  const open = { config: { fleet: { public: true } } }
  /** Parts of the page, which no other program needs to know of. */
  const part = { config: { fleet: { public: true }, openapi: false } } as const
  for (const asset of readAssets()) {
    if (asset.name !== 'index.html') fastify.get(`/console/${asset.name}`, part, (request, reply) => sendAsset(asset, request, reply))
    else fastify.get('/console/', open, (request, reply) => isBelow(request) ? sendAsset(asset, request, reply) : toPage(reply))
  }
  if (!ignoresTrailingSlash(fastify)) fastify.get('/console', part, (_request, reply) => toPage(reply))

  fastify.get('/console/events', { exposeHeadRoute: false, config: { fleet: { scope: 'read' }, openapi: false } }, async (request, reply) => {
    if (viewers.size >= mostViewers) throw new RateLimitedError(`${mostViewers} consoles are open already`, { headers: { 'retry-after': '10' } })
    request.facts.stream = 'event-stream'
    const viewer = new Viewer(request, request.principal)
    if (viewers.size === 0) begin()
    viewers.add(viewer)
    viewer.once('close', () => {
      viewers.delete(viewer)
      if (viewers.size === 0) end()
    })
    tellAll(viewer)
    return await reply.type('text/event-stream; charset=utf-8').headers({ 'cache-control': 'no-store', 'x-accel-buffering': 'no' }).send(viewer)
  })

  fastify.get<{ Params: { name: string } }>('/console/agents/:name/history', { config: { fleet: { scope: 'read' }, openapi: false } }, async (request, reply) => {
    void reply.header('cache-control', 'no-store')
    return history.of(registry.get(request.params.name))
  })

  function begin (): void {
    picture.update()
    recent.take()
    if (fastify.hasDecorator('auditLog')) stopEntries = fastify.auditLog.onEntry(entry => recent.add(entry))
  }

  function end (): void {
    stopEntries()
    picture.forget()
  }

  /** Everything, as of the last tick: the ticks after it go on from there. */
  function tellAll (viewer: Viewer): void {
    const { principal } = viewer
    const sees = (name: string) => mayTouch(principal, name)
    const head: Omit<Snapshot, 'agents'> = {
      now: clock.now(),
      sample_seconds: sampleSeconds,
      you: youOf(fastify, principal),
      totals: totals(),
      config: configStatus(fastify),
      ...redisState(fastify),
      requests: recentRequests(fastify, principal)
    }
    viewer.isBehind = false
    viewer.tell('snapshot', `${JSON.stringify(head).slice(0, -1)},"agents":${objectOf(picture.pictures(sees))}}`)
  }

  function totals (): Totals {
    const { requests, errors, proxied } = stats.totals
    return { uptime_seconds: Math.round((performance.now() - startMark) / 1_000), requests, errors, proxied, in_flight: facts.inFlight, watching: viewers.size }
  }

  function tick (): void {
    const isSample = ticks++ % sampleSeconds === 0
    if (isSample) history.sample(registry.agents(), clock.now())
    if (viewers.size === 0) return
    if (fastify.hasDecorator('drain') && fastify.drain.draining) return dismissAll()
    const { updates, gone } = picture.update()
    const config = configStatus(fastify)
    const isNewConfig = JSON.stringify(config) !== lastConfig
    lastConfig = JSON.stringify(config)
    const head: Tick = { now: clock.now(), totals: totals(), ...redisState(fastify), ...(isSample && { sample: true }), ...(isNewConfig && { config }) }
    const { entries, skipped } = recent.take()

    /** What a viewer is told. */
    function tickFor (principal: Principal | null | undefined): string {
      const sees = (name: string) => mayTouch(principal, name)
      const seenUpdates = [...updates].filter(([name]) => sees(name))
      const seenGone = gone.filter(sees)
      const seenEntries = entries.filter(({ agent }) => maySeeExchange(principal, agent))
      const more: Tick = {
        ...head,
        ...(seenGone.length > 0 && { gone: seenGone }),
        ...(seenEntries.length > 0 && { requests: seenEntries }),
        ...(skipped > 0 && seesAll(principal) && { skipped })
      }
      const json = JSON.stringify(more)
      return seenUpdates.length === 0 ? json : `${json.slice(0, -1)},"agents":${objectOf(seenUpdates)}}`
    }

    let forAll: string | undefined
    for (const viewer of viewers) {
      if (viewer.isOver) continue
      if (!isStillWelcome(viewer)) dismiss(viewer, 'unauthorized')
      else if (!viewer.isReady()) continue
      else if (viewer.isBehind) tellAll(viewer)
      else if (seesAll(viewer.principal)) viewer.tell('tick', forAll ??= tickFor(viewer.principal))
      else viewer.tell('tick', tickFor(viewer.principal))
    }
  }

  /** Asks again who it is. A token that has to be looked up first is judged when that is done, and until then as before. */
  function isStillWelcome (viewer: Viewer): boolean {
    if (viewer.principal === undefined) return true
    const found = fastify.auth.principalOf(viewer.request)
    if (!(found instanceof Promise)) return isWelcomeAs(viewer, found)
    found.then(principal => { if (!isWelcomeAs(viewer, principal)) dismiss(viewer, 'unauthorized') }, error => fastify.log.debug(error, 'A console\'s token could not be judged'))
    return true
  }

  /** A key that was revoked, or that may no longer read, watches no longer; one that is for other agents now is told all anew. */
  function isWelcomeAs (viewer: Viewer, principal: Principal | null): boolean {
    if (principal === null || !hasScope(principal, 'read')) return false
    if (JSON.stringify(principal) !== JSON.stringify(viewer.principal)) viewer.isBehind = true
    viewer.principal = principal
    return true
  }

  function dismissAll (): void {
    for (const viewer of viewers) dismiss(viewer, 'closing')
  }

  /** Who does not take it is cut off: its place, and a listener that closes, wait no longer. */
  function dismiss (viewer: Viewer, reason: 'unauthorized' | 'closing'): void {
    if (viewer.isOver) return
    viewer.dismiss(reason)
    cutOffSoon(viewer, clock)
  }

  const stopTicking = clock.every(tickMs, tick)
  // The listener closes only when nobody is connected any more.
  fastify.addHook('preClose', async () => dismissAll())
  fastify.addHook('onClose', async () => {
    stopTicking()
    end()
  })
}

/** The address ends in a slash, so that what the page names relative to it is found. */
function isBelow ({ originalUrl }: FastifyRequest): boolean {
  return pathOf(originalUrl).endsWith('/')
}

/** Relative, so that it holds under whatever prefix the client sees. */
function toPage (reply: FastifyReply): FastifyReply {
  return reply.redirect('console/', 302)
}

/** The application around the gateway may have it so; then both addresses are one route. */
function ignoresTrailingSlash ({ initialConfig }: FastifyInstance): boolean {
  const { ignoreTrailingSlash, routerOptions } = initialConfig as { ignoreTrailingSlash?: boolean, routerOptions?: { ignoreTrailingSlash?: boolean } }
  return routerOptions?.ignoreTrailingSlash ?? ignoreTrailingSlash ?? false
}

function sendAsset ({ type, body, gzipped, etag, isHashed }: Asset, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  addVary(reply, 'accept-encoding')
  void reply.headers({
    etag,
    'cache-control': isHashed ? 'public, max-age=31536000, immutable' : 'no-cache',
    'content-security-policy': contentSecurityPolicy,
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin'
  })
  if (request.headers['if-none-match']?.split(',').some(tag => tag.trim().replace(/^W\//, '') === etag) === true) return reply.code(304).send()
  void reply.type(type)
  return takesGzip(request.headers['accept-encoding']) ? reply.header('content-encoding', 'gzip').send(gzipped) : reply.send(body)
}

/** `{"name":json,…}` */
function objectOf (entries: Iterable<readonly [name: string, json: string]>): string {
  return `{${Array.from(entries, ([name, json]) => `${JSON.stringify(name)}:${json}`).join(',')}}`
}

function seesAll (principal: Principal | null | undefined): boolean {
  return principal === undefined || principal?.agents === '*'
}

function youOf (fastify: FastifyInstance, principal: Principal | null | undefined): You {
  const { id, scopes, agents } = principal ?? anyone
  return { id, scopes, agents, authenticated: fastify.hasDecorator('auth') && fastify.auth.enabled }
}

function configStatus (fastify: FastifyInstance): ConfigStatus {
  if (!fastify.hasDecorator('discovery')) return { loaded_at: null, ok: true }
  const { loadedAt, ok, error } = fastify.discovery.status
  return { loaded_at: loadedAt, ok, ...(error !== undefined && { error }) }
}

function redisState (fastify: FastifyInstance): Pick<Snapshot, 'redis'> {
  const redis = fastify.hasDecorator('registrations') ? fastify.registrations.redis : undefined
  return redis === undefined ? {} : { redis }
}

function recentRequests (fastify: FastifyInstance, principal: Principal | null | undefined): AuditEntry[] | null {
  if (!fastify.hasDecorator('auditLog')) return null
  return fastify.auditLog.recent({ limit: mostRequestsAtOnce, sees: name => maySeeExchange(principal, name) })
}

export { ConsoleOptions }
export default fp(consolePlugin, { name: 'fleet-console', fastify: '5.x', encapsulate: true, decorators: { fastify: ['facts', 'registry', 'stats'] } })
