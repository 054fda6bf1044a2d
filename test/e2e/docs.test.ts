/** The OpenAPI document is true: it has every route and no other, and what the gateway answers is what it says. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import fastifySwagger from '@fastify/swagger'
import Fastify from 'fastify'
import { readAgentDocument } from '../../plugins/docs/agent-document.ts'
import { fleetGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { deadPort, fakeAgent, type FakeAgent } from '../helpers/fake-agent.ts'
import { answerProblems, documentProblems, valueProblems, type OpenApi } from '../helpers/openapi.ts'

const secret = 'a-long-secret-token'
const headers = { authorization: `Bearer ${secret}` }
const auth = { secret, keys: [{ id: 'reader', token: 'a-reading-token', scopes: ['read'], agents: ['planner'] }, { id: 'caller', token: 'a-calling-token', scopes: ['proxy'] }] } satisfies FleetGatewayOptions['auth']

interface Asked { inject (options: { url: string, headers?: Record<string, string> }): Promise<{ statusCode: number, body: string, json (): unknown }> }

async function documentOf (gateway: Asked, url = '/openapi.json'): Promise<OpenApi> {
  const answer = await gateway.inject({ url, headers })
  if (answer.statusCode !== 200) throw new Error(answer.body)
  return answer.json() as OpenApi
}

/** An agent whose `GET /openapi.json` is answered with this. */
async function describing (t: Test, document: unknown): Promise<FakeAgent> {
  return await fakeAgent(t, (request, response) => {
    response.setHeader('content-type', 'application/json')
    if (request.url === '/openapi.json') response.end(typeof document === 'string' ? document : JSON.stringify(document))
    else response.end('{}')
  })
}

const plannerDocument = {
  openapi: '3.1.0',
  info: { title: 'Planner', version: '2.1' },
  servers: [{ url: 'https://planner.example.com' }],
  paths: {
    '/plans': { get: { summary: 'All plans', responses: { 200: { description: 'ok', content: { 'application/json': { schema: { $ref: '#/components/schemas/Plan' } } } } } } },
    '/plans/{id}': { delete: { parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }], responses: { 204: { description: 'gone' } } } }
  },
  components: { schemas: { Plan: { type: 'object' } } }
}

t.test('the document is valid OpenAPI 3.1, on its own and with agents', async t => {
  const agent = await describing(t, plannerDocument)
  const gateway = await buildGateway(t, { auth, agents: [agentAt('planner', agent)], ...unprobed })

  const document = await documentOf(gateway)

  t.match(document.openapi, /^3\.1\./)
  t.same(documentProblems(document), [])
  t.same(documentProblems(await documentOf(gateway, '/openapi.json?agent=planner')), [])
})

t.test('every route is in the document, and nothing else', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const routes = new Set<string>()
  app.addHook('onRoute', ({ url, method, config }) => {
    const isPart = (config as { openapi?: unknown } | undefined)?.openapi === false || url.endsWith('*') || config?.fleet?.scope === 'proxy'
    const path = url.slice('/fleet'.length).replaceAll(/:(\w+)/g, '{$1}')
    for (const name of [method].flat()) if (name !== 'HEAD' && !isPart) routes.add(`${name} ${path === '' ? '/' : path}`)
  })
  await app.register(fleetGateway, { prefix: '/fleet', auth, auditLog: { enabled: false } })

  const document = await documentOf(app, '/fleet/openapi.json')

  const described = Object.entries(document.paths).flatMap(([path, item]) => Object.keys(item).map(method => `${method.toUpperCase()} ${path}`))
  const calls = ['GET', 'PUT', 'POST', 'DELETE', 'OPTIONS', 'HEAD', 'PATCH'].flatMap(method => [`${method} /api/{agent}`, `${method} /api/{agent}/{path}`])
  t.same(described.sort(), [...routes, ...calls].sort())
  t.ok(routes.size > 12)
  for (const [path, item] of Object.entries(document.paths)) for (const [method, operation] of Object.entries(item)) t.ok(operation.summary, `${method} ${path} has a summary`)
})

