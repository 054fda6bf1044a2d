import t from 'tap'
import { once } from 'node:events'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { buildGateway, startGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { rawClient } from '../helpers/raw-client.ts'

const json = { 'content-type': 'application/json' }

type Gateway = Awaited<ReturnType<typeof buildGateway>>

function register (gateway: Gateway, body: object | string, headers: Record<string, string> = json) {
  return gateway.inject({ method: 'POST', url: '/registry/register', headers, payload: body })
}

t.test('a registration is 201 with its Location, the same once more 200, and nothing is duplicated', async t => {
  const gateway = await buildGateway(t)

  const first = await register(gateway, { name: 'my-agent', host: 'localhost', port: 9000 })
  t.equal(first.statusCode, 201)
  t.match(first.json(), { message: 'registered my-agent', name: 'my-agent', instance: { host: 'localhost', port: 9000, healthy: true, state: 'up' } })
  t.equal(first.headers['location'], `/registry/my-agent/instances/${first.json().instance.id}`)

  const second = await register(gateway, { name: 'my-agent', port: 9000, metadata: { a: 1 }, friendly_names: ['mine'] })
  t.equal(second.statusCode, 200)
  t.match(second.json(), { message: 'registered my-agent', name: 'my-agent' })
  const third = await register(gateway, { name: 'my-agent', port: 9001 })
  t.equal(third.statusCode, 201)

  const registry = (await gateway.inject('/registry')).json()
  t.match(registry['my-agent'], { instances: [{ port: 9000, weight: 1, source: 'api', lease: null }, { port: 9001 }], friendly_names: ['mine'], metadata: { a: 1 }, policy: {} })
  const agents = (await gateway.inject('/agents')).json()
  t.match(agents, { 'my-agent': { status: 'healthy', instances: [{ host: 'localhost', state: 'up' }, {}] } })
  t.same((await gateway.inject('/agents/mine')).json().instances.length, 2, 'by alias')
  t.equal((await gateway.inject('/agents/nobody')).statusCode, 404)
})

t.test('each wrong field is named and nothing changes', async t => {
  const gateway = await buildGateway(t)
  const good = { name: 'a', host: 'localhost', port: 9000 }
  const table: [unknown, string][] = [
    [{ ...good, name: undefined }, 'name'], [{ ...good, name: '' }, 'name'], [{ ...good, name: '-a' }, 'name'], [{ ...good, name: 'a/b' }, 'name'], [{ ...good, name: 'x'.repeat(65) }, 'name'], [{ ...good, name: 5 }, 'name'], [{ ...good, name: '__proto__' }, 'name'],
    [{ ...good, port: undefined }, 'port'], [{ ...good, port: 0 }, 'port'], [{ ...good, port: 65_536 }, 'port'], [{ ...good, port: '9000' }, 'port'], [{ ...good, port: 1.5 }, 'port'], [{ ...good, port: null }, 'port'],
    [{ ...good, host: '' }, 'host'], [{ ...good, host: 'http://x' }, 'host'], [{ ...good, host: 'a b' }, 'host'], [{ ...good, host: 'a/b' }, 'host'], [{ ...good, host: 'a:80' }, 'host'], [{ ...good, host: 'u@a' }, 'host'],
    [{ ...good, host: '169.254.169.254' }, 'host'], [{ ...good, host: '0.0.0.0' }, 'host'], [{ ...good, host: '::' }, 'host'], [{ ...good, host: '224.0.0.1' }, 'host'], [{ ...good, host: 'fe80::1' }, 'host'],
    [{ ...good, host: '2130706433' }, 'host'], [{ ...good, host: '0x7f.1' }, 'host'], [{ ...good, host: '127.1' }, 'host'], [{ ...good, host: '::ffff:127.0.0.1' }, 'host'], [{ ...good, host: 'metadata.google.internal' }, 'host'],
    [{ ...good, protocol: 'ftp' }, 'protocol'], [{ ...good, aliases: 'x' }, 'aliases'], [{ ...good, aliases: ['a b'] }, 'aliases[0]'], [{ ...good, metadata: [] }, 'metadata'], [{ ...good, weight: 0 }, 'weight'],
    [{ ...good, ttl: -1 }, 'ttl'], [{ ...good, ttl: 'soon' }, 'ttl'], [{ ...good, timeout: 0 }, 'timeout'], [{ ...good, health: { path: 'x' } }, 'health.path'], [{ ...good, health: { pth: '/x' } }, 'health.pth'],
    [{ ...good, prot: 1 }, 'prot'], [{ ...good, forwardAuthorization: true }, 'forwardAuthorization'], [{ ...good, rateLimit: { enabled: false } }, 'rateLimit']
  ]
  for (const [body, path] of table) {
    const reply = await register(gateway, body as object)
    t.equal(reply.statusCode, 400, JSON.stringify(body))
    t.match(reply.json(), { code: 'FLEET_INVALID_REGISTRATION' })
    t.ok(reply.json().errors.some((error: { path: string }) => error.path === path), `${path} in ${JSON.stringify(reply.json().errors)}`)
  }
  t.match((await register(gateway, { ...good, prot: 1 })).body, /did you mean \\"port\\"|did you mean \\"protocol\\"/)
  t.same((await gateway.inject('/registry')).json(), {})
})

t.test('a body that is no JSON object is refused, in whatever form it comes', async t => {
  const gateway = await buildGateway(t)
  const table: [string, Record<string, string>][] = [
    ['{"name":', json], ['[]', json], ['5', json], ['null', json], ['', json], ['name=a&port=1', { 'content-type': 'application/x-www-form-urlencoded' }], ['{"name":"a","port":1}', { 'content-type': 'text/plain' }],
    ['{"name":"a","port":9000,"__proto__":{"x":1}}', json], ['{"name":"a","port":9000,"constructor":{"prototype":{}}}', json]
  ]
  for (const [body, headers] of table) {
    const reply = await register(gateway, body, headers)
    t.equal(reply.statusCode, 400, body)
    t.match(reply.json().code, /^FLEET_(BAD_REQUEST|INVALID_REGISTRATION)$/)
  }
  t.equal((await register(gateway, JSON.stringify({ name: 'a', port: 1, metadata: { x: 'x'.repeat(300_000) } }))).statusCode, 413)
  t.same((await gateway.inject('/registry')).json(), {})
})

t.test('metadata has bounds in bytes, depth and values, and a refusal changes nothing', async t => {
  const gateway = await buildGateway(t)
  const nested = (levels: number): object => levels === 1 ? {} : { a: nested(levels - 1) }
  const bytesOf = (metadata: object) => Buffer.byteLength(JSON.stringify(metadata))
  const filled = (bytes: number) => ({ text: 'x'.repeat(bytes - bytesOf({ text: '' })) })
  await register(gateway, { name: 'a', port: 9000, metadata: { first: true } })
  const before = (await gateway.inject('/registry')).body

  const table: [what: string, metadata: object, message: RegExp | null][] = [
    ['as long as may be', filled(16_384), null],
    ['a byte longer', filled(16_385), /^must not be longer than 16384 bytes as JSON \(got 16385\)$/],
    ['longer in UTF-8 than in characters', { text: '\u{1f600}'.repeat(4_096) }, /bytes/],
    ['as deep as may be', nested(16), null],
    ['a level deeper', nested(17), /^must not be nested deeper than 16 levels$/],
    ['as many fields as may be', Object.fromEntries(Array.from({ length: 512 }, (_, index) => [`k${index}`, 0])), null],
    ['a field more', Object.fromEntries(Array.from({ length: 513 }, (_, index) => [`k${index}`, 0])), /^must not have more than 512 values, those in lists and objects included \(got 513\)$/],
    ['as many in lists', { a: [...Array.from({ length: 255 }, () => [0]), 0] }, null],
    ['one more in a list', { a: [...Array.from({ length: 255 }, () => [0]), 0, 0] }, /values/]
  ]
  for (const [what, metadata, message] of table) {
    const reply = await register(gateway, { name: 'a', port: 9000, metadata })
    t.equal(reply.statusCode, message === null ? 200 : 400, what)
    if (message === null) {
      t.same((await gateway.inject('/agents/a')).json().metadata, metadata, what)
      await register(gateway, { name: 'a', port: 9000, metadata: { first: true } })
    } else {
      t.match(reply.json(), { code: 'FLEET_INVALID_REGISTRATION', errors: [{ path: 'metadata', message }] }, what)
      t.equal((await gateway.inject('/registry')).body, before, what)
    }
  }
  const trusted = await buildGateway(t, { agents: [{ name: 'a', port: 9000, metadata: filled(20_000) }] })
  t.equal(bytesOf((await trusted.inject('/agents/a')).json().metadata), 20_000, 'fleet.yaml may say more')
})

t.test('aliases, lists and paths of a registration have bounds', async t => {
  const gateway = await buildGateway(t)
  const names = (count: number) => Array.from({ length: count }, (_, index) => `alias-${index}`)
  const good = { name: 'a', port: 9000 }

  t.equal((await register(gateway, { ...good, aliases: names(32) })).statusCode, 201)
  for (const [path, fields] of [
    ['aliases', { aliases: names(33) }], ['friendly_names', { friendly_names: names(33) }], ['retry.statuses', { retry: { statuses: Array.from({ length: 101 }, () => 500) } }],
    ['health.path', { health: { path: `/${'x'.repeat(1_024)}` } }], ['paths', { paths: Array.from({ length: 101 }, (_, index) => ({ prefix: `/${index}`, timeouts: {} })) }], ['paths[0].prefix', { paths: [{ prefix: `/${'x'.repeat(256)}`, timeouts: {} }] }]
  ] as const) {
    const reply = await register(gateway, { ...good, ...fields })
    t.equal(reply.statusCode, 400, path)
    t.ok(reply.json().errors.some((error: { path: string }) => error.path === path), `${path} in ${reply.body}`)
  }
  t.equal(gateway.registry.get('a').aliases.length, 32)
  t.same(gateway.registry.get('a').policy, {})
})

t.test('names that objects know by heart are ordinary', async t => {
  const gateway = await buildGateway(t)

  for (const name of ['constructor', 'toString', 'hasOwnProperty', 'register']) t.equal((await register(gateway, { name, port: 9000 })).statusCode, 201, name)
  t.same(Object.keys((await gateway.inject('/agents')).json()), ['constructor', 'toString', 'hasOwnProperty', 'register'])
  t.same(Object.keys((await gateway.inject('/health')).json().services), ['constructor', 'toString', 'hasOwnProperty', 'register'])
  for (const name of ['constructor', 'register']) t.equal((await gateway.inject({ method: 'DELETE', url: `/registry/${name}` })).statusCode, 200)
})

t.test('a name or alias of another agent is a conflict', async t => {
  const gateway = await buildGateway(t)
  await register(gateway, { name: 'a', port: 9000, aliases: ['first'] })

  for (const body of [{ name: 'first', port: 9001 }, { name: 'b', port: 9001, aliases: ['a'] }, { name: 'b', port: 9001, aliases: ['first'] }, { name: 'b', port: 9001, friendly_names: ['free', 'a'] }]) {
    const reply = await register(gateway, body)
    t.match(reply.json(), { status: 409, code: 'FLEET_NAME_CONFLICT' })
  }
  t.same(Object.keys((await gateway.inject('/registry')).json()), ['a'])
  t.equal((await gateway.inject('/agents/free')).statusCode, 404, 'not even the free one was taken')
})

t.test('the gateway\'s own address is refused', async t => {
  const gateway = await startGateway(t)

  for (const host of ['127.0.0.1', 'localhost']) {
    const reply = await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: json, body: JSON.stringify({ name: 'self', host, port: gateway.port }) })
    t.equal(reply.status, 400, host)
  }
})

