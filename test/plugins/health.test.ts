import { spawn } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import health, { type HealthPluginOptions, type Probe, type ProbeOutcome } from '../../plugins/health/index.ts'
import type { HealthOptions } from '../../plugins/health/options.ts'
import { askHttp, createProbe } from '../../plugins/health/probe.ts'
import registry from '../../plugins/registry/index.ts'
import upstream from '../../plugins/upstream/index.ts'
import { systemClock } from '../../src/clock.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import { createLookupOf } from '../../src/guarded-lookup.ts'
import { isHealthy, newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'
import type { Registration } from '../../src/fleet/registry.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

/** A probe that a test answers by hand. */
interface ProbeCall {
  readonly instance: Instance
  readonly settings: HealthOptions
  readonly signal: AbortSignal
  readonly answer: (outcome: ProbeOutcome) => Promise<void>
}

interface LogLine { level: number, msg: string, agent?: string, instance?: string, change?: string, reason?: string }

/** The plugin in a bare application, whose time and probes are the test's. */
async function build (t: Test, options: HealthPluginOptions & { prefix?: string } = {}, prepare: (app: FastifyInstance) => Promise<unknown> = async () => {}) {
  const { prefix = '', ...healthOptions } = options
  const clock = fakeClock()
  const logs: LogLine[] = []
  const calls: ProbeCall[] = []
  const app = Fastify({ logger: { level: 'info', stream: { write: line => { logs.push(JSON.parse(line) as LogLine) } } } })
  const probe: Probe = (instance, settings, signal) => new Promise(resolve => {
    calls.push({ instance, settings, signal, answer: async outcome => { resolve(outcome); await nextTurn() } })
  })
  t.teardown(() => app.close())
  await prepare(app)
  await app.register(registry, { clock })
  await app.register(upstream, { clock })
  let decorated: FastifyInstance['health'] | undefined
  await app.register(async scope => {
    await scope.register(health, { clock, probe, random: () => 0, ...healthOptions })
    decorated = scope.health
  }, { prefix })

  return {
    app,
    clock,
    logs,
    calls,
    registry: app.registry,
    upstream: app.upstream,
    health: () => decorated!,
    reconfigure: (options: object) => decorated!.reconfigure(options),
    changes: () => logs.filter(({ change }) => change !== undefined).map(({ level, agent, change, reason }) => `${level} ${agent} ${change}: ${reason}`),
    add (port: number, rest: Partial<Registration> = {}): Instance {
      return app.registry.register({ name: 'planner', host: '127.0.0.1', port, ...rest }).instance
    },
    /** Answers each probe under way. */
    async answer (...outcomes: ProbeOutcome[]) {
      for (const outcome of outcomes) await calls.shift()!.answer(outcome)
    },
    /** Ends attempts at an instance with an outcome. */
    attempts (instance: Instance, times: number, outcome: AttemptOutcome, status = 0) {
      for (let count = 0; count < times; count++) {
        const attempt = app.upstream.begin(instance)
        app.upstream.settle(attempt, outcome, status)
        app.upstream.release(attempt)
      }
    }
  }
}

t.test('every instance is probed at once: those that are there, and each that comes', async t => {
  const s = await build(t)
  s.add(8_501)
  t.equal(s.calls.length, 0, 'not before the application is ready')

  await s.app.ready()
  t.same(s.calls.map(({ instance }) => instance.port), [8_501])
  s.add(8_502)
  s.add(8_502)

  t.same(s.calls.map(({ instance }) => instance.port), [8_501, 8_502])
})

t.test('an instance that is up is probed each interval', async t => {
  const s = await build(t, { interval: '4s' })
  s.add(8_501)
  await s.app.ready()
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
  const s = await build(t, { random: () => 0.999_9 })
  s.add(8_501)
  await s.app.ready()

  await s.answer('ok')
  s.clock.advance(5_000)
  t.equal(s.calls.length, 1)
  await s.answer('ok')
  s.clock.advance(8_900)
  t.equal(s.calls.length, 0)
  s.clock.advance(200)
  t.equal(s.calls.length, 1)
})

t.test('three failures in a row are down, two successes in a row up; the log has each change once', async t => {
  const s = await build(t)
  const instance = s.add(8_501)
  await s.app.ready()

  await s.answer('refused')
  s.clock.advance(1_000)
  await s.answer('timeout')
  s.clock.advance(1_000)
  t.equal(stateOf(instance), 'up')
  await s.answer('bad')
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

t.test('of one that failed a probe the verdict takes two seconds more, not two intervals; a good probe ends the hurry', async t => {
  const s = await build(t)
  const instance = s.add(8_501)
  await s.app.ready()
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
  for (let probes = 0; probes < 2; probes++) {
    s.clock.advance(1_000)
    await s.answer('refused')
  }

  t.equal(stateOf(instance), 'down')
})

t.test('a new instance that does not answer is down two seconds after it came', async t => {
  const s = await build(t, { random: () => 0.999_9 })
  await s.app.ready()
  const instance = s.add(8_501)

  await s.answer('refused')
  s.clock.advance(800)
  t.equal(s.calls.length, 0, 'hurry is not shortened by half, as first intervals are')
  s.clock.advance(200)
  await s.answer('refused')
  s.clock.advance(1_000)
  await s.answer('refused')

  t.equal(stateOf(instance), 'down')
})

t.test('who is probed more often than every second keeps to that', async t => {
  const s = await build(t, { interval: '200ms' })
  s.add(8_501)
  await s.app.ready()

  await s.answer('refused')
  s.clock.advance(200)

  t.equal(s.calls.length, 1)
})

t.test('instances that failed and came back together drift apart again', async t => {
  const shares = [0.999_9, 0]
  let turn = 0
  const s = await build(t, { random: () => shares[turn++ % 2]! })
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

t.test('instances that never answer hold up nobody else', async t => {
  const s = await build(t)
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
  const s = await build(t, { clock: { ...clock, now: () => clock.now() + now } })
  s.add(8_501)
  await s.app.ready()
  await s.answer('ok')

  now = -3_600_000
  clock.advance(100)

  t.equal(s.calls.length, 1)
})

t.test('an agent overrides settings one by one', async t => {
  const s = await build(t, { path: '/status', timeout: 500, unhealthyAfter: 7 })
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

t.test('an instance is never probed twice at once, however long it takes', async t => {
  const s = await build(t, { interval: '1s' })
  s.add(8_501)
  await s.app.ready()

  s.clock.advance(60_000)

  t.equal(s.calls.length, 1)
  await s.answer('ok')
  s.clock.advance(100)
  t.equal(s.calls.length, 1, 'what was due in the meantime follows')
})

t.test('at most 64 probes are under way, and everybody gets a turn', async t => {
  const s = await build(t)
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
  const s = await build(t, { unhealthyAfter: 1 })
  const instance = s.add(8_501)
  await s.app.ready()

  s.registry.removeInstance('planner', instance.id)
  t.equal(s.calls[0]!.signal.aborted, true)
  await s.answer('refused')
  s.clock.advance(60_000)

  t.ok(isHealthy(instance), 'no verdict was passed on it')
  t.same(s.changes(), [])
  t.equal(s.calls.length, 0)
})

t.test('one that leaves before its turn is not probed', async t => {
  const s = await build(t)
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
  const s = await build(t)
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

t.test('busy is not dead: a timeout does not count while requests make progress, a refused connection does', async t => {
  const s = await build(t, { unhealthyAfter: 1 })
  const instance = s.add(8_501)
  await s.app.ready()
  const attempt = s.upstream.begin(instance)

  s.clock.advance(1_000)
  s.upstream.progress(attempt)
  await s.answer('timeout')
  t.equal(stateOf(instance), 'up')
  s.clock.advance(10_000)
  await s.answer('timeout')
  t.equal(stateOf(instance), 'down', 'no progress since this probe began')

  s.clock.advance(1_000)
  await s.answer('ok')
  s.clock.advance(1_000)
  await s.answer('ok')
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
  const s = await build(t, { probe: failing, unhealthyAfter: 2 })
  s.add(8_501)
  await s.app.ready()
  await nextTurn()
  s.clock.advance(10_000)
  await nextTurn()

  t.equal(count, 2)
  t.same(s.changes(), ['40 planner down: probes get a bad answer'])
})

t.test('five failed connections eject an instance; two good probes bring it back within two seconds', async t => {
  const s = await build(t)
  const instance = s.add(8_501)
  s.add(8_502)
  await s.app.ready()
  await s.answer('ok', 'ok')

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
  const s = await build(t)
  const instance = s.add(8_501)
  s.add(8_502)
  await s.app.ready()
  await s.answer('ok', 'ok')
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
  const s = await build(t)
  const [first, second] = [s.add(8_501), s.add(8_502), s.add(8_503)]
  await s.app.ready()

  s.registry.removeInstance('planner', first.id)
  s.attempts(first, 9, 'refused')
  s.registry.removeAgent('planner')
  s.attempts(second, 9, 'refused')

  t.same(s.changes(), [])
  t.ok(isHealthy(second))
})

t.test('new settings take effect at once, or not at all', async t => {
  const s = await build(t, { interval: '1h' })
  s.add(8_501)
  await s.app.ready()
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
  const s = await build(t, { interval: '1h' })
  s.add(8_501)
  await s.app.ready()
  await s.answer('ok')

  s.add(8_501, { policy: { health: { interval: 2_000 } } })
  s.clock.advance(3_000)

  t.equal(s.calls.length, 1)
})

t.test('a new path is asked at once; the verdict stays until that has answered often enough', async t => {
  const s = await build(t, { interval: '1h' })
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
  const s = await build(t, { interval: '1h' })
  s.add(8_501)
  await s.app.ready()
  await s.answer('ok')

  s.add(8_501, { policy: { health: { path: '/up' } } })
  s.clock.advance(1_000)

  t.match(s.calls, [{ settings: { path: '/up' } }])
})

t.test('a new timeout ends the probe that waits by the old one; new thresholds count for what is under way', async t => {
  const s = await build(t, { timeout: '1h' })
  const instance = s.add(8_501)
  await s.app.ready()

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
  await t.rejects(build(t, { unhealthyAfter: 0 }), { message: /health\.unhealthyAfter/ })
})

t.test('closing ends everything', async t => {
  const s = await build(t)
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
  const s = await build(t, { probe: async () => 'ok' })
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

const lookupOf = createLookupOf(undefined)
const settings: HealthOptions = { interval: 10_000, timeout: 2_000, unhealthyAfter: 3, healthyAfter: 2 }

function instanceAt (t: Test, port: number, protocol: 'http' | 'https' = 'http'): Pick<Instance, 'protocol' | 'host' | 'port'> {
  t.ok(port > 0)
  return { protocol, host: '127.0.0.1', port }
}

async function probeReal (t: Test, port: number, changed: Partial<HealthOptions> & { protocol?: 'http' | 'https' } = {}) {
  const { protocol = 'http', ...rest } = changed
  return createProbe(systemClock, lookupOf)(instanceAt(t, port, protocol) as Instance, { ...settings, ...rest }, new AbortController().signal)
}

t.test('without a path a connection is enough', async t => {
  const agent = await rawAgent(t, () => {})

  t.equal(await probeReal(t, agent.port), 'ok')
  t.equal(await probeReal(t, await deadPort()), 'refused')
})

t.test('with a path the answer to a GET counts', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(Number(request.url!.slice(1)))
    response.end(`agent ${request.headers['user-agent']}, ${request.headers.connection}`)
  })
  const cases: [status: number, outcome: ProbeOutcome][] = [[200, 'ok'], [204, 'ok'], [302, 'ok'], [399, 'ok'], [400, 'bad'], [404, 'bad'], [500, 'bad'], [503, 'bad']]

  for (const [status, outcome] of cases) t.equal(await probeReal(t, agent.port, { path: `/${status}` }), outcome, String(status))

  t.equal(agent.requests[0], 'GET /200')
  t.equal(await probeReal(t, await deadPort(), { path: '/200' }), 'refused')
})

t.test('what is not HTTP, and who hangs up, is bad', async t => {
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const mute = await rawAgent(t, socket => socket.destroy())

  t.equal(await probeReal(t, noise.port, { path: '/' }), 'bad')
  t.equal(await probeReal(t, mute.port, { path: '/' }), 'bad')
})

t.test('no answer in time is a timeout, and the connection is closed', async t => {
  const clock = fakeClock()
  const agent = await rawAgent(t, () => clock.advance(2_000))

  const outcome = await createProbe(clock, lookupOf)(instanceAt(t, agent.port) as Instance, { ...settings, path: '/' }, new AbortController().signal)

  t.equal(outcome, 'timeout')
  const [socket] = agent.connections
  if (!socket!.closed) await once(socket!, 'close')
  t.equal(socket!.closed, true)
})

t.test('no connection in time is a timeout', async t => {
  const clock = fakeClock()
  const agent = await rawAgent(t, () => {})

  const probing = createProbe(clock, lookupOf)(instanceAt(t, agent.port) as Instance, settings, new AbortController().signal)
  clock.advance(2_000)

  t.equal(await probing, 'timeout')
})

t.test('an endless body is not read to its end', async t => {
  const agent = await fakeAgent(t, (_request, response) => {
    const more = () => { while (response.write('x'.repeat(10_000))) ; }
    response.on('drain', more)
    more()
  })

  t.equal(await probeReal(t, agent.port, { path: '/', timeout: 3_600_000 }), 'ok')
})

t.test('an event stream is good when its head is there, long before the timeout', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n') })
  const over = once(agent.server, 'connection').then(([socket]) => closed(socket as Socket))

  t.equal(await probeReal(t, agent.port, { path: '/', timeout: 3_600_000 }), 'ok')

  await t.resolves(over, 'and its connection is closed')
})

t.test('a redirect is good, and not followed', async t => {
  const other = await fakeAgent(t)
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(302, { location: `${other.origin}/login` }).end() })

  t.equal(await probeReal(t, agent.port, { path: '/' }), 'ok')

  t.equal(other.requests.length, 0)
})

/** Resolves when the connection is over, in whatever way. */
async function closed (socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise(resolve => socket.once('close', resolve))
}

t.test('whatever an agent sends, the probe has an outcome and its connection is closed', async t => {
  const cases: [name: string, bytes: string, outcome: ProbeOutcome][] = [
    ['an unasked 101', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n', 'bad'],
    ['no HTTP', '\0\x01\x02\r\n\r\n', 'bad'],
    ['a head without an end', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}`, 'bad'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 'bad'],
    ['a body that does not end', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx', 'ok'],
    ['broken chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 'ok'],
    ['more than it said', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 500 No\r\n\r\n', 'ok'],
    ['an interim answer and no other', 'HTTP/1.1 103 Early Hints\r\n\r\n', 'timeout'],
    ['half a head', 'HTTP/1.1 200 OK\r\n', 'timeout']
  ]
  for (const [name, bytes, outcome] of cases) {
    const agent = await rawAgent(t, socket => { socket.write(bytes, 'latin1') })

    t.equal(await probeReal(t, agent.port, { path: '/', timeout: outcome === 'timeout' ? 100 : 3_600_000 }), outcome, name)

    for (const socket of agent.connections) await closed(socket)
  }
})

t.test('instances that come and go a thousand times leave nothing behind', async t => {
  const agent = await rawAgent(t, () => {})
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, { path: '/' })
  await app.ready()
  const timers = () => process.getActiveResourcesInfo().filter(kind => kind === 'Timeout' || kind === 'TCPSocketWrap' || kind === 'TCPConnectWrap').length
  const before = timers()

  for (let count = 0; count < 1_000; count++) {
    const { instance } = app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
    if (count % 10 === 0) await nextTurn() // some get as far as a connection, some to none
    app.registry.removeInstance('planner', instance.id)
  }
  await app.health.firstRound()
  while (timers() > before) await nextTurn()

  for (const socket of agent.connections) await closed(socket)
  app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
  await once(agent.server, 'connection') // and there is a turn for who comes next
  t.pass()
})

/** A listener whose queue is full: it writes to `stream` without a pause, so that nobody accepts. Sends `full` when it begins. */
const overloadedAgent = `
  const net = require('node:net'), fs = require('node:fs')
  const server = net.createServer(socket => {
    socket.setNoDelay()
    process.stdout.write('busy\\n')
    const still = new Int32Array(new SharedArrayBuffer(4))
    for (;;) {
      try { fs.writeSync(socket._handle.fd, 'chunk') } catch (error) { if (error.code !== 'EAGAIN') process.exit() }
      Atomics.wait(still, 0, 0, 10)
    }
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => process.stdout.write(server.address().port + '\\n'))
`

t.test('busy is not dead: an agent too busy to accept is not down while it sends', async t => {
  const child = spawn(process.execPath, ['-e', overloadedAgent], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => { child.kill('SIGKILL') })
  const [line] = await once(child.stdout, 'data') as [Buffer]
  const port = Number(String(line))
  const app = Fastify()
  t.teardown(() => app.close())
  const outcomes: ProbeOutcome[] = []
  let enough = () => {}
  const probe = createProbe(systemClock, lookupOf)
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, {
    interval: '100ms',
    timeout: '300ms',
    unhealthyAfter: 1,
    async probe (...args) {
      const outcome = await probe(...args)
      if (outcomes.push(outcome) >= 3) setImmediate(enough)
      return outcome
    }
  })
  const stream = connect({ host: '127.0.0.1', port })
  const inLine: Socket[] = []
  t.teardown(() => { for (const socket of [stream, ...inLine]) socket.destroy() })
  await once(child.stdout, 'data')
  // As many as the queue takes, and some that it does not.
  for (let count = 0; count < 8; count++) inLine.push(connect({ host: '127.0.0.1', port }).on('error', () => {}))
  await Promise.all(inLine.slice(0, 2).map(socket => once(socket, 'connect')))
  const { instance } = app.registry.register({ name: 'planner', host: '127.0.0.1', port })
  const attempt = app.upstream.begin(instance)
  stream.on('data', () => app.upstream.progress(attempt))
  const probed = new Promise<void>(resolve => { enough = resolve })

  await app.ready()
  await probed
  t.same(outcomes.slice(0, 3), ['timeout', 'timeout', 'timeout'])
  t.equal(stateOf(instance), 'up')
  stream.removeAllListeners('data')
  const down = new Promise<void>(resolve => { enough = () => { if (stateOf(instance) === 'down') resolve() } })
  await down

  t.equal(stateOf(instance), 'down', 'when nothing moves any more')
})

t.test('TLS is verified', async t => {
  const server = createTlsServer({ key: unknownKey, cert: unknownCertificate }, (_request, response) => response.end())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo

  t.equal(await probeReal(t, port, { path: '/', protocol: 'https' }), 'bad')
  t.equal(await probeReal(t, port, { protocol: 'https' }), 'ok', 'a connection is a connection')
})

t.test('closing the application ends a probe that is under way', async t => {
  const agent = await rawAgent(t, () => {})
  const app = Fastify()
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, { path: '/' })
  app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
  await app.ready()
  await once(agent.server, 'connection')

  await app.close()

  const [socket] = agent.connections
  if (!socket!.closed) await once(socket!, 'close')
  t.equal(socket!.closed, true)
})

t.test('GET /health: the fleet at a glance, with details where there is no auth', async t => {
  const s = await build(t)
  const [first, second] = [s.add(8_501, { aliases: ['plan'] }), s.add(8_502)]
  second.runtime.health.up = false
  await s.app.ready()
  s.clock.advance(1_500)

  const reply = await s.app.inject('/health')

  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['cache-control'], 'no-store')
  t.same(reply.json(), {
    status: 'healthy',
    gateway: 'ok',
    uptime_seconds: 1.5,
    services: {
      planner: {
        healthy: true,
        healthy_instances: 1,
        total_instances: 2,
        instances: [
          { id: first.id, host: '127.0.0.1', port: 8_501, healthy: true, state: 'up' },
          { id: second.id, host: '127.0.0.1', port: 8_502, healthy: false, state: 'down' }
        ],
        friendly_names: ['plan']
      }
    }
  })
})

t.test('an empty fleet is healthy; one agent without an available instance is enough to be degraded', async t => {
  const s = await build(t)
  await s.app.ready()
  const report = async () => (await s.app.inject('/health')).json<{ status: string, services: Record<string, { healthy: boolean, healthy_instances: number }> }>()

  t.match(await report(), { status: 'healthy', services: {} })
  const instance = s.add(8_501)
  s.add(8_502, { name: 'writer' })
  t.match(await report(), { status: 'healthy' })
  s.registry.drain('planner', instance.id)
  t.match(await report(), { status: 'degraded', services: { planner: { healthy: false, healthy_instances: 0 }, writer: { healthy: true } } })
  s.registry.removeInstance('planner', instance.id)
  t.match(await report(), { status: 'degraded', services: { planner: { healthy: false, total_instances: 0 } } })
})

t.test('an agent may be called __proto__ or constructor', async t => {
  const s = await build(t)
  s.add(8_501, { name: '__proto__' })
  s.add(8_502, { name: 'constructor' })
  await s.app.ready()

  const { payload } = await s.app.inject('/health')

  t.match(payload, '"services":{"__proto__":{"healthy":true')
  t.match(payload, '"constructor":{"healthy":true')
})

t.test('details are for callers that may read, and only of their agents', async t => {
  const key = (scopes: Principal['scopes'], agents: Principal['agents']): Principal => ({ id: 'key', named: true, scopes, agents })
  const cases: [name: string, enabled: boolean, principal: Principal | null, detailed: string[]][] = [
    ['nobody', true, null, []],
    ['anyone without auth', false, anyone, ['planner', 'writer']],
    ['a reader', true, key(['read'], '*'), ['planner', 'writer']],
    ['an administrator', true, key(['admin'], '*'), ['planner', 'writer']],
    ['a user', true, key(['proxy', 'register'], '*'), []],
    ['a reader of one agent', true, key(['read'], ['writer']), ['writer']]
  ]
  for (const [name, enabled, principal, detailed] of cases) {
    const s = await build(t, {}, async app => {
      app.decorate('auth', { enabled } as never)
      app.decorateRequest('principal', null)
      app.addHook('onRequest', async request => { request.principal = principal })
    })
    s.add(8_501)
    s.add(8_502, { name: 'writer' })
    await s.app.ready()

    const { services } = (await s.app.inject('/health')).json<{ services: Record<string, object> }>()

    t.same(Object.keys(services), ['planner', 'writer'], name)
    t.same(Object.keys(services).filter(agent => 'instances' in services[agent]!), detailed, name)
    t.same(Object.keys(services).filter(agent => 'friendly_names' in services[agent]!), detailed, name)
  }
})

t.test('what the routes need is declared on them, and they move under a prefix', async t => {
  const declared: Record<string, unknown> = {}
  const s = await build(t, { prefix: '/fleet' }, async app => {
    app.addHook('onRoute', ({ url, method, config }) => { if (method !== 'HEAD') declared[`${String(method)} ${url}`] = config?.fleet })
  })
  await s.app.ready()

  t.same(declared, {
    'GET /fleet/health': { optionalAuth: true, rateLimit: false },
    'GET /fleet/health/live': { public: true, rateLimit: false },
    'GET /fleet/health/ready': { public: true, rateLimit: false },
    'POST /fleet/registry/:name/instances/:id/probe': { scope: 'read' }
  })
  t.equal((await s.app.inject('/fleet/health')).statusCode, 200)
  t.equal((await s.app.inject('/health')).statusCode, 404)
})

t.test('the first round is over when every instance was probed once, or is gone', async t => {
  const s = await build(t)
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
  const s = await build(t)
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
    const s = await build(t)
    s.add(8_501)
    if (isReady) await s.app.ready()
    const round = s.health().firstRound()

    await s.app.close()

    await t.resolves(round, String(isReady))
  }
})

t.test('POST …/probe asks one instance now, and says what came of it', async t => {
  const agent = await fakeAgent(t, (request, response) => { response.writeHead(request.url === '/ready' ? 503 : 404).end() })
  const mute = await rawAgent(t, socket => socket.destroy())
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const silent = await rawAgent(t, () => s.clock.advance(2_000))
  const s = await build(t)
  const cases: [port: number, rest: Partial<Registration>, expected: object][] = [
    [agent.port, {}, { ok: true, outcome: 'ok', status: 404, cause: null, path: '/' }],
    [agent.port, { name: 'ready', policy: { health: { path: '/ready' } } }, { ok: false, outcome: 'bad', status: 503, cause: null, path: '/ready' }],
    [await deadPort(), {}, { ok: false, outcome: 'refused', status: null, cause: 'ECONNREFUSED' }],
    [mute.port, {}, { ok: false, outcome: 'bad', status: null, cause: 'ECONNRESET' }],
    [noise.port, {}, { ok: false, outcome: 'bad', status: null, cause: /^HPE_/ }],
    [silent.port, {}, { ok: false, outcome: 'timeout', status: null, cause: null }],
    [agent.port, { name: 'no-such-place', host: 'no-such-place.invalid' }, { ok: false, outcome: 'refused', status: null, cause: /^(ENOTFOUND|EAI_AGAIN)$/ }]
  ]
  await s.app.ready()

  for (const [port, rest, expected] of cases) {
    const { agent: name, id } = s.add(port, rest)
    const reply = await s.app.inject({ method: 'POST', url: `/registry/${name}/instances/${id}/probe` })
    t.match(reply.json(), { ...expected, latency_ms: Number }, JSON.stringify(expected))
  }
  t.equal((await s.app.inject({ method: 'POST', url: '/registry/planner/instances/nobody/probe' })).statusCode, 404)
  t.ok([...s.registry.agents()].every(({ instances }) => instances.every(isHealthy)), 'nothing is concluded from it')
})

t.test('probes on demand share a connection, leave when the head is there, and end with the application', async t => {
  let asked = 0
  const answers: (() => void)[] = []
  const agent = await fakeAgent(t, (_request, response) => {
    asked++
    answers.push(() => { response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n') })
  })
  const mute = await rawAgent(t, () => {})
  const s = await build(t)
  const [one, silent] = [s.add(agent.port), s.add(mute.port, { name: 'silent' })]
  await s.app.ready()

  const both = [s.health().check(one), s.health().check(one)]
  await once(agent.server, 'request')
  answers[0]!()
  for (const { outcome, status } of await Promise.all(both)) t.same([outcome, status], ['ok', 200])
  t.equal(asked, 1)

  const pending = s.health().check(silent)
  await once(mute.server, 'connection')
  await s.app.close()
  t.match(await pending, { status: null })
  for (const socket of mute.connections) if (!socket.closed) await once(socket, 'close')
})

t.test('GET /health/live: the process serves', async t => {
  const s = await build(t)

  const reply = await s.app.inject('/health/live')

  t.equal(reply.statusCode, 200)
  t.same(reply.json(), { status: 'ok' })
  t.equal(reply.headers['cache-control'], 'no-store')
})

t.test('GET /health/ready: from when the application is ready until a drain begins', async t => {
  const drain = { draining: false }
  const s = await build(t, {}, async app => {
    app.decorate('drain', drain as never)
    app.addHook('onReady', async () => {
      const server = createServer((request, response) => app.routing(request, response)).listen(0, '127.0.0.1')
      await once(server, 'listening')
      early = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/health/ready`)
      server.close()
    })
  })
  let early: Response | undefined
  await s.app.ready()

  t.equal(early!.status, 503)
  t.equal(early!.headers.get('retry-after'), '1')
  t.match(await early!.json(), { code: 'FLEET_DRAINING' })
  const ready = await s.app.inject('/health/ready')
  t.equal(ready.statusCode, 200)
  t.same(ready.json(), { status: 'ready' })
  drain.draining = true
  const draining = await s.app.inject('/health/ready')
  t.equal(draining.headers['retry-after'], '1')
  t.match(draining.json(), { statusCode: 503, code: 'FLEET_DRAINING' })
})

t.test('without a drain plugin it is ready once the application is', async t => {
  const s = await build(t)
  t.equal((await s.app.inject('/health/ready')).statusCode, 200)
})

/** A certificate that nobody vouches for. */
const unknownKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHP9GUH/a2+lnMGRx
/J+PlsQ71Mu1X4N+Ang9xwQv+rKhRANCAAQXXQRPZL93Jh6WWJgibU5leXFo4lfe
pZScI8VcOmso4xlFCsGwczXfwYxnONoEs99Pp7OPXgYS4i74Jo05mQk5
-----END PRIVATE KEY-----`
const unknownCertificate = `-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUUbE1veXLxDAb9rjBw8HsH0DXkakwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzEyMzgzMloYDzIxMjYxMDMw
MTIzODMyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQXXQRPZL93Jh6WWJgibU5leXFo4lfepZScI8VcOmso4xlFCsGwczXf
wYxnONoEs99Pp7OPXgYS4i74Jo05mQk5o28wbTAdBgNVHQ4EFgQUijE7+INmrYPu
SPHhfCM1UeOuR3AwHwYDVR0jBBgwFoAUijE7+INmrYPuSPHhfCM1UeOuR3AwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAOKOJYTi9zPmw6UpwKudn2ydIcsYR8FaT2ymEcdg/MXIAiAQ
Ceq6IC2Nvq0e7Jo+7+P6IYipEnIKNk6pnerSoDupzQ==
-----END CERTIFICATE-----`

t.test('a probe leaves nothing on the signal that outlives it', async t => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const { signal } = new AbortController()
  const probe = createProbe(systemClock, lookupOf)
  const settings = { interval: 1_000, timeout: 1_000, unhealthyAfter: 3, healthyAfter: 2 }
  const instance: Instance = { id: 'i', agent: 'a', protocol: 'http', host: '127.0.0.1', port, origin: `http://127.0.0.1:${port}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }

  for (let index = 0; index < 20; index++) t.equal(await probe(instance, settings, signal), 'ok')
  const agent = await fakeAgent(t, (_request, response) => { response.write('x') })
  for (let index = 0; index < 20; index++) {
    t.match(await askHttp(systemClock, { ...instance, port: agent.port }, undefined, { path: '/', timeoutMs: 1_000, signal, headOnly: true }), { status: 200 })
  }

  t.equal(getEventListeners(signal, 'abort').length, 0)
})
