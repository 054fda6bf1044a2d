/**
 * What is refused first when there is more than one reason (CONTRACT section 1), 405 with `Allow` on each known path, and what an answer
 * that the gateway made looks like, also under a prefix.
 */
import { once } from 'node:events'
import Fastify from 'fastify'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { fleetGateway } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { readAnswers, type Answer } from '../helpers/answers.ts'
import { agentAt } from '../helpers/build-gateway.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'
import { recordingAgent } from '../helpers/recording-agent.ts'

const tokens = { proxy: 'proxy-token-0001', read: 'read-token-00001', other: 'other-token-0001', limited: 'limited-token-01' }

async function gateway (t: Test, prefix: string) {
  const agent = await recordingAgent(t)
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  await app.register(fleetGateway, {
    prefix,
    notFound: true,
    auditLog: { enabled: false },
    server: { bodyLimit: '10B' },
    rateLimit: { enabled: true, perMinute: 1, burst: 1 },
    cors: { enabled: true, origins: ['https://app.example'] },
    auth: {
      keys: [
        { id: 'proxy', token: tokens.proxy, scopes: ['proxy'], agents: ['*'], rateLimit: { enabled: false } },
        { id: 'read', token: tokens.read, scopes: ['read'], agents: ['*'], rateLimit: { enabled: false } },
        { id: 'other', token: tokens.other, scopes: ['proxy'], agents: ['other'], rateLimit: { enabled: false } },
        { id: 'limited', token: tokens.limited, scopes: ['proxy'], agents: ['*'] }
      ]
    },
    agents: [agentAt('planner', agent), { name: 'empty', instances: [] }]
  } as object)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const ask = async (method: string, path: string, lines: string[] = [], host = 'Host: localhost'): Promise<Answer> => {
    const bytes = [`${method} ${prefix}${path} HTTP/1.1`, ...(host === '' ? [] : [host]), ...lines, 'Connection: close', '', ''].join('\r\n')
    return readAnswers(await rawRequest(t, port, bytes), [method]).find(({ status }) => status >= 200)!
  }
  return { agent, ask, port }
}

const bearer = (token: string) => `Authorization: Bearer ${token}`
const preflight = ['Origin: https://app.example', 'Access-Control-Request-Method: PUT']
const tooLarge = 'Content-Length: 100'

