/** The gateway inside somebody else's application: everything under its prefix, and the host left alone. */
import t from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { readFile } from 'node:fs/promises'
import { ServerResponse, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'
import { request as httpsRequest, type Server as HttpsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import Fastify, { type FastifyError, type FastifyInstance } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import fleetGateway, { createGateway, serverOptions } from '../../src/index.ts'
import { agentAt } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'

const quiet = { rateLimit: { enabled: false }, auditLog: { enabled: false } }
const auth = { secret: 'fleet-secret-token' }
type UpgradeListener = (request: IncomingMessage, socket: Duplex, head: Buffer) => void

const token = { authorization: 'Bearer fleet-secret-token' }

t.test('everything moves under the prefix, and the host\'s routes, parsers and handlers stay its own', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const methods = [...app.supportedMethods]
  app.setErrorHandler(async error => ({ host: (error as Error).message }))
  app.setNotFoundHandler(async () => 'the host does not know')
  app.addContentTypeParser('text/csv', { parseAs: 'string' }, (_request, body, done) => done(null, `csv ${String(body)}`))
  app.post('/mine', async request => ({ mine: request.body }))
  app.get('/fails', async () => { throw new Error('as it does') })
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  app.get('/late', async () => 'late')

  t.match((await app.inject('/fleet/health')).json(), { status: 'healthy' })
  t.equal((await app.inject('/fleet/agents')).statusCode, 401)
  t.match((await app.inject({ url: '/fleet/api/planner/x?y', headers: token })).json(), { url: '/x?y' })
  t.match((await app.inject({ url: '/fleet/nowhere' })).json(), { code: 'FLEET_NOT_FOUND' })
  t.equal((await app.inject({ method: 'PUT', url: '/fleet/agents' })).statusCode, 405)
  t.equal((await app.inject({ method: 'PROPFIND' as 'GET', url: '/fleet/api/planner/x', headers: token })).json().method, 'PROPFIND')
  t.equal((await app.inject({ method: 'PROPFIND' as 'GET', url: '/fleet/api/planner/x' })).statusCode, 401)

  t.equal((await app.inject('/health')).body, 'the host does not know')
  t.same((await app.inject({ method: 'POST', url: '/mine', headers: { 'content-type': 'text/csv' }, payload: 'a;b' })).json(), { mine: 'csv a;b' })
  t.same((await app.inject({ method: 'POST', url: '/mine', payload: { a: 1 } })).json(), { mine: { a: 1 } })
  t.same((await app.inject('/fails')).json(), { host: 'as it does' })
  t.equal((await app.inject('/late')).body, 'late')
  t.equal((await app.inject('/late')).headers['access-control-allow-origin'], undefined)
  t.equal((await app.inject({ method: 'PROPFIND' as 'GET', url: '/late' })).body, 'the host does not know')
  t.same(app.supportedMethods, methods, 'the host learns no methods')
})

t.test('two gateways in one application share nothing', async t => {
  const [one, two] = [await fakeAgent(t), await fakeAgent(t)]
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/one', auth, agents: [agentAt('a', one)] })
  await app.register(fleetGateway, { ...quiet, prefix: '/two', auth: { secret: 'the-other-token' }, agents: [agentAt('b', two)] })

  t.same(Object.keys((await app.inject('/one/health')).json().services), ['a'])
  t.same(Object.keys((await app.inject('/two/health')).json().services), ['b'])
  t.equal((await app.inject({ url: '/two/agents', headers: token })).statusCode, 401)
  t.equal((await app.inject({ url: '/one/api/b/x', headers: token })).statusCode, 404)
  t.equal((await app.inject({ url: '/one/api/a/x', headers: token })).json().port, one.port)
})

t.test('a gateway with a server of its own does not change how others in the process are embedded', async t => {
  const own = await createGateway({ ...quiet, auth })
  t.teardown(() => own.close())
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth })
  app.get('/mine', async () => 'mine')

  t.equal((await app.inject('/mine')).body, 'mine')
  t.equal((await app.inject('/fleet/health')).statusCode, 200)
  t.equal((await app.inject('/health')).statusCode, 404)
})

