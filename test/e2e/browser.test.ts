/**
 * What web pages can make a browser send: with auth off, what keeps them from using the gateway; with auth on, what they can't get without a
 * token of their own. Over real sockets, byte for byte what browsers send.
 */
import { WebSocket, WebSocketServer } from 'ws'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { agentAt, buildGateway, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawRequest } from '../helpers/raw-client.ts'

const evil = { origin: 'https://evil.example' }

t.test('with auth off pages of elsewhere are kept out, unless they were asked in', async t => {
  const table: [object, Record<string, string>, number, string | undefined][] = [
    [{}, evil, 403, undefined],
    [{}, { origin: 'http://localhost:3000' }, 200, 'http://localhost:3000'],
    [{}, { host: 'evil.example' }, 403, undefined],
    [{ origins: ['*'] }, evil, 200, '*'],
    [{ origins: ['https://app.example'] }, evil, 403, undefined],
    [{ origins: ['https://app.example'] }, { origin: 'https://app.example' }, 200, 'https://app.example']
  ]
  for (const [cors, headers, status, allowed] of table) {
    const gateway = await buildGateway(t, { cors: { enabled: true, ...cors } })
    const reply = await gateway.inject({ url: '/agents', headers })
    t.equal(reply.statusCode, status, JSON.stringify([cors, headers]))
    if (status === 200) t.equal(reply.headers['access-control-allow-origin'], allowed)
  }
})

const registration = '{"name":"evil","host":"127.0.0.1","port":1}'
const crossSite = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }
const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }

interface PageRequest { what: string, method: string, path: string, headers: Record<string, string>, body?: string, status: number }

/** The status and all the bytes of the answer to what a browser sends. */
async function send (t: Test, port: number, { method, path, headers, body = '' }: Omit<PageRequest, 'what' | 'status'>) {
  const fields = { host: `127.0.0.1:${port}`, connection: 'close', ...headers, ...(body !== '' && { 'content-length': String(body.length) }) }
  const text = await rawRequest(t, port, `${method} ${path} HTTP/1.1\r\n${Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`)
  return { status: Number(text.slice(9, 12)), text }
}

