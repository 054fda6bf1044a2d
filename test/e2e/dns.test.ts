/** Instances that DNS names: who comes and goes with which answer, and when name servers are asked. The name server is the test's own. */
import { once } from 'node:events'
import { unwatchFile } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { ConfigError, parseConfig, readConfigFile } from '../../src/config.ts'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { buildGateway, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { dnsServer, type DnsServer } from '../helpers/dns-server.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { logLines } from '../helpers/log-lines.ts'

// The agents need addresses of their own, since A records name no port. Other systems give loopback only one.
if (process.platform !== 'linux') t.bailout('needs 127.0.0.0/8 on loopback')

const hasIpv6 = Object.values(networkInterfaces()).flat().some(address => address?.address === '::1')

/** Answers with the address that was called. */
const ownAddress: RequestListener = (request, response) => { response.end(request.socket.localAddress) }

/** One agent at several addresses, on one port that is free on all of them. */
async function agentOn (t: Test, hosts: readonly string[], handler = ownAddress): Promise<{ port: number }> {
  for (;;) {
    const servers: Server[] = []
    let port = 0
    try {
      for (const host of hosts) {
        const server = createServer(handler)
        server.listen(port, host)
        await once(server, 'listening')
        servers.push(server)
        port = (server.address() as AddressInfo).port
      }
    } catch (error) {
      for (const server of servers) server.close()
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') continue
      throw error
    }
    t.teardown(() => { for (const server of servers) { server.close(); server.closeAllConnections() } })
    return { port }
  }
}

const hostsOf = (gateway: FastifyInstance, name = 'encoder') => gateway.registry.find(name)?.instances.map(({ host }) => host)

interface Scene { readonly gateway: FastifyInstance, readonly names: DnsServer, readonly clock: ReturnType<typeof fakeClock>, readonly pass: (ms: number) => Promise<void> }

/** A gateway that has the first answers. @param dns beside the resolver; the port is nobody's where the test sends nothing */
async function scene (t: Test, say: (names: DnsServer) => void, dns: object = {}, options: FleetGatewayOptions = {}): Promise<Scene> {
  const names = await dnsServer(t)
  say(names)
  const clock = fakeClock()
  const gateway = await buildGateway(t, { ...unprobed, clock, agents: [{ name: 'encoder', dns: { name: 'encoder.test', type: 'A', port: 9, ...dns, resolvers: [names.address] } }], ...options })
  await gateway.ready()
  names.asked.length = 0
  return { gateway, names, clock, pass: async ms => { clock.advance(ms); await gateway.dns.settled() } }
}

t.test('the addresses of a name serve from the start on, in turn, and are shown as found in DNS', async t => {
  const { port } = await agentOn(t, ['127.0.0.2', '127.0.0.3'])
  const { gateway } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.3', '127.0.0.2']), { port })

  const answers = [await gateway.inject('/api/encoder/'), await gateway.inject('/api/encoder/')].map(({ body }) => body)
  const shown = (await gateway.inject('/registry')).json<unknown>()

  t.same(answers.sort(), ['127.0.0.2', '127.0.0.3'])
  t.match(shown, { encoder: { instances: [{ host: '127.0.0.2', port, source: 'dns', lease: null }, { host: '127.0.0.3', source: 'dns' }] } })
})

t.test('who comes serves with the next answer, and who goes finishes what is under way', async t => {
  const held: (() => void)[] = []
  const began: (() => void)[] = []
  const { port } = await agentOn(t, ['127.0.0.2', '127.0.0.3'], (request, response) => {
    if (request.url !== '/slow') return ownAddress(request, response)
    held.push(() => response.end(request.socket.localAddress))
    for (const begin of began) begin()
  })
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2']), { port })
  const slow = gateway.inject('/api/encoder/slow')
  await new Promise<void>(resolve => { began.push(resolve) })

  names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3'])
  await pass(5_000)
  const after = hostsOf(gateway)
  names.says('encoder.test', 'A', ['127.0.0.3'])
  await pass(5_000)
  const answers = [await gateway.inject('/api/encoder/'), await gateway.inject('/api/encoder/')].map(({ body }) => body)
  for (const finish of held) finish()

  t.same(after, ['127.0.0.2', '127.0.0.3'])
  t.same(answers, ['127.0.0.3', '127.0.0.3'], 'nothing new goes to who left')
  t.match(await slow, { statusCode: 200, body: '127.0.0.2' })
})

t.test('a name is asked for when its TTL ends, within minRefresh and maxRefresh', async t => {
  for (const { ttl, seconds } of [{ ttl: 20, seconds: 20 }, { ttl: 0, seconds: 5 }, { ttl: 86_400, seconds: 30 }]) {
    const { names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2'], ttl))

    await pass(seconds * 1_000 - 1)
    const before = [...names.asked]
    await pass(1)

    t.same(before, [], `TTL ${ttl}: not before ${seconds} s`)
    t.same(names.asked, ['encoder.test A'])
  }
  const { names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2'], 600), { minRefresh: '1m', maxRefresh: '5m' })

  await pass(299_999)
  t.same(names.asked, [])
  await pass(1)
  t.same(names.asked, ['encoder.test A'], 'bounds of its own')
})

t.test('no answer changes nothing, however long, and is told once', async t => {
  const logs = logLines()
  const names = await dnsServer(t)
  names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3'])
  const clock = fakeClock()
  const gateway = await createGateway({ clock, ...unprobed, auth: { enabled: false }, auditLog: { enabled: false }, agents: [{ name: 'encoder', dns: { name: 'encoder.test', type: 'A', port: 9, resolvers: [names.address] } }] }, { loggerInstance: logs.loggerInstance })
  t.teardown(() => gateway.close())
  await gateway.ready()

  for (const trouble of ['SERVFAIL', 'REFUSED', 'SERVFAIL'] as const) {
    names.says('encoder.test', 'A', trouble)
    clock.advance(5_000)
    await gateway.dns.settled()
    t.same(hostsOf(gateway), ['127.0.0.2', '127.0.0.3'], trouble)
  }
  const told = gateway.dns.names
  names.says('encoder.test', 'A', ['127.0.0.3'])
  clock.advance(5_000)
  await gateway.dns.settled()

  t.match(told, [{ agent: 'encoder', name: 'encoder.test', ok: false, error: 'SERVFAIL', answeredAt: clock.now() - 20_000, instances: 2 }])
  t.same(hostsOf(gateway), ['127.0.0.3'])
  t.same(gateway.dns.names, [{ agent: 'encoder', name: 'encoder.test', type: 'A', ok: true, answeredAt: clock.now(), instances: 1 }])
  const lines = logs.lines.map(({ msg }) => msg).filter(msg => msg.startsWith('encoder.test'))
  t.same(lines, ['encoder.test could not be looked up (SERVFAIL); what is known of it stays: 2 of the instances of "encoder"', 'encoder.test can be looked up again'])
})

t.test('what a name leads to is told with the agent and with an explanation, to who may read, and of others nothing', async t => {
  const { gateway, names, clock, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3']))
  await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'plain', port: 9 } })
  const began = new Date(clock.now()).toISOString()
  const told = async () => (await gateway.inject('/agents/encoder')).json<{ dns: unknown }>().dns

  t.same(await told(), [{ name: 'encoder.test', type: 'A', ok: true, answered_at: began, instances: 2 }])
  names.says('encoder.test', 'A', 'REFUSED')
  await pass(5_000)
  t.same(await told(), [{ name: 'encoder.test', type: 'A', ok: false, error: 'REFUSED', answered_at: began, instances: 2 }])
  names.says('encoder.test', 'A', 'NXDOMAIN')
  await pass(5_000)
  await pass(5_000)

  const nobody = [{ name: 'encoder.test', type: 'A', ok: true, answered_at: new Date(clock.now()).toISOString(), instances: 0 }]
  t.same(await told(), nobody)
  t.match((await gateway.inject('/agents')).json(), { encoder: { dns: nobody }, plain: { dns: undefined } })
  t.match((await gateway.inject('/explain?path=/api/encoder/x')).json(), { refusal: { code: 'FLEET_NO_INSTANCE_AVAILABLE' }, agent: { dns: nobody } })
  t.notOk('dns' in (await gateway.inject('/explain?path=/api/plain/x')).json<{ agent: object }>().agent)
})

t.test('metrics have the addresses and the failures of agents that are looked for, and of no other', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3']))
  await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'plain', port: 9 } })
  const series = async () => (await gateway.metrics.text()).split('\n').filter(line => line.startsWith('fleet_dns'))

  t.same(await series(), ['fleet_dns_addresses{agent="encoder"} 2', 'fleet_dns_lookup_failures_total{agent="encoder"} 0'])
  names.says('encoder.test', 'A', 'SERVFAIL')
  await pass(5_000)
  await pass(5_000)
  names.says('encoder.test', 'A', ['127.0.0.3'])
  await pass(5_000)

  t.same(await series(), ['fleet_dns_addresses{agent="encoder"} 1', 'fleet_dns_lookup_failures_total{agent="encoder"} 2'])
  t.notMatch(await gateway.metrics.text(name => name === 'plain'), 'fleet_dns')
})

