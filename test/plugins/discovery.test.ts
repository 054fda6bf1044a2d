/** plugins/discovery alone with the registry: where agents come from, what a reload does, and who hears of it. See discovery.watch.test.ts, too. */
import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import fp from 'fastify-plugin'
import t from 'tap'
import { NameConflictError } from '../../src/errors.ts'
import { Registry, type AgentDefinition } from '../../src/fleet/registry.ts'
import discovery, { type DiscoveryPluginOptions } from '../../plugins/discovery/index.ts'
import { agentChanges } from '../../plugins/discovery/changes.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { fleet, fleetFile, replace, watched } from '../helpers/watched-fleet.ts'

t.test('agents given in code are in the registry', async t => {
  const { app, names } = await watched(t, { agents: [{ name: 'a', port: 1, aliases: ['b'] }, { name: 'a', port: 2 }] })

  t.same(names(), ['a'])
  t.equal(app.registry.get('b').instances.length, 2)
  t.match(app.discovery.status, { ok: true, loadedAt: /^\d{4}-\d\d-\d\dT/ })
})

t.test('without any option the fleet is empty', async t => {
  const { app, names } = await watched(t, {})

  t.same(names(), [])
  t.equal(await app.discovery.reload(), true)
})

t.test('what somebody took out is told until the file changes', async t => {
  const file = fleetFile(t, fleet('a', 'b'))
  const { app, reloaded } = await watched(t, { file })
  t.same(app.discovery.takenOut(), [])

  app.registry.removeAgent('a')
  app.registry.removeInstance('b', app.registry.get('b').instances[0]!.id)
  app.registry.register({ name: 'c', host: 'localhost', port: 9, aliases: ['a'] })
  const { host, port } = app.discovery.loaded.agents[1]!.instances[0]!
  t.same(app.discovery.takenOut(), [{ agent: 'a' }, { agent: 'b', instances: [`${host}:${port}`] }], 'though another agent has the name as an alias')

  const taken = reloaded()
  await replace(file, fleet('b', 'd'))
  await taken
  t.same(app.discovery.takenOut(), [])
})

t.test('wrong agents in code stop the start', async t => {
  await t.rejects(watched(t, { agents: [{ name: 'a' }] }), { name: 'ConfigError', message: 'agents[0].port: is required, unless there are instances' })
  await t.rejects(watched(t, { agents: [{ name: 'a b', port: 1 }] }), { name: 'OptionsError' })
  await t.rejects(watched(t, { fiel: 'x' } as DiscoveryPluginOptions), { message: /fiel unknown key, did you mean "file"/ })
})

t.test('a file\'s agents are in the registry, whatever else the file says', async t => {
  const file = fleetFile(t, `${fleet('a')}whatever: {secret: "\${NOBODY}"}\n`)
  const { names } = await watched(t, { file })

  t.same(names(), ['a'])
})

t.test('the file reads the environment it is given', async t => {
  const file = fleetFile(t, 'agents:\n  - {name: "${NAME}", port: 1}\n')
  const { names } = await watched(t, { file, env: { NAME: 'planner' } })

  t.same(names(), ['planner'])
})

t.test('agents of the file come beside those given in code', async t => {
  const { names } = await watched(t, { file: fleetFile(t, fleet('b')), agents: [{ name: 'a', port: 1 }] })

  t.same(names(), ['a', 'b'])
  await t.rejects(watched(t, { file: fleetFile(t, fleet('a')), agents: [{ name: 'a', port: 1 }] }), { message: /"a" is given in code, too/ })
})

t.test('a bad file stops the start, with every problem', async t => {
  const file = fleetFile(t, 'agents:\n  - {name: a, prot: 1}\n  - {name: "${NOBODY}", port: 1, timeout: 5}\n')
  await t.rejects(watched(t, { file }), {
    message: [
      `${file}:2:15 agents[0].prot: unknown key, did you mean "port"?`,
      `${file}:3:12 agents[1].name: the environment variable NOBODY is not set`,
      `${file}:3:43 agents[1].timeout: must be a duration such as "500ms", "30s" or "5m", at least 1ms (got 5)`
    ].join('\n')
  })
  await t.rejects(watched(t, { file: fleetFile(t, '- a\n') }), { message: /fleet.yaml:1:1 must be object$/ })
})

t.test('a change is applied, and said in one line', async t => {
  const file = fleetFile(t, fleet('a', 'b', 'c'))
  const { line, names, logged } = await watched(t, { file })

  const said = line(/^reloaded/)
  await replace(file, 'agents:\n  - {name: a, port: 8501}\n  - {name: b, port: 9999}\n  - {name: d, port: 1}\n')

  t.match(await said, { level: 30, msg: `reloaded ${file}: agents +1 −1 ~1 (d; c; b)` })
  t.same(names(), ['a', 'b', 'd'])
  t.equal(logged.filter(({ level }) => level > 30).length, 0)
})

