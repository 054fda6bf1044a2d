/** plugins/health: when each instance is probed, how many at once, and what becomes of probes when an instance leaves or the application closes. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { isHealthy, stateOf } from '../../src/fleet/instance.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { buildHealth, watchOne } from '../helpers/health-app.ts'

t.test('every instance is probed at once: those that are there, and each that comes', async t => {
  const s = await buildHealth(t)
  s.add(8_501)
  t.equal(s.calls.length, 0, 'not before the application is ready')

  await s.app.ready()
  t.same(s.calls.map(({ instance }) => instance.port), [8_501])
  s.add(8_502)
  s.add(8_502)

  t.same(s.calls.map(({ instance }) => instance.port), [8_501, 8_502])
})

t.test('an instance that is up is probed each interval', async t => {
  const s = await watchOne(t, { interval: '4s' })
  await s.answer('ok')

  s.clock.advance(3_900)
  t.equal(s.calls.length, 0)
  s.clock.advance(100)
  t.equal(s.calls.length, 1)
  await s.answer('ok')
  s.clock.advance(4_000)
  t.equal(s.calls.length, 1)
})

t.test('intervals are shortened at random, the first by more, so that instances drift apart', async t => {
  const s = await watchOne(t, { random: () => 0.999_9 })

  await s.answer('ok')
  s.clock.advance(5_000)
  t.equal(s.calls.length, 1)
  await s.answer('ok')
  s.clock.advance(8_900)
  t.equal(s.calls.length, 0)
  s.clock.advance(200)
  t.equal(s.calls.length, 1)
})

t.test('of one that failed a probe the verdict takes two seconds more, not two intervals; a good probe ends the hurry', async t => {
  const { instance, ...s } = await watchOne(t)
  await s.answer('ok')
  s.clock.advance(10_000)

  await s.answer('refused')
  s.clock.advance(900)
  t.equal(s.calls.length, 0)
  s.clock.advance(100)
  await s.answer('ok')
  s.clock.advance(9_900)
  t.equal(s.calls.length, 0, 'a good one: there is time again')
  s.clock.advance(100)
  await s.answer('refused')
  await s.answerEachSecond('refused', 'refused')

  t.equal(stateOf(instance), 'down')
})

t.test('a new instance that does not answer is down two seconds after it came', async t => {
  const s = await buildHealth(t, { random: () => 0.999_9 })
  await s.app.ready()
  const instance = s.add(8_501)

  await s.answer('refused')
  s.clock.advance(800)
  t.equal(s.calls.length, 0, 'hurry is not shortened by half, as first intervals are')
  s.clock.advance(200)
  await s.answer('refused')
  await s.answerEachSecond('refused')

  t.equal(stateOf(instance), 'down')
})

t.test('who is probed more often than every second keeps to that', async t => {
  const s = await watchOne(t, { interval: '200ms' })

  await s.answer('refused')
  s.clock.advance(200)

  t.equal(s.calls.length, 1)
})

t.test('instances that failed and came back together drift apart again', async t => {
  const shares = [0.999_9, 0]
  let turn = 0
  const s = await buildHealth(t, { random: () => shares[turn++ % 2]! })
  s.add(8_501)
  s.add(8_502)
  await s.app.ready()
  for (let probes = 0; probes < 2; probes++) {
    await s.answer('refused', 'refused')
    s.clock.advance(1_000)
  }
  await s.answer('ok', 'ok')

  s.clock.advance(5_000)

  t.same(s.calls.map(({ instance }) => instance.port), [8_501], 'the other one is due five seconds later')
})

t.test('one that requests could not connect to is asked each second, however long its interval', async t => {
  const s = await buildHealth(t, { interval: '1h' })
  const [instance] = [s.add(8_501), s.add(8_502)]
  await s.app.ready()
  await s.answer('ok', 'ok')
  s.clock.advance(5_000)

  s.attempts(instance, 5, 'refused')
  t.equal(stateOf(instance), 'ejected')
  s.clock.advance(100)

  t.same(s.calls.map(({ instance: asked }) => asked), [instance])
})

t.test('one request that could not connect has the instance asked within a second, and again only when another one could not', async t => {
  const { instance, ...s } = await watchOne(t, { interval: '1h' })
  await s.answer('ok')
  s.clock.advance(5_000)
  s.attempts(instance, 3, 'answered', 500)
  s.clock.advance(1_000)
  t.equal(s.calls.length, 0)

  s.attempts(instance, 1, 'refused')
  s.clock.advance(100)
  t.equal(s.calls.length, 1)
  s.attempts(instance, 1, 'refused') // known before that probe is over, so it is asked once more
  await s.answer('ok')
  s.clock.advance(900)
  t.equal(s.calls.length, 0)
  s.clock.advance(100)
  await s.answer('ok')
  s.clock.advance(60_000)
  t.equal(s.calls.length, 0, 'a good one ends the hurry')

  s.attempts(instance, 1, 'refused')
  s.clock.advance(100)
  await s.answer('refused')
  await s.answerEachSecond('refused', 'refused')
  t.equal(stateOf(instance), 'down')
})

t.test('when one leaves, the others are probed as if it had never been there', async t => {
  const shares = [0, 0.5, 0.999_9]
  let turn = 0
  const s = await buildHealth(t, { interval: '9s', random: () => shares[turn++ % 3]! })
  const first = s.add(8_501)
  s.add(8_502)
  s.add(8_503)
  await s.app.ready()
  await s.answer('ok', 'ok', 'ok')

  s.clock.advance(4_400)
  t.equal(s.calls.length, 0)

  s.registry.removeInstance('planner', first.id)
  const due: [number, number][] = []
  for (let ms = 4_500; ms <= 12_000; ms += 100) {
    s.clock.advance(100)
    while (s.calls.length > 0) {
      due.push([s.calls[0]!.instance.port, ms])
      await s.answer('ok')
    }
  }

  t.same(due, [[8_503, 4_500], [8_502, 6_700]])
})

t.test('however many there are, each keeps its time', async t => {
  const probed: unknown[] = []
  const s = await buildHealth(t, { interval: '20s', probe: async instance => { probed.push(instance); return 'ok' } })
  s.registry.replaceFile([{ name: 'planner', instances: Array.from({ length: 2_500 }, (_, port) => ({ host: '127.0.0.1', port: port + 1, protocol: 'http', weight: 1 })) }])
  await s.app.ready()
  await s.health().firstRound()
  t.equal(probed.length, 2_500)
  for (let late = 1; late <= 2_500; late++) s.add(late, { name: `late-${late}` })
  await s.health().firstRound()
  t.equal(probed.length, 5_000)

  s.clock.advance(5_000)
  await nextTurn()
  t.equal(probed.length, 5_000)
  s.clock.advance(20_000)
  while (probed.length < 10_000) await nextTurn()
  await nextTurn()

  t.equal(probed.length, 10_000)
})

t.test('instances that never answer hold up nobody else', async t => {
  const s = await buildHealth(t)
  const dead = Array.from({ length: 100 }, (_, index) => s.add(index + 1))
  for (const { runtime: { health } } of dead) health.up = false
  await s.app.ready()
  while (s.calls.length > 0) await s.answer('timeout')
  s.clock.advance(1_000)
  t.equal(s.calls.length, 48, 'dead ones wait for their turn')

  s.add(8_501, { name: 'writer' })

  t.equal(s.calls.at(-1)!.instance.port, 8_501)
  const probed = []
  while (s.calls.length > 0) {
    probed.push(s.calls[0]!.instance.port)
    await s.answer('timeout')
  }
  t.equal(new Set(probed).size, 101, 'and all of them get it')
})

t.test('a clock that is set back stops no probe', async t => {
  const clock = fakeClock()
  let now = 0
  const s = await watchOne(t, { clock: { ...clock, now: () => clock.now() + now } })
  await s.answer('ok')

  now = -3_600_000
  clock.advance(100)

  t.equal(s.calls.length, 1)
})

t.test('an instance is never probed twice at once, however long it takes', async t => {
  const s = await watchOne(t, { interval: '1s' })

  s.clock.advance(60_000)

  t.equal(s.calls.length, 1)
  await s.answer('ok')
  s.clock.advance(100)
  t.equal(s.calls.length, 1, 'what was due in the meantime follows')
})

t.test('at most 64 probes are under way, and everybody gets a turn', async t => {
  const s = await buildHealth(t)
  for (let port = 1; port <= 200; port++) s.add(port)
  await s.app.ready()
  t.equal(s.calls.length, 64)
  s.clock.advance(1_000)
  t.equal(s.calls.length, 64)

  const probed: number[] = []
  while (s.calls.length > 0) {
    t.ok(s.calls.length <= 64)
    probed.push(s.calls[0]!.instance.port)
    await s.answer('ok')
  }

  t.same(probed, Array.from({ length: 200 }, (_, index) => index + 1))
})

t.test('an instance that leaves is forgotten: its probe is given up and says nothing', async t => {
  const { instance, ...s } = await watchOne(t, { unhealthyAfter: 1 })

  s.registry.removeInstance('planner', instance.id)
  t.equal(s.calls[0]!.signal.aborted, true)
  await s.answer('refused')
  s.clock.advance(60_000)

  t.ok(isHealthy(instance), 'no verdict was passed on it')
  t.same(s.changes(), [])
  t.equal(s.calls.length, 0)
})

t.test('one that leaves before its turn is not probed', async t => {
  const s = await buildHealth(t)
  for (let port = 1; port <= 64; port++) s.add(port)
  await s.app.ready()
  const late = s.add(65)

  s.registry.removeInstance('planner', late.id)
  while (s.calls.length > 0) {
    t.not(s.calls[0]!.instance.port, 65)
    await s.answer('ok')
  }
})

t.test('nor is one that was out when it left', async t => {
  const s = await buildHealth(t)
  const dead = Array.from({ length: 60 }, (_, index) => s.add(index + 1))
  await s.app.ready()
  while (s.calls.length > 0) await s.answer('ok')
  for (const { runtime: { health } } of dead) health.up = false
  s.clock.advance(2_000)
  t.equal(s.calls.length, 48)

  const asked = new Set(s.calls.map(({ instance }) => instance))
  const waiting = dead.filter(instance => !asked.has(instance))
  for (const { id } of waiting) s.registry.removeInstance('planner', id)
  for (const { answer } of s.calls.splice(0)) await answer('refused')

  t.equal(s.calls.length, 0)
})

t.test('the first round is over when every instance was probed once, or is gone', async t => {
  const s = await buildHealth(t)
  const [first, second] = [s.add(8_501), s.add(8_502)]
  await s.app.ready()
  let over = false
  const round = s.health().firstRound().then(() => { over = true })

  await s.answer('refused')
  t.equal(over, false)
  t.equal(first.runtime.health.probeFailures, 1)
  s.registry.removeInstance('planner', second.id)
  await round

  t.equal(over, true)
  await s.health().firstRound() // nobody is left who was never asked
})

t.test('the first round is that of the instances that were there, even before the start', async t => {
  const s = await buildHealth(t)
  s.add(8_501)
  let over = false
  const round = s.health().firstRound().then(() => { over = true })
  await nextTurn()
  t.equal(over, false, 'nobody was asked yet')
  await s.app.ready()
  await nextTurn()
  t.equal(over, false)
  s.add(8_502)

  await s.answer('ok')
  await round

  t.equal(s.calls.length, 1, 'who came later is still being asked')
})

t.test('closing ends the wait for the first round, before the start as well', async t => {
  for (const isReady of [true, false]) {
    const s = await buildHealth(t)
    s.add(8_501)
    if (isReady) await s.app.ready()
    const round = s.health().firstRound()

    await s.app.close()

    await t.resolves(round, String(isReady))
  }
})

t.test('closing ends everything', async t => {
  const s = await buildHealth(t)
  const [instance] = [s.add(8_501), s.add(8_502)]
  await s.app.ready()
  const { signal } = s.calls[0]!

  await s.app.close()

  t.equal(signal.aborted, true)
  await s.answer('refused')
  s.clock.advance(60_000)
  s.add(8_503)
  s.attempts(instance, 9, 'refused')
  t.equal(s.calls.length, 1, 'nothing new began')
  t.equal(stateOf(instance), 'up')
})

t.test('ten thousand instances cost little', async t => {
  const s = await buildHealth(t, { probe: async () => 'ok' })
  const ports = Array.from({ length: 100 }, (_, index) => index + 1)
  s.registry.replaceFile(ports.map(agent => ({
    name: `agent-${agent}`,
    instances: ports.map(port => ({ host: '127.0.0.1', port, protocol: 'http', weight: 1 }))
  })))
  await s.app.ready()
  while (s.registry.find('agent-100')!.instances[99]!.runtime.health.probeSuccesses === 0) await nextTurn()

  const cpu = process.cpuUsage()
  s.clock.advance(4_000)
  const spent = process.cpuUsage(cpu)

  t.ok((spent.user + spent.system) / 1_000 < 400, 'four seconds without a probe take less than a tenth of a core')
})
