import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { gunzipSync, gzipSync } from 'node:zlib'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { readAssets } from '../../plugins/console/assets.ts'
import { History } from '../../plugins/console/history.ts'
import { Recent } from '../../plugins/console/recent.ts'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import type { AuditEntry, Bye, Snapshot, Tick } from '../../plugins/console/wire.ts'
import { fleetGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { newLatencyBuckets, countLatency, percentilesSince } from '../../src/latency-buckets.ts'
import { agentAt, buildGateway, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { stuckReader, untilFull } from '../helpers/stuck-reader.ts'

const secret = 'fleet-secret-token'
const withAuth = { auth: { enabled: true, secret } }

type Message = { event: 'snapshot', data: Snapshot } | { event: 'tick', data: Tick } | { event: 'bye', data: Bye }

interface Watch {
  readonly response: IncomingMessage
  /** The next message; null when the stream is over. */
  next (): Promise<Message | null>
  /** The next message of which this is true. */
  find (wanted: (message: Message) => unknown): Promise<Message>
}

/** Watches the stream, as the page does. */
async function watch (t: Test, origin: string, token?: string): Promise<Watch> {
  const sent = request(`${origin}/console/events`, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } }).end()
  t.teardown(() => sent.destroy())
  const [response] = await once(sent, 'response') as [IncomingMessage]
  response.setEncoding('utf8').on('error', () => {})
  const chunks = response[Symbol.asyncIterator]() as AsyncIterator<string>
  let text = ''
  async function next (): Promise<Message | null> {
    for (;;) {
      const end = text.indexOf('\n\n')
      if (end !== -1) {
        const [, event, data] = /^event: (.*)\ndata: (.*)$/.exec(text.slice(0, end)) ?? []
        text = text.slice(end + 2)
        return { event, data: JSON.parse(data!) as unknown } as Message
      }
      const { value, done } = await chunks.next()
      if (done === true) return null
      text += value
    }
  }
  return {
    response,
    next,
    async find (wanted) {
      for (;;) {
        const message = await next()
        if (message === null) throw new Error('the stream is over')
        if (wanted(message)) return message
      }
    }
  }
}

async function fleetWith (t: Test, more: FleetGatewayOptions = {}) {
  const agent = await fakeAgent(t)
  const clock = fakeClock()
  const gateway = await startGateway(t, { clock, ...unprobed, agents: [agentAt('planner', agent)], ...more })
  return { agent, clock, gateway, origin: gateway.origin }
}

t.test('the stream is accounted as one, with the bytes that it was', async t => {
  const { gateway, origin, clock } = await fleetWith(t)
  const accounts: RequestFacts[] = []
  gateway.facts.onFinished(facts => accounts.push(facts))
  const sent = request(`${origin}/console/events`).end()
  const [response] = await once(sent, 'response') as [IncomingMessage]
  let bytes = 0
  response.on('data', (chunk: Buffer) => { bytes += chunk.length }).on('error', () => {})
  await once(response, 'data')
  clock.advance(1_000)
  await once(response, 'data')

  const over = new Promise<void>(resolve => { gateway.facts.onFinished(() => resolve()) })
  sent.destroy()
  await over

  t.match(accounts, [{ url: '/console/events', stream: 'event-stream', status: 200, bytesSent: bytes }])
})

