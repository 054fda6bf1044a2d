import Fastify from 'fastify'
import t, { type Test } from 'tap'
import auditLog, { type AuditEntry, type AuditLogPluginOptions } from '../../plugins/audit-log/index.ts'
import facts, { RequestFacts, type FactsListener } from '../../plugins/facts/index.ts'
import { newRuntime, type Instance } from '../../src/fleet/instance.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const startMs = Date.UTC(2026, 2, 1, 12)

/** The plugin alone, and a way to finish exchanges that were never made. */
async function scene (t: Test, options: AuditLogPluginOptions = {}) {
  const clock = fakeClock(startMs)
  const listeners = new Set<FactsListener>()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(facts)
  app.facts.onFinished = listener => {
    listeners.add(listener)
    return () => listeners.delete(listener)
  }
  await app.register(auditLog, { clock, destination: { write () {} }, ...options })
  function finish (fields: Partial<RequestFacts> & { id?: string, url?: string } = {}): void {
    const exchange = Object.assign(new RequestFacts('req', 'GET', '/api/planner/x', '192.0.2.1', false), { startedAt: clock.now(), status: 200, durationMs: 1, ending: 'complete' }, fields)
    for (const listener of listeners) listener(exchange)
  }
  const ids = (filter?: Parameters<typeof app.auditLog.recent>[0]) => app.auditLog.recent(filter).map(entry => entry.request_id)
  return { app, clock, finish, ids, listeners }
}

function attemptAt (id: string, outcome: AttemptOutcome, status = 0): Attempt {
  const instance: Instance = { id, agent: 'planner', protocol: 'http', host: 'localhost', port: 8_501, origin: 'http://localhost:8501', weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }
  return { instance, instanceId: id, startedMark: 0, outcome, status, durationMs: 1.234_567 }
}

t.test('an entry has the fields of the line, and each try', async t => {
  const { app, finish } = await scene(t)
  finish({
    keyId: 'ci', agent: 'planner', attempts: [attemptAt('aaa', 'refused'), attemptAt('bbb', 'answered', 503)], bytesReceived: 17, bytesSent: 1_024, durationMs: 12.345_678, status: 503, ending: 'client-aborted'
  })
  finish({ url: '/api/nobody?token=s3cret', status: 404, code: 'FLEET_AGENT_NOT_FOUND' })

  const [first, second] = app.auditLog.recent()

  t.match(first!.id, /^[0-9a-f]{12}-1$/)
  t.same({ ...first, id: '' }, {
    id: '',
    time: '2026-03-01T12:00:00.000Z',
    request_id: 'req',
    client: '192.0.2.1',
    key: 'ci',
    method: 'GET',
    path: '/api/planner/x',
    agent: 'planner',
    instance: 'bbb',
    attempts: 2,
    status: 503,
    latency_ms: 12.346,
    bytes_in: 17,
    bytes_out: 1_024,
    ending: 'client-aborted',
    tries: [{ instance: 'aaa', outcome: 'refused', duration_ms: 1.235 }, { instance: 'bbb', outcome: 'answered', duration_ms: 1.235, status: 503 }]
  })
  t.same(Object.keys(second!).includes('ending'), false)
  t.match(second, { path: '/api/nobody', agent: null, instance: null, attempts: 0, code: 'FLEET_AGENT_NOT_FOUND', tries: [] })
})

t.test('the last 1,000 are kept, newest last, whether or not lines are written', async t => {
  const { finish, ids } = await scene(t, { enabled: false })
  t.same(ids(), [])
  for (let count = 1; count <= 2_345; count++) finish({ id: String(count) })

  t.equal(ids().length, 1_000)
  t.equal(ids()[0], '1346')
  t.equal(ids().at(-1), '2345')
  t.same(ids({ limit: 2 }), ['2344', '2345'])
})

t.test('a listener is told of each, until it has enough', async t => {
  const { app, finish } = await scene(t)
  const told: AuditEntry[] = []
  const stop = app.auditLog.onEntry(entry => { told.push(entry) })
  finish({ id: 'a' })
  finish({ id: 'b' })
  stop()
  finish({ id: 'c' })

  t.same(told, app.auditLog.recent().slice(0, 2))
  t.same(told.map(entry => entry.request_id), ['a', 'b'])
})

t.test('a target of 30 KiB is cut when it is kept, and its query is not', async t => {
  const { app, finish } = await scene(t)
  finish({ url: '/' + 'x'.repeat(30_000) })
  finish({ url: '/short?' + 's3cret'.repeat(5_000), attempts: [attemptAt('aaa', 'answered', 200)] })

  const [long, short] = app.auditLog.recent()

  t.equal(long!.path, '/' + 'x'.repeat(2_047))
  t.match(short, { path: '/short', instance: 'aaa', status: 200 })
})

t.test('when it is closed nothing is kept any more', async t => {
  const { app, listeners } = await scene(t)
  await app.close()
  t.equal(listeners.size, 0)
})
