/** What time does to the registry: leases run out unless somebody renews them, and who has no instances left is forgotten. */
import t from 'tap'
import { statusOf } from '../../src/fleet/agent.ts'
import { callsOf } from '../helpers/call-counts.ts'
import { agent, at, build, minute, ports } from '../helpers/registry-alone.ts'

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
  t.same([...registry.agents()].flatMap(({ instances }) => instances).map(({ port }) => port), [2, 3, 4, 5, 6, 7, 8, 9, 10], 'so many at once are kept')
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
