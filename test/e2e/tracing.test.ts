/** Traces over real sockets, from a client's `traceparent` to a receiver of OTLP. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { request, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { Writable } from 'node:stream'
import { promisify } from 'node:util'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { agentAt, openGateway, quiet, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { otlpReceiver, type OtlpReceiver, type ReceivedSpan } from '../helpers/otlp-receiver.ts'

/** The process's variables for one test: OpenTelemetry reads them where it likes. */
function withEnvironment (t: Test, variables: Readonly<Record<string, string>>): void {
  const before = { ...process.env }
  for (const name of Object.keys(process.env)) if (name.startsWith('OTEL_')) delete process.env[name]
  Object.assign(process.env, variables)
  t.teardown(() => {
    for (const name of Object.keys(variables)) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  })
}

interface Seen { readonly url: string, readonly headers: IncomingHttpHeaders, readonly rawHeaders: readonly string[] }

/** A receiver, an agent that takes down what it gets, and a gateway that traces; `spans` closes the gateway and gives what was exported. */
async function traced (t: Test, options: FleetGatewayOptions = {}, { variables = {}, statuses = [] }: { variables?: Record<string, string>, statuses?: number[] } = {}) {
  const receiver = await otlpReceiver(t)
  withEnvironment(t, { OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint, ...variables })
  const seen: Seen[] = []
  const agent = await fakeAgent(t, (request, response) => {
    seen.push({ url: request.url!, headers: request.headers, rawHeaders: request.rawHeaders })
    response.writeHead(statuses.shift() ?? 200).end('ok')
  })
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', agent)], tracing: { enabled: true }, env: variables, ...options })
  return { receiver, agent, gateway, seen, spans: () => exported(gateway, receiver) }
}

async function exported (gateway: { close (): unknown }, { spans }: OtlpReceiver): Promise<ReceivedSpan[]> {
  await gateway.close()
  return [...spans].sort((a, b) => a.startMs - b.startMs || a.kind - b.kind)
}

const clients = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

t.test('a request is a SERVER span, its attempt a CLIENT span below it, and that one is the parent of what the agent records', async t => {
  const { gateway, seen, spans, agent } = await traced(t, { auth: { enabled: true, keys: [{ id: 'bot', token: 'token-of-bot', scopes: ['proxy'] }] } })
  const headers = { authorization: 'Bearer token-of-bot', 'x-request-id': 'the-id' }

  await fetch(`${gateway.origin}/api/planner/a/b?token=secret`, { headers })

  const [server, client, ...more] = await spans()
  t.same(more, [])
  t.match(server, { name: 'GET /api/*', kind: 2, parentSpanId: '', status: 0, resource: { 'service.name': 'fleet-gateway', 'telemetry.sdk.name': 'opentelemetry' } })
  t.same(server!.attributes, {
    'http.request.method': 'GET',
    'url.scheme': 'http',
    'url.path': '/api/planner/a/b',
    'client.address': '127.0.0.1',
    'http.route': '/api/*',
    'http.response.status_code': 200,
    'fleet.request_id': 'the-id',
    'fleet.agent': 'planner',
    'fleet.key': 'bot'
  })
  t.match(client, { name: 'GET', kind: 3, traceId: server!.traceId, parentSpanId: server!.spanId, status: 0 })
  t.same(client!.attributes, {
    'http.request.method': 'GET',
    'url.scheme': 'http',
    'server.address': '127.0.0.1',
    'server.port': agent.port,
    'http.response.status_code': 200,
    'fleet.agent': 'planner',
    'fleet.instance': client!.attributes['fleet.instance'],
    'fleet.attempt': 1,
    'fleet.outcome': 'answered'
  })
  t.same(seen.map(({ headers }) => headers['traceparent']), [`00-${server!.traceId}-${client!.spanId}-01`])
  t.ok(server!.startMs <= client!.startMs && client!.startMs <= client!.endMs && client!.endMs <= server!.endMs, 'one within the other')
  t.ok(Math.abs(server!.startMs - Date.now()) < 60_000, 'in time since the epoch')
})

