/** plugins/health: what probes and requests change of an instance's state, and what the log has of it. The rules themselves are tested in test/fleet/outlier.test.ts. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Probe } from '../../plugins/health/index.ts'
import { isHealthy, stateOf } from '../../src/fleet/instance.ts'
import { buildHealth, watchOne } from '../helpers/health-app.ts'

t.test('three failures in a row are down, two successes in a row up; the log has each change once', async t => {
  const { instance, ...s } = await watchOne(t)

  await s.answer('refused')
  await s.answerEachSecond('timeout')
  t.equal(stateOf(instance), 'up')
  await s.answerEachSecond('bad')
  t.equal(stateOf(instance), 'down')
  for (const outcome of ['refused', 'ok', 'ok'] as const) {
    s.clock.advance(1_000)
    t.equal(s.calls.length, 1, 'every second while it is down')
    await s.answer(outcome)
  }

  t.equal(stateOf(instance), 'up')
  t.same(s.changes(), ['40 planner down: probes get a bad answer', '30 planner up: probes succeed'])
  t.match(s.logs.find(({ change }) => change === 'down'), { instance: instance.id })
  s.clock.advance(9_900)
  t.equal(s.calls.length, 0, 'and then each interval again')
})

t.test('busy is not dead: a timeout does not count while requests make progress, a refused connection does', async t => {
  const { instance, ...s } = await watchOne(t, { unhealthyAfter: 1 })
  const attempt = s.upstream.begin(instance)

  s.clock.advance(1_000)
  s.upstream.progress(attempt)
  await s.answer('timeout')
  t.equal(stateOf(instance), 'up')
  s.clock.advance(10_000)
  await s.answer('timeout')
  t.equal(stateOf(instance), 'down', 'no progress since this probe began')

  await s.answerEachSecond('ok', 'ok')
  s.clock.advance(10_000)
  s.upstream.progress(attempt)
  await s.answer('refused')
  t.equal(stateOf(instance), 'down')
})

t.test('a probe that throws is a bad answer, and the next is due as always', async t => {
  let count = 0
  const failing = (() => {
    count++
    if (count % 2 === 1) throw new Error('at once')
    return Promise.reject(new Error('later'))
  }) as Probe
  const s = await watchOne(t, { probe: failing, unhealthyAfter: 2 })
  await nextTurn()
  s.clock.advance(10_000)
  await nextTurn()

  t.equal(count, 2)
  t.same(s.changes(), ['40 planner down: probes get a bad answer'])
})

/** Two instances, both up; `instance` is the first of them. */
async function watchTwo (t: Test) {
  const health = await buildHealth(t)
  const instance = health.add(8_501)
  health.add(8_502)
  await health.app.ready()
  await health.answer('ok', 'ok')
  return { ...health, instance }
}

t.test('five failed connections eject an instance; two good probes bring it back within two seconds', async t => {
  const { instance, ...s } = await watchTwo(t)

  s.attempts(instance, 5, 'refused')
  t.equal(stateOf(instance), 'ejected')
  for (let probes = 0; probes < 2; probes++) {
    s.clock.advance(1_000)
    t.same(s.calls.map(({ instance: { port } }) => port), [8_501])
    await s.answer('ok')
  }

  t.equal(stateOf(instance), 'up')
  t.same(s.changes(), ['40 planner ejected: a request ended with "refused"', '30 planner restored: probes succeed'])
})

t.test('one ejected for its answers is back after a good trial request', async t => {
  const { instance, ...s } = await watchTwo(t)
  s.attempts(instance, 5, 'answered', 503)

  s.clock.advance(1_000)
  t.equal(s.calls.length, 0, 'probes would not help')
  s.clock.advance(29_000)
  s.attempts(instance, 1, 'answered', 503)
  t.equal(instance.runtime.health.ejectedUntil, s.clock.now() + 60_000)
  s.clock.advance(60_000)
  s.attempts(instance, 1, 'answered', 200)

  t.equal(stateOf(instance), 'up')
  t.same(s.changes(), [
    '40 planner ejected: a request was answered with 503',
    '40 planner ejected: a request was answered with 503',
    '30 planner restored: a request was answered with 200'
  ])
})

t.test('attempts of who has left are nobody\'s business', async t => {
  const s = await buildHealth(t)
  const [first, second] = [s.add(8_501), s.add(8_502), s.add(8_503)]
  await s.app.ready()

  s.registry.removeInstance('planner', first.id)
  s.attempts(first, 9, 'refused')
  s.registry.removeAgent('planner')
  s.attempts(second, 9, 'refused')

  t.same(s.changes(), [])
  t.ok(isHealthy(second))
})