t.test('registry.allowedHosts narrows what may be registered', async t => {
  const gateway = await buildGateway(t, { registry: { allowedHosts: ['.internal', '10.0.0.0/8'] } })

  t.equal((await register(gateway, { name: 'a', host: 'db.internal', port: 1 })).statusCode, 201)
  t.equal((await register(gateway, { name: 'a', host: '10.1.2.3', port: 1 })).statusCode, 201)
  t.equal((await register(gateway, { name: 'a', host: 'localhost', port: 1 })).statusCode, 400)
})

t.test('a lease ends without a heartbeat, and a heartbeat renews it', async t => {
  const clock = fakeClock()
  const gateway = await buildGateway(t, { clock })
  const { instance, lease } = (await register(gateway, { name: 'leased', port: 9000, ttl: 10 })).json()
  t.equal(lease.ttl_seconds, 10)
  const url = `/registry/leased/instances/${instance.id}`

  clock.advance(8_000)
  const renewed = await gateway.inject({ method: 'PUT', url, headers: { 'content-type': 'application/json' } }) // as HTTP libraries do without a body, too
  t.equal(renewed.statusCode, 200)
  t.ok(renewed.json().lease.expires_at > lease.expires_at)
  clock.advance(8_000)
  t.equal((await gateway.inject('/registry')).json().leased.instances.length, 1)
  clock.advance(3_000)
  t.equal((await gateway.inject({ method: 'PUT', url })).statusCode, 404)
  t.match((await gateway.inject('/api/leased/x')).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
  clock.advance(600_000)
  t.match((await gateway.inject('/api/leased/x')).json(), { status: 404, code: 'FLEET_AGENT_NOT_FOUND' })
})

t.test('deregistration: the agent at once, one instance by address or id', async t => {
  const gateway = await buildGateway(t, { agents: [{ name: 'filed', port: 9100 }] })
  for (const port of [9000, 9001, 9002]) await register(gateway, { name: 'a', port })
  const remove = (url: string) => gateway.inject({ method: 'DELETE', url })

  t.same((await remove('/registry/a?host=LOCALHOST&port=9000&drain=false')).json(), { message: 'deregistered a' })
  t.equal((await remove('/registry/a?host=localhost&port=9000')).statusCode, 404)
  t.equal((await remove('/registry/a?host=localhost')).statusCode, 400)
  t.equal((await remove('/registry/a?host=localhost&port=x')).statusCode, 400)
  const [first] = (await gateway.inject('/registry')).json().a.instances
  t.equal((await remove(`/registry/a/instances/${first.id}`)).statusCode, 200)
  t.equal((await remove(`/registry/a/instances/${first.id}`)).statusCode, 404)
  for (const url of ['/registry/a?drain=true', '/registry/a?host=localhost&port=9001&drain=yes', `/registry/a/instances/${first.id}?drain=yes`]) t.equal((await remove(url)).statusCode, 400, url)
  t.match((await remove('/registry/a?host=localhost&port=9002&drain=true')).json(), { message: /^draining/, instance: { port: 9002, state: 'draining' } })
  t.match((await remove('/registry/a?host=localhost&port=9002')).json(), { message: 'deregistered a', note: /last instance: requests get 503/ })
  t.match((await gateway.inject('/api/a/x')).json(), { status: 503 })
  t.equal((await remove('/registry/a')).statusCode, 200)
  t.equal((await remove('/registry/a')).statusCode, 404)
  t.equal((await gateway.inject('/api/a/x')).statusCode, 404)
  t.match((await remove('/registry/filed')).json(), { message: 'deregistered filed', note: /fleet\.yaml/ })
  t.equal((await gateway.inject('/api/filed/x')).statusCode, 404)
})

t.test('a drained instance finishes what it has and is removed', async t => {
  const clock = fakeClock()
  const held: (() => void)[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(() => response.end('done')) })
  const gateway = await startGateway(t, { clock, agents: [{ name: 'a', port: agent.port, host: '127.0.0.1' }] })
  const pending = fetch(`${gateway.origin}/api/a/x`)
  await once(agent.server, 'request')
  const { id } = gateway.registry.get('a').instances[0]!

  const reply = await fetch(`${gateway.origin}/registry/a/instances/${id}?drain=true`, { method: 'DELETE' })
  t.match(await reply.json(), { message: `draining ${id} of a`, instance: { state: 'draining' } })
  clock.advance(1_000)
  t.equal(gateway.registry.get('a').instances.length, 1)
  t.equal((await fetch(`${gateway.origin}/api/a/x`)).status, 503)
  held[0]!()
  t.equal(await (await pending).text(), 'done')
  clock.advance(1_000)
  t.equal(gateway.registry.get('a').instances.length, 0)
})

