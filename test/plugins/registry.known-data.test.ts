/** How much of the shared data a gateway has, while changes are told and read in any order. */
import { setImmediate as nextTurn } from 'node:timers/promises'
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

t.test('who waits for a version is told when all up to it is known, and that it never will be when there is other data or nobody waits any more', async t => {
  const known = new KnownData(data(4))
  const told: string[] = []
  const gaveUp: (() => void)[] = []
  let waiting = 0
  const wait = (name: string, epoch: string, version: number) => {
    waiting++
    void known.until(epoch, version, giveUp => {
      gaveUp.push(giveUp)
      return () => { waiting-- }
    }).then(isKnown => told.push(`${name} ${isKnown}`))
  }
  const soFar = async () => {
    await nextTurn()
    return told.splice(0)
  }

  wait('now', 'one', 4)
  wait('heard', 'one', 5)
  wait('read', 'one', 6)
  wait('others', 'one', 9)
  wait('other data', 'two', 1)
  t.same(await soFar(), ['now true', 'other data false'])
  known.hear(5)
  t.same(await soFar(), ['heard true'])
  known.hearOf('planner', 6)
  t.same(await soFar(), [])
  known.wasRead('planner', 6)
  t.same(await soFar(), ['read true'])
  wait('impatient', 'one', 7)
  gaveUp.at(-1)!()
  t.same(await soFar(), ['impatient false'])
  known.beginReadingAll(data(3, 'two'))
  t.same(await soFar(), ['others false'])
  wait('all', 'two', 3)
  t.same(await soFar(), [])
  known.endReadingAll(3)
  t.same(await soFar(), ['all true'])
  t.equal(waiting, 0, 'nothing is left of it')
})
