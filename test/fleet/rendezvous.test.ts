/** src/fleet/rendezvous.ts: the policy hash. */
import t from 'tap'
import fc from 'fast-check'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Asker } from '../../src/fleet/balancer.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import { agentOf, agentWith, askerAt, balancerOf, choice, client, instanceOf, names, picks } from '../helpers/balancing.ts'

t.test('hash', async t => {
  const hash = balancerOf('hash')
  /** Who serves each of so many clients. */
  const mapOf = (agent: Agent, clients: number, balancer = hash) => Array.from({ length: clients }, (_, number) => balancer.pick(agent, { ...choice, asker: client(number) })!.id)

  t.test('decides as ever: a next version must not move clients', async t => {
    t.equal(mapOf(agentOf(1, 1, 1, 1), 24).join(''), 'adbbdbaaaabbcacdcbbacbcc')
    t.equal(mapOf(agentOf(1, 2, 3), 24).join(''), 'acbbcbaaccbbcccccbbccbcc')
  })

  t.test('decides by ids of instances alone, not by their order or anything before', async t => {
    const agent = agentOf(3, 1, 2, 1)
    const other = agentWith(...[...agent.instances].reverse().map(({ id, weight }) => instanceOf(id, weight)))

    t.same(mapOf(agent, 500), mapOf(other, 500, balancerOf('hash')))
    t.same(mapOf(agent, 500), mapOf(agent, 500))
  })

  t.test('moves only clients of an instance that goes, and moves clients only to one that comes', async t => {
    const weights = fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 2, maxLength: 8 })
    fc.assert(fc.property(weights, fc.nat(), (all, which) => {
      const agent = agentOf(...all)
      const gone = agent.instances[which % all.length]!
      const without = agentWith(...agent.instances.filter(instance => instance !== gone))
      const [before, after] = [mapOf(agent, 300), mapOf(without, 300)]
      return before.every((id, index) => id === gone.id || id === after[index])
    }))
  })

  t.test('treats one that is down as one that went, and one that was tried likewise', async t => {
    const agent = agentOf(1, 1, 1, 1)
    const [first] = agent.instances
    const before = mapOf(agent, 300)
    const others = mapOf(agentWith(...agent.instances.slice(1)), 300)
    first!.runtime.health.up = false

    t.same(mapOf(agent, 300), others)
    first!.runtime.health.up = true
    t.same(mapOf(agent, 300), before, 'and when it is back, so are its clients')
    const retried = before.map((_, number) => hash.pick(agent, { ...choice, asker: client(number), tried: [first!] })!.id)
    t.same(retried, others)
  })

  t.test('has an order for each client, in which retries go on', async t => {
    const agent = agentOf(1, 1, 1, 1)
    const orders = new Set<string>()
    for (let number = 0; number < 500; number++) {
      const tried: Instance[] = []
      for (let next = hash.pick(agent, { ...choice, asker: client(number) }); next !== undefined; next = hash.pick(agent, { ...choice, asker: client(number), tried })) tried.push(next)
      t.equal(tried.length, 4)
      orders.add(tried.map(({ id }) => id).join(''))
    }
    t.equal(orders.size, 24, 'clients of a dead instance spread over all others')
  })

  t.test('spreads clients by weight', async t => {
    const table = [[1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 3], [10, 1, 1], [5, 4, 3, 2, 1], [1_000, 1_000]]
    for (const weights of table) {
      const clients = 20_000
      const counts = new Map<string, number>()
      for (const id of mapOf(agentOf(...weights), clients)) counts.set(id, (counts.get(id) ?? 0) + 1)
      const total = weights.reduce((sum, weight) => sum + weight)
      for (const [index, weight] of weights.entries()) {
        const expected = clients * weight / total
        const got = counts.get(names[index]!) ?? 0
        t.ok(Math.abs(got - expected) < 5 * Math.sqrt(expected), `${weights.join(', ')}: ${names[index]} has ${got}, not ${expected}`)
      }
    }
  })

  t.test('spreads keys that differ in one letter, over instances whose ids do', async t => {
    const agent = agentWith(...Array.from({ length: 10 }, (_, index) => instanceOf(`00000000000${index}`)))
    const byUser = balancerOf('hash', { hashOn: 'header:x-user' })
    const counts = new Map<string, number>()
    for (let number = 0; number < 10_000; number++) {
      const { id } = byUser.pick(agent, { ...choice, asker: askerAt('::1', { 'x-user': `user-${number}` }) })!
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    for (const [id, count] of counts) t.ok(Math.abs(count - 1_000) < 160, `${id}: ${count}`)
    t.equal(counts.size, 10)
  })

  t.test('tells clients apart by what hashOn names, and by address where that is missing', async t => {
    const agent = agentOf(...Array<number>(20).fill(1))
    const served = (hashOn: string, headers: Asker['headers'], address = '192.0.2.1') => balancerOf('hash', { hashOn }).pick(agent, { ...choice, asker: askerAt(address, headers) })!.id
    const byAddress = served('address', {})
    const by = (key: string) => served('address', {}, key)
    const table: [hashOn: string, headers: Asker['headers'], key: string | null][] = [
      ['header:X-User', { 'x-user': 'ada' }, 'ada'],
      ['header:x-user', { 'x-user': ' ada ' }, ' ada '],
      ['header:x-user', { 'x-user': ['ada', 'bob'] }, 'ada, bob'],
      ['header:x-user', {}, null],
      ['header:x-user', { 'x-user': '' }, null],
      ['header:x-user', { 'X-User': 'ada' }, null],
      ['header:constructor', {}, null],
      ['header:__proto__', {}, null],
      ['cookie:sid', { cookie: 'sid=1' }, '1'],
      ['cookie:sid', { cookie: 'a=b; sid=1; c=d' }, '1'],
      ['cookie:sid', { cookie: 'a=b;sid=1=2' }, '1=2'],
      ['cookie:sid', { cookie: 'sid=1; sid=2' }, '1'],
      ['cookie:sid', { cookie: 'sid="1"' }, '"1"'],
      ['cookie:sid', { cookie: 'xsid=1; sidx=2; SID=3' }, null],
      ['cookie:sid', { cookie: 'sid' }, null],
      ['cookie:sid', { cookie: 'sid=' }, null],
      ['cookie:sid', {}, null],
      ['address', { 'x-user': 'ada', cookie: 'sid=1' }, null]
    ]
    for (const [hashOn, headers, key] of table) {
      t.equal(served(hashOn, headers), key === null ? byAddress : by(key), `${hashOn} of ${JSON.stringify(headers)}`)
    }
    t.not(by('ada'), byAddress)
  })

  t.test('takes turns for whoever can not be told apart at all', async t => {
    t.equal(picks(hash, agentOf(1, 1), 4), 'a b a b')
    t.equal(picks(hash, agentOf(1, 1), 4, { asker: askerAt('') }), 'a b a b')
  })
})
