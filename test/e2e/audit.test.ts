/** `/audit` over real sockets: what it shows, to whom, and the same as it happens. */
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import WebSocket, { WebSocketServer } from 'ws'
import type { AuditEntry } from '../../plugins/audit-log/index.ts'
import type { AuditAnswer } from '../../plugins/audit-log/routes.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { agentAt, openGateway, quiet, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { readEvents, type StreamEvent } from '../helpers/event-reader.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock, type FakeClock } from '../helpers/fake-clock.ts'
import { stuckReader, untilFull } from '../helpers/stuck-reader.ts'

const keys: NonNullable<FleetGatewayOptions['auth']>['keys'] & object = [
  { id: 'all', token: 'token-of-all', scopes: ['read', 'proxy'] },
  { id: 'some', token: 'token-of-some', scopes: ['read', 'proxy'], agents: ['planner'] },
  { id: 'blind', token: 'token-of-blind', scopes: ['proxy'] }
]
const as = (key: string) => ({ authorization: `Bearer token-of-${key}` })

/** A gateway in front of two agents, one of which answers with the status in its path. */
async function scene (t: Test, options: FleetGatewayOptions = {}) {
  const planner = await fakeAgent(t)
  const coder = await fakeAgent(t, (request, response) => { response.writeHead(Number(/\d{3}/.exec(request.url!)?.[0] ?? 200)).end('done') })
  const gateway = await startGateway(t, { ...unprobed, retry: { attempts: 0 }, agents: [{ ...agentAt('planner', planner), aliases: ['plan'] }, agentAt('coder', coder)], ...options })
  return { gateway, planner, coder, ...clientOf(gateway) }
}

function clientOf (gateway: ListeningGateway) {
  async function ask (path: string, headers: Record<string, string> = {}): Promise<number> {
    const response = await fetch(gateway.origin + path, { headers })
    await response.arrayBuffer()
    return response.status
  }
  async function audit (query = '', headers: Record<string, string> = {}): Promise<AuditAnswer> {
    const response = await fetch(`${gateway.origin}/audit${query}`, { headers })
    return await response.json() as AuditAnswer
  }
  const paths = async (query = '', headers: Record<string, string> = {}) => (await audit(query, headers)).entries.map(({ path }) => path)
  return { ask, audit, paths }
}

const entryIn = ({ data }: StreamEvent) => JSON.parse(data) as AuditEntry
const forPath = (path: string) => (event: StreamEvent) => event.type === 'request' && entryIn(event).path === path

t.test('what was asked is told, newest last, and by whom; never the query', async t => {
  const { gateway, ask, audit } = await scene(t, { auth: { keys } })
  await ask('/api/plan/a?token=s3cret', as('all'))
  await ask('/api/coder/503', as('some'))
  await ask('/api/coder/503', as('all'))

  const response = await fetch(`${gateway.origin}/audit`, { headers: as('all') })
  const text = await response.text()
  const { entries, next, missed } = JSON.parse(text) as AuditAnswer

  t.match(response.headers.get('content-type'), 'application/json')
  t.equal(response.headers.get('cache-control'), 'no-store')
  t.match(response.headers.get('vary'), 'accept')
  t.match(entries, [
    { key: 'all', method: 'GET', path: '/api/plan/a', agent: 'planner', status: 200, attempts: 1, tries: [{ outcome: 'answered', status: 200 }] },
    { key: 'some', path: '/api/coder/503', agent: null, status: 403, code: 'FLEET_FORBIDDEN', tries: [] },
    { key: 'all', path: '/api/coder/503', agent: 'coder', status: 503, attempts: 1, tries: [{ outcome: 'answered', status: 503 }] }
  ])
  t.equal(entries[0]!.tries[0]!.instance, entries[0]!.instance)
  t.notMatch(text, 's3cret')
  t.equal(missed, 0)
  t.match((await audit(`?since=${next}`, as('all'))).entries, [{ path: '/audit' }], 'what came after is what it asked itself')
})

t.test('each try is told with its instance, outcome and duration', async t => {
  const dead = await fakeAgent(t)
  await dead.kill()
  const alive = await fakeAgent(t)
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', dead, alive)] })
  const { ask, audit } = clientOf(gateway)

  await ask('/api/planner/a')
  await ask('/api/planner/b')

  const [entry] = (await audit()).entries.filter(({ attempts }) => attempts === 2)
  const [first, second] = gateway.registry.get('planner').instances
  t.match(entry, { status: 200, instance: second!.id, tries: [{ instance: first!.id, outcome: 'refused' }, { instance: second!.id, outcome: 'answered', status: 200 }] })
  t.equal(Object.hasOwn(entry!.tries[0]!, 'status'), false)
  t.ok(entry!.tries.every(({ duration_ms: ms }) => ms > 0))
})

