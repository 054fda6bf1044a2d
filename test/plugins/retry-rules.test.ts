import t from 'tap'
import { RetryBudget } from '../../src/fleet/retry-budget.ts'
import { RetryRules } from '../../plugins/proxy/retry-rules.ts'

const policy = { retryAttempts: 1, isRetryStatus: (status: number) => status === 503 }

function spentBudget (): RetryBudget {
  const budget = new RetryBudget()
  const now = Date.now()
  for (let second = -1; second <= 60; second++) while (budget.take(now + second * 1_000));
  return budget
}

t.test('one retry in all, whatever it is for', async t => {
  const ways: [string, (rules: RetryRules) => boolean][] = [['a reset', rules => rules.afterReset(true)], ['a 503', rules => rules.afterAnswer(503, true)]]
  for (const [first, one] of ways) {
    for (const [second, other] of ways) {
      const rules = new RetryRules(policy, new RetryBudget())

      t.equal(one(rules), true, first)
      t.equal(other(rules), false, `${first}, then ${second}`)
    }
  }
})

t.test('what can not be repeated, is not worth it, or is switched off, is not', async t => {
  const fresh = (retryAttempts = 1) => new RetryRules({ ...policy, retryAttempts }, new RetryBudget())

  t.equal(fresh().afterReset(false), false)
  t.equal(fresh().afterAnswer(503, false), false)
  t.equal(fresh().afterAnswer(500, true), false)
  t.equal(fresh(0).afterReset(true), false)
  t.equal(fresh(0).afterAnswer(503, true), false)
})

t.test('the budget bounds answers and connects that take their time, and neither resets nor refusals', async t => {
  const budget = spentBudget()
  const rules = () => new RetryRules(policy, budget)

  t.equal(rules().afterAnswer(503, true), false)
  t.equal(rules().afterNoConnection('connect-timeout'), false)
  t.equal(rules().afterNoConnection('refused'), true)
  t.equal(rules().afterReset(true), true)
})

t.test('a connection that could not be opened costs no retry', async t => {
  const rules = new RetryRules(policy, new RetryBudget())

  for (let instance = 0; instance < 5; instance++) t.equal(rules.afterNoConnection('refused'), true)

  t.equal(rules.afterNoConnection('aborted'), false)
  t.equal(rules.afterReset(true), true)
})
