/** Who there is, from two sources: what each change does, and that a refused one does nothing. */
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { statusOf } from '../../src/fleet/agent.ts'
import { Registry, type AgentDefinition, type InstanceDefinition, type Registration, type RegistryChange, type RegistryLimits } from '../../src/fleet/registry.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const minute = 60_000

function build (limits?: RegistryLimits) {
  const clock = fakeClock()
  const registry = new Registry(clock, limits)
  const changes: { added: string[], removed: string[] }[] = []
  registry.onChange(change => changes.push(summary(change)))
  return { clock, registry, changes }
}

function summary ({ added, removed }: RegistryChange) {
  return { added: added.map(({ origin }) => origin), removed: removed.map(({ origin }) => origin) }
}

/** An agent of the file with one instance for each port. */
function agent (name: string, ports: number[], settings: Omit<Partial<AgentDefinition>, 'name' | 'instances'> = {}): AgentDefinition {
  return { name, instances: ports.map(port => instance(port)), ...settings }
}

function instance (port: number, fields: Partial<InstanceDefinition> = {}): InstanceDefinition {
  return { host: 'localhost', port, protocol: 'http', weight: 1, ...fields }
}

function at (port: number, fields: Partial<Registration> = {}): Registration {
  return { name: 'planner', host: 'localhost', port, ...fields }
}

/** All that can be seen of a registry, for comparing before and after. */
function seen (registry: Registry) {
  return { agents: structuredClone([...registry.agents()]), names: [...registry.names()].sort(), kept: registry.exportState() }
}

const ports = (registry: Registry, name: string) => registry.get(name).instances.map(({ port }) => port)

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

t.test('a lease runs out at its time and not before', async t => {
  const { clock, registry, changes } = build()
  const { instance } = registry.register(at(9001, { ttlMs: 10_000 }))
  t.same(instance.lease, { ttlMs: 10_000, expiresAt: clock.now() + 10_000 })

  clock.advance(9_999)
  t.equal(registry.expire(), false)
  t.equal(registry.get('planner').instances.length, 1)

  clock.advance(1)
  t.equal(registry.expire(), true)
  t.same(registry.get('planner').instances, [])
  t.same(changes[1], { added: [], removed: ['http://localhost:9001'] })
  t.equal(registry.expire(), false, 'once')
})

t.test('what has no lease stays', async t => {
  const { clock, registry } = build()
  registry.register(at(9001))
  registry.register(at(9002, { ttlMs: 1_000 }))

  clock.advance(365 * 24 * 60 * minute)

  t.equal(registry.expire(), true)
  t.same(ports(registry, 'planner'), [9001])
})

t.test('registering again renews a lease, with its old time unless a new one is given', async t => {
  const { clock, registry } = build()
  registry.register(at(9001, { ttlMs: 10_000 }))
  clock.advance(5_000)

  t.same(registry.register(at(9001)).instance.lease, { ttlMs: 10_000, expiresAt: clock.now() + 10_000 })
  t.same(registry.register(at(9001, { ttlMs: 2_000 })).instance.lease, { ttlMs: 2_000, expiresAt: clock.now() + 2_000 })
})

t.test('heartbeats keep a leased instance', async t => {
  const { clock, registry, changes } = build()
  const { instance: { id } } = registry.register(at(9001, { ttlMs: 10_000, aliases: ['plan'] }))

  for (let beat = 0; beat < 5; beat++) {
    clock.advance(9_000)
    registry.expire()
    t.same(registry.heartbeat(beat % 2 === 0 ? 'planner' : 'plan', id).lease, { ttlMs: 10_000, expiresAt: clock.now() + 10_000 })
  }

  t.equal(changes.length, 1)
  clock.advance(10_000)
  t.equal(registry.expire(), true, 'the last beat counts')
})