t.test('what the gateway answers is what the document says, field by field', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth, agents: [{ ...agentAt('planner', agent), aliases: ['plan'], timeouts: { response: '2m' }, metadata: { about: 'plans' } }], ...unprobed })
  const document = await documentOf(gateway)
  const register = (payload: object) => ({ method: 'POST', url: '/registry/register', payload } as const)
  const registered = await gateway.inject({ ...register({ name: 'other', port: 9, ttl: 60 }), headers })
  const { instance: { id } } = registered.json<{ instance: { id: string } }>()
  const at = `/registry/other/instances/${id}`
  await gateway.inject({ url: '/api/planner/x', headers })

  const asked: [operation: string, request: { method?: 'GET' | 'POST' | 'PUT' | 'DELETE', url: string, headers?: Record<string, string>, payload?: object }, status: number][] = [
    ['GET /', { url: '/' }, 200],
    ['GET /health', { url: '/health', headers: {} }, 200],
    ['GET /health', { url: '/health' }, 200],
    ['GET /health/live', { url: '/health/live' }, 200],
    ['GET /health/ready', { url: '/health/ready' }, 200],
    ['GET /agents', { url: '/agents' }, 200],
    ['GET /agents', { url: '/agents', headers: {} }, 401],
    ['GET /agents', { url: '/agents', headers: { authorization: 'Bearer a-calling-token' } }, 403],
    ['GET /agents/{name}', { url: '/agents/plan' }, 200],
    ['GET /agents/{name}', { url: '/agents/planer' }, 404],
    ['GET /registry', { url: '/registry' }, 200],
    ['GET /stats', { url: '/stats' }, 200],
    ['GET /explain', { url: '/explain?path=/api/plan/x' }, 200],
    ['GET /explain', { url: '/explain?method=POST&path=/api/other/x&key=reader' }, 200],
    ['GET /explain', { url: '/explain?path=/nowhere' }, 200],
    ['GET /explain', { url: '/explain' }, 400],
    ['GET /metrics', { url: '/metrics' }, 200],
    ['GET /audit', { url: '/audit?agent=plan&status=2xx,4xx&since=5m&limit=10' }, 200],
    ['GET /audit', { url: '/audit?limit=many' }, 400],
    ['GET /openapi.json', { url: '/openapi.json' }, 200],
    ['GET /openapi.json', { url: '/openapi.json?agent=planner' }, 404],
    ['GET /docs', { url: '/docs' }, 200],
    ['GET /console/', { url: '/console/' }, 200],
    ['POST /registry/register', register({ name: 'other', port: 10, ttl: 60 }), 201],
    ['POST /registry/register', register({ name: 'other', port: 10 }), 200],
    ['POST /registry/register', register({ name: 'third', port: 11 }), 201],
    ['POST /registry/register', register({ name: 'my agent', prot: 11 }), 400],
    ['POST /registry/register', register({ name: 'plan', port: 11 }), 409],
    ['POST /registry/register', register({ name: 'big', port: 11, metadata: { text: 'x'.repeat(300_000) } }), 413],
    ['PUT /registry/{name}/instances/{id}', { method: 'PUT', url: at }, 200],
    ['PUT /registry/{name}/instances/{id}', { method: 'PUT', url: '/registry/other/instances/none' }, 404],
    ['POST /registry/{name}/instances/{id}/probe', { method: 'POST', url: `${at}/probe` }, 200],
    ['DELETE /registry/{name}/instances/{id}', { method: 'DELETE', url: `${at}?drain=perhaps` }, 400],
    ['DELETE /registry/{name}/instances/{id}', { method: 'DELETE', url: `${at}?drain=true` }, 200],
    ['DELETE /registry/{name}/instances/{id}', { method: 'DELETE', url: at }, 200],
    ['DELETE /registry/{name}', { method: 'DELETE', url: '/registry/other' }, 200],
    ['DELETE /registry/{name}', { method: 'DELETE', url: '/registry/planner' }, 200],
    ['DELETE /registry/{name}', { method: 'DELETE', url: '/registry/planner' }, 404],
    ['GET /api/{agent}/{path}', { url: '/api/none/x' }, 404],
    ['DELETE /keys/{id}', { method: 'DELETE', url: '/keys/reder' }, 404],
    ['DELETE /keys/{id}', { method: 'DELETE', url: '/keys/reader' }, 200],
    ['GET /keys', { url: '/keys' }, 200],
    ['GET /keys', { url: '/keys', headers: { authorization: 'Bearer a-calling-token' } }, 403]
  ]

  const seen = new Set<string>()
  for (const [operation, request, status] of asked) {
    const answer = await gateway.inject({ headers, ...request })
    seen.add(operation)
    t.equal(answer.statusCode, status, `${operation} ${request.url}`)
    t.same(answerProblems(document, operation, answer), [])
  }
  const unseen = Object.entries(document.paths).flatMap(([path, item]) => Object.keys(item).map(method => `${method.toUpperCase()} ${path}`)).filter(operation => !seen.has(operation) && !operation.includes('/api/'))
  t.same(unseen, [], 'each route was asked')
})

