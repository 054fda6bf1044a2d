/** Which data in Redis was made of which, and what that says of what a gateway knows. */
import t from 'tap'
import { isAncestor, originOf, relationOf } from '../../plugins/registry/lineage.ts'

t.test('what is known, beside data that was made of other data', async t => {
  const known = { epoch: 'b', version: 10, origin: 'a:5' }

  for (const [origin, relation, why] of [
    ['b:10 a:5', 'within', 'it was made of just that'],
    ['b:12 a:5', 'within', 'it was made of more'],
    ['c:3 b:12 a:5', 'within', 'it was made of data that was made of more'],
    ['b:9 a:5', 'beyond', 'it was made of less'],
    ['', 'beyond', 'it was made of nothing'],
    ['a:5', 'beyond', 'what is known was made of the same, and goes on'],
    ['a:4', 'beyond', 'what is known was made of more'],
    ['c:3 b:9 a:5', 'beside', 'it was made of less, and lost once more since'],
    ['a:6', 'beside', 'both have what the other has not'],
    ['x:99', 'beside', 'it has nothing in common']
  ] as const) t.equal(relationOf(known, origin), relation, why)
  t.equal(relationOf(null, ''), 'beside', 'what never was in Redis says of nobody that it left')
})

t.test('data from before a loss is known as that', async t => {
  const known = { epoch: 'c', version: 20, origin: 'b:10 a:5' }

  for (const [epoch, version, isBefore] of [['b', 10, true], ['b', 9, true], ['b', 11, false], ['a', 5, true], ['a', 6, false], ['c', 19, false], ['x', 1, false]] as const) {
    t.equal(isAncestor({ epoch, version }, known), isBefore, `${epoch}:${version}`)
  }
  t.equal(isAncestor({ epoch: 'a', version: 1 }, null), false)
})

t.test('the origin of new data names what it was made of, and what that was made of, the last first', async t => {
  t.equal(originOf(null), '')
  t.equal(originOf({ epoch: 'a', version: 5 }), 'a:5')
  t.equal(originOf({ epoch: 'b', version: 10, origin: 'a:5' }), 'b:10 a:5')

  let origin = ''
  for (let version = 0; version < 100; version++) origin = originOf({ epoch: `e${version}`, version, origin })

  t.match(origin, /^e99:99 e98:98 /)
  t.equal(origin.split(' ').length, 20, 'it does not grow for ever')
})
