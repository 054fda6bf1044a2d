/** The lease of `fleet-gateway run` by a clock of the test's own, against a gateway that answers what the test wants; and the wait for the port. */
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { GatewayClient } from '../../src/cli/client.ts'
import { LeaseKeeper } from '../../src/cli/run/lease-keeper.ts'
import { freePort, isListening, untilListening } from '../../src/cli/run/port.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const instance = { id: 'abcdef012345', protocol: 'http', host: 'localhost', port: 9000, healthy: true, state: 'up', source: 'api', lease: { expires_at: 'later' } }
const registered = { status: 201, body: { message: 'registered web', name: 'web', instance } }
const renewed = { status: 200, body: { message: 'renewed', instance } }
const unknown = { status: 404, body: problem('FLEET_INSTANCE_NOT_FOUND') }
const away = { status: 503, body: problem('FLEET_DRAINING') }
const drained = { status: 200, body: { message: 'draining' } }

function problem (code: string) {
  return { type: 'about:blank', title: code, status: 0, detail: `It is ${code}`, instance: 'urn:x', code, error: code }
}

/** A limit that no test reaches. */
const withinMs = 60_000_000

/** A keeper, what its gateway was asked, and the waits between. Answers are taken in turn; the last stays. */
async function keeper (t: Test, answers: { status: number, body: object }[], { random = 0.5, ttlMs = 15_000, said = null as string | null } = {}) {
  const asked: string[] = []
  const gateway = await fakeAgent(t, (request, response) => {
    asked.push(`${request.method} ${request.url}`)
    const { status, body } = answers.length > 1 ? answers.shift()! : answers[0]!
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  const inner = fakeClock()
  const waits: number[] = []
  let onWait = () => {}
  const clock = {
    ...inner,
    after (ms: number, fn: () => void) {
      if (ms !== withinMs) {
        waits.push(ms)
        onWait()
      }
      return inner.after(ms, fn)
    }
  }
  const told: string[] = []
  const client = new GatewayClient({ url: gateway.origin, urlFrom: 'a test', token: undefined }, 'fleet-gateway')
  t.teardown(() => client.close())
  const lease = new LeaseKeeper({ client, registration: { name: 'web', host: 'localhost', port: 9000, ttl: '15s' }, ttlMs, tell: line => told.push(line), clock, random: () => random, said })
  const waiting = async () => {
    while (waits.length === 0) await new Promise<void>(resolve => { onWait = resolve })
  }
  return {
    lease,
    asked,
    told,
    gateway,
    /** Resolves when it waits. */
    waiting,
    /** The next wait; time then passes. */
    async wait () {
      await waiting()
      const ms = waits.shift()!
      inner.advance(ms)
      return ms
    }
  }
}

const path = '/registry/web/instances/abcdef012345'

t.test('a heartbeat comes after a third of the ttl, more or less', async t => {
  for (const [random, ms] of [[0, 4_500], [0.5, 5_000], [0.999, 5_499]] as const) {
    const { lease, asked, told, wait } = await keeper(t, [registered, renewed], { random })

    lease.start()
    const waits = [await wait(), await wait(), await wait()]

    t.same(waits.map(Math.round), [ms, ms, ms])
    t.same(asked.slice(0, 3), ['POST /registry/register', `PUT ${path}`, `PUT ${path}`])
    t.match(told, [/^registered web at http:\/\/localhost:9000; clients reach it at http:\S+\/api\/web$/])
    t.equal(told.length, 1)
  }
})

t.test('a lease that is gone is taken again at once', async t => {
  const { lease, asked, wait } = await keeper(t, [registered, unknown, registered, renewed])

  lease.start()
  await wait()
  await wait()

  t.same(asked.slice(0, 3), ['POST /registry/register', `PUT ${path}`, 'POST /registry/register'])
})

t.test('failures are said once each and followed by longer and longer waits, no longer than between heartbeats', async t => {
  const forbidden = { status: 403, body: problem('FLEET_FORBIDDEN') }
  const { lease, told, wait } = await keeper(t, [away, away, away, away, away, away, forbidden, forbidden, registered, away, away, renewed])

  lease.start()
  const waits: number[] = []
  for (let count = 0; count < 12; count++) waits.push(await wait())

  t.same(waits, [500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000, 5_000, 500, 1_000, 5_000])
  t.match(told, [/^It is FLEET_DRAINING\nweb runs on/, /^It is FLEET_FORBIDDEN\n/, /^registered web/, /^It is FLEET_DRAINING\n/, /^the gateway renews the lease of web again$/])
  t.equal(told.length, 5)
})

t.test('that the gateway is back is said of one that was away, not of one that refused', async t => {
  const { lease, told, gateway, waiting, wait } = await keeper(t, [registered, renewed, away, renewed])
  lease.start()
  await waiting()
  await gateway.kill()
  await wait()
  await waiting()
  await gateway.revive()

  for (let count = 0; count < 3; count++) await wait()
  await waiting()

  t.match(told, [/^registered web/, /^No gateway listens/, 'the gateway is back', /^It is FLEET_DRAINING\n/, 'the gateway renews the lease of web again'])
})

t.test('what was said before is not said again, and a long ttl makes no long waits', async t => {
  const { lease, told, wait } = await keeper(t, [away], { said: 'It is FLEET_DRAINING', ttlMs: 86_400_000 })

  lease.start()
  const waits: number[] = []
  for (let count = 0; count < 9; count++) waits.push(await wait())

  t.same(waits.slice(-2), [30_000, 30_000])
  t.same(told, [])
})

t.test('an instance that leaves is drained until nobody knows it any more', async t => {
  const { lease, asked, waiting, wait } = await keeper(t, [registered, drained, renewed, renewed, unknown])
  lease.start()
  await waiting()

  const left = lease.leave({ drain: true, withinMs })
  for (let count = 0; count < 4; count++) await wait() // for the next heartbeat, which does not come, and three times to look
  await left

  t.same(asked.slice(1), [`DELETE ${path}?drain=true`, `PUT ${path}`, `PUT ${path}`, `PUT ${path}`])
  await lease.leave({ drain: false, withinMs: 1_000 })
  t.equal(asked.filter(line => line.startsWith('DELETE')).length, 1, 'once it is out it is out')
})

t.test('who was never registered has nothing to leave, and does not begin afterwards', async t => {
  const { lease, asked } = await keeper(t, [registered])

  await lease.leave({ drain: true, withinMs: 1_000 })
  lease.start()
  await lease.leave({ drain: false, withinMs: 1_000 })

  t.same(asked, [])
})

t.test('leaving while the registration is under way takes out what that brings', async t => {
  const { lease, asked } = await keeper(t, [registered, drained])

  lease.start()
  await lease.leave({ drain: false, withinMs })

  t.same(asked, ['POST /registry/register', `DELETE ${path}`, `PUT ${path}`])
})

t.test('whether it was the last one is what the gateway tells of the others', async t => {
  const among = (nearest: string[] | undefined) => ({ status: 404, body: { ...problem('FLEET_INSTANCE_NOT_FOUND'), nearest } })
  const answers: [last: { status: number, body: object }, wasLast: boolean][] = [
    [among([]), true],
    [among(['fedcba543210']), false],
    [among(undefined), false],
    [{ status: 404, body: { ...problem('FLEET_AGENT_NOT_FOUND'), nearest: [] } }, false],
    [{ status: 403, body: problem('FLEET_FORBIDDEN') }, false]
  ]
  for (const [last, wasLast] of answers) {
    const { lease, waiting } = await keeper(t, [registered, drained, last])
    lease.start()
    await waiting()

    await lease.leave({ drain: false, withinMs })

    t.equal(lease.wasLast, wasLast, JSON.stringify(last))
  }
})

t.test('a gateway that is away keeps nobody from leaving', async t => {
  const { lease, gateway, waiting, asked } = await keeper(t, [registered])
  lease.start()
  await waiting()
  await gateway.kill()

  await lease.leave({ drain: true, withinMs })

  t.equal(asked.filter(line => line.startsWith('DELETE')).length, 0)
})

t.test('a free port is free, and one on which something listens is not', async t => {
  const port = await freePort()
  t.equal(await isListening('localhost', port), false)
  const server = createServer(socket => socket.destroy()).listen(port, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())

  t.equal(await isListening('localhost', port), true, 'a name is tried with all its addresses')
  t.equal(await isListening('127.0.0.1', port), true)
})

t.test('a free port is none that the system gives to who asks for any, and taken ones are passed over', async t => {
  const free = await freePort(() => 0.5)
  const holder = createServer().listen(free)
  await once(holder, 'listening')
  t.teardown(() => holder.close())
  const draws = [0.5, 0.5, 0, 0.999999]

  const next = await freePort(() => draws.shift()!)

  t.not(next, free)
  t.ok(free >= 20_000 && free <= 32_767, `${free}`)
  t.ok(next >= 20_000 && next <= 32_767, `${next}`)
  await t.rejects(freePort(() => 0.5), { message: 'No free port was found between 20000 and 32767; name one with --port' })
})

t.test('who does not listen for long gets a word, once, and is waited for', async t => {
  const port = await deadPort()
  let words = 0
  const { signal } = new AbortController()
  const waiting = untilListening('127.0.0.1', port, {
    signal,
    patienceMs: 0,
    onSlow: () => {
      words++
      const server = createServer(socket => socket.destroy()).listen(port, '127.0.0.1')
      t.teardown(() => server.close())
    }
  })

  t.equal(await waiting, true)
  t.equal(words, 1)
})

t.test('a wait that is ended finds nothing', async t => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const ended = new AbortController()
  const waiting = untilListening('127.0.0.1', await deadPort(), { signal: ended.signal, patienceMs: 60_000, onSlow: () => t.fail('too soon') })

  ended.abort()

  t.equal(await waiting, false)
  t.equal(await untilListening('127.0.0.1', (server.address() as AddressInfo).port, { signal: ended.signal, patienceMs: 60_000, onSlow: () => {} }), false)
})