t.test('with auth off nothing that a foreign page makes a browser send reaches an agent or changes the fleet', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('a', agent)], cors: { enabled: true }, ...unprobed })
  const rebound = `evil.example:${gateway.port}`
  const register = { method: 'POST', path: '/registry/register', body: registration }
  const table: PageRequest[] = [
    { what: 'a form as text/plain', ...register, headers: { ...evil, 'content-type': 'text/plain', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, status: 403 },
    { what: 'a form of a page in a sandbox', ...register, headers: { origin: 'null', 'content-type': 'text/plain' }, status: 403 },
    { what: 'a form of a browser that sends no Origin', ...register, headers: { 'content-type': 'application/x-www-form-urlencoded', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, status: 403 },
    { what: 'a form of a browser that tells nothing at all', ...register, headers: { 'content-type': 'text/plain' }, status: 400 },
    { what: 'a file upload of such a browser', ...register, headers: { 'content-type': 'multipart/form-data; boundary=x' }, status: 400 },
    { what: 'a beacon without a type, of such a browser', ...register, headers: {}, status: 400 },
    { what: 'a type that a careless reader takes for JSON', ...register, headers: { 'content-type': 'text/plain; application/json' }, status: 400 },
    { what: 'JSON in spite of the preflight', ...register, headers: { ...evil, 'content-type': 'application/json' }, status: 403 },
    { what: 'an image of the agent', method: 'GET', path: '/api/a/x', headers: crossSite, status: 403 },
    { what: 'a script of the registry', method: 'GET', path: '/registry', headers: { ...crossSite, 'sec-fetch-dest': 'script' }, status: 403 },
    { what: 'a frame of the agent', method: 'GET', path: '/api/a/x', headers: { ...crossSite, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' }, status: 403 },
    { what: 'a POST to the agent', method: 'POST', path: '/api/a/x', headers: { ...evil, 'content-type': 'text/plain' }, body: 'do', status: 403 },
    { what: 'a WebSocket', method: 'GET', path: '/api/a/x', headers: { ...upgrade, ...evil }, status: 403 },
    { what: 'a WebSocket of a page in a sandbox', method: 'GET', path: '/api/a/x', headers: { ...upgrade, origin: 'null' }, status: 403 },
    { what: 'a WebSocket of a rebound page', method: 'GET', path: '/api/a/x', headers: { ...upgrade, host: rebound, origin: `http://${rebound}` }, status: 403 },
    { what: 'reading, by a rebound page', method: 'GET', path: '/registry', headers: { host: rebound, 'sec-fetch-site': 'same-origin' }, status: 403 },
    { what: 'removing, by a rebound page', method: 'DELETE', path: '/registry/a', headers: { host: rebound, origin: `http://${rebound}`, 'sec-fetch-site': 'same-origin' }, status: 403 },
    { what: 'registering, by a rebound page', ...register, headers: { host: rebound, origin: `http://${rebound}`, 'content-type': 'application/json' }, status: 403 },
    { what: 'the agent, by a rebound page', method: 'GET', path: '/api/a/x', headers: { host: rebound }, status: 403 },
    { what: 'all addresses at once as a name for this machine', method: 'GET', path: '/api/a/x', headers: { host: `0.0.0.0:${gateway.port}`, 'sec-fetch-site': 'cross-site' }, status: 403 }
  ]

  for (const { what, status, ...request } of table) {
    const answer = await send(t, gateway.port, request)
    t.equal(answer.status, status, what)
    t.notMatch(answer.text, `"port":${agent.port}`, `${what}: nothing is told`)
  }

  t.same([...gateway.registry.names()], ['a'])
  t.equal(gateway.registry.get('a').instances.length, 1)
  t.same(agent.requests, [])
})

t.test('with auth off a page of this machine may do it all, and a link may lead to it', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  rooms.on('connection', socket => socket.send('hello'))
  const gateway = await startGateway(t, { agents: [agentAt('a', agent)], ...unprobed })
  const local = { origin: 'http://localhost:3000', 'sec-fetch-site': 'same-site' }

  t.equal((await send(t, gateway.port, { method: 'GET', path: '/api/a/x', headers: local })).status, 200)
  t.equal((await send(t, gateway.port, { method: 'POST', path: '/registry/register', headers: { ...local, 'content-type': 'application/json' }, body: registration })).status, 201)
  t.equal((await send(t, gateway.port, { method: 'GET', path: '/', headers: { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' } })).status, 200)
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/a/x`, { origin: 'http://localhost:3000' })
  t.equal(String((await once(socket, 'message'))[0]), 'hello')
  socket.close()
  await once(socket, 'close')
})

t.test('a preflight of a foreign page is given nothing with auth off, and the private network to nobody ever', async t => {
  const open = await startGateway(t, { cors: { enabled: true } })
  const closed = await startGateway(t, { cors: { enabled: true }, auth: { secret: 'fleet-secret-token' } })
  const preflight = (origin: string) => ({
    method: 'OPTIONS',
    path: '/registry/register',
    headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type', 'access-control-request-private-network': 'true' }
  })

  for (const origin of ['https://evil.example', 'null', `http://evil.example:${open.port}`]) t.notMatch((await send(t, open.port, preflight(origin))).text, /access-control-allow-origin/i, origin)
  t.match((await send(t, open.port, preflight('http://localhost:3000'))).text, /access-control-allow-origin: http:\/\/localhost:3000/i)
  t.match((await send(t, closed.port, preflight('https://app.example'))).text, /access-control-allow-origin: \*/i, 'a page has no token, so any may ask')
  for (const { port } of [open, closed]) for (const origin of ['https://evil.example', 'http://localhost:3000']) t.notMatch((await send(t, port, preflight(origin))).text, /private-network|local-network/i)
})

t.test('with auth on cookies open nothing, and only origins that are listed may send them', async t => {
  const gateway = await startGateway(t, { auth: { secret: 'fleet-secret-token' }, cors: { enabled: true, origins: ['https://app.example'], credentials: true } })
  const ask = (headers: Record<string, string>) => send(t, gateway.port, { method: 'GET', path: '/registry', headers })

  const listed = await ask({ origin: 'https://app.example', cookie: 'token=fleet-secret-token', 'sec-fetch-site': 'cross-site' })
  t.equal(listed.status, 401, 'a cookie is no token')
  t.match(listed.text, /access-control-allow-origin: https:\/\/app\.example[^]*access-control-allow-credentials: true/i)
  for (const origin of ['https://evil.example', 'null', 'https://app.example.evil.example']) {
    const answer = await ask({ origin, authorization: 'Bearer fleet-secret-token' })
    t.equal(answer.status, 200, 'who has the token is no mere page')
    t.notMatch(answer.text, /access-control-allow-origin/i, origin)
  }
  await t.rejects(buildGateway(t, { cors: { enabled: true, credentials: true } }), /cors\.credentials/, 'never for every origin')
})

t.test('a WebSocket of a page is opened by the token among its subprotocols alone, which neither the agent nor anybody else gets', async t => {
  const agent = await fakeAgent(t)
  const offered: (string | undefined)[] = []
  const rooms = new WebSocketServer({ server: agent.server, handleProtocols: () => false })
  rooms.on('connection', (_socket, request) => offered.push(request.headers['sec-websocket-protocol']))
  const gateway = await startGateway(t, { auth: { secret: 'fleet-secret-token' }, agents: [agentAt('a', agent)], ...unprobed })
  const offer = (...protocols: string[]) => send(t, gateway.port, { method: 'GET', path: '/api/a/x', headers: { ...upgrade, ...evil, ...(protocols.length > 0 && { 'sec-websocket-protocol': protocols.join(', ') }) } })

  for (const protocols of [[], ['chat'], ['fleet.bearer'], ['fleet.bearer.'], ['fleet.bearer.wrong-secret-token'], ['fleet.bearer.fleet-secret-token', 'fleet.bearer.fleet-secret-token']]) {
    const { status, text } = await offer(...protocols)
    t.equal(status, 401, protocols.join())
    t.notMatch(text, /secret-token/)
  }
  t.same(agent.requests, [])
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/a/x`, ['fleet.bearer', 'fleet.bearer.fleet-secret-token', 'chat'], { origin: 'https://evil.example' })
  await once(socket, 'open')
  t.equal(socket.protocol, 'fleet.bearer')
  t.same(offered, ['chat'])
  socket.terminate()
  await once(socket, 'close')
})