t.test('a reload that changed nothing is told to who asked for it, and otherwise to who debugs', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, line } = await watched(t, { file }, undefined, 'debug')

  const asked = line(/^reloaded/)
  t.equal(await app.discovery.reload(), true)

  t.match(await asked, { level: 30, msg: `reloaded ${file}: it says the same; what it names was read again` })

  const seen = line(/^reloaded/)
  await replace(file, `# a comment\n${fleet('a')}`)

  t.match(await seen, { level: 20, msg: `reloaded ${file}: nothing changed` })
})

t.test('what else changed is told beside the agents, and without a file no name', async t => {
  let port = 1
  const load = async () => ({ agents: [{ name: 'a', instances: [] }], config: port })
  const { app, logged } = await watched(t, { load, changesOf: (before, after) => [`port ${String(before.config)} → ${String(after.config)}`] })

  port = 2
  await app.discovery.reload()

  t.match(logged.at(-1), { level: 30, msg: 'reloaded: port 1 → 2' })
})

t.test('an instance that stays keeps its record', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, reloaded } = await watched(t, { file })
  const { runtime } = app.registry.get('a').instances[0]!

  const change = reloaded()
  await replace(file, fleet('a', 'b'))
  await change

  t.equal(app.registry.get('a').instances[0]!.runtime, runtime)
})

t.test('the listeners hear in the same step in which the registry changes', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app } = await watched(t, { file })
  const seen: string[] = []
  let settled = Promise.resolve()
  const heard = new Promise<void>(resolve => {
    app.registry.onChange(() => {
      seen.push('registry')
      settled = Promise.resolve().then(() => { seen.push('next microtask') })
    })
    app.discovery.onReload(loaded => {
      seen.push(`listener ${loaded.agents.length}`)
      resolve()
    })
  })

  await replace(file, fleet('a', 'b'))
  await heard
  await settled

  t.same(seen, ['registry', 'listener 2', 'next microtask'])
})

t.test('listeners are not called for the first load, nor after they left', async t => {
  const { app } = await watched(t, { file: fleetFile(t, fleet('a')) })
  let calls = 0
  const stop = app.discovery.onReload(() => { calls++ })
  t.equal(calls, 0)

  await app.discovery.reload()
  stop()
  await app.discovery.reload()

  t.equal(calls, 1)
})

t.test('a listener that throws does not keep the others from hearing', async t => {
  const { app, logged } = await watched(t, { file: fleetFile(t, fleet('a')) })
  app.discovery.onReload(() => { throw new Error('not today') })
  let calls = 0
  app.discovery.onReload(() => { calls++ })

  t.equal(await app.discovery.reload(), true)

  t.equal(calls, 1)
  t.match(app.discovery.status, { ok: false, error: 'a part of the gateway could not take it: not today' })
  t.match(logged.find(({ level }) => level === 50), { err: { message: 'not today' } })
})

t.test('a bad change is reported line by line, and the running fleet stays', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, line, logged, names, reloaded } = await watched(t, { file, clock: fakeClock() })
  const { loadedAt } = app.discovery.status

  const said = line(/not reloaded/)
  await replace(file, 'agents:\n  - {name: a, prot: 1}\n  - {name: b c, port: 1}\n')
  await said

  const first = `${file}:2:15 agents[0].prot: unknown key, did you mean "port"?`
  const second = `${file}:3:12 agents[1].name: must match [A-Za-z0-9][A-Za-z0-9._-]{0,63} (got "b c")`
  t.same(logged.filter(({ level }) => level === 50).map(({ msg }) => msg), [first, second])
  t.strictSame(app.discovery.status, { loadedAt, ok: false, error: `${first}\n${second}` })
  t.same(names(), ['a'])

  const mended = reloaded()
  await replace(file, fleet('a', 'b'))
  await mended

  t.strictSame(app.discovery.status, { loadedAt, ok: true })
  t.same(names(), ['a', 'b'])
})

t.test('going back to what is running is good again, and changes nothing', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, line } = await watched(t, { file })
  const bad = line(/not reloaded/)
  await replace(file, 'agents: [')
  await bad
  app.registry.onChange(() => t.fail('nothing changes'))

  const back = line(/again what the running fleet/)
  await replace(file, fleet('a'))
  await back

  t.equal(app.discovery.status.ok, true)
})

t.test('a name that a registration holds does not keep a change from being applied', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, reloaded, names, logged } = await watched(t, { file })
  app.registry.register({ name: 'api', host: 'localhost', port: 1 })
  app.registry.register({ name: 'other', aliases: ['vcs', 'mine'], host: 'localhost', port: 2 })

  const seen = reloaded()
  await replace(file, 'agents:\n  - {name: a, port: 8501, aliases: [api]}\n  - {name: vcs, port: 1}\n')
  await seen

  t.match(app.discovery.status, { ok: true })
  t.same(names().sort(), ['a', 'other', 'vcs'])
  t.equal(app.registry.get('api').name, 'a')
  t.equal(app.registry.get('mine').name, 'other')
  t.same(logged.filter(({ level }) => level === 40).map(({ msg }) => msg).sort(), [
    'The file claims a name that was registered: the registered agent "api" was removed: the name is an alias of the file\'s agent "a"',
    'The file claims a name that was registered: the registered agent "other" lost its alias "vcs": it belongs to the file\'s agent "vcs"'
  ])
})

