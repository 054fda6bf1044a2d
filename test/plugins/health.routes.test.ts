/** plugins/health: /health and what is below it, and the probe on demand. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { isHealthy } from '../../src/fleet/instance.ts'
import type { Registration } from '../../src/fleet/registry.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { closed, deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { buildHealth, watchOne } from '../helpers/health-app.ts'

t.test('GET /health: the fleet at a glance, with details where there is no auth', async t => {
  const s = await buildHealth(t)
  const [first, second] = [s.add(8_501, { aliases: ['plan'] }), s.add(8_502)]
  second.runtime.health.up = false
  await s.app.ready()
  s.clock.advance(1_500)

  const reply = await s.app.inject('/health')

  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['cache-control'], 'no-store')
  t.same(reply.json(), {
    status: 'healthy',
    gateway: 'ok',
    uptime_seconds: 1.5,
    services: {
      planner: {
        healthy: true,
        healthy_instances: 1,
        total_instances: 2,
        instances: [
          { id: first.id, host: '127.0.0.1', port: 8_501, healthy: true, state: 'up', why: null, since: null },
          { id: second.id, host: '127.0.0.1', port: 8_502, healthy: false, state: 'down', why: null, since: null }
        ],
        friendly_names: ['plan']
      }
    }
  })
})

t.test('an empty fleet is healthy; one agent without an available instance is enough to be degraded', async t => {
  const s = await buildHealth(t)
  await s.app.ready()
  const report = async () => (await s.app.inject('/health')).json<{ status: string, services: Record<string, { healthy: boolean, healthy_instances: number }> }>()

  t.match(await report(), { status: 'healthy', services: {} })
  const instance = s.add(8_501)
  s.add(8_502, { name: 'writer' })
  t.match(await report(), { status: 'healthy' })
  s.registry.drain('planner', instance.id)
  t.match(await report(), { status: 'degraded', services: { planner: { healthy: false, healthy_instances: 0 }, writer: { healthy: true } } })
  s.registry.removeInstance('planner', instance.id)
  t.match(await report(), { status: 'degraded', services: { planner: { healthy: false, total_instances: 0 } } })
})

t.test('what decided about an instance last, and when, is told with it', async t => {
  const s = await watchOne(t)
  const told = async () => (await s.app.inject('/health')).json<{ services: { planner: { instances: object[] } } }>().services.planner.instances[0]

  await s.answerEachSecond('refused', 'refused', 'refused')
  t.match(await told(), { state: 'down', why: 'probes get no connection', since: new Date(s.clock.now()).toISOString() })
  await s.answerEachSecond('ok', 'ok')
  t.match(await told(), { state: 'up', why: 'probes succeed', since: new Date(s.clock.now()).toISOString() })
})

t.test('an agent may be called __proto__ or constructor', async t => {
  const s = await buildHealth(t)
  s.add(8_501, { name: '__proto__' })
  s.add(8_502, { name: 'constructor' })
  await s.app.ready()

  const { payload } = await s.app.inject('/health')

  t.match(payload, '"services":{"__proto__":{"healthy":true')
  t.match(payload, '"constructor":{"healthy":true')
})

t.test('details are for callers that may read, and only of their agents', async t => {
  const key = (scopes: Principal['scopes'], agents: Principal['agents']): Principal => ({ id: 'key', named: true, scopes, agents })
  const cases: [name: string, enabled: boolean, principal: Principal | null, detailed: string[]][] = [
    ['nobody', true, null, []],
    ['anyone without auth', false, anyone, ['planner', 'writer']],
    ['a reader', true, key(['read'], '*'), ['planner', 'writer']],
    ['an administrator', true, key(['admin'], '*'), ['planner', 'writer']],
    ['a user', true, key(['proxy', 'register'], '*'), []],
    ['a reader of one agent', true, key(['read'], ['writer']), ['writer']]
  ]
  for (const [name, enabled, principal, detailed] of cases) {
    const s = await buildHealth(t, {}, async app => {
      app.decorate('auth', { enabled } as never)
      app.decorateRequest('principal', null)
      app.addHook('onRequest', async request => { request.principal = principal })
    })
    s.add(8_501)
    s.add(8_502, { name: 'writer' })
    await s.app.ready()

    const { services } = (await s.app.inject('/health')).json<{ services: Record<string, object> }>()

    t.same(Object.keys(services), ['planner', 'writer'], name)
    t.same(Object.keys(services).filter(agent => 'instances' in services[agent]!), detailed, name)
    t.same(Object.keys(services).filter(agent => 'friendly_names' in services[agent]!), detailed, name)
  }
})

t.test('what the routes need is declared on them, and they move under a prefix', async t => {
  const declared: Record<string, unknown> = {}
  const s = await buildHealth(t, { prefix: '/fleet' }, async app => {
    app.addHook('onRoute', ({ url, method, config }) => { if (method !== 'HEAD') declared[`${String(method)} ${url}`] = config?.fleet })
  })
  await s.app.ready()

  t.same(declared, {
    'GET /fleet/health': { optionalAuth: true, rateLimit: false },
    'GET /fleet/health/live': { public: true, rateLimit: false },
    'GET /fleet/health/ready': { public: true, rateLimit: false },
    'POST /fleet/registry/:name/instances/:id/probe': { scope: 'read' }
  })
  t.equal((await s.app.inject('/fleet/health')).statusCode, 200)
  t.equal((await s.app.inject('/health')).statusCode, 404)
})

t.test('POST …/probe asks one instance now, and says what came of it', async t => {
  const agent = await fakeAgent(t, (request, response) => { response.writeHead(request.url === '/ready' ? 503 : 404).end() })
  const mute = await rawAgent(t, socket => socket.destroy())
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const silent = await rawAgent(t, () => s.clock.advance(2_000))
  const s = await buildHealth(t)
  const cases: [port: number, rest: Partial<Registration>, expected: object][] = [
    [agent.port, {}, { ok: true, outcome: 'ok', status: 404, cause: null, path: '/' }],
    [agent.port, { name: 'ready', policy: { health: { path: '/ready' } } }, { ok: false, outcome: 'bad', status: 503, cause: null, path: '/ready' }],
    [await deadPort(), {}, { ok: false, outcome: 'refused', status: null, cause: 'ECONNREFUSED' }],
    [mute.port, {}, { ok: false, outcome: 'bad', status: null, cause: 'ECONNRESET' }],
    [noise.port, {}, { ok: false, outcome: 'bad', status: null, cause: /^HPE_/ }],
    [silent.port, {}, { ok: false, outcome: 'timeout', status: null, cause: null }],
    [agent.port, { name: 'no-such-place', host: 'no-such-place.invalid' }, { ok: false, outcome: 'refused', status: null, cause: /^(ENOTFOUND|EAI_AGAIN)$/ }]
  ]
  await s.app.ready()

  for (const [port, rest, expected] of cases) {
    const { agent: name, id } = s.add(port, rest)
    const reply = await s.app.inject({ method: 'POST', url: `/registry/${name}/instances/${id}/probe` })
    t.match(reply.json(), { ...expected, latency_ms: Number }, JSON.stringify(expected))
  }
  t.equal((await s.app.inject({ method: 'POST', url: '/registry/planner/instances/nobody/probe' })).statusCode, 404)
  t.ok([...s.registry.agents()].every(({ instances }) => instances.every(isHealthy)), 'nothing is concluded from it')
})

t.test('probes on demand share a connection, leave when the head is there, and end with the application', async t => {
  let asked = 0
  const answers: (() => void)[] = []
  const agent = await fakeAgent(t, (_request, response) => {
    asked++
    answers.push(() => { response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n') })
  })
  const mute = await rawAgent(t, () => {})
  const s = await buildHealth(t)
  const [one, silent] = [s.add(agent.port), s.add(mute.port, { name: 'silent' })]
  await s.app.ready()

  const both = [s.health().check(one), s.health().check(one)]
  await once(agent.server, 'request')
  answers[0]!()
  for (const { outcome, status } of await Promise.all(both)) t.same([outcome, status], ['ok', 200])
  t.equal(asked, 1)

  const pending = s.health().check(silent)
  await once(mute.server, 'connection')
  await s.app.close()
  t.match(await pending, { status: null })
  for (const socket of mute.connections) await closed(socket)
})

t.test('GET /health/live: the process serves', async t => {
  const s = await buildHealth(t)

  const reply = await s.app.inject('/health/live')

  t.equal(reply.statusCode, 200)
  t.same(reply.json(), { status: 'ok' })
  t.equal(reply.headers['cache-control'], 'no-store')
})

t.test('GET /health/ready: from when the application is ready until a drain begins', async t => {
  const drain = { draining: false }
  const s = await buildHealth(t, {}, async app => {
    app.decorate('drain', drain as never)
    app.addHook('onReady', async () => {
      const server = createServer((request, response) => app.routing(request, response)).listen(0, '127.0.0.1')
      await once(server, 'listening')
      early = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/health/ready`)
      server.close()
    })
  })
  let early: Response | undefined
  await s.app.ready()

  t.equal(early!.status, 503)
  t.equal(early!.headers.get('retry-after'), '1')
  t.match(await early!.json(), { code: 'FLEET_DRAINING' })
  const ready = await s.app.inject('/health/ready')
  t.equal(ready.statusCode, 200)
  t.same(ready.json(), { status: 'ready' })
  drain.draining = true
  const draining = await s.app.inject('/health/ready')
  t.equal(draining.headers['retry-after'], '1')
  t.match(draining.json(), { statusCode: 503, code: 'FLEET_DRAINING' })
})

t.test('without a drain plugin it is ready once the application is', async t => {
  const s = await buildHealth(t)
  t.equal((await s.app.inject('/health/ready')).statusCode, 200)
})
