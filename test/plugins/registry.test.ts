/** plugins/registry alone: what is kept over a restart. The rules of the registry itself are in test/fleet/registry*.test.ts. */
import { chmod, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify, { type FastifyBaseLogger } from 'fastify'
import t, { type Test } from 'tap'
import registry, { type RegistryPluginOptions } from '../../plugins/registry/index.ts'
import { ownRegistrations } from '../../plugins/registry/registrations.ts'
import { createStateFile } from '../../plugins/registry/state-file.ts'
import type { RegistryState } from '../../src/fleet/registry.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { logLines } from '../helpers/log-lines.ts'
import { build } from '../helpers/registry-alone.ts'

async function appWith (t: Test, options: RegistryPluginOptions) {
  const { loggerInstance, lines: logged } = logLines()
  const app = Fastify({ loggerInstance })
  t.teardown(() => app.close())
  await app.register(registry, options)
  return { app, logged }
}

async function keptIn (stateDir: string): Promise<RegistryState> {
  return JSON.parse(await readFile(join(stateDir, 'registry.json'), 'utf8')) as RegistryState
}

/** What is in the folder beside the socket of who holds it. */
async function filesIn (stateDir: string): Promise<string[]> {
  return (await readdir(stateDir)).filter(name => !/^lock-[0-9a-f]{12}\.sock$/.test(name)).sort()
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

t.test('what was told to drain does not serve again after a restart', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app: first } = await appWith(t, { stateDir })
  first.registry.register({ ...planner, name: 'coder' })
  const { instance } = first.registry.register(planner)
  first.registry.register({ ...planner, port: 8502 })
  await first.registrations.drain('coder', first.registry.get('coder').instances[0]!.id)
  await first.registrations.drain('planner', instance.id)
  await first.close()

  const { app: second, logged } = await appWith(t, { stateDir })

  t.same([...second.registry.agents()].map(({ name, instances }) => [name, instances.map(({ port }) => port)]), [['planner', [8502]]])
  t.same(logged, [])
})

t.test('a disk that can not be written keeps nobody from leaving, and brings nobody back who registers in vain', async t => {
  const { registry } = build()
  const registrations = ownRegistrations(registry, () => Promise.reject(new Error('the disk is full')))
  const { instance } = registry.register(planner)

  await Promise.all([registrations.drain('planner', instance.id), registrations.drain('planner', instance.id)])
  t.equal(instance.runtime.draining, true)
  await t.rejects(registrations.register({ ...planner, weight: 3 }))
  t.match(registry.get('planner').instances, [{ weight: 1, runtime: { draining: true } }])
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
  t.equal((await stat(stateDir)).mode & 0o777, 0o700)
  t.same(await filesIn(stateDir), [])
  await app.close()
  t.same(await readdir(stateDir), [], 'and it is left as it was found')
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
  t.same(await filesIn(stateDir), ['registry.json'], 'no temporary file is left')
})