t.test('upgrades: those under the prefix are tunnelled, the host\'s listeners keep theirs', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  rooms.on('connection', socket => socket.send('the agent'))
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('chat', agent)] })
  const own = new WebSocketServer({ noServer: true })
  app.server.on('upgrade', (request, socket, head) => {
    if (request.url === '/own') own.handleUpgrade(request, socket, head, accepted => accepted.send('the host'))
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo

  for (const [path, expected] of [['/own', 'the host'], ['/fleet/api/chat/ws', 'the agent']]) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers: token })
    t.equal(String((await once(socket, 'message'))[0]), expected)
    socket.terminate()
  }
})

/** What applications do with upgrades that they don't know. */
const hostListeners: Readonly<Record<string, (app: FastifyInstance, own: WebSocketServer) => UpgradeListener>> = {
  'destroys what it does not know': (_app, own) => (request, socket, head) => {
    if (request.url === '/own') own.handleUpgrade(request, socket, head, accepted => accepted.send('the host'))
    else socket.destroy()
  },
  'refuses what it does not know, as ws does when it has a path': (_app, own) => (request, socket, head) => {
    if (request.url === '/own') own.handleUpgrade(request, socket, head, accepted => accepted.send('the host'))
    else socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')
  },
  'sends everything through the router, as @fastify/websocket does': (app, own) => {
    app.get('/own', (request, reply) => {
      reply.hijack()
      own.handleUpgrade(request.raw, request.raw.socket, Buffer.alloc(0), accepted => accepted.send('the host'))
    })
    return (request, socket) => {
      const response = new ServerResponse(request)
      response.assignSocket(socket as Socket)
      app.routing(request, response)
    }
  }
}

for (const [name, createListener] of Object.entries(hostListeners)) {
  for (const order of ['before', 'after'] as const) {
    t.test(`a host's upgrade listener, registered ${order} the gateway, that ${name}`, async t => {
      const agent = await fakeAgent(t)
      new WebSocketServer({ server: agent.server }).on('connection', socket => socket.send('the agent'))
      const app = Fastify()
      t.teardown(() => app.close())
      const listener = createListener(app, new WebSocketServer({ noServer: true }))
      if (order === 'before') app.server.on('upgrade', listener)
      await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('chat', agent)] })
      if (order === 'after') app.server.on('upgrade', listener)
      await app.listen({ port: 0, host: '127.0.0.1' })
      const { port } = app.server.address() as AddressInfo

      for (const [path, expected] of [['/own', 'the host'], ['/fleet/api/chat/ws', 'the agent']]) {
        const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers: token })
        t.equal(String((await once(socket, 'message'))[0]), expected)
        socket.terminate()
      }
      const refused = new WebSocket(`ws://127.0.0.1:${port}/fleet/api/nobody/ws`, { headers: token })
      t.match((await once(refused, 'error'))[0], /404/, 'what is wrong under the prefix is answered by the gateway')
    })
  }
}

t.test('when the application has closed, its server is as it was', async t => {
  const app = Fastify()
  const { emit } = app.server
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth })
  await app.ready()

  await app.close()

  t.equal(app.server.emit, emit)
  t.equal(app.server.listenerCount('upgrade'), 0)
})

t.test('with two gateways on a server an upgrade that is nobody\'s is served once, as if nothing had been offered', async t => {
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/one', auth })
  await app.register(fleetGateway, { ...quiet, prefix: '/two', auth })
  app.get('/own', async () => 'mine')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo

  t.match(await rawRequest(t, port, 'GET /own HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n'), /^HTTP\/1\.1 200 [^]*mine$/)
})