t.test('a heartbeat after the lease ran out is refused, whether or not anybody looked', async t => {
  for (const sweep of [true, false]) {
    const { clock, registry } = build()
    const { instance: { id } } = registry.register(at(9001, { ttlMs: 10_000 }))
    clock.advance(10_000)
    if (sweep) registry.expire()

    t.throws(() => registry.heartbeat('planner', id), { code: 'FLEET_INSTANCE_NOT_FOUND' })
    if (!sweep) t.equal(registry.expire(), true, 'the lapse is still reported to whoever keeps the state')
  }
})

t.test('a heartbeat without a lease changes nothing', async t => {
  const { registry } = build()
  const { instance } = registry.register(at(9001))
  registry.replaceFile([agent('git', [8502])])
  const [inFile] = registry.get('git').instances

  t.equal(registry.heartbeat('planner', instance.id), instance)
  t.equal(registry.heartbeat('git', inFile!.id), inFile)
})

/** How often `work` calls the method. */
function callsOf (prototype: object, method: string | symbol, work: () => void): number {
  const methods = prototype as Record<string | symbol, (...args: unknown[]) => unknown>
  const original = methods[method]!
  let calls = 0
  methods[method] = function (...args) {
    calls++
    return original.apply(this, args)
  }
  try {
    work()
  } finally {
    methods[method] = original
  }
  return calls
}

const hashesIn = (work: () => void) => callsOf(Object.getPrototypeOf(createHash('sha256')) as object, 'digest', work)

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

t.test('a heartbeat touches no instance but its own', async t => {
  const { registry } = build()
  registry.register(at(1))
  const { instance } = registry.register(at(2, { ttlMs: 1_000 }))
  const before = registry.get('planner')

  const renewed = registry.heartbeat('planner', instance.id)

  t.same(registry.get('planner').instances.map(({ port }) => port), [1, 2])
  t.equal(registry.get('planner').instances[0], before.instances[0])
  t.equal(registry.get('planner').instances[1], renewed)
  t.equal(before.instances[1], instance, 'snapshots that were given out do not change')
})

t.test('where nothing is due nobody is looked at', async t => {
  const { clock, registry } = build()
  for (let port = 1; port <= 10; port++) registry.register(at(port, { name: `agent-${port}`, ttlMs: port * 60_000 }))
  const { instance } = registry.register(at(1, { name: 'gone' }))
  registry.removeInstance('gone', instance.id)
  const looksIn = (work: () => void) => callsOf(Map.prototype, 'values', () => work())

  t.equal(looksIn(() => registry.expire()), 0)
  clock.advance(60_000)
  t.equal(looksIn(() => t.equal(registry.expire(), true)), 1)
  t.equal(looksIn(() => registry.expire()), 0)
  clock.advance(540_000)
  t.equal(registry.expire(), true)
  t.equal(registry.find('gone'), undefined)
  t.same([...registry.agents()].filter(({ instances }) => instances.length > 0), [])
})

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

t.test('after its last instance an agent is known for ten minutes', async t => {
  const { clock, registry } = build()
  const { instance } = registry.register(at(9001, { aliases: ['plan'] }))
  t.match(registry.removeInstance('plan', instance.id), { inFile: false, name: 'planner', instance: { id: instance.id } })

  clock.advance(10 * minute - 1)
  t.equal(registry.expire(), false)
  t.equal(statusOf(registry.get('plan')), 'down')

  clock.advance(1)
  t.equal(registry.expire(), true)
  t.equal(registry.find('planner'), undefined)
  t.equal(registry.find('plan'), undefined)
  t.equal(registry.size, 0)
})

