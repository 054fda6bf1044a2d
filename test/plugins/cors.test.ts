import fastifyCors from '@fastify/cors'
import Fastify, { type InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import cors, { type CorsPluginOptions } from '../../plugins/cors/index.ts'
import problem from '../../plugins/problem/index.ts'

async function build (t: Test, options: CorsPluginOptions = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(problem)
  await app.register(cors, options)
  app.addHook('onRequest', async (request, reply) => {
    if (request.is404 || request.routeOptions.config.fleet?.public) return
    if (request.headers.authorization === undefined) return reply.code(401).send('no token')
  })
  app.get('/agents', async () => 'agents')
  app.route({ method: ['GET', 'POST', 'OPTIONS'], url: '/api/*', handler: async request => `agent got ${request.method}` })
  return app
}

const preflight = (url: string, headers: Record<string, string> = {}): InjectOptions => ({
  method: 'OPTIONS', url, headers: { origin: 'https://app.example', 'access-control-request-method': 'PUT', ...headers }
})
const authorized = { authorization: 'Bearer x' }

t.test('a preflight is answered before auth, on any path', async t => {
  const app = await build(t)
  for (const url of ['/agents', '/api/planner/x', '/nowhere', '/']) {
    const reply = await app.inject(preflight(url, { 'access-control-request-headers': 'authorization, x-fleet-token' }))
    t.equal(reply.statusCode, 204, url)
    t.match(reply.headers, {
      'access-control-allow-origin': '*',
      'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS',
      'access-control-allow-headers': 'authorization, x-fleet-token'
    })
    t.equal(reply.body, '')
  }
})

t.test('an OPTIONS that is no preflight goes on', async t => {
  const app = await build(t)
  for (const headers of [{}, { origin: 'https://app.example' }, { 'access-control-request-method': 'GET' }]) {
    const toAgent = await app.inject({ method: 'OPTIONS', url: '/api/planner/x', headers: { ...headers, ...authorized } })
    t.equal(toAgent.statusCode, 200)
    t.equal(toAgent.body, 'agent got OPTIONS')
    t.equal(toAgent.headers['access-control-allow-origin'], '*')

    t.equal((await app.inject({ method: 'OPTIONS', url: '/api/planner/x', headers })).statusCode, 401, 'not past auth')
    t.match((await app.inject({ method: 'OPTIONS', url: '/nowhere', headers })).json(), { status: 404, code: 'FLEET_NOT_FOUND' })
    const known = await app.inject({ method: 'OPTIONS', url: '/agents', headers })
    t.match(known.json(), { status: 405 })
    t.equal(known.headers['allow'], 'GET, HEAD')
  }
})

t.test('answers let scripts of any origin read them, and say which headers', async t => {
  const app = await build(t)

  for (const url of ['/agents', '/nowhere']) {
    const { headers } = await app.inject({ url, headers: { origin: 'https://app.example', ...authorized } })
    t.equal(headers['access-control-allow-origin'], '*', url)
    t.equal(headers['access-control-allow-credentials'], undefined)
    t.equal(headers['vary'], undefined, 'every origin gets the same answer')
    for (const name of ['X-Request-Id', 'RateLimit', 'RateLimit-Policy', 'X-RateLimit-Remaining', 'Retry-After', 'Location', 'Proxy-Status', 'Link', 'ETag']) {
      t.ok(String(headers['access-control-expose-headers']).split(', ').includes(name), name)
    }
  }
  t.equal((await app.inject({ url: '/agents', headers: { origin: 'https://app.example' } })).headers['access-control-allow-origin'], '*', 'refusals too')
})

t.test('Vary of others stays', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRequest', async (_request, reply) => { reply.header('vary', 'Accept') })
  await app.register(cors)
  app.get('/', async () => 'ok')

  t.match((await app.inject('/')).headers['vary'], /Accept/)
})

t.test('named origins are told apart, and caches too', async t => {
  const app = await build(t, { origins: ['https://app.example', 'https://other.example'] })
  const ask = async (origin: string) => (await app.inject({ url: '/agents', headers: { origin, ...authorized } })).headers

  t.match(await ask('https://app.example'), { 'access-control-allow-origin': 'https://app.example', vary: 'Origin' })
  t.match(await ask('https://other.example'), { 'access-control-allow-origin': 'https://other.example', vary: 'Origin' })
  t.equal((await ask('https://evil.example'))['access-control-allow-origin'], undefined)
  t.equal((await ask('https://app.example.evil.example'))['access-control-allow-origin'], undefined)
  const refused = await app.inject(preflight('/agents', { origin: 'https://evil.example' }))
  t.equal(refused.statusCode, 204)
  t.equal(refused.headers['access-control-allow-origin'], undefined)
})