t.test('many addresses are asked for no more often than few', async t => {
  const addresses = Array.from({ length: 400 }, (_, index) => `127.0.${index >> 8}.${(index & 255) + 1}`).filter(address => !address.endsWith('.256'))
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', addresses, 5))

  t.same(new Set(hostsOf(gateway)), new Set(addresses))
  await pass(4_999)
  t.same(names.asked, [])
  await pass(1)
  t.same(names.asked, ['encoder.test A'])
})

t.test('a name server that is silent, or not there, keeps everybody', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2']))

  names.says('encoder.test', 'A', 'silence')
  await pass(5_000)

  t.same(hostsOf(gateway), ['127.0.0.2'])
  t.match(gateway.dns.names, [{ ok: false, error: 'TIMEOUT' }])
})

t.test('that there is nobody counts when it is said twice in a row', async t => {
  for (const said of ['NXDOMAIN', 'empty'] as const) {
    const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2'], 30))
    names.says('encoder.test', 'A', said)

    await pass(30_000)
    const once = hostsOf(gateway)
    await pass(5_000)

    t.same(once, ['127.0.0.2'], `${said} once`)
    t.same(hostsOf(gateway), [], `${said} twice, the second time after minRefresh`)
    t.match((await gateway.inject('/api/encoder/')).json(), { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
    names.says('encoder.test', 'A', ['127.0.0.4'])
    await pass(5_000)
    t.same(hostsOf(gateway), ['127.0.0.4'], 'who comes back counts at once')
  }
})

t.test('an answer in between takes back that there is nobody', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2']))

  for (const said of ['NXDOMAIN', ['127.0.0.2'], 'empty', 'SERVFAIL', ['127.0.0.2'], 'NXDOMAIN'] as const) {
    names.says('encoder.test', 'A', said)
    await pass(5_000)
  }

  t.same(hostsOf(gateway), ['127.0.0.2'])
})

t.test('without a type both kinds of addresses are asked for, and trouble with one leaves the other alone', { skip: !hasIpv6 && 'needs IPv6 on loopback' }, async t => {
  const { port } = await agentOn(t, ['127.0.0.2', '::1'])
  const { gateway, names, pass } = await scene(t, names => {
    names.says('encoder.test', 'A', ['127.0.0.2'])
    names.says('encoder.test', 'AAAA', ['::1'])
  }, { port, type: undefined })
  const both = [await gateway.inject('/api/encoder/'), await gateway.inject('/api/encoder/')].map(({ body }) => body)

  names.says('encoder.test', 'AAAA', 'SERVFAIL')
  names.says('encoder.test', 'A', ['127.0.0.3'])
  await pass(5_000)
  const troubled = hostsOf(gateway)
  names.says('encoder.test', 'AAAA', 'empty')
  await pass(5_000)
  await pass(5_000)

  t.same(both.sort(), ['127.0.0.2', '::1'])
  t.same(troubled, ['127.0.0.3', '::1'])
  t.same(hostsOf(gateway), ['127.0.0.3'])
})

t.test('only IPv6 is asked for where the type is AAAA', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'AAAA', ['fd00::2', 'fd00:0:0::1']), { type: 'AAAA' })

  await pass(5_000)

  t.same(hostsOf(gateway), ['fd00::1', 'fd00::2'])
  t.same(names.asked, ['encoder.test AAAA'])
})

