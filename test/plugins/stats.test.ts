import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import facts, { type Ending, type RequestFacts } from '../../plugins/facts/index.ts'
import registry from '../../plugins/registry/index.ts'
import stats, { type StatsSnapshot } from '../../plugins/stats/index.ts'
import { createLatencyHistogram, latencyView, recordLatency } from '../../plugins/stats/latency.ts'
import upstream from '../../plugins/upstream/index.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { playAttempts, type PlayedAttempt } from '../helpers/played-attempts.ts'

/** How the proxy of the test treats the next request. */
interface Exchange {
  agent?: string
  attempts?: readonly PlayedAttempt[]
  status?: number
  ending?: Ending
  stream?: RequestFacts['stream']
  durationMs?: number
}

/** The plugin in a bare application, with a route that plays the proxy. */
async function build (t: Test, prepare: (app: FastifyInstance) => Promise<unknown> = async () => {}) {
  const app = Fastify()
  const clock = fakeClock()
  t.teardown(() => app.close())
  await prepare(app)
  await app.register(registry, { clock })
  await app.register(upstream, { clock })
  await app.register(facts)

  let next: Exchange = {}
  // Before stats, so that stats sees the duration that a test asks for.
  app.facts.onFinished(finished => { finished.durationMs = next.durationMs ?? finished.durationMs })
  await app.register(stats)
  app.get('/play', async (request, reply) => {
    playAttempts(app, request, next.attempts ?? [])
    Object.assign(request.facts, { agent: next.agent ?? null, stream: next.stream ?? null, ending: next.ending ?? 'complete' })
    if (next.stream === 'websocket') app.facts.finish(request.facts) // as the proxy does at the end of a tunnel
    return reply.code(next.status ?? 200).send('')
  })
  await app.ready()

  return {
    app,
    add: (name: string, port: number, aliases: string[] = []) => app.registry.register({ name, host: '127.0.0.1', port, aliases }).instance,
    async play (exchange: Exchange) {
      next = exchange
      const finished = new Promise<void>(resolve => {
        const stop = app.facts.onFinished(() => {
          stop()
          resolve()
        })
      })
      await app.inject('/play')
      await finished
    },
    snapshot: () => app.stats.snapshot()
  }
}

const none = { requests: 0, errors: 0 }
const noLatency = { p50: 0, p90: 0, p99: 0, max: 0 }

t.test('every registered agent appears, with zeros when nobody used it', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501, ['plan', 'p'])
  s.add('writer', 8_502)

  const reply = await s.app.inject('/stats')

  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['cache-control'], 'no-store')
  const body = reply.json<StatsSnapshot>()
  t.ok(body.uptime_seconds > 0 && body.uptime_seconds < 60)
  t.same(body, {
    total_requests: 0,
    total_errors: 0,
    total_proxied: 0,
    uptime_seconds: body.uptime_seconds,
    registered_agents: 2,
    routes: 4,
    in_flight: 1, // this one
    leases: { total: 0, lapsed: 0 },
    config: { loaded_at: null, ok: true },
    agents: {
      planner: { ...none, retries: 0, in_flight: 0, latency_ms: noLatency, instances: { [instance.id]: { ...none, in_flight: 0, state: 'up' } } },
      writer: { ...none, retries: 0, in_flight: 0, latency_ms: noLatency, instances: { [s.app.registry.get('writer').instances[0]!.id]: { ...none, in_flight: 0, state: 'up' } } }
    }
  })
})

t.test('what counts as a request, an error, a proxied request and a retry', async t => {
  const cases: [name: string, (first: Instance, second: Instance) => Exchange, total: object, agent: object][] = [
    ['the gateway\'s own answer', () => ({}), { total_requests: 1, total_errors: 0, total_proxied: 0 }, { requests: 0 }],
    ['its own failure', () => ({ status: 503 }), { total_errors: 1, total_proxied: 0 }, { requests: 0, errors: 0 }],
    ['no instance', () => ({ agent: 'planner', status: 503 }), { total_errors: 1, total_proxied: 0 }, { requests: 1, errors: 1, retries: 0 }],
    ['answered', first => ({ agent: 'planner', attempts: [[first, 'answered', 200]] }), { total_errors: 0, total_proxied: 1 }, { requests: 1, errors: 0, retries: 0 }],
    ['404', first => ({ agent: 'planner', attempts: [[first, 'answered', 404]], status: 404 }), { total_errors: 0 }, { requests: 1, errors: 0 }],
    ['500', first => ({ agent: 'planner', attempts: [[first, 'answered', 500]], status: 500 }), { total_errors: 1 }, { requests: 1, errors: 1 }],
    ['cut off', first => ({ agent: 'planner', attempts: [[first, 'answered', 200]], ending: 'upstream-aborted' }), { total_errors: 1 }, { requests: 1, errors: 1 }],
    ['the client went away', first => ({ agent: 'planner', attempts: [[first, 'aborted']], status: 499, ending: 'client-aborted' }), { total_errors: 0, total_proxied: 1 }, { requests: 1, errors: 0 }],
    ['retried', (first, second) => ({ agent: 'planner', attempts: [[first, 'refused'], [second, 'answered', 200]] }), { total_errors: 0, total_proxied: 1 }, { requests: 1, errors: 0, retries: 1 }],
    ['retried twice', (first, second) => ({ agent: 'planner', attempts: [[first, 'refused'], [second, 'reset'], [first, 'refused']], status: 502 }), { total_errors: 1 }, { requests: 1, errors: 1, retries: 2 }]
  ]
  for (const [name, exchange, total, agent] of cases) {
    const s = await build(t)
    await s.play(exchange(s.add('planner', 8_501), s.add('planner', 8_502)))
    t.match(s.snapshot(), { ...total, agents: { planner: agent } }, name)
  }
})