t.test('of a target only its path is told, in whatever form it came', async t => {
  const { gateway, spans } = await traced(t)
  const { hostname: host, port } = new URL(gateway.origin)

  for (const path of ['http://localhost/api/planner/x?token=s3cret', 'http://somebody:s3cret@localhost/api/planner/x', '/api/planner/x?token=s3cret']) {
    const asked = request({ host, port, path, headers: { host: 'localhost' } }).end()
    const [response] = await once(asked, 'response') as [IncomingMessage]
    response.resume()
    await once(response, 'close')
  }

  const all = (await spans()).filter(({ kind }) => kind === 2)
  t.ok(all.length >= 2)
  for (const { attributes } of all) t.equal(attributes['url.path'], '/api/planner/x')
})

t.test('a client\'s trace is continued, with its state; what is no trace begins one, without', async t => {
  const { gateway, seen, spans } = await traced(t)

  for (const headers of [{ traceparent: clients, tracestate: 'vendor=1,other=2' }, { traceparent: 'garbage', tracestate: 'vendor=1' }]) await fetch(`${gateway.origin}/api/planner/x`, { headers })

  const all = await spans()
  const [first, second] = all.filter(({ kind }) => kind === 2)
  t.match(first, { traceId: '0af7651916cd43dd8448eb211c80319c', parentSpanId: 'b7ad6b7169203331' })
  t.match(second, { traceId: /^(?!0af7)[0-9a-f]{32}$/, parentSpanId: '' })
  const attempts = all.filter(({ kind }) => kind === 3)
  t.same(seen.map(({ headers }) => [headers['traceparent'], headers['tracestate']]), [[`00-${first!.traceId}-${attempts[0]!.spanId}-01`, 'vendor=1,other=2'], [`00-${second!.traceId}-${attempts[1]!.spanId}-01`, undefined]])
  for (const { rawHeaders } of seen) t.equal(rawHeaders.filter(name => name.toLowerCase() === 'traceparent').length, 1)
})

t.test('a retry is a span of its own, and each attempt sends its own', async t => {
  const { gateway, seen, spans } = await traced(t, {}, { statuses: [503, 200] })

  t.equal((await fetch(`${gateway.origin}/api/planner/x`)).status, 200)

  const [server, ...attempts] = await spans()
  t.match(server, { kind: 2, status: 0, attributes: { 'http.response.status_code': 200 } })
  t.match(attempts, [
    { kind: 3, status: 2, parentSpanId: server!.spanId, attributes: { 'fleet.attempt': 1, 'http.response.status_code': 503, 'error.type': '503' } },
    { kind: 3, status: 0, parentSpanId: server!.spanId, attributes: { 'fleet.attempt': 2, 'http.response.status_code': 200, 'http.request.resend_count': 1 } }
  ])
  t.notOk('http.request.resend_count' in attempts[0]!.attributes)
  t.same(seen.map(({ headers }) => headers['traceparent']!.slice(36, 52)), attempts.map(({ spanId }) => spanId))
})

t.test('an agent that can not be reached: the attempt\'s outcome, and the gateway\'s code as the error', async t => {
  const { gateway, spans } = await traced(t, { agents: [agentAt('planner', { host: '127.0.0.1', port: await deadPort() })], retry: { attempts: 0 } })

  t.equal((await fetch(`${gateway.origin}/api/planner/x`)).status, 502)

  const [server, client] = await spans()
  t.match(server, { status: 2, attributes: { 'http.response.status_code': 502, 'error.type': 'FLEET_UPSTREAM_UNREACHABLE' } })
  t.match(client, { status: 2, attributes: { 'fleet.outcome': 'refused', 'error.type': 'refused' } })
  t.notOk('http.response.status_code' in client!.attributes)
})

t.test('what the gateway answers or refuses itself is a span without attempts, also under unknown paths and methods', async t => {
  const { gateway, spans } = await traced(t, { auth: { enabled: true, secret: 'the-shared-secret' } })

  await fetch(`${gateway.origin}/health`)
  await fetch(`${gateway.origin}/api/planner/x`)
  await fetch(`${gateway.origin}/nowhere`)
  await fetch(`${gateway.origin}/api/planner/x`, { method: 'PROPFIND' })

  const all = await spans()
  t.same(all.map(({ name, kind, status, attributes }) => [name, kind, status, attributes['http.response.status_code'], attributes['http.route']]), [
    ['GET /health', 2, 0, 200, '/health'], ['GET /api/*', 2, 0, 401, '/api/*'], ['GET', 2, 0, 404, undefined], ['HTTP /api/*', 2, 0, 401, '/api/*']
  ])
  t.match(all[3]!.attributes, { 'http.request.method': '_OTHER', 'http.request.method_original': 'PROPFIND' })
})