for (const prefix of ['', '/fleet']) {
  t.test(`of two reasons the earlier one is told, under ${prefix === '' ? 'no prefix' : prefix}`, async t => {
    const { agent, ask } = await gateway(t, prefix)
    const table: [string, number, string, string, string[], string?][] = [
      ['framing before preflight', 400, 'OPTIONS', '/api/planner/x', preflight, ''],
      ['path before preflight', 400, 'OPTIONS', '/api/planner/..', preflight],
      ['path before 404', 400, 'GET', '/nowhere/..', []],
      ['path before 401', 400, 'GET', '/api/planner/%00', []],
      ['framing before 401', 501, 'POST', '/api/planner/x', ['Transfer-Encoding: gzip, chunked']],
      ['preflight before 404', 204, 'OPTIONS', '/nowhere', preflight],
      ['preflight before 401', 204, 'OPTIONS', '/api/planner/x', preflight],
      ['404 before 401', 404, 'GET', '/nowhere', []],
      ['405 before 401', 405, 'POST', '/health', []],
      ['405 before 413', 405, 'TRACE', '/api/planner/x', []],
      ['401 before the agent\'s 404', 401, 'GET', '/api/nobody/x', []],
      ['401 before 413', 401, 'POST', '/api/planner/x', [tooLarge]],
      ['403 before the agent\'s 404', 403, 'GET', '/api/nobody/x', [bearer(tokens.read)]],
      ['403 of the agent before 413', 403, 'POST', '/api/planner/x', [bearer(tokens.other), tooLarge]],
      ['the agent\'s 404 before 413', 404, 'POST', '/api/nobody/x', [bearer(tokens.proxy), tooLarge]],
      ['413 before 503', 413, 'POST', '/api/empty/x', [bearer(tokens.proxy), tooLarge]],
      ['503', 503, 'GET', '/api/empty/x', [bearer(tokens.proxy)]],
      ['the last token of the bucket', 200, 'GET', '/api/planner/x', [bearer(tokens.limited)]],
      ['429 before the agent\'s 404', 429, 'GET', '/api/nobody/x', [bearer(tokens.limited)]],
      ['429 before 413', 429, 'POST', '/api/planner/x', [bearer(tokens.limited), tooLarge]],
      ['403 before 429', 403, 'GET', '/agents', [bearer(tokens.limited)]]
    ]
    for (const [name, status, method, path, lines, host] of table) {
      const answer = await ask(method, path, lines, host)
      t.equal(answer.status, status, name)
      if (status === 204 || status === 200) continue
      const problem = JSON.parse(answer.body) as Record<string, unknown>
      t.match(problem, { status, code: /^FLEET_/, type: /errors\.md#fleet_/, title: String, detail: String, instance: /^urn:uuid:/ }, name)
      t.equal(problem['error'], problem['title'], name)
      t.same(answer.valuesOf('content-type'), ['application/problem+json; charset=utf-8'], name)
      t.match(answer.valuesOf('proxy-status'), [/^fleet-gateway(?:; error=[a-z_]+)?$/], name)
      t.match(problem['instance'], answer.valuesOf('x-request-id')[0], name)
      t.ok(answer.complete && answer.framing === 'length', name)
      if (status === 503 || status === 429) t.match(answer.valuesOf('retry-after'), [/^\d+$/], name)
      t.notMatch(answer.body, /127\.0\.0\.1|localhost:/, name)
    }
    t.same(agent.requests.map(({ target }) => target), ['/x'], 'the one that was let through')
  })

  t.test(`a known path with another method is 405 with Allow, under ${prefix === '' ? 'no prefix' : prefix}`, async t => {
    const { ask, port } = await gateway(t, prefix)
    const table: [string, string, string[]][] = [
      ['/health', 'POST', ['GET', 'HEAD']], ['/health/live', 'DELETE', ['GET', 'HEAD']], ['/health/ready', 'PUT', ['GET', 'HEAD']], ['/agents', 'PATCH', ['GET', 'HEAD']], ['/agents/planner', 'POST', ['GET', 'HEAD']], ['/registry', 'POST', ['GET', 'HEAD']],
      ['/registry/register', 'GET', ['POST']], ['/registry/planner', 'POST', ['DELETE']], ['/registry/planner/instances/x', 'GET', ['DELETE', 'PUT']], ['/stats', 'PROPFIND', ['GET', 'HEAD']], ['/stats', 'PURGE', ['GET', 'HEAD']], ['/', 'POST', ['GET', 'HEAD']]
    ]
    for (const [path, method, expected] of table) {
      const answer = await ask(method, path)
      t.equal(answer.status, 405, `${method} ${path}`)
      const allowed = answer.valuesOf('allow').join(',').split(',').map(name => name.trim())
      for (const name of expected) t.ok(allowed.includes(name), `${path} allows ${name}`)
      t.notOk(allowed.includes(method), `${path} does not allow ${method}`)
      t.match(answer.body, /"code":"FLEET_METHOD_NOT_ALLOWED"/)
    }
    const trace = await ask('TRACE', '/api/planner/x')
    t.equal(trace.status, 405)
    for (const name of ['GET', 'POST', 'PROPFIND', 'PURGE', 'M-SEARCH']) t.ok(trace.valuesOf('allow')[0]!.split(', ').includes(name), name)
    if (prefix === '') {
      const server = await rawRequest(t, port, 'OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
      t.match(server, /^HTTP\/1\.1 204 [^]*\r\nallow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n/i)
    }
    t.match(await ask('GET', `/agents/${'a'.repeat(20_000)}`, [bearer(tokens.read)]), { status: 404, body: /FLEET_AGENT_NOT_FOUND/ }, 'a name may be as long as a head')
    const head = await ask('HEAD', '/nowhere')
    t.match(head, { status: 404, body: '' })
    t.ok(Number(head.valuesOf('content-length')[0]) > 0)
  })
}

for (const [last, request, answer] of [
  ['a refusal of the parser', 'GARBAGE\r\n\r\n', /^HTTP\/1\.1 400 [^]*FLEET_BAD_REQUEST/],
  ['an answer with Connection: close', 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', /^HTTP\/1\.1 200 [^]*"status"/]
] as const) {
  t.test(`what a client sends after ${last} does not reset the connection`, async t => {
    const app = Fastify(serverOptions())
    t.teardown(() => app.close())
    await app.register(fleetGateway, { notFound: true, auditLog: { enabled: false }, auth: { enabled: false } })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const client = await rawClient(t, (app.server.address() as AddressInfo).port)
    const errors: unknown[] = []
    client.socket.on('error', error => errors.push(error))

    client.send(request)
    await client.closed()
    for (let round = 0; round < 20; round++) await new Promise(resolve => client.socket.write('x'.repeat(1_000), resolve))
    client.socket.end()
    await once(client.socket, 'close')

    t.same(errors, [])
    t.match(client.received(), answer)
  })
}
