/** The plugin in a bare application, with a route that plays the proxy: what is counted, how it is named, and that it stays bounded. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { Gauge, register as globalRegistry } from 'prom-client'
import t, { type Test } from 'tap'
import facts, { type RequestFacts } from '../../plugins/facts/index.ts'
import metrics from '../../plugins/metrics/index.ts'
import { Counts, durationBounds } from '../../plugins/metrics/counts.ts'
import { writeFamilies } from '../../plugins/metrics/exposition.ts'
import type { Family } from '../../plugins/metrics/families.ts'
import registry from '../../plugins/registry/index.ts'
import upstream from '../../plugins/upstream/index.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { Registry } from '../../src/fleet/registry.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { playAttempts, type PlayedAttempt } from '../helpers/played-attempts.ts'
import { Scrape, parsePrometheusText } from '../helpers/prometheus-text.ts'

interface Exchange extends Partial<Pick<RequestFacts, 'agent' | 'ending' | 'stream' | 'durationMs' | 'code' | 'unauthenticated'>> {
  attempts?: readonly PlayedAttempt[]
  status?: number
  method?: string
}

async function build (t: Test, options: { enabled?: boolean } = {}, prepare: (app: FastifyInstance) => void = () => {}) {
  const app = Fastify()
  const clock = fakeClock()
  t.teardown(() => app.close())
  prepare(app)
  await app.register(registry, { clock })
  await app.register(upstream, { clock })
  await app.register(facts)

  let next: Exchange = {}
  // Before metrics, so that it sees what a test asks for.
  app.facts.onFinished(finished => Object.assign(finished, { durationMs: next.durationMs ?? finished.durationMs, method: next.method ?? finished.method, status: next.status ?? finished.status }))
  await app.register(metrics, { clock, ...options })
  app.get('/play', async (request, reply) => {
    playAttempts(app, request, next.attempts ?? [])
    const { agent = null, stream = null, ending = 'complete', code = null, unauthenticated = false } = next
    Object.assign(request.facts, { agent, stream, ending, code, unauthenticated })
    return reply.send('')
  })
  await app.ready()

  return {
    app,
    clock,
    add: (name: string, port: number, ttlMs?: number) => app.registry.register({ name, host: '127.0.0.1', port, ...(ttlMs !== undefined && { ttlMs }) }).instance,
    async play (...exchanges: Exchange[]) {
      for (const exchange of exchanges) {
        next = exchange
        await app.inject('/play')
        await nextTurn()
      }
      next = {}
    },
    scrape: async () => new Scrape((await app.inject('/metrics')).body)
  }
}

t.test('an unused fleet has its gauges, its totals at zero, and the process\'s figures', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501)

  const reply = await s.app.inject('/metrics')

  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
  t.equal(reply.headers['cache-control'], 'no-store')
  const scrape = new Scrape(reply.body)
  for (const name of ['fleet_rate_limited_total', 'fleet_auth_failures_total', 'fleet_lease_expirations_total']) t.same(scrape.series(name).map(({ value }) => value), [0], name)
  t.equal(scrape.value('http_server_active_requests'), 1, 'this one')
  t.match(scrape.values('fleet_build_info', 'version')[0], /^\d+\.\d+\.\d+/)
  for (const state of ['up', 'down', 'ejected', 'draining']) t.equal(scrape.value('fleet_instance_state', { agent: 'planner', instance: instance.id, state }), state === 'up' ? 1 : 0, state)
  t.equal(scrape.value('fleet_serving_instances', { agent: 'planner' }), 1)
  for (const name of ['process_cpu_seconds_total', 'process_resident_memory_bytes', 'nodejs_heap_size_used_bytes']) t.ok(scrape.value(name) > 0, name)
  for (const name of ['nodejs_eventloop_active_seconds_total', 'nodejs_eventloop_lag_p99_seconds', 'nodejs_eventloop_lag_seconds', 'nodejs_gc_duration_seconds', 'process_open_fds']) t.ok(scrape.families.has(name), name)
  t.notOk(scrape.families.has('fleet_config_last_reload_successful'), 'there is no discovery')
})

t.test('an exchange counts by agent, method, class and status', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501)
  const agent = 'planner'
  await s.play(
    { agent, attempts: [[instance, 'answered', 200]], status: 200, durationMs: 4 },
    { agent, attempts: [[instance, 'answered', 201]], status: 201, durationMs: 5, method: 'POST' },
    { agent, attempts: [[instance, 'answered', 200]], status: 200, durationMs: 299_000 },
    { agent, status: 503, durationMs: 301_000, method: 'PROPFIND' },
    { agent, attempts: [[instance, 'aborted']], status: 499, ending: 'client-aborted' },
    { agent, attempts: [[instance, 'answered', 200]], status: 200, ending: 'upstream-aborted' },
    { agent, attempts: [[instance, 'answered', 999]], status: 999 }
  )

  const scrape = await s.scrape()

  const name = 'http_server_request_duration_seconds'
  t.equal(scrape.value('fleet_requests_total', { agent, code: '200' }), 3)
  t.same(scrape.values('fleet_requests_total', 'code'), ['200', '201', '499', '503', 'other'])
  t.equal(scrape.value(`${name}_count`, { agent, method: 'GET', status_class: '2xx' }), 3)
  t.equal(scrape.value(`${name}_bucket`, { agent, method: 'POST', status_class: '2xx', le: '0.005' }), 1, 'a bound belongs to its bucket')
  t.equal(scrape.value(`${name}_bucket`, { agent, method: 'GET', status_class: '2xx', le: '120' }), 2)
  t.equal(scrape.value(`${name}_bucket`, { agent, method: 'GET', status_class: '2xx', le: '300' }), 3)
  t.equal(scrape.value(`${name}_bucket`, { agent, method: 'OTHER', status_class: '5xx', le: '300' }), 0)
  t.equal(scrape.value(`${name}_bucket`, { agent, method: 'OTHER', status_class: '5xx', le: '+Inf' }), 1)
  t.equal(scrape.value(`${name}_sum`, { agent, method: 'OTHER' }), 301)
  t.equal(scrape.value(`${name}_count`, { agent, status_class: 'other' }), 1)
  t.equal(scrape.value('fleet_aborted_requests_total', { agent, by: 'client' }), 1)
  t.equal(scrape.value('fleet_aborted_requests_total', { agent, by: 'agent' }), 1)
  t.equal(scrape.value('fleet_upstream_ttfb_seconds_count', { agent }), 5, 'answers alone have a first byte')
  t.equal(scrape.value('fleet_requests_total', { agent: '' }), 0)
})

t.test('a retry counts by what the attempt before came to', async t => {
  const s = await build(t)
  const [first, second] = [s.add('planner', 8_501), s.add('planner', 8_502)]
  const agent = 'planner'
  const outcomes: readonly [outcome: AttemptOutcome, reason: string][] = [
    ['answered', '5xx'], ['refused', 'refused'], ['connect-timeout', 'connect-timeout'], ['reset', 'reset'], ['timeout', 'timeout'], ['invalid', 'invalid'], ['stale', 'stale'], ['aborted', 'other']
  ]
  for (const [outcome] of outcomes) await s.play({ agent, attempts: [[first, outcome, 503], [second, 'answered', 200]], status: 200 })
  await s.play({ agent, attempts: [[first, 'refused'], [second, 'refused'], [first, 'answered', 200]], status: 200 })

  const scrape = await s.scrape()

  for (const [, reason] of outcomes) t.equal(scrape.value('fleet_retries_total', { agent, reason }), reason === 'refused' ? 3 : 1, reason)
})

t.test('event streams and WebSockets have durations of their own, and who leaves them aborts nothing', async t => {
  const s = await build(t)
  const instance = s.add('planner', 8_501)
  const agent = 'planner'
  await s.play(
    { agent, attempts: [[instance, 'answered', 200]], status: 200, stream: 'event-stream', durationMs: 3_000_000, ending: 'client-aborted' },
    { agent, attempts: [[instance, 'answered', 200]], status: 200, stream: 'event-stream', durationMs: 500, ending: 'upstream-aborted' }
  )

  const scrape = await s.scrape()

  t.equal(scrape.series('http_server_request_duration_seconds_count', { agent }).length, 0)
  t.equal(scrape.value('fleet_requests_total', { agent, code: '200' }), 2)
  t.equal(scrape.value('fleet_stream_duration_seconds_bucket', { agent, kind: 'event-stream', le: '1' }), 1)
  t.equal(scrape.value('fleet_stream_duration_seconds_count', { agent, kind: 'event-stream' }), 2)
  t.same(scrape.series('fleet_aborted_requests_total').map(({ labels, value }) => [labels.get('by'), value]), [['agent', 1]])
})

t.test('refusals count by their reason', async t => {
  const s = await build(t)
  await s.play(
    { status: 429, code: 'FLEET_RATE_LIMITED' },
    { status: 401, code: 'FLEET_UNAUTHENTICATED', unauthenticated: true },
    { status: 429, code: 'FLEET_RATE_LIMITED', unauthenticated: true },
    { status: 404, code: 'FLEET_NOT_FOUND' },
    { status: 429 } // an agent's own
  )

  const scrape = await s.scrape()

  t.equal(scrape.value('fleet_rate_limited_total'), 1)
  t.equal(scrape.value('fleet_auth_failures_total'), 2, 'a guess too many is one more')
  t.equal(scrape.value('http_server_request_duration_seconds_count', { route: '/play' }), 5)
})

t.test('a lease that runs out counts, one that is given back does not', async t => {
  const s = await build(t)
  const given = s.add('given', 8_501, 60_000)
  s.add('lost', 8_502, 5_000)
  s.add('renewed', 8_503, 5_000)
  s.app.registry.removeInstance('given', given.id)
  s.clock.advance(4_000)
  s.app.registry.heartbeat('renewed', s.app.registry.get('renewed').instances[0]!.id)
  t.equal((await s.scrape()).value('fleet_leases', { state: 'held' }), 2)

  s.clock.advance(2_000)

  const scrape = await s.scrape()
  t.equal(scrape.value('fleet_lease_expirations_total'), 1)
  t.equal(scrape.value('fleet_leases', { state: 'held' }), 1)
})

t.test('methods, statuses, routes and names from outside make no series', async t => {
  const s = await build(t)
  for (let index = 0; index < 300; index++) await s.app.inject({ method: index % 2 === 0 ? 'GET' : 'SEARCH' as 'GET', url: `/nowhere/${index}?x=${index}` })
  await s.scrape() // a route as any other
  const fleets = (scrape: Scrape) => [...scrape.families.keys()].filter(name => /^(fleet|http)_/.test(name)).flatMap(name => scrape.families.get(name)!.series).length
  const few = fleets(await s.scrape())

  for (let index = 0; index < 300; index++) await s.app.inject(`/other/${index}`)
  const scrape = await s.scrape()

  t.same(scrape.values('fleet_requests_total', 'code'), ['200', '404'])
  t.same(scrape.values('http_server_request_duration_seconds_count', 'route'), ['', '/metrics'])
  t.same(scrape.values('http_server_request_duration_seconds_count', 'method'), ['GET', 'OTHER'])
  t.equal(fleets(scrape), few)
})

t.test('agents that come and go by the thousands leave no numbers behind', async t => {
  const clock = fakeClock()
  const fleet = new Registry(clock, { maxAgents: 10_000, maxInstancesPerAgent: 10 })
  const counts = new Counts(fleet, clock)
  fleet.register({ name: 'stays', host: '127.0.0.1', port: 1 })
  const use = (name: string, instance: Instance) => {
    const attempt: Attempt = { instance, instanceId: instance.id, startedMark: 0, outcome: 'answered', status: 200, durationMs: 1 }
    counts.countAttempt(attempt)
    counts.countExchange({ agent: name, attempts: [attempt], status: 200, stream: null, method: 'GET', durationMs: 1, ending: 'complete', code: null, route: null } as unknown as RequestFacts)
  }
  use('stays', fleet.get('stays').instances[0]!)
  let most = 0

  for (let index = 0; index < 20_000; index++) {
    const { instance } = fleet.register({ name: `agent-${index}`, host: '127.0.0.1', port: 2 })
    use(`agent-${index}`, instance)
    fleet.removeAgent(`agent-${index}`)
    if (index % 2 === 0) use(`agent-${index}`, instance) // it was still under way
    most = Math.max(most, counts.size)
  }

  t.ok(most <= 1_003, `there were ${most} at a time`)
  t.ok(counts.agents().size <= 1_001)
  t.equal(counts.agents().get('stays')?.codes.get(200)?.count, 1)
  t.ok(counts.agents().has('agent-19999'), 'who left last is still told')
  clock.advance(10 * 60_000)
  t.same([...counts.agents().keys()], ['stays'])
})

t.test('an agent that returns goes on counting, and whose name became an alias is gone', async t => {
  const s = await build(t)
  const attempts = (instance: Instance): NonNullable<Exchange['attempts']> => [[instance, 'answered', 200]]
  await s.play({ agent: 'planner', attempts: attempts(s.add('planner', 8_501)), status: 200 }, { agent: 'old', attempts: attempts(s.add('old', 8_502)), status: 200 })
  s.app.registry.removeAgent('planner')
  s.app.registry.removeAgent('old')
  s.app.registry.register({ name: 'new', host: '127.0.0.1', port: 8_502, aliases: ['old'] })
  t.equal((await s.scrape()).value('fleet_requests_total', { agent: 'planner' }), 1)
  s.clock.advance(9 * 60_000)
  await s.play({ agent: 'planner', attempts: attempts(s.add('planner', 8_501)), status: 200 })
  t.equal((await s.scrape()).value('fleet_requests_total', { agent: 'old' }), 1)

  s.clock.advance(2 * 60_000)

  const scrape = await s.scrape()
  t.equal(scrape.value('fleet_requests_total', { agent: 'planner' }), 2)
  t.equal(scrape.series('fleet_requests_total', { agent: 'old' }).length, 0)
  s.app.registry.removeAgent('planner')
  t.equal((await s.scrape()).value('fleet_requests_total', { agent: 'planner' }), 2, 'its ten minutes begin anew')
})

t.test('a key for some agents sees those alone, and the gateway\'s own', async t => {
  let principal: Principal = { ...anyone, agents: ['mine'] }
  const s = await build(t, {}, app => {
    app.decorateRequest('principal', null)
    app.addHook('onRequest', async request => { request.principal = principal })
  })
  for (const [agent, port] of [['mine', 8_501], ['theirs', 8_502]] as const) {
    const instance = s.add(agent, port)
    await s.play(
      { agent, attempts: [[instance, 'refused'], [instance, 'answered', 200]], status: 200, ending: 'upstream-aborted' },
      { agent, attempts: [[instance, 'answered', 200]], status: 200, stream: 'event-stream' }
    )
  }
  await s.play({})

  const { body } = await s.app.inject('/metrics')

  const scrape = new Scrape(body)
  t.notMatch(body, /theirs/)
  t.same([...scrape.families.values()].filter(({ series }) => series.some(({ labels }) => labels.get('agent') === 'mine')).length, 10)
  t.equal(scrape.value('fleet_requests_total', { agent: '' }), 1)
  t.ok(scrape.families.has('process_cpu_seconds_total'))
  principal = anyone
  t.match((await s.app.inject('/metrics')).body, /theirs/)
})

t.test('what an application adds to the registry is in the answer', async t => {
  const s = await build(t)
  new Gauge({ name: 'kettle_temperature_celsius', help: 'How hot the water is.', registers: [s.app.metrics.registry], collect () { this.set(97) } }) // eslint-disable-line no-new

  t.equal((await s.scrape()).value('kettle_temperature_celsius'), 97)
})

t.test('two of them in one process count apart, and leave prom-client\'s own registry alone', async t => {
  const [one, two] = [await build(t), await build(t)]
  await one.play({ status: 200 }, { status: 200 })

  t.equal((await one.scrape()).value('fleet_requests_total'), 2)
  t.equal((await two.scrape()).value('fleet_requests_total'), 0)
  t.same(globalRegistry.getMetricsAsArray(), [])
})

t.test('switched off there is no route, and nothing is counted', async t => {
  const s = await build(t, { enabled: false })
  await s.play({ status: 200 })

  t.equal((await s.app.inject('/metrics')).statusCode, 404)
  const scrape = new Scrape(await s.app.metrics.text())
  t.equal(scrape.value('fleet_requests_total'), 0)
  t.notOk(scrape.families.has('process_cpu_seconds_total'))
  await t.rejects(async () => Fastify().register(metrics, { enabeld: true } as never), { message: /facts/ })
})

t.test('after the end nothing is counted or measured any more', async t => {
  const app = Fastify()
  await app.register(registry)
  await app.register(upstream)
  await app.register(facts)
  await app.register(metrics)
  await app.ready()
  const { text } = app.metrics

  await app.close()
  const before = await text()
  app.facts.finish({ agent: null, attempts: [], status: 200, stream: null, method: 'GET', durationMs: 0, ending: null, code: null, route: null } as unknown as RequestFacts)

  t.equal(new Scrape(await text()).value('fleet_requests_total'), new Scrape(before).value('fleet_requests_total'))
  t.notMatch(before, /nodejs_/)
})

t.test('the event loop gets its turns while thousands of lines are written', async t => {
  const labels = Array.from({ length: 30_000 }, (_, index) => ({ labels: { index: String(index) }, value: index }))
  const families: Family[] = [{ name: 'many', help: 'Many.', type: 'gauge', samples: labels }, { name: 'none_total', help: 'None.', type: 'counter', samples: [] }]
  let turns = 0
  let done = false
  const count = () => {
    turns++
    if (!done) setImmediate(count)
  }
  setImmediate(count)

  const text = await writeFamilies(families)

  done = true
  const scrape = new Scrape(text)
  t.ok(turns >= 29, `there were ${turns} turns`)
  t.equal(scrape.series('many').length, 30_000)
  t.equal(text.match(/^# /gm)?.length, 4)
  t.ok(scrape.families.has('none_total'))
})

t.test('what a label may not hold as it is is escaped', async t => {
  const value = 'a"b\\c\nd'
  const text = await writeFamilies([{ name: 'odd', help: 'Odd.', type: 'gauge', samples: [{ labels: { agent: value }, sharedLabels: { other: value }, value: 1 }] }])

  t.equal(text.split('\n').length, 4)
  t.same([...new Scrape(text).series('odd')[0]!.labels.values()], [value, value])
})

t.test('buckets rise up to 300 s', async t => {
  t.equal(durationBounds[0], 0.005)
  t.equal(durationBounds.at(-1), 300)
  t.same([...durationBounds].sort((a, b) => a - b), durationBounds)
})

t.test('the tests\' own parser refuses what is wrong', async t => {
  const head = '# HELP a_total A.\n# TYPE a_total counter\n'
  const histogram = '# HELP h H.\n# TYPE h histogram\n'
  const cases = [
    'a_total 1', 'a_total 1\n', `${head}b_total 1\n`, `${head}a_total\n`, `${head}a_total 1 2 3\n`, `${head}a_total{x="1",x="2"} 1\n`, `${head}a_total{x="1"y="2"} 1\n`,
    `${head}a_total{x="a\\x"} 1\n`, `${head}a_total{x="a"b"} 1\n`, `${head}a_total{x="1",} 1\n`, `${head}a_total -1\n`, `${head}a_total Nan\n`, `${head}a_total 0x1\n`, `${head}a_total 1\na_total 1\n`,
    `${head}${head}`, '# HELP a A.\n# TYPE a counter\na 1\n', '# TYPE a gauge\na 1\n', `${head}# EOF\n`, `${histogram}h 1\n`,
    `${histogram}h_bucket{le="1"} 1\nh_sum 1\nh_count 1\n`, `${histogram}h_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n`,
    `${histogram}h_bucket{le="2"} 1\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n`, `${histogram}h_bucket{le="+Inf"} 1\nh_sum 1\nh_count 2\n`
  ]

  for (const text of cases) t.throws(() => parsePrometheusText(text), JSON.stringify(text))
  t.doesNotThrow(() => parsePrometheusText(`${head}a_total{x="a\\"\\\\\\n"} 1e-7\n${histogram}h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 1.5\nh_count 2\n`))
})
