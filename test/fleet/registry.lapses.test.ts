/** Self-preservation: when more than half of the leased instances lapse at once they are kept and marked, for a while. */
import t from 'tap'
import { agent, at, build, minute, ports } from '../helpers/registry-alone.ts'
import type { Registry } from '../../src/fleet/registry.ts'

const ttlMs = 15_000

/** Instances of one agent with leases, on ports from 1 on, all renewed now. */
function leasedFleet (count: number) {
  const fleet = build()
  for (let port = 1; port <= count; port++) fleet.registry.register(at(port, { ttlMs }))
  return fleet
}

/** Ports of `planner` whose lease ran out and that are kept. */
function lapsed (registry: Registry): number[] {
  return registry.get('planner').instances.filter(({ lease }) => lease?.lapsedAt !== undefined).map(({ port }) => port)
}

const idAt = (registry: Registry, port: number) => registry.get('planner').instances.find(instance => instance.port === port)!.id
const beat = (registry: Registry, ...ports: number[]) => ports.map(port => registry.heartbeat('planner', idAt(registry, port)))

t.test('who lapses is dropped or kept by how many lapse with it', async t => {
  for (const [leased, lapsing, kept] of [
    [1, 1, false], [2, 1, false], [2, 2, false],
    [3, 1, false], [3, 2, true], [3, 3, true],
    [4, 2, false], [4, 3, true], [5, 3, true], [10, 5, false], [10, 6, true]
  ] as const) {
    const { clock, registry, changes } = leasedFleet(leased)
    clock.advance(ttlMs - 1)
    for (let port = lapsing + 1; port <= leased; port++) beat(registry, port)
    const before = changes.length

    clock.advance(1)

    t.equal(registry.expire(), !kept, `${lapsing} of ${leased}: ${kept ? 'nothing to keep on disk' : 'something to keep on disk'}`)
    t.equal(lapsed(registry).length, kept ? lapsing : 0, `${lapsing} of ${leased}`)
    t.equal(ports(registry, 'planner').length, kept ? leased : leased - lapsing)
    t.equal(changes.length - before, kept ? 0 : 1, 'who is kept did not go')
    t.same(registry.leaseCount, { leased: kept ? leased : leased - lapsing, lapsed: kept ? lapsing : 0 })
  }
})

t.test('only leases are counted: neither what has none, nor what drains', async t => {
  const { clock, registry } = leasedFleet(3)
  for (let port = 4; port <= 10; port++) registry.register(at(port))
  registry.replaceFile([agent('git', [1, 2, 3, 4, 5, 6, 7])])
  registry.drain('planner', idAt(registry, 1))

  clock.advance(ttlMs)
  registry.expire()

  t.same(lapsed(registry), [], 'two that do not drain are too few')
  t.same(ports(registry, 'planner'), [4, 5, 6, 7, 8, 9, 10])
})

t.test('what drains leaves with its lease, also while others are kept', async t => {
  const { clock, registry } = leasedFleet(4)
  registry.drain('planner', idAt(registry, 4))

  clock.advance(ttlMs)

  t.equal(registry.expire(), true)
  t.same(lapsed(registry), [1, 2, 3])
  t.same(ports(registry, 'planner'), [1, 2, 3])
  registry.drain('planner', idAt(registry, 1))
  t.equal(registry.expire(), true, 'a drain that begins later, too')
  t.same(ports(registry, 'planner'), [2, 3])
})

t.test('lapses within one ttl are at once; those before are dropped already', async t => {
  const { clock, registry } = build()
  for (let port = 1; port <= 10; port++) {
    registry.register(at(port, { ttlMs }))
    clock.advance(500)
  }

  clock.advance(ttlMs - 5_000)
  for (let step = 0; step <= 20; step++) {
    registry.expire()
    clock.advance(250)
  }

  t.same(ports(registry, 'planner'), [6, 7, 8, 9, 10], 'never more than half are lost')
  t.same(lapsed(registry), [6, 7, 8, 9, 10])
})

t.test('lapses that are more than a ttl apart have nothing to do with each other', async t => {
  const { clock, registry } = leasedFleet(6)
  for (let port = 1; port <= 6; port++) {
    for (let third = 0; third < 3; third++) {
      clock.advance(ttlMs / 3)
      registry.expire()
      for (const alive of ports(registry, 'planner').filter(other => other > port)) beat(registry, alive)
    }
    clock.advance(1)
    registry.expire()
    t.same(lapsed(registry), [], `instance ${port}`)
  }
  clock.advance(ttlMs)
  registry.expire()

  t.same(ports(registry, 'planner'), [])
})

t.test('an instance that lapsed and is registered again counts once', async t => {
  const { clock, registry } = leasedFleet(5)
  clock.advance(ttlMs - 1_000)
  beat(registry, 3, 4, 5)
  clock.advance(1_000)
  registry.expire()
  t.same(ports(registry, 'planner'), [3, 4, 5])
  registry.register(at(1, { ttlMs }))
  registry.register(at(2, { ttlMs }))
  beat(registry, 5)

  clock.advance(ttlMs - 1_000)
  beat(registry, 1, 2, 5)
  registry.expire()

  t.same(ports(registry, 'planner'), [5, 1, 2], 'two of five are dropped, and not taken for four of seven')
})

