/** plugins/redis: when the server counts as there, on a clock of the test's own. */
import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import redis from '../../plugins/redis/index.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { scriptedRedis } from '../helpers/scripted-redis.ts'

t.test('a server is there with its first answer; one that was lost is back when it answers twice in a row', async t => {
  const server = await scriptedRedis(t)
  const clock = fakeClock()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, clock })
  const changes: boolean[] = []
  app.redis.onStatus(isUp => changes.push(isUp))
  const client = app.redis.client!
  /** It is asked by the clock, so often. */
  const ask = async (...how: ('good' | 'bad')[]) => {
    for (const one of how) {
      server.answers(one)
      clock.advance(500)
      await client.ping().catch(() => {}) // is answered behind it
      await nextTurn()
    }
  }

  t.equal(app.redis.isUp, true, 'nobody had to wait for the clock')
  await ask('good', 'bad', 'good', 'bad', 'good', 'bad', 'good')
  t.same(changes, [false], 'one that flaps is away')
  await ask('good')
  t.same(changes, [false, true])

  server.cut()
  await once(client, 'close')
  await once(client, 'ready')
  await nextTurn()
  await ask('good')
  t.same(changes, [false, true, false], 'a connection is no answer')
  await ask('good')
  t.same(changes, [false, true, false, true])
})

t.test('a server that is too old is told of, in words and once', async t => {
  const cases: [version: string, isOld: boolean][] = [['5.0.14', true], ['6.0.16', true], ['6.2.0', false], ['7.0.15', false], ['10.0.0', false]]
  for (const [version, isOld] of cases) {
    const server = await scriptedRedis(t, { version })
    const lines: string[] = []
    const app = Fastify({ logger: { level: 'error', stream: { write: line => { lines.push(line) } } } })
    t.teardown(() => app.close())
    await app.register(redis, { url: server.url })
    await app.redis.client!.ping() // is answered behind the question for the version
    await nextTurn()

    t.match(lines.map(line => (JSON.parse(line) as { msg: string }).msg), isOld ? [new RegExp(`^Redis ${version} is too old`)] : [], version)
    t.equal(lines.length, isOld ? 1 : 0)
  }
})