t.test('SRV records name ports and weights; those of the lowest priority count', async t => {
  const [one, two] = [await agentOn(t, ['127.0.0.2']), await agentOn(t, ['127.0.0.2'])]
  const { gateway, names, pass } = await scene(t, names => {
    names.says('_http._tcp.encoder.test', 'SRV', [
      { priority: 10, weight: 3, port: one.port, target: 'pod-1.test' },
      { priority: 10, weight: 1, port: two.port, target: 'pod-2.test' },
      { priority: 20, weight: 9, port: 9, target: 'spare.test' }
    ])
    names.says('pod-1.test', 'A', ['127.0.0.2'], 20)
    names.says('pod-2.test', 'A', ['127.0.0.2'], 10)
    names.says('spare.test', 'A', ['127.0.0.9'])
  }, { name: '_http._tcp.encoder.test', type: 'SRV', port: undefined }, { balancer: { policy: 'weighted' } })
  const instances = gateway.registry.get('encoder').instances.map(({ port, weight }) => ({ port, weight }))
  const statuses = await Promise.all(Array.from({ length: 4 }, async () => (await gateway.inject('/api/encoder/')).statusCode))

  t.same(instances.sort((a, b) => b.weight - a.weight), [{ port: one.port, weight: 3 }, { port: two.port, weight: 1 }])
  t.same(statuses, [200, 200, 200, 200])

  await pass(9_999)
  t.same(names.asked, [])
  await pass(1)
  t.match(names.asked, ['_http._tcp.encoder.test SRV'], 'when the first TTL of their names ends, since SRV records\' own are not told')
  t.notOk(names.asked.includes('spare.test A'))

  names.says('_http._tcp.encoder.test', 'SRV', 'SERVFAIL')
  await pass(10_000)
  t.equal(hostsOf(gateway)?.length, 2)
  names.says('_http._tcp.encoder.test', 'SRV', [{ weight: 0, port: 9, target: 'spare.test' }, { weight: 65_535, port: two.port, target: 'pod-2.test' }])
  await pass(5_000)
  t.match(gateway.registry.get('encoder').instances.map(({ host, weight }) => ({ host, weight })), [{ host: '127.0.0.2', weight: 1_000 }, { host: '127.0.0.9', weight: 1 }])
  names.says('_http._tcp.encoder.test', 'SRV', [{ port: 1, target: '.' }])
  await pass(5_000)
  await pass(5_000)
  t.same(hostsOf(gateway), [], 'a target "." is a service that there is not')
})

