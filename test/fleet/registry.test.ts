/** Who there is: what registering, removing and draining do, whose a name is, how many there may be, and that what is refused changes nothing. */
import t from 'tap'
import { statusOf } from '../../src/fleet/agent.ts'
import { Registry, type Registration } from '../../src/fleet/registry.ts'
import { hashesIn } from '../helpers/call-counts.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { agent, at, build, seen } from '../helpers/registry-alone.ts'

t.test('a first registration makes the agent and its instance', async t => {
  const { registry, changes } = build()

  const { created, agent, instance } = registry.register(at(9001, { aliases: ['plan'], metadata: { team: 'x' }, policy: { preserveHost: true } }))

  t.equal(created, true)
  t.match(agent, { name: 'planner', aliases: ['plan'], metadata: { team: 'x' }, policy: { preserveHost: true }, instances: [instance] })
  t.match(instance, { agent: 'planner', host: 'localhost', port: 9001, protocol: 'http', origin: 'http://localhost:9001', weight: 1, source: 'api', lease: null })
  t.equal(registry.find('planner'), agent)
  t.equal(registry.find('plan'), agent)
  t.equal(registry.size, 1)
  t.same([...registry.names()], ['planner', 'plan'])
  t.same(changes, [{ added: ['http://localhost:9001'], removed: [] }])
})

t.test('an IPv6 literal stands in brackets in the origin', async t => {
  const { registry } = build()

  t.equal(registry.register(at(9001, { host: '::1', protocol: 'https' })).instance.origin, 'https://[::1]:9001')
})

t.test('the same host and port again is the same instance; given fields replace', async t => {
  const { registry, changes } = build()
  const first = registry.register(at(9001, { weight: 5, aliases: ['plan', 'old'], metadata: { a: 1 }, policy: { preserveHost: true, timeouts: { idle: 5 } } }))

  const { created, agent, instance } = registry.register(at(9001, { aliases: ['plan', 'new'], metadata: { b: 2 }, policy: { timeouts: { connect: 7 } } }))

  t.equal(created, false)
  t.equal(instance.id, first.instance.id)
  t.equal(instance.runtime, first.instance.runtime)
  t.equal(instance.weight, 5, 'what is not given stays')
  t.same(agent.metadata, { b: 2 })
  t.same(agent.policy, { preserveHost: true, timeouts: { connect: 7 } })
  t.same(agent.aliases, ['plan', 'new'])
  t.equal(registry.find('old'), undefined)
  t.equal(registry.find('new'), agent)
  t.equal(agent.instances.length, 1)
  t.equal(changes.length, 1, 'nothing came and nothing went')
})

t.test('another host or port is another instance of the agent', async t => {
  const { registry } = build()
  registry.register(at(9001))

  t.equal(registry.register(at(9002)).created, true)
  t.equal(registry.register(at(9001, { host: '127.0.0.1' })).created, true)
  t.equal(new Set(registry.get('planner').instances.map(({ id }) => id)).size, 3)
})

t.test('another protocol is the same instance with a new runtime record', async t => {
  const { registry, changes } = build()
  const { instance } = registry.register(at(9001))

  const { created, instance: secure } = registry.register(at(9001, { protocol: 'https' }))

  t.equal(created, false)
  t.equal(secure.id, instance.id)
  t.not(secure.runtime, instance.runtime)
  t.same(changes[1], { added: ['https://localhost:9001'], removed: ['http://localhost:9001'] })
})

t.test('an agent is never its own alias', async t => {
  const { registry } = build()

  t.same(registry.register(at(9001, { aliases: ['planner', 'plan'] })).agent.aliases, ['plan'])
})

t.test('snapshots that were given out do not change', async t => {
  const { registry } = build()
  const { agent } = registry.register(at(9001))

  registry.register(at(9002))

  t.equal(agent.instances.length, 1)
  t.not(registry.get('planner'), agent)
  t.equal(registry.get('planner').rotation, agent.rotation, 'where round robin stands goes on')
})