t.test('for an instance attempts count, and each by how it went', async t => {
  const cases: [outcome: AttemptOutcome, status: number, requests: number, errors: number][] = [
    ['answered', 200, 1, 0],
    ['answered', 404, 1, 0],
    ['answered', 500, 1, 1],
    ['answered', 503, 1, 1],
    ['refused', 0, 1, 1],
    ['connect-timeout', 0, 1, 1],
    ['reset', 0, 1, 1],
    ['timeout', 0, 1, 1],
    ['invalid', 0, 1, 1],
    ['aborted', 0, 1, 0],
    ['stale', 0, 0, 0]
  ]
  for (const [outcome, status, requests, errors] of cases) {
    const s = await build(t)
    const instance = s.add('planner', 8_501)
    const other = s.add('planner', 8_502)
    await s.play({ agent: 'planner', attempts: [[instance, outcome, status]] })
    const { instances } = s.snapshot().agents['planner']!
    t.match(instances[instance.id], { requests, errors }, `${outcome} ${status}`)
    t.match(instances[other.id], none)
  }
})

t.test('an answer that was cut off is an error of its instance, once', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501)

  await s.play({ agent: 'planner', attempts: [[instance, 'answered', 200]], ending: 'upstream-aborted' })
  t.match(s.snapshot().agents['planner']!.instances[instance.id], { requests: 1, errors: 1 })
  await s.play({ agent: 'planner', attempts: [[instance, 'answered', 500]], status: 500, ending: 'upstream-aborted' })
  t.match(s.snapshot().agents['planner']!.instances[instance.id], { requests: 2, errors: 2 })
  await s.play({ ending: 'upstream-aborted' })
  t.match(s.snapshot(), { total_errors: 3 })
})

t.test('what is in flight shows, for the gateway, the agent and the instance, and so does a state', async t => {
  const s = await build(t)
  const [first, second] = [s.add('planner', 8_501), s.add('planner', 8_502)]
  const attempt = s.app.upstream.begin(first)
  s.app.upstream.begin(first)
  s.app.upstream.begin(second)
  second.runtime.draining = true

  t.match(s.snapshot(), { in_flight: 0, agents: { planner: { in_flight: 3, instances: { [first.id]: { in_flight: 2, state: 'up' }, [second.id]: { in_flight: 1, state: 'draining' } } } } })
  s.app.upstream.release(attempt)
  t.match(s.snapshot(), { agents: { planner: { in_flight: 2, instances: { [first.id]: { in_flight: 1 } } } } })
})

t.test('latencies are those of ordinary exchanges whose client stayed', async t => {
  const s = await build(t)
  s.add('planner', 8_501)
  for (let count = 1; count <= 100; count++) await s.play({ agent: 'planner', durationMs: count })
  await s.play({ agent: 'planner', durationMs: 90_000, stream: 'event-stream' })
  await s.play({ agent: 'planner', durationMs: 90_000, stream: 'websocket' })
  await s.play({ agent: 'planner', durationMs: 90_000, ending: 'client-aborted', status: 499 })

  const { p50, p90, p99, max } = s.snapshot().agents['planner']!.latency_ms

  for (const [measured, exact] of [[p50, 50], [p90, 90], [p99, 99], [max, 100]] as const) {
    t.ok(Math.abs(measured - exact) <= exact / 100, `${measured} is ${exact}, to 1 %`)
  }
})

t.test('a histogram takes anything from nothing to hours', async t => {
  const histogram = createLatencyHistogram()
  recordLatency(histogram, 0)
  recordLatency(histogram, 1e9)

  const { p50, max } = latencyView(histogram)

  t.ok(p50 <= 0.001)
  t.ok(Math.abs(max - 3_600_000) <= 36_000)
  t.same(latencyView(null), noLatency)
})