t.test('addresses of nobody are left out', async t => {
  const { gateway } = await scene(t, names => names.says('encoder.test', 'A', ['0.0.0.0', '127.0.0.2', '239.1.1.1']))

  t.same(hostsOf(gateway), ['127.0.0.2'])
})

t.test('instances of the file and registrations stand beside those of DNS, and one at the same address is one', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3', '127.0.0.4']), {}, {})
  await gateway.close()
  const { gateway: mixed, names: others, pass: passMixed } = await scene(t, () => {}, {}, {})
  t.same(hostsOf(mixed), [], 'a name that nobody knows is an agent without instances')
  others.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3'])
  await passMixed(5_000)

  const registered = await mixed.inject({ method: 'POST', url: '/registry/register', payload: { name: 'encoder', host: '127.0.0.3', port: 9, ttl: 60 } })
  await mixed.inject({ method: 'POST', url: '/registry/register', payload: { name: 'encoder', host: '127.0.0.5', port: 9 } })
  const together = mixed.registry.get('encoder').instances.map(({ host, source }) => `${host} ${source}`)
  others.says('encoder.test', 'A', ['127.0.0.2'])
  await passMixed(5_000)

  t.equal(registered.statusCode, 200, 'known already')
  t.same(together, ['127.0.0.2 dns', '127.0.0.3 dns', '127.0.0.5 api'])
  t.same(mixed.registry.get('encoder').instances.map(({ host, source }) => `${host} ${source}`), ['127.0.0.2 dns', '127.0.0.3 api', '127.0.0.5 api'], 'who registered stays')
  await pass(0)
  t.same(names.asked, [], 'a gateway that was closed asks nobody')
})

