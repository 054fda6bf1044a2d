/** plugins/rate-limit/shared.ts: when buckets in Redis are believed again. What they hold, test/e2e/redis-limits.test.ts asks a real one. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import type { FleetRedis } from '../../plugins/redis/index.ts'
import { SharedBuckets } from '../../plugins/rate-limit/shared.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

t.test('a Redis that flaps is not believed before it answers twice in a row', async t => {
  const clock = fakeClock()
  let isWell = false
  let asked = 0
  const client = {
    defineCommand () {},
    async fleetTakeToken () {
      asked++
      if (!isWell) throw new Error('it is not well')
      return [1, 0, 0, 0]
    }
  } as unknown as Redis
  const told: string[] = []
  const buckets = new SharedBuckets({
    redis: { key: (...parts: string[]) => parts.join(':') } as unknown as FleetRedis, client, clock, onLost: () => told.push('lost'), onFound: () => told.push('found')
  })
  t.teardown(() => buckets.close())
  const answers = async (...each: boolean[]) => {
    for (isWell of each) {
      clock.advance(250)
      await nextTurn()
    }
  }

  buckets.take('a', { burst: 1, perMinute: 1 }, take => told.push(String(take)))
  await nextTurn()
  await answers(true, false, true, false, true)
  t.same(told, ['lost', 'null'])
  await answers(true)
  t.same(told, ['lost', 'null', 'found'])
  t.equal(asked, 7)
})
