/** plugins/health for tests, in a bare application whose time and probes are the test's. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import health, { type HealthPluginOptions, type Probe, type ProbeOutcome } from '../../plugins/health/index.ts'
import type { HealthOptions } from '../../plugins/health/options.ts'
import registry from '../../plugins/registry/index.ts'
import upstream from '../../plugins/upstream/index.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { Registration } from '../../src/fleet/registry.ts'
import { fakeClock } from './fake-clock.ts'

/** A probe that a test answers by hand. */
interface ProbeCall {
  readonly instance: Instance
  readonly settings: HealthOptions
  readonly signal: AbortSignal
  readonly answer: (outcome: ProbeOutcome) => Promise<void>
}

interface LogLine { level: number, msg: string, agent?: string, instance?: string, change?: string, reason?: string }

/**
 * The plugin, ended with the test. Until the application is ready nothing is probed.
 * @param prepare what is to be there before the plugin
 */
export async function buildHealth (t: Test, options: HealthPluginOptions & { prefix?: string } = {}, prepare: (app: FastifyInstance) => Promise<unknown> = async () => {}) {
  const { prefix = '', ...healthOptions } = options
  const clock = fakeClock()
  const logs: LogLine[] = []
  const calls: ProbeCall[] = []
  const app = Fastify({ logger: { level: 'info', stream: { write: line => { logs.push(JSON.parse(line) as LogLine) } } } })
  const probe: Probe = (instance, settings, signal) => new Promise(resolve => {
    calls.push({ instance, settings, signal, answer: async outcome => { resolve(outcome); await nextTurn() } })
  })
  t.teardown(() => app.close())
  await prepare(app)
  await app.register(registry, { clock })
  await app.register(upstream, { clock })
  let decorated: FastifyInstance['health'] | undefined
  await app.register(async scope => {
    await scope.register(health, { clock, probe, random: () => 0, ...healthOptions })
    decorated = scope.health
  }, { prefix })

  return {
    app,
    clock,
    logs,
    calls,
    registry: app.registry,
    upstream: app.upstream,
    health: () => decorated!,
    reconfigure: (options: object) => decorated!.reconfigure(options),
    changes: () => logs.filter(({ change }) => change !== undefined).map(({ level, agent, change, reason }) => `${level} ${agent} ${change}: ${reason}`),
    add (port: number, rest: Partial<Registration> = {}): Instance {
      return app.registry.register({ name: 'planner', host: '127.0.0.1', port, ...rest }).instance
    },
    /** Answers so many of the probes under way, in the order in which they began. */
    async answer (...outcomes: ProbeOutcome[]) {
      for (const outcome of outcomes) await calls.shift()!.answer(outcome)
    },
    /** Answers one probe after the other, a second passing before each. */
    async answerEachSecond (...outcomes: ProbeOutcome[]) {
      for (const outcome of outcomes) {
        clock.advance(1_000)
        await calls.shift()!.answer(outcome)
      }
    },
    /** Ends attempts at an instance with an outcome. */
    attempts (instance: Instance, times: number, outcome: AttemptOutcome, status = 0) {
      for (let count = 0; count < times; count++) {
        const attempt = app.upstream.begin(instance)
        app.upstream.settle(attempt, outcome, status)
        app.upstream.release(attempt)
      }
    }
  }
}

/** As buildHealth(), with one instance, whose first probe is under way. */
export async function watchOne (t: Test, options: HealthPluginOptions = {}) {
  const health = await buildHealth(t, options)
  const instance = health.add(8_501)
  await health.app.ready()
  return { ...health, instance }
}
