/** `headers` of an agent: the gateway's own credentials towards it, over real sockets, and that nobody else ever sees them. */
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import type { AgentHeaders } from '../../src/agent-headers.ts'
import { createGateway } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { logLines } from '../helpers/log-lines.ts'
import { okAnswer, recordingAgent } from '../helpers/recording-agent.ts'
import { rawRequest } from '../helpers/raw-client.ts'

const credential = 'Bearer own-credential-of-the-gateway'
const headers: AgentHeaders = { Authorization: credential, 'X-Api-Key': 'own-api-key' }

async function fronted (t: Test, own: AgentHeaders = headers) {
  const agent = await recordingAgent(t)
  const gateway = await startGateway(t, { ...unprobed, agents: [{ ...agentAt('planner', agent), headers: own }, agentAt('plain', agent)] })
  agent.reset() // of the first probe
  return { agent, gateway }
}

const send = (t: Test, { port }: ListeningGateway, path: string, fields: readonly string[] = [], more = '\r\n') =>
  rawRequest(t, port, [`GET ${path} HTTP/1.1`, 'Host: localhost', 'Connection: close', ...fields, more].join('\r\n'))

t.test('an agent gets the gateway\'s fields, as they are written, and others get none', async t => {
  const { agent, gateway } = await fronted(t)

  await send(t, gateway, '/api/planner/x')
  await send(t, gateway, '/api/plain/x')

  const [own, plain] = agent.requests
  t.match(own!.head, `\r\nAuthorization: ${credential}\r\nX-Api-Key: own-api-key`)
  t.same(plain!.valuesOf('authorization'), [])
  t.same(plain!.valuesOf('x-api-key'), [])
})

t.test('they stand in the place of what the client sent under the name, however it is spelt, and however often', async t => {
  const { agent, gateway } = await fronted(t)

  await send(t, gateway, '/api/planner/x', ['authorization: Basic mine', 'AUTHORIZATION: Basic mine-again', 'x-api-key: mine', 'X_Api_Key: mine', 'x-Api_kEy: mine', 'X-Api-Key-2: stays'])
  await send(t, gateway, '/api/plain/x', ['Authorization: Basic mine', 'X_Api_Key: mine'])

  const [own, plain] = agent.requests
  t.same(own!.valuesOf('authorization'), [credential])
  t.same(own!.valuesOf('x-api-key'), ['own-api-key'])
  t.same(own!.valuesOf('x-api-key-2'), ['stays'])
  t.notMatch(own!.head, 'mine')
  t.same(plain!.valuesOf('authorization'), ['Basic mine'])
  t.same(plain!.valuesOf('x_api_key'), ['mine'])
})

t.test('a client can\'t have them removed as fields of its hop, nor bring its own as trailers', async t => {
  const { agent, gateway } = await fronted(t)

  await rawRequest(t, gateway.port, 'POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, authorization, x-api-key\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Api-Key: mine\r\nX-Sum: 7\r\n\r\n')

  const [got] = agent.requests
  t.same(got!.valuesOf('authorization'), [credential])
  t.same(got!.valuesOf('x-api-key'), ['own-api-key'])
  t.equal(got!.trailers, process.env['FLEET_UPSTREAM_CLIENT'] === 'undici' ? '' : 'X-Sum: 7')
})

t.test('every attempt carries them, to another instance too', async t => {
  const [one, two] = [await recordingAgent(t), await recordingAgent(t)]
  one.answer = two.answer = 'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n'
  const gateway = await startGateway(t, { ...unprobed, agents: [{ ...agentAt('planner', one, two), headers }] })

  await send(t, gateway, '/api/planner/x', ['Authorization: Basic mine'])

  for (const agent of [one, two]) t.same(agent.requests.map(request => request.valuesOf('authorization')), [[credential]])
})

