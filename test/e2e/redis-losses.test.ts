/**
 * What gateways that share a Redis make of two failures at once: its data is gone, or a line to it is, and not all of them know the same. What was
 * acknowledged stays, what was removed stays away.
 */
import { once } from 'node:events'
import t from 'tap'
import { startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'
import { ask, cutter, gatewaysOn, ports, register, sharing, twoOn, until } from '../helpers/sharing-gateways.ts'

t.test('gateways that share a Redis, each by a line of its own', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  await t.test('what a gateway had heard of and not read is not lost with Redis\'s data', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    await register(a, { name: 'before', port: 32_001 })
    await until(() => ports(b, 'before').length === 1, 'both have it')
    lineOfB.mute()
    t.equal((await register(a, { name: 'planner', port: 32_002, ttl: 60 })).status, 201)
    await until(() => !b.redis.isUp, 'the other has heard of it, and can not read it')
    await lineOfA.cut()
    await lineOfB.cut()

    await redis.restart({ empty: true })
    await lineOfB.mend()
    await sharing(b) // the data is written again by the one that knows less
    t.same([ports(b, 'before'), ports(b, 'planner')], [[32_001], []])
    await lineOfA.mend()

    await until(() => ports(b, 'planner').length === 1, 'who knows it has told')
    await sharing(a)
    t.same(a.registry.find('planner')?.instances.map(({ port, lease }) => [port, lease?.ttlMs]), [[32_002, 60_000]])
  })

  for (const [others, what] of [[false, 'what was acknowledged is not lost with Redis\'s data although nobody was told of it'], [true, 'nor when who acknowledged it was not told of the change before']] as const) {
    await t.test(what, async t => {
      const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
      await register(a, { name: 'before', port: 32_005 })
      await until(() => ports(b, 'before').length === 1, 'both have it')
      lineOfA.deafen()
      if (others) t.equal((await register(b, { name: 'other', port: 32_006 })).status, 201)
      lineOfB.mute()
      t.equal((await register(a, { name: 'planner', port: 32_007 })).status, 201)
      t.equal((await ask(a, 'DELETE', '/registry/before')).status, 200)
      await lineOfA.cut()
      await lineOfB.cut()

      await redis.restart({ empty: true })
      await lineOfB.mend()
      await sharing(b)
      t.same([ports(b, 'before'), ports(b, 'planner')], [[32_005], []], 'the data is written again by the one that knows less')
      await lineOfA.mend()

      await until(() => ports(b, 'planner').length === 1 && ports(b, 'before').length === 0, 'who knows it has told')
      await sharing(a)
      for (const gateway of [a, b]) t.same([ports(gateway, 'planner'), ports(gateway, 'other'), ports(gateway, 'before')], [[32_007], others ? [32_006] : [], []])
    })
  }

  await t.test('what a registration leaves out stays as the others know it, also where that was not heard of', async t => {
    const { a, b, lineOfB } = await twoOn(t, redis)
    const planner = { name: 'planner', port: 32_120 }
    await register(a, { ...planner, weight: 2, ttl: 30 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')
    lineOfB.deafen()
    t.equal((await register(a, { ...planner, weight: 5, protocol: 'https', ttl: 60 })).status, 200)
    t.match(b.registry.get('planner').instances, [{ weight: 2, protocol: 'http' }])

    const answer = await register(b, planner)

    t.match(answer, { status: 200, body: { instance: { weight: 5, protocol: 'https' } } })
    for (const gateway of [a, b]) t.match(gateway.registry.get('planner').instances, [{ weight: 5, protocol: 'https', lease: { ttlMs: 60_000 } }])
    t.match(await register(b, { ...planner, weight: 1 }), { body: { instance: { weight: 1, protocol: 'https' } } }, 'what is given replaces')
    await until(() => a.registry.get('planner').instances[0]?.weight === 1, 'at the other, too')
    t.match(a.registry.get('planner').instances, [{ protocol: 'https', lease: { ttlMs: 60_000 } }])
  })

  await t.test('of an instance that was removed elsewhere nothing comes back by a registration that leaves it out', async t => {
    const lines = [await cutter(t, redis), await cutter(t, redis)] as const
    const ofFile = { agents: [{ name: 'mixed', port: 32_131, weight: 4 }] }
    const [[a], [b]] = await Promise.all(lines.map(({ url }) => gatewaysOn(t, url, 1, ofFile))) as [[ListeningGateway], [ListeningGateway]]
    for (const [name, port] of [['planner', 32_130], ['mixed', 32_131]] as const) {
      const instance = { name, port }
      await register(a, { ...instance, weight: 7, protocol: 'https', ttl: 30 })
      await until(() => b.registry.find(name)?.instances[0]?.weight === 7, 'both have it')
    }
    lines[0].deafen()
    for (const port of [32_130, 32_131]) t.match(await ask(b, 'DELETE', `/registry/${port === 32_130 ? 'planner' : 'mixed'}?host=localhost&port=${port}`), { status: 200 })
    t.match(a.registry.get('planner').instances, [{ weight: 7 }])

    t.match(await register(a, { name: 'planner', port: 32_130 }), { status: 201, body: { instance: { weight: 1, protocol: 'http', lease: null } } })
    t.match(await register(a, { name: 'mixed', port: 32_131 }), { status: 200, body: { instance: { weight: 4, protocol: 'http', lease: null } } }, 'but for what the file says')
    for (const gateway of [a, await startGateway(t, { ...unprobed, ...ofFile })]) { // with others, or alone
      t.match(await ask(gateway, 'DELETE', '/registry/mixed'), { status: 200 })
      t.match(await register(gateway, { name: 'mixed', port: 32_131 }), { status: 201, body: { instance: { weight: 1 } } }, 'what a DELETE took out of the file counts for nothing')
    }
    await until(() => ports(b, 'planner').length === 1, 'the other has it')
    t.match(b.registry.get('planner').instances, [{ weight: 1, protocol: 'http', lease: null }])
  })

  await t.test('what somebody changed since is not changed back by who comes later and had changed the same', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    for (const name of ['before', 'early']) await register(a, { name, port: 32_081 })
    await until(() => ports(b, 'early').length === 1, 'both have both')
    lineOfA.deafen()
    t.equal((await register(b, { name: 'other', port: 32_082 })).status, 201)
    lineOfB.mute()
    t.equal((await register(a, { name: 'planner', port: 32_083, weight: 1, metadata: { of: 'before' } })).status, 201)
    t.equal((await register(a, { name: 'planner', port: 32_084 })).status, 201)
    for (const name of ['before', 'early']) t.equal((await ask(a, 'DELETE', `/registry/${name}`)).status, 200)
    await lineOfA.cut()
    await lineOfB.cut()

    await redis.restart({ empty: true })
    await lineOfB.mend()
    await sharing(b)
    await register(b, { name: 'planner', port: 32_083, weight: 5, metadata: { of: 'since' } })
    await register(b, { name: 'before', port: 32_085 })
    await lineOfA.mend()

    await until(() => ports(b, 'early').length === 0, 'what it had changed alone was told')
    await sharing(a)
    for (const gateway of [a, b]) {
      await until(() => ports(gateway, 'planner').length === 2, 'it has both')
      t.same([ports(gateway, 'before'), ports(gateway, 'other'), ports(gateway, 'planner')], [[32_085], [32_082], [32_083, 32_084]])
      t.equal(gateway.registry.get('planner').instances.find(({ port }) => port === 32_083)?.weight, 5)
      t.match(gateway.registry.get('planner'), { metadata: { of: 'since' } })
    }
  })

  await t.test('of two that changed the same the later one stands, whichever of them comes back first', async t => {
    for (const isEarlierFirst of [true, false]) {
      const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
      const lineOfC = await cutter(t, redis)
      const [c] = await gatewaysOn(t, lineOfC.url, 1) as [ListeningGateway]
      const lines = [lineOfA, lineOfB, lineOfC]
      const name = `planner-${isEarlierFirst}`
      for (const line of [lineOfA, lineOfB]) line.deafen()
      t.equal((await register(c, { name: 'other', port: 32_111 + Number(isEarlierFirst) })).status, 201)
      lineOfC.mute()
      t.equal((await register(a, { name, port: 32_113, weight: 2 })).status, 201)
      t.equal((await register(b, { name, port: 32_113, weight: 5 })).status, 200, 'it is known in Redis, though not heard of here')
      for (const line of lines) await line.cut()

      await redis.restart({ empty: true })
      await lineOfC.mend()
      await sharing(c)
      const [first, last] = isEarlierFirst ? [lineOfA, lineOfB] : [lineOfB, lineOfA]
      await first.mend()
      await until(() => ports(c, name).length === 1, 'one of them has told')
      await last.mend()
      await Promise.all([a, b].map(sharing))

      for (const gateway of [a, b, c]) await until(() => gateway.registry.find(name)?.instances[0]?.weight === 5, 'it has the later weight')
      t.equal(c.registry.get(name).instances[0]?.weight, 5)
    }
  })

  await t.test('an agent that was removed and registered anew has what came anew, and what came since', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    for (const port of [32_101, 32_102]) await register(a, { name: 'planner', port, metadata: { of: 'before' } })
    await until(() => ports(b, 'planner').length === 2, 'both have both')
    lineOfA.deafen()
    t.equal((await register(b, { name: 'other', port: 32_103 })).status, 201)
    lineOfB.mute()
    t.equal((await ask(a, 'DELETE', '/registry/planner')).status, 200)
    t.equal((await register(a, { name: 'planner', port: 32_104, metadata: { of: 'since' } })).status, 201)
    await lineOfA.cut()
    await lineOfB.cut()

    await redis.restart({ empty: true })
    await lineOfB.mend()
    await sharing(b)
    await register(b, { name: 'planner', port: 32_102 })
    await lineOfA.mend()
    await sharing(a)

    for (const gateway of [a, b]) {
      await until(() => ports(gateway, 'planner').includes(32_104), 'it has what came anew')
      t.same(ports(gateway, 'planner'), [32_102, 32_104])
      t.match(gateway.registry.get('planner'), { metadata: { of: 'since' } })
    }
  })

  for (const isFirst of [true, false]) {
    await t.test(`what somebody else changed later stands, ${isFirst ? 'also when' : 'and so when'} the one who had not heard of it writes the data again ${isFirst ? 'first' : 'last'}`, async t => {
      const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
      for (const name of ['planner', 'coder', 'writer']) await register(a, { name, port: 32_091 })
      await until(() => ports(b, 'writer').length === 1, 'both have all')
      const idOf = (name: string) => a.registry.get(name).instances[0]!.id
      lineOfA.deafen()
      t.equal((await register(b, { name: 'other', port: 32_092 })).status, 201)
      t.equal((await register(a, { name: 'planner', port: 32_091, weight: 2 })).status, 200)
      t.equal((await ask(a, 'DELETE', '/registry/coder')).status, 200)
      t.equal((await ask(a, 'DELETE', `/registry/writer/instances/${idOf('writer')}?drain=true`)).status, 200)
      await until(() => b.registry.get('writer').instances[0]?.runtime.draining === true, 'the other has heard of all')
      t.equal((await register(b, { name: 'planner', port: 32_091, weight: 5 })).status, 200)
      t.equal((await register(b, { name: 'coder', port: 32_091 })).status, 201)
      t.equal((await register(b, { name: 'writer', port: 32_091 })).status, 200)
      t.equal((await register(a, { name: 'writer', port: 32_093 })).status, 201, 'so the first knows of it')
      await lineOfA.cut()
      await lineOfB.cut()

      await redis.restart({ empty: true })
      const [first, last] = isFirst ? [lineOfA, lineOfB] : [lineOfB, lineOfA]
      await first.mend()
      await sharing(isFirst ? a : b)
      await last.mend()
      await Promise.all([sharing(a), sharing(b)])

      for (const gateway of [a, b]) {
        await until(() => gateway.registry.find('planner')?.instances[0]?.weight === 5, 'it has the later weight')
        t.same(ports(gateway, 'coder'), [32_091])
        t.same(gateway.registry.get('writer').instances.map(({ port, runtime }) => [port, runtime.draining]).sort(), [[32_091, false], [32_093, false]])
      }
    })
  }

  await t.test('who had left stays away when a gateway that had not heard of it writes the data again, and who came since stays', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    for (const port of [32_011, 32_012, 32_013]) await register(a, { name: 'planner', port, metadata: { of: 'before' } })
    await register(a, { name: 'leaves', port: 32_014 })
    await until(() => ports(b, 'leaves').length === 1 && ports(b, 'planner').length === 3, 'both have all')
    await lineOfB.cut()
    const idOf = (port: number) => a.registry.get('planner').instances.find(instance => instance.port === port)!.id
    for (const path of [`planner/instances/${idOf(32_011)}`, `planner/instances/${idOf(32_012)}`, 'leaves']) t.equal((await ask(a, 'DELETE', `/registry/${path}`)).status, 200)
    t.equal((await register(a, { name: 'planner', port: 32_013, weight: 7, metadata: { of: 'since' } })).status, 200)
    await lineOfA.cut()

    await redis.restart({ empty: true })
    await lineOfB.mend()
    await sharing(b)
    t.same(ports(b, 'planner'), [32_011, 32_012, 32_013])
    t.equal((await register(b, { name: 'planner', port: 32_012 })).status, 200)
    t.equal((await register(b, { name: 'late', port: 32_015 })).status, 201)
    await lineOfA.mend()
    await sharing(a)

    for (const gateway of [a, b]) {
      await until(() => ports(gateway, 'leaves').length === 0, 'it is gone')
      t.same(ports(gateway, 'planner'), [32_012, 32_013], 'what was removed is gone, but for what was registered again')
      t.same(ports(gateway, 'late'), [32_015])
      t.match(gateway.registry.get('planner'), { metadata: { of: 'since' } })
      t.equal(gateway.registry.get('planner').instances.find(({ port }) => port === 32_013)?.weight, 7)
    }
  })

  await t.test('a removal stays when the data is lost, and the one who comes later had not heard of it', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    await register(a, { name: 'leaves', port: 32_021 })
    await register(a, { name: 'stays', port: 32_022 })
    await until(() => ports(b, 'stays').length === 1, 'both have both')
    await lineOfB.cut()
    t.equal((await ask(a, 'DELETE', '/registry/leaves')).status, 200)
    await lineOfA.cut()

    await redis.restart({ empty: true })
    await lineOfA.mend()
    await sharing(a)
    await redis.restart({ empty: true }) // once more, so that the data is no longer the next one that the other knows
    await sharing(a)
    await lineOfB.mend()
    await sharing(b)

    for (const gateway of [a, b]) t.same([ports(gateway, 'leaves'), ports(gateway, 'stays')], [[], [32_022]])
  })

  await t.test('a gateway whose own rules leave something out does not pass for one that knows all', async t => {
    const [lineOfA, lineOfB] = [await cutter(t, redis), await cutter(t, redis)]
    const [[a], [b]] = await Promise.all([gatewaysOn(t, lineOfA.url, 1, { registry: { allowedHosts: ['localhost'] } }), gatewaysOn(t, lineOfB.url, 1)]) as [[ListeningGateway], [ListeningGateway]]
    t.equal((await register(b, { name: 'planner', host: '10.1.2.3', port: 32_061 })).status, 201)
    t.equal((await register(b, { name: 'coder', port: 32_062 })).status, 201)
    await until(() => ports(a, 'coder').length === 1, 'the other has what it may')
    t.same(ports(a, 'planner'), [])
    await lineOfB.cut()
    await until(() => !b.redis.isUp, 'it is cut off')

    await redis.restart({ empty: true })
    await sharing(a) // the data is written again by the one that leaves something out
    await lineOfB.mend()
    await sharing(b)

    t.same([ports(b, 'planner'), ports(b, 'coder')], [[32_061], [32_062]])
    t.ok(await redis.ask(async client => (await client.keys('*')).some(key => key.endsWith('agent:planner'))), 'and Redis has it')
  })

  await t.test('a backup from before the last loss is older than what gateways know', async t => {
    const [a] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await register(a, { name: 'leaves', port: 32_071 })
    await register(a, { name: 'stays', port: 32_072 })
    const backup = await redis.ask(async client => await Promise.all((await client.keys('*')).map(async key => [key, await client.dumpBuffer(key)] as const)))
    await redis.restart({ empty: true })
    await sharing(a)
    t.equal((await ask(a, 'DELETE', '/registry/leaves')).status, 200)
    t.equal((await register(a, { name: 'stays', port: 32_072, weight: 9 })).status, 200)

    await redis.ask(async client => {
      const all = client.multi().flushall()
      for (const [key, value] of backup) all.restore(key, 0, value!)
      await all.exec()
    })

    await until(async () => await redis.ask(async client => !(await client.keys('*')).some(key => key.endsWith('agent:leaves'))), 'what gateways know was written over it')
    await sharing(a)
    t.same([ports(a, 'leaves'), ports(a, 'stays')], [[], [32_072]])
    t.equal(a.registry.get('stays').instances[0]?.weight, 9)
  })

  await t.test('a change that was refused, and arrives late, changes nothing any more', async t => {
    const { a, b, lineOfB } = await twoOn(t, redis)
    const { body: { instance: { id } } } = await register(a, { name: 'planner', port: 32_031 })
    await until(() => ports(b, 'planner').length === 1, 'both have it')
    lineOfB.freeze()
    t.equal((await ask(b, 'DELETE', `/registry/planner/instances/${id}`)).status, 503)
    t.equal((await ask(a, 'DELETE', `/registry/planner/instances/${id}`)).status, 200)
    t.equal((await register(a, { name: 'planner', port: 32_031, weight: 5 })).status, 201)

    lineOfB.thaw()

    await until(() => b.registry.find('planner')?.instances[0]?.weight === 5 && b.registrations.isAvailable, 'what was said has arrived')
    t.same(ports(a, 'planner'), [32_031])
  })

  await t.test('what one was told and the other has not heard of is known there when it is asked about', async t => {
    const { a, b, lineOfB } = await twoOn(t, redis)
    const { body: { instance: { id: gone } } } = await register(a, { name: 'reader', port: 32_044 })
    await until(() => ports(b, 'reader').length === 1, 'both have it')
    t.equal((await ask(a, 'DELETE', `/registry/reader/instances/${gone}`)).status, 200)
    await until(() => b.registry.find('reader')?.instances.length === 0, 'nothing is left of it, and both know')
    lineOfB.deafen()
    t.equal((await register(a, { name: 'reader', port: 32_045 })).status, 201)
    t.equal((await ask(b, 'DELETE', '/registry/reader')).status, 200)
    await until(() => ports(a, 'reader').length === 0, 'that is so everywhere')
    const { body: { instance: { id } } } = await register(a, { name: 'planner', port: 32_041, ttl: 60 })

    t.equal((await ask(b, 'PUT', `/registry/planner/instances/${id}`)).status, 200)
    t.equal((await register(a, { name: 'coder', host: '127.0.0.1', port: 32_042 })).status, 201)
    t.equal((await ask(b, 'DELETE', '/registry/coder?host=127.0.0.1&port=32042')).status, 200)
    t.equal((await register(a, { name: 'writer', port: 32_043, aliases: ['author'] })).status, 201)
    t.equal((await ask(b, 'DELETE', '/registry/author')).status, 200, 'by a name that is not the agent\'s first, too')
    t.equal((await ask(b, 'DELETE', '/registry/nobody')).status, 404)

    await lineOfB.cut()
    await until(() => !b.redis.isUp, 'it knows that it is cut off')
    t.match(await ask(b, 'DELETE', '/registry/nobody'), { status: 503, body: { code: 'FLEET_NOT_KEPT' } }, 'whether there is such an agent it can not say')
  })
})

