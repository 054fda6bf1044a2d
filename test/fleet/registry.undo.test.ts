/** A registration that could not be kept is taken back: the registry is as if it had never been. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import type { Registration, Registry } from '../../src/fleet/registry.ts'
import { agent, at, build, ports, seen, summary } from '../helpers/registry-alone.ts'

const optional = <V>(arbitrary: fc.Arbitrary<V>) => fc.option(arbitrary, { nil: undefined })

const registrations: fc.Arbitrary<Registration> = fc.record({
  name: fc.constantFrom('planner', 'coder', 'from-file'),
  host: fc.constant('localhost'),
  port: fc.integer({ min: 1, max: 4 }),
  protocol: optional(fc.constantFrom('http' as const, 'https' as const)),
  weight: optional(fc.integer({ min: 1, max: 3 })),
  aliases: optional(fc.subarray(['p', 'q', 'file-alias'])),
  metadata: optional(fc.constantFrom({ a: 1 }, { b: 2 })),
  policy: optional(fc.constantFrom({ preserveHost: true }, { timeouts: { response: 5 } })),
  ttlMs: optional(fc.constantFrom(1_000, 60_000)),
  trusted: optional(fc.boolean())
}).map(({ ...fields }) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as unknown as Registration)

type Change = { kind: 'register' | 'remove', registration: Registration } | { kind: 'advance', ms: number }

const changes: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ kind: fc.constantFrom('register' as const, 'register' as const, 'remove' as const), registration: registrations }),
  fc.record({ kind: fc.constant('advance' as const), ms: fc.constantFrom(500, 1_500, 11 * 60_000) })
)

/** Undefined when it is refused. */
function register (registry: Registry, registration: Registration) {
  try {
    return registry.register(registration)
  } catch {
    return undefined
  }
}

function applyTo ({ registry, clock }: ReturnType<typeof build>, change: Change): void {
  if (change.kind === 'register') {
    register(registry, change.registration)
  } else if ('registration' in change) {
    const found = registry.find(change.registration.name)?.instances.find(({ port }) => port === change.registration.port)
    if (found !== undefined) registry.removeInstance(found.agent, found.id)
  } else {
    clock.advance(change.ms)
    registry.expire()
  }
}

/** Without the records of what happened to instances: one whose protocol changed for a while begins anew. */
function described (registry: Registry) {
  const { agents, ...others } = seen(registry)
  return { ...others, agents: agents.map(({ instances, ...rest }) => ({ ...rest, instances: instances.map(({ runtime, ...instance }) => instance) })) }
}

t.test('whatever was there before, undoing a registration at once restores it', t => {
  fc.assert(fc.property(fc.array(changes, { maxLength: 12 }), registrations, (earlier, registration) => {
    const built = build()
    built.registry.replaceFile([agent('from-file', [1, 2], { aliases: ['file-alias'], metadata: { from: 'file' } })])
    for (const change of earlier) applyTo(built, change)
    const before = described(built.registry)

    register(built.registry, registration)?.undo()

    if (!isDeepStrictEqual(described(built.registry), before)) throw new Error(`${JSON.stringify(described(built.registry))} was ${JSON.stringify(before)}`)
  }), { numRuns: 500 })
  t.end()
})

t.test('who listens is told of both', t => {
  const { registry, changes: told } = build()
  const { undo, instance } = registry.register(at(9001))
  undo()

  t.same(told, [summary({ added: [instance], removed: [] }), summary({ added: [], removed: [instance] })])
  t.equal(registry.find('planner'), undefined)
  t.end()
})

t.test('what others changed since stays', t => {
  const { registry } = build()
  registry.register(at(9001, { weight: 1, aliases: ['old'] }))
  const first = registry.register(at(9001, { weight: 2, aliases: ['new'] }))
  registry.register(at(9001, { weight: 3 }))
  first.undo()
  t.match(registry.get('new').instances, [{ weight: 3 }], 'somebody was faster')

  registry.register(at(9001, { aliases: ['new'] }))
  const second = registry.register(at(9002, { aliases: ['newer'] }))
  registry.register(at(9003, { name: 'coder', aliases: ['new'] }))
  second.undo()
  t.same(ports(registry, 'planner'), [9001])
  t.equal(registry.get('new').name, 'coder', 'an alias that somebody else has by now is not taken back')
  t.equal(registry.get('newer').name, 'planner')

  const third = registry.register(at(9004))
  registry.removeAgent('planner')
  third.undo()
  t.equal(registry.find('planner'), undefined)
  t.end()
})

t.test('of a new agent whose instances are all undone nothing is remembered', t => {
  const { registry } = build()
  const undos = [9001, 9002, 9003].map(port => registry.register(at(port)).undo)

  for (const undo of undos) undo()

  t.same([...registry.names()], [])
  t.end()
})

t.test('of registrations that are all undone, in whatever order, nothing stays', t => {
  for (const ports of [[9001, 9001, 9001], [9001, 9002, 9001], [9001, 9002, 9003]]) {
    for (const order of [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]]) {
      for (const isKnown of [false, true]) {
        const { registry } = build()
        if (isKnown) registry.register(at(9001, { weight: 7, aliases: ['kept'], metadata: { kept: true } }))
        const before = described(registry)
        const undos = ports.map((port, index) => registry.register(at(port, { weight: index + 1, aliases: [`alias-${index}`], metadata: { index } })).undo)

        for (const index of order) undos[index]!()

        t.same(described(registry), before, `${ports.join()} undone ${order.join()}${isKnown ? ' over one that is kept' : ''}`)
      }
    }
  }
  t.end()
})

t.test('a file\'s instance that was taken out stays out when registrations of it are all undone', t => {
  const { registry } = build()
  registry.replaceFile([agent('planner', [9001])])
  registry.removeInstance('planner', registry.get('planner').instances[0]!.id)
  const undos = [1, 2].map(weight => registry.register(at(9001, { weight })).undo)

  for (const undo of undos) undo()

  t.same(ports(registry, 'planner'), [])
  t.end()
})

t.test('who registers in vain stays on its way out: once, several times at once, by another protocol', async t => {
  const vain: Partial<Registration>[][] = [[{}], [{ weight: 2 }, { weight: 3 }], [{ protocol: 'https' }], [{ protocol: 'https' }, {}]]
  for (const registrations of vain) {
    for (const order of [registrations.map((_, index) => index), registrations.map((_, index) => index).reverse()]) {
      const { registry } = build()
      registry.replaceFile([agent('from-file', [1])])
      for (const name of ['planner', 'from-file']) {
        if (name === 'planner') registry.register(at(1, { name }))
        registry.drain(name, registry.get(name).instances[0]!.id)
        const registered = registrations.map(fields => registry.register(at(1, { name, ...fields })))
        t.equal(registry.get(name).instances[0]!.runtime.draining, false, 'it is wanted again, as far as that is known')
        for (const index of order) registered[index]!.undo()
        t.match(registry.get(name).instances, [{ protocol: 'http', weight: 1, runtime: { draining: true } }], `${name}, ${JSON.stringify(registrations)}`)
      }
    }
  }
})
