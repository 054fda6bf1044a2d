/**
 * Redis loses its data again before all gateways have what was written after the last time: each of them may know a change that no other knows, and the last
 * one stands, whoever of them comes first.
 */
import t from 'tap'
import type { ListeningGateway } from '../helpers/build-gateway.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'
import { ask, cutter, gatewaysOn, mendInTurn, ports, register, sharing, twoOn, until } from '../helpers/sharing-gateways.ts'

t.test('gateways whose Redis loses its data more than once', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  for (const isUnknownFirst of [true, false]) {
    for (const isSame of [true, false]) {
      await t.test(`when data is lost twice, what was changed in between stands${isSame ? ', and is the later one' : ' beside what nobody had heard of'}, whoever comes ${isUnknownFirst ? 'first' : 'last'}`, async t => {
        const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
        const lineOfC = await cutter(t, redis)
        const [c] = await gatewaysOn(t, lineOfC.url, 1) as [ListeningGateway]
        const name = `planner-${isUnknownFirst}-${isSame}`
        await register(a, { name, port: 32_141, weight: 3 })
        for (const gateway of [b, c]) await until(() => ports(gateway, name).length === 1, 'all have it')
        await lineOfC.cut()
        lineOfA.deafen()
        t.equal((await register(b, { name: 'other', port: 32_142 })).status < 300, true)
        lineOfB.mute()
        t.equal((await register(a, { name, port: 32_141, weight: 2 })).status, 200)
        for (const line of [lineOfA, lineOfB]) await line.cut()

        await redis.restart({ empty: true })
        await lineOfB.mend()
        await sharing(b)
        t.equal(b.registry.get(name).instances[0]?.weight, 3, 'it had not heard of the change')
        t.equal((await register(b, isSame ? { name, port: 32_141, weight: 5 } : { name: `${name}-since`, port: 32_143 })).status < 300, true)
        await lineOfB.cut()

        await redis.restart({ empty: true })
        await lineOfC.mend()
        await sharing(c)
        await mendInTurn(isUnknownFirst ? [[a, lineOfA], [b, lineOfB]] : [[b, lineOfB], [a, lineOfA]])

        for (const gateway of [a, b, c]) {
          await until(() => gateway.registry.find(name)?.instances[0]?.weight === (isSame ? 5 : 2), 'it has the later weight')
          if (!isSame) await until(() => ports(gateway, `${name}-since`).length === 1, 'it has what was registered since')
          await until(() => ports(gateway, 'other').length === 1, 'it has the rest')
        }
      })
    }
  }

  await t.test('when data is lost twice, what somebody who is gone had changed in between is known to who was told, settings as well', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    const [lineOfC, lineOfD] = [await cutter(t, redis), await cutter(t, redis)]
    const [[c], [d]] = await Promise.all([lineOfC, lineOfD].map(({ url }) => gatewaysOn(t, url, 1))) as [[ListeningGateway], [ListeningGateway]]
    const planner = { name: 'planner', port: 32_151 }
    await register(a, { ...planner, weight: 3, metadata: { of: 'before' } })
    for (const gateway of [b, c, d]) await until(() => ports(gateway, 'planner').length === 1, 'all have it')
    await lineOfD.cut()
    lineOfA.deafen()
    t.equal((await register(b, { name: 'other', port: 32_152 })).status, 201)
    await until(() => ports(c, 'other').length === 1, 'another has it')
    for (const line of [lineOfB, lineOfC]) line.mute()
    t.equal((await register(a, { ...planner, weight: 2, metadata: { of: 'unknown' } })).status, 200)
    for (const line of [lineOfA, lineOfB, lineOfC]) await line.cut()

    await redis.restart({ empty: true })
    for (const line of [lineOfB, lineOfC]) await line.mend()
    for (const gateway of [b, c]) await sharing(gateway)
    t.equal((await register(c, { ...planner, weight: 5, metadata: { of: 'since' } })).status, 200)
    await until(() => b.registry.get('planner').instances[0]?.weight === 5, 'the other was told')
    await lineOfB.cut()
    await c.close()

    await redis.restart({ empty: true })
    await mendInTurn([[d, lineOfD], [b, lineOfB], [a, lineOfA]])
    for (const gateway of [a, b, d]) {
      await until(() => gateway.registry.find('planner')?.instances[0]?.weight === 5 && ports(gateway, 'other').length === 1, 'it has what was changed last')
      t.match(gateway.registry.get('planner'), { metadata: { of: 'since' } })
    }
  })

  for (const losses of [1, 2]) {
    await t.test(`what went with its agent does not come back with who had not heard of that, after ${losses} ${losses === 1 ? 'loss' : 'losses'} of the data`, async t => {
      const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
      const name = `planner-${losses}`
      await register(a, { name, port: 32_161, metadata: { of: 'before' } })
      await until(() => ports(b, name).length === 1, 'both have it')
      lineOfA.deafen()
      t.equal((await register(b, { name: `other-${losses}`, port: 32_162 })).status, 201)
      lineOfB.mute()
      t.equal((await register(a, { name, port: 32_163 })).status, 201)
      for (const line of [lineOfA, lineOfB]) await line.cut()

      await redis.restart({ empty: true })
      await lineOfB.mend()
      await sharing(b)
      t.equal((await ask(b, 'DELETE', `/registry/${name}`)).status, 200)
      t.equal((await register(b, { name, port: 32_164 })).status, 201)
      if (losses === 2) {
        await lineOfB.cut()
        await redis.restart({ empty: true })
        await lineOfB.mend()
        await sharing(b)
      }
      await lineOfA.mend()
      await sharing(a)
      t.equal((await register(a, { name: `last-${losses}`, port: 32_165 })).status, 201)
      await until(() => ports(b, `last-${losses}`).length === 1, 'the other has heard of all that came before')

      for (const gateway of [a, b]) t.same([ports(gateway, name), gateway.registry.get(name).metadata], [[32_164], {}], 'it has what was registered since')
    })
  }

  await t.test('what was made again is known to who was told of it, also when nobody else is left who knows', async t => {
    const lines = [await cutter(t, redis), await cutter(t, redis), await cutter(t, redis)] as const
    const [[a], [older], [left]] = await Promise.all(lines.map(({ url }) => gatewaysOn(t, url, 1))) as [[ListeningGateway], [ListeningGateway], [ListeningGateway]]
    const [lineOfA, lineOfOlder, lineOfLeft] = lines
    const weight = (gateway: ListeningGateway) => gateway.registry.find('planner')?.instances[0]?.weight
    await register(a, { name: 'planner', port: 32_171, weight: 3 })
    for (const gateway of [older, left]) await until(() => weight(gateway) === 3, 'all have it')
    await lineOfLeft.cut()
    lineOfA.deafen()
    t.equal((await register(older, { name: 'planner', port: 32_171, weight: 4 })).status, 200)
    await lineOfOlder.cut()
    t.equal((await register(a, { name: 'planner', port: 32_171, weight: 5 })).status, 200)
    await lineOfA.cut()

    await redis.restart({ empty: true })
    await lineOfLeft.mend()
    await sharing(left)
    await lineOfA.mend()
    await until(() => weight(left) === 5, 'who changed it has told')
    for (const line of [lineOfA, lineOfLeft]) await line.cut()
    await a.close()
    await redis.restart({ empty: true })
    await mendInTurn([[left, lineOfLeft], [older, lineOfOlder]])
    t.equal((await register(older, { name: 'last', port: 32_172 })).status, 201)
    await until(() => ports(left, 'last').length === 1, 'the other has heard of all that came before')

    t.same([left, older].map(weight), [5, 5], 'the later change stands')
  })

  await t.test('versions of data that is written again are later than those before, whatever the clock says', async t => {
    const version = () => redis.ask(async client => {
      const [meta] = await client.keys('versions-of-data*meta')
      return { meta: meta!, version: Number(await client.hget(meta!, 'version')) }
    })
    const [before] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await sharing(before)
    const { meta, version: atFirst } = await version()
    const later = 10 * atFirst
    await redis.ask(client => client.hset(meta, 'version', later))
    const [after] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await sharing(after)
    await before.close()

    await redis.restart({ empty: true })
    await until(async () => (await register(after, { name: 'planner', port: 32_181 })).status === 201, 'it is shared again')
    t.ok((await version()).version > later + 1_000_000)
  })

  await t.test('what was learned by reading everything is known as well, also in data that was written long ago', async t => {
    const { a, b, lineOfA, lineOfB } = await twoOn(t, redis)
    const [lineOfC, lineOfD] = [await cutter(t, redis), await cutter(t, redis)]
    const [[c], [d]] = await Promise.all([lineOfC, lineOfD].map(({ url }) => gatewaysOn(t, url, 1))) as [[ListeningGateway], [ListeningGateway]]
    const weight = (gateway: ListeningGateway) => gateway.registry.find('planner')?.instances[0]?.weight
    await register(a, { name: 'planner', port: 32_191, weight: 3 })
    await register(a, { name: 'leaves', port: 32_192 })
    for (const gateway of [b, c, d]) await until(() => weight(gateway) === 3 && ports(gateway, 'leaves').length === 1, 'all have both')
    await redis.ask(async client => { for (const key of await client.keys('what-was-learned*meta')) await client.hset(key, 'writtenAt', 0) })
    for (const line of [lineOfB, lineOfC, lineOfD]) await line.cut()
    t.equal((await register(a, { name: 'planner', port: 32_191, weight: 5 })).status, 200)
    t.equal((await ask(a, 'DELETE', '/registry/leaves')).status, 200)
    await lineOfC.mend()
    await sharing(c)
    t.equal(weight(c), 5)
    for (const line of [lineOfA, lineOfC]) await line.cut()
    await a.close()

    await redis.restart({ empty: true })
    await mendInTurn([[b, lineOfB], [d, lineOfD]])
    for (const line of [lineOfB, lineOfD]) await line.cut()
    await redis.restart({ empty: true })
    await mendInTurn([[d, lineOfD], [c, lineOfC], [b, lineOfB]])
    t.equal((await register(c, { name: 'last', port: 32_193 })).status, 201)
    for (const gateway of [b, d]) await until(() => ports(gateway, 'last').length === 1, 'it has heard of all that came before')

    for (const gateway of [b, c, d]) t.same([weight(gateway), ports(gateway, 'leaves')], [5, []], 'it has what was changed last')
  })
})
