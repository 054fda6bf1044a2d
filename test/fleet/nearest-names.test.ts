/** "Did you mean …?" */
import t from 'tap'
import { nearestNames } from '../../src/fleet/nearest-names.ts'

t.test('the nearest names come first, and far ones not at all', async t => {
  const cases: [string, string[], string[]][] = [
    ['prot', ['name', 'protocol', 'port'], ['port', 'protocol']],
    ['planer', ['coder', 'planner'], ['planner']],
    ['PLANNER', ['planner'], ['planner']],
    ['plan', ['planner', 'planet'], ['planet', 'planner']],
    ['planner-2', ['planner'], ['planner']],
    ['recieve', ['receive', 'relieve'], ['receive', 'relieve']],
    ['zzz', ['planner', 'coder'], []],
    ['x', [], []]
  ]
  for (const [wrong, known, expected] of cases) t.same(nearestNames(wrong, known), expected, wrong)
})

t.test('no more than asked for', async t => {
  const known = ['agent-1', 'agent-2', 'agent-3', 'agent-4']

  t.equal(nearestNames('agent-', known).length, 3)
  t.same(nearestNames('agent-3x', known, 1), ['agent-3'])
  t.same(nearestNames('', known), [], 'nothing is near to nothing')
})

t.test('a wrong name in a huge fleet is answered from a part of it', async t => {
  let asked = 0
  function * endless () {
    for (;;) yield `agent-${++asked}`
  }

  t.same(nearestNames('agent-1'.padEnd(5_000, 'x'), endless(), 1), [])
  t.ok(asked < 1_000)
})

t.test('a wrong name among many long ones looks at a bounded part of them', async t => {
  let seen = 0
  function * names () {
    for (let index = 0; index < 10_000; index++) {
      seen++
      yield `${'n'.repeat(60)}${index}`
    }
  }

  nearestNames('x'.repeat(64), names())

  t.ok(seen < 100, `${seen} names`)
})
