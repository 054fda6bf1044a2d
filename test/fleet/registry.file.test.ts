/** The agents of the file: what a new version of it changes, and how long what was removed by hand stays away. */
import t from 'tap'
import type { AgentDefinition } from '../../src/fleet/registry.ts'
import { agent, at, build, minute, ports, seen, summary } from '../helpers/registry-alone.ts'

t.test('the file makes agents, changes them and takes them away', async t => {
  const { registry } = build()

  t.same(summary(registry.replaceFile([agent('git', [8502], { aliases: ['repo'], metadata: { a: 1 }, policy: { preserveHost: true } }), agent('trail', [8501])])),
    { added: ['http://localhost:8502', 'http://localhost:8501'], removed: [] })
  t.match(registry.get('repo'), { name: 'git', aliases: ['repo'], metadata: { a: 1 }, policy: { preserveHost: true }, instances: [{ source: 'file', lease: null }] })
  const { instances: [kept], rotation } = registry.get('git')

  t.same(summary(registry.replaceFile([agent('git', [8502, 8503], { aliases: ['vcs'] })])), { added: ['http://localhost:8503'], removed: ['http://localhost:8501'] })
  t.same(registry.get('git').metadata, {})
  t.equal(registry.find('repo'), undefined)
  t.equal(registry.find('trail'), undefined, 'unknown at once: nobody asked for it to be remembered')
  t.equal(registry.get('vcs').instances[0]!.runtime, kept!.runtime, 'how an instance fares survives a reload')
  t.equal(registry.get('vcs').rotation, rotation)

  t.same(summary(registry.replaceFile([])), { added: [], removed: ['http://localhost:8502', 'http://localhost:8503'] })
  t.equal(registry.size, 0)
})

t.test('the same file again changes nothing and tells nobody', async t => {
  const { registry, changes } = build()
  const file = [agent('git', [8502], { aliases: ['repo'] })]
  registry.replaceFile(file)
  registry.register(at(8502, { name: 'git', metadata: { from: 'api' }, ttlMs: 1_000 }))
  const before = seen(registry)

  t.same(registry.replaceFile(structuredClone(file)), { added: [], removed: [], dropped: [] })

  t.same(seen(registry), before)
  t.equal(changes.length, 1)
})

t.test('an agent that the file gives no instances is known for good', async t => {
  const { clock, registry } = build()
  registry.replaceFile([agent('git', [])])

  clock.advance(60 * minute)
  registry.expire()

  t.same(registry.get('git').instances, [])
})

t.test('an alias moves from one agent of the file to another in one step, and agents swap names', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['main'] }), agent('trail', [8501], { aliases: ['other'] })])

  registry.replaceFile([agent('git', [8502], { aliases: ['other'] }), agent('trail', [8501], { aliases: ['main'] })])
  t.equal(registry.get('main').name, 'trail')
  t.equal(registry.get('other').name, 'git')

  registry.replaceFile([agent('main', [8502], { aliases: ['trail'] })])
  t.equal(registry.get('trail').name, 'main')
})

t.test('a file whose names clash is refused as a whole', async t => {
  const { registry, changes } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] })])
  registry.register(at(9001, { aliases: ['plan'] }))
  const before = seen(registry)
  const count = changes.length
  const cases: [string, AgentDefinition[]][] = [
    ['an alias that is a later agent', [agent('a', [1], { aliases: ['b'] }), agent('b', [2])]],
    ['an alias of two agents', [agent('a', [1], { aliases: ['x'] }), agent('b', [2], { aliases: ['x'] })]],
    ['the same agent twice', [agent('a', [1]), agent('a', [2])]]
  ]

  for (const [title, file] of cases) {
    t.throws(() => registry.replaceFile([agent('new', [3]), ...file]), { code: 'FLEET_NAME_CONFLICT' }, title)
    t.same(seen(registry), before, `${title} changes nothing`)
  }
  t.equal(changes.length, count)
})

t.test('an instance of the file that was removed stays out until the file changes', async t => {
  const { clock, registry } = build()
  registry.replaceFile([agent('git', [8502, 8503])])
  const [first] = registry.get('git').instances

  t.match(registry.removeInstance('git', first!.id), { inFile: true, name: 'git' })
  t.same(ports(registry, 'git'), [8503])
  registry.register(at(8504, { name: 'git', ttlMs: 1_000 }))
  clock.advance(1_000)
  registry.expire()
  t.same(ports(registry, 'git'), [8503], 'other changes do not bring it back')

  registry.replaceFile([agent('git', [8502, 8503]), agent('other', [1])])
  t.same(ports(registry, 'git'), [8502, 8503])
})

t.test('an instance of the file that was removed comes back when it registers', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [8502])])
  registry.removeInstance('git', registry.get('git').instances[0]!.id)

  t.match(registry.register(at(8502, { name: 'git' })), { created: true, instance: { source: 'file' } })
})

t.test('an agent of the file whose instances were all removed is forgotten after ten minutes, until the file changes', async t => {
  const { clock, registry } = build()
  const file = [agent('git', [8502], { aliases: ['repo'] })]
  registry.replaceFile(file)
  registry.removeInstance('git', registry.get('git').instances[0]!.id)

  clock.advance(10 * minute - 1)
  registry.expire()
  t.same(registry.get('repo').instances, [])
  clock.advance(1)
  registry.expire()
  t.equal(registry.find('git'), undefined)

  registry.replaceFile([...file, agent('other', [1])])
  t.same(ports(registry, 'repo'), [8502])
})

t.test('a removed agent of the file is unknown at once and comes back when the file changes', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] })])

  t.same(registry.removeAgent('repo'), { inFile: true, name: 'git' })
  t.equal(registry.find('git'), undefined)

  registry.replaceFile([agent('git', [8502], { aliases: ['repo', 'vcs'] })])
  t.same(ports(registry, 'vcs'), [8502])
})