t.test('a gateway that was stopped for long brings nobody back', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const stateDir = t.testdir()
  const options = { ...unprobed, redis: { url: redis.url } }
  const stays = await startGateway(t, options)
  const stopped = await startGateway(t, { ...options, registry: { stateDir } })
  await register(stays, { name: 'leaves', port: 32_051 })
  await register(stays, { name: 'stays', port: 32_052 })
  await until(() => stopped.registry.size === 2, 'both have both')
  await stopped.close()

  await ask(stays, 'DELETE', '/registry/leaves')
  for (let losses = 0; losses < 2; losses++) {
    await redis.restart({ empty: true })
    await until(async () => (await register(stays, { name: 'late', port: 32_053 })).status < 300, 'the data was written again')
  }
  const again = await startGateway(t, { ...options, registry: { stateDir } })

  for (const gateway of [stays, again]) t.same(['leaves', 'stays', 'late'].map(name => ports(gateway, name)), [[], [32_052], [32_053]])
})

t.test('who drains leaves, also when a gateway that has restarted writes the lost data again', { skip: noRedis }, async t => {
  const redis = await startRedis(t)
  const line = await cutter(t, redis)
  const held: (() => void)[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(() => response.end('done')) })
  const options = { ...unprobed, redis: { url: redis.url }, registry: { stateDir: t.testdir() } }
  const stays = await startGateway(t, { ...unprobed, redis: { url: line.url } })
  const stopped = await startGateway(t, options)
  const { body: { instance: { id } } } = await register(stays, { name: 'leaves', host: agent.host, port: agent.port })
  await until(() => ports(stopped, 'leaves').length === 1, 'both have it')
  const drains = (gateway: ListeningGateway) => gateway.registry.find('leaves')?.instances[0]?.runtime.draining
  const pending = fetch(`${stays.origin}/api/leaves/x`)
  await once(agent.server, 'request')
  await ask(stays, 'DELETE', `/registry/leaves/instances/${id}?drain=true`)
  await until(() => drains(stopped) === true, 'the other has heard of it')
  await stopped.close()
  await line.cut()
  await until(() => !stays.redis.isUp, 'it is cut off')

  await redis.restart({ empty: true })
  const again = await startGateway(t, options)
  await until(() => again.registrations.isAvailable, 'it has written what it knew')
  t.not(drains(again), false, 'it drains, or is gone')
  held[0]!()
  t.equal(await (await pending).text(), 'done')
  await line.mend()

  for (const gateway of [stays, again]) await until(() => gateway.registrations.isAvailable && ports(gateway, 'leaves').length === 0, 'it is gone')
})