t.test('a WebSocket handshake carries them', async t => {
  const agent = await fakeAgent(t)
  const rooms = new WebSocketServer({ server: agent.server })
  const gateway = await startGateway(t, { ...unprobed, agents: [{ ...agentAt('chat', agent), headers }] })
  const client = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/chat/`, { headers: { authorization: 'Basic mine', 'x-api-key': 'mine' } })
  t.teardown(() => client.terminate())
  const opened = once(client, 'open')

  const [, request] = await once(rooms, 'connection') as [WebSocket, IncomingMessage]
  await opened

  t.match(request.headers, { authorization: credential, 'x-api-key': 'own-api-key' })
  t.equal(request.rawHeaders.filter(name => name.toLowerCase() === 'authorization').length, 1)
})

t.test('probes over HTTP carry them, on demand too: an agent that wants them would refuse others', async t => {
  const asked: (string | undefined)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    asked.push(request.headers.authorization)
    response.writeHead(request.headers.authorization === credential ? 200 : 401).end()
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), headers, health: { path: '/health', interval: '1m', timeout: '30s' } }] })
  await gateway.health.firstRound()
  const { id, runtime } = gateway.registry.get('planner').instances[0]!

  t.match(await (await fetch(`${gateway.origin}/registry/planner/instances/${id}/probe`, { method: 'POST' })).json(), { outcome: 'ok', status: 200 })

  t.equal(runtime.health.probeFailures, 0)
  t.ok(asked.length >= 2)
  t.same(asked.filter(value => value !== credential), [])
})

t.test('only instances that fleet.yaml or an admin placed get them, and only an admin may place one there', async t => {
  const [own, foreign] = [await recordingAgent(t), await recordingAgent(t)]
  foreign.answer = own.answer = okAnswer
  const keys = [{ id: 'registrar', token: 'registrar-token', scopes: ['register' as const] }, { id: 'boss', token: 'boss-token', scopes: ['admin' as const] }]
  const gateway = await startGateway(t, { ...unprobed, auth: { keys } })
  const register = (name: string, port: number, token: string) => fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: JSON.stringify({ name, host: '127.0.0.1', port }) })
  t.equal((await register('planner', foreign.port, 'registrar-token')).status, 201, 'before the file had the agent')

  gateway.registry.replaceFile([{ name: 'planner', headers: ['Authorization', credential], instances: [{ host: '127.0.0.1', port: own.port, protocol: 'http', weight: 1 }] }])
  const refused = await register('planner', 1, 'registrar-token')
  for (let count = 0; count < 2; count++) await send(t, gateway, '/api/planner/x', ['X-Fleet-Token: boss-token'])

  t.equal(refused.status, 403)
  t.match(await refused.json(), { code: 'FLEET_FORBIDDEN', detail: /"planner" is given credentials of the gateway/ })
  t.same(own.requests.map(request => request.valuesOf('authorization')), [[credential]])
  t.same(foreign.requests.map(request => request.valuesOf('authorization')), [[]])
  t.equal((await register('planner', foreign.port, 'boss-token')).status, 200)
  for (let count = 0; count < 2; count++) await send(t, gateway, '/api/planner/x', ['X-Fleet-Token: boss-token'])
  t.same(foreign.requests.at(-1)!.valuesOf('authorization'), [credential])
})

t.test('an instance that fleet.yaml names no more, and only a registrar does, gets none by probes either', async t => {
  const asked: (string | undefined)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    asked.push(request.headers.authorization)
    response.end()
    agent.server.emit('asked')
  })
  const gateway = await startGateway(t, { health: { path: '/health', interval: '100ms' } })
  const inFile = (port: number) => gateway.registry.replaceFile([{ name: 'planner', headers: ['Authorization', credential], instances: [{ host: '127.0.0.1', port, protocol: 'http', weight: 1 }] }])
  const probed = async (times: number) => { for (let count = 0; count < times; count++) await once(agent.server, 'asked') }
  inFile(agent.port)
  gateway.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
  await probed(1)
  t.equal(asked.at(-1), credential)

  inFile(1)
  await probed(2) // one may have been on its way

  t.equal(asked.at(-1), undefined)
})

t.test('a registration can\'t set them, and no page, state file, log or error has them', async t => {
  const lines: string[] = []
  const dir = t.testdir({ key: 'own-key-in-a-file\n' })
  const file = join(dir, 'fleet.yaml')
  const broken = await rawAgent(t, socket => { socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n') })
  await writeFile(file, `agents:\n  - name: planner\n    host: 127.0.0.1\n    port: ${broken.port}\n    headers:\n      Authorization: \${OWN}\n      X-Api-Key: {file: ${join(dir, 'key')}}\nhealth: {interval: 1h}\n`)
  const audit: string[] = []
  const gateway = await createGateway(
    { file, env: { OWN: credential }, auth: { enabled: false }, auditDestination: { write: text => audit.push(text) } },
    { logger: { level: 'trace', stream: { write: (line: string) => { lines.push(line) } } } }
  )
  t.teardown(() => gateway.close())
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const origin = gateway.listeningOrigin
  const register = (body: object) => fetch(`${origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

  const refused = await register({ name: 'other', port: 1, headers: { 'X-Api-Key': 'x' } })
  t.equal(refused.status, 400)
  t.match(await refused.json(), { errors: [{ path: 'headers', message: /unknown key/ }] })
  t.equal((await register({ name: 'planner', host: '127.0.0.1', port: 9, metadata: { a: 1 } })).status, 201)
  const pages = await Promise.all(['/', '/health', '/agents', '/agents/planner', '/registry', '/stats', '/api/planner/x'].map(async path => (await fetch(origin + path)).text()))
  await writeFile(file, `${await readFile(file, 'utf8')}timeouts: {connect: nonsense}\n`)
  t.equal(await gateway.discovery.reload(), false)
  const state = await readFile(join(dir, '.fleet/registry.json'), 'utf8')

  t.match(pages[4], /"planner"/)
  t.match(state, /"planner"/)
  for (const text of [...pages, state, ...lines, ...audit, JSON.stringify(gateway.discovery.status)]) t.notMatch(text, /own-credential|own-key-in/)
  t.ok(lines.length > 0)
})

t.test('files are read again with a reload; one that is missing changes nothing, and the place of its name is told', async t => {
  const agent = await recordingAgent(t)
  const dir = t.testdir({ key: 'first-key\r\n' })
  const [file, key] = [join(dir, 'fleet.yaml'), join(dir, 'key')]
  const lines: string[] = []
  await writeFile(file, `agents:\n  - name: planner\n    host: 127.0.0.1\n    port: ${agent.port}\n    headers:\n      X-Api-Key:\n        file: \${KEY_FILE}\nhealth: {interval: 1h}\n`)
  const gateway = await startGateway(t, { file, env: { KEY_FILE: key } })
  await gateway.health.firstRound()
  agent.reset()
  const seen = async () => {
    await send(t, gateway, '/api/planner/x')
    return agent.requests.at(-1)!.valuesOf('x-api-key')
  }
  t.same(await seen(), ['first-key'])

  await writeFile(key, 'second-key\n')
  t.same(await seen(), ['first-key'], 'not before the reload')
  t.equal(await gateway.discovery.reload(), true)
  t.same(await seen(), ['second-key'])
  for (const [content, problem] of [['', 'names an empty file'], ['two\nlines', 'must be one line'], ['x'.repeat(9_000), 'at most 8192'], ['x'.repeat(70_000), 'is longer than 64 KiB'], [null, 'can not be read: ENOENT']] as const) {
    if (content === null) await rm(key)
    else await writeFile(key, content)
    t.equal(await gateway.discovery.reload(), false)
    t.match(gateway.discovery.status.error, `${file}:7:15 agents[0].headers.X-Api-Key.file: `)
    t.match(gateway.discovery.status.error, problem)
    t.same(await seen(), ['second-key'], problem)
  }
  t.same(lines, [])
  await t.rejects(startGateway(t, { file, env: { KEY_FILE: key } }), { name: 'ConfigError', message: `${file}:7:15 agents[0].headers.X-Api-Key.file: can not be read: ENOENT (${key})` }, 'nor does it start so')
})

t.test('a rotated credential keeps what was registered of the agent', async t => {
  const dir = t.testdir({ key: 'first-key', 'fleet.yaml': '' })
  const file = join(dir, 'fleet.yaml')
  await writeFile(file, `agents:\n  - {name: planner, port: 9, headers: {X-Api-Key: {file: ${join(dir, 'key')}}}}\n`)
  const gateway = await buildGateway(t, { file, ...unprobed })
  await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', port: 10, aliases: ['plan'], metadata: { about: 'plans' } } })

  await writeFile(join(dir, 'key'), 'second-key')
  t.equal(await gateway.discovery.reload(), true)

  t.match(gateway.registry.get('plan'), { metadata: { about: 'plans' }, headers: ['X-Api-Key', 'second-key'], instances: [{ port: 9 }, { port: 10 }] })
})

t.test('a reload that changes nothing but headers counts, and is told', async t => {
  const file = join(t.testdir({ 'fleet.yaml': '' }), 'fleet.yaml')
  const write = (headers: string) => writeFile(file, `agents:\n  - {name: planner, port: 9${headers}}\n`)
  const { lines, loggerInstance } = logLines()
  await write(', headers: {X-Api-Key: first-key}')
  const gateway = await createGateway({ file, auth: { enabled: false }, auditLog: { enabled: false }, ...unprobed }, { loggerInstance })
  t.teardown(() => gateway.close())
  const headersAfter = async (headers: string) => {
    await write(headers)
    t.equal(await gateway.discovery.reload(), true)
    return gateway.registry.get('planner').headers
  }

  t.same(await headersAfter(', headers: {X-Api-Key: second-key}'), ['X-Api-Key', 'second-key'])
  t.same(await headersAfter(', headers: {X-Other-Key: second-key}'), ['X-Other-Key', 'second-key'])
  t.equal(await headersAfter(''), undefined)
  t.equal(lines.filter(({ msg }) => msg === `reloaded ${file}: agents ~1 (planner)`).length, 3)
})

t.test('latin1 goes out as it is', async t => {
  const { agent, gateway } = await fronted(t, { 'X-Name': 'caf\u00e9\tau lait' })

  await send(t, gateway, '/api/planner/x')

  t.same(agent.requests[0]!.valuesOf('x-name'), ['caf\xe9\tau lait'])
})

t.test('with auth on they go where the client\'s token does not', async t => {
  const agent = await recordingAgent(t)
  const gateway = await startGateway(t, { ...unprobed, auth: { secret: 'fleet-secret-token' }, agents: [{ ...agentAt('planner', agent), headers, forwardAuthorization: true }] })

  await new Promise((resolve, reject) => httpRequest({ host: '127.0.0.1', port: gateway.port, path: '/api/planner/x', headers: { authorization: 'Bearer fleet-secret-token' } }, response => response.resume().on('end', resolve)).on('error', reject).end())

  t.same(agent.requests.at(-1)!.valuesOf('authorization'), [credential])
})
