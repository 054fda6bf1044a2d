import t from 'tap'
import { createWaitingLine } from '../../src/fleet/waiting-line.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

t.test('who came first is offered a place first, and leaves the line with it', async t => {
  const line = createWaitingLine<string>(fakeClock())
  for (const name of ['a', 'b', 'c']) line.add(name, 1_000, () => t.fail(`${name} waited long enough`))
  let places = 2
  const placed: string[] = []

  line.serve(name => { placed.push(name); places--; return true }, () => places > 0)

  t.same(placed, ['a', 'b'])
  t.equal(line.size, 1)
})

t.test('who declines stays where it was, and the next is asked', async t => {
  const line = createWaitingLine<string>(fakeClock())
  for (const name of ['picky', 'b']) line.add(name, 1_000, () => {})
  const asked: string[] = []

  line.serve(name => { asked.push(name); return name !== 'picky' }, () => true)
  line.serve(name => { asked.push(name); return false }, () => true)

  t.same(asked, ['picky', 'b', 'picky'])
})

t.test('who waited too long is told once, and has left the line by then; who left is not told', async t => {
  const clock = fakeClock()
  const line = createWaitingLine<string>(clock)
  const told: string[] = []
  const add = (name: string, ms: number) => line.add(name, ms, () => told.push(`${name} ${line.size}`))
  add('a', 100)
  add('b', 200)
  add('c', 50)
  add('placed', 10)
  line.remove('c')
  line.serve(name => name === 'placed', () => true)

  clock.advance(99)
  t.same(told, [])
  clock.advance(1)
  t.same(told, ['a 1'])
  clock.advance(1_000)
  t.same(told, ['a 1', 'b 0'])
})

t.test('an offer may make others leave, or come', async t => {
  const line = createWaitingLine<string>(fakeClock())
  for (const name of ['a', 'b', 'c']) line.add(name, 1_000, () => {})
  const asked: string[] = []

  line.serve(name => {
    asked.push(name)
    line.remove('b')
    return true
  }, () => true)

  t.same(asked, ['a', 'c'])
  t.equal(line.size, 0)
})