t.test('a damaged file is set aside with a warning, and never a reason not to start', async t => {
  const damaged = [
    '', '{', 'null', '7', '[]', '{"version":2,"agents":[]}', '{"version":1}', '{"version":1,"agents":{}}'
  ]
  const folder = t.testdir(Object.fromEntries(damaged.map((text, index) => [String(index), { 'registry.json': text }])))
  for (const [index, text] of damaged.entries()) {
    const stateDir = join(folder, String(index))

    const { app, logged } = await appWith(t, { stateDir })

    t.equal(app.registry.size, 0, text)
    t.match(logged, [{ level: 40, msg: /registry\.json is damaged .* set aside as .*registry\.json\.damaged-\d+/ }], text)
    const [aside, ...others] = await filesIn(stateDir)
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
  const stateDir = t.testdir({ 'registry.json': '{"version":1,"agents":[{"name":"constructor","instances":[{"host":"h","port":1}]},{"name":"odd","instances":[{"host":"h","port":1}],"__proto__":{"polluted":true}}]}' })

  const { app, logged } = await appWith(t, { stateDir })

  t.equal(app.registry.get('constructor').instances.length, 1)
  t.match(logged, [{ level: 40, msg: 'Left out of the kept registrations: odd: __proto__ this key is not allowed' }])
  t.equal((({}) as Record<string, unknown>)['polluted'], undefined)
})

t.test('a kept entry that no registration could have made is left out by name, and the rest is taken', async t => {
  const instance = { host: 'localhost', port: 1, protocol: 'http', weight: 1 }
  const bad = { name: 'bad', instances: [instance] }
  const table: [unknown, RegExp][] = [
    [null, /: agents\[0\]: must be an object/], ['bad', /: agents\[0\]: must be an object/], [[bad], /: agents\[0\]: /],
    [{ ...bad, name: 7 }, /: agents\[0\]: name must match/], [{ ...bad, name: '../x' }, /: agents\[0\]: name must match/], [{ ...bad, name: '__proto__' }, /: agents\[0\]: name must match/],
    [{ name: 'bad' }, /: bad: instances is required/], [{ ...bad, instances: {} }, /: bad: instances /],
    [{ ...bad, aliases: 'x' }, /: bad: aliases /], [{ ...bad, aliases: ['a b'] }, /: bad: aliases\[0\] must match/], [{ ...bad, aliases: [7] }, /: bad: aliases\[0\] /],
    [{ ...bad, metadata: [] }, /: bad: metadata /], [{ ...bad, metadata: 'x' }, /: bad: metadata /], [{ ...bad, policy: [] }, /: bad: policy /],
    [{ ...bad, policy: { timeouts: { response: 'soon' } } }, /: bad: policy\.timeouts\.response /], [{ ...bad, policy: { timeouts: { response: '5s' } } }, /: bad: policy must have numbers/],
    [{ ...bad, policy: { timeouts: { response: 0 } } }, /: bad: policy\.timeouts\.response /], [{ ...bad, policy: { timeouts: { idle: 1e12 } } }, /: bad: policy\.timeouts\.idle /],
    [{ ...bad, policy: { retry: { attempts: 50 } } }, /: bad: policy\.retry\.attempts /], [{ ...bad, policy: { retry: { statuses: [200] } } }, /: bad: policy\.retry\.statuses\[0\] /], [{ ...bad, policy: { retry: { maxBodyBytes: '64KiB' } } }, /: bad: policy must have numbers/],
    [{ ...bad, policy: { health: { path: 'x' } } }, /: bad: policy\.health\.path /], [{ ...bad, policy: { health: { interval: 1 } } }, /: bad: policy\.health\.interval /], [{ ...bad, policy: { preserveHost: 'yes' } }, /: bad: policy\.preserveHost /],
    [{ ...bad, policy: { forwardAuthorization: true } }, /: bad: policy\.forwardAuthorization /], [{ ...bad, surprise: 1 }, /: bad: surprise /],
    ...([
      [null, /must be an object/], [{ ...instance, host: 7 }, /host /], [{ ...instance, host: 'a/b' }, /host must be a bare/], [{ ...instance, host: '169.254.169.254' }, /host must not be a cloud metadata address/],
      [{ ...instance, port: '1' }, /port /], [{ ...instance, port: 0 }, /port /], [{ ...instance, port: 65_536 }, /port /], [{ ...instance, protocol: 'gopher' }, /protocol must be "http" or "https" \(got "gopher"\)/],
      [{ ...instance, weight: 0 }, /weight /], [{ ...instance, weight: 1_001 }, /weight /], [{ ...instance, ttlMs: 'long' }, /ttlMs /], [{ ...instance, ttlMs: 1 }, /ttlMs /], [{ ...instance, ttlMs: 1e12 }, /ttlMs /],
      [{ ...instance, trusted: 'yes' }, /trusted /], [{ ...instance, surprise: 1 }, /surprise /]
    ] as [unknown, RegExp][]).map(([entry, reason]): [unknown, RegExp] => [{ ...bad, instances: [entry] }, new RegExp(`: bad instances\\[0\\]: ${reason.source}`)])
  ]
  const good = [{ name: 'good', aliases: ['fine'], metadata: { a: [1] }, policy: { timeouts: { response: 5_000 }, retry: { maxBodyBytes: 1024 } }, instances: [{ ...instance, ttlMs: 60_000, trusted: true }] }]
  const folder = t.testdir(Object.fromEntries(table.map(([entry], index) => [String(index), { 'registry.json': JSON.stringify({ version: 1, agents: [entry, ...good] }) }])))
  for (const [index, [entry, reason]] of table.entries()) {
    const { app, logged } = await appWith(t, { stateDir: join(folder, String(index)) })

    t.same([...app.registry.agents()].map(({ name }) => name), ['good'], JSON.stringify(entry))
    t.match(logged, [{ level: 40, msg: reason }], JSON.stringify(entry))
    t.equal(logged.length, 1)
    t.same(app.registry.exportState().agents, good)
  }
})

t.test('a bad instance does not take the agent\'s others with it', async t => {
  const state = { version: 1, agents: [{ name: 'a', aliases: ['x'], instances: [{ host: 'h', port: 0 }, { host: 'H.', port: 2 }] }] }
  const stateDir = t.testdir({ 'registry.json': JSON.stringify(state) })

  const { app, logged } = await appWith(t, { stateDir })

  t.match(app.registry.get('x').instances, [{ host: 'h', port: 2, protocol: 'http', weight: 1, trusted: false }])
  t.match(logged, [{ level: 40, msg: /^Left out of the kept registrations: a instances\[0\]: port / }])
})

t.test('what was kept is held to the host rules of today', async t => {
  const instances = ['10.1.2.3', 'a.internal', 'elsewhere.example', '192.0.2.1', '0.0.0.0', '127.1'].map(host => ({ host, port: 1 }))
  const stateDir = t.testdir({ 'registry.json': JSON.stringify({ version: 1, agents: [{ name: 'a', instances }] }) })

  const { app, logged } = await appWith(t, { stateDir, allowedHosts: ['10.0.0.0/8', '.internal'] })

  t.same(app.registry.get('a').instances.map(({ host }) => host), ['10.1.2.3', 'a.internal'])
  t.match(logged.map(({ level, msg }) => [level, msg]), [
    [40, /: a instances\[2\]: host must be among registry\.allowedHosts \(got "elsewhere\.example"\)/], [40, /instances\[3\]: host must be among/],
    [40, /instances\[4\]: host must not be an unspecified address/], [40, /instances\[5\]: host must be an IPv4 address in its usual form/]
  ])
  t.equal(logged.length, 4)
})

/** The start goes on without the file's registrations, and the file stays as it is. */
async function leftAlone (t: Test, stateDir: string, warning: RegExp) {
  const { app, logged } = await appWith(t, { stateDir })

  t.equal(app.registry.size, 0)
  t.match(logged, [{ level: 40, msg: warning }])
  t.equal(logged.length, 1)
  app.registry.register(planner)
  await t.rejects(app.registryState.save(), { code: 'FLEET_NOT_KEPT', statusCode: 503, cause: { message: /^Registrations can't be kept: .*registry\.json / } })
  t.match(logged.at(-1), { level: 50, msg: 'The registry could not be kept' })
  await app.close()
}

t.test('a file that can not be read is a warning, and is never written over', async t => {
  const stateDir = t.testdir({ 'registry.json': { inside: 'x' } })

  await leftAlone(t, stateDir, /registry\.json can't be read \(EISDIR.*without its registrations/)

  t.same(await readdir(join(stateDir, 'registry.json')), ['inside'])
})

t.test('a folder that is none is a warning', async t => {
  const parent = t.testdir({ '.fleet': 'a file in the way' })

  await leftAlone(t, join(parent, '.fleet'), /registry\.json can't be read \(ENOTDIR/)
})

t.test('a file without permission is a warning', { skip: process.getuid?.() === 0 ? 'root reads everything' : false }, async t => {
  const stateDir = t.testdir({ 'registry.json': '{"version":1,"agents":[]}' })
  await chmod(join(stateDir, 'registry.json'), 0)

  await leftAlone(t, stateDir, /registry\.json can't be read \(EACCES/)
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

/** From now on nothing can be written there. */
async function blockFolder (stateDir: string): Promise<void> {
  await rm(stateDir, { recursive: true })
  await writeFile(stateDir, 'a file in the way')
}

t.test('what could not be kept is kept as soon as it can be, without anybody asking for it', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const clock = fakeClock()
  const { app, logged } = await appWith(t, { stateDir, clock })
  app.registry.register(planner)
  await app.registryState.save()
  await blockFolder(stateDir)
  app.registry.removeAgent('planner')
  app.registry.register({ ...planner, name: 'coder' })
  await t.rejects(app.registryState.save(), { code: 'FLEET_NOT_KEPT' })
  await rm(stateDir)
  clock.advance(4_750)
  await t.rejects(stat(stateDir), { code: 'ENOENT' })

  clock.advance(250)
  await app.close()

  t.same((await keptIn(stateDir)).agents.map(({ name }) => name), ['coder'])
  t.match(logged, [{ level: 50, msg: 'The registry could not be kept' }, { level: 30, msg: 'The registry is kept again' }])
})

t.test('a second one on the same folder does not start, and is told by whom and why; after the first it does', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app: first } = await appWith(t, { stateDir })
  first.registry.register(planner)
  await first.registryState.save()

  await t.rejects(appWith(t, { stateDir }), { code: 'FLEET_STATE_IN_USE', message: /\.fleet is in use by another gateway \(.*\): end that one, or give this one a folder of its own with registry\.stateDir/ })

  first.registry.register({ ...planner, port: 8502 })
  await first.registryState.save()
  await first.close()
  const { app: second } = await appWith(t, { stateDir })
  t.equal(second.registry.get('planner').instances.length, 2)
})

t.test('a folder that somebody else took meanwhile is not written to', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const { app: first } = await appWith(t, { stateDir })
  await rm(stateDir, { recursive: true })
  const { app: second } = await appWith(t, { stateDir })
  second.registry.register(planner)
  await second.registryState.save()

  await t.rejects(first.registryState.save(), { code: 'FLEET_NOT_KEPT', cause: { code: 'FLEET_STATE_IN_USE' } })

  t.same((await keptIn(stateDir)).agents.map(({ name }) => name), ['planner'])
})

t.test('where there can be no socket in the folder, that is said once, and the rest works', async t => {
  const stateDir = t.testdir({})
  const warnings: string[] = []
  const noSocket = Object.assign(new Error('not supported'), { code: 'ENOTSUP' })
  const file = createStateFile(stateDir, { warn: (text: string) => warnings.push(text) } as unknown as FastifyBaseLogger, { hold: async () => noSocket, release: async () => {} })

  await file.load()
  await file.save(() => ({ version: 1, agents: [] }))

  t.same(warnings, [`Another gateway that uses ${stateDir} would not be noticed: there can be no socket in it (not supported)`])
  t.same(await readdir(stateDir), ['registry.json'])
  t.same(await keptIn(stateDir), { version: 1, agents: [] })
})

t.test('what killed writes left is gone after a start, and nothing else is', async t => {
  const others = ['registry.json.backup', 'registry.json.damaged-1', 'secret', 'secret.txt']
  const stateDir = t.testdir(Object.fromEntries([...others, 'registry.json.0123456789ab.tmp', 'secret.0123456789ab.tmp'].map(name => [name, 'x'])))

  const { logged } = await appWith(t, { stateDir })

  t.same(await filesIn(stateDir), others)
  t.same(logged, [])
})

t.test('a lapse that can not be kept is logged, and the gateway goes on', async t => {
  const parent = t.testdir({})
  const stateDir = join(parent, '.fleet')
  const clock = fakeClock()
  const { app, logged } = await appWith(t, { stateDir, clock })
  app.registry.register({ ...planner, ttlMs: 1_000 })
  await blockFolder(stateDir)

  clock.advance(1_250)
  await app.close()

  t.match(logged, [{ level: 50, msg: 'The registry could not be kept' }])
})

t.test('that lapsed instances are kept is said once, and once that it is over', async t => {
  const clock = fakeClock()
  const { app, logged } = await appWith(t, { clock })
  for (const port of [1, 2, 3]) app.registry.register({ ...planner, port, ttlMs: 10_000 })
  const beat = () => app.registry.get('planner').instances.forEach(({ id }) => app.registry.heartbeat('planner', id))

  clock.advance(12_000)
  t.match(logged, [{ level: 40, msg: /^Too many leases ran out at once/, leased: 3, lapsed: 3 }])
  beat()
  clock.advance(250)
  t.match(logged.slice(1), [{ level: 40, msg: /^Leases count again/, leased: 3 }])
  beat()
  clock.advance(9_000)

  t.equal(logged.length, 2)
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

  await t.rejects(app.registryState.save(), { code: 'FLEET_NOT_KEPT', cause: { code: 'EACCES' } })
})
