/** plugins/registry alone: what is kept over a restart. The rules of the registry itself are in test/fleet/registry.test.ts. */
import { chmod, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import registry, { type RegistryPluginOptions } from '../../plugins/registry/index.ts'
import { createStateFile } from '../../plugins/registry/state-file.ts'
import type { RegistryState } from '../../src/fleet/registry.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

interface LogLine { level: number, msg: string }

async function appWith (t: Test, options: RegistryPluginOptions) {
  const logged: LogLine[] = []
  const stream = new Writable({
    write (chunk: Buffer, _encoding, done) {
      logged.push(JSON.parse(chunk.toString()) as LogLine)
      done()
    }
  })
  const app = Fastify({ logger: { stream, level: 'info' } })
  t.teardown(() => app.close())
  await app.register(registry, options)
  return { app, logged }
}

async function keptIn (stateDir: string): Promise<RegistryState> {
  return JSON.parse(await readFile(join(stateDir, 'registry.json'), 'utf8')) as RegistryState
}

const planner = { name: 'planner', host: 'localhost', port: 8501 }

t.test('what was registered is there again after a restart', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app: first } = await appWith(t, { stateDir })
  first.registry.register({ ...planner, weight: 3, aliases: ['plan'], metadata: { about: ['plans'] }, policy: { timeouts: { response: 5_000 } } })
  first.registry.register({ ...planner, host: '::1', protocol: 'https' })
  const before = first.registry.get('planner')
  await first.registryState.save()
  await first.close()

  const { app: second, logged } = await appWith(t, { stateDir })

  const after = second.registry.get('plan')
  t.match(after, { name: 'planner', aliases: ['plan'], metadata: { about: ['plans'] }, policy: { timeouts: { response: 5_000 } } })
  t.same(after.instances.map(({ id, origin, weight, source, lease }) => ({ id, origin, weight, source, lease })), before.instances.map(({ id, origin, weight, source, lease }) => ({ id, origin, weight, source, lease })))
  t.same(logged, [])
})

t.test('a leased instance gets one full ttl by a restart', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const clock = fakeClock()
  const { app: first } = await appWith(t, { stateDir, clock })
  first.registry.register({ ...planner, ttlMs: 60_000 })
  await first.registryState.save()
  await first.close()
  clock.advance(3_600_000)

  const { app: second } = await appWith(t, { stateDir, clock })
  t.same(second.registry.get('planner').instances[0]?.lease, { ttlMs: 60_000, expiresAt: clock.now() + 60_000 })

  clock.advance(59_000)
  t.equal(second.registry.get('planner').instances.length, 1)
  clock.advance(1_250)
  t.equal(second.registry.get('planner').instances.length, 0)
  await second.close()
})

t.test('a lease that runs out is seen within 250 ms, and kept so', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const clock = fakeClock()
  const { app } = await appWith(t, { stateDir, clock })
  const { lease } = app.registry.register({ ...planner, ttlMs: 10_000 }).instance
  await app.registryState.save()
  t.same((await keptIn(stateDir)).agents.map(({ name }) => name), ['planner'])

  clock.advance(10_250)
  t.ok(lease !== null && lease.expiresAt <= clock.now())
  t.equal(app.registry.get('planner').instances.length, 0)
  await app.close()

  t.same(await keptIn(stateDir), { version: 1, agents: [] }, 'the end waits for what is being written')
})

t.test('what fleet.yaml says is not kept', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app } = await appWith(t, { stateDir })
  app.registry.replaceFile([{ name: 'from-file', instances: [{ host: 'localhost', port: 1, protocol: 'http', weight: 1 }] }])
  await app.registryState.save()

  t.same(await keptIn(stateDir), { version: 1, agents: [] })
})

t.test('a first start has nothing to warn of', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app, logged } = await appWith(t, { stateDir })

  t.equal(app.registry.size, 0)
  t.same(logged, [])
  await t.rejects(stat(stateDir), { code: 'ENOENT' }, 'the folder is made when there is something to keep')
})

t.test('without a folder nothing is kept, and saving is no fault', async t => {
  const { app } = await appWith(t, {})
  app.registry.register(planner)

  await app.registryState.save()
})

t.test('only the owner can read what is kept', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app } = await appWith(t, { stateDir })
  await app.registryState.save()

  t.equal((await stat(stateDir)).mode & 0o777, 0o700)
  t.equal((await stat(join(stateDir, 'registry.json'))).mode & 0o777, 0o600)
  t.same(await readdir(stateDir), ['registry.json'], 'no temporary file is left')
})

t.test('a damaged file is set aside with a warning, and never a reason not to start', async t => {
  const damaged = [
    '', '{', 'null', '7', '[]', '{"version":2,"agents":[]}', '{"version":1}', '{"version":1,"agents":{}}', '{"version":1,"agents":[null]}',
    '{"version":1,"agents":[{"name":7,"instances":[]}]}', '{"version":1,"agents":[{"name":"a"}]}',
    '{"version":1,"agents":[{"name":"a","instances":[null]}]}', '{"version":1,"agents":[{"name":"a","instances":[{"host":7,"port":1}]}]}', '{"version":1,"agents":[{"name":"a","instances":[{"host":"h","port":"1"}]}]}'
  ]
  const folder = t.testdir(Object.fromEntries(damaged.map((text, index) => [String(index), { 'registry.json': text }])))
  for (const [index, text] of damaged.entries()) {
    const stateDir = join(folder, String(index))

    const { app, logged } = await appWith(t, { stateDir })

    t.equal(app.registry.size, 0, text)
    t.match(logged, [{ level: 40, msg: /registry\.json is damaged .* set aside as .*registry\.json\.damaged-\d+/ }], text)
    const [aside, ...others] = await readdir(stateDir)
    t.match(aside, /^registry\.json\.damaged-\d+$/)
    t.same(others, [])
    t.equal(await readFile(join(stateDir, aside!), 'utf8'), text, 'with its content')
    await app.registryState.save()
    t.same(await keptIn(stateDir), { version: 1, agents: [] })
  }
})

