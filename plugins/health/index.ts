/**
 * How well the fleet is: probes instances, judges finished attempts (the rules of both are in src/fleet/outlier.ts), and answers /health.
 * The only writer of `instance.runtime.health`.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../registry/index.ts'
import type {} from '../upstream/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { isConnectionFailure, type Attempt } from '../../src/fleet/attempt.ts'
import type { Instance, InstanceRuntime } from '../../src/fleet/instance.ts'
import { beginTrial, recordAttempt, type HealthChange, type ProbeOutcome } from '../../src/fleet/outlier.ts'
import { parseOptions, type Static } from '../../src/options.ts'
import { HealthOptions } from './options.ts'
import { createLookupOf, type LookupOf } from '../../src/guarded-lookup.ts'
import { createTlsOf, type TlsOf } from '../../src/tls-agents.ts'
import { askHttp, createProbe, type HeadersOf, type HttpReport, type Probe } from './probe.ts'
import { Prober } from './prober.ts'
import { healthRoutes } from './routes.ts'

export interface Health {
  /**
   * Takes new defaults for all agents, as `health` in fleet.yaml has them; what is left out is back to its own default.
   * @throws OptionsError; nothing has changed then
   */
  reconfigure (options: object): void
  /** Resolves when each instance that is known was probed once. */
  firstRound (): Promise<void>
  /** One HTTP request to the instance now, of 5 s at most, whatever its probes do; changes nothing of what is known of it. */
  check (instance: Instance): Promise<HealthCheck>
  /** How the instance is probed: its agent's settings over the defaults. */
  settingsOf (instance: Instance): HealthOptions
  /** What last decided that the instance is up, down, ejected or restored; undefined when nothing has yet. */
  lastChange (instance: Instance): HealthNote | undefined
}

/** A change of an instance's health, and what brought it about. */
export interface HealthNote {
  readonly change: HealthChange
  /** In words: `probes get no connection`. */
  readonly reason: string
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** What a single request to an instance met. */
export interface HealthCheck extends HttpReport {
  /** The path that was asked for: that of its probes, else `/`. */
  readonly path: string
  readonly latencyMs: number
}

declare module 'fastify' {
  interface FastifyInstance {
    /** How instances are watched. Their state is on the instances of the registry. */
    health: Health
  }
}

/** Data of `health` in fleet.yaml, and seams. */
export interface HealthPluginOptions extends Partial<Static<typeof HealthOptions>> {
  clock?: Clock
  /** How names of instances are resolved. @default those that registered themselves may not lead to refused addresses */
  lookupOf?: LookupOf
  /** How TLS connections to instances are opened. @default as the agent's `tls` says */
  tlsOf?: TlsOf
  /** @default a connection, or HTTP GET of `path` */
  probe?: Probe
  /** From 0 to below 1, for jitter. @default Math.random */
  random?: () => number
}

const probeReasons: Readonly<Record<ProbeOutcome, string>> = {
  ok: 'probes succeed',
  refused: 'probes get no connection',
  timeout: 'probes get no answer in time',
  bad: 'probes get a bad answer'
}

/** Somebody waits for a check, so it takes no longer than this, whatever `health.timeout` says. */
const longestCheckMs = 5_000

/** What of a request decided. */
function attemptReason ({ outcome, status }: Attempt): string {
  return outcome === 'answered' ? `a request was answered with ${status}` : `a request ended with "${outcome}"`
}

const healthPlugin: FastifyPluginAsync<HealthPluginOptions> = async (fastify, opts) => {
  const { registry, upstream } = fastify
  /** An agent that wants credentials would answer 401 without them; who placed the instance must be trusted with them, as for requests. */
  const headersOf: HeadersOf = instance => registry.current(instance)?.trusted === true ? registry.find(instance.agent)?.headers : undefined
  const { clock = systemClock, lookupOf = createLookupOf(undefined), tlsOf = createTlsOf(fastify.registry, fastify.log), random = Math.random, ...others } = opts
  const way = { lookupOf, tlsOf, headersOf }
  const { probe = createProbe(clock, way), ...data } = others

  const notes = new WeakMap<InstanceRuntime, HealthNote>()

  function tell ({ agent, id, runtime }: Instance, change: HealthChange, reason: string): void {
    notes.set(runtime, { change, reason, at: clock.now() })
    const level = change === 'up' || change === 'restored' ? 'info' : 'warn'
    fastify.log[level]({ agent, instance: id, change, reason }, `An instance is ${change}: ${reason}`)
  }

  const prober = new Prober({
    registry,
    clock,
    probe,
    random,
    onChange (instance, change, outcome, reason) {
      tell(instance, change, reason === null ? probeReasons[outcome] : `probes fail, since ${reason}`)
      upstream.reconsider(instance.agent) // whoever waits for a place may have one now
    }
  }, parseOptions(HealthOptions, data, 'health'))
  /** Under way; who asks meanwhile gets the same answer, so that there is one connection for each instance at most. */
  const checks = new Map<InstanceRuntime, Promise<HealthCheck>>()
  const closing = new AbortController()

  async function check (instance: Instance): Promise<HealthCheck> {
    const { path, timeout } = prober.settingsOf(instance)
    const asked = path ?? '/'
    const startMark = performance.now()
    const report = await askHttp(clock, instance, way, { path: asked, timeoutMs: Math.min(timeout, longestCheckMs), signal: closing.signal, headOnly: true })
    const latencyMs = Math.round((performance.now() - startMark) * 10) / 10
    // Where nobody said which path tells its health, an answer of whatever status shows that the agent is there.
    return { ...report, outcome: path === undefined && report.status !== null ? 'ok' : report.outcome, path: asked, latencyMs }
  }

  const stopBegin = upstream.onBegin(attempt => beginTrial(attempt, clock.now()))
  const stopSettled = upstream.onSettled(attempt => {
    const { instance } = attempt
    const agent = registry.find(instance.agent)
    if (agent === undefined) return
    const change = recordAttempt(agent, attempt, clock.now())
    if (isConnectionFailure(attempt)) prober.hurry(instance)
    if (change === null) return
    if (prober.reconsider(instance)) tell(instance, change, attemptReason(attempt))
    upstream.reconsider(agent.name)
  })

  fastify.decorate('health', {
    reconfigure: options => prober.reconfigure(parseOptions(HealthOptions, options, 'health')),
    firstRound: () => prober.firstRound(),
    settingsOf: instance => prober.settingsOf(instance),
    check (instance) {
      const { runtime } = instance
      const checking = checks.get(runtime) ?? check(instance).finally(() => checks.delete(runtime))
      checks.set(runtime, checking)
      return checking
    },
    lastChange: ({ runtime }) => notes.get(runtime)
  })
  fastify.addHook('onReady', async () => prober.start())
  // Not only in onClose: that is after the listener has closed, which waits for whoever waits for a check.
  fastify.addHook('preClose', async () => closing.abort())
  fastify.addHook('onClose', async () => {
    stopBegin()
    stopSettled()
    prober.stop()
    closing.abort()
  })
  await fastify.register(healthRoutes, { clock, closing: closing.signal })
}

export { HealthOptions }
export type { Probe, ProbeOutcome }
export default fp(healthPlugin, { name: 'fleet-health', fastify: '5.x', decorators: { fastify: ['registry', 'upstream'] } })
