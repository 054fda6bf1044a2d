/** Keys that are revoked at one of several gateways on a real Redis: all refuse them, whatever becomes of Redis meanwhile. */
import { once } from 'node:events'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { logLines } from '../helpers/log-lines.ts'
import { noRedis, startRedis } from '../helpers/redis-server.ts'

/** Longer than anything here takes, on a busy machine. */
const patienceMs = 20_000

/** Resolves when it is so; what is looked at here tells nobody that it changed. */
async function until (isSo: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + patienceMs; !await isSo();) {
    if (Date.now() > end) throw new Error(`It never was so: ${what}`)
    await wait(10)
  }
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const tokens = { boss: 'token-of-boss', one: 'token-of-one', two: 'token-of-two', three: 'token-of-three' }
const keys = Object.entries(tokens).map(([id, token]) => ({ id, tokenSha256: sha256(token), scopes: id === 'boss' ? ['admin' as const] : ['read' as const] }))

type Name = keyof typeof tokens

async function ask ({ origin }: ListeningGateway, name: Name, path = '/agents', method = 'GET') {
  const answer = await fetch(origin + path, { method, headers: { authorization: `Bearer ${tokens[name]}` } })
  return { status: answer.status, headers: answer.headers, body: await answer.json() as { detail?: string, code?: string } }
}

const revoke = (gateway: ListeningGateway, id: Name) => ask(gateway, 'boss', `/keys/${id}`, 'DELETE')
const status = async (gateway: ListeningGateway, name: Name) => (await ask(gateway, name)).status
const isRefused = async (gateway: ListeningGateway, name: Name) => await status(gateway, name) === 401

/** A gateway under a prefix of the test's own. */
function gatewayOn (t: Test, url: string, options: FleetGatewayOptions = {}, server = {}): Promise<ListeningGateway> {
  return startGateway(t, { ...unprobed, auth: { keys }, ...options, redis: { url, keyPrefix: `${t.name.replaceAll(/[^a-z]+/g, '-').slice(0, 60)}:` } }, server)
}

const gatewaysOn = (t: Test, url: string, count: number, options?: FleetGatewayOptions) => Promise.all(Array.from({ length: count }, () => gatewayOn(t, url, options)))

/** Nothing is looked up that happens every two seconds: what a gateway learns it has been told. */
const withoutLooking: Clock = { ...systemClock, every: (intervalMs, fn) => intervalMs === 2_000 ? () => {} : systemClock.every(intervalMs, fn) }