t.test('a request whose body is still coming does not go to an instance that was deregistered meanwhile', async t => {
  const [gone, stays] = [await fakeAgent(t), await fakeAgent(t)]
  const gateway = await startGateway(t, { agents: [{ name: 'a', instances: [{ host: '127.0.0.1', port: gone.port }, { host: '127.0.0.1', port: stays.port }] }] })
  const begun = new Promise<void>(resolve => gateway.server.once('request', () => setImmediate(resolve)))
  const client = await rawClient(t, gateway.port)
  client.send('POST /api/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nh')
  await begun

  gateway.registry.removeInstance('a', gateway.registry.get('a').instances[0]!.id)
  client.send('i')

  t.match(await client.until(/"body":"hi"/), `"port":${stays.port}`)
  t.same(gone.requests, [])
})

t.test('registrations survive a restart, and a damaged file does not keep the gateway from starting', async t => {
  const stateDir = t.testdir()
  const options = { registry: { stateDir } }
  const first = await buildGateway(t, options)
  await register(first, { name: 'kept', port: 9000, aliases: ['k'], metadata: { a: 1 }, ttl: 60, timeout: 5 })
  await first.close()

  const second = await buildGateway(t, options)
  t.match((await second.inject('/registry')).json(), { kept: { instances: [{ port: 9000, lease: { ttl_seconds: 60 } }], friendly_names: ['k'], metadata: { a: 1 }, policy: { timeouts: { response: '5s' } } } })
  await second.close()
})

