/** What gateways agreed on, as the registry of one of them takes it over; and leases that others know more of. */
import t from 'tap'
import type { SharedAgent } from '../../src/fleet/registry.ts'
import { agent, at, build, ports } from '../helpers/registry-alone.ts'

const ttlMs = 15_000

/** An agent with a registered instance for each port. */
function shared (registered: readonly (number | Partial<SharedAgent['instances'][number]>)[], settings: Omit<Partial<SharedAgent>, 'instances'> = {}): SharedAgent {
  const instances = registered.map(one => ({ host: 'localhost', port: 1, protocol: 'http' as const, weight: 1, ...(typeof one === 'number' ? { port: one } : one) }))
  return { name: 'planner', ...settings, instances }
}

t.test('what is registered becomes what was agreed on, in one change, and what is the same stays as it is', async t => {
  const { registry, changes } = build()
  registry.register(at(1, { aliases: ['plan'], metadata: { old: true } }))
  registry.register(at(2))
  const [first] = registry.get('planner').instances
  changes.length = 0

  registry.replaceRegistered('planner', shared([1, 3], { aliases: ['p'], policy: { timeouts: { response: 5 } } }))

  t.same(changes, [{ added: ['http://localhost:3'], removed: ['http://localhost:2'] }])
  t.same(ports(registry, 'planner'), [1, 3])
  t.equal(registry.get('planner').instances[0]!.runtime, first!.runtime, 'with its health and its load')
  t.match(registry.get('p'), { aliases: ['p'], metadata: {}, policy: { timeouts: { response: 5 } } })
  t.equal(registry.find('plan'), undefined)
  t.match(registry.exportInstance('planner', 'localhost:3'), { port: 3 })
})

t.test('a lease of the same ttl goes on, another begins anew, and one that is gone is none', async t => {
  const { registry, clock } = build()
  for (const port of [1, 2, 3]) registry.register(at(port, { ttlMs }))
  const began = clock.now()
  clock.advance(10_000)

  registry.replaceRegistered('planner', shared([{ port: 1, ttlMs }, { port: 2, ttlMs: 20_000 }, { port: 3 }, { port: 4, ttlMs }]))

  t.same(registry.get('planner').instances.map(({ lease }) => lease?.expiresAt ?? null), [began + ttlMs, clock.now() + 20_000, null, clock.now() + ttlMs])
})

t.test('of whom nothing is registered any more is known for ten minutes, or unknown at once', async t => {
  for (const [isRemoved, isKnown] of [[false, true], [true, false]] as const) {
    const { registry, clock } = build()
    registry.register(at(1))

    registry.replaceRegistered('planner', null, { isRemoved })

    t.equal(registry.find('planner') !== undefined, isKnown)
    if (isKnown) t.same(ports(registry, 'planner'), [])
    clock.advance(10 * 60_000)
    registry.expire(new Set())
    t.equal(registry.find('planner'), undefined)
  }
  const { registry, changes } = build()
  registry.replaceRegistered('planner', null, { isRemoved: true })
  t.same([registry.size, changes], [0, []], 'who never was is not remembered')
})

t.test('what the file has stays when its registration goes, with what the file says of it', async t => {
  const { registry } = build()
  registry.replaceFile([agent('planner', [1], { aliases: ['plan'] })])
  registry.replaceRegistered('planner', shared([{ port: 1, weight: 5, draining: true }, 2], { aliases: ['other'] }))
  t.match(registry.get('planner').instances, [{ weight: 5, source: 'file', runtime: { draining: true } }, { port: 2 }])

  registry.replaceRegistered('planner', null, { isRemoved: true })

  t.match(registry.get('plan').instances, [{ port: 1, weight: 1, runtime: { draining: false } }])
  t.same(ports(registry, 'planner'), [1])
  t.equal(registry.find('other'), undefined)
})