for (const [name, options] of [['an https host', {}], ['an https host with serverOptions()', serverOptions<HttpsServer>()]] as const) {
  t.test(`${name}: agents, WebSockets and what is no WebSocket, over TLS`, async t => {
    const agent = await fakeAgent(t)
    new WebSocketServer({ server: agent.server }).on('connection', socket => socket.send('the agent'))
    const [key, cert] = await Promise.all(['key', 'crt'].map(type => readFile(new URL(`../fixtures/self-signed.${type}`, import.meta.url))))
    const app = Fastify({ ...options, https: { key: key!, cert: cert! } })
    t.teardown(() => app.close())
    await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('chat', agent)] })
    app.get('/own', async () => 'mine')
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const get = async (path: string, headers: OutgoingHttpHeaders = {}) => {
      const options = { port, host: '127.0.0.1', path, headers: { ...token, ...headers }, agent: false, rejectUnauthorized: false } as const
      const [response] = await once(httpsRequest(options).end(), 'response') as [IncomingMessage]
      return text(response)
    }

    t.match(await get('/fleet/api/chat/x'), /"X-Forwarded-Proto","https"/i)
    t.equal(await get('/own', { connection: 'Upgrade', upgrade: 'h2c' }), 'mine')
    const socket = new WebSocket(`wss://127.0.0.1:${port}/fleet/api/chat/ws`, { headers: token, rejectUnauthorized: false })
    t.equal(String((await once(socket, 'message'))[0]), 'the agent')
    socket.terminate()
  })
}

t.test('handlers that the host sets afterwards are its own, and leave the gateway\'s alone', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth })
  app.setErrorHandler(async error => ({ host: (error as Error).message }))
  app.setNotFoundHandler(async () => 'the host does not know')
  app.get('/fails', async () => { throw new Error('as it does') })

  t.same((await app.inject('/fails')).json(), { host: 'as it does' })
  t.equal((await app.inject('/nowhere')).body, 'the host does not know')
  t.match((await app.inject('/fleet/nowhere')).json(), { code: 'FLEET_NOT_FOUND' })
  t.match((await app.inject('/fleet/agents')).json(), { code: 'FLEET_UNAUTHENTICATED' })
})

t.test('the host\'s hooks see requests under the prefix, and none of the gateway\'s hooks sees the host\'s requests', async t => {
  const agent = await fakeAgent(t)
  const seen: string[] = []
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRequest', async (request, reply) => {
    seen.push(`asked ${request.url}`)
    void reply.header('x-host', 'was here')
  })
  app.addHook('onResponse', async request => { seen.push(`answered ${request.url}`) })
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  app.get('/own', async request => ({ facts: 'facts' in request, principal: 'principal' in request }))

  const proxied = await app.inject({ url: '/fleet/api/planner/x', headers: token })
  const own = await app.inject('/own')

  t.equal(proxied.headers['x-host'], 'was here')
  t.same(own.json(), { facts: false, principal: false })
  t.same(Object.keys(own.headers).filter(name => /^x-(?!host)|ratelimit|via|proxy|access/.test(name)), [])
  t.same(seen, ['asked /fleet/api/planner/x', 'answered /fleet/api/planner/x', 'asked /own', 'answered /own'])
})

t.test('decorators of the same names stay the host\'s', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const names = [
    'registry', 'registryState', 'auth', 'facts', 'stats', 'health', 'upstream', 'discovery', 'drain', 'proxy', 'rateLimiter', 'auditLog', 'metrics',
    'cors', 'corsEnabled', 'registryRules', 'createRateLimit', 'verifyBearerAuth'
  ]
  for (const name of names) app.decorate(name, `the host's ${name}`)
  await app.register(fleetGateway, { ...quiet, rateLimit: { enabled: true }, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  // Fastify copies the decorators of requests into scopes, so those of the same name come after the gateway.
  for (const name of ['facts', 'principal', 'attempts', 'authorizationIsGateways']) app.decorateRequest(name, null)
  app.get('/own', async request => ({ principal: request.principal }))

  t.match((await app.inject({ url: '/fleet/api/planner/x', headers: token })).json(), { url: '/x' })
  t.same((await app.inject('/own')).json(), { principal: null })
  for (const name of names) t.equal((app as unknown as Record<string, unknown>)[name], `the host's ${name}`)
})

t.test('a request decorator of the host that is in the way is named', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.decorateRequest('principal', null)

  await t.rejects(async () => { await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth }) }, /'principal'/)
})

t.test('the host\'s limits, validation and parsers do not reach forwarded bodies or registrations', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify({ bodyLimit: 16, ajv: { customOptions: { removeAdditional: 'all', coerceTypes: 'array' } }, onProtoPoisoning: 'remove' })
  t.teardown(() => app.close())
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(new Error('the host takes no bodies')))
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  const post = (url: string, payload: object) => app.inject({ method: 'POST', url, headers: token, payload })

  t.match((await post('/fleet/api/planner/x', { text: 'longer than the host would take' })).json(), { body: '{"text":"longer than the host would take"}' })
  t.equal((await post('/fleet/registry/register', { name: 'other', host: 'localhost', port: agent.port })).statusCode, 201)
  t.match((await post('/fleet/registry/register', { name: 'other', prot: 1 })).json(), { code: 'FLEET_INVALID_REGISTRATION' })
})

