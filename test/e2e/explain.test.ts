/** What /explain says is what then happens; and it moves nothing and asks no agent. */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import type { FastifyInstance } from 'fastify'
import Fastify from 'fastify'
import type { Explanation } from '../../plugins/explain/explanation.ts'
import { fleetGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, type FakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { rawClient } from '../helpers/raw-client.ts'

const secret = 'a-long-secret-token'
const admin = { authorization: `Bearer ${secret}` }
const auth = {
  secret,
  keys: [
    { id: 'reader', token: 'a-reading-token', scopes: ['read'] },
    { id: 'caller', token: 'a-calling-token', scopes: ['proxy', 'read'], agents: ['planner'], rateLimit: { perMinute: 60, burst: 7 } }
  ]
} satisfies FleetGatewayOptions['auth']

async function ask (gateway: FastifyInstance, method: string, path: string, { key, headers = admin }: { key?: string, headers?: Record<string, string> } = {}): Promise<Explanation> {
  const query = new URLSearchParams({ method, path, ...(key !== undefined && { key }) })
  const answer = await gateway.inject({ url: `/explain?${query}`, headers, remoteAddress: '127.0.0.1' })
  if (answer.statusCode !== 200) throw Object.assign(new Error(answer.body), answer.json<object>())
  return answer.json<Explanation>()
}

/** A gateway with one agent of so many instances. */
async function fleet (t: Test, count: number, options: object = {}, more: FleetGatewayOptions = {}): Promise<{ gateway: ListeningGateway, agents: FakeAgent[] }> {
  const agents = await Promise.all(Array.from({ length: count }, () => fakeAgent(t)))
  const gateway = await startGateway(t, { auth, agents: [{ ...agentAt('planner', ...agents), aliases: ['plan'], ...options }], ...unprobed, ...more })
  return { gateway, agents }
}

/** What neither fetch() nor inject() sends. */
async function trace (url: string): Promise<{ statusCode: number | undefined, json: <T>() => T }> {
  const asked = request(url, { method: 'TRACE', headers: admin }).end()
  const [response] = await once(asked, 'response') as [IncomingMessage]
  const body = await json(response)
  return { statusCode: response.statusCode, json: <T>() => body as T }
}

/** The port that a request reached. */
async function call (gateway: ListeningGateway, path = '/api/planner/x', init: RequestInit = {}): Promise<number> {
  const response = await fetch(gateway.origin + path, { ...init, headers: { ...admin, ...init.headers } })
  return ((await response.json()) as { port: number }).port
}

function portOf ({ instances }: Explanation, id: string | null): number | undefined {
  return instances.find(instance => instance.id === id)?.port
}

const balancers: [name: string, options: object][] = [
  ['round-robin', {}],
  ['weighted', { balancer: { policy: 'weighted' } }],
  ['least-requests', { balancer: { policy: 'least-requests' } }],
  ['hash', { balancer: { policy: 'hash' } }],
  ['round-robin with a slow start that is over for all alike', { balancer: { slowStart: '1ms' } }]
]

for (const [name, options] of balancers) {
  t.test(`${name}: the instance that is named is the one that is asked next, however often it was explained`, async t => {
    const { gateway, agents } = await fleet(t, 3, options)

    for (let turn = 0; turn < 7; turn++) {
      const explained = await ask(gateway, 'GET', '/api/planner/x')
      for (let again = 0; again < 3; again++) t.same((await ask(gateway, 'GET', '/api/planner/x')).next, explained.next)
      t.equal(await call(gateway), portOf(explained, explained.next!.instance), explained.next!.why)
    }

    t.equal(agents.reduce((sum, { requests }) => sum + requests.length, 0), 7, 'nothing else was sent')
  })
}

t.test('turns are what they would have been if nobody had asked', async t => {
  for (const options of [{}, { balancer: { policy: 'weighted' } }, { balancer: { policy: 'least-requests' } }]) {
    const { gateway, agents } = await fleet(t, 3, options)
    const order = agents.map(({ port }) => port)
    const took: number[] = []
    for (let turn = 0; turn < 6; turn++) {
      await ask(gateway, 'GET', '/api/planner/x')
      took.push(order.indexOf(await call(gateway)))
    }

    t.same(took, [0, 1, 2, 0, 1, 2])
  }
})

t.test('p2c: of several it says that nobody knows, of one it does', async t => {
  const { gateway, agents: [only] } = await fleet(t, 3, { balancer: { policy: 'p2c' } })

  const open = await ask(gateway, 'GET', '/api/planner/x')
  t.match(open.next, { instance: null, why: /drawn by lot \(p2c\)/ })
  t.equal(open.next!.candidates.length, 3)
  for (const instance of gateway.registry.get('planner').instances) if (instance.port !== only!.port) instance.runtime.health.up = false
  const certain = await ask(gateway, 'GET', '/api/planner/x')
  t.equal(portOf(certain, certain.next!.instance), only!.port)
  t.equal(await call(gateway), only!.port)
})

t.test('an application\'s own balancer is not asked in vain', async t => {
  let asked = 0
  const { gateway } = await fleet(t, 2, {}, {
    balancer: {
      pick ({ instances }) {
        asked++
        return instances[1]
      }
    }
  })

  const { next, policy } = await ask(gateway, 'GET', '/api/planner/x')

  t.match(next, { instance: null, candidates: { length: 2 }, why: /own balancer/ })
  t.same(policy!.balancer, { policy: 'the application\'s own' })
  t.equal(asked, 0)
})

t.test('instances that are down, draining, ejected or full say so, and when all are down they are tried all the same', async t => {
  const clock = fakeClock(1_000_000)
  const { gateway } = await fleet(t, 4, { concurrency: { max: 2 } }, { clock })
  const [down, draining, ejected, full] = gateway.registry.get('planner').instances
  down!.runtime.health.up = false
  down!.runtime.health.probeFailures = 3
  draining!.runtime.draining = true
  ejected!.runtime.health.ejectedUntil = clock.now() + 30_000
  ejected!.runtime.health.ejectedFor = 'answer'
  full!.runtime.inFlight = 2

  const { instances, next, refusal } = await ask(gateway, 'GET', '/api/planner/x')

  t.same(instances.map(({ available }) => available), [false, false, false, false])
  t.match(instances.map(({ why }) => why), [/probes fail \(3 in a row\)/, /it drains/, /ejected until 1970-01-01T00:17:10.000Z, since its answers were failures/, /full: 2 of 2/])
  t.equal(instances[2]!.ejected_until, '1970-01-01T00:17:10.000Z')
  t.match({ refusal, next }, { refusal: { status: 503, code: 'FLEET_AGENT_BUSY' }, next: null })
  full!.runtime.inFlight = 0
  full!.runtime.health.up = false
  const panic = await ask(gateway, 'GET', '/api/planner/x')
  t.match(panic, { refusal: null, next: { panic: true, candidates: { length: 3 }, why: /no instance is available, so all are tried/ } })
  t.equal(await call(gateway), portOf(panic, panic.next!.instance))
  full!.runtime.health.up = true
  full!.runtime.inFlight = 2
  clock.advance(30_000)
  const later = await ask(gateway, 'GET', '/api/planner/x')
  t.match(later.instances[2], { available: true, why: /its next request is the trial/ })
  t.match(later.next, { instance: ejected!.id, panic: false, why: /it is the only one that may be taken; it is the trial of that instance/ })
  t.equal(ejected!.runtime.health.trial, null, 'the trial is still to come')
  full!.runtime.inFlight = 0
})

t.test('each refusal is the one that the request then meets', async t => {
  const { gateway } = await fleet(t, 1, {}, { agents: undefined as never })
  const agent = await fakeAgent(t)
  gateway.registry.register({ name: 'planner', host: agent.host, port: agent.port })
  const { instance } = gateway.registry.register({ name: 'empty', host: 'localhost', port: 1 })
  gateway.registry.removeInstance('empty', instance.id)
  const tokens: Record<string, string> = { reader: 'a-reading-token', caller: 'a-calling-token' }
  const cases: [method: string, path: string, key?: string][] = [
    ['GET', '/nowhere'], ['DELETE', '/agents'], ['TRACE', '/api/planner/x'], ['GET', '/api/planner/..%2fx'], ['GET', '/api/planner/%zz'], ['GET', '/agents/none'], ['GET', '/api/planer/x'], ['GET', '/api/empty/x'],
    ['GET', '/api/planner/x', 'reader'], ['GET', '/api/other/x', 'caller'], ['POST', '/registry/register', 'caller'], ['GET', '/agents/other', 'caller'], ['GET', '/api/'],
    ['GET', '/api/planner/x', 'caller'], ['GET', '/stats'], ['GET', '/health'], ['GET', '/explain?path=/x'], ['GET', '/openapi.json'], ['PROPFIND', '/api/planner/x'],
    ['GET', '/agents/'], ['GET', '/agents/', 'caller'], ['POST', '/agents/'], ['GET', '/docs/'], ['GET', '/registry/'], ['DELETE', '/registry/'], ['DELETE', '/registry/', 'reader'],
    ['POST', '/registry//instances/x/probe'], ['GET', '/console/'], ['GET', '/health/'], ['GET', '/console/agents//history']
  ]

  for (const [method, path, key] of cases) {
    const { outcome, refusal } = await ask(gateway, method, path, key === undefined ? {} : { key })
    const answer = method === 'TRACE'
      ? await trace(gateway.origin + path)
      : await gateway.inject({ method: method as 'GET', url: path, headers: key === undefined ? admin : { authorization: `Bearer ${tokens[key]}` } })
    if (answer.statusCode! < 400) t.match({ outcome, refusal }, { outcome: path.startsWith('/api/') ? 'forwarded' : 'answered', refusal: null }, `${method} ${path} ${key}`)
    else t.match({ outcome, refusal }, { outcome: 'refused', refusal: { status: answer.statusCode, code: answer.json<{ code: string }>().code } }, `${method} ${path} ${key}`)
  }
})

t.test('a method that Node\'s parser does not know is refused as it refuses it', async t => {
  const { gateway } = await fleet(t, 1)

  for (const path of ['/api/planner/x', '/nowhere']) {
    const client = await rawClient(t, gateway.port)
    client.send(`FOO ${path} HTTP/1.1\r\nhost: x\r\n\r\n`)
    t.match(await client.closed(), /^HTTP\/1\.1 400 [^]*"detail":"The request is not valid HTTP"[^]*"code":"FLEET_BAD_REQUEST"/)
    t.match(await ask(gateway, 'FOO', path), { outcome: 'refused', refusal: { status: 400, code: 'FLEET_BAD_REQUEST', detail: 'The request is not valid HTTP: there is no method FOO' }, route: null })
  }
})

t.test('the policy is what holds for that path, method and key, and of headers only names are told', async t => {
  const { gateway } = await fleet(t, 1, {
    timeouts: { response: '20s' },
    paths: [{ prefix: '/chat', timeouts: { response: '5m' } }],
    retry: { statuses: [503] },
    headers: { Authorization: 'Bearer very-secret-token' },
    concurrency: { max: 3, queue: 2 }
  }, { rateLimit: { enabled: true } })

  const get = await ask(gateway, 'GET', '/api/plan/chat/1?a=b', { key: 'caller' })
  const post = await ask(gateway, 'POST', '/api/planner/other')

  t.match(get, {
    outcome: 'forwarded',
    route: { path: '/api/{agent}/{path}', needs: 'proxy' },
    key: { id: 'caller', agents: ['planner'] },
    rate_limit: { enabled: true, per_minute: 60, burst: 7, bucket: 'key caller' },
    agent: { name: 'planner', asked_as: 'plan', path: '/chat/1?a=b' },
    policy: { timeouts: { connect: '3s', response: '5m', total: null }, path_prefix: '/chat', retry: { statuses: [503], repeatable: true }, concurrency: { max: 3, queue: 2 }, headers: ['Authorization'] }
  })
  t.match(post, { rate_limit: { burst: 100, bucket: 'the client\'s address' }, policy: { timeouts: { response: '20s' }, path_prefix: null, retry: { repeatable: false, why: /only with an Idempotency-Key/ } } })
  t.notMatch(JSON.stringify([get, post]), 'very-secret')
})

t.test('another key may be asked for with admin alone, and a key that is limited to agents is told of those', async t => {
  const { gateway } = await fleet(t, 1)
  const caller = { authorization: 'Bearer a-calling-token' }
  await gateway.inject({ method: 'POST', url: '/registry/register', headers: admin, payload: { name: 'other', port: 9 } })

  await t.rejects(ask(gateway, 'GET', '/stats', { headers: caller, key: 'reader' }), { code: 'FLEET_FORBIDDEN' })
  await t.rejects(ask(gateway, 'GET', '/stats', { key: 'nobody' }), { code: 'FLEET_BAD_REQUEST' })
  await t.rejects(ask(gateway, 'GET', '', {}), { code: 'FLEET_BAD_REQUEST' })
  await t.rejects(ask(gateway, 'get it', '/x', {}), { code: 'FLEET_BAD_REQUEST' })
  t.match(await ask(gateway, 'GET', '/api/planner/x', { headers: caller, key: 'caller' }), { outcome: 'forwarded' })
  t.match(await ask(gateway, 'GET', '/api/other/x', { headers: caller }), { refusal: { status: 403 }, agent: null, instances: [], policy: null, next: null })
  t.equal((await gateway.inject('/explain?path=/x')).statusCode, 401)
})

t.test('a key that is limited to agents learns nothing of others by another key', async t => {
  const agent = await fakeAgent(t)
  const keys = [
    { id: 'some', token: 'token-of-some-admin', scopes: ['admin'], agents: ['planner'] },
    { id: 'all', token: 'token-of-all-admin', scopes: ['admin'] },
    { id: 'others', token: 'token-of-others', scopes: ['proxy'], agents: ['planner', 'secret-agent'] }
  ] satisfies NonNullable<FleetGatewayOptions['auth']>['keys']
  const gateway = await buildGateway(t, { auth: { keys }, agents: [agentAt('planner', agent), { ...agentAt('secret-agent', agent), aliases: ['hidden'] }], ...unprobed })
  const headers = { authorization: 'Bearer token-of-some-admin' }

  for (const path of ['/api/secret-agent/', '/api/secret-agnt/', '/api/hidden/', '/api/%73ecret-agent/', '/agents/secret-agnt', '/console/agents/hidde/history']) {
    await t.rejects(ask(gateway, 'GET', path, { headers, key: 'all' }), { code: 'FLEET_FORBIDDEN' }, path)
  }
  t.match(await ask(gateway, 'GET', '/api/planner/', { headers, key: 'all' }), { outcome: 'forwarded', key: { agents: '*' } })
  t.same((await ask(gateway, 'GET', '/stats', { headers, key: 'others' })).key.agents, ['planner'])
  t.same((await ask(gateway, 'GET', '/stats', { headers: { authorization: 'Bearer token-of-all-admin' }, key: 'others' })).key.agents, ['planner', 'secret-agent'])
})

t.test('however a path is encoded, it is explained as it is routed', async t => {
  const { gateway } = await fleet(t, 1)
  const paths = ['/%61udit', '/%61gents/planner', '/agents/pl%61nner', '/api/pl%61nner/x', '/ap%69/planner/x', '/api', '/api/', '/api//x', '/api/planner%2Fx', '/api/other%2Fx', '/api/planner%252Fx', '/%e4', '/agents/%E4', '/api/planner/%e4', '/api/planner/%25', '/a%25udit', '/a%2525udit', '/%2Faudit', '/audit%3F', '/agents/%25', '/nowhere/%e4']

  for (const token of ['a-long-secret-token', 'a-calling-token']) {
    const headers = { authorization: `Bearer ${token}` }
    for (const path of paths) {
      const { outcome, refusal } = await ask(gateway, 'GET', path, { headers })
      const { statusCode } = await gateway.inject({ url: path, headers })
      t.equal(outcome === 'refused' ? refusal!.status : 200, statusCode, `${path} with ${token}`)
    }
  }
})

t.test('what the parser refuses is refused in an explanation, too', async t => {
  const { gateway } = await fleet(t, 1)
  const { port } = gateway.server.address() as AddressInfo

  for (const target of ['/health?x=ä', '/api/planner/ä', '/api/planner/日本', '/nowhere/ä', '/api/planner/a b', '/api/planner/\u007f']) {
    t.match(await ask(gateway, 'GET', target), { outcome: 'refused', refusal: { status: 400, code: 'FLEET_BAD_REQUEST' } }, target)
    const client = await rawClient(t, port)
    client.send(Buffer.from(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`))
    t.match(await client.closed(), /^HTTP\/1\.1 400 /, target)
  }
})

t.test('under a prefix paths are said with or without it', async t => {
  const agent = await fakeAgent(t)
  const app = Fastify()
  t.teardown(() => app.close())
  app.get('/own', async () => 'mine')
  await app.register(fleetGateway, { prefix: '/fleet', auth, auditLog: { enabled: false }, agents: [agentAt('planner', agent)], ...unprobed })
  const explained = async (path: string) => (await app.inject({ url: `/fleet/explain?path=${encodeURIComponent(path)}`, headers: admin })).json<Explanation>()

  t.match(await explained('/api/planner/x'), { outcome: 'forwarded', target: '/fleet/api/planner/x' })
  t.match(await explained('/fleet/api/planner/x'), { outcome: 'forwarded', target: '/fleet/api/planner/x' })
  t.match(await explained('/own'), { outcome: 'refused', refusal: { status: 404 } })
  t.same(agent.requests, [])
})

t.test('with auth off everybody may ask, and there are no keys', async t => {
  const gateway = await buildGateway(t)

  t.match(await ask(gateway, 'GET', '/registry', { headers: {} }), { outcome: 'answered', key: { id: null } })
  await t.rejects(ask(gateway, 'GET', '/registry', { headers: {}, key: 'reader' }), { code: 'FLEET_BAD_REQUEST' })
})
