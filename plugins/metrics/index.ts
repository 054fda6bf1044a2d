/**
 * `GET /metrics`: the fleet's figures for a Prometheus server, and the process's. Nobody calls it; it listens, and reads the rest when asked.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { Registry } from 'prom-client'
import type {} from '../auth/index.ts'
import type {} from '../auth/route-config.ts'
import type {} from '../peers/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { NotKeptError } from '../../src/errors.ts'
import { parseOptions } from '../../src/options.ts'
import { anyone, mayTouch, type Principal } from '../../src/principal.ts'
import { packageVersion } from '../../src/version.ts'
import { Counts } from './counts.ts'
import { writeFamilies } from './exposition.ts'
import { fleetFamilies } from './families.ts'
import { MetricsOptions } from './options.ts'
import { addProcessFigures } from './process-figures.ts'
import { joinTexts } from './workers.ts'

export interface Metrics {
  /** prom-client's registry of this gateway, with the process's figures. What an application adds to it is in the answer, for every reader. */
  readonly registry: Registry
  /** The answer's text, with the series of the agents that `sees` lets through. */
  text (sees?: (agentName: string) => boolean): Promise<string>
}

declare module 'fastify' {
  interface FastifyInstance {
    /** What `/metrics` answers. */
    metrics: Metrics
  }
}

/** Data of `metrics` in fleet.yaml, and seams. */
export interface MetricsPluginOptions extends Partial<MetricsOptions> {
  /** The one that the registry has. */
  clock?: Clock
}

const metricsPlugin: FastifyPluginAsync<MetricsPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, ...data } = opts
  const { enabled } = parseOptions(MetricsOptions, data, 'metrics', ['clock'])
  const { facts, registry: fleet, upstream } = fastify
  const registry = new Registry()
  const counts = new Counts(fleet, clock)
  const version = packageVersion()
  /** Nobody pays for figures that nobody has asked for yet. */
  let measure = () => {}

  fastify.decorate('metrics', {
    registry,
    async text (sees = () => true) {
      measure()
      const ofFleet = await writeFamilies(fleetFamilies({ fastify, counts, version, sees }))
      return ofFleet + await registry.metrics()
    }
  })
  if (!enabled) return

  const { start, stop } = addProcessFigures(registry, clock)
  measure = start
  const stops = [
    facts.onFinished(exchange => counts.countExchange(exchange)),
    upstream.onSettled(attempt => counts.countAttempt(attempt)),
    fleet.onChange(({ removed }) => {
      const now = clock.now()
      for (const { lease } of removed) if (lease !== null && lease.expiresAt <= now) counts.leaseExpirations++
    }),
    stop
  ]
  fastify.addHook('onClose', async () => {
    for (const stop of stops) stop()
    registry.clear()
  })

  /** Of all workers of this gateway, where there are several: whichever is asked. */
  async function textFor (principal: Principal | null | undefined): Promise<string> {
    if (!fastify.hasDecorator('peers') || !fastify.peers.hasWorkers) return await fastify.metrics.text(name => mayTouch(principal, name))
    const { answers, silent } = await fastify.peers.ask('workers', 'metrics', principal === undefined ? anyone : principal)
    const texts = answers.flatMap(({ from, value }) => typeof value === 'string' ? [{ worker: from.worker!, text: value }] : [])
    // A sum without a worker would look as if its counters had begun anew.
    if (silent !== 0 || texts.length < answers.length) throw new NotKeptError('Not every worker has told its figures: one is starting, or did not answer in time', { headers: { 'retry-after': '1' } })
    return joinTexts(texts.sort((one, other) => one.worker - other.worker))
  }

  if (fastify.hasDecorator('peers')) fastify.peers.answer('metrics', principal => fastify.metrics.text(name => mayTouch(principal as Principal | null, name)))
  await fastify.register(async routes => {
    routes.get('/metrics', { config: { fleet: { scope: 'read' } } }, async ({ principal }, reply) => {
      void reply.header('cache-control', 'no-store').type(registry.contentType)
      return await textFor(principal)
    })
  })
}

export { MetricsOptions }
export default fp(metricsPlugin, { name: 'fleet-metrics', fastify: '5.x', decorators: { fastify: ['facts', 'registry', 'upstream'] } })