t.test('the id of an instance is hashed once, whatever happens to its agent', async t => {
  const { registry } = build()
  const file = [agent('planner', [1, 2, 3])]

  t.equal(hashesIn(() => registry.replaceFile(file)), 3)
  t.equal(hashesIn(() => registry.register(at(4, { ttlMs: 1_000 }))), 1)
  const { instances } = registry.get('planner')
  t.equal(hashesIn(() => registry.heartbeat('planner', instances[3]!.id)), 0)
  t.equal(hashesIn(() => registry.register(at(4, { weight: 2 }))), 0)
  t.equal(hashesIn(() => registry.replaceFile([agent('planner', [1, 2, 3], { aliases: ['plan'] })])), 0)
})

t.test('what is not known is refused with the nearest names', async t => {
  const { registry } = build()
  registry.register(at(9001, { aliases: ['plan'] }))
  const { id } = registry.register(at(9002)).instance

  const unknownAgent = { code: 'FLEET_AGENT_NOT_FOUND', statusCode: 404, nearest: ['planner', 'plan'], message: 'No agent is registered as "planer"; did you mean "planner" or "plan"?' }
  t.throws(() => registry.get('planer'), unknownAgent)
  t.throws(() => registry.heartbeat('planer', id), unknownAgent)
  t.throws(() => registry.removeAgent('planer'), unknownAgent)
  t.throws(() => registry.removeInstance('planer', id), unknownAgent)
  t.throws(() => registry.drain('planer', id), unknownAgent)
  t.throws(() => registry.get('zzzzzz'), { nearest: [], message: 'No agent is registered as "zzzzzz"' })

  const unknownInstance = { code: 'FLEET_INSTANCE_NOT_FOUND', statusCode: 404, nearest: registry.get('planner').instances.map(({ id }) => id) }
  t.throws(() => registry.heartbeat('planner', 'nobody'), unknownInstance)
  t.throws(() => registry.removeInstance('planner', 'nobody'), unknownInstance)
  t.throws(() => registry.drain('planner', 'nobody'), unknownInstance)
  t.throws(() => registry.instance('plan', 'nobody'), unknownInstance)
  t.equal(registry.instance('plan', id).id, id)
})

t.test('an overlong name is not repeated at length', async t => {
  const { registry } = build()
  registry.register(at(9001))

  for (const call of [() => registry.get('x'.repeat(5_000)), () => registry.instance('planner', 'x'.repeat(5_000))]) {
    t.throws(call)
    try { call() } catch (error) { t.ok((error as Error).message.length < 200) }
  }
})

t.test('a removed agent is unknown at once', async t => {
  const { registry, changes } = build()
  registry.register(at(9001, { aliases: ['plan'] }))
  registry.register(at(9002, { ttlMs: 1_000 }))

  t.same(registry.removeAgent('plan'), { inFile: false, name: 'planner' })

  t.equal(registry.find('planner'), undefined)
  t.equal(registry.find('plan'), undefined)
  t.same(changes.at(-1), { added: [], removed: ['http://localhost:9001', 'http://localhost:9002'] })
  t.equal(registry.expire(), false, 'its leases are forgotten, too')
})

t.test('a drained instance takes nothing new until it registers again', async t => {
  const { registry } = build()
  const { instance: { id } } = registry.register(at(9001))

  t.equal(registry.drain('planner', id).runtime.draining, true)
  t.equal(statusOf(registry.get('planner')), 'down')

  t.equal(registry.register(at(9001)).instance.runtime.draining, false)
  t.equal(statusOf(registry.get('planner')), 'healthy')
})