t.test('what the registry does not take back is named, the rest is taken', async t => {
  const state = { version: 1, agents: [{ name: 'a', aliases: ['x'], instances: [{ host: 'h', port: 1 }] }, { name: 'b', aliases: ['x'], instances: [{ host: 'h', port: 2 }] }] }
  const stateDir = t.testdir({ 'registry.json': JSON.stringify(state) })

  const { app, logged } = await appWith(t, { stateDir })

  t.same([...app.registry.agents()].map(({ name }) => name), ['a'])
  t.match(logged, [{ level: 40, msg: /^Left out of the kept registrations: b: .*"x"/ }])
})

t.test('a name like __proto__ in the file does no harm', async t => {
  const stateDir = t.testdir({ 'registry.json': '{"version":1,"agents":[{"name":"constructor","instances":[{"host":"h","port":1}],"__proto__":{"polluted":true}}]}' })

  const { app } = await appWith(t, { stateDir })

  t.equal(app.registry.get('constructor').instances.length, 1)
  t.equal((({}) as Record<string, unknown>)['polluted'], undefined)
})

t.test('a file that can not be read at all stops the start', async t => {
  const stateDir = t.testdir({ 'registry.json': {} })

  await t.rejects(appWith(t, { stateDir }), { code: 'EISDIR' })
})

t.test('saves that come together are one write, and each has what was there when it was asked for', async t => {
  const folder = t.testdir({})
  const app = Fastify()
  t.teardown(() => app.close())
  const file = createStateFile(folder, app.log)
  let snapshots = 0
  let agents: RegistryState['agents'] = []
  const snapshot = (): RegistryState => {
    snapshots++
    return { version: 1, agents }
  }

  const first = [file.save(snapshot), file.save(snapshot)]
  agents = [{ name: 'a', instances: [] }]
  first.push(file.save(snapshot))
  await Promise.all(first)
  t.equal(snapshots, 1)
  t.match(await keptIn(folder), { agents: [{ name: 'a' }] })

  agents = [{ name: 'b', instances: [] }]
  await file.save(snapshot)
  t.equal(snapshots, 2)
  t.match(await keptIn(folder), { agents: [{ name: 'b' }] })
})

t.test('what comes during a write is in the next', async t => {
  const folder = t.testdir({})
  const app = Fastify()
  t.teardown(() => app.close())
  const file = createStateFile(folder, app.log)
  const taken: number[] = []
  let during: Promise<void> | undefined
  const save = (version: number): Promise<void> => file.save(() => {
    taken.push(version)
    if (version === 1) during = Promise.all([save(2), save(3)]).then(() => {})
    return { version: 1, agents: [{ name: `v${version}`, instances: [] }] }
  })

  await save(1)
  await file.idle()
  await during

  t.same(taken, [1, 2])
  t.match(await keptIn(folder), { agents: [{ name: 'v2' }] })
})

t.test('a write that fails rejects, and the next one is tried', async t => {
  const parent = t.testdir({ '.fleet': 'a file in the way' })
  const app = Fastify()
  t.teardown(() => app.close())
  const file = createStateFile(join(parent, '.fleet'), app.log)
  const snapshot = (): RegistryState => ({ version: 1, agents: [] })

  await t.rejects(file.save(snapshot), { code: 'EEXIST' })
  await file.idle()
  await rm(join(parent, '.fleet'))
  await file.save(snapshot)

  t.same(await keptIn(join(parent, '.fleet')), { version: 1, agents: [] })
})

t.test('a lapse that can not be kept is logged, and the gateway goes on', async t => {
  const parent = t.testdir({})
  const stateDir = join(parent, '.fleet')
  const clock = fakeClock()
  const { app, logged } = await appWith(t, { stateDir, clock })
  app.registry.register({ ...planner, ttlMs: 1_000 })
  await writeFile(stateDir, 'a file in the way')

  clock.advance(1_250)
  await app.close()

  t.match(logged, [{ level: 50, msg: 'The registry could not be kept' }])
})

t.test('the number of agents is limited as configured', async t => {
  const { app } = await appWith(t, { maxAgents: 1 })
  app.registry.register(planner)

  t.throws(() => app.registry.register({ ...planner, name: 'other' }), { code: 'FLEET_INVALID_REGISTRATION' })
})

t.test('wrong options stop the start', async t => {
  await t.rejects(appWith(t, { maxAgents: 0 }), { name: 'OptionsError', message: /registry\.maxAgents/ })
})

t.test('after the end leases are not looked at any more', async t => {
  const clock = fakeClock()
  const { app } = await appWith(t, { clock })
  app.registry.register({ ...planner, ttlMs: 1_000 })
  await app.close()

  clock.advance(10_000)

  t.equal(app.registry.get('planner').instances.length, 1)
})

t.test('a folder without permission is a fault of saving', { skip: process.getuid?.() === 0 ? 'root writes everywhere' : false }, async t => {
  const folder = t.testdir({})
  await chmod(folder, 0o500)
  t.teardown(() => chmod(folder, 0o700))
  const { app } = await appWith(t, { stateDir: join(folder, '.fleet') })

  await t.rejects(app.registryState.save(), { code: 'EACCES' })
})
