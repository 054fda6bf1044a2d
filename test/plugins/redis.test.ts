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
