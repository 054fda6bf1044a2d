/** `/metrics` of the whole gateway over real sockets: what was sent is what is counted. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import WebSocket, { WebSocketServer } from 'ws'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import { fleetGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { Scrape } from '../helpers/prometheus-text.ts'
import { noPromtool } from '../helpers/promtool.ts'

const duration = 'http_server_request_duration_seconds_count'

async function scrape (origin: string, headers: Record<string, string> = {}): Promise<Scrape> {
  const response = await fetch(`${origin}/metrics`, { headers })
  if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`)
  return new Scrape(await response.text())
}

/** Resolves when so many exchanges are over, since an answer may be read before its exchange is. */
function finished (gateway: ListeningGateway, count: number, isMeant: (facts: RequestFacts) => boolean = () => true): Promise<void> {
  return new Promise(resolve => {
    let left = count
    const stop = gateway.facts.onFinished(facts => {
      if (!isMeant(facts) || --left > 0) return
      stop()
      setImmediate(resolve) // behind the listeners that count
    })
  })
}

async function send (gateway: ListeningGateway, path: string, times = 1, init: RequestInit = {}): Promise<number[]> {
  const over = finished(gateway, times)
  const statuses = []
  for (let sent = 0; sent < times; sent++) {
    const response = await fetch(`${gateway.origin}${path}`, init)
    await response.arrayBuffer()
    statuses.push(response.status)
  }
  await over
  return statuses
}

t.test('counts match what was sent', async t => {
  const agent = await fakeAgent(t, (request, response) => response.writeHead(Number(/\d+/.exec(request.url!)?.[0] ?? 200)).end())
  const gateway = await startGateway(t, { ...unprobed, retry: { attempts: 0 }, agents: [{ ...agentAt('planner', agent), aliases: ['plan'] }] })
  await send(gateway, '/api/planner/200', 5)
  await send(gateway, '/api/plan/204', 2)
  await send(gateway, '/api/planner/404', 3)
  await send(gateway, '/api/planner/500', 4)
  await send(gateway, '/api/planner/200', 2, { method: 'POST', body: 'x' })
  await send(gateway, '/api/nobody/200', 2)
  await send(gateway, '/health', 2)

  const s = await scrape(gateway.origin)

  for (const [code, count] of [['200', 7], ['204', 2], ['404', 3], ['500', 4]] as const) t.equal(s.value('fleet_requests_total', { agent: 'planner', code }), count, code)
  t.equal(s.value(duration, { agent: 'planner', method: 'GET', status_class: '2xx' }), 7)
  t.equal(s.value(duration, { agent: 'planner', method: 'POST', status_class: '2xx' }), 2)
  t.equal(s.value(duration, { agent: 'planner' }), 16)
  t.equal(s.value(duration, { agent: '', route: '/health' }), 2)
  t.equal(s.value(duration, { agent: '', route: '/api/*', status_class: '4xx' }), 2)
  t.equal(s.value('fleet_upstream_ttfb_seconds_count', { agent: 'planner' }), 16)
  t.equal(s.value('http_server_active_requests'), 1)
  t.equal(s.value('fleet_active_attempts', { agent: 'planner' }), 0)
  t.same(s.values('fleet_requests_total', 'agent'), ['', 'planner'], 'no alias, and nobody\'s name')
})

t.test('what is sent again counts once, with its retries and their reasons', async t => {
  let failures = 0
  const agent = await fakeAgent(t, (_request, response) => response.writeHead(failures++ === 0 ? 503 : 200).end())
  const breaking = await rawAgent(t, socket => socket.destroy())
  const gateway = await startGateway(t, {
    ...unprobed,
    agents: [agentAt('answers', agent), agentAt('refuses', { host: '127.0.0.1', port: await deadPort() }, agent), agentAt('breaks', breaking)]
  })

  t.same(await send(gateway, '/api/answers/x'), [200])
  t.same(await send(gateway, '/api/refuses/x'), [200])
  t.same(await send(gateway, '/api/breaks/x'), [502])

  const s = await scrape(gateway.origin)
  t.equal(s.value('fleet_retries_total', { agent: 'answers', reason: '5xx' }), 1)
  t.equal(s.value('fleet_retries_total', { agent: 'refuses', reason: 'refused' }), 1)
  t.equal(s.value('fleet_retries_total', { agent: 'breaks', reason: 'reset' }), 1)
  t.equal(s.value('fleet_retries_total'), 3)
  t.equal(s.value('fleet_requests_total', { agent: 'answers' }), 1)
  t.equal(s.value('fleet_requests_total', { agent: 'breaks', code: '502' }), 1)
})