t.test('who drains leaves, also when it registers in vain just when that is looked at', async t => {
  const stateDir = join(t.testdir(), 'state')
  const clock = fakeClock()
  const gateway = await buildGateway(t, { registry: { stateDir }, clock, health: { interval: '1h' } })
  const { instance: { id } } = (await register(gateway, { name: 'a', port: 9000 })).json()
  const { runtime } = gateway.registry.instance('a', id)
  runtime.inFlight++
  await gateway.inject({ method: 'DELETE', url: `/registry/a/instances/${id}?drain=true` })
  await rm(stateDir, { recursive: true })
  await writeFile(stateDir, 'a file where the folder was')

  const refused = register(gateway, { name: 'a', port: 9000 })
  while (runtime.draining) await nextTurn()
  clock.advance(100)
  t.equal((await refused).statusCode, 503)
  t.equal(runtime.draining, true)
  runtime.inFlight--
  clock.advance(100)

  t.same(gateway.registry.get('a').instances, [])
})

t.test('what can\'t be kept is not acknowledged and not registered', async t => {
  const stateDir = join(t.testdir(), 'state')
  const gateway = await buildGateway(t, { registry: { stateDir } })
  t.equal((await register(gateway, { name: 'a', port: 9000 })).statusCode, 201)
  await rm(stateDir, { recursive: true })
  await writeFile(stateDir, 'a file where the folder was')

  const refused = await Promise.all([
    register(gateway, { name: 'a', port: 9001 }), register(gateway, { name: 'b', port: 9001 }), register(gateway, { name: 'b', port: 9002 })
  ])

  for (const { statusCode, headers, body } of refused) {
    t.equal(statusCode, 503)
    t.equal(headers['retry-after'], '10')
    t.match(JSON.parse(body), { code: 'FLEET_NOT_KEPT', detail: 'The registry can not be written to disk just now; the gateway\'s log says why' })
  }
  const registry = (await gateway.inject('/registry')).json()
  t.same(Object.keys(registry), ['a'])
  t.equal(registry.a.instances.length, 1)
})