t.test('an answer that runs into a limit, or a gateway that ends, is described, too', async t => {
  const gateway = await startGateway(t, { auth, rateLimit: { enabled: true, burst: 1, perMinute: 1 }, agents: [{ name: 'gone', port: await deadPort() }], ...unprobed })
  const document = gateway.docs.document() as unknown as OpenApi
  await gateway.inject({ url: '/agents', headers })

  const limited = await gateway.inject({ url: '/agents', headers })
  const unreachable = await gateway.inject({ url: '/api/gone/x', headers: { authorization: 'Bearer a-calling-token' } })

  t.equal(limited.statusCode, 429)
  t.same(answerProblems(document, 'GET /agents', limited), [])
  t.equal(unreachable.statusCode, 502)
  t.same(answerProblems(document, 'GET /api/{agent}/{path}', unreachable), [])
})

t.test('each example of the document is what its schema says', async t => {
  const gateway = await buildGateway(t, { auth })
  const document = await documentOf(gateway)
  let examples = 0

  for (const [path, item] of Object.entries(document.paths)) {
    for (const [method, { responses, requestBody }] of Object.entries(item)) {
      const media = [...Object.values(responses), ...(requestBody === undefined ? [] : [requestBody])].flatMap(part => Object.values((part as { content?: Record<string, { schema: object, example?: unknown, examples?: Record<string, { value: unknown }> }> }).content ?? {}))
      for (const { schema, example, examples: named = {} } of media) {
        for (const value of [...(example === undefined ? [] : [example]), ...Object.values(named).map(({ value }) => value)]) {
          examples++
          t.same(valueProblems(document, schema, value), [], `${method} ${path}`)
        }
      }
    }
  }
  t.ok(examples > 100)
})

t.test('the body of a registration is described as it is checked', async t => {
  const gateway = await buildGateway(t, { auth })
  const document = await documentOf(gateway)
  const bodies = [
    { name: 'a', port: 1 }, { name: 'a', port: 1, ttl: '30s' }, { name: 'a', port: 1, timeouts: { idle: 5 } }, { name: 'a', port: 1, balancer: { policy: 'p2c' } }, { name: 'a', port: 1, metadata: { x: [1] } },
    {}, { name: 'a' }, { name: 'a', port: 0 }, { name: 'a', port: '1' }, { name: 'a b', port: 1 }, { name: 'a', port: 1, protocol: 'ftp' }, { name: 'a', port: 1, weight: 0 }, { name: 'a', port: 1, prot: 1 },
    { name: 'a', port: 1, headers: {} }, { name: 'a', port: 1, ttl: true }, { name: 'a', port: 1, balancer: { policy: 'random' } }, { name: 'a', port: 1, aliases: 'b' }
  ]

  for (const payload of bodies) {
    const { statusCode } = await gateway.inject({ method: 'POST', url: '/registry/register', payload, headers })
    const wrong = valueProblems(document, document.components.schemas['Registration']!, payload)
    t.equal(wrong.length === 0, statusCode < 400, JSON.stringify(payload))
  }
})

