/** Whom the registry trusts, and what of it survives a restart. */
import t from 'tap'
import { hashesIn } from '../helpers/call-counts.ts'
import { agent, at, build, ports } from '../helpers/registry-alone.ts'

t.test('what is taken back after a restart is one change, with one look at each agent', async t => {
  const before = build()
  for (const port of [1, 2, 3]) before.registry.register(at(port))
  before.registry.register(at(4, { name: 'coder' }))
  const { registry, changes } = build()

  t.equal(hashesIn(() => registry.importState(before.registry.exportState())), 4)

  t.same(changes.map(({ added }) => added.length), [4])
})

t.test('the bounds of the fleet hold for what is taken back, too', async t => {
  const before = build()
  for (const port of [1, 2, 3]) before.registry.register(at(port))
  before.registry.register(at(4, { name: 'coder' }))
  const { registry } = build({ maxAgents: 1, maxInstancesPerAgent: 2 })

  const { skipped } = registry.importState(before.registry.exportState())

  t.same(ports(registry, 'planner'), [1, 2])
  t.equal(registry.size, 1)
  t.match(skipped, [/^planner: The fleet is full: an agent may have 2 instances/, /^coder: The fleet is full: registry\.maxAgents allows 1 agents/])
})

t.test('trusted is what the file names and what was registered with admin rights, however it is registered again', async t => {
  const { registry } = build()
  const trust = (name: string) => registry.get(name).instances.map(({ port, trusted }) => [port, trusted])

  registry.register(at(9001))
  registry.register(at(9002, { trusted: false }))
  registry.register(at(9003, { trusted: true }))
  t.same(trust('planner'), [[9001, false], [9002, false], [9003, true]])

  registry.register(at(9001))
  registry.register(at(9002, { trusted: true }))
  registry.register(at(9003, { weight: 2 }))
  t.same(trust('planner'), [[9001, false], [9002, true], [9003, true]])

  registry.register(at(9003, { protocol: 'https' }))
  t.same(trust('planner'), [[9001, false], [9002, true], [9003, false]], 'another protocol is another place for a token to go')
  registry.removeInstance('planner', registry.get('planner').instances[1]!.id)
  registry.register(at(9002))
  t.same(new Map(trust('planner') as [number, boolean][]).get(9002), false, 'an instance that went takes its trust with it')
})

t.test('an agent of the file trusts its own instances, not those that registered before or beside', async t => {
  const { registry } = build()
  const trust = () => registry.get('git').instances.map(({ port, trusted }) => [port, trusted])
  registry.register(at(1, { name: 'git' }))

  registry.replaceFile([agent('git', [2], { policy: { forwardAuthorization: true } })])
  t.same(trust(), [[2, true], [1, false]])

  registry.register(at(2, { name: 'git', weight: 2 }))
  t.same(trust(), [[2, true], [1, false]], 'what the file names')
  registry.register(at(2, { name: 'git', protocol: 'https' }))
  t.same(trust(), [[2, false], [1, false]], 'but not under another protocol')
  registry.register(at(2, { name: 'git', protocol: 'http' }))
  registry.replaceFile([])
  t.same(trust(), [[1, false], [2, false]], 'only as long as the file names it')
})

t.test('trust survives a restart; where nothing is kept of it there is none', async t => {
  const before = build()
  before.registry.register(at(9001, { trusted: true }))
  before.registry.register(at(9002))
  const state = JSON.parse(JSON.stringify(before.registry.exportState()))
  const [{ instances }] = state.agents
  t.match(instances, [{ port: 9001, trusted: true }, { port: 9002, trusted: false }])
  instances.push({ host: 'localhost', port: 9003, protocol: 'http', weight: 1 })

  const { registry } = build()
  registry.importState(state)

  t.same(registry.get('planner').instances.map(({ trusted }) => trusted), [true, false, false])
})

t.test('registrations survive a restart, with one full lease', async t => {
  const before = build()
  before.registry.replaceFile([agent('git', [8502])])
  before.registry.register(at(9001, { aliases: ['plan'], metadata: { a: 1 }, policy: { timeouts: { response: 5 } }, weight: 3, protocol: 'https' }))
  before.registry.register(at(9002, { ttlMs: 10_000 }))
  before.registry.register(at(8503, { name: 'git', aliases: ['repo'] }))
  const gone = before.registry.register(at(9004, { name: 'gone', aliases: ['away'] }))
  before.registry.removeInstance('gone', gone.instance.id)
  before.clock.advance(9_000)
  const state = JSON.parse(JSON.stringify(before.registry.exportState()))

  const after = build()
  t.same(after.registry.importState(state), { skipped: [] })
  after.registry.replaceFile([agent('git', [8502])])

  t.match(after.registry.get('plan'), { name: 'planner', metadata: { a: 1 }, policy: { timeouts: { response: 5 } } })
  t.match(after.registry.get('planner').instances, [
    { origin: 'https://localhost:9001', weight: 3, lease: null, source: 'api' },
    { origin: 'http://localhost:9002', weight: 1, lease: { ttlMs: 10_000, expiresAt: after.clock.now() + 10_000 } }
  ])
  t.same(ports(after.registry, 'repo').sort(), [8502, 8503])
  t.equal(after.registry.find('gone'), undefined)
  t.same(after.registry.exportState(), state)
})

t.test('that an instance drains is kept, until it is registered again', async t => {
  const { registry } = build()
  const drained = [9001, 9002].map(port => registry.register(at(port)).instance)
  for (const { id } of drained) registry.drain('planner', id)
  registry.register(at(9002))
  const state = JSON.parse(JSON.stringify(registry.exportState()))

  const { registry: after } = build()
  after.importState(state)

  t.same(after.get('planner').instances.map(({ port, runtime }) => [port, runtime.draining]), [[9001, true], [9002, false]])
  t.same(after.exportState(), state)
})

t.test('what can not be taken back after a restart is named, and the rest is taken', async t => {
  const before = build()
  before.registry.register(at(9001, { aliases: ['git'] }))
  before.registry.register(at(9003, { name: 'coder' }))

  const { registry } = build()
  registry.replaceFile([agent('git', [8502])])
  const { skipped } = registry.importState(before.registry.exportState())

  t.same(skipped, ['planner: The alias "git" belongs to the agent "git"'])
  t.equal(registry.find('planner'), undefined)
  t.same(ports(registry, 'coder'), [9003])
})
