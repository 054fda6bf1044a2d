/** Which changes of late data may lack that was written again. */
import t from 'tap'
import { RecentChanges } from '../../plugins/registry/recent-changes.ts'

const sorted = (changes: { name: string, part: string, version: number }[]) => changes.map(({ name, part, version }) => `${name} ${part} ${version}`).sort()

t.test('of each part the last change that is known counts', async t => {
  const recent = new RecentChanges()
  recent.made('one', 4, 'planner', ['localhost:1', '='])
  recent.told({ epoch: 'one', version: 5, by: 5, name: 'planner', part: 'localhost:1' }, 'one')
  recent.told({ epoch: 'one', version: 3, by: 3, name: 'planner', part: '=' }, 'one')
  recent.told({ epoch: 'one', version: 6, by: 6, name: 'coder', part: 'localhost:2' }, 'one')
  t.same(sorted(recent.missingIn('', null)), ['planner = 4', 'planner localhost:1 4'], 'where nothing is known of others, its own')
  t.same(sorted(recent.missingIn('', { epoch: 'one', version: 5 })), ['planner = 4', 'planner localhost:1 5'], 'the rest was not read yet')
  t.same(sorted(recent.missingIn('', { epoch: 'other', version: 9 })), ['planner = 4', 'planner localhost:1 4'])
  t.same(sorted(recent.missingIn('two:8 one:4', { epoch: 'one', version: 6 })), ['coder localhost:2 6', 'planner localhost:1 5'], 'but for what was part of it')
  recent.told({ epoch: 'one', version: 5, by: 5, name: 'coder', part: 'localhost:2' }, 'one')
  t.same(sorted(recent.missingIn('one:4', { epoch: 'one', version: 6 })), ['coder localhost:2 6', 'planner localhost:1 5'], 'an older one that was read later is an older one')
})

t.test('what others changed is known of the data that is being read, and of the data before', async t => {
  const recent = new RecentChanges()
  for (const [epoch, version, before] of [['one', 1, 'one'], ['two', 2, 'one'], ['three', 3, 'one']] as const) recent.told({ epoch, version, by: version, name: epoch, part: 'localhost:1' }, before)
  const of = (epoch: string) => sorted(recent.missingIn('', { epoch, version: 9 }))
  t.same(['one', 'two', 'three'].map(of), [['one localhost:1 1'], [], ['three localhost:1 3']])
})

t.test('what was made again in data is known with that, and no sooner', async t => {
  const recent = new RecentChanges()
  recent.told({ epoch: 'two', version: 3, by: 12, name: 'planner', part: 'localhost:1' }, 'one')
  t.same(recent.missingIn('', { epoch: 'two', version: 11 }), [])
  t.same(sorted(recent.missingIn('', { epoch: 'two', version: 12 })), ['planner localhost:1 3'])
})

t.test('of very many parts those are known that were changed last', async t => {
  const recent = new RecentChanges()
  for (let version = 1; version <= 45_000; version++) recent.made('one', version, `agent-${version % 30_000}`, ['localhost:1'])
  const missing = recent.missingIn('', null)
  t.equal(missing.length, 10_000)
  t.equal(Math.min(...missing.map(({ version }) => version)), 35_001)
})