t.test('the document needs read, the page needs nothing, and docs: {enabled: false} removes both', async t => {
  const gateway = await buildGateway(t, { auth })
  const without = await buildGateway(t, { auth, docs: { enabled: false } })

  t.equal((await gateway.inject('/openapi.json')).statusCode, 401)
  t.equal((await gateway.inject({ url: '/openapi.json', headers: { authorization: 'Bearer a-calling-token' } })).statusCode, 403)
  t.equal((await gateway.inject({ url: '/openapi.json', headers: { authorization: 'Bearer a-reading-token' } })).statusCode, 200)
  t.equal((await gateway.inject('/docs')).statusCode, 200)
  for (const url of ['/openapi.json', '/docs', '/docs/docs.js']) t.equal((await without.inject({ url, headers })).statusCode, 404, url)
  const paths = async (from: Asked) => ((await from.inject({ url: '/' })).json() as { routes: { path: string }[] }).routes.map(({ path }) => path)
  t.ok((await paths(gateway)).includes('/openapi.json') && (await paths(gateway)).includes('/docs'))
  t.notOk((await paths(without)).includes('/openapi.json') || (await paths(without)).includes('/docs'))
})

t.test('agents that describe themselves are listed with their paths under /api, and have a document of their own', async t => {
  const planner = await describing(t, plannerDocument)
  const silent = await fakeAgent(t, (_request, response) => response.writeHead(404).end())
  const gateway = await buildGateway(t, { auth, agents: [{ ...agentAt('planner', planner), aliases: ['plan'] }, agentAt('silent', silent), { name: 'gone', port: await deadPort() }], ...unprobed })

  const document = await documentOf(gateway)
  const own = await documentOf(gateway, '/openapi.json?agent=plan')

  t.match(document.paths['/api/planner/plans'], { get: { summary: 'All plans', tags: ['agent planner'] } })
  t.match(document.paths['/api/planner/plans/{id}'], { delete: { parameters: [{ name: 'id', in: 'path', required: true }] } })
  t.same(document['x-fleet-agents'], {
    planner: { document: '/openapi.json?agent=planner', title: 'Planner', version: '2.1' },
    silent: { problem: 'GET /openapi.json answers with status 404' },
    gone: { problem: 'GET /openapi.json does not answer' }
  })
  t.same(own.servers, [{ url: '/api/planner' }])
  t.same(Object.keys(own.paths), ['/plans', '/plans/{id}'])
  t.same(own.components.schemas, { Plan: { type: 'object' } })
  t.match(own.components.securitySchemes, { fleetToken: { name: 'X-Fleet-Token' } })
  t.same(planner.requests, ['GET /openapi.json'], 'asked once, and kept')
})