t.test('what a change is on its way of stays as it is, the rest becomes what was agreed on', async t => {
  const { registry } = build()
  registry.register(at(1, { weight: 7 }))
  registry.register(at(2, { aliases: ['plan'], metadata: { mine: true } }))
  const { undo } = registry.register(at(3))
  const [first] = registry.get('planner').instances
  registry.drain('planner', first!.id)
  const except = new Set(['localhost:1', 'localhost:3', 'localhost:4'])

  registry.replaceRegistered('planner', shared([1, 4, 5], { aliases: ['p'], metadata: {} }), { except, exceptSettings: true })
  t.match(registry.get('plan'), { aliases: ['plan'], metadata: { mine: true } })
  t.same(ports(registry, 'planner'), [5, 1, 3], 'what is being removed is not back')
  t.match(registry.get('planner').instances[1], { weight: 7, runtime: { draining: true } })
  undo()
  t.same(ports(registry, 'planner'), [5, 1])

  registry.replaceRegistered('planner', null, { except, isRemoved: true })
  t.same(ports(registry, 'planner'), [1])
  t.equal(registry.find('plan'), undefined)
})

t.test('an instance drains while that was agreed on', async t => {
  const { registry } = build()
  registry.register(at(1))
  const drains = () => registry.get('planner').instances.map(({ runtime }) => runtime.draining)

  registry.replaceRegistered('planner', shared([{ port: 1, draining: true }, { port: 2, draining: true }]))
  t.same(drains(), [true, true])
  registry.replaceRegistered('planner', shared([1, 2]))
  t.same(drains(), [false, false])
})

t.test('names that belong to others here are left to them', async t => {
  const { registry } = build()
  registry.replaceFile([agent('git', [9], { aliases: ['taken', 'planner'] })])

  registry.replaceRegistered('coder', shared([1], { name: 'coder', aliases: ['taken', 'free'] }))
  registry.replaceRegistered('planner', shared([2]))

  t.same(registry.get('coder').aliases, ['free'])
  t.equal(registry.get('taken').name, 'git')
  t.equal(registry.get('planner').name, 'git')
})

t.test('an instance that a DELETE took out is back when others registered it, and stays when that is over', async t => {
  const { registry } = build()
  registry.replaceFile([agent('planner', [1])])
  registry.removeInstance('planner', registry.get('planner').instances[0]!.id)

  registry.replaceRegistered('planner', shared([1]))
  t.same(ports(registry, 'planner'), [1])
  registry.replaceRegistered('planner', null)
  t.same(ports(registry, 'planner'), [1], 'the file has it')
})

t.test('leases that are over are named, kept ones as such, until they are renewed or go', async t => {
  const { registry, clock } = build()
  registry.register(at(1, { ttlMs }))
  registry.register(at(2, { ttlMs: 2 * ttlMs }))
  registry.register(at(3))
  const over = () => registry.leasesOver().map(({ key, isKept }) => [key, isKept])

  clock.advance(ttlMs - 1)
  t.same(over(), [])
  clock.advance(1)
  t.same(registry.leasesOver(), [{ name: 'planner', authority: 'localhost:1', key: 'planner localhost:1', isKept: false }])
  t.equal(registry.expire(new Set(['planner localhost:1'])), false)
  t.same(over(), [['planner localhost:1', true]])
  t.same(ports(registry, 'planner'), [1, 2, 3], 'all keep it')

  registry.renewLease('planner', 'localhost:1', ttlMs)
  t.same(over(), [])
  clock.advance(ttlMs)
  t.same(over(), [['planner localhost:1', false], ['planner localhost:2', false]])
  registry.expire(new Set())
  t.same(ports(registry, 'planner'), [1, 2, 3], 'where others decide, what they have not named stays')
})

t.test('of a lease what others know to be left is taken over', async t => {
  const { registry, clock } = build()
  registry.register(at(1, { ttlMs }))
  registry.register(at(2))
  registry.replaceFile([agent('git', [9])])
  const { runtime } = registry.get('planner').instances[0]!

  t.match(registry.renewLease('planner', 'localhost:1', 3_000), { port: 1, lease: { ttlMs, expiresAt: clock.now() + 3_000 } })

  t.equal(registry.get('planner').instances[0]!.runtime, runtime)
  t.equal(registry.get('planner').instances[0]!.lease!.expiresAt, clock.now() + 3_000)
  clock.advance(3_000)
  t.equal(registry.leasesOver().length, 1, 'also where it is sooner over than was known')
  for (const [name, authority] of [['planner', 'localhost:2'], ['planner', 'localhost:3'], ['git', 'localhost:9'], ['nobody', 'localhost:1']] as const) {
    t.equal(registry.renewLease(name, authority, ttlMs), undefined, `${name} ${authority} has no lease`)
  }
})
