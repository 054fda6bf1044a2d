/** src/fleet/slow-start.ts, under each policy that has it. */
import t from 'tap'
import type { Agent } from '../../src/fleet/agent.ts'
import type { BalancerPolicy, BalancerSettings } from '../../src/fleet/balancers.ts'
import { isServing, type Instance } from '../../src/fleet/instance.ts'
import { recordAttempt, recordProbe } from '../../src/fleet/outlier.ts'
import { agentOf, agentWith, answer, balancerOf, choice, client, instanceOf, now, picks, sharesOf } from '../helpers/balancing.ts'
import { seeded } from '../helpers/seeded.ts'

t.test('slow start', async t => {
  const slowStart = 60_000
  const policies = ['round-robin', 'weighted', 'least-requests', 'p2c'] as const
  const choices = 20_000
  /** The share of the second of two, that has served for so long, of what it will have in the end. */
  const shareAt = (policy: BalancerPolicy, ageMs: number) => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now - ageMs))
    return sharesOf(balancerOf(policy, { slowStart }, seeded(ageMs).next), agent, choices)['b']! / (choices / 2)
  }

  for (const policy of policies) {
    t.test(`${policy} lets the share of a new instance grow from about a tenth to all of it`, async t => {
      const ages = [0, 12_000, 24_000, 36_000, 48_000, 60_000]
      const shares = ages.map(age => shareAt(policy, age))

      t.ok(shares[0]! > 0.08 && shares[0]! < 0.22, `at first ${shares[0]}`)
      for (const [index, share] of shares.entries()) if (index > 0) t.ok(share > shares[index - 1]!, `it grows: ${shares.join(' ')}`)
      t.ok(shares[5]! > 0.95 && shares[5]! < 1.05, `in the end ${shares[5]}`)
    })

    t.test(`${policy} is what it is without when all are equally new`, async t => {
      for (const ageMs of [0, 30_000, 60_000]) {
        const fleet = () => agentWith(instanceOf('a', 3, now - ageMs), instanceOf('b', 2, now - ageMs), instanceOf('c', 1, now - ageMs))
        t.equal(picks(balancerOf(policy, { slowStart }, seeded(3).next), fleet(), 30), picks(balancerOf(policy, {}, seeded(3).next), fleet(), 30))
      }
    })
  }

  t.test('spares an instance again whenever it comes back', async t => {
    const later = now + 3_600_000
    const rules = { unhealthyAfter: 1, healthyAfter: 1 }
    const trial = { ...answer(200), instance: instanceOf('b') }
    const table: [name: string, comeBack: (agent: Agent, instance: Instance) => void][] = [
      ['up', (_agent, instance) => { recordProbe(instance, false, rules, later - 1); recordProbe(instance, true, rules, later) }],
      ['restored by probes', (_agent, instance) => { Object.assign(instance.runtime.health, { ejectedUntil: later + 1, ejectedFor: 'connection' }); recordProbe(instance, true, rules, later) }],
      ['restored by its trial', (agent, instance) => { Object.assign(instance.runtime.health, { ejectedUntil: later, trial }); recordAttempt(agent, Object.assign(trial, { instance }), later) }]
    ]
    for (const [name, comeBack] of table) {
      const agent = agentOf(1, 1)
      const instance = agent.instances[1]!
      comeBack(agent, instance)

      t.equal(isServing(instance), true, name)
      t.ok(sharesOf(balancerOf('round-robin', { slowStart }), agent, 1_000, { now: later })['b']! < 150, name)
      recordProbe(instance, true, rules, later + slowStart)
      t.equal(sharesOf(balancerOf('round-robin', { slowStart }), agent, 1_000, { now: later + slowStart })['b'], 500, name)
    }
  })

  t.test('leaves the old ones their exact alternation', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b'), instanceOf('new', 1, now))
    const sequence = picks(balancerOf('round-robin', { slowStart }), agent, 300).split(' ').filter(id => id !== 'new')

    t.ok(sequence.every((id, index) => index === 0 || id !== sequence[index - 1]))
  })

  t.test('does not keep a request from the only instance that is left', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now - 1_000), instanceOf('c', 1, now))
    agent.instances[0]!.runtime.health.up = false

    for (const policy of policies) {
      const shares = sharesOf(balancerOf(policy, { slowStart }), agent, 100)
      t.equal(shares['b']! + shares['c']!, 100, policy)
    }
  })

  t.test('compares with whoever has served longest, when all are new', async t => {
    const agent = agentWith(instanceOf('a', 1, now - 30_000), instanceOf('b', 1, now - 15_000))

    const { a, b } = sharesOf(balancerOf('round-robin', { slowStart }), agent, 3_000)

    t.equal(a! + b!, 3_000, 'there is always somebody')
    t.ok(b! > 900 && b! < 1_100, `half a share against one is a third, not ${b} of 3000`)
  })

  t.test('does not move clients under hash', async t => {
    const agent = agentWith(instanceOf('a'), instanceOf('b', 1, now))
    const ids = (settings: Partial<BalancerSettings>) => Array.from({ length: 100 }, (_, number) => balancerOf('hash', settings).pick(agent, { ...choice, asker: client(number) })!.id)

    t.same(ids({ slowStart }), ids({}))
  })

  t.test('survives a clock that is put back', async t => {
    const agent = agentWith(instanceOf('a', 1, now + 3_600_000), instanceOf('b', 1, now + 3_600_000))

    t.equal(picks(balancerOf('round-robin', { slowStart }), agent, 4), 'a b a b')
  })
})
