import type { AddressInfo } from 'node:net'
import fastifyRateLimit from '@fastify/rate-limit'
import Fastify, { type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type {} from '../../plugins/auth/index.ts'
import facts from '../../plugins/facts/index.ts'
import rateLimit, { type RateLimitPluginOptions } from '../../plugins/rate-limit/index.ts'
import registryPlugin from '../../plugins/registry/index.ts'
import { createAddressKeys } from '../../src/address-key.ts'
import type { AgentPolicy } from '../../src/fleet/agent.ts'
import type { Principal } from '../../src/principal.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

interface Setting extends RateLimitPluginOptions {
  /** Who makes a request, as auth would say. */
  principal?: (request: FastifyRequest) => Principal | null
  agents?: Record<string, AgentPolicy>
  trustProxy?: boolean
}

async function build (t: Test, { principal, agents, trustProxy = false, ...options }: Setting = {}) {
  const clock = fakeClock()
  const app = Fastify({ trustProxy })
  t.teardown(() => app.close())
  app.decorateRequest('principal', null)
  app.addHook('onRequest', async request => { request.principal = principal?.(request) ?? null })
  if (agents !== undefined) {
    await app.register(registryPlugin, { clock })
    for (const [name, policy] of Object.entries(agents)) app.registry.register({ name, aliases: [`${name}-alias`], host: 'localhost', port: 8501, policy })
  }
  await app.register(rateLimit, { clock, ...options })
  app.get('/', async () => 'ok')
  app.get('/free', { config: { fleet: { rateLimit: false } } }, async () => 'ok')
  app.all('/api/*', { config: { fleet: { scope: 'proxy' } } }, async () => 'ok')
  return { app, clock }
}

const named = (id: string, more: Partial<Principal> = {}): Principal => ({ id, named: true, scopes: ['read'], agents: '*', ...more })

t.test('a bucket holds burst requests, then it is 429 until a token is back', async t => {
  const { app, clock } = await build(t, { perMinute: 60, burst: 2 })

  t.equal((await app.inject('/')).statusCode, 200)
  t.equal((await app.inject('/')).statusCode, 200)
  const refused = await app.inject('/')

  t.match(refused.json(), { statusCode: 429, code: 'FLEET_RATE_LIMITED' })
  t.equal(refused.headers['retry-after'], '1')
  clock.advance(999)
  t.equal((await app.inject('/')).statusCode, 429)
  clock.advance(1)
  t.equal((await app.inject('/')).statusCode, 200)
  t.equal((await app.inject('/')).statusCode, 429)
})

t.test('every answer of a limited route says what is left', async t => {
  const { app } = await build(t)

  const reply = await app.inject('/')

  t.match(reply.headers, {
    'ratelimit-policy': '"default";q=100;w=10',
    ratelimit: '"default";r=99;t=1',
    'x-ratelimit-limit': '100',
    'x-ratelimit-remaining': '99',
    'x-ratelimit-reset': '1'
  })
})

t.test('a refusal says when to come back, in whole seconds', async t => {
  const { app } = await build(t, { perMinute: 4, burst: 1 })
  await app.inject('/')

  const refused = await app.inject('/')

  t.match(refused.headers, { 'ratelimit-policy': '"default";q=1;w=15', ratelimit: '"default";r=0;t=15', 'retry-after': '15', 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': '15' })
})

t.test('a quick refill still waits a whole second', async t => {
  const { app } = await build(t, { perMinute: 60_000, burst: 1 })
  await app.inject('/')

  const refused = await app.inject('/')

  t.equal(refused.statusCode, 429)
  t.equal(refused.headers['retry-after'], '1')
  t.equal(refused.headers['ratelimit-policy'], '"default";q=1;w=1')
})

t.test('a refill that takes no whole number of milliseconds is kept exactly', async t => {
  const { app, clock } = await build(t, { perMinute: 40_000, burst: 1 }) // a token in 1.5 ms
  await app.inject('/')

  clock.advance(1)
  t.equal((await app.inject('/')).statusCode, 429)
  clock.advance(1)
  t.equal((await app.inject('/')).statusCode, 200)
})

t.test('what is exempt, unknown or switched off is not counted and says nothing', async t => {
  const { app } = await build(t, { burst: 1 })
  for (const url of ['/free', '/free', '/nowhere', '/nowhere']) {
    const reply = await app.inject(url)
    t.not(reply.statusCode, 429)
    t.notOk(reply.headers['ratelimit'], url)
  }
  t.equal((await app.inject('/')).headers['x-ratelimit-remaining'], '0', 'the first that counts')

  const { app: unlimited } = await build(t, { enabled: false, burst: 1 })
  for (let count = 0; count < 3; count++) {
    const reply = await unlimited.inject('/')
    t.equal(reply.statusCode, 200)
    t.notOk(reply.headers['ratelimit'])
  }
})

t.test('a named key is a client wherever it comes from; the shared secret names nobody', async t => {
  const { app } = await build(t, {
    burst: 1,
    principal: ({ headers }) => headers['key'] === 'secret'
      ? { id: null, named: false, scopes: ['admin'], agents: '*' }
      : headers['key'] === undefined ? null : named(String(headers['key']))
  })
  const ask = async (remoteAddress: string, key?: string) => (await app.inject({ url: '/', remoteAddress, headers: key === undefined ? {} : { key } })).statusCode

  t.equal(await ask('192.0.2.1', 'a'), 200)
  t.equal(await ask('192.0.2.2', 'a'), 429, 'the same key')
  t.equal(await ask('192.0.2.1', 'b'), 200, 'another key')
  t.equal(await ask('192.0.2.1', 'secret'), 200)
  t.equal(await ask('192.0.2.1'), 429, 'the same address')
  t.equal(await ask('192.0.2.2', 'secret'), 200, 'another address')
  t.equal(await ask('192.0.2.9', '192.0.2.1'), 200, 'a key that is called like an address')
})

t.test('IPv6 clients are counted by their /64, IPv4-mapped ones as IPv4', async t => {
  const { app } = await build(t, { burst: 1 })
  const ask = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode

  t.equal(await ask('2001:db8:0:1::1'), 200)
  t.equal(await ask('2001:db8:0:1:ffff::2'), 429)
  t.equal(await ask('2001:db8:0:2::1'), 200)
  t.equal(await ask('192.0.2.7'), 200)
  t.equal(await ask('::ffff:192.0.2.7'), 429)
  t.equal(await ask('::ffff:c000:207'), 429)
})

t.test('addresses keep their name however many there are', async t => {
  const keyOf = createAddressKeys()

  t.equal(keyOf('192.0.2.1'), '192.0.2.1')
  t.equal(keyOf('2001:DB8::1'), keyOf('2001:db8::2'))
  t.equal(keyOf('fe80::1%eth0'), keyOf('fe80::2'))
  const first = keyOf('2001:db8:1::')
  for (let index = 0; index < 10_100; index++) keyOf(`2001:db8:1:1::${index.toString(16)}`)
  t.equal(keyOf('2001:db8:1::'), first)
})

t.test('the client is who request.facts says, behind trusted proxies', async t => {
  const clock = fakeClock()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(facts, { trustedProxies: ['127.0.0.1'] })
  await app.register(rateLimit, { clock, burst: 1 })
  app.get('/', async () => 'ok')
  const ask = async (client: string) => (await app.inject({ url: '/', headers: { 'x-forwarded-for': client } })).statusCode

  t.equal(await ask('198.51.100.1'), 200)
  t.equal(await ask('198.51.100.1'), 429)
  t.equal(await ask('198.51.100.2'), 200)
})

t.test('an agent with limits of its own has a bucket per client, under any of its names', async t => {
  const { app } = await build(t, {
    burst: 2,
    principal: ({ headers }) => headers['key'] === undefined ? null : named(String(headers['key'])),
    agents: { plain: {}, tight: { rateLimit: { burst: 1 } }, open: { rateLimit: { enabled: false } } }
  })
  const ask = async (url: string, key = 'a') => (await app.inject({ url, headers: { key } })).statusCode

  t.equal(await ask('/api/tight/x'), 200)
  t.equal(await ask('/api/tight-alias'), 429)
  t.equal(await ask('/api/%74ight/x'), 429)
  t.equal(await ask('/api/tight/x', 'b'), 200, 'another client')
  t.equal(await ask('/api/plain/x'), 200, 'the common bucket is untouched by that')
  t.equal(await ask('/api/unknown/x'), 200)
  t.equal(await ask('/'), 429, 'and is shared by everything else')
  for (let count = 0; count < 5; count++) t.equal(await ask('/api/open/x'), 200)
})

t.test('what an agent leaves out of its limits is the gateway\'s', async t => {
  const { app } = await build(t, { burst: 5, perMinute: 30, agents: { tight: { rateLimit: { perMinute: 60 } }, off: { rateLimit: { perMinute: 60 } } } })

  t.equal((await app.inject('/api/tight/')).headers['ratelimit-policy'], '"default";q=5;w=5')
})

t.test('an agent may be limited where the gateway is not', async t => {
  const { app } = await build(t, { enabled: false, agents: { limited: { rateLimit: { enabled: true, burst: 1 } }, other: { rateLimit: { burst: 1 } } } })

  t.equal((await app.inject('/api/limited/')).statusCode, 200)
  t.equal((await app.inject('/api/limited/')).statusCode, 429)
  t.equal((await app.inject('/api/other/')).statusCode, 200)
  t.equal((await app.inject('/api/other/')).statusCode, 200)
})

t.test('a key may have limits of its own, within those of an agent', async t => {
  const { app } = await build(t, {
    burst: 2,
    principal: () => named('big', { rateLimit: { burst: 50 } }),
    agents: { tight: { rateLimit: { burst: 1 } } }
  })

  t.equal((await app.inject('/')).headers['x-ratelimit-limit'], '50')
  t.equal((await app.inject('/api/tight/')).headers['x-ratelimit-limit'], '1')
})

t.test('new limits hold from the next request, and full stays full', async t => {
  const { app } = await build(t, { burst: 2 })
  await app.inject('/')
  await app.inject('/')

  app.rateLimiter.reconfigure({ burst: 1_000 })

  t.equal((await app.inject('/')).statusCode, 429, 'an empty bucket stays empty')
  t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).headers['x-ratelimit-remaining'], '999')
  app.rateLimiter.reconfigure({ enabled: false })
  t.equal((await app.inject('/')).statusCode, 200)
})

t.test('wrong limits are refused, at the start and later, and change nothing', async t => {
  await t.rejects(build(t, { burst: 0 }), { name: 'OptionsError', message: /rateLimit\.burst/ })
  const { app } = await build(t, { burst: 3 })

  t.throws(() => app.rateLimiter.reconfigure({ perMinute: -1 }), { name: 'OptionsError' })
  t.equal((await app.inject('/')).headers['x-ratelimit-limit'], '3')
})

t.test('buckets are bounded', async t => {
  const { app } = await build(t, { burst: 1, perMinute: 1, maxBuckets: 1 })
  const ask = async (remoteAddress: string) => (await app.inject({ url: '/', remoteAddress })).statusCode

  t.equal(await ask('192.0.2.1'), 200)
  t.equal(await ask('192.0.2.2'), 200)
  t.equal(await ask('192.0.2.1'), 200, 'it was forgotten')
})

t.test('an application with a rate limit of its own keeps it, beside ours', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyRateLimit, { global: false, max: 50 })
  await app.register(async scope => {
    await scope.register(rateLimit, { clock: fakeClock(), burst: 1, perMinute: 1 })
    scope.get('/ours', async () => 'ok')
  })
  app.get('/theirs', { config: { rateLimit: {} } }, async () => 'ok')

  t.equal((await app.inject('/ours')).headers['x-ratelimit-limit'], '1')
  t.equal((await app.inject('/ours')).statusCode, 429)
  t.equal((await app.inject('/theirs')).headers['x-ratelimit-limit'], '50')
  t.notOk((await app.inject('/theirs')).headers['ratelimit'])
})

t.test('a route may use @fastify/rate-limit by itself, over the same buckets', async t => {
  const { app } = await build(t, { burst: 10 })
  const limit = app.createRateLimit({ max: 1, timeWindow: 60_000, keyGenerator: () => 'login' })
  app.get('/login', { config: { fleet: { rateLimit: false } } }, async request => limit(request))

  t.match((await app.inject('/login')).json(), { isExceeded: false })
  t.match((await app.inject('/login')).json(), { isExceeded: true })
})

t.test('over a real socket', async t => {
  const { app } = await build(t, { burst: 1 })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}/`

  t.equal((await fetch(url)).status, 200)
  t.equal((await fetch(url)).status, 429)
})