t.test('only loopback origins, for a gateway without auth', async t => {
  const app = await build(t, { loopbackOnly: true })
  const ask = async (origin: string) => (await app.inject({ url: '/agents', headers: { origin, ...authorized } })).headers['access-control-allow-origin']

  for (const origin of ['http://localhost:3000', 'http://127.0.0.1:5173', 'http://app.localhost', 'http://[::1]:9001', 'https://localhost']) {
    t.equal(await ask(origin), origin)
  }
  for (const origin of ['https://evil.example', 'http://localhost.evil.example', 'http://evil-localhost', 'http://127.0.0.1.evil.example', 'null', 'http://localhost:80@evil.example']) {
    t.equal(await ask(origin), undefined, origin)
  }
})

t.test('methods, headers, credentials and age are as configured', async t => {
  const app = await build(t, { origins: ['https://app.example'], methods: ['GET', 'PROPFIND'], headers: ['authorization', 'depth'], credentials: true, maxAge: '10m' })

  const { headers } = await app.inject(preflight('/agents', { 'access-control-request-headers': 'x-anything' }))

  t.match(headers, {
    'access-control-allow-methods': 'GET, PROPFIND',
    'access-control-allow-headers': 'authorization, depth',
    'access-control-allow-credentials': 'true',
    'access-control-max-age': '600'
  })
})

t.test('credentials for everybody are refused', async t => {
  await t.rejects(build(t, { credentials: true }), { name: 'OptionsError', message: /^cors\.credentials / })
  await t.rejects(build(t, { credentials: true, origins: ['https://app.example', '*'] }), { name: 'OptionsError' })
  await t.rejects(build(t, { credentials: true, origins: ['null', 'https://app.example'] }), { name: 'OptionsError' }, 'every page can have that origin, in a sandboxed frame')
  await t.resolves(build(t, { credentials: true, loopbackOnly: true }))
})

t.test('switched off it does nothing but say so', async t => {
  const app = await build(t, { enabled: false })

  t.equal(app.corsEnabled, false)
  const reply = await app.inject({ ...preflight('/agents'), headers: { ...authorized, origin: 'https://app.example', 'access-control-request-method': 'GET' } })
  t.equal(reply.statusCode, 405)
  t.equal(reply.headers['access-control-allow-origin'], undefined)
  t.equal((await build(t)).corsEnabled, true)
})

t.test('it is switched and changed while it runs, and what is wrong changes nothing', async t => {
  const app = await build(t)
  const allowed = async () => (await app.inject({ url: '/agents', headers: { origin: 'https://app.example', ...authorized } })).headers['access-control-allow-origin']

  app.cors.reconfigure({ origins: ['https://other.example'] })
  t.equal(await allowed(), undefined)
  t.throws(() => app.cors.reconfigure({ credentials: true }), { name: 'OptionsError', problems: [{ path: 'cors.credentials' }] })
  const apply = app.cors.prepare({ credentials: true, origins: ['https://app.example'] })
  t.equal(await allowed(), undefined, 'not yet')
  apply()
  t.equal(await allowed(), 'https://app.example')

  app.cors.reconfigure({ enabled: false })
  t.same([app.corsEnabled, await allowed(), (await app.inject(preflight('/agents'))).statusCode], [false, undefined, 405])
  app.cors.reconfigure({})
  t.same([app.corsEnabled, await allowed(), (await app.inject(preflight('/agents'))).statusCode], [true, '*', 204])
})

t.test('what was off at the start is switched on only where its route may be', async t => {
  const [fixed, switchable] = [await build(t, { enabled: false }), await build(t, { enabled: false, switchable: true })]

  t.same([fixed.cors.switchable, switchable.cors.switchable], [false, true])
  t.throws(() => fixed.cors.reconfigure({}), { name: 'OptionsError', problems: [{ path: 'cors.enabled' }] })
  t.equal((await switchable.inject(preflight('/nowhere'))).statusCode, 404)
  switchable.cors.reconfigure({})
  t.equal((await switchable.inject(preflight('/nowhere'))).statusCode, 204)
})

t.test('its route is public and unlimited, and no other is', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const seen: unknown[] = []
  await app.register(cors)
  app.addHook('onRequest', async request => { seen.push(request.routeOptions.config.fleet) })
  app.options('/mine', async () => 'ok')

  await app.inject({ method: 'OPTIONS', url: '/nowhere' })
  await app.inject({ method: 'OPTIONS', url: '/mine' })

  t.same(seen, [{ public: true, rateLimit: false, isForPreflights: true }, undefined])
})

t.test('an application with @fastify/cors of its own can have the gateway under a prefix', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyCors, { origin: ['https://host.example'] })
  app.get('/', async () => 'host')
  await app.register(async scope => {
    await scope.register(cors, { origins: ['https://app.example'] })
    scope.get('/agents', async () => 'agents')
  }, { prefix: '/fleet' })

  const ours = await app.inject({ url: '/fleet/agents', headers: { origin: 'https://app.example' } })
  const theirs = await app.inject({ url: '/', headers: { origin: 'https://host.example' } })

  t.equal(ours.headers['access-control-allow-origin'], 'https://app.example')
  t.equal(theirs.headers['access-control-allow-origin'], 'https://host.example')
  t.equal((await app.inject({ url: '/', headers: { origin: 'https://app.example' } })).headers['access-control-allow-origin'], undefined)
})