t.test('gateways that share a Redis', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  await t.test('a key that is revoked at one is refused by all, on connections that it has opened, too; no other is', async t => {
    const log = logLines()
    const [a, c] = await gatewaysOn(t, redis.url, 2, { clock: withoutLooking }) as [ListeningGateway, ListeningGateway]
    const b = await gatewayOn(t, redis.url, { clock: withoutLooking }, { loggerInstance: log.loggerInstance })
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const onConnection = async () => {
      const [response] = await once(httpRequest({ port: b.port, host: '127.0.0.1', path: '/agents', agent, headers: { authorization: `Bearer ${tokens.one}` } }).end(), 'response') as [IncomingMessage]
      const seen = { status: response.statusCode, localPort: response.socket.localPort }
      await once(response.resume(), 'end')
      return seen
    }
    const first = await onConnection()
    t.equal(first.status, 200)
    const isTold = Promise.all([b, c].map(({ revocations }) => new Promise<void>(resolve => { revocations.onRevoked(resolve) })))

    const answer = await revoke(a, 'one')

    t.match(answer, { status: 200, body: { message: 'revoked one', id: 'one', shared: true } })
    t.equal(await status(a, 'one'), 401)
    await isTold
    t.same(await onConnection(), { ...first, status: 401 })
    t.equal(await status(c, 'one'), 401)
    for (const gateway of [a, b, c]) t.equal(await status(gateway, 'two'), 200)
    t.match((await ask(c, 'boss', '/keys')).body, [{ id: 'boss', revoked: false }, { id: 'one', revoked: true, revoked_at: /Z$/ }, { revoked: false }, { revoked: false }])
    t.match(log.lines.find(({ msg }) => msg === 'Keys are revoked'), { keys: ['one'] })
    t.notMatch(JSON.stringify(log.lines), sha256(tokens.one))
    t.match(await revoke(b, 'one'), { status: 200 }, 'again, at another')
  })

  await t.test('a gateway that starts later refuses it from its first request on, and a reload changes nothing', async t => {
    const [a] = await gatewaysOn(t, redis.url, 1) as [ListeningGateway]
    await revoke(a, 'one')

    const later = await gatewayOn(t, redis.url)

    t.same([await status(later, 'one'), await status(later, 'two')], [401, 200])
    later.auth.reconfigure({ keys })
    t.same([await status(later, 'one'), await status(later, 'two')], [401, 200])
  })

  await t.test('while Redis is gone it counts here and is kept, which is said, and all are told when Redis is back', async t => {
    const stateDir = join(t.testdir(), 'a')
    const a = await gatewayOn(t, redis.url, { registry: { stateDir } })
    const b = await gatewayOn(t, redis.url)
    await redis.kill()
    await until(() => !a.redis.isUp && !b.redis.isUp, 'both know that it is gone')

    const answer = await revoke(a, 'one')

    t.match(answer, { status: 503, body: { code: 'FLEET_NOT_KEPT', detail: 'The key "one" is refused here from now on; the other gateways could not be told yet, and will be as soon as Redis answers' } })
    t.equal(answer.headers.get('retry-after'), '1')
    t.match(JSON.parse(await readFile(join(stateDir, 'revoked.json'), 'utf8')), { revoked: [{ id: 'one' }] })
    t.same([await status(a, 'one'), await status(b, 'one')], [401, 200])
    t.match(await revoke(b, 'two'), { status: 503 })

    await redis.restart()

    await until(async () => await isRefused(b, 'one') && await isRefused(a, 'two'), 'each has what the other was told')
    await until(async () => (await revoke(a, 'one')).status === 200, 'it is told, and kept')
    for (const gateway of [a, b]) t.equal(await status(gateway, 'three'), 200)
  })

  await t.test('a gateway that restarts while Redis is gone refuses what it was told, by whomever', async t => {
    const stateDir = join(t.testdir(), 'b')
    const a = await gatewayOn(t, redis.url)
    const b = await gatewayOn(t, redis.url, { registry: { stateDir } })
    await revoke(a, 'one')
    await until(() => isRefused(b, 'one'), 'it is told')
    await b.close()
    await redis.kill()

    const again = await gatewayOn(t, redis.url, { registry: { stateDir } })

    t.same([await status(again, 'one'), await status(again, 'two')], [401, 200])
    await redis.restart()
    await until(() => again.redis.isUp && a.redis.isUp, 'it is back')
  })

  await t.test('a Redis that comes back empty is told what each gateway knows', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    await revoke(a, 'one')
    await until(() => isRefused(b, 'one'), 'both have it')
    await redis.kill()
    await until(() => !a.redis.isUp && !b.redis.isUp, 'both know that it is gone')
    await revoke(b, 'two')

    await redis.restart({ empty: true })

    await until(() => isRefused(a, 'two'), 'what one was told while it was gone is everywhere')
    const stored = () => redis.ask(client => client.hkeys(a.redis.key('revoked')))
    await until(async () => (await stored()).length === 2, 'all of it is in Redis')
    t.same((await stored()).sort(), [sha256(tokens.one), sha256(tokens.two)].sort())
    const later = await gatewayOn(t, redis.url)
    t.same([await status(later, 'one'), await status(later, 'two'), await status(later, 'three')], [401, 401, 200])
  })

  await t.test('all that vanishes while the connection stands is written again; what came without a word is found', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    await revoke(a, 'one')
    await until(() => isRefused(b, 'one'), 'both have it')
    const key = a.redis.key('revoked')

    await redis.ask(client => client.flushall())
    await until(async () => await redis.ask(client => client.hlen(key)) === 1, 'it is in Redis again')

    await redis.ask(client => client.hset(key, sha256(tokens.two), `${Date.now()} two`)) // by a message that was lost
    for (const gateway of [a, b]) await until(() => isRefused(gateway, 'two'), 'each has found it')
    await revoke(b, 'three')
    await until(() => isRefused(a, 'three'), 'and hears')
  })

  await t.test('what no gateway has written revokes nothing and harms nothing', async t => {
    const a = await gatewayOn(t, redis.url)
    const key = a.redis.key('revoked')
    await redis.ask(async client => {
      await client.hset(key, 'no digest', '1 one', sha256(tokens.one), 'no time', sha256(tokens.two), `1 ${'x'.repeat(100)}`)
      for (const message of ['', 'nonsense', `${sha256(tokens.one)} nonsense`, `${sha256(tokens.one)} 1 ${'\u001b'}`]) await client.publish(a.redis.key('revoked', 'changes'), message)
    })

    const b = await gatewayOn(t, redis.url)
    t.equal((await revoke(b, 'three')).status, 200)
    await until(() => isRefused(a, 'three'), 'it is told as ever')

    for (const gateway of [a, b]) t.same([await status(gateway, 'one'), await status(gateway, 'two')], [200, 200])
    t.equal((await revoke(a, 'one')).status, 200)
    t.equal(await status(a, 'one'), 401)
    await until(() => isRefused(b, 'one'), 'what stood in the place of it is no obstacle')
    t.equal(await status(await gatewayOn(t, redis.url), 'one'), 401)

    await redis.ask(async client => {
      await client.hset(key, sha256(tokens.one), 'no time')
      await client.hdel(key, sha256(tokens.three))
    })
    await until(async () => /^\d+ one$/.test(await redis.ask(client => client.hget(key, sha256(tokens.one))) ?? ''), 'nor does it stay there')
  })

  await t.test('a Redis that can be read and not written: refused here, said, and told when it can be', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    await redis.ask(client => client.config('SET', 'maxmemory', '1'))
    t.teardown(() => redis.ask(client => client.config('SET', 'maxmemory', '0')))
    /** How many tokens are revoked in Redis, those of other tests too. */
    const kept = () => redis.ask(async client => {
      const counts = await Promise.all((await client.keys('*revoked}')).map(key => client.hlen(key)))
      return counts.reduce((sum, count) => sum + count, 0)
    })

    const before = await kept()
    t.match(await revoke(a, 'one'), { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
    t.equal(await status(a, 'one'), 401)
    await until(() => isRefused(b, 'one'), 'who hears of it refuses it, kept or not')
    t.equal(await kept(), before)
    await redis.ask(client => client.config('SET', 'maxmemory', '0'))

    await until(async () => await kept() > before, 'nobody had to ask again')
  })

  await t.test('a Redis that does not answer holds the answer up for half a second, and the key not at all', async t => {
    const [a, b] = await gatewaysOn(t, redis.url, 2) as [ListeningGateway, ListeningGateway]
    redis.pause()
    t.teardown(() => redis.resume())

    const revoking = revoke(a, 'one')
    await until(() => isRefused(a, 'one'), 'it is refused before that is answered')
    t.match(await revoking, { status: 503, body: { code: 'FLEET_NOT_KEPT' } })
    redis.resume()

    await until(() => isRefused(b, 'one'), 'it is told')
  })
})