t.test('names that clash inside the file keep a change from being applied', async t => {
  let agents: AgentDefinition[] = [{ name: 'a', instances: [] }]
  const { app, names } = await watched(t, { load: async () => ({ agents }) })
  app.registry.register({ name: 'api', host: 'localhost', port: 1 })
  agents = [{ name: 'a', instances: [], aliases: ['api'] }, { name: 'b', instances: [], aliases: ['a'] }]

  t.equal(await app.discovery.reload(), false)

  t.match(app.discovery.status, { ok: false, error: /"a"/ })
  t.same(names(), ['a', 'api'])
})

t.test('at the start the file is right against what was kept', async t => {
  const file = fleetFile(t, 'agents:\n  - {name: a, port: 1, aliases: [kept]}\n')
  const { app, names, logged } = await watched(t, { file }, app => {
    app.registry.register({ name: 'kept', host: 'localhost', port: 5 })
    app.registry.register({ name: 'other', host: 'localhost', port: 6 })
  })

  t.same(names().sort(), ['a', 'other'])
  t.equal(app.registry.get('kept').name, 'a')
  t.match(logged.filter(({ level }) => level === 40).map(({ msg }) => msg), [/^The file claims a name that was registered: .*"kept" was removed/])
})

t.test('definitions that clash with each other stop the start', async t => {
  const agents: AgentDefinition[] = [{ name: 'a', instances: [], aliases: ['x'] }, { name: 'b', instances: [], aliases: ['x'] }]
  await t.rejects(watched(t, { load: async () => ({ agents }) }), { code: NameConflictError.code })
})

t.test('what a DELETE took out stays out until the file changes', async t => {
  const file = fleetFile(t, fleet('a', 'b'))
  const { app, names, reloaded } = await watched(t, { file })
  app.registry.removeAgent('a')

  t.equal(await app.discovery.reload(), true)
  t.same(names(), ['b'])

  const change = reloaded()
  await replace(file, `# changed\n${fleet('a', 'b')}`)
  await change
  t.same(names().sort(), ['a', 'b'])
})

t.test('the gateway may load the file itself; what it read beside agents goes to the listeners', async t => {
  const file = fleetFile(t, 'one')
  const load = async () => {
    const name = await readFile(file, 'utf8')
    if (name === 'bad') throw new Error('no such luck')
    return { agents: [{ name, instances: [] }], config: { from: name } }
  }
  const { app, line, names, reloaded, logged } = await watched(t, { file, load })
  t.same(names(), ['one'])

  const change = reloaded()
  await replace(file, 'two')
  t.match(await change, { config: { from: 'two' } })
  t.same(names(), ['two'])

  const said = line(/not reloaded/)
  await replace(file, 'bad')
  await said
  t.match(app.discovery.status, { ok: false, error: 'no such luck' })
  t.match(logged.find(({ level }) => level === 50), { err: { message: 'no such luck' } })
})

t.test('a load that fails at the start rejects', async t => {
  await t.rejects(watched(t, { load: async () => { throw new Error('nothing there') } }), { message: 'nothing there' })
})

t.test('reloads happen one at a time, each after it was asked for', async t => {
  let running = 0
  let loads = 0
  const load = async () => {
    t.equal(++running, 1)
    loads++
    await new Promise(resolve => setImmediate(resolve))
    running--
    return { agents: [{ name: `agent-${loads}`, instances: [] }] }
  }
  const { app, names } = await watched(t, { load })

  t.same(await Promise.all([app.discovery.reload(), app.discovery.reload(), app.discovery.reload()]), [true, true, true])

  t.equal(loads, 4)
  t.same(names(), ['agent-4'])
})

t.test('after the end nothing is reloaded any more', async t => {
  let loads = 0
  let release = () => {}
  const load = async () => {
    if (++loads > 1) await new Promise<void>(resolve => { release = resolve })
    return { agents: [{ name: `agent-${loads}`, instances: [] }] }
  }
  const { app, names } = await watched(t, { load })
  const pending = app.discovery.reload()
  await new Promise(resolve => setImmediate(resolve))

  const closing = app.close()
  await new Promise(resolve => setImmediate(resolve))
  release()
  await closing

  t.equal(await pending, false)
  t.equal(await app.discovery.reload(), false)
  t.same(names(), ['agent-1'])
})

t.test('the registry may be another\'s', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fp(async fastify => { fastify.decorate('registry', new Registry(fakeClock())) }))
  await app.register(discovery, { agents: [{ name: 'a', port: 1 }] })

  t.ok(app.registry.find('a'))
})

t.test('without a registry it does not start', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(discovery, {}) }, { message: /decorator.*registry/ })
})

t.test('a summary is bounded', async t => {
  const many = Array.from({ length: 13 }, (_, index) => ({ name: `a${index}`, instances: [] }))

  t.same(agentChanges([], many), ['agents +13 (a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 and 3 more)'])
  t.same(agentChanges(many, many), [])
})
