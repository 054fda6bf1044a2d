/**
 * What a name of a registration resolves to is judged at each connection: by whatever the gateway connects (requests with either client,
 * WebSockets, probes) and however often the name is turned. The address that must not be reached is 0.0.0.0, which on Linux leads to this
 * machine, so that a gateway that did not look would be seen to connect.
 */
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { buildGateway, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { deadPort } from '../helpers/fake-agent.ts'
import { fakeNames } from '../helpers/fake-names.ts'
import { rawRequest } from '../helpers/raw-client.ts'

/** A server that closes each connection behind its answer, so that each request needs a new one, and counts them. */
async function server (t: Test, host: string, port = 0, name = 'victim') {
  const answer: RequestListener = (_request, response) => { response.setHeader('connection', 'close').end(name) }
  const listening = createServer(answer).listen(port, host)
  await once(listening, 'listening')
  t.teardown(() => {
    listening.close()
    listening.closeAllConnections()
  })
  let connections = 0
  listening.on('connection', () => { connections++ })
  return { port: (listening.address() as AddressInfo).port, connections: () => connections }
}

async function register (gateway: ListeningGateway, body: object): Promise<{ status: number, id: string }> {
  const reply = await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  const { instance } = await reply.json() as { instance?: { id: string } }
  return { status: reply.status, id: instance?.id ?? '' }
}

async function ask (gateway: ListeningGateway, path: string): Promise<string> {
  const reply = await fetch(gateway.origin + path)
  const text = await reply.text()
  return reply.status === 200 ? text : `${reply.status} ${(JSON.parse(text) as { code: string }).code}`
}

const handshake = 'GET /api/rebound/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'

const refused = '502 FLEET_UPSTREAM_UNREACHABLE'

for (const upstreamClient of ['own', 'undici'] as const) {
  t.test(`a name that is turned to a forbidden address leads nowhere from then on, with the client "${upstreamClient}"`, async t => {
    const names = fakeNames(t, { 'rebound.test': ['127.0.0.2'] })
    const victim = await server(t, '127.0.0.1')
    await server(t, '127.0.0.2', victim.port, 'agent')
    const gateway = await startGateway(t, { upstreamClient, ...unprobed })
    await register(gateway, { name: 'rebound', host: 'rebound.test', port: victim.port })
    t.equal(await ask(gateway, '/api/rebound/'), 'agent')
    const before = victim.connections()

    for (const addresses of [['0.0.0.0'], ['::ffff:127.0.0.1'], ['169.254.169.254'], ['0.0.0.0', '::ffff:7f00:1'], ['::', 'fe80::1']]) {
      names['rebound.test'] = addresses
      t.equal(await ask(gateway, '/api/rebound/'), refused, addresses.join())
      t.match(await rawRequest(t, gateway.port, handshake), /^HTTP\/1\.1 502 [^]*FLEET_UPSTREAM_UNREACHABLE/, 'a WebSocket')
    }

    t.equal(victim.connections(), before)
    names['rebound.test'] = ['127.0.0.2']
    t.equal(await ask(gateway, '/api/rebound/'), 'agent', 'and back')
  })

  t.test(`of several addresses the forbidden ones are left out, with the client "${upstreamClient}"`, async t => {
    const names = fakeNames(t, { 'mixed.test': [] })
    const victim = await server(t, '127.0.0.1')
    await server(t, '127.0.0.2', victim.port, 'agent')
    const gateway = await startGateway(t, { upstreamClient, ...unprobed })
    await register(gateway, { name: 'mixed', host: 'mixed.test', port: victim.port })

    for (const addresses of [['0.0.0.0', '127.0.0.2'], ['127.0.0.2', '0.0.0.0'], ['::ffff:127.0.0.1', '::', '127.0.0.2', '169.254.169.254']]) {
      names['mixed.test'] = addresses
      for (let count = 0; count < 3; count++) t.equal(await ask(gateway, '/api/mixed/'), 'agent', addresses.join())
    }

    t.equal(victim.connections(), 0)
  })
}

t.test('probes of either kind and the probe on demand do not connect to a forbidden address', async t => {
  fakeNames(t, { 'rebound.test': ['0.0.0.0'] })
  const victim = await server(t, '127.0.0.1')
  const gateway = await startGateway(t, { health: { interval: '100ms', unhealthyAfter: 1 } })
  const registered = [
    await register(gateway, { name: 'tcp', host: 'rebound.test', port: victim.port }),
    await register(gateway, { name: 'http', host: 'rebound.test', port: victim.port, health: { path: '/health' } })
  ]

  await gateway.health.firstRound()

  for (const [index, name] of ['tcp', 'http'].entries()) {
    const reply = await fetch(`${gateway.origin}/registry/${name}/instances/${registered[index]!.id}/probe`, { method: 'POST' })
    t.match(await reply.json(), { ok: false, outcome: 'refused', status: null, cause: 'FLEET_ADDRESS_REFUSED' }, name)
    t.equal(gateway.registry.get(name).instances[0]!.runtime.health.up, false, name)
  }
  t.equal(victim.connections(), 0)
})

t.test('registry.allowedHosts counts for what a name resolves to, and a localhost that it names is loopback all the same', async t => {
  const names = fakeNames(t, { 'agent.test': ['127.0.0.1'] })
  const agent = await server(t, '127.0.0.1')
  const gateway = await startGateway(t, { registry: { allowedHosts: ['.test', 'localhost', '10.0.0.0/8'] }, ...unprobed })
  for (const [name, host, status] of [['named', 'agent.test', 201], ['other', 'other.example', 400], ['literal', '127.0.0.1', 400]] as const) {
    t.equal((await register(gateway, { name, host, port: agent.port })).status, status, host)
  }

  t.equal(await ask(gateway, '/api/named/'), refused, 'not in 10.0.0.0/8')
  t.equal(agent.connections(), 0)
  t.equal((await register(gateway, { name: 'local', host: 'localhost', port: agent.port })).status, 201)
  t.equal(await ask(gateway, '/api/local/'), 'victim')

  const open = await startGateway(t, { registry: { allowedHosts: ['.test'] }, ...unprobed })
  await register(open, { name: 'named', host: 'agent.test', port: agent.port })
  t.equal(await ask(open, '/api/named/'), 'victim', 'names say nothing of addresses')
  names['agent.test'] = ['0.0.0.0']
  t.equal(await ask(open, '/api/named/'), refused, 'but what is refused anyway stays refused')
})

t.test('what fleet.yaml names is connected to wherever it leads, for as long as it names it', async t => {
  fakeNames(t, { 'agent.test': ['0.0.0.0'] })
  const agent = await server(t, '127.0.0.1')
  const file = join(t.testdir({ 'fleet.yaml': `agents:\n  - {name: a, host: agent.test, port: ${agent.port}}\n` }), 'fleet.yaml')
  const gateway = await startGateway(t, { file, ...unprobed })
  t.equal((await register(gateway, { name: 'a', host: 'agent.test', port: agent.port })).status, 200, 'it is registered, too')
  t.equal(await ask(gateway, '/api/a/'), 'victim')
  const before = agent.connections()

  await writeFile(file, 'agents: []\n')
  t.equal(await gateway.discovery.reload(), true)

  t.equal(await ask(gateway, '/api/a/'), refused)
  t.equal(agent.connections(), before)
})

t.test('a name that leads to the gateway itself leads nowhere, however it is spelt', async t => {
  const names = fakeNames(t, { 'self.test': ['127.0.0.1'], 'agent.test': ['127.0.0.1'] })
  const agent = await server(t, '127.0.0.1')
  const gateway = await startGateway(t, unprobed)
  t.equal((await register(gateway, { name: 'self', host: 'self.test', port: gateway.port })).status, 201, 'nobody knows yet')
  t.equal((await register(gateway, { name: 'beside', host: 'agent.test', port: agent.port })).status, 201)

  for (const address of ['127.0.0.1', '127.0.0.2', '::1']) {
    names['self.test'] = [address]
    t.equal(await ask(gateway, '/api/self/health'), refused, `${address}: not even the loop is made`)
  }
  t.equal(await ask(gateway, '/api/beside/'), 'victim', 'another port of the same address is another program')
})

t.test('the gateway\'s own address is refused in every spelling, names of the machine included', async t => {
  const gateway = await startGateway(t, unprobed)
  const wide = await startEverywhere(t)
  const loopback = ['127.0.0.1', '127.0.0.2', '127.0.0.1.', '::1', '0:0:0:0:0:0:0:1', 'localhost', 'LOCALHOST', 'localhost.', 'app.localhost', 'ip6-localhost', 'localhost.localdomain']
  const machine = [hostname(), hostname().toUpperCase(), `${hostname().split('.')[0]}.local`, ...Object.values(networkInterfaces()).flatMap(entries => entries ?? []).map(({ address }) => address)]

  for (const host of loopback) t.equal((await register(gateway, { name: 'self', host, port: gateway.port })).status, 400, host)
  for (const host of [...loopback, ...machine]) t.equal((await register(wide, { name: 'self', host, port: wide.port })).status, 400, host)

  t.equal((await register(gateway, { name: 'self', host: 'localhost', port: await deadPort() })).status, 201, 'another port')
})

/** A gateway on all addresses of the machine. */
async function startEverywhere (t: Test): Promise<ListeningGateway> {
  const gateway = await buildGateway(t, { server: { host: '0.0.0.0' }, ...unprobed })
  await gateway.listen({ host: '0.0.0.0', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  return Object.assign(gateway, { port, origin: `http://127.0.0.1:${port}` })
}
