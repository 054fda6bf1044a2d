/** JSON Web Tokens at the whole gateway: over real sockets, in front of real agents. */
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { Agent, request as httpRequest } from 'node:http'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import authPlugin from '../../plugins/auth/index.ts'
import { findSecret } from '../../src/cli/secret.ts'
import { fleetGateway, startErrors, type FleetGatewayOptions } from '../../src/gateway.ts'
import { parseConfig } from '../../src/config.ts'
import { startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { jwtIssuer } from '../helpers/jwt-issuer.ts'

const secret = 'the-shared-secret'

/** A gateway that believes an issuer, before an agent that says which credentials it got. */
async function fleet (t: Test, options: FleetGatewayOptions = {}, ofAgent: object = {}) {
  const issuer = await jwtIssuer(t, () => Math.floor(Date.now() / 1_000))
  const agent = await fakeAgent(t, (request, response) => {
    response.end(JSON.stringify({ authorization: request.headers.authorization ?? null, own: request.headers['x-fleet-token'] ?? null }))
  })
  const rooms = new WebSocketServer({ server: agent.server })
  const offered: (string | undefined)[] = []
  rooms.on('connection', (room, request) => {
    offered.push(request.headers['sec-websocket-protocol'])
    room.on('message', data => room.send(data))
  })
  const agents = ['planner', 'writer'].map(name => ({ name, host: '127.0.0.1', port: agent.port, ...ofAgent }))
  const gateway = await startGateway(t, { ...unprobed, agents, auth: { jwt: issuer.jwt }, ...options })
  const ask = async (path: string, headers: Record<string, string>, method = 'GET') => await fetch(gateway.origin + path, { headers, method })
  const bearer = async (path: string, token: string) => await ask(path, { authorization: `Bearer ${token}` })
  return { issuer, gateway, ask, bearer, offered }
}

t.test('a token opens what its scopes and agents say, and nothing else', async t => {
  const { issuer, bearer, ask, gateway } = await fleet(t)
  const token = await issuer.token({ scope: 'proxy read', agents: ['planner'] })

  t.equal((await bearer('/api/planner/x', token)).status, 200)
  t.equal((await bearer('/api/writer/x', token)).status, 403)
  t.same(Object.keys(await (await bearer('/agents', token)).json() as object), ['planner'], 'others it does not even see')
  t.equal((await bearer('/api/planner/x', await issuer.token({ scope: 'read' }))).status, 403)
  const register = async (name: string, token: string) => (await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: JSON.stringify({ name, port: 1 }) })).status
  t.equal(await register('planner', token), 403)
  t.equal(await register('new', await issuer.token({ scope: 'register', agents: ['other'] })), 403)
  t.equal(await register('new', await issuer.token({ scope: 'register', agents: ['new'] })), 201)
  const refusal = await ask('/api/planner/x', { authorization: 'Bearer a.b.c' })
  t.equal(refusal.status, 401)
  t.equal(refusal.headers.get('www-authenticate'), 'Bearer realm="fleet-gateway", error="invalid_token"')
})

t.test('the token that opened the gateway goes to no agent, and an agent\'s own passes', async t => {
  const { issuer, ask } = await fleet(t, {})
  const token = await issuer.token()
  const agents = `Bearer ${await issuer.token({ aud: 'agent' })}`
  const seen = async (headers: Record<string, string>) => await (await ask('/api/planner/x', headers)).json()

  t.same(await seen({ authorization: `Bearer ${token}` }), { authorization: null, own: null })
  t.same(await seen({ 'x-fleet-token': token, authorization: agents }), { authorization: agents, own: null })
  t.same(await seen({ 'x-fleet-token': token, authorization: `Bearer ${await issuer.token({ sub: 'other' })}` }), { authorization: null, own: null })
})

t.test('forwardAuthorization passes it on', async t => {
  const { issuer, bearer } = await fleet(t, {}, { forwardAuthorization: true })
  const token = await issuer.token()

  t.match(await (await bearer('/api/planner/x', token)).json(), { authorization: `Bearer ${token}` })
})

t.test('a WebSocket is opened by a token among its subprotocols, which the agent does not get; the token is judged when it begins', async t => {
  const { issuer, gateway, offered } = await fleet(t)
  const token = await issuer.token({ exp: Math.floor(Date.now() / 1_000) - 29 })

  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/room`, ['fleet.bearer', `fleet.bearer.${token}`])
  await once(socket, 'open')
  socket.send('hello')
  const [echo] = await once(socket, 'message') as [Buffer]
  socket.terminate()

  t.equal(String(echo), 'hello')
  t.same(offered, [undefined])
  const refused = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/room`, [`fleet.bearer.${await issuer.token({ exp: 1 })}`])
  const [, response] = await once(refused, 'unexpected-response') as [unknown, { statusCode: number }]
  t.equal(response.statusCode, 401)
  refused.on('error', () => {}).terminate()
})