t.test('clients that leave, and agents that break off, are seen', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/breaks') response.writeHead(200, { 'content-length': 10 }).write('half', () => response.destroy())
  })
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', agent)] })
  const over = finished(gateway, 1)
  const client = request(`${gateway.origin}/api/planner/silent`)
  client.on('error', () => {})
  client.end()
  await once(agent.server, 'request')
  t.match(await scrape(gateway.origin).then(s => [s.value('http_server_active_requests'), s.value('fleet_active_attempts', { agent: 'planner' })]), [2, 1])

  client.destroy()
  await over
  const cut = finished(gateway, 1, ({ agent }) => agent === 'planner')
  await fetch(`${gateway.origin}/api/planner/breaks`).then(response => response.text()).catch(() => {})
  await cut

  const s = await scrape(gateway.origin)
  t.equal(s.value('fleet_requests_total', { agent: 'planner', code: '499' }), 1)
  t.equal(s.value('fleet_aborted_requests_total', { agent: 'planner', by: 'client' }), 1)
  t.equal(s.value('fleet_aborted_requests_total', { agent: 'planner', by: 'agent' }), 1)
})

t.test('event streams and WebSockets stay out of the durations of requests', async t => {
  const agent = await fakeAgent(t, (_request, response) => response.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: 1\n\n'))
  const sockets = new WebSocketServer({ server: agent.server })
  sockets.on('connection', socket => socket.close())
  t.teardown(() => sockets.close())
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', agent)] })
  await send(gateway, '/api/planner/events')
  const over = finished(gateway, 1)
  const socket = new WebSocket(`${gateway.origin.replace('http', 'ws')}/api/planner/ws`)
  await once(socket, 'close')
  await over

  const s = await scrape(gateway.origin)

  t.equal(s.value(duration, { agent: 'planner' }), 0)
  t.equal(s.value('fleet_stream_duration_seconds_count', { agent: 'planner', kind: 'event-stream' }), 1)
  t.equal(s.value('fleet_stream_duration_seconds_count', { agent: 'planner', kind: 'websocket' }), 1)
  t.equal(s.value('fleet_requests_total', { agent: 'planner', code: '101' }), 1)
  t.equal(s.value('fleet_upstream_ttfb_seconds_count', { agent: 'planner' }), 2)
})

const token = 'a-token-that-is-long-enough'
const keyed: FleetGatewayOptions = {
  ...unprobed,
  auth: { keys: [{ id: 'reader', token, scopes: ['read'] }, { id: 'one', token: `${token}-one`, scopes: ['read', 'proxy'], agents: ['mine'] }, { id: 'user', token: `${token}-user`, scopes: ['proxy'], rateLimit: { perMinute: 1, burst: 2 } }] }
}
const bearer = (of: string) => ({ authorization: `Bearer ${of}` })

t.test('401, guesses over their bound, and 429 are told apart', async t => {
  const agent = await fakeAgent(t, (_request, response) => response.writeHead(429).end())
  const gateway = await startGateway(t, { ...keyed, rateLimit: { perMinute: 10_000, burst: 1_000 }, agents: [agentAt('mine', agent)] })
  await send(gateway, '/api/mine/x', 2)
  const guesses = await send(gateway, '/api/mine/x', 25, { headers: bearer('wrong') })
  const tooMany = await send(gateway, '/api/mine/x', 4, { headers: bearer(`${token}-user`) })

  const s = await scrape(gateway.origin, bearer(token))

  t.ok(guesses.includes(429))
  t.equal(s.value('fleet_auth_failures_total'), 27)
  t.same(tooMany, [429, 429, 429, 429], 'two of them are the agent\'s')
  t.equal(s.value('fleet_rate_limited_total'), 2)
  t.equal(s.value('fleet_requests_total', { agent: 'mine', code: '429' }), 2)
  t.equal(s.value('fleet_requests_total', { agent: '', code: '429' }), 2 + guesses.filter(status => status === 429).length)
})

t.test('the route asks for read, shows a key its own agents, and refuses as the other routes do', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { ...keyed, agents: [agentAt('mine', agent), agentAt('theirs', agent)] })
  const status = async (init: RequestInit) => (await fetch(`${gateway.origin}/metrics`, init)).status

  t.equal(await status({}), 401)
  t.equal(await status({ headers: bearer(`${token}-user`) }), 403)
  t.equal(await status({ method: 'HEAD', headers: bearer(token) }), 200)
  const refused = await fetch(`${gateway.origin}/metrics`, { method: 'POST' })
  t.equal(refused.status, 405)
  t.match(refused.headers.get('allow'), /GET/)
  t.same((await scrape(gateway.origin, bearer(`${token}-one`))).values('fleet_instance_state', 'agent'), ['mine'])
  t.same((await scrape(gateway.origin, bearer(token))).values('fleet_instance_state', 'agent'), ['mine', 'theirs'])
})