t.test('a reload keeps what was counted; who leaves the registry is forgotten', async t => {
  const s = await build(t)
  const definition = { name: 'planner', instances: [{ host: '127.0.0.1', port: 8_501, protocol: 'http' as const, weight: 1 }] }
  s.app.registry.replaceFile([definition])
  const instance = s.app.registry.get('planner').instances[0]!
  await s.play({ agent: 'planner', attempts: [[instance, 'answered', 200]] })

  s.app.registry.replaceFile([{ ...definition, aliases: ['plan'] }])
  t.match(s.snapshot(), { agents: { planner: { requests: 1, instances: { [instance.id]: { requests: 1 } } } } })
  s.app.registry.replaceFile([])
  t.same(s.snapshot().agents, {})
  await s.play({ agent: 'planner' })
  s.app.registry.replaceFile([definition])

  t.match(s.snapshot(), { total_requests: 2, agents: { planner: { requests: 0, latency_ms: noLatency, instances: { [instance.id]: { requests: 0 } } } } })
})

t.test('a name that became the alias of another agent is not charged to it', async t => {
  const s = await build(t)
  s.add('planner', 8_501)
  s.app.registry.removeAgent('planner')
  s.add('writer', 8_502, ['planner'])

  await s.play({ agent: 'planner' })

  t.match(s.snapshot().agents, { writer: { requests: 0 } })
})

t.test('an agent may be called __proto__', async t => {
  const s = await build(t)
  s.add('__proto__', 8_501)
  await s.play({ agent: '__proto__' })

  t.match((await s.app.inject('/stats')).payload, '"agents":{"__proto__":{"requests":1,')
})

t.test('callers that are limited to some agents see those; the totals are the gateway\'s', async t => {
  const s = await build(t, async app => {
    let principal: Principal = anyone
    app.decorateRequest('principal', null)
    app.addHook('onRequest', async request => {
      principal = request.headers['x-test'] === undefined ? anyone : { ...anyone, agents: ['writer'] }
      request.principal = principal
    })
  })
  s.add('planner', 8_501, ['plan'])
  s.add('writer', 8_502)
  await s.play({ agent: 'planner' })

  t.match((await s.app.inject('/stats')).json(), { registered_agents: 2, routes: 3, agents: { planner: {}, writer: {} } })
  const limited = (await s.app.inject({ url: '/stats', headers: { 'x-test': '1' } })).json<StatsSnapshot>()
  t.match(limited, { total_requests: 2, registered_agents: 1, routes: 1 })
  t.same(Object.keys(limited.agents), ['writer'])
})

t.test('the configuration\'s state is discovery\'s word', async t => {
  const status: { loadedAt: string, ok: boolean, error?: string } = { loadedAt: '2024-02-03T04:05:06.007Z', ok: true }
  const takenOut: { agent: string, instances?: string[] }[] = []
  const s = await build(t, async app => { app.decorate('discovery', { get status () { return { ...status } }, takenOut: () => takenOut } as never) })

  t.same(s.snapshot().config, { loaded_at: '2024-02-03T04:05:06.007Z', ok: true })
  Object.assign(status, { ok: false, error: 'fleet.yaml:1:1 agents must be an array' })
  t.same(s.snapshot().config, { loaded_at: '2024-02-03T04:05:06.007Z', ok: false, error: 'fleet.yaml:1:1 agents must be an array' })
  takenOut.push({ agent: 'planner' }, { agent: 'writer', instances: ['localhost:8502'] })
  t.same(s.snapshot().config.taken_out, takenOut)
  t.same(s.app.stats.snapshot(({ name }) => name === 'writer').config.taken_out, takenOut.slice(1), 'of those alone that one may see')
})

t.test('the route says what it needs, and moves under a prefix', async t => {
  const declared: Record<string, unknown> = {}
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRoute', ({ url, method, config }) => { if (method === 'GET') declared[url] = config?.fleet })
  await app.register(async scope => {
    await scope.register(registry)
    await scope.register(upstream)
    await scope.register(facts)
    await scope.register(stats)
  }, { prefix: '/fleet' })

  t.equal((await app.inject('/fleet/stats')).statusCode, 200)
  t.same(declared, { '/fleet/stats': { scope: 'read' } })
})

t.test('after closing nothing is counted', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501)
  await s.app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = s.app.server.address() as AddressInfo
  const finished = new Promise(resolve => s.app.facts.onFinished(resolve))
  const response = await fetch(`http://127.0.0.1:${port}/stats`, { headers: { connection: 'close' } })
  t.equal(response.status, 200)
  await finished
  const closed = once(s.app.server, 'close')
  await s.app.close()
  await closed.catch(nextTurn)

  s.app.upstream.settle(s.app.upstream.begin(instance), 'answered', 200)

  t.match(s.snapshot(), { total_requests: 1, agents: { planner: { instances: { [instance.id]: { requests: 0 } } } } })
})