t.test('/ is an index, in HTML for who prefers it', async t => {
  const gateway = await buildGateway(t)

  t.ok((await gateway.inject('/')).json().routes.some((route: { path: string }) => route.path === '/api/{agent}/{path}'))
  const page = await gateway.inject({ url: '/', headers: { accept: 'text/html,*/*' } })
  t.match(page.headers['content-type'], /^text\/html/)
  t.match(page.body, /\/registry\/register/)
  for (const [accept, type] of [['text/html;q=0.1, application/json', 'json'], ['text/html;q=0', 'json'], ['application/*, text/html;q=0.9', 'json'], ['*/*', 'json'], ['text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8', 'html'], ['TEXT/html', 'html']] as const) {
    t.match((await gateway.inject({ url: '/', headers: { accept } })).headers['content-type'], type, accept)
  }
})

t.test('keys see and change what they are allowed to', async t => {
  const keys = [
    { id: 'reader', token: 'reader-token', scopes: ['read' as const] }, { id: 'caller', token: 'caller-token', scopes: ['proxy' as const], agents: ['a'] },
    { id: 'registrar', token: 'registrar-token', scopes: ['register' as const], agents: ['a'] }, { id: 'boss', token: 'boss-token', scopes: ['admin' as const] }
  ]
  const port = await deadPort()
  const gateway = await buildGateway(t, { auth: { keys }, agents: [{ name: 'a', port, aliases: ['alias'] }, { name: 'b', port }] })
  const table: [string, 'GET' | 'POST' | 'DELETE', string, object | undefined, number][] = [
    ['reader', 'GET', '/agents', undefined, 200], ['reader', 'GET', '/api/a/x', undefined, 403], ['reader', 'POST', '/registry/register', { name: 'a', port: 1 }, 403],
    ['caller', 'GET', '/api/a/x', undefined, 502], ['caller', 'GET', '/api/alias/x', undefined, 502], ['caller', 'GET', '/api/b/x', undefined, 403], ['caller', 'GET', '/api/nobody/x', undefined, 403], ['caller', 'GET', '/stats', undefined, 403],
    ['registrar', 'POST', '/registry/register', { name: 'a', port: 1 }, 201], ['registrar', 'POST', '/registry/register', { name: 'b', port: 1 }, 403], ['registrar', 'DELETE', '/registry/b', undefined, 403],
    ['boss', 'GET', '/stats', undefined, 200], ['boss', 'GET', '/api/b/x', undefined, 502], ['boss', 'DELETE', '/registry/b', undefined, 200], ['nobody', 'GET', '/agents', undefined, 401]
  ]
  for (const [key, method, url, body, status] of table) {
    const reply = await gateway.inject({ method, url, headers: { authorization: `Bearer ${key}-token` }, ...(body && { payload: body }) })
    t.equal(reply.statusCode, status, `${key} ${method} ${url}`)
  }
})