t.test('the ten minutes begin when the last lease runs out, and end with a new instance', async t => {
  const { clock, registry } = build()
  registry.register(at(9001, { ttlMs: 1_000, metadata: { team: 'x' } }))
  clock.advance(1_000)
  registry.expire()
  clock.advance(9 * minute)

  t.equal(registry.register(at(9002)).created, true)
  t.same(registry.get('planner').metadata, { team: 'x' }, 'it is the same agent')
  clock.advance(2 * minute)
  registry.expire()
  t.same(ports(registry, 'planner'), [9002])
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

t.test('a listener that was taken off hears nothing more', async t => {
  const registry = new Registry(fakeClock())
  let calls = 0
  const stop = registry.onChange(() => { calls++ })
  registry.register(at(9001))
  stop()

  registry.register(at(9002))

  t.equal(calls, 1)
})

// Whatever is done in whatever order, these hold. fast-check shrinks a counterexample to its shortest form.
t.test('names, instances and events agree after any sequence of changes', async t => {
  const name = fc.constantFrom('a', 'b', 'c', 'd', '__proto__')
  const names = fc.uniqueArray(name, { maxLength: 2 })
  const port = fc.integer({ min: 1, max: 3 })
  const ttlMs = fc.option(fc.constantFrom(1_000, 5_000), { nil: undefined })
  const change = fc.oneof(
    fc.record({ kind: fc.constant('register' as const), name, port, aliases: fc.option(names, { nil: undefined }), ttlMs, protocol: fc.constantFrom('http' as const, 'https' as const) }),
    fc.record({ kind: fc.constant('file' as const), agents: fc.uniqueArray(fc.record({ name, aliases: names, ports: fc.uniqueArray(port) }), { selector: ({ name }) => name, maxLength: 3 }) }),
    fc.record({ kind: fc.constantFrom('removeAgent' as const, 'removeInstance' as const, 'heartbeat' as const, 'drain' as const), name }),
    fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(500, 5_000, 10 * minute) })
  )

  fc.assert(fc.property(fc.array(change, { maxLength: 20 }), steps => {
    const clock = fakeClock()
    const registry = new Registry(clock)
    const present = new Set<object>()
    registry.onChange(({ added, removed }) => {
      for (const { runtime } of removed) if (!present.delete(runtime)) throw new Error('something went that was not there')
      for (const { runtime } of added) present.add(runtime)
    })

    for (const step of steps) {
      const before = seen(registry)
      try {
        apply(registry, step)
      } catch (error) {
        if (!('code' in (error as object))) throw error
        if (!isDeepStrictEqual(seen(registry), before)) throw new Error('a refusal changed something')
      }
      if (step.kind === 'wait') {
        clock.advance(step.ms)
        registry.expire()
      }

      const agents = [...registry.agents()]
      const claimed = agents.flatMap(({ name, aliases }) => [name, ...aliases])
      if (new Set(claimed).size !== claimed.length) throw new Error('a name belongs to two agents')
      if ([...registry.names()].sort().join() !== claimed.sort().join()) throw new Error('names and agents differ')
      for (const agent of agents) for (const each of [agent.name, ...agent.aliases]) if (registry.find(each) !== agent) throw new Error(`${each} leads elsewhere`)
      const runtimes = agents.flatMap(({ instances }) => instances.map(({ runtime }) => runtime))
      if (runtimes.length !== present.size || !runtimes.every(runtime => present.has(runtime))) throw new Error('events and instances differ')
    }

    clock.advance(5_000)
    registry.expire()
    if ([...registry.agents()].some(({ instances }) => instances.some(({ lease }) => lease !== null))) throw new Error('a lease outlived its time')
  }), { numRuns: 300 })

  type Step = typeof change extends fc.Arbitrary<infer S> ? S : never
  function apply (registry: Registry, step: Step): void {
    if (step.kind === 'file') registry.replaceFile(step.agents.map(({ name, aliases, ports }) => agent(name, ports, { aliases: aliases.filter(alias => alias !== name) })))
    if (step.kind === 'register') {
      const { name, port, protocol, aliases, ttlMs } = step
      registry.register(at(port, { name, protocol, ...(aliases && { aliases }), ...(ttlMs !== undefined && { ttlMs }) }))
    }
    if (step.kind === 'removeAgent') registry.removeAgent(step.name)
    if (step.kind === 'removeInstance' || step.kind === 'heartbeat' || step.kind === 'drain') {
      const id = registry.find(step.name)?.instances[0]?.id ?? 'none'
      registry[step.kind](step.name, id)
    }
  }
})
