/** Two sources at once: what becomes of an agent that is in the file and registers as well, and who gets a name that both claim. */
import t from 'tap'
import type { AgentDefinition } from '../../src/fleet/registry.ts'
import { agent, at, build, minute, ports } from '../helpers/registry-alone.ts'

t.test('the file takes its names from registrations, and everything else applies in the same step', async t => {
  const removed = /"planner" was removed/
  const lost = /"planner" lost its alias "plan"/
  const cases: [string, AgentDefinition, RegExp, string | undefined][] = [
    ['an alias that is a registered agent', agent('a', [1], { aliases: ['planner'] }), removed, undefined],
    ['an alias that is an alias of a registered agent', agent('a', [1], { aliases: ['plan'] }), lost, 'planner'],
    ['an agent that is an alias of a registered agent', agent('plan', [1]), lost, 'planner']
  ]
  for (const [title, definition, reason, left] of cases) {
    const { clock, registry, changes } = build()
    registry.replaceFile([agent('git', [8502])])
    registry.register(at(9001, { aliases: ['plan', 'mine'] }))
    registry.expire()

    const { dropped } = registry.replaceFile([definition, agent('git', [8503])])

    t.match(dropped, [reason], title)
    t.equal(dropped.length, 1)
    for (const name of [definition.name, ...definition.aliases ?? []]) t.equal(registry.get(name).name, definition.name, title)
    t.same(ports(registry, 'git'), [8503], title)
    t.equal(registry.find('mine')?.name, left, title)
    t.equal(changes.length, 3, 'one step')
    t.equal(registry.exportState().agents.length, left === undefined ? 0 : 1)
    clock.advance(250)
    t.equal(registry.expire(), true, 'whoever keeps the state hears of it')
    t.equal(registry.expire(), false, 'once')
  }
})

t.test('a name of the file that moves is taken from what was registered under its former owner', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [1], { aliases: ['repo'] }), agent('old', [2])])
  registry.register(at(3, { name: 'git', aliases: ['vcs'] }))
  registry.register(at(4, { name: 'old' }))

  const { dropped, removed } = registry.replaceFile([agent('git', [1], { aliases: ['repo'] }), agent('new', [5], { aliases: ['vcs', 'old'] })])

  t.match(dropped, [/"git" lost its alias "vcs"/, /"old" was removed/])
  t.same(removed.map(({ port }) => port), [2, 4])
  t.same(registry.get('git').aliases, ['repo'], 'the file\'s aliases stand again')
  t.same([registry.get('vcs').name, registry.get('old').name], ['new', 'new'])
  t.same(registry.replaceFile([agent('git', [1], { aliases: ['repo'] }), agent('new', [5], { aliases: ['vcs', 'old'] })]).dropped, [])
})

t.test('a registration adds to an agent of the file, and the file does not take it away', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'], metadata: { from: 'file' }, policy: { preserveHost: true, rewriteLocation: false } })])

  const { agent: merged } = registry.register(at(8503, { name: 'git', metadata: { from: 'api' }, policy: { rewriteLocation: true } }))
  t.same(merged.instances.map(({ port, source }) => [port, source]), [[8502, 'file'], [8503, 'api']])
  t.same([merged.aliases, merged.metadata, merged.policy], [['repo'], { from: 'api' }, { preserveHost: true, rewriteLocation: true }])

  registry.replaceFile([agent('git', [8502], { aliases: ['repo'], metadata: { from: 'file' }, policy: { preserveHost: true, rewriteLocation: false } }), agent('other', [1])])
  t.same(registry.get('git').metadata, { from: 'api' }, 'an unchanged definition leaves it alone')

  registry.replaceFile([agent('git', [8502], { metadata: { from: 'new file' } })])
  t.same(registry.get('git').metadata, { from: 'new file' }, 'a changed one wins')
  t.same(ports(registry, 'git'), [8502, 8503])

  registry.replaceFile([])
  t.same(ports(registry, 'git'), [8503])
})

t.test('a registration of an instance of the file replaces its fields while it lasts', async t => {
  const { clock, registry } = build()
  registry.replaceFile([agent('git', [8502])])

  const { created, instance } = registry.register(at(8502, { name: 'git', weight: 7, ttlMs: 1_000 }))
  t.equal(created, false)
  t.match(instance, { source: 'file', weight: 7, lease: { ttlMs: 1_000 } })

  clock.advance(1_000)
  t.equal(registry.expire(), true)
  t.match(registry.get('git').instances, [{ source: 'file', weight: 1, lease: null }])
})

t.test('what registrations said of an agent of the file goes with the last of them', async t => {
  const { clock, registry } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] })])
  registry.register(at(8503, { name: 'git', aliases: ['vcs'], ttlMs: 1_000 }))
  t.same(registry.get('git').aliases, ['vcs'])

  clock.advance(1_000)
  registry.expire()

  t.same(registry.get('git').aliases, ['repo'])
  t.equal(registry.find('vcs'), undefined)
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] }), agent('svn', [3], { aliases: ['vcs'] })])
  t.equal(registry.get('vcs').name, 'svn')
})

t.test('an alias of the file that a registration stands in for can not be taken meanwhile', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] })])
  registry.register(at(8503, { name: 'git', aliases: ['vcs'] }))
  t.equal(registry.find('repo'), undefined)

  t.throws(() => registry.register(at(9001, { aliases: ['repo'] })), { code: 'FLEET_NAME_CONFLICT' })
  t.throws(() => registry.register(at(9001, { name: 'repo' })), { code: 'FLEET_NAME_CONFLICT' })

  registry.removeAgent('git')
  t.equal(registry.register(at(9001, { aliases: ['repo'] })).agent.name, 'planner', 'once its owner was removed it can')
})

t.test('an agent that is only remembered makes room for the file', async t => {
  for (const definition of [agent('git', [8502], { aliases: ['planner'] }), agent('git', [8502], { aliases: ['plan'] }), agent('plan', [8502])]) {
    const { registry } = build()
    const { instance } = registry.register(at(9001, { aliases: ['plan'] }))
    registry.removeInstance('planner', instance.id)

    registry.replaceFile([definition])

    t.equal(registry.size, 1)
    t.same([...registry.names()].sort(), [definition.name, ...definition.aliases ?? []].sort())
  }
})

t.test('an agent that is only remembered becomes one of the file', async t => {
  const { clock, registry } = build()
  const { instance } = registry.register(at(9001, { aliases: ['plan'] }))
  registry.removeInstance('planner', instance.id)

  registry.replaceFile([agent('planner', [9002])])
  clock.advance(11 * minute)
  registry.expire()

  t.same(ports(registry, 'planner'), [9002])
  t.equal(registry.find('plan'), undefined)
})