t.test('a key for one agent reaches no other by odd spellings of the path', async t => {
  const port = await deadPort()
  const gateway = await buildGateway(t, { auth: { keys: [{ id: 'alpha', token: 'alpha-token', scopes: ['proxy'], agents: ['alpha'] }] }, agents: ['alpha', '9', 'i', '70i'].map(name => ({ name, port })) })

  for (const url of ['/ap%69/alpha/x', '/%61pi/alpha/x', '/a%70i/alpha/x', '/api%2Falpha/x', '/api/%61lpha/../9/x', '/api/alpha%2F..%2F9/x']) {
    const reply = await gateway.inject({ url, headers: { authorization: 'Bearer alpha-token' } })
    t.ok([400, 403, 404].includes(reply.statusCode), `${url} ${reply.statusCode}`)
  }
  t.equal((await gateway.inject({ url: '/api/%61lpha/x', headers: { authorization: 'Bearer alpha-token' } })).statusCode, 502)
})

t.test('whoever may only register can\'t place an instance where clients\' tokens are sent', async t => {
  const keys = [{ id: 'registrar', token: 'registrar-token', scopes: ['register' as const] }, { id: 'boss', token: 'boss-token', scopes: ['admin' as const] }]
  const gateway = await buildGateway(t, { auth: { keys }, agents: [{ name: 'trusted', port: 9000, forwardAuthorization: true }] })

  for (const [key, status] of [['registrar', 403], ['boss', 201]] as const) {
    t.equal((await register(gateway, { name: 'trusted', host: '127.0.0.1', port: 9001 }, { ...json, authorization: `Bearer ${key}-token` })).statusCode, status, key)
  }
})

t.test('an instance is trusted when fleet.yaml or an admin put it there', async t => {
  const keys = [{ id: 'registrar', token: 'registrar-token', scopes: ['register' as const] }, { id: 'boss', token: 'boss-token', scopes: ['admin' as const] }]
  const secret = 'a-shared-secret-that-is-long-enough'
  const gateway = await buildGateway(t, { auth: { keys, secret }, agents: [{ name: 'own', port: 9000 }] })

  for (const [port, token] of [[9001, 'registrar-token'], [9002, 'boss-token'], [9003, secret], [9002, 'registrar-token']] as const) {
    await register(gateway, { name: 'own', port }, { ...json, authorization: `Bearer ${token}` })
  }
  t.same(gateway.registry.get('own').instances.map(({ port, trusted }) => [port, trusted]), [[9000, true], [9001, false], [9002, true], [9003, true]])

  const withoutAuth = await buildGateway(t)
  await register(withoutAuth, { name: 'own', port: 9001 })
  t.equal(withoutAuth.registry.get('own').instances[0]?.trusted, true)
})

t.test('refusals come in order: 400, 404 and 405, 401, 403, 429, the agent\'s 404', async t => {
  const gateway = await buildGateway(t, { auth: { keys: [{ id: 'reader', token: 'reader-token', scopes: ['read'] }, { id: 'boss', token: 'boss-token', scopes: ['admin'] }] }, rateLimit: { enabled: true, burst: 1, perMinute: 1 } })
  const ask = async (url: string, token?: string, method: 'GET' | 'PUT' = 'GET') => (await gateway.inject({ method, url, headers: token === undefined ? {} : { authorization: `Bearer ${token}` } })).statusCode

  t.equal(await ask('/api/x/%00'), 400)
  t.equal(await ask('/nowhere'), 404)
  t.equal(await ask('/agents', undefined, 'PUT'), 405)
  t.equal(await ask('/agents'), 401)
  t.equal(await ask('/api/nobody/x', 'reader-token'), 403)
  t.equal(await ask('/api/nobody/x', 'boss-token'), 404)
  t.equal(await ask('/api/nobody/x', 'boss-token'), 429)
})