t.test('the gateway logs to the host\'s logger, and the host\'s own lines stay as they are', async t => {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'info', stream: { write: line => { lines.push(line) } } } })
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('planner', { host: '127.0.0.1', port: await deadPort() })] })
  app.get('/own', async () => 'mine')

  await app.inject('/own')
  await app.inject({ url: '/fleet/api/planner/x', headers: token })

  t.equal(lines.filter(line => line.includes('"url":"/own"')).length, 1, 'the request log is the host\'s')
  t.ok(lines.some(line => line.includes('FLEET_UPSTREAM_UNREACHABLE') && line.includes('"agent":"planner"')))
  t.notOk(lines.some(line => line.includes(auth.secret)))
})

t.test('when the application closes, the host\'s onClose hooks run once the gateway has ended', async t => {
  const agent = await fakeAgent(t)
  const order: string[] = []
  const audit = { write () {}, end () { order.push('gateway') } }
  const app = Fastify()
  app.addHook('onClose', async () => { order.push('host') })
  await app.register(fleetGateway, { rateLimit: { enabled: false }, prefix: '/fleet', auth, auditDestination: audit, agents: [agentAt('planner', agent)] })
  await app.inject({ url: '/fleet/api/planner/x', headers: token })

  await app.close()

  t.same(order, ['gateway', 'host'])
})

t.test('two applications in one process share nothing', async t => {
  const agent = await fakeAgent(t)
  const apps = [Fastify(), Fastify()] as const
  for (const app of apps) {
    t.teardown(() => app.close())
    await app.register(fleetGateway, { auditLog: { enabled: false }, rateLimit: { perMinute: 1, burst: 2 }, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  }
  const [one, two] = apps
  const get = (app: FastifyInstance, url: string) => app.inject({ url, headers: token })

  await one.inject({ method: 'POST', url: '/fleet/registry/register', headers: token, payload: { name: 'other', port: agent.port } })
  await get(one, '/fleet/api/planner/x')

  t.equal((await get(one, '/fleet/api/planner/x')).statusCode, 429, 'the bucket of one is empty')
  t.equal((await get(two, '/fleet/api/planner/x')).statusCode, 200, 'the bucket of the other is not')
  t.same(Object.keys((await two.inject('/fleet/health')).json().services), ['planner'])
  await one.close()
  t.equal((await two.inject('/fleet/health')).statusCode, 200)
})

t.test('its decorators are within reach of who calls it in a scope of their own', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(async fleet => {
    await fleetGateway(fleet, { ...quiet, auth })
    fleet.registry.register({ name: 'planner', host: agent.host, port: agent.port })
  }, { prefix: '/fleet' })

  t.match((await app.inject({ url: '/fleet/api/planner/x', headers: token })).json(), { url: '/x' })
  t.match((await app.inject('/fleet/nowhere')).json(), { code: 'FLEET_NOT_FOUND' })
  t.notOk(app.hasDecorator('registry'))
})

t.test('what a hook of the host throws is the host\'s to answer, under the prefix too', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRequest', async request => {
    if (request.headers['x-door'] === 'shut') throw Object.assign(new Error('the host is shut'), { statusCode: 401 })
  })
  app.setErrorHandler(async (error, _request, reply) => reply.code((error as FastifyError).statusCode ?? 500).send({ host: (error as Error).message }))
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth })

  for (const url of ['/fleet/health', '/fleet/api/planner/x', '/fleet/nowhere']) {
    const reply = await app.inject({ url, headers: { 'x-door': 'shut' } })
    t.same([reply.statusCode, reply.json()], [401, { host: 'the host is shut' }], url)
  }
  t.match((await app.inject('/fleet/agents')).json(), { code: 'FLEET_UNAUTHENTICATED' }, 'the gateway answers for itself')
})