t.test('the page is small, compressed for who takes that, and never more than it is allowed to be', async t => {
  const gateway = await buildGateway(t)
  const assets = readAssets()

  const gzipped = assets.reduce((sum, { body }) => sum + gzipSync(body).length, 0)
  t.comment(`the console is ${(gzipped / 1_024).toFixed(1)} KiB gzipped`)
  t.ok(gzipped < 150 * 1_024)
  const plain = await gateway.inject('/console/')
  t.equal(plain.headers['content-encoding'], undefined)
  t.equal(plain.headers['cache-control'], 'no-cache')
  t.equal(plain.headers['x-content-type-options'], 'nosniff')
  t.equal(plain.headers['referrer-policy'], 'no-referrer')
  t.equal(plain.headers['content-security-policy'], "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
  const compressed = await gateway.inject({ url: '/console/', headers: { 'accept-encoding': 'br, gzip' } })
  t.equal(compressed.headers['content-encoding'], 'gzip')
  t.equal(gunzipSync(compressed.rawPayload).toString(), plain.body)
  t.equal((await gateway.inject({ url: '/console/', headers: { 'accept-encoding': 'gzip;q=0' } })).headers['content-encoding'], undefined)
})

t.test('what its page names is there, for ever under that name, and not sent twice', async t => {
  const gateway = await buildGateway(t, withAuth)
  const page = (await gateway.inject('/console/')).body
  const names = [...page.matchAll(/(?:src|href)="([^":]+\.(?:js|css))"/g)].map(([, name]) => name!)

  t.equal(names.length, 2)
  for (const name of names) {
    const answer = await gateway.inject(`/console/${name}`)
    t.equal(answer.statusCode, 200)
    t.equal(answer.headers['cache-control'], 'public, max-age=31536000, immutable')
    const again = await gateway.inject({ url: `/console/${name}`, headers: { 'if-none-match': `"other", W/${answer.headers['etag']}` } })
    t.same([again.statusCode, again.body], [304, ''])
  }
  t.equal((await gateway.inject('/console/licences.txt')).statusCode, 200)
  t.equal((await gateway.inject('/console/nothing.js')).statusCode, 404)
})

t.test('/console leads to the page, and the index at / does too, unless the console is off', async t => {
  const gateway = await buildGateway(t)
  const without = await buildGateway(t, { console: { enabled: false } })
  const index = { url: '/', headers: { accept: 'text/html' } }

  const answer = await gateway.inject('/console')
  t.same([answer.statusCode, answer.headers.location], [302, 'console/'])
  t.match((await gateway.inject(index)).body, '<a href="/console/">')
  t.ok((await gateway.inject('/')).json<{ routes: { path: string }[] }>().routes.some(({ path }) => path === '/console/'))
  t.equal((await without.inject('/console/')).statusCode, 404)
  t.equal((await without.inject('/console/events')).statusCode, 404)
  t.notMatch((await without.inject(index)).body, 'console')
})

t.test('in an application to which slashes at the end mean nothing, the page is still found with one', async t => {
  const app = Fastify({ routerOptions: { ignoreTrailingSlash: true } })
  t.teardown(() => app.close())
  await app.register(fleetGateway, { prefix: '/fleet', auth: { enabled: false }, auditLog: { enabled: false } })

  const answer = await app.inject('/fleet/console')
  t.same([answer.statusCode, answer.headers.location], [302, 'console/'])
  t.equal((await app.inject('/fleet/console/?a=b')).statusCode, 200)
})

t.test('the stream begins with everything and goes on with what changed', async t => {
  const { clock, gateway, origin, agent } = await fleetWith(t)
  const { next, response } = await watch(t, origin)
  const first = await next()

  t.equal(response.headers['content-type'], 'text/event-stream; charset=utf-8')
  t.match(first, {
    event: 'snapshot',
    data: { you: { id: null, authenticated: false, agents: '*' }, config: { ok: true }, requests: [], agents: { planner: { status: 'healthy', row: [0, 0, 0, 0, 0, 0] } } }
  })
  const [id] = Object.keys((first!.data as Snapshot).agents['planner']!.facts)

  await (await fetch(`${origin}/api/planner/tasks`)).text()
  clock.advance(1_000)
  const second = await next() as { event: string, data: Tick }
  t.equal(second.event, 'tick')
  t.match(second.data, { agents: { planner: { rows: { [id!]: [0, 1, 0] } } }, requests: [{ path: '/api/planner/tasks', agent: 'planner', status: 200, tries: [{ outcome: 'answered' }] }] })
  t.equal(second.data.agents!['planner']!.facts, undefined, 'where it is has not changed')

  clock.advance(1_000)
  t.equal((await next() as { data: Tick }).data.agents, undefined, 'nothing has')

  const { instance } = gateway.registry.register({ name: 'planner', host: 'localhost', port: agent.port, protocol: 'http', aliases: ['plan'], trusted: true })
  gateway.registry.drain('planner', id!)
  clock.advance(1_000)
  t.match(await next(), { data: { agents: { planner: { status: 'degraded', aliases: ['plan'], facts: { [id!]: { state: 'draining' }, [instance.id]: { host: 'localhost', state: 'up' } } } } } })

  gateway.registry.removeInstance('planner', id!)
  clock.advance(1_000)
  t.match(await next(), { data: { agents: { planner: { status: 'healthy', gone: [id] } } } })
  gateway.registry.removeAgent('planner')
  clock.advance(1_000)
  t.match(await next(), { data: { gone: ['planner'] } })
})

t.test('why an instance is in its state is told: what decided, when, and until when', async t => {
  const agent = await fakeAgent(t)
  const clock = fakeClock()
  const { origin } = await startGateway(t, { clock, ...unprobed, agents: [agentAt('planner', agent, { host: '127.0.0.1', port: await deadPort() })] })
  const { find, next } = await watch(t, origin)
  const [, dead] = Object.keys(((await next())!.data as Snapshot).agents['planner']!.facts)

  for (let asked = 0; asked < 12; asked++) await (await fetch(`${origin}/api/planner/`)).text()
  clock.advance(1_000)

  const tick = await find(({ event, data }) => event === 'tick' && data.agents?.['planner']?.facts?.[dead!] !== undefined)
  t.match((tick.data as Tick).agents!['planner']!.facts![dead!], { state: 'ejected', why: 'a request ended with "refused"', until: Number, ejections: 1 })
})

t.test('a key for some agents is told of these alone; told anew when it is for others, and no more when it is revoked', async t => {
  const key = { id: 'viewer', token: 'token-of-the-viewer', scopes: ['read' as const] }
  const agent = await fakeAgent(t)
  const { clock, gateway, origin } = await fleetWith(t, { auth: { enabled: true, secret, keys: [{ ...key, agents: ['planner'] }] }, agents: [agentAt('planner', agent), agentAt('encoder', agent)] })
  const { next } = await watch(t, origin, key.token)
  t.same(Object.keys(((await next())!.data as Snapshot).agents), ['planner'])

  for (const name of ['encoder', 'planner']) await (await fetch(`${origin}/api/${name}/x`, { headers: { authorization: `Bearer ${secret}` } })).text()
  clock.advance(1_000)
  const tick = await next() as { data: Tick }
  t.same(Object.keys(tick.data.agents!), ['planner'])
  t.same(tick.data.requests!.map(({ agent }) => agent), ['planner'])
  t.equal((await gateway.inject({ url: '/console/agents/encoder/history', headers: { authorization: `Bearer ${key.token}` } })).statusCode, 403)

  gateway.auth.reconfigure({ secret, keys: [{ ...key, agents: ['encoder'] }] })
  clock.advance(1_000)
  t.same(Object.keys(((await next())!.data as Snapshot).agents), ['encoder'])

  gateway.auth.reconfigure({ secret, keys: [] })
  clock.advance(1_000)
  t.same(await next(), { event: 'bye', data: { reason: 'unauthorized' } })
  t.equal(await next(), null)
})

t.test('nobody without a token, and no key without read, sees the stream or the history', async t => {
  const gateway = await buildGateway(t, { auth: { enabled: true, keys: [{ id: 'user', token: 'token-of-a-user', scopes: ['proxy'] }] }, agents: [{ name: 'planner', host: 'localhost', port: 9 }] })

  for (const url of ['/console/events', '/console/agents/planner/history']) {
    t.equal((await gateway.inject(url)).statusCode, 401)
    t.equal((await gateway.inject({ url, headers: { authorization: 'Bearer token-of-a-user' } })).statusCode, 403)
  }
})

t.test('when the gateway drains or closes, streams end and hold nothing up', async t => {
  const { clock, gateway, origin } = await fleetWith(t)
  const one = await watch(t, origin)
  await one.next()
  const drained = gateway.drain.begin({ delayMs: 0, timeoutMs: 60_000 })
  clock.advance(1_000)

  t.same(await one.next(), { event: 'bye', data: { reason: 'closing' } })
  t.equal(await one.next(), null)
  await drained

  const { gateway: other, origin: otherOrigin } = await fleetWith(t)
  const two = await watch(t, otherOrigin)
  await two.next()
  const closed = other.close()
  t.same(await two.next(), { event: 'bye', data: { reason: 'closing' } })
  await closed
})

t.test('who reads nothing is told nothing, costs one message, and begins anew when he reads', async t => {
  const agents = Array.from({ length: 3_000 }, (_, index) => ({ name: `agent-${index}`, host: '10.0.0.1', port: 1_000 + index }))
  const { clock, gateway, origin } = await fleetWith(t, { agents })
  const { next, response } = await watch(t, origin)
  await next()
  response.pause()
  response.socket.pause()

  for (let second = 0; second < 30; second++) {
    for (const { name } of agents.slice(0, 1_000)) gateway.registry.register({ name, host: '10.0.0.2', port: 2_000 + second, protocol: 'http', trusted: true })
    clock.advance(1_000)
    await new Promise(resolve => setImmediate(resolve))
  }
  response.socket.resume()
  let message = await next()
  while (message!.event !== 'snapshot') {
    clock.advance(1_000)
    message = await next()
  }

  t.equal(Object.keys((message!.data as Snapshot).agents['agent-0']!.facts).length, 31)
})

/** A fleet of which more is to be told than the system keeps of a stream (some 4 MiB), and one who watches it and reads nothing. */
async function stuckViewer (t: Test, more: FleetGatewayOptions = {}) {
  const aliases = (index: number) => Array.from({ length: 30 }, (_, number) => `alias-${index}-${number}-${'x'.repeat(45)}`)
  const agents = Array.from({ length: 2_500 }, (_, index) => ({ name: `agent-${index}`, host: '10.0.0.1', port: 1_000 + index, aliases: aliases(index) }))
  const { clock, gateway } = await fleetWith(t, { agents, registry: { maxAgents: 2_500 }, ...more })
  const { response } = await stuckReader(t, gateway, '/console/events', secret)
  const closed = once(response, 'close')
  await untilFull(response, () => new Promise(resolve => setImmediate(resolve)))
  return { clock, gateway, response, closed }
}

t.test('who reads nothing for a minute is gone', async t => {
  const { clock, response, closed } = await stuckViewer(t)

  for (let second = 0; second < 59; second++) clock.advance(1_000)
  await new Promise(resolve => setImmediate(resolve))
  t.notOk(response.destroyed)
  for (let second = 0; second < 3; second++) clock.advance(1_000)

  await closed
})

t.test('who reads nothing is cut off when its key is revoked, and when the gateway closes', async t => {
  const revoked = await stuckViewer(t, withAuth)
  revoked.gateway.auth.reconfigure({ secret: 'another-fleet-secret', keys: [] })
  for (let second = 0; second < 3; second++) revoked.clock.advance(1_000)
  await revoked.closed

  const ended = await stuckViewer(t)
  const closed = ended.gateway.close()
  await new Promise(resolve => setImmediate(resolve))
  for (let second = 0; second < 3; second++) ended.clock.advance(1_000)
  await closed
  t.ok(ended.response.destroyed)
})

t.test('a hundred streams at most, and a place is free again when one ends', async t => {
  const { origin } = await fleetWith(t)
  const streams = await Promise.all(Array.from({ length: 100 }, () => watch(t, origin)))

  const refused = await watch(t, origin)
  t.equal(refused.response.statusCode, 429)
  t.equal(refused.response.headers['retry-after'], '10')
  streams[0]!.response.destroy()
  let status = 429
  while (status === 429) status = (await watch(t, origin)).response.statusCode!
  t.equal(status, 200)
})

t.test('an agent\'s history is its last fifteen minutes, sample by sample', async t => {
  const { clock, origin } = await fleetWith(t)
  const history = async () => await (await fetch(`${origin}/console/agents/planner/history`)).json() as { requests: number[], errors: number[], p50: number[], ended_at: number }
  clock.advance(1_000)

  for (let asked = 0; asked < 3; asked++) await (await fetch(`${origin}/api/planner/`)).text()
  clock.advance(5_000)
  const { requests, p50, ended_at: endedAt } = await history()
  t.same(requests, [0, 3])
  t.equal(p50[0], 0)
  t.ok(p50[1]! > 0)
  t.equal(endedAt, clock.now())

  clock.advance(14 * 60_000 + 50_000)
  t.same((await history()).requests.slice(0, 2), [0, 3])
  clock.advance(5_000)
  t.equal((await history()).requests.length, 180)
  t.equal((await history()).requests[0], 3)
  clock.advance(5_000)
  t.equal((await history()).requests.reduce((sum, count) => sum + count), 0)
  t.equal((await (await fetch(`${origin}/console/agents/nobody/history`)).json() as { code: string }).code, 'FLEET_AGENT_NOT_FOUND')
})

t.test('the history of 3,000 agents in use takes some 15 MiB, and that of agents without use nothing', async t => {
  const buckets = newLatencyBuckets()
  const counters = { requests: 1, errors: 0, retries: 0, latency: null, buckets }
  const history = new History({ ofAgent: () => counters } as never)
  const agents = Array.from({ length: 3_000 }, (_, index) => ({ name: `agent-${index}`, instances: [], rotation: { next: 0 } }))

  const before = process.memoryUsage().arrayBuffers
  history.sample(agents as never, 0)
  const bytes = process.memoryUsage().arrayBuffers - before

  t.comment(`the history of 3,000 agents takes ${(bytes / 1_024 / 1_024).toFixed(1)} MiB`)
  t.ok(bytes < 16 * 1_024 * 1_024)
  counters.requests = 0
  const unused = new History({ ofAgent: () => counters } as never)
  const idle = process.memoryUsage().arrayBuffers
  unused.sample(agents as never, 0)
  t.ok(process.memoryUsage().arrayBuffers - idle < 64 * 1_024)
})

t.test('of too many requests failures are told first, the others are an even sample', async t => {
  const recent = new Recent(() => 0.5)
  for (let number = 0; number < 1_000; number++) recent.add({ time: String(number).padStart(4, '0'), status: number % 20 === 0 ? 502 : 200 } as AuditEntry)

  const { entries, skipped } = recent.take()

  t.equal(entries.filter(({ status }) => status === 502).length, 50)
  t.equal(entries.length, 150)
  t.equal(skipped, 850)
  t.same(entries.map(({ time }) => time), entries.map(({ time }) => time).sort())
  t.same(recent.take(), { entries: [], skipped: 0 })
})

t.test('percentiles of a stretch of time are exact to some 7 %, from a microsecond to an hour', async t => {
  for (const ms of [0.001, 0.0042, 0.5, 1, 3.7, 42, 999, 65_000, 3_600_000]) {
    const buckets = newLatencyBuckets()
    countLatency(buckets, 7)
    const before = buckets.slice()
    for (let count = 0; count < 99; count++) countLatency(buckets, ms)
    countLatency(buckets, ms * 100)

    const [p50, p99] = percentilesSince(before, buckets, [0.5, 0.99])

    t.ok(Math.abs(p50! - ms) / ms < 0.07, `${ms} ms: ${p50}`)
    t.equal(p50, p99)
  }
  t.same(percentilesSince(null, newLatencyBuckets(), [0.5, 0.99]), [0, 0])
})
