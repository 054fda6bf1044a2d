/** plugins/health: whose settings count, and what changes at once when they do. */
import t from 'tap'
import type { ProbeOutcome } from '../../plugins/health/index.ts'
import { stateOf, type Instance } from '../../src/fleet/instance.ts'
import { buildHealth, watchOne } from '../helpers/health-app.ts'

t.test('an agent overrides settings one by one', async t => {
  const s = await buildHealth(t, { path: '/status', timeout: 500, unhealthyAfter: 7 })
  s.add(8_501, { policy: { health: { path: '/health', interval: 2_000, unhealthyAfter: 1 } } })
  s.add(8_502, { name: 'writer' })
  await s.app.ready()

  t.same(s.calls.map(({ settings }) => settings), [
    { path: '/health', interval: 2_000, timeout: 500, unhealthyAfter: 1, healthyAfter: 2 },
    { path: '/status', interval: 10_000, timeout: 500, unhealthyAfter: 7, healthyAfter: 2 }
  ])
  await s.answer('refused', 'refused')

  t.same(s.changes(), ['40 planner down: probes get no connection'])
})

t.test('new settings take effect at once, or not at all', async t => {
  const s = await watchOne(t, { interval: '1h' })
  await s.answer('ok')
  s.clock.advance(5_000)

  t.throws(() => s.reconfigure({ interval: '2s', intervall: 2 }), { message: /intervall/ })
  s.clock.advance(5_000)
  t.equal(s.calls.length, 0)
  s.reconfigure({ interval: '12s', timeout: '1s' })
  s.clock.advance(1_900)
  t.equal(s.calls.length, 0)
  s.clock.advance(100)

  t.match(s.calls, [{ settings: { timeout: 1_000, interval: 12_000 } }])
  t.throws(() => s.reconfigure({ timeout: 'soon' }), { message: /^health\.timeout must be a duration/ })
})

t.test('an agent\'s new policy takes effect before its old interval is over', async t => {
  const s = await watchOne(t, { interval: '1h' })
  await s.answer('ok')

  s.add(8_501, { policy: { health: { interval: 2_000 } } })
  s.clock.advance(3_000)

  t.equal(s.calls.length, 1)
})

t.test('a new path is asked at once; the verdict stays until that has answered often enough', async t => {
  const s = await buildHealth(t, { interval: '1h' })
  const [up, down] = [s.add(8_501), s.add(8_502)]
  down.runtime.health.up = false
  await s.app.ready()
  await s.answer('refused', 'ok')
  s.clock.advance(1_000)
  const { calls } = s
  t.same(calls.map(({ instance }) => instance), [down, up])
  await calls.pop()!.answer('refused')

  s.reconfigure({ interval: '1h', path: '/up' })
  t.same([stateOf(up), stateOf(down)], ['up', 'down'])
  t.equal(calls[0]!.settings.path, undefined)
  t.equal(calls[0]!.signal.aborted, true, 'what is under way asks what nobody wants to know any more')
  await s.answer('ok')
  s.clock.advance(100)
  t.same(calls.map(({ settings }) => settings.path), ['/up', '/up'])
  const answerFor = (instance: Instance, outcome: ProbeOutcome) => calls.splice(calls.findIndex(call => call.instance === instance), 1)[0]!.answer(outcome)
  await answerFor(down, 'ok')
  await answerFor(up, 'bad')
  t.same([stateOf(up), stateOf(down)], ['up', 'down'], 'what was found by the old question does not count')
  s.clock.advance(1_000)
  await answerFor(down, 'ok')
  await answerFor(up, 'bad')
  s.clock.advance(1_000)
  await answerFor(up, 'bad')

  t.same([stateOf(up), stateOf(down)], ['down', 'up'])
})

t.test('a new path in an agent\'s policy is asked within a second', async t => {
  const s = await watchOne(t, { interval: '1h' })
  await s.answer('ok')
  s.clock.advance(2_000)

  s.add(8_501, { policy: { health: { path: '/up' } } })
  s.clock.advance(1_000)

  t.match(s.calls, [{ settings: { path: '/up' } }])
})

t.test('a new timeout ends the probe that waits by the old one; new thresholds count for what is under way', async t => {
  const { instance, ...s } = await watchOne(t, { timeout: '1h' })

  s.reconfigure({ timeout: '1s' })
  t.equal(s.calls[0]!.signal.aborted, true)
  await s.answer('timeout')
  s.clock.advance(100)
  t.match(s.calls, [{ settings: { timeout: 1_000 } }])
  t.equal(instance.runtime.health.probeFailures, 0, 'that says nothing')
  s.reconfigure({ timeout: '1s', unhealthyAfter: 1 })
  await s.answer('timeout')

  t.equal(stateOf(instance), 'down')
})

t.test('options are checked', async t => {
  await t.rejects(buildHealth(t, { unhealthyAfter: 0 }), { message: /health\.unhealthyAfter/ })
})