t.test('a client that left and a WebSocket are told when they are over', async t => {
  const server = createServer((_request, response) => { response.write('begun') }).listen(0, '127.0.0.1')
  t.teardown(() => server.closeAllConnections())
  t.teardown(() => server.close())
  new WebSocketServer({ server }).on('connection', socket => socket.on('message', data => socket.send(data)))
  await once(server, 'listening')
  const gateway = await startGateway(t, { ...unprobed, agents: [agentAt('planner', { host: '127.0.0.1', port: (server.address() as { port: number }).port })] })
  const { audit } = clientOf(gateway)
  const finished = (status: number) => new Promise<void>(resolve => {
    const stop = gateway.auditLog.onEntry(entry => { if (entry.status === status) resolve(stop()) })
  })

  const left = finished(200)
  const [response] = await once(get(`${gateway.origin}/api/planner/left`), 'response') as [IncomingMessage]
  response.on('error', () => {}).destroy()
  await left
  const closed = finished(101)
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/socket?token=s3cret`)
  await once(socket, 'open')
  t.same(await clientOf(gateway).paths('?status=101'), [], 'it is open')
  socket.send('hello')
  await once(socket, 'message')
  socket.close()
  await closed

  const { entries } = await audit('?agent=planner')
  t.match(entries, [{ path: '/api/planner/left', ending: 'client-aborted' }, { path: '/api/planner/socket', status: 101 }])
  t.ok(entries[1]!.bytes_in > 0)
})

t.test('the body of a registration is counted, too', async t => {
  const gateway = await startGateway(t, unprobed)
  const body = JSON.stringify({ name: 'planner', port: 9_000, metadata: { what: 'plänné' } })
  const registered = await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  t.equal(registered.status, 201)
  await registered.text()
  t.match((await clientOf(gateway).audit('?status=201')).entries, [{ path: '/registry/register', bytes_in: Buffer.byteLength(body) }])
})

t.test('filters: by agent or alias, status or class, time, entry and number', async t => {
  const { gateway, ask, audit, paths } = await scene(t)
  for (const path of ['/api/planner/1', '/api/coder/404', '/api/coder/500', '/api/coder/503', '/api/planner/2', '/nowhere']) await ask(path)
  const all = gateway.auditLog.recent()

  t.same(await paths('?agent=planner'), ['/api/planner/1', '/api/planner/2'])
  t.same(await paths('?agent=plan'), ['/api/planner/1', '/api/planner/2'])
  t.same(await paths('?agent=unknown'), [])
  t.same(await paths('?status=404'), ['/api/coder/404', '/nowhere'])
  t.same(await paths('?status=404,5xx'), ['/api/coder/404', '/api/coder/500', '/api/coder/503', '/nowhere'])
  t.same(await paths('?status=5XX&agent=coder'), ['/api/coder/500', '/api/coder/503'])
  t.same(await paths('?limit=1&agent=planner'), ['/api/planner/2'])
  t.same(await paths(`?since=${all[4]!.id}&limit=1`), ['/nowhere'], 'an entry: the next after it')
  t.same(await paths(`?since=${all[0]!.id}&status=5xx&limit=1`), ['/api/coder/500'], 'and not the newest')
  t.same((await paths('?since=1h&status=500')).length, 1)
  t.same(await paths('?since=2999-01-01'), [])
  t.same((await paths('?since=2020-01-01T00:00:00%2B02:00&agent=plan')).length, 2)
  t.same((await paths('?since=2020-01-01T00:00:00+02:00&agent=plan')).length, 2, 'a plus that was not encoded')
  t.same((await audit('?since=000000000000-7&agent=planner')).entries.length, 2, 'an entry of an earlier start: all since')
  t.same((await paths('?colour=red&status=500')).length, 1, 'what nobody knows is ignored, as by the other routes')
})

t.test('what is wrong with a filter is said, by both forms', async t => {
  const { gateway } = await scene(t)
  const wrong: readonly (readonly [query: string, name: string])[] = [
    ['?agent=', 'agent'], ['?agent=a%20b', 'agent'], ['?agent=a&agent=b', 'agent'], ['?agent=%00', 'agent'],
    ['?status=', 'status'], ['?status=5', 'status'], ['?status=6xx', 'status'], ['?status=200,', 'status'], ['?status=200&status=404', 'status'], [`?status=${'200,'.repeat(200)}200`, 'status'],
    ['?since=', 'since'], ['?since=yesterday', 'since'], ['?since=5', 'since'], ['?since=-5m', 'since'], ['?since=2026-13-01', 'since'], ['?since=12:00', 'since'],
    ['?limit=', 'limit'], ['?limit=0', 'limit'], ['?limit=1001', 'limit'], ['?limit=1e2', 'limit'], ['?limit=ten', 'limit'], ['?limit=5&limit=5', 'limit']
  ]
  for (const accept of ['application/json', 'text/event-stream']) {
    for (const [query, name] of wrong) {
      const response = await fetch(`${gateway.origin}/audit${query}`, { headers: { accept } })
      t.match([response.status, await response.json()], [400, { code: 'FLEET_BAD_REQUEST', detail: new RegExp(`^${name} must be `) }], `${accept} ${query}`)
    }
  }
})

t.test('whatever the query: an answer, and no defect', async t => {
  const { gateway, ask } = await scene(t)
  await ask('/api/planner/1')
  const values = ['', '%', '%ff', '%00', '1', '-1', '5xx', 'NaN', 'Infinity', '1e309', '__proto__', '999999999999999999999d', '0ms', '2026-02-30', '9999-12-31T23:59:59Z', '\u2028', 'a'.repeat(5_000), '000000000000-999999999999999', ',,,', '[]', '{}']
  for (const name of ['agent', 'status', 'since', 'limit', '__proto__', 'sees']) {
    for (const value of values) {
      const { statusCode, payload } = await gateway.inject(`/audit?${name}=${value.includes('%') ? value : encodeURIComponent(value)}`)
      t.ok(statusCode === 200 || (statusCode === 400 && payload.includes('FLEET_BAD_REQUEST')), `${name}=${encodeURIComponent(value.slice(0, 40))}: ${statusCode}`)
    }
  }
})

t.test('who may not read gets nothing; a key for some agents sees theirs', async t => {
  const { gateway, ask, paths } = await scene(t, { auth: { keys } })
  await ask('/api/planner/1', as('all'))
  await ask('/api/coder/1', as('all'))
  await ask('/nowhere', as('all'))

  for (const accept of ['*/*', 'text/event-stream']) {
    t.same(await Promise.all([{}, as('nobody'), as('blind')].map(headers => ask('/audit', { accept, ...headers }))), [401, 401, 403], accept)
    t.equal(await ask('/audit?agent=coder', { accept, ...as('some') }), 403, accept)
    t.equal(await ask('/audit?agent=unknown', { accept, ...as('some') }), 403, accept)
  }
  t.same(await paths('', as('some')), ['/api/planner/1'])
  t.same((await paths('', as('all'))).slice(0, 3), ['/api/planner/1', '/api/coder/1', '/nowhere'])

  const stream = await readEvents(t, `${gateway.origin}/audit?since=1h`, as('some'))
  await ask('/api/coder/2', as('all'))
  await ask('/api/planner/2', as('all'))
  await stream.until(forPath('/api/planner/2'))
  t.same(stream.events.map(event => entryIn(event).path), ['/api/planner/1', '/api/planner/2'])
})

t.test('the stream tells of each exchange as it finishes, and only of those that are wanted', async t => {
  const { gateway, ask } = await scene(t)
  await ask('/api/coder/500')
  const all = await readEvents(t, `${gateway.origin}/audit`)
  const failures = await readEvents(t, `${gateway.origin}/audit?agent=coder&status=5xx`)

  for (const path of ['/api/planner/1', '/api/coder/200', '/api/coder/502', '/api/planner/2']) await ask(path)
  await Promise.all([all.until(forPath('/api/planner/2')), failures.until(forPath('/api/coder/502'))])

  t.match(all.response.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-request-id': String })
  t.match(all.text(), /^retry: \d+\nid: [0-9a-f]{12}-\d+\n\n/)
  t.same(all.events.map(event => entryIn(event).path), ['/api/planner/1', '/api/coder/200', '/api/coder/502', '/api/planner/2'])
  t.same(failures.events.map(event => entryIn(event).path), ['/api/coder/502'])
  t.same(all.events.map(entryIn), gateway.auditLog.recent({ since: all.events[0]!.id }).length === 3 ? gateway.auditLog.recent({ limit: 4 }) : [])
  t.ok(all.events.every(event => event.id === entryIn(event).id))
})

t.test('who connects again goes on where it was, and so does who begins with the past', async t => {
  const { gateway, ask } = await scene(t)
  const before = await readEvents(t, `${gateway.origin}/audit?agent=planner`)
  await ask('/api/planner/1')
  const last = await before.until(forPath('/api/planner/1'))
  before.close()
  await before.over()
  for (const number of [2, 3, 4]) await ask(`/api/planner/${number}`)

  const after = await readEvents(t, `${gateway.origin}/audit?agent=planner`, { 'last-event-id': last.id })
  await after.until(forPath('/api/planner/4'))
  t.same(after.events.map(event => entryIn(event).path), ['/api/planner/2', '/api/planner/3', '/api/planner/4'])

  for (const [query, headers] of [['limit=2', {}], ['since=1h&limit=2', {}], ['limit=2', { 'last-event-id': 'none of ours' }]] as const) {
    const past = await readEvents(t, `${gateway.origin}/audit?agent=planner&${query}`, headers)
    await past.until(forPath('/api/planner/4'))
    t.same(past.events.map(event => entryIn(event).path), ['/api/planner/3', '/api/planner/4'], query)
  }
  const restarted = await readEvents(t, `${gateway.origin}/audit?agent=planner`, { 'last-event-id': '000000000000-12' })
  await restarted.until(forPath('/api/planner/4'))
  t.equal(restarted.events.length, 4, 'an id of an earlier start: all since')
})

t.test('what left the ring before it could be sent is counted', async t => {
  const { gateway, audit } = await scene(t)
  await gateway.inject('/health/live')
  const [first] = gateway.auditLog.recent()
  for (let count = 0; count < 1_010; count++) await gateway.inject('/health/live')

  t.match(await audit(`?since=${first!.id}&limit=1000`), { missed: 10 })
  const stream = await readEvents(t, `${gateway.origin}/audit`, { 'last-event-id': first!.id })
  const dropped = await stream.until(({ type }) => type === 'dropped')
  t.match(JSON.parse(dropped.data), { count: Number })
  t.ok((JSON.parse(dropped.data) as { count: number }).count >= 10)
})

t.test('a reader that does not read holds up nobody and is kept nothing for; one that does misses nothing', async t => {
  const { gateway, ask } = await scene(t)
  const { client: slow } = await stuckReader(t, gateway, '/audit')
  const picky = await readEvents(t, `${gateway.origin}/audit?status=404`)

  // As under load: far more than the ring holds, in one turn of the event loop and the next.
  const path = '/' + 'x'.repeat(1_500)
  for (let round = 0; round < 40; round++) {
    await Promise.all(Array.from({ length: 250 }, () => gateway.inject({ url: '/health/live' + path })))
  }
  await ask('/api/coder/404')
  await picky.until(forPath('/api/coder/404'))
  const count = picky.events.filter(event => event.type === 'request').length
  const dropped = picky.events.filter(event => event.type === 'dropped').reduce((sum, { data }) => sum + (JSON.parse(data) as { count: number }).count, 0)
  t.equal(count + dropped, 10_001, 'each was sent or counted')
  t.ok(dropped > 0, 'more than its share was not sent')

  let received = ''
  slow.setEncoding('latin1').on('data', (chunk: string) => { received += chunk }).resume()
  while (!received.includes('event: dropped')) await once(slow, 'data')
  t.ok(received.length < 6_000_000, `${received.length} characters were kept for it, by the system and us`)
})

t.test('who reads little misses nothing of it, however much else there is', async t => {
  const { gateway, ask } = await scene(t)
  const picky = await readEvents(t, `${gateway.origin}/audit?status=404`)
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 400 }, () => gateway.inject('/health/live')))
    await gateway.inject(`/api/coder/404/${round}`)
  }
  await ask('/api/coder/404/last')
  await picky.until(forPath('/api/coder/404/last'))

  t.same(picky.events.map(event => entryIn(event).path), [...Array.from({ length: 20 }, (_, round) => `/api/coder/404/${round}`), '/api/coder/404/last'])
})

t.test('a key that was revoked or narrowed is not read for any more', async t => {
  const { gateway, ask } = await scene(t, { auth: { keys } })
  const revoked = await readEvents(t, `${gateway.origin}/audit`, as('some'))
  const narrowed = await readEvents(t, `${gateway.origin}/audit`, as('all'))
  await ask('/api/planner/1', as('all'))
  await Promise.all([revoked, narrowed].map(stream => stream.until(forPath('/api/planner/1'))))

  gateway.auth.reconfigure({ keys: [{ ...keys[0]!, agents: ['planner'] }, { id: 'new', token: 'token-of-new', scopes: ['proxy'] }] })
  t.equal(await revoked.over(), true, 'its end is a proper one')
  await ask('/api/coder/2', as('new'))
  await ask('/api/planner/2', as('new'))
  await narrowed.until(forPath('/api/planner/2'))

  t.notOk(narrowed.events.some(forPath('/api/coder/2')))
  t.equal(await ask('/audit', { accept: 'text/event-stream', ...as('some') }), 401)
})

t.test('a key that lost the scope is not read for any more; with auth off everybody is', async t => {
  const { gateway, ask } = await scene(t, { auth: { keys } })
  const lost = await readEvents(t, `${gateway.origin}/audit`, as('all'))
  const kept = await readEvents(t, `${gateway.origin}/audit`, { 'x-fleet-token': 'token-of-some' })

  gateway.auth.reconfigure({ keys: [{ ...keys[0]!, scopes: ['proxy'] }, keys[1]!] })
  t.equal(await lost.over(), true)
  gateway.auth.reconfigure({ enabled: false })
  await ask('/api/planner/1')
  await kept.until(forPath('/api/planner/1'))
})

t.test('a comment keeps a quiet stream alive and says where it is', async t => {
  const clock = fakeClock(Date.now())
  const { gateway } = await scene(t, { clock })
  const stream = await readEvents(t, `${gateway.origin}/audit?agent=planner`)
  await gateway.inject('/nowhere')

  clock.advance(15_000)

  while (!stream.text().includes(': alive')) await once(stream.response, 'data')
  t.equal(stream.events.length, 0)
  const ids = [...stream.text().matchAll(/id: \w+-(\d+)/g)].map(([, number]) => Number(number))
  t.same(ids, [ids[0], ids[0]! + 1], 'who connects again need not be told what it did not want')
})

/** One who follows the audit log and reads nothing, when no more is taken of what it is told. @param tick lets streams have their share */
async function stuckAtAudit (t: Test, gateway: ListeningGateway, tick: () => unknown) {
  const { response } = await stuckReader(t, gateway, '/audit', 'token-of-all')
  const path = '/' + 'x'.repeat(2_000)
  await untilFull(response, async () => {
    await Promise.all(Array.from({ length: 100 }, () => gateway.inject(path)))
    await tick()
  })
  return response
}

t.test('a reader that takes nothing for a minute is cut off', async t => {
  const clock = fakeClock(Date.now())
  const { gateway } = await scene(t, { clock })
  const response = await stuckAtAudit(t, gateway, () => clock.advance(100))
  const closed = once(response, 'close')

  clock.advance(61_000)

  await closed
  t.match(gateway.auditLog.recent({ limit: 1 }), [{ path: '/audit', ending: 'client-aborted' }])
})

t.test('a reader that takes nothing and whose key is revoked is cut off soon', async t => {
  const clock = fakeClock(Date.now())
  const { gateway } = await scene(t, { clock, auth: { keys }, rateLimit: { enabled: false } })
  const response = await stuckAtAudit(t, gateway, () => clock.advance(100))
  const closed = once(response, 'close')

  gateway.auth.reconfigure({ keys: [keys[1]!] })
  for (let second = 0; second < 3; second++) {
    clock.advance(1_000)
    await new Promise(resolve => setImmediate(resolve))
  }

  t.equal(response.destroyed, true)
  await closed
})

t.test('however long the end of a stream takes, it is told once', async t => {
  const clock = fakeClock(Date.now())
  const { gateway } = await scene(t, { clock })
  const response = await stuckAtAudit(t, gateway, () => clock.advance(100))
  const listeners = response.listenerCount('close')

  const drained = gateway.drain.begin({ delayMs: 0, timeoutMs: 60_000 })
  for (let tick = 0; tick < 9; tick++) clock.advance(100)

  t.equal(response.listenerCount('close'), listeners + 1)
  clock.advance(200)
  await drained
})

t.test('streams end properly when the gateway drains, which they do not hold up', async t => {
  const { gateway } = await scene(t)
  const streams = await Promise.all(Array.from({ length: 5 }, () => readEvents(t, `${gateway.origin}/audit`)))

  await gateway.drain.begin({ delayMs: 0, timeoutMs: 60_000 })

  t.same(await Promise.all(streams.map(stream => stream.over())), [true, true, true, true, true])
})

t.test('streams end when the gateway closes, also one whose client takes nothing', async t => {
  const { gateway } = await scene(t)
  const stream = await readEvents(t, `${gateway.origin}/audit`)
  await stuckAtAudit(t, gateway, () => once(stream.response, 'data')) // a tick, by which each gets its share

  await gateway.close()

  t.equal(await stream.over(), true)
})

t.test('no more than 256 streams are open at once; each of them gets its events', async t => {
  const { gateway, ask } = await scene(t)
  const streams = await Promise.all(Array.from({ length: 256 }, () => readEvents(t, `${gateway.origin}/audit`)))

  t.equal(await ask('/audit', { accept: 'text/event-stream' }), 429)
  t.equal(await ask('/audit'), 200)
  await ask('/api/planner/1')
  await Promise.all(streams.map(stream => stream.until(forPath('/api/planner/1'))))
  const left = new Promise<void>(resolve => { gateway.auditLog.onEntry(({ ending }) => { if (ending === 'client-aborted') resolve() }) })
  streams[0]!.close()
  await left
  await readEvents(t, `${gateway.origin}/audit`).then(({ response }) => t.equal(response.statusCode, 200))
})

t.test('a reader that left before its stream began is not kept', async t => {
  const clock = fakeClock()
  let ticking = 0
  const watched: typeof clock = {
    ...clock,
    every (intervalMs, fn) {
      const stop = clock.every(intervalMs, fn)
      ticking++
      return () => {
        ticking--
        stop()
      }
    }
  }
  let came = () => {}
  let go = () => {}
  const coming = new Promise<void>(resolve => { came = resolve })
  const { facts, gateway } = await waitingGateway(t, watched, () => new Promise(resolve => {
    go = resolve
    came()
  }))
  const before = ticking
  const asking = get(`${gateway}/audit`, { agent: false, headers: { accept: 'text/event-stream' } })
  asking.on('error', () => {})
  await coming

  const over = new Promise<void>(resolve => facts.onFinished(() => resolve()))
  asking.destroy()
  await over
  go()
  await new Promise(resolve => setImmediate(resolve))

  t.equal(ticking, before)
})

/** A gateway around which an application has a hook that waits. */
async function waitingGateway (t: Test, clock: FakeClock, wait: () => Promise<void>) {
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  app.addHook('preHandler', wait)
  await app.register(openGateway, { ...quiet, ...unprobed, clock })
  return { gateway: await app.listen({ host: '127.0.0.1', port: 0 }), facts: app.facts }
}

t.test('which form is wanted is negotiated', async t => {
  const { gateway } = await scene(t)
  const cases: [accept: string | undefined, type: string][] = [
    [undefined, 'application/json'], ['*/*', 'application/json'], ['text/html', 'application/json'], ['application/json, text/event-stream', 'application/json'], ['text/event-stream;q=0, */*', 'application/json'],
    ['text/event-stream;q=0.5, application/json', 'application/json'], ['text/event-stream;q=nonsense', 'application/json'],
    ['text/event-stream', 'text/event-stream'], ['Text/Event-Stream; charset=utf-8', 'text/event-stream'], ['text/event-stream, */*', 'text/event-stream'], ['text/*, application/*;q=0.5', 'text/event-stream'],
    ['application/json;q=0.5, text/event-stream;q=0.9', 'text/event-stream']
  ]
  for (const [accept, type] of cases) {
    const [response] = await once(get(`${gateway.origin}/audit`, { agent: false, headers: accept === undefined ? {} : { accept } }), 'response') as [IncomingMessage]
    response.on('error', () => {}).destroy()
    t.match(response.headers['content-type'], type, String(accept))
  }
  const head = await fetch(`${gateway.origin}/audit`, { method: 'HEAD', headers: { accept: 'text/event-stream' } })
  t.equal(head.headers.get('content-type'), 'text/event-stream')
})

t.test('a page of an allowed origin may read it; under a prefix it is there as well', async t => {
  const { gateway } = await scene(t, { cors: { enabled: true, origins: ['https://ops.example'] } })
  const stream = await readEvents(t, `${gateway.origin}/audit`, { origin: 'https://ops.example' })
  t.equal(stream.response.headers['access-control-allow-origin'], 'https://ops.example')
  t.match(stream.response.headers.vary, /origin.*accept/i)
})