t.test('a key that is limited to agents sees those alone', async t => {
  const [planner, other] = [await describing(t, plannerDocument), await describing(t, plannerDocument)]
  const gateway = await buildGateway(t, { auth, agents: [agentAt('planner', planner), { ...agentAt('other', other), aliases: ['other-alias'] }], ...unprobed })
  const reader = { authorization: 'Bearer a-reading-token' }

  const document = (await gateway.inject({ url: '/openapi.json', headers: reader })).json<OpenApi>()
  const refused = await gateway.inject({ url: '/openapi.json?agent=other', headers: reader })

  for (const name of ['othr', 'other-aliass', 'nobody']) {
    const unknown = await gateway.inject({ url: `/openapi.json?agent=${name}`, headers: reader })
    t.equal(unknown.statusCode, 403, 'a name that nobody has leads to no other')
    t.notMatch(unknown.body, /"other/)
  }
  t.same(Object.keys(document['x-fleet-agents']), ['planner'])
  t.notOk(Object.keys(document.paths).some(path => path.startsWith('/api/other')))
  t.equal(refused.statusCode, 403)
  t.same(other.requests, [])
})

t.test('an agent\'s document is asked for with the agent\'s own headers, is bounded, and redirects lead nowhere', async t => {
  const seen: unknown[] = []
  const wanting = await fakeAgent(t, (request, response) => {
    seen.push(request.headers.authorization)
    response.end(JSON.stringify(plannerDocument))
  })
  const elsewhere = await describing(t, plannerDocument)
  const redirecting = await fakeAgent(t, (_request, response) => response.writeHead(302, { location: `${elsewhere.origin}/openapi.json` }).end())
  const large = await describing(t, JSON.stringify({ ...plannerDocument, info: { title: 'x'.repeat(1024 * 1024), version: '1' } }))
  const others = { broken: '{', page: '<html>', swagger: { swagger: '2.0' }, deep: `{"openapi":"3.1.0","x":${'['.repeat(50_000)}${']'.repeat(50_000)}}` }
  const agents = await Promise.all(Object.entries(others).map(async ([name, body]) => agentAt(name, await describing(t, body))))
  const gateway = await buildGateway(t, { auth, agents: [{ ...agentAt('wanting', wanting), headers: { Authorization: 'Basic abc' } }, agentAt('redirecting', redirecting), agentAt('large', large), ...agents], ...unprobed })

  const { 'x-fleet-agents': found } = await documentOf(gateway)

  t.match(found['wanting'], { title: 'Planner' })
  t.same(seen, ['Basic abc'])
  t.same(Object.fromEntries(Object.entries(found).filter(([name]) => name !== 'wanting').map(([name, { problem }]) => [name, problem?.replace('GET /openapi.json ', '')])), {
    redirecting: 'answers with status 302',
    large: 'gives more than 1 MiB',
    broken: 'gives no JSON',
    page: 'gives no JSON',
    swagger: 'gives no OpenAPI 3 document',
    deep: 'gives what is nested too deep'
  })
  t.same(elsewhere.requests, [])
})

t.test('agents that hang hold up the document for moments only, and are asked again before long', async t => {
  const clock = fakeClock()
  let isWell = false
  let asked = 0
  let tell = () => {}
  const agent = await fakeAgent(t, (_request, response) => {
    asked++
    tell()
    if (isWell) response.end(JSON.stringify(plannerDocument))
  })
  async function untilAsked (times: number): Promise<void> {
    if (asked >= times) return
    await new Promise<void>(resolve => { tell = resolve })
    await untilAsked(times)
  }
  const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i']
  const gateway = await buildGateway(t, { clock, auth, agents: names.map(name => agentAt(name, agent)), ...unprobed })
  const problems = ({ 'x-fleet-agents': found }: OpenApi) => names.map(name => found[name]!.problem)

  const first = documentOf(gateway)
  await untilAsked(8)
  clock.advance(3_000)
  await untilAsked(9)
  clock.advance(500)

  t.same(problems(await first), [...Array.from({ length: 8 }, () => 'GET /openapi.json does not answer within 3 s'), 'GET /openapi.json is not answered yet'])
  isWell = true
  clock.advance(2_500)
  t.same(problems(await documentOf(gateway)).filter(problem => problem !== undefined).length, 9, 'kept for a while')
  clock.advance(10_000)
  t.same(problems(await documentOf(gateway)).filter(problem => problem !== undefined), [])
})

t.test('a hostile agent breaks nothing and leads nowhere', async t => {
  const hostile = await describing(t, `{
    "openapi": "3.1.0", "info": {"title": ["x"], "contact": {"url": "javascript:alert(1)"}}, "servers": [{"url": "https://evil.example.com"}],
    "__proto__": {"polluted": true}, "tags": "none", "security": [{"own": []}, {"oauth": []}],
    "paths": {
      "/ok": {"servers": [{"url": "https://evil.example.com"}], "get": {"servers": [{"url": "/"}], "summary": 7, "parameters": [{"$ref": "https://evil.example.com/p"}], "security": [{"own": []}, {"oauth": []}], "responses": {}}},
      "/../../registry/planner": {"delete": {}}, "/%2e%2e/x": {"delete": {}}, "/a\\\\..\\\\b": {"delete": {}}, "no-slash": {"get": {}}, "/text": "text", "/other": {"get": {"responses": {"200": {"$ref": "/stats"}}}}
    },
    "components": {"schemas": {"A": {"$id": "https://evil.example.com/", "$ref": "https://evil.example.com/a"}, "B": {"properties": {"servers": {"type": "array"}, "$ref": {"type": "string"}}}},
      "securitySchemes": {"own": {"type": "http", "scheme": "basic"}, "oauth": {"type": "oauth2", "flows": {"implicit": {"authorizationUrl": "https://evil.example.com/"}}}}}
  }`)
  const gateway = await buildGateway(t, { auth, agents: [agentAt('hostile', hostile)], ...unprobed })

  const document = await documentOf(gateway)
  const own = await documentOf(gateway, '/openapi.json?agent=hostile')

  t.same(documentProblems(document), [])
  t.same(Object.keys(document.paths).filter(path => path.startsWith('/api/hostile')), ['/api/hostile/ok', '/api/hostile/other'])
  const text = JSON.stringify(own)
  t.notMatch(text, /evil\.example\.com|javascript:|"\/stats"|polluted/)
  t.same(own.servers, [{ url: '/api/hostile' }])
  t.same(own.paths['/ok']!['get'], { summary: 7, parameters: [], security: [{ own: [], fleetToken: [] }], responses: {} })
  t.same(own.components.schemas, { A: {}, B: { properties: { servers: { type: 'array' }, $ref: { type: 'string' } } } })
  t.same(Object.keys(own.components.securitySchemes), ['own', 'bearer', 'fleetToken'])
})

t.test('of a document its text is kept, and not the objects that it was made from', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const bulky = `{"openapi":"3.1.0","x":[${'{},'.repeat(300_000)}{}],"components":{"securitySchemes":{"own":{"type":"http","scheme":"basic"}}}}`
  readAgentDocument(bulky) // what is compiled and cached once is not counted
  collect()
  const before = process.memoryUsage().heapUsed

  const documents = Array.from({ length: 5 }, () => readAgentDocument(bulky))

  collect()
  const each = (process.memoryUsage().heapUsed - before) / documents.length
  t.ok(each < 4 * 1024 * 1024, `${Math.round(each / 1024)} KiB each`)
  t.match(documents[4]!.text('/api/x'), '{"openapi":"3.1.0","servers":[{"url":"/api/x"}],')
})

