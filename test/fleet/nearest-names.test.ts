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
})

t.test('a wrong name in a huge fleet is answered from a part of it', async t => {
  let asked = 0
  function * endless () {
    for (;;) yield `agent-${++asked}`
  }

  t.same(nearestNames('agent-1'.padEnd(5_000, 'x'), endless(), 1), [])
  t.ok(asked < 1_000)
})