t.test('names and aliases belong to one agent, and a refusal changes nothing', async t => {
  const cases: [string, Registration][] = [
    ['an alias that is an agent', at(1, { aliases: ['coder'] })],
    ['an alias that is an alias', at(1, { aliases: ['fine', 'code'] })],
    ['a name that is an alias', at(1, { name: 'code' })],
    ['an alias of the file', at(1, { aliases: ['repo'] })],
    ['a name that is an alias of the file', at(1, { name: 'repo' })],
    ['a known instance with a wrong alias', at(9001, { aliases: ['git'], metadata: { wrong: true }, weight: 9 })],
    ['a new agent with a wrong alias', at(1, { name: 'fresh', aliases: ['free', 'plan'] })]
  ]
  const { registry, changes } = build()
  registry.replaceFile([agent('git', [8502], { aliases: ['repo'] })])
  registry.register(at(9001, { aliases: ['plan'], metadata: { a: 1 } }))
  registry.register(at(9003, { name: 'coder', aliases: ['code'] }))
  const before = seen(registry)
  const count = changes.length

  for (const [title, registration] of cases) {
    t.throws(() => registry.register(registration), { code: 'FLEET_NAME_CONFLICT', statusCode: 409 }, title)
    t.same(seen(registry), before, `${title} changes nothing`)
  }
  t.equal(changes.length, count)
})

t.test('an alias that was given up is free', async t => {
  const { registry } = build()
  registry.register(at(9001, { aliases: ['plan'] }))
  registry.register(at(9001, { aliases: [] }))

  t.equal(registry.register(at(9003, { name: 'coder', aliases: ['plan'] })).agent, registry.find('plan'))
})

t.test('names that JavaScript objects have by themselves are ordinary names', async t => {
  const { registry } = build()
  for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty']) t.equal(registry.find(name), undefined)

  registry.register(at(9001, { name: 'constructor', aliases: ['__proto__', 'toString'] }))

  t.equal(registry.find('__proto__')?.name, 'constructor')
  t.same(registry.removeAgent('toString'), { inFile: false, name: 'constructor' })
  t.equal(registry.find('constructor'), undefined)
})

t.test('the fleet is bounded, and a refusal changes nothing', async t => {
  const { registry } = build({ maxAgents: 2, maxInstancesPerAgent: 2 })
  registry.register(at(9001))
  registry.register(at(9002))
  registry.register(at(9003, { name: 'coder' }))
  const before = seen(registry)

  t.throws(() => registry.register(at(9004, { aliases: ['plan'] })), { code: 'FLEET_INVALID_REGISTRATION', errors: [{ path: 'port' }] })
  t.throws(() => registry.register(at(9005, { name: 'third' })), { code: 'FLEET_INVALID_REGISTRATION', errors: [{ path: 'name' }] })
  t.same(seen(registry), before)

  t.equal(registry.register(at(9002)).created, false, 'what is known may always renew')
  registry.replaceFile([agent('a', [1]), agent('b', [2]), agent('c', [3])])
  t.equal(registry.size, 5, 'the file is not bounded')
})

t.test('all agents together have a bound, too, and what leaves makes room', async t => {
  const { registry } = build({ maxAgents: 10, maxInstancesPerAgent: 10, maxInstances: 3 })
  const refused = { code: 'FLEET_INVALID_REGISTRATION', errors: [{ path: 'port', message: 'all agents together may have 3 instances' }] }
  registry.replaceFile([agent('a', [1])])
  registry.register(at(9001))
  const { instance } = registry.register(at(9002, { ttlMs: 1_000 }))

  t.throws(() => registry.register(at(9003, { name: 'coder' })), refused)
  t.throws(() => registry.register(at(9003)), refused)
  t.equal(registry.register(at(9001)).created, false, 'what is known may always renew')
  t.equal(registry.heartbeat('planner', instance.id).id, instance.id)
  t.throws(() => registry.register(at(9003)), refused, 'a renewal makes no room')

  registry.removeInstance('planner', instance.id)
  t.equal(registry.register(at(9003)).created, true)
  registry.removeAgent('planner')
  for (const port of [9004, 9005]) t.equal(registry.register(at(port, { name: 'coder' })).created, true)
  t.throws(() => registry.register(at(9006, { name: 'coder' })), refused)
  registry.replaceFile([])
  t.equal(registry.register(at(9006, { name: 'coder' })).created, true, 'the file\'s count while they are there')
})

t.test('a listener that was taken off hears nothing more', async t => {
  const registry = new Registry(fakeClock())
  let calls = 0
  const stop = registry.onChange(() => { calls++ })
  registry.register(at(9001))
  stop()

  registry.register(at(9002))

  t.equal(calls, 1)
})