t.test('a heartbeat, or a registration, makes a kept instance an ordinary one', async t => {
  const { clock, registry, changes } = leasedFleet(4)
  const { runtime } = registry.get('planner').instances[0]!
  clock.advance(ttlMs + 1_000)
  registry.expire()
  t.same(registry.get('planner').instances[0]!.lease, { ttlMs, expiresAt: clock.now() - 1_000, lapsedAt: clock.now() })
  const before = changes.length

  t.same(beat(registry, 1)[0]!.lease, { ttlMs, expiresAt: clock.now() + ttlMs })
  t.same(registry.register(at(2)).instance.lease, { ttlMs, expiresAt: clock.now() + ttlMs })

  t.same(lapsed(registry), [3, 4])
  t.equal(registry.get('planner').instances[0]!.runtime, runtime, 'its health went on')
  t.equal(changes.length, before)
  beat(registry, 3, 4)
  t.equal(registry.expire(), false)
  t.same(registry.leaseCount, { leased: 4, lapsed: 0 })
})

t.test('a heartbeat that comes before anybody looked finds out whether the instance is kept', async t => {
  for (const [leased, kept] of [[2, false], [3, true]] as const) {
    const { clock, registry } = leasedFleet(leased)
    const id = idAt(registry, 1)
    clock.advance(ttlMs)

    if (kept) {
      t.same(registry.heartbeat('planner', id).lease, { ttlMs, expiresAt: clock.now() + ttlMs })
      t.same(lapsed(registry), [2, 3])
    } else {
      t.throws(() => registry.heartbeat('planner', id), { code: 'FLEET_INSTANCE_NOT_FOUND' })
      t.same(ports(registry, 'planner'), [])
    }
    t.equal(registry.expire(), !kept, 'what went is reported to whoever keeps the state')
  }
})

t.test('what the file names stays without its lease, and a heartbeat in between finds that', async t => {
  const { clock, registry } = build()
  registry.replaceFile([agent('planner', [1])])
  const { instance: { id } } = registry.register(at(1, { ttlMs }))
  clock.advance(ttlMs)

  t.equal(registry.heartbeat('planner', id).lease, null)
})

t.test('when half hold their leases again, the others have one ttl left', async t => {
  const { clock, registry } = leasedFleet(4)
  clock.advance(ttlMs)
  registry.expire()
  clock.advance(minute)
  registry.expire()
  t.same(lapsed(registry), [1, 2, 3, 4])

  beat(registry, 1)
  clock.advance(ttlMs - 1)
  registry.expire()
  t.same(lapsed(registry), [2, 3, 4], 'one is not enough')
  beat(registry, 1, 2)
  registry.expire()
  for (let step = 0; step < 2; step++) {
    clock.advance(ttlMs / 2 - 1)
    beat(registry, 1, 2)
    t.equal(registry.expire(), false)
  }
  t.same(lapsed(registry), [3, 4])
  beat(registry, 3)
  clock.advance(2)

  t.equal(registry.expire(), true)
  t.same(ports(registry, 'planner'), [1, 2, 3])
  t.same(registry.leaseCount, { leased: 3, lapsed: 0 })
})

t.test('new instances in their place end it, too', async t => {
  const { clock, registry } = leasedFleet(3)
  clock.advance(ttlMs)
  registry.expire()

  for (const port of [11, 12, 13]) registry.register(at(port, { ttlMs: minute }))
  registry.expire()
  clock.advance(ttlMs)
  registry.expire()

  t.same(ports(registry, 'planner'), [11, 12, 13])
})

t.test('a second wave gives those that are kept their time back', async t => {
  const { clock, registry } = leasedFleet(4)
  clock.advance(ttlMs)
  registry.expire()
  beat(registry, 1, 2)
  registry.expire()

  clock.advance(ttlMs - 1)
  beat(registry, 1)
  registry.expire()
  clock.advance(1)
  registry.expire()

  t.same(lapsed(registry), [2, 3, 4], 'when the second lapses once more, the time of the others would be over')
})

t.test('nobody is kept for longer than ten minutes, whatever the ttl', async t => {
  for (const longTtlMs of [1_000, 24 * 60 * minute]) {
    const { clock, registry } = build()
    for (const port of [1, 2, 3]) registry.register(at(port, { ttlMs: longTtlMs }))
    clock.advance(longTtlMs)
    registry.expire()

    clock.advance(10 * minute - 1)
    t.equal(registry.expire(), false)
    t.same(lapsed(registry), [1, 2, 3])
    clock.advance(1)

    t.equal(registry.expire(), true)
    t.same(ports(registry, 'planner'), [])
  }
})

t.test('a machine that slept finds its fleet as it was, and the ten minutes begin when it wakes', async t => {
  const { clock, registry } = leasedFleet(3)
  clock.advance(8 * 60 * minute)
  registry.expire()

  t.same(lapsed(registry), [1, 2, 3])
  clock.advance(9 * minute)
  registry.expire()
  t.same(beat(registry, 1, 2, 3).map(({ lease }) => lease?.lapsedAt), [undefined, undefined, undefined])
})

t.test('while some are kept, agents are new objects only where something changed', async t => {
  const { clock, registry } = leasedFleet(3)
  clock.advance(ttlMs)
  registry.expire()
  const kept = registry.get('planner')

  clock.advance(minute)
  registry.expire()

  t.equal(registry.get('planner'), kept, 'what is worked out for an agent once need not be worked out again')
})

t.test('after a restart those that were kept have one full ttl', async t => {
  const before = leasedFleet(3)
  before.clock.advance(ttlMs)
  before.registry.expire()
  const { clock, registry } = build()

  registry.importState(JSON.parse(JSON.stringify(before.registry.exportState())))

  t.same(registry.get('planner').instances.map(({ lease }) => lease), Array(3).fill({ ttlMs, expiresAt: clock.now() + ttlMs }))
  clock.advance(ttlMs)
  registry.expire()
  t.same(lapsed(registry), [1, 2, 3], 'as they were')
})
