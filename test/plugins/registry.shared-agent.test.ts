/** plugins/registry/shared-agent.ts: an agent as a hash in Redis and back, whoever wrote that. */
import t from 'tap'
import { agentOf, changedEntryOf, entryOf, instanceFields, settingFields } from '../../plugins/registry/shared-agent.ts'

const instance = { host: 'localhost', port: 9_000, protocol: 'http', weight: 1 } as const
const other = { ...instance, port: 8_000, weight: 3, trusted: true, ttlMs: 60_000 }

t.test('what becomes a hash is the same when it comes back, its instances in the order that all gateways have', async t => {
  const draining = { ...instance, draining: true }
  const agent = { name: 'planner', aliases: ['plan'], metadata: { about: ['plans', null] }, policy: { timeouts: { response: 5_000 }, preserveHost: true }, instances: [draining, other] }
  const skipped: string[] = []

  const { fields, ...entry } = entryOf(agent)

  t.same(entry, { name: 'planner', aliases: ['plan'], leases: ['localhost:8000', 60_000] })
  t.same(agentOf('planner', fields, {}, skipped), { ...agent, instances: [other, draining] })
  t.same(skipped, [])
  t.same(agentOf('planner', entryOf({ name: 'planner', instances: [instance] }).fields, {}, skipped), { name: 'planner', instances: [instance] }, 'what was not said is not said')
})

t.test('settings are fields of their own, and only those that were given', async t => {
  t.same(settingFields({ name: 'planner' }), [])
  t.same(settingFields({ name: 'planner', aliases: ['planner', 'plan'], policy: { preserveHost: false } }), ['aliases', '["plan"]', 'policy.preserveHost', 'false'], 'a name is no alias of itself')
  t.same(instanceFields({ ...instance, host: '::1' })[0], 'i:[::1]:9000')
})

t.test('who has no instance that can be taken is nobody', async t => {
  const skipped: string[] = []

  t.equal(agentOf('planner', [], {}, skipped), null)
  t.equal(agentOf('planner', settingFields({ name: 'planner', metadata: {} }), {}, skipped), null)
  t.same(skipped, [])
  t.equal(agentOf('planner', instanceFields({ ...instance, host: '10.0.0.1' }), { allowedHosts: ['.internal'] }, skipped), null)
  t.match(skipped, [/^planner instances\[0\]: host .*"10\.0\.0\.1"/])
})

t.test('what does not hold to the rules is left out with a line, and of a later version without one', async t => {
  const sound = instanceFields(instance)
  const cases: [fields: string[], expected: object | null, skipped: RegExp[]][] = [
    [['i:x:1', '{broken'], null, [/^planner: .*JSON/]],
    [['i:x:1', '{"host":"x","port":0}'], { instances: [instance] }, [/^planner instances\[1\]: port/]],
    [['i:x:1', 'null'], { instances: [instance] }, [/^planner instances\[1\]: must be an object/]],
    [['i:169.254.169.254:80', JSON.stringify({ ...instance, host: '169.254.169.254' })], { instances: [instance] }, [/host must not be/]],
    [['aliases', '["no name"]'], null, [/^planner: aliases/]],
    [['aliases', 'null'], { aliases: undefined, instances: [instance] }, []],
    [['policy.timeouts', '{"response":"5s"}'], null, [/must have numbers of milliseconds/]],
    [['policy.tls', '{"verify":false}', 'policy.forwardAuthorization', 'true'], { policy: undefined, instances: [instance] }, []],
    [['policy.ofALaterVersion', '{}', 'ofALaterVersion', 'x', 'b:localhost:9000 gateway', '1'], { policy: undefined, instances: [instance] }, []],
    [['policy.timeouts', '{"response":5000,"ofALaterVersion":1}'], { policy: { timeouts: { response: 5_000, ofALaterVersion: undefined } }, instances: [instance] }, []],
    [['d:localhost:1', '0'], { instances: [instance] }, []]
  ]

  t.same(agentOf('planner', ['i:localhost:9000', JSON.stringify({ ...instance, ofALaterVersion: { deep: [1] } })], {}, []), { name: 'planner', instances: [instance] })
  for (const [fields, expected, reasons] of cases) {
    const skipped: string[] = []
    const agent = agentOf('planner', [...sound, ...fields], {}, skipped)
    if (expected === null) t.equal(agent, null, fields.join(' '))
    else t.match(agent, expected, fields.join(' '))
    t.equal(agent?.instances.length ?? 0, expected === null ? 0 : 1)
    t.equal(skipped.length, reasons.length, fields.join(' '))
    t.match(skipped, reasons)
  }
})

t.test('metadata keeps all its keys, beside what is of a later version, too', t => {
  const metadata = { constructor: 'c', prototype: { constructor: 1 }, 'a\nb': [{ prototype: 2 }] }

  for (const more of [{}, { ofALaterVersion: 1 }]) {
    t.strictSame(agentOf('planner', ['metadata', JSON.stringify(metadata), 'i:localhost:9000', JSON.stringify({ ...instance, ...more })], {}, []), { name: 'planner', metadata, instances: [instance] })
  }
  t.end()
})

t.test('what was changed of an agent that is gone is its instances, and no settings', t => {
  const changes = [{ name: 'planner', part: '=', version: 5 }, { name: 'planner', part: 'localhost:1', version: 6 }]
  t.match(changedEntryOf('planner', undefined, changes), { name: 'planner', fields: [], versions: { 'localhost:1': 6, '=': undefined }, removed: ['localhost:1'] })
  t.match(changedEntryOf('planner', { name: 'planner', instances: [] }, changes), { versions: { 'localhost:1': 6, '=': 5 }, removed: ['localhost:1'] })
  t.end()
})