t.test('a host with auth of its own: the gateway\'s is off, and tokens that are the host\'s stay with it', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(async scope => {
    scope.addHook('onRequest', async request => {
      if (request.headers.authorization !== 'Bearer a-token-of-ours') throw Object.assign(new Error('log in first'), { statusCode: 401 })
      request.authorizationIsGateways = request.headers['x-keep'] === undefined
    })
    const cors = { enabled: false, origins: ['https://app.example.com'] }
    await scope.register(fleetGateway, { ...quiet, prefix: '/fleet', auth: { enabled: false }, cors, agents: [agentAt('planner', agent)] })
  })
  const get = async (headers: Record<string, string>) => app.inject({ url: '/fleet/api/planner/x', headers })
  const ours = { authorization: 'Bearer a-token-of-ours', host: 'app.example.com' }

  t.same((await get({})).json(), { statusCode: 401, error: 'Unauthorized', message: 'log in first' })
  t.notMatch((await get(ours)).json().headers.join(), /authorization/i)
  t.match((await get({ ...ours, 'x-keep': 'yes' })).json().headers.join(), /authorization,Bearer a-token-of-ours/i)
  t.match((await get({ ...ours, origin: 'https://elsewhere.example.com' })).json(), { code: 'FLEET_FORBIDDEN' })
  t.match((await get({ ...ours, host: 'elsewhere.example.com' })).json(), { code: 'FLEET_FORBIDDEN' })
})

t.test('what the host put on the gateway\'s routes keeps its status', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  let status = 0
  app.addHook('onRoute', route => { // as @fastify/rate-limit does
    route.onRequest = async () => { throw Object.assign(new Error('no'), { statusCode: status }) }
  })
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth })

  const cases = [
    [401, 401, 'FLEET_UNAUTHENTICATED'],
    [403, 403, 'FLEET_FORBIDDEN'],
    [429, 429, 'FLEET_RATE_LIMITED'],
    [418, 418, 'FLEET_BAD_REQUEST'], // the catalogue has none of its own
    [503, 503, 'FLEET_INTERNAL']
  ] as const
  for (const [thrown, answered, code] of cases) {
    status = thrown
    t.match((await app.inject('/fleet/health')).json(), { status: answered, code }, String(thrown))
  }
})

t.test('the prefix may end in a slash, or be one', async t => {
  const agent = await fakeAgent(t)
  for (const prefix of ['/fleet/', '/']) {
    const app = Fastify()
    t.teardown(() => app.close())
    const path = prefix.slice(0, -1)
    await app.register(fleetGateway, { ...quiet, prefix, auth, agents: [agentAt('planner', agent)] })

    const registered = await app.inject({ method: 'POST', url: `${path}/registry/register`, headers: token, payload: { name: 'other', port: agent.port } })

    t.match(registered.headers.location, new RegExp(`^${path}/registry/other/instances/`))
    t.match((await app.inject({ url: `${path}/api/planner/x`, headers: token })).json(), { url: '/x' })
    t.match((await app.inject(`${path}/`)).json().routes[0], { path: `${path}/api/{agent}/{path}` })
  }
})

t.test('a prefix with parameters is refused', async t => {
  const app = Fastify()
  t.teardown(() => app.close())

  await t.rejects(async () => { await app.register(fleetGateway, { ...quiet, prefix: '/:tenant/fleet', auth }) }, /parameters .*\/:tenant\/fleet/)
})

t.test('the host\'s router options hold for the gateway\'s routes and leave agents\' paths alone', async t => {
  const agent = await fakeAgent(t)
  new WebSocketServer({ server: agent.server }).on('connection', socket => socket.send('the agent'))
  const app = Fastify({ routerOptions: { caseSensitive: false, ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, querystringParser: query => ({ all: query }) } })
  t.teardown(() => app.close())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('planner', agent)] })
  const get = async (url: string) => (await app.inject({ url, headers: token })).json()

  t.match(await get('/Fleet/AGENTS/'), { planner: Object })
  for (const path of ['/X/', '//x', '/x?a=1&A=2']) t.match(await get(`/FLEET/Api/planner${path}`), { url: path }, path)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = new WebSocket(`ws://127.0.0.1:${(app.server.address() as AddressInfo).port}/Fleet/API/planner/ws`, { headers: token })
  t.equal(String((await once(socket, 'message'))[0]), 'the agent')
  socket.terminate()
})

