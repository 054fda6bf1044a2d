/** Rate limits of several gateways on a real Redis: one bucket for all, on the server's time; and what holds while Redis is gone or paused. */
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { takeScript } from '../../plugins/rate-limit/shared.ts'
import { systemClock } from '../../src/clock.ts'
import { TokenBucket } from '../../src/fleet/token-bucket.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { logLines } from '../helpers/log-lines.ts'
import { quiet } from '../helpers/quiet.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { noRedis, startRedis, type RedisServer } from '../helpers/redis-server.ts'
import { Scrape } from '../helpers/prometheus-text.ts'
import { seeded } from '../helpers/seeded.ts'

type RateLimit = NonNullable<FleetGatewayOptions['rateLimit']>

/** Only what is asked for comes back while a test runs. */
const slow = { enabled: true, perMinute: 1 } as const

t.test('limits that gateways share', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  /** A gateway that shares under a prefix of the test's own. */
  const gatewayOn = (t: Test, options: FleetGatewayOptions, server?: Parameters<typeof startGateway>[2]) =>
    startGateway(t, { ...unprobed, ...options, redis: { url: redis.url, keyPrefix: prefixOf(t) } }, server)
  const gatewaysOn = (t: Test, count: number, options: FleetGatewayOptions) => Promise.all(Array.from({ length: count }, () => gatewayOn(t, options)))

  t.test('three gateways give out exactly what one bucket holds, however much comes at once', async t => {
    const gateways = await gatewaysOn(t, 3, { rateLimit: { ...slow, burst: 50 } })

    const statuses = await Promise.all(Array.from({ length: 120 }, async (_, index) => (await ask(gateways[index % 3]!)).status))

    t.equal(statuses.filter(status => status === 200).length, 50)
    t.equal(statuses.filter(status => status === 429).length, 70)
  })

  t.test('a key has one bucket at all gateways, and one for each agent with limits of its own', async t => {
    const agent = await fakeAgent(t, (_request, response) => response.end('ok'))
    const [here, there] = await gatewaysOn(t, 2, {
      agents: [agentAt('plain', agent), { ...agentAt('tight', agent), rateLimit: { burst: 2 } }],
      auth: { enabled: true, keys: [{ id: 'small', token: 'token-of-small', scopes: ['proxy'], rateLimit: { burst: 3 } }, { id: 'usual', token: 'token-of-usual', scopes: ['proxy'] }] },
      rateLimit: { ...slow, burst: 5 }
    }) as [ListeningGateway, ListeningGateway]
    const askInTurn = async (path: string, token: string) => (await inTurn(8, index => ask(index % 2 === 0 ? here : there, path, token))).filter(({ status }) => status === 200).length

    t.equal(await askInTurn('/api/plain/x', 'token-of-small'), 3)
    t.equal(await askInTurn('/api/plain/x', 'token-of-usual'), 5)
    t.equal(await askInTurn('/api/tight/x', 'token-of-small'), 2)
    t.equal(await askInTurn('/api/tight/x', 'token-of-usual'), 2)
  })

  t.test('tokens come back by the server\'s time, whatever a gateway\'s clock says, and a bucket that is full is no longer kept', async t => {
    const late = { ...systemClock, now: () => Date.now() + 3_600_000 }
    const [here, ahead] = [await gatewayOn(t, { rateLimit: { ...slow, burst: 3 } }), await gatewayOn(t, { rateLimit: { ...slow, burst: 3 }, clock: late })]

    t.same(await statusesOf(4, here), [200, 200, 200, 429])
    const refused = await ask(ahead)
    t.equal(refused.status, 429)
    t.ok(Number(refused.headers.get('retry-after')) <= 60)
    const keptMs = await redis.ask(client => client.pttl(bucketOf(t)))
    t.ok(keptMs > 60_000 && keptMs <= 180_000, `${keptMs}: as long as it takes to fill`)
    await redis.ask(async client => {
      const [level, at, ...limits] = (await client.get(bucketOf(t)))!.split(' ')
      await client.set(bucketOf(t), [level, Number(at) - 60_000, ...limits].join(' '), 'KEEPTTL') // as if a minute had passed
    })
    t.same(await statusesOf(2, ahead), [200, 429])
  })

  t.test('the script counts as the local bucket does, through pauses, new limits and clocks that are set back', async t => {
    const { seed, below, oneOf } = seeded()
    t.comment(`FLEET_SEED=${seed}`)
    const lua = takeScript.replace('redis.call(\'TIME\')', '{ math.floor(ARGV[3] / 1000), ARGV[3] % 1000 * 1000 }').replace(', \'PX\', msToFull', '')
    const quotas = [{ burst: 1, perMinute: 1 }, { burst: 7, perMinute: 40_000 }, { burst: 100, perMinute: 600 }, { burst: 1_000_000, perMinute: 60_000_000 }]
    let limits = oneOf(quotas)
    let now = 1_700_000_000_000
    let wasAllowed = true
    const bucket = new TokenBucket(limits, now)
    const expected: unknown[] = []

    const found = await redis.ask(async client => {
      const pipeline = client.pipeline()
      for (let step = 0; step < 2_000; step++) {
        if (below(20) === 0) limits = oneOf(quotas)
        // A refusal is not written, so what came back until then counts once when a clock is set back, and not twice as with the local bucket.
        now += wasAllowed && below(4) === 0 ? -below(10_000) : oneOf([0, 0, 1, 2, 100, below(70_000)])
        bucket.resize(limits, now)
        const { allowed, tokens, msToFull, msToNext } = bucket.take(now)
        wasAllowed = allowed
        expected.push([null, [allowed ? 1 : 0, tokens, msToFull, msToNext]])
        pipeline.eval(lua, 1, prefixOf(t), limits.burst, limits.perMinute, now)
      }
      return await pipeline.exec()
    })

    const other = expected.findIndex((answer, step) => !isDeepStrictEqual(found?.[step], answer))
    t.equal(other, -1, 'the first step with another answer')
    t.same(found?.[other], expected[other])
  })

  t.test('answers say what is left as they do without Redis', async t => {
    const rateLimit = { ...slow, burst: 2 }
    const [shared, alone] = [await gatewayOn(t, { rateLimit }), await startGateway(t, { ...unprobed, rateLimit })]
    const told = async (gateway: ListeningGateway) => (await inTurn(3, () => ask(gateway))).map(({ status, headers, body }) => ({
      status,
      ...Object.fromEntries([...headers].filter(([name]) => /^(x-)?ratelimit|^retry-after/.test(name))),
      ...(status === 429 && { code: body['code'], detail: body['detail'] })
    }))

    const withRedis = await told(shared)

    t.match(withRedis[0], { status: 200, ratelimit: '"default";r=1;t=60', 'ratelimit-policy': '"default";q=2;w=120', 'x-ratelimit-remaining': '1' })
    t.match(withRedis[2], { status: 429, code: 'FLEET_RATE_LIMITED', 'retry-after': /^\d+$/ })
    t.same(withoutSeconds(withRedis), withoutSeconds(await told(alone)))
  })

  t.test('nothing begins for a client that left while Redis was asked', async t => {
    const gateway = await gatewayOn(t, { agents: [agentAt('planner', await fakeAgent(t))], rateLimit: { ...slow, burst: 6 } })
    t.same(await statusesOf(1, gateway), [200])
    redis.pause()
    const client = await rawClient(t, gateway.port)
    client.send('DELETE /registry/planner HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\n\r\n')
    while (gateway.facts.inFlight === 0) await new Promise(resolve => setImmediate(resolve))

    client.socket.destroy()
    await quiet(gateway)
    redis.resume()

    t.same(await statusesOf(1, gateway), [200])
    t.ok(gateway.registry.find('planner'))
  })

  const faults: [string, (redis: RedisServer) => void | Promise<void>, (redis: RedisServer) => void | Promise<void>][] = [
    ['gone', ({ kill }) => kill(), ({ restart }) => restart()],
    ['paused', ({ pause }) => pause(), ({ resume }) => resume()]
  ]
  for (const [word, begin, end] of faults) {
    t.test(`while Redis is ${word} each gateway counts by itself, counts nothing or refuses, as it was told; then all count together again`, async t => {
      const gatewayWith = async (onStoreFailure?: RateLimit['onStoreFailure']) => {
        const log = logLines()
        const gateway = await gatewayOn(t, { rateLimit: { ...slow, burst: 6, ...(onStoreFailure && { onStoreFailure }) } }, { loggerInstance: log.loggerInstance })
        return { gateway, log, lost: () => log.lines.filter(({ msg }) => msg.startsWith('Redis does not answer for rate limits')), back: () => log.line(/^Rate limits are counted by all/) }
      }
      const local = await gatewayWith()
      const other = await gatewayWith('local')
      const open = await gatewayWith('open')
      const closed = await gatewayWith('closed')
      const all = [local, other, open, closed]
      t.same(await statusesOf(1, local.gateway), [200])
      t.same(await statusesOf(1, other.gateway), [200])

      await begin(redis)

      t.same(await statusesOf(7, local.gateway), [200, 200, 200, 200, 200, 200, 429])
      t.same(await statusesOf(7, other.gateway), [200, 200, 200, 200, 200, 200, 429])
      const uncounted = await inTurn(8, () => ask(open.gateway))
      t.ok(uncounted.every(({ status, headers }) => status === 200 && !headers.has('ratelimit') && !headers.has('x-ratelimit-remaining')))
      const refused = await ask(closed.gateway, '/api/planner/x')
      t.match([refused.status, refused.headers.get('retry-after'), refused.body], [503, '1', { code: 'FLEET_RATE_LIMIT_UNAVAILABLE' }])
      for (const path of ['/health', '/metrics', '/agents']) t.equal((await ask(closed.gateway, path)).status, 200, 'who looks after the fleet gets in')
      closed.gateway.rateLimiter.reconfigure({ ...slow, onStoreFailure: 'open' })
      t.equal((await ask(closed.gateway)).status, 200, 'a reload counts at once')
      t.match(local.lost().map(({ msg }) => msg), [word === 'paused' ? /\(no answer in 250 ms\): this gateway counts by itself until it does$/ : /\(.+\): this gateway counts by itself until it does$/])
      t.match(open.lost().map(({ msg }) => msg), [/: nothing is counted until it does$/])
      t.match(closed.lost().map(({ msg }) => msg), [/: what is limited is refused at agents until it does$/])
      const back = all.map(({ back }) => back())

      await end(redis)
      await Promise.all(back)

      // What was asked of one that is paused is taken when it goes on, though it came too late for the request.
      if (word === 'paused') await redis.ask(client => client.del(bucketOf(t)))
      const passed = (await inTurn(20, index => ask(all[index % 2]!.gateway))).filter(({ status }) => status === 200).length
      t.equal(passed, word === 'paused' ? 6 : 4, 'of 6, 2 of which were taken before')
      t.equal(local.gateway.rateLimiter.storeFailures, 7)
      open.gateway.rateLimiter.reconfigure({ enabled: false })
      const scrape = new Scrape(await (await fetch(`${open.gateway.origin}/metrics`)).text())
      t.equal(scrape.families.get('fleet_rate_limit_store_failures_total')?.series[0]?.value, 8)
      for (const { lost } of all) t.equal(lost().length, 1)
    })
  }
})