t.test('states of instances and reloads are what they are now', async t => {
  const agent = await fakeAgent(t)
  const file = join(t.testdir({ 'fleet.yaml': `agents: [{name: planner, host: 127.0.0.1, port: ${agent.port}}]\n` }), 'fleet.yaml')
  const gateway = await startGateway(t, { ...unprobed, file })
  const { id } = gateway.registry.get('planner').instances[0]!
  const first = await scrape(gateway.origin)
  t.equal(first.value('fleet_config_last_reload_successful'), 1)
  t.equal(first.value('fleet_instance_state', { agent: 'planner', instance: id, state: 'up' }), 1)

  await writeFile(file, 'agnets: []\n')
  t.equal(await gateway.discovery.reload(), false)
  gateway.registry.drain('planner', id)

  const s = await scrape(gateway.origin)
  t.equal(s.value('fleet_config_last_reload_successful'), 0)
  t.equal(s.value('fleet_config_last_reload_success_timestamp_seconds'), first.value('fleet_config_last_reload_success_timestamp_seconds'))
  t.equal(s.value('fleet_instance_state', { agent: 'planner', instance: id, state: 'up' }), 0)
  t.equal(s.value('fleet_instance_state', { agent: 'planner', instance: id, state: 'draining' }), 1)
  t.equal(s.value('fleet_serving_instances', { agent: 'planner' }), 0)
})

t.test('a lease that nobody renews is counted when it ends', async t => {
  const clock = fakeClock()
  const gateway = await startGateway(t, { ...unprobed, clock })
  const registered = await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name: 'leased', host: '127.0.0.1', port: 9, ttl: 5 }) })
  t.equal(registered.status, 201)
  t.equal((await scrape(gateway.origin)).value('fleet_leases', { state: 'held' }), 1)

  clock.advance(6_000)

  t.equal((await scrape(gateway.origin)).value('fleet_lease_expirations_total'), 1)
})

t.test('hostile requests and thousands of registrations make no more series', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { ...unprobed, registry: { maxAgents: 10 }, agents: [agentAt('planner', agent)] })
  const fleets = (s: Scrape) => [...s.families.values()].filter(({ name }) => /^(fleet|http)_/.test(name)).reduce((sum, { series }) => sum + series.length, 0)
  const odd = async (round: number) => {
    for (const method of ['MKCOL', 'REPORT', 'PURGE', 'M-SEARCH']) await send(gateway, `/api/planner/${round}`, 1, { method })
    for (const path of [`/api/no-${round}/x`, `/api/%22%0a-${round}`, `/x${round}`, `/api/planner%00${round}`, '/api/__proto__/x', '/api/constructor', `/registry/a${round}/instances/b`]) await send(gateway, path)
  }
  await odd(0)
  await scrape(gateway.origin)
  const before = fleets(await scrape(gateway.origin))

  for (let round = 1; round < 20; round++) await odd(round)
  for (let index = 0; index < 2_000; index++) {
    gateway.registry.register({ name: `guest-${index}`, host: '127.0.0.1', port: agent.port })
    gateway.registry.removeAgent(`guest-${index}`)
  }

  const s = await scrape(gateway.origin)
  t.equal(fleets(s), before)
  t.same(s.values(duration, 'method'), ['GET', 'OTHER'])
})

t.test('two gateways of one application count apart, each under its prefix', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const options = { ...unprobed, auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, agents: [agentAt('planner', agent)] }
  await app.register(fleetGateway, { prefix: '/one', ...options })
  await app.register(fleetGateway, { prefix: '/two', ...options })
  app.get('/own', async () => 'mine')
  await app.listen({ host: '127.0.0.1', port: 0 })
  const origin = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  for (const path of ['/one/api/planner/x', '/own', '/one/health']) await (await fetch(origin + path)).arrayBuffer()

  const [one, two] = [await scrape(`${origin}/one`), await scrape(`${origin}/two`)]

  t.equal(one.value('fleet_requests_total', { agent: 'planner' }), 1)
  t.same(one.values(duration, 'route'), ['', '/one/health'])
  t.equal(two.value('fleet_requests_total'), 0)
  t.equal((await fetch(`${origin}/metrics`)).status, 404)
})

t.test('`enabled` counts at the start: a reload says that it waits', async t => {
  const lines: string[] = []
  const file = join(t.testdir({ 'fleet.yaml': 'metrics: {enabled: false}\n' }), 'fleet.yaml')
  const { createGateway } = await import('../../src/gateway.ts')
  const gateway = await createGateway({ auth: { enabled: false }, auditLog: { enabled: false }, file }, { logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } })
  t.teardown(() => gateway.close())
  t.equal((await gateway.inject('/metrics')).statusCode, 404)

  await writeFile(file, 'metrics: {enabled: true}\n')
  t.equal(await gateway.discovery.reload(), true)

  t.equal((await gateway.inject('/metrics')).statusCode, 404)
  t.match(lines.join(''), /Changes of metrics\.enabled take effect when the gateway restarts/)
  await gateway.close()
  const restarted = await buildGateway(t, { file })
  t.equal((await restarted.inject('/metrics')).statusCode, 200)
})

t.test('promtool finds nothing to say of a scrape', { skip: noPromtool }, async t => {
  const s = await used(t)

  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: await s.text(), encoding: 'utf8' })

  t.same([status, stdout, stderr], [0, '', ''])
})

/** A gateway that has most of what can be told. */
async function used (t: Test) {
  const agent = await fakeAgent(t, (_request, response) => response.writeHead(503).end())
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', agent, { host: '127.0.0.1', port: await deadPort() })] })
  await send(gateway, '/api/planner/x', 3)
  return { text: async () => (await fetch(`${gateway.origin}/metrics`)).text() }
}