t.test('an HTTP/2 host is told at once that the gateway is not for it', async t => {
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())

  await t.rejects(async () => { await app.register(fleetGateway as never, { ...quiet, prefix: '/fleet', auth }) }, /without http2/)
  t.throws(() => Fastify({ ...serverOptions() as object, http2: true }), /leave http2 out/)
})

t.test('closing the application ends open event streams and tunnels instead of waiting for them', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n') })
  const rooms = new WebSocketServer({ server: agent.server })
  const app = Fastify(serverOptions())
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('a', agent)] })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const events = await rawClient(t, port)
  events.send('GET /fleet/api/a/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer fleet-secret-token\r\n\r\n')
  await events.until(/data: 1/)
  const socket = new WebSocket(`ws://127.0.0.1:${port}/fleet/api/a/ws`, { headers: token })
  const closed = once(socket, 'close')
  await Promise.all([once(rooms, 'connection'), once(socket, 'open')])

  await app.close()

  t.equal((await closed)[0], 1001)
  t.match(await events.closed(), /\r\n0\r\n\r\n$/)
})

t.test('registered without a prefix it leaves unknown paths to the host', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.setNotFoundHandler(async () => 'the host does not know')
  await app.register(fleetGateway, { ...quiet, auth })

  t.equal((await app.inject('/health')).statusCode, 200)
  t.equal((await app.inject('/nowhere')).body, 'the host does not know')
})

t.test('a configuration that is wrong stops the start and says where', async t => {
  const app = Fastify()
  t.teardown(() => app.close())

  await t.rejects(async () => { await app.register(fleetGateway, { ...quiet, auth, agents: [{ name: 'a', prot: 1 } as never] }) }, /agents\[0\]\.prot/)
  await t.rejects(async () => { await Fastify().register(fleetGateway, { ...quiet, auth: { enabled: true } }) }, /auth/)
})

t.test('a host with serverOptions() answers framing errors as the gateway does', async t => {
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  app.post('/own', async request => request.body)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo

  t.match(await rawRequest(t, port, 'GET / HTTP/1.1\r\n\r\n'), /^HTTP\/1\.1 400 [^]*FLEET_BAD_REQUEST/)
  t.match(await rawRequest(t, port, 'POST /own HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n{"a":1}'), /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 [^]*\{"a":1\}$/, 'Expect works for the host\'s own routes')
})

t.test('an application\'s own JSON parser, registered before, stays its own', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => done(null, { mine: String(body) }))
  app.post('/own', async request => request.body)
  await app.register(fleetGateway, { ...quiet, prefix: '/fleet', auth, agents: [agentAt('a', agent)] })

  t.same((await app.inject({ method: 'POST', url: '/own', payload: { a: 1 } })).json(), { mine: '{"a":1}' })
  t.match((await app.inject({ method: 'POST', url: '/fleet/api/a/x', headers: { ...token, 'content-type': 'application/json' }, payload: '{broken' })).json(), { body: '{broken' })
})

t.test('closing with a WebSocket open settles, also where nothing else keeps the process alive', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  const program = `
    import Fastify from 'fastify'
    import { fleetGateway, serverOptions } from 'fleet-gateway'
    const app = Fastify(serverOptions())
    await app.register(fleetGateway, { prefix: '/fleet', auth: { secret: 'fleet-secret-token' }, auditLog: { enabled: false }, agents: [{ name: 'a', host: '127.0.0.1', port: ${agent.port} }] })
    app.addHook('onClose', async () => console.log('own hook'))
    console.log(await app.listen({ port: 0, host: '127.0.0.1' }))
    process.once('SIGTERM', () => app.close().then(() => console.log('closed')))`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { cwd: fileURLToPath(new URL('../..', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => { output += chunk.toString() })
  await once(child.stdout, 'data')
  const socket = new WebSocket(`${output.trim().replace('http', 'ws')}/fleet/api/a/ws`, { headers: token })
  socket.on('error', () => {})
  await Promise.all([once(rooms, 'connection'), once(socket, 'open')])

  child.kill('SIGTERM')
  await once(child, 'close')

  t.match(output, /own hook\nclosed\n$/)
})