function prefixOf (t: Test): string {
  return `${t.name.replaceAll(/[^a-z]+/g, '-').slice(0, 60)}:`
}

/** The bucket of who asks from here. */
const bucketOf = (t: Test) => `${prefixOf(t)}{limit ip:127.0.0.1}`

interface Answer { status: number, headers: Headers, body: Record<string, unknown> }

async function ask ({ origin }: ListeningGateway, path = '/agents', token?: string): Promise<Answer> {
  const { status, headers, ...answer } = await fetch(origin + path, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } }).then(async answer => ({ status: answer.status, headers: answer.headers, text: await answer.text() }))
  return { status, headers, body: headers.get('content-type')?.includes('json') ? JSON.parse(answer.text) as Answer['body'] : {} }
}

/** One after another. */
async function inTurn<R> (count: number, one: (index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (let index = 0; index < count; index++) results.push(await one(index))
  return results
}

const statusesOf = async (count: number, gateway: ListeningGateway) => (await inTurn(count, () => ask(gateway))).map(({ status }) => status)

/** On a machine that stands still for a moment, seconds differ. */
function withoutSeconds (told: readonly object[]): unknown {
  return JSON.parse(JSON.stringify(told).replaceAll(/(t=|in |"x-ratelimit-reset":"|"retry-after":")\d+/g, '$1'))
}