t.test('each caller has a bucket of its own, wherever from, and is named in the audit log', async t => {
  const lines: string[] = []
  const auditDestination = { write: (text: string) => { lines.push(...text.trim().split('\n')) }, end () {} }
  const { issuer, bearer, gateway } = await fleet(t, { rateLimit: { enabled: true, burst: 2, perMinute: 1 }, auditLog: { enabled: true }, auditDestination })
  const [one, again, two] = [await issuer.token({ sub: 'one' }), await issuer.token({ sub: 'one', jti: 'x' }), await issuer.token({ sub: 'two' })]

  const statuses = []
  for (const token of [one, again, one, two, again]) statuses.push((await bearer('/api/planner/x', token)).status)
  await bearer('/api/planner/x', 'a.b.c')
  await gateway.close()

  t.same(statuses, [200, 200, 429, 200, 429])
  t.same(lines.map(line => (JSON.parse(line) as { key: string | null }).key), ['jwt:one', 'jwt:one', 'jwt:one', 'jwt:two', 'jwt:one', null])
  for (const token of [one, again, two]) t.notOk(lines.join().includes(token.split('.')[2]!))
})

t.test('auth.jwt comes, changes and goes with a reload; a bad one is refused with its place and changes nothing', async t => {
  const issuer = await jwtIssuer(t, () => Math.floor(Date.now() / 1_000))
  const file = join(t.testdir({ 'fleet.yaml': `auth: {secret: ${secret}}\n` }), 'fleet.yaml')
  const gateway = await startGateway(t, { auth: { enabled: true }, file })
  const become = async (jwt: string) => {
    await writeFile(file, `auth:\n  secret: ${secret}\n${jwt}`)
    return await gateway.discovery.reload()
  }
  const token = await issuer.token()
  const status = async () => (await fetch(`${gateway.origin}/agents`, { headers: { authorization: `Bearer ${token}` } })).status
  const good = `  jwt: {issuer: "https://issuer.example", audience: fleet, jwksUrl: "${issuer.url}"}\n`
  t.equal(await status(), 401)

  t.equal(await become(good), true)
  t.equal(await status(), 200)
  t.equal(await become('  jwt:\n    issuer: x\n    audience: fleet\n    jwksUrl: http://issuer.example/\n'), false)
  t.match(gateway.discovery.status.error, /fleet\.yaml:6:14 auth\.jwt\.jwksUrl: must be https, or http on loopback/)
  t.equal(await status(), 200)
  t.equal(await become(good.replace('audience: fleet', 'audience: other')), true)
  t.equal(await status(), 401)
  t.equal(await become(''), true)
  t.equal(await status(), 401)
})

t.test('on a connection that is kept alive a token is judged for each request', async t => {
  const clock = fakeClock(Date.now())
  const { issuer, gateway } = await fleet(t, { clock })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ask = (token: string) => new Promise<{ status: number, localPort: number }>((resolve, reject) => {
    httpRequest({ host: '127.0.0.1', port: gateway.port, path: '/api/planner/x', agent, headers: { authorization: `Bearer ${token}` } }, response => {
      const { localPort = 0 } = response.socket
      response.resume().on('end', () => resolve({ status: response.statusCode!, localPort }))
    }).on('error', reject).end()
  })
  const token = await issuer.token()
  const first = await ask(token)
  t.equal(first.status, 200)

  clock.advance(400_000)
  t.same(await ask(token), { ...first, status: 401 }, 'it has run out')
  const next = await issuer.token({ exp: Math.floor(clock.now() / 1_000) + 300 })
  t.same(await ask(next), first)
  gateway.auth.reconfigure({ jwt: { ...issuer.jwt, audience: 'other' } })
  t.same(await ask(next), { ...first, status: 401 })
})

t.test('with JWTs and nothing else no secret is needed, and none is made', async t => {
  const { issuer, bearer } = await fleet(t, { fallbackSecret: secret })

  t.equal((await bearer('/agents', secret)).status, 401)
  t.equal((await bearer('/agents', await issuer.token())).status, 200)
  t.same(startErrors(parseConfig({ auth: { jwt: issuer.jwt } })), [])
  t.match(await findSecret(undefined, {}, { jwt: issuer.jwt }, t.testdirName), { secret: undefined, isNew: false, isOwn: false }, 'by serve neither')
  t.match(startErrors(parseConfig({ auth: { jwt: { issuer: 'i', audience: 'a' } } })), [{ path: 'auth.jwt', message: 'must have one of jwksUrl and jwksFile' }])
})

t.test('in another application, as the whole gateway and as the plugin alone', async t => {
  const issuer = await jwtIssuer(t, () => Math.floor(Date.now() / 1_000))
  const whole = Fastify()
  t.teardown(() => whole.close())
  await whole.register(fleetGateway, { prefix: '/fleet', auth: { jwt: issuer.jwt }, auditLog: { enabled: false } })
  const alone = Fastify()
  t.teardown(() => alone.close())
  await alone.register(authPlugin, { jwt: issuer.jwt })
  alone.get('/mine', { config: { fleet: { scope: 'read' } } }, async ({ principal }) => principal)
  const authorization = `Bearer ${await issuer.token({ agents: 'a' })}`

  t.equal((await whole.inject({ url: '/fleet/agents', headers: { authorization } })).statusCode, 200)
  t.equal((await whole.inject('/fleet/agents')).statusCode, 401)
  t.same((await alone.inject({ url: '/mine', headers: { authorization } })).json(), { id: 'jwt:someone', named: true, scopes: ['read', 'proxy'], agents: ['a'] })
  t.equal((await alone.inject('/mine')).statusCode, 401)
})
