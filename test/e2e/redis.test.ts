/** Several gateways that share a fleet by a real Redis: what one is told, all serve; and what becomes of it when Redis is slow, gone, or empty. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createGateway } from '../../src/gateway.ts'
import { quiet, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { certificates, withoutOpenssl } from '../helpers/certificates.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { logLines } from '../helpers/log-lines.ts'
import { noRedis, startRedis, type RedisServer } from '../helpers/redis-server.ts'
import { ask, cutter, gatewaysOn, keyPrefixOf, ports, register, until } from '../helpers/sharing-gateways.ts'

/** A way to Redis on which the last answer before a connection is ready waits, when that is wanted, until the client has ended its side. */
async function lateAnswers (t: Test, { port }: RedisServer) {
  const sockets = new Set<Socket>()
  let isLate = false
  let waiting = 0
  const server = createServer({ allowHalfOpen: true }, client => {
    const upstream = connect(port, '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {}).on('close', () => { sockets.delete(socket); client.destroy(); upstream.destroy() })
    }
    client.pipe(upstream, { end: false })
    upstream.on('data', (chunk: Buffer) => {
      if (!isLate || !chunk.includes('redis_version:')) return void client.write(chunk)
      waiting++
      client.on('end', () => client.end(chunk))
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** All connections end; those that come next are as described. @returns how many there were */
    beLate () {
      const count = sockets.size / 2
      isLate = true
      for (const socket of sockets) socket.destroy()
      return count
    },
    get waiting () { return waiting },
    get open () { return sockets.size }
  }
}

t.test('gateways that share a Redis', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  await t.test('what is registered at one is served by all when it is answered, and gone from all when it is removed', async t => {
    const [a, b, c] = await gatewaysOn(t, redis.url, 3) as [ListeningGateway, ListeningGateway, ListeningGateway]
    const agent = await fakeAgent(t)

    const answer = await register(a, { name: 'planner', host: agent.host, port: agent.port, aliases: ['plan'], metadata: { about: ['plans'] }, timeouts: { response: '5s' } })

    t.equal(answer.status, 201)
    for (const gateway of [b, c]) await until(() => ports(gateway, 'plan').length === 1, 'every gateway has it')
    for (const gateway of [a, b, c]) t.match(await ask(gateway, 'GET', '/api/plan/x'), { status: 200, body: { port: agent.port } })
    t.match(c.registry.get('planner'), { aliases: ['plan'], metadata: { about: ['plans'] }, policy: { timeouts: { response: 5_000 } } })
    t.match(await register(b, { name: 'planner', host: agent.host, port: agent.port, weight: 3 }), { status: 200 }, 'it is known there')
    await until(() => a.registry.get('planner').instances[0]?.weight === 3, 'the first has what the second was told')
    t.match(a.registry.get('planner').metadata, { about: ['plans'] })

    t.match(await ask(c, 'DELETE', '/registry/plan'), { status: 200 })

    for (const gateway of [a, b]) await until(() => gateway.registry.find('planner') === undefined, 'it is unknown everywhere')
    t.match(await ask(a, 'GET', '/api/planner/x'), { status: 404 })
  })

  await t.test('registrations at several at once are all there, and a name is given once', async t => {
    const gateways = await gatewaysOn(t, redis.url, 3)

    /** As a client does it: a Redis that is slow to write may have the first all the same, and then it is known. */
    async function registerAtLast (gateway: ListeningGateway, body: object): Promise<number> {
      const { status, headers } = await register(gateway, body)
      if (status !== 503) return status === 200 ? 201 : status
      t.equal(headers.get('retry-after'), '1')
      await wait(1_000)
      return await registerAtLast(gateway, body)
    }

    const statuses = await Promise.all(Array.from({ length: 60 }, (_, index) => registerAtLast(gateways[index % 3]!, { name: 'crowd', port: 20_000 + index, metadata: { index } })))
    const named = await Promise.all(gateways.map((gateway, index) => registerAtLast(gateway, { name: `claimant-${index}`, port: 21_000, aliases: ['prize'] })))

    t.same(new Set(statuses), new Set([201]))
    t.same([...named].sort(), [201, 409, 409])
    for (const gateway of gateways) await until(() => ports(gateway, 'crowd').length === 60, 'all are everywhere')
    const winner = named.findIndex(status => status === 201)
    for (const gateway of gateways) await until(() => gateway.registry.find('prize')?.name === `claimant-${winner}`, 'the name is the same everywhere')
    for (const gateway of gateways) t.equal([...gateway.registry.agents()].length, 2, 'who was refused is nowhere')
  })

  await t.test('a gateway that starts later, or again, has what the others have', async t => {
    const [first] = await gatewaysOn(t, redis.url, 1, { agents: [{ name: 'of-the-file', port: 22_000 }] }) as [ListeningGateway]
    await register(first, { name: 'planner', port: 22_001, ttl: 60 })
    const { body: { instance } } = await register(first, { name: 'planner', port: 22_002 })
    await ask(first, 'DELETE', `/registry/planner/instances/${instance.id}?drain=true`)
    await first.close()

    const [second] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]

    t.ok(ports(second, 'planner').includes(22_001))
    t.equal(second.registry.find('of-the-file'), undefined, 'what a file says is each gateway\'s own')
    t.equal(second.registry.get('planner').instances[0]?.lease?.ttlMs, 60_000)
  })

  await t.test('a drain is everywhere, lasts as long as a request does at any gateway, and ends for an instance that registers again', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    let answer = () => {}
    const agent = await fakeAgent(t, (_request, response) => { answer = () => response.end('{}') })
    const { body: { instance: { id } } } = await register(a, { name: 'planner', host: agent.host, port: agent.port })
    await until(() => ports(b, 'planner').length === 1, 'both have it')
    const running = ask(b, 'GET', '/api/planner/x')
    await until(() => agent.requests.length === 1, 'the request is there')

    t.match(await ask(a, 'DELETE', `/registry/planner/instances/${id}?drain=true`), { status: 200 })

    await until(() => b.registry.instance('planner', id).runtime.draining, 'the other knows')
    t.match(await ask(b, 'GET', '/api/planner/x'), { status: 503 })
    t.match(await register(b, { name: 'planner', host: agent.host, port: agent.port }), { status: 200 })
    await until(() => !a.registry.instance('planner', id).runtime.draining, 'the first knows that it is over')
    t.match(await ask(a, 'DELETE', `/registry/planner/instances/${id}?drain=true`), { status: 200 })
    await wait(3_000) // more than a gateway has for saying that it has requests
    for (const gateway of [a, b]) t.same(ports(gateway, 'planner'), [agent.port], 'it is not gone before its last request')
    answer()
    t.match(await running, { status: 200 })
    for (const gateway of [a, b]) await until(() => ports(gateway, 'planner').length === 0, 'it leaves when its request is over')
  })

  await t.test('a heartbeat counts at whichever gateway it arrives, and without one an instance leaves all', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    const { body: { instance: { id } } } = await register(a, { name: 'planner', port: 23_000, ttl: 1 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')

    for (const end = Date.now() + 2_500; Date.now() < end; await wait(200)) {
      t.match(await ask(b, 'PUT', `/registry/planner/instances/${id}`), { status: 200, body: { lease: { ttl_seconds: 1 } } })
      t.same(ports(a, 'planner'), [23_000], 'who had no heartbeat itself has asked')
    }

    for (const gateway of [a, b]) await until(() => ports(gateway, 'planner').length === 0, 'its lease ran out')
    t.match(await ask(a, 'PUT', `/registry/planner/instances/${id}`), { status: 404 })
  })

  await t.test('when most leases run out at once their instances stay, whichever gateways find that', async t => {
    const gateways = await gatewaysOn(t, redis.url, 3)
    await Promise.all(Array.from({ length: 9 }, (_, index) => register(gateways[index % 3]!, { name: 'planner', port: 24_000 + index, ttl: 3 })))
    await until(() => gateways.every(gateway => ports(gateway, 'planner').length === 9), 'all have all')

    await until(() => gateways.every(({ registry }) => registry.leaseCount.lapsed > 0), 'each keeps some without a lease')

    await wait(3_500) // longer than another ttl
    const kept = ports(gateways[0]!, 'planner')
    t.ok(kept.length >= 5, `of nine ${kept.length} are left: at worst those go that were found before half had lapsed`)
    for (const gateway of gateways) t.same(ports(gateway, 'planner'), kept)
  })

  await t.test('a gateway that is gone takes nothing with it', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    const agent = await fakeAgent(t)
    await register(a, { name: 'planner', host: agent.host, port: agent.port })
    await a.close()
    await until(() => ports(b, 'planner').length === 1, 'what it acknowledged is told')

    t.match(await ask(b, 'GET', '/api/planner/x'), { status: 200 })
    t.match(await register(b, { name: 'planner', port: 25_001 }), { status: 201 })
  })

  await t.test('while Redis is gone the fleet is served and registrations are refused; with its data it is as if nothing had been', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2, { metrics: { enabled: true } }) as [ListeningGateway, ListeningGateway]
    const agent = await fakeAgent(t)
    const { body: { instance: { id } } } = await register(a, { name: 'planner', host: agent.host, port: agent.port, ttl: 1 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')
    t.match(await ask(a, 'GET', '/health/ready'), { status: 200, body: { status: 'ready', degraded: undefined } })
    t.match(await a.metrics.text(), /^fleet_redis_up 1$/m)

    await redis.kill()
    await until(() => !a.redis.isUp && !b.redis.isUp, 'both know that it is gone')

    for (const gateway of [a, b]) {
      t.match(await register(gateway, { name: 'late', port: 26_001 }), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
      t.match(await ask(gateway, 'DELETE', `/registry/planner/instances/${id}`), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
      t.match(await ask(gateway, 'GET', '/health/ready'), { status: 200, body: { status: 'ready', degraded: ['redis'] } })
    }
    const refused = await ask(a, 'PUT', `/registry/planner/instances/${id}`)
    t.match(refused, { status: 503 })
    t.equal(refused.headers.get('retry-after'), '1')
    t.match(await a.metrics.text(), /^fleet_redis_up 0$/m)
    await wait(3_500) // several times its lease, and longer than what counts as a pause
    for (const gateway of [a, b]) t.match(await ask(gateway, 'GET', '/api/planner/x'), { status: 200 }, 'no lease runs out that nobody can renew')
    const removed: string[] = []
    for (const gateway of [a, b]) gateway.registry.onChange(change => removed.push(...change.removed.map(({ origin }) => origin)))

    await redis.restart()

    await until(async () => (await ask(b, 'PUT', `/registry/planner/instances/${id}`)).status === 200, 'heartbeats count again')
    t.same(removed, [], 'nothing went and came back')
    await until(async () => (await register(a, { name: 'late', port: 26_001 })).status === 201, 'registrations, too')
    await until(() => ports(b, 'late').length === 1, 'and are everywhere')
    // Who answered may have read everything again for it, and be done with that a moment later.
    await until(async () => ((await ask(a, 'GET', '/health/ready')).body as { degraded?: string[] }).degraded === undefined, 'nothing is degraded')
  })

  await t.test('a Redis that comes back empty is told what the gateways know, and nothing flaps', async t => {
    const [a, b, c] = await gatewaysOn(t, redis.url, 3) as [ListeningGateway, ListeningGateway, ListeningGateway]
    const agent = await fakeAgent(t)
    await register(a, { name: 'planner', host: agent.host, port: agent.port, aliases: ['plan'], ttl: 60 })
    for (let port = 27_000; port < 27_020; port++) await register(b, { name: `agent-${port}`, port })
    await until(() => [a, b, c].every(({ registry }) => registry.size === 21), 'all have all')
    const removed: string[] = []
    for (const gateway of [a, b, c]) gateway.registry.onChange(change => removed.push(...change.removed.map(({ origin }) => origin)))

    await redis.restart({ empty: true })

    for (const [index, gateway] of [a, b, c].entries()) await until(async () => (await register(gateway, { name: 'late', port: 27_100 + index })).status === 201, 'registrations are taken')
    for (const gateway of [a, b, c]) await until(() => ports(gateway, 'late').length === 3 && gateway.registry.size === 22, 'all have all')
    t.same(removed, [])
    const [later] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    t.equal(later.registry.size, 22, 'and Redis has it')
    t.match(later.registry.get('plan'), { name: 'planner', instances: [{ port: agent.port, lease: { ttlMs: 60_000 } }] })
    t.match(await ask(a, 'DELETE', '/registry/agent-27000'), { status: 200 })
    await until(() => later.registry.find('agent-27000') === undefined, 'who is removed after that stays away')
  })

  await t.test('a user that may hear of nothing is told of once for each, and is heard of as soon as it may', async t => {
    await redis.ask(client => client.call('ACL', 'SETUSER', 'deaf', 'on', '>password-of-deaf', '~*', '+@all', 'resetchannels'))
    const log = logLines()
    const gateway = await startGateway(t, { ...quiet, ...unprobed, redis: { url: redis.url.replace('//', '//deaf:password-of-deaf@'), keyPrefix: 'deaf:' } }, { loggerInstance: log.loggerInstance })
    const refusals = () => log.lines.filter(({ msg }) => /^Redis lets nobody hear deaf:.*NOPERM/.test(msg))
    await until(() => refusals().length === 3, 'each has said so')
    t.equal(gateway.registrations.isAvailable, false)

    await redis.ask(client => client.call('ACL', 'SETUSER', 'deaf', '&deaf:*'))

    await until(() => gateway.registrations.isAvailable, 'it hears')
    t.equal(refusals().length, 3)
  })

  await t.test('who hears of changes by a new connection asks for them once', async t => {
    const [gateway] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    const asked = async () => Number(/cmdstat_subscribe:calls=(\d+)/.exec(await redis.ask(client => client.info('commandstats')))?.[1])
    const before = await asked()

    await redis.ask(client => client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'))
    await until(async () => !gateway.registrations.isAvailable || await asked() > before, 'it has lost its connection')
    await until(async () => gateway.registrations.isAvailable && await asked() >= before + 3, 'it hears again, of registrations, of revoked keys and of questions')

    t.equal(await asked() - before, 3, 'once for each: the client by itself would do so as well, and tell nobody when that fails')
  })

  await t.test('all data that vanishes while the connection stands is written again', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    await register(a, { name: 'planner', port: 28_000 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')

    await redis.ask(client => client.flushall())

    await until(async () => (await redis.ask(client => client.keys('*registry}:agent:planner'))).length > 0, 'it is in Redis again')
    for (const gateway of [a, b]) t.same(ports(gateway, 'planner'), [28_000])
  })

  await t.test('a Redis that does not answer holds nobody up for long, and on goes what was', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    const agent = await fakeAgent(t)
    const { body: { instance: { id } } } = await register(a, { name: 'planner', host: agent.host, port: agent.port, ttl: 1 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')

    redis.pause()
    t.teardown(() => redis.resume())

    t.match(await register(a, { name: 'late', port: 29_001 }), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
    await until(() => !a.redis.isUp && !b.redis.isUp, 'both know that it is paused')
    await wait(3_500)
    for (const gateway of [a, b]) t.match(await ask(gateway, 'GET', '/api/planner/x'), { status: 200 })
    const removed: string[] = []
    for (const gateway of [a, b]) gateway.registry.onChange(change => removed.push(...change.removed.map(({ origin }) => origin)))
    redis.resume()

    await until(async () => (await ask(b, 'PUT', `/registry/planner/instances/${id}`)).status === 200, 'heartbeats count again')
    t.notOk(removed.includes(agent.origin), 'the pause was nobody\'s fault')
    await until(() => ports(a, 'late').length === ports(b, 'late').length, 'whatever became of the refused one, it is the same everywhere')
  })

  await t.test('a removal that is refused has removed nothing', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    await register(a, { name: 'planner', port: 31_001 })
    const { body: { instance: { id } } } = await register(a, { name: 'coder', port: 31_002 })
    await register(a, { name: 'coder', port: 31_003 })
    await until(() => b.registry.size === 2, 'both have both')
    redis.pause()
    t.teardown(() => redis.resume())

    const answers = await Promise.all([ask(a, 'DELETE', '/registry/planner'), ask(a, 'DELETE', `/registry/coder/instances/${id}`)])

    for (const answer of answers) t.match(answer, { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
    t.same([ports(a, 'planner'), ports(a, 'coder')], [[31_001], [31_002, 31_003]])
    redis.resume()
    await until(() => a.registrations.isAvailable && b.registrations.isAvailable, 'it answers again')
  })

  await t.test('what an instance of the file is at one gateway, a removal of its registration leaves to that', async t => {
    const agents = [{ name: 'planner', port: 31_101 }]
    const [a, b] = await gatewaysOn(t, redis.url, 2, { agents }) as [ListeningGateway, ListeningGateway]
    const { body: { instance: { id } } } = await register(a, { name: 'planner', host: 'localhost', port: 31_101, weight: 5 })
    await until(() => b.registry.get('planner').instances[0]?.weight === 5, 'both have it')

    t.match(await ask(a, 'DELETE', `/registry/planner/instances/${id}`), { status: 200, body: { note: /fleet\.yaml/ } })

    t.same(ports(a, 'planner'), [])
    await until(() => b.registry.get('planner').instances[0]?.weight === 1, 'at the other it is what its file says')
  })

  await t.test('a drained instance of the file stays out where that was asked, and nothing of its drain is kept', async t => {
    const agents = [{ name: 'planner', port: 31_151 }]
    const [a, b] = await gatewaysOn(t, redis.url, 2, { agents }) as [ListeningGateway, ListeningGateway]
    const { body: { instance: { id } } } = await register(a, { name: 'planner', host: 'localhost', port: 31_151, weight: 5 })
    await register(a, { name: 'planner', host: 'localhost', port: 31_152 })
    await until(() => ports(b, 'planner').length === 2, 'both have it')

    t.match(await ask(a, 'DELETE', `/registry/planner/instances/${id}?drain=true`), { status: 200 })

    await until(() => ports(a, 'planner').length === 1, 'it is out there')
    await until(() => b.registry.get('planner').instances.some(({ port, weight, runtime }) => port === 31_151 && weight === 1 && !runtime.draining), 'at the other it serves as its file says')
    const kept = await redis.ask(client => client.hkeys(a.redis.key('registry', 'agent', 'planner')))
    t.same(kept.filter(field => /^[bd]:/.test(field)), [])
  })

  await t.test('what is registered is the same at all after a file changed, and after other hosts are allowed', async t => {
    const fleet = (metadata: Record<string, unknown>) => [{ name: 'planner', port: 31_161, metadata }]
    const [a, b] = await gatewaysOn(t, redis.url, 2, { agents: fleet({ of: 'file' }) }) as [ListeningGateway, ListeningGateway]
    await register(a, { name: 'planner', host: '127.0.0.1', port: 31_162, metadata: { of: 'registration' } })
    await until(() => b.registry.get('planner').metadata['of'] === 'registration', 'both have it')

    b.registry.replaceFile([{ ...fleet({ of: 'another file' })[0]!, instances: [{ host: 'localhost', port: 31_161, protocol: 'http', weight: 1 }] }])
    b.registrations.reread()
    await until(() => b.registry.get('planner').metadata['of'] === 'registration', 'what is registered stands')

    b.registryRules.reconfigure({ allowedHosts: ['10.0.0.0/8'] })
    t.same(ports(b, 'planner'), [31_161])
    b.registryRules.reconfigure({ allowedHosts: ['127.0.0.0/8'] })
    await until(() => ports(b, 'planner').length === 2, 'it is back')
  })

  await t.test('a Redis that can be read and not written serves whoever starts, and says so', async t => {
    const [a] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await register(a, { name: 'planner', port: 31_201 })
    await redis.ask(client => client.config('SET', 'maxmemory', '1'))
    t.teardown(() => redis.ask(client => client.config('SET', 'maxmemory', '0')))

    t.match(await register(a, { name: 'late', port: 31_202 }), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
    await until(async () => 'degraded' in (await ask(a, 'GET', '/health/ready')).body, 'it is told')
    const keyPrefix = a.redis.key('x').split('{')[0]!
    const b = await startGateway(t, { ...unprobed, redis: { url: redis.url, keyPrefix } })
    t.same(ports(b, 'planner'), [31_201])

    await redis.ask(client => client.config('SET', 'maxmemory', '0'))
    await until(async () => (await register(b, { name: 'late', port: 31_202 })).status === 201, 'registrations are taken again')
    await until(async () => !('degraded' in (await ask(a, 'GET', '/health/ready')).body), 'and that is told')
  })

  await t.test('what is no registration in Redis harms no other', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    for (let port = 31_301; port < 31_306; port++) await register(a, { name: 'planner', port, ttl: 600 })
    await register(a, { name: 'newer', port: 31_310 })
    await register(a, { name: 'nameless', port: 31_311, aliases: ['none'] })
    const key = (...parts: string[]) => a.redis.key('registry', ...parts)
    await redis.ask(async client => {
      await client.hset(key('agent', 'newer'), 'policy.ofALaterVersion', '{}', 'ofALaterVersion', 'x')
      await client.hset(key('agent', 'nameless'), 'aliases', 'null')
      await client.hset(key('agent', 'broken'), 'i:127.0.0.1:9', '{broken')
      await client.set(key('agent', 'text'), 'text')
      await client.sadd(key('agents'), 'broken', 'text')
      await client.zadd(key('leases'), 1, 'broken 127.0.0.1:9', 2, 'nospace', 3, 'text 127.0.0.1:9')
    })

    const [c] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await register(b, { name: 'brief', port: 31_320, ttl: 1 })

    await until(() => ports(a, 'brief').length === 1 && ports(c, 'brief').length === 1, 'a registration is everywhere')
    await until(() => [a, b, c].every(gateway => ports(gateway, 'brief').length === 0), 'and leaves when its lease is over')
    t.same([ports(c, 'planner').length, ports(c, 'newer'), ports(c, 'nameless')], [5, [31_310], [31_311]])
  })

  await t.test('a gateway that is cut off serves what it knew, and then has exactly what the others have', async t => {
    const line = await cutter(t, redis)
    const [far] = await gatewaysOn(t, line.url, 1) as [ListeningGateway]
    const [near] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    const agent = await fakeAgent(t)
    await register(near, { name: 'planner', host: agent.host, port: agent.port })
    await register(near, { name: 'leaves', port: 30_001 })
    await until(() => far.registry.size === 2, 'it has both')

    await line.cut()
    await until(() => !far.redis.isUp, 'it knows')
    await ask(near, 'DELETE', '/registry/leaves')
    await register(near, { name: 'comes', port: 30_002 })

    t.match(await ask(far, 'GET', '/api/planner/x'), { status: 200 })
    t.match(await register(far, { name: 'refused', port: 30_003 }), { status: 503 })
    await line.mend()
    await until(() => ports(far, 'comes').length === 1 && ports(far, 'leaves').length === 0, 'it has what came and not what left')
    t.same(ports(far, 'planner'), [agent.port])
    t.equal(ports(near, 'refused').length, 0)

    line.freeze()
    await until(() => !far.redis.isUp, 'nothing comes any more')
    await register(near, { name: 'meanwhile', port: 30_004 })
    await until(async () => (await register(far, { name: 'later', port: 30_005 })).status === 201, 'it has other connections')
    await until(() => ports(far, 'meanwhile').length === 1, 'and hears by them')
  })
})

t.test('a gateway that is closed while it connects anew leaves no error behind', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const line = await lateAnswers(t, redis)
  const gateway = await startGateway(t, { ...unprobed, redis: { url: line.url } })
  const errors: unknown[] = []
  const note = (error: unknown) => { errors.push(error) }
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))

  const count = line.beLate()
  await until(() => line.waiting === count, 'all its connections have all but the last answer')
  await gateway.close()
  await until(() => line.open === 0, 'the last answers came')

  t.same(errors, [])
})

t.test('a gateway that starts while Redis is away begins with what it remembers, and shares it when Redis is there', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const stateDir = t.testdir()
  const options = { ...unprobed, redis: { url: redis.url } }
  const agent = await fakeAgent(t)
  const before = await startGateway(t, { ...options, registry: { stateDir } })
  t.equal((await register(before, { name: 'planner', host: agent.host, port: agent.port, aliases: ['plan'] })).status, 201)
  await before.close()
  await redis.kill()

  const alone = await startGateway(t, { ...options, registry: { stateDir } })

  t.match(await ask(alone, 'GET', '/api/plan/x'), { status: 200 })
  t.match(await ask(alone, 'GET', '/api/nobody/x'), { status: 503, body: { code: 'FLEET_NO_INSTANCE_AVAILABLE' } }, 'others may have been told since')
  t.match(await register(alone, { name: 'late', port: 1 }), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
  await redis.restart({ empty: true })
  await until(async () => (await register(alone, { name: 'late', port: 1 })).status === 201, 'registrations are taken')
  const other = await startGateway(t, options)
  t.same([...other.registry.names()].sort(), ['late', 'plan', 'planner'])
})

t.test('a gateway that has never read the registry says of nobody that there is no such agent', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const agent = await fakeAgent(t)
  const [first] = await gatewaysOn(t, redis.url, 1)
  await register(first!, { name: 'planner', host: agent.host, port: agent.port })
  await redis.kill()
  const late = await startGateway(t, { ...unprobed, redis: { url: redis.url, keyPrefix: keyPrefixOf(t) }, agents: [{ name: 'ofFile', host: agent.host, port: agent.port }] })

  for (const [method, path] of [['GET', '/api/planner/x'], ['GET', '/agents/planner'], ['DELETE', '/registry/planner']] as const) {
    const { status, headers } = await ask(late, method, path)
    t.same([status, headers.get('retry-after')], [503, '1'], path)
  }
  t.match(await ask(late, 'GET', '/api/ofFile/x'), { status: 200 }, 'who is in the file is served')
  t.match(await ask(late, 'GET', '/health/ready'), { status: 200, body: { degraded: ['redis'] } })
  t.match(await ask(first!, 'GET', '/api/nobody/x'), { status: 404 }, 'who has read it once knows')
  await redis.restart({ empty: false })
  await until(async () => (await ask(late, 'GET', '/api/planner/x')).status === 200, 'it is told of it')
  await until(async () => (await ask(late, 'GET', '/api/nobody/x')).status === 404, 'it has read all')
})

t.test('a Redis that speaks TLS is reached by its authority, and by no other', { skip: noRedis || withoutOpenssl }, async t => {
  const authority = certificates(t)
  const { certFile, keyFile } = authority.issue('redis')
  const redis = await startRedis(t, ['--tls-cert-file', certFile, '--tls-key-file', keyFile, '--tls-ca-cert-file', authority.caFile, '--tls-auth-clients', 'no'], { tls: true })
  const log = logLines()
  const start = async (caFile: string) => {
    const gateway = await createGateway({ ...unprobed, ...quiet, redis: { url: redis.url, tls: { caFile } } }, { loggerInstance: log.loggerInstance })
    t.teardown(() => gateway.close())
    return gateway
  }

  const right = await start(authority.caFile)
  const wrong = await start(certificates(t).caFile)

  t.equal((await right.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', port: 1 } })).statusCode, 201)
  t.equal(wrong.redis.isUp, false)
  t.match(log.lines.find(({ msg }) => /Redis does not answer/.test(String(msg))), { msg: /certificate/ })
})

t.test('the password comes from a file and is in no log, and a wrong one keeps nobody from starting', { skip: noRedis }, async t => {
  const redis = await startRedis(t, ['--requirepass', 'canary-7Kq'])
  const folder = t.testdir({ right: 'canary-7Kq\n', wrong: 'canary-wrong\n' })
  const log = logLines()
  const start = async (passwordFile: string) => {
    const gateway = await createGateway({ ...unprobed, ...quiet, redis: { url: redis.url, passwordFile } }, { loggerInstance: log.loggerInstance })
    t.teardown(() => gateway.close())
    return gateway
  }

  const [right, wrong] = [await start(`${folder}/right`), await start(`${folder}/wrong`)]

  t.equal(right.redis.isUp, true)
  t.equal(wrong.redis.isUp, false)
  t.match(await wrong.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', port: 1 } }), { statusCode: 503 })
  t.notMatch(JSON.stringify(log.lines), /canary/)
  await t.rejects(start(`${folder}/none`), { message: /redis\.passwordFile can not be read: ENOENT/ })
  const refused = await createGateway({ redis: { url: 'redis://user:canary/x@host' } }).then(() => '', String)
  t.match(refused, /redis\.url: must be redis:/)
  t.notMatch(refused, /canary/)
})