t.test('under a prefix everything is below it, the host\'s routes are not ours to show, and the host may have @fastify/swagger itself', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifySwagger, { openapi: { info: { title: 'Host', version: '1' } } })
  await app.register(async instance => { instance.get('/own', async () => 'mine') })
  const agent = await describing(t, plannerDocument)
  await app.register(fleetGateway, { prefix: '/fleet', auth, auditLog: { enabled: false }, agents: [agentAt('planner', agent)] })
  app.get('/later', async () => 'mine')

  const document = await documentOf(app, '/fleet/openapi.json')
  const own = await documentOf(app, '/fleet/openapi.json?agent=planner')

  t.same(documentProblems(document), [])
  t.same(document.servers, [{ url: '/fleet' }])
  t.ok(document.paths['/health'])
  t.notOk(document.paths['/own'] ?? document.paths['/later'])
  t.same(own.servers, [{ url: '/fleet/api/planner' }])
  t.match(document['x-fleet-agents'], { planner: { document: '/fleet/openapi.json?agent=planner' } })
  t.equal((await app.inject('/own')).body, 'mine')
  t.ok((app.swagger() as unknown as OpenApi).paths['/own'])
})

t.test('files of a page say what they depend on beside what CORS says, and come packed to who takes that alone', async t => {
  const gateway = await buildGateway(t, { cors: { origins: ['https://app.example.com'] } })
  t.match(await gateway.inject('/'), { headers: { vary: 'Origin, accept' } }, 'the index, too')

  for (const url of ['/docs/docs.css', '/console/']) {
    const packed = await gateway.inject({ url, headers: { origin: 'https://app.example.com', 'accept-encoding': 'gzip' } })
    t.match(packed, { statusCode: 200, headers: { vary: 'Origin, accept-encoding', 'content-encoding': 'gzip' } })
    const plain = await gateway.inject({ url, headers: { 'accept-encoding': 'identity, gzip;q=0' } })
    t.equal(plain.headers['content-encoding'], undefined)
  }
})
