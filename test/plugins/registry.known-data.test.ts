/** How much of the shared data a gateway has, while changes are told and read in any order. */
import t from 'tap'
import { KnownData } from '../../plugins/registry/known-data.ts'

const data = (version: number, epoch = 'one', origin = '') => ({ epoch, version, origin })

t.test('what was heard of and not read is not known yet, whatever was read since', async t => {
  const known = new KnownData(data(4, 'one', 'zero:9'))
  known.hearOf('planner', 5)
  known.hearOf('coder', 6)
  known.hearOf('planner', 7)
  t.equal(known.version, 7)
  t.same(known.point, data(4, 'one', 'zero:9'))

  known.wasRead('coder', 6)
  t.same(known.point?.version, 4)
  known.wasRead('planner', 4)
  t.same(known.point?.version, 4, 'as it was before')
  known.wasRead('planner', 6)
  t.same(known.point?.version, 6, 'its last change is missing')
  known.wasRead('planner', 7)
  t.same(known.point, data(7, 'one', 'zero:9'))
})

t.test('while everything is read what was known before counts, and then what was told meanwhile', async t => {
  const known = new KnownData(null)
  t.same([known.epoch, known.version, known.point], [undefined, 0, null])
  known.beginReadingAll(data(3))
  t.equal(known.point, null)
  known.hearOf('planner', 4)
  known.endReadingAll(3)
  t.same(known.point, data(3), 'what came after the look has to be read again')
  known.wasRead('planner', 4)
  t.same(known.point, data(4))

  known.hearOf('coder', 5)
  known.beginReadingAll(data(6))
  known.beginReadingAll(data(1, 'two', 'one:6'))
  t.same(known.point, data(4), 'reading that was begun anew has ended nothing')
  known.endReadingAll(1)
  t.same(known.point, data(1, 'two', 'one:6'))
  known.isMadeOf('one:8')
  t.same(known.point, data(1, 'two', 'one:8'))
})
