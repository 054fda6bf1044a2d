/** Random histories of the registry, against what always holds. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { Registry } from '../../src/fleet/registry.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { agent, at, minute, seen } from '../helpers/registry-alone.ts'

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
    let dropped = 0
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
        dropped += look(registry, clock.now(), dropped)
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
    clock.advance(10 * minute)
    registry.expire()
    if ([...registry.agents()].some(({ instances }) => instances.some(({ lease }) => lease !== null))) throw new Error('a lease outlived its time')
  }), { numRuns: 300 })

  /**
   * Sees what is made of leases that ran out: all or none of the new ones are kept, by how many they are.
   * @param droppedBefore leases, at most so many of which still count
   * @returns how many were dropped
   */
  function look (registry: Registry, now: number, droppedBefore: number): number {
    const before = leases(registry).filter(({ draining }) => !draining)
    const isOver = ({ lease: { lapsedAt, expiresAt } }: typeof before[number]) => lapsedAt !== undefined || expiresAt <= now
    registry.expire()

    const after = new Map(leases(registry).map(({ key, lease }) => [key, lease]))
    for (const { key, lease } of leases(registry)) {
      if (lease.expiresAt <= now && lease.lapsedAt === undefined) throw new Error(`${key} is kept without a mark`)
      if (lease.lapsedAt !== undefined && lease.lapsedAt <= now - 10 * minute) throw new Error(`${key} is kept for too long`)
    }
    for (const one of before.filter(one => !isOver(one))) if (after.get(one.key) !== one.lease) throw new Error(`the lease of ${one.key} had not run out`)
    const [leased, over] = [before.length, before.filter(isOver).length]
    const recent = before.filter(one => isOver(one) && one.lease.lapsedAt === undefined)
    const gone = recent.filter(({ key }) => !after.has(key))
    if (gone.length > 0 && gone.length < recent.length) throw new Error('some were kept and some dropped')
    if (gone.length > 0 && leased >= 3 && over * 2 > leased) throw new Error('more than half were not kept')
    const [all, lapsed] = [leased + droppedBefore, over + droppedBefore]
    if (recent.length > gone.length && (all < 3 || lapsed * 2 <= all)) throw new Error('too few were kept')
    return gone.length
  }

  function leases (registry: Registry) {
    return [...registry.agents()].flatMap(({ name, instances }) => instances.flatMap(({ host, port, lease, runtime }) => lease === null ? [] : [{ key: `${name} ${host} ${port}`, lease, draining: runtime.draining }]))
  }

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
