import t from 'tap'
import { RetryBudget } from '../../src/fleet/retry-budget.ts'

const start = 1_700_000_000_000

function taken (budget: RetryBudget, times: number, now: number): number {
  let count = 0
  for (let index = 0; index < times; index++) if (budget.take(now)) count++
  return count
}

t.test('ten retries a second are always allowed', async t => {
  const budget = new RetryBudget()

  t.equal(taken(budget, 50, start), 10)
  t.equal(taken(budget, 50, start + 1_000), 10)
})

t.test('beyond that a fifth of the last ten seconds\' requests is', async t => {
  const budget = new RetryBudget()
  for (let index = 0; index < 1_000; index++) budget.request(start)

  t.equal(taken(budget, 1_000, start), 200)
  t.equal(taken(budget, 1_000, start + 5_000), 10, 'only the ten of a new second')
})

t.test('what is more than ten seconds ago is forgotten', async t => {
  const budget = new RetryBudget()
  for (let index = 0; index < 1_000; index++) budget.request(start)

  t.equal(taken(budget, 1_000, start + 10_000), 10)
  t.equal(taken(budget, 1_000, start + 60_000), 10)
})

t.test('a clock that goes back does no harm', async t => {
  const budget = new RetryBudget()
  budget.request(start)

  t.equal(taken(budget, 20, start - 5_000), 10)
})