t.test('a client that goes away before the answer is no error of ours', async t => {
  let arrived = () => {}
  const waiting = new Promise<void>(resolve => { arrived = resolve })
  const agent = await fakeAgent(t, () => arrived())
  const { gateway, receiver } = await traced(t, { agents: [agentAt('planner', agent)] })
  const socket = connect(gateway.port, '127.0.0.1')
  socket.write('GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await waiting

  const over = new Promise<void>(resolve => gateway.facts.onFinished(() => resolve()))
  socket.destroy()
  await over

  const [server, client] = await exported(gateway, receiver)
  t.match(server, { kind: 2, status: 0, attributes: { 'error.type': 'client-aborted' } })
  t.notOk('http.response.status_code' in server!.attributes)
  t.match(client, { kind: 3, status: 0, attributes: { 'fleet.outcome': 'aborted', 'error.type': 'aborted' } })
})

t.test('so is one that went away while a hook of the application around waited', async t => {
  let came = () => {}
  let go = () => {}
  const waiting = new Promise<void>(resolve => { came = resolve })
  const receiver = await otlpReceiver(t)
  withEnvironment(t, { OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint })
  const app = Fastify(serverOptions())
  app.addHook('onRequest', () => new Promise<void>(resolve => {
    go = resolve
    came()
  }))
  await app.register(openGateway, { ...quiet, ...unprobed, tracing: { enabled: true }, env: {} })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET /agents HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const [inside] = await Promise.all([once(app.server, 'connection') as Promise<[Socket]>, waiting])

  const over = new Promise<void>(resolve => app.facts.onFinished(() => resolve()))
  const gone = once(inside[0], 'close')
  socket.destroy()
  await gone
  go()
  await over

  const [server, ...more] = await exported(app, receiver)
  t.match(server, { kind: 2, status: 0, attributes: { 'error.type': 'client-aborted' } })
  t.same(more, [])
})

t.test('a WebSocket is one span from its handshake to its end, with the handshake\'s attempt', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  const parents: (string | undefined)[] = []
  rooms.on('connection', (room, request) => {
    parents.push(request.headers['traceparent'] as string | undefined)
    room.on('message', data => room.send(data))
  })
  const { gateway, spans } = await traced(t, { agents: [agentAt('planner', agent)] })

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/room`)
  await once(socket, 'open')
  socket.send('hello')
  await once(socket, 'message')
  const over = new Promise<void>(resolve => gateway.facts.onFinished(() => resolve()))
  socket.close()
  await over

  const [server, client] = await spans()
  t.match(server, { name: 'GET /api/*', kind: 2, status: 0, attributes: { 'http.response.status_code': 101, 'fleet.stream': 'websocket' } })
  t.match(client, { kind: 3, parentSpanId: server!.spanId, attributes: { 'http.response.status_code': 101, 'fleet.outcome': 'answered' } })
  t.same(parents, [`00-${server!.traceId}-${client!.spanId}-01`])
})

t.test('what the sampler does not want is not recorded, and the client\'s trace goes on as without tracing', async t => {
  const { gateway, seen, spans, receiver } = await traced(t, {}, { variables: { OTEL_TRACES_SAMPLER: 'always_off' } })

  await fetch(`${gateway.origin}/api/planner/x`, { headers: { traceparent: clients } })
  await fetch(`${gateway.origin}/api/planner/x`)

  t.same(await spans(), [])
  t.same(receiver.requests, [])
  t.equal(seen[0]!.headers['traceparent'], clients)
  t.match(seen[1]!.headers['traceparent'], /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/)
})

t.test('by default a client\'s decision counts', async t => {
  const { gateway, seen, spans } = await traced(t)
  const unsampled = clients.replace(/01$/, '00')

  await fetch(`${gateway.origin}/api/planner/x`, { headers: { traceparent: unsampled } })

  t.same(await spans(), [])
  t.equal(seen[0]!.headers['traceparent'], unsampled)
})

t.test('the standard variables count: name, attributes, headers, endpoint', async t => {
  const receiver = await otlpReceiver(t)
  const { gateway } = await traced(t, {}, {
    variables: { OTEL_SERVICE_NAME: 'edge', OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment=test,service.version=7', OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${receiver.endpoint}/collect`, OTEL_EXPORTER_OTLP_HEADERS: 'x-key=abc' }
  })

  await fetch(`${gateway.origin}/api/planner/x`)

  const [server] = await exported(gateway, receiver)
  t.match(server!.resource, { 'service.name': 'edge', 'deployment.environment': 'test', 'service.version': '7' })
  t.match(receiver.requests, [{ url: '/collect', headers: { 'x-key': 'abc', 'content-type': 'application/json' } }])
})