t.test('an instance that a DELETE took out stays out until DNS names it no more', async t => {
  const { gateway, names, pass } = await scene(t, names => names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3']))

  const answer = await gateway.inject({ method: 'DELETE', url: '/registry/encoder?host=127.0.0.3&port=9' })
  await pass(5_000)
  const afterwards = hostsOf(gateway)
  names.says('encoder.test', 'A', ['127.0.0.2'])
  await pass(5_000)
  names.says('encoder.test', 'A', ['127.0.0.2', '127.0.0.3'])
  await pass(5_000)

  t.match(answer.json(), { message: 'deregistered encoder', note: /^It was found in DNS, so it stays out until DNS names it no more/ })
  t.same(afterwards, ['127.0.0.2'])
  t.same(hostsOf(gateway), ['127.0.0.2', '127.0.0.3'])
})

t.test('what DNS found is believed as the file is: it gets the gateway\'s own fields', async t => {
  const { port } = await agentOn(t, ['127.0.0.2'], (request, response) => response.end(request.headers['x-key']))
  const names = await dnsServer(t)
  names.says('encoder.test', 'A', ['127.0.0.2'])

  const gateway = await startGateway(t, { ...unprobed, registry: { allowedHosts: ['.internal'] }, agents: [{ name: 'encoder', headers: { 'X-Key': 'of-the-gateway' }, dns: { name: 'encoder.test', type: 'A', port, resolvers: [names.address] } }] })

  t.equal(await (await fetch(`${gateway.origin}/api/encoder/`)).text(), 'of-the-gateway')
})

t.test('a reload begins to ask for new names and ends with old ones, and no instance goes before another name is answered', async t => {
  const names = await dnsServer(t)
  names.says('old.test', 'A', ['127.0.0.2'], 30)
  names.says('new.test', 'A', 'SERVFAIL')
  const yaml = (name: string, more = '') => `agents: [{name: encoder, dns: {name: ${name}, type: A, port: 9, resolvers: ["${names.address}"]${more}}}]\n`
  const file = join(t.testdir({ 'fleet.yaml': yaml('old.test') }), 'fleet.yaml')
  const clock = fakeClock()
  const gateway = await buildGateway(t, { file, clock, ...unprobed })
  unwatchFile(file)
  await gateway.ready()
  const reload = async (text: string) => {
    await writeFile(file, text)
    await gateway.discovery.reload()
    await gateway.dns.settled()
  }
  names.asked.length = 0

  await reload(yaml('new.test'))
  const unanswered = hostsOf(gateway)
  names.says('new.test', 'A', ['127.0.0.3'], 30)
  clock.advance(5_000)
  await gateway.dns.settled()
  const answered = hostsOf(gateway)
  await reload(yaml('new.test') + '# the same\n')
  clock.advance(29_999)
  await gateway.dns.settled()
  const askedFor = [...new Set(names.asked)]
  await reload('agents: [{name: encoder, port: 9}]\n')
  const without = hostsOf(gateway)
  names.asked.length = 0
  clock.advance(60_000)
  await gateway.dns.settled()

  t.same(unanswered, ['127.0.0.2'])
  t.same(answered, ['127.0.0.3'])
  t.same(askedFor, ['new.test A'])
  t.same(without, ['localhost'])
  t.same(names.asked, [])
  await reload('agents: []\n')
  t.equal(hostsOf(gateway), undefined)
})

t.test('a start waits for the first answers, and not for ever', async t => {
  const names = await dnsServer(t)
  names.says('encoder.test', 'A', 'silence')
  const clock = fakeClock()
  const gateway = await createGateway({ ...unprobed, clock, auth: { enabled: false }, auditLog: { enabled: false }, agents: [{ name: 'encoder', dns: { name: 'encoder.test', type: 'A', port: 9, resolvers: [names.address] } }] }, { logger: false })
  t.teardown(() => gateway.close())
  gateway.addHook('onReady', async () => {}) // behind those of the gateway

  const ready = gateway.ready().then(() => 'ready', (error: unknown) => String(error))
  while (await Promise.race([ready, new Promise(resolve => setImmediate(resolve, 'waits'))]) === 'waits') clock.advance(1_000)

  t.equal(await ready, 'ready')
  t.same(hostsOf(gateway), [])
})

t.test('what is wrong with `dns` is named with line and column', async t => {
  const cases: [yaml: string, problem: string][] = [
    ['{name: a, dns: {name: a.test}}', '2:20 agents[0].dns.port: is required, unless the type is SRV'],
    ['{name: a, dns: {name: a.test, type: SRV, port: 9}}', '2:46 agents[0].dns.port: can not stand beside the type SRV, whose records name the port'],
    ['{name: a, weight: 2, dns: {name: a.test, type: SRV}}', '2:52 agents[0].dns.type: has weights of its own, and the entry has one, too'],
    ['{name: a, dns: {name: 10.0.0.1, port: 9}}', '2:27 agents[0].dns.name: must be a name in DNS, and no address (got "10.0.0.1")'],
    ['{name: a, dns: {name: a.test, port: 9, type: MX}}', '2:50 agents[0].dns.type: must be one of "A", "AAAA", "SRV" (got "MX")'],
    ['{name: a, dns: {name: a.test, port: 9, resolver: [10.0.0.1]}}', '2:44 agents[0].dns.resolver: unknown key, did you mean "resolvers"?'],
    ['{name: a, dns: {name: a.test, port: 9, resolvers: [10.0.0.1, ns.test, "10.0.0.1:0"]}}', '2:66 agents[0].dns.resolvers[1]: must be an IP address, with a port or without, such as "10.0.0.2" or "[fd00::2]:53"'],
    ['{name: a, dns: {name: a.test, port: 9, minRefresh: 2m, maxRefresh: 1m}}', '2:56 agents[0].dns.minRefresh: must not be longer than maxRefresh'],
    ['{name: a, dns: {name: a.test, port: 9, minRefresh: 1ms}}', '2:56 agents[0].dns.minRefresh: must be a duration such as "500ms", "30s" or "5m", at least 1s, at most 1d (got "1ms")'],
    ['{name: a, protocol: https, dns: {name: a.test, port: 9}}', '2:38 agents[0].dns.name: leads to addresses, so with protocol: https tls.serverName has to say for whom their certificate is'],
    ['{name: a, host: b, dns: {name: a.test, port: 9}}', '2:5 agents[0].port: is required beside host'],
    ['{name: a, dns: {name: a.test, port: 9}}\n  - {name: a, dns: {name: A.test., port: 9}}', '3:27 agents[1].dns.name: "a" is looked for under this name already'],
    ['{name: a}', '2:5 agents[0].port: is required, unless there are instances or dns']
  ]
  const file = join(t.testdir({ 'fleet.yaml': '' }), 'fleet.yaml')

  for (const [yaml, problem] of cases) {
    await writeFile(file, `agents:\n  - ${yaml}\n`)
    const { value, ...source } = await readConfigFile(file)
    const error = (() => { try { return parseConfig(value, source) } catch (error) { return error } })()
    t.ok(error instanceof ConfigError, yaml)
    t.equal((error as Error).message.split('\n')[0], `${file}:${problem}`)
  }
})