t.test('OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none switch it off', async t => {
  for (const variables of [{ OTEL_SDK_DISABLED: 'true' }, { OTEL_TRACES_EXPORTER: 'none' }] as Record<string, string>[]) {
    const { gateway, seen, spans } = await traced(t, {}, { variables })

    await fetch(`${gateway.origin}/api/planner/x`, { headers: { traceparent: clients } })

    t.same(await spans(), [])
    t.equal(seen[0]!.headers['traceparent'], clients)
  }
})

t.test('a receiver that is down is said once and hurts no request', async t => {
  const lines: string[] = []
  withEnvironment(t, { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${await deadPort()}`, OTEL_BSP_MAX_EXPORT_BATCH_SIZE: '1', OTEL_EXPORTER_OTLP_TIMEOUT: '200' })
  const agent = await fakeAgent(t, (_request, response) => response.end('ok'))
  const stream = new Writable({ write (chunk, _encoding, done) { lines.push(String(chunk)); done() } })
  const gateway = await createGateway({ auth: { enabled: false }, auditLog: { enabled: false }, ...unprobed, agents: [agentAt('planner', agent)], tracing: { enabled: true } }, { logger: { level: 'info', stream } })
  t.teardown(() => gateway.close())
  const origin = await gateway.listen({ host: '127.0.0.1', port: 0 })

  for (let count = 0; count < 3; count++) t.equal((await fetch(`${origin}/api/planner/x`)).status, 200)
  await gateway.close()

  t.equal(lines.filter(line => line.includes('Traces can not be exported')).length, 1, lines.join(''))
})

t.test('a receiver that never answers does not hold up the end for longer than its bound', async t => {
  const clock = fakeClock()
  const { receiver, gateway } = await traced(t, { clock }, { variables: { OTEL_EXPORTER_OTLP_TIMEOUT: '60000', OTEL_BSP_EXPORT_TIMEOUT: '90000' } })
  receiver.misbehave(() => {})
  const warnings: unknown[] = []
  gateway.log.warn = (text: unknown) => { warnings.push(text) }
  await fetch(`${gateway.origin}/api/planner/x`)

  const closing = gateway.close()
  await receiver.asked()
  clock.advance(3_000)
  await closing

  t.same(warnings, ['The last traces could not be exported in time, and are lost'], 'the exporter still waits, and nobody else does')
})

t.test('off, which it is by default, nothing of OpenTelemetry is loaded but the interface that prom-client has', async t => {
  const index = new URL('../../dist/src/index.js', import.meta.url).href
  const script = (enabled: string) => `
    import Module from 'node:module'
    import { createGateway } from ${JSON.stringify(index)}
    const gateway = await createGateway({ auth: { enabled: false }, auditLog: { enabled: false }${enabled} })
    await gateway.ready()
    console.log(Object.keys(Module._cache).filter(path => /@opentelemetry.(?!api\\b)/.test(path)).length)
    await gateway.close()`
  const loaded = async (enabled: string) => Number((await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script(enabled)], { env: { PATH: process.env['PATH'] } })).stdout)

  t.equal(await loaded(''), 0)
  t.ok(await loaded(', tracing: { enabled: true }') > 0, 'it would have been seen')
})
