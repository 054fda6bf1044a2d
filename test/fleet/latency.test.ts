/** src/fleet/latency.ts: how long an instance takes of late. */
import t from 'tap'
import type { Attempt } from '../../src/fleet/attempt.ts'
import { recordLatency, trustIn, type LatencyRecord } from '../../src/fleet/latency.ts'
import { answer, attemptThat, now } from '../helpers/balancing.ts'

t.test('latency', async t => {
  const measuredNow = (ms: number): LatencyRecord => ({ ms, at: now })

  t.test('is what was measured first', async t => {
    const record: LatencyRecord = { ms: 0, at: 0 }
    t.equal(trustIn(record, now), 0)
    recordLatency(record, answer(200), 12, now)
    t.same(record, { ms: 12, at: now })
    t.equal(trustIn(record, now), 1)
  })

  t.test('rises at once and falls with time', async t => {
    const record = measuredNow(10)
    recordLatency(record, answer(200), 100, now)
    t.equal(record.ms, 100)

    recordLatency(record, answer(200), 10, now)
    t.equal(record.ms, 100, 'no time has passed')

    recordLatency(record, answer(200), 10, now + 10_000)
    t.ok(Math.abs(record.ms - (10 + 90 / Math.E)) < 0.001, String(record.ms))
  })

  t.test('is forgotten after half a minute without an answer', async t => {
    const record = measuredNow(1_000)
    t.ok(trustIn(record, now + 29_999) > 0)
    t.equal(trustIn(record, now + 30_000), 0)
    recordLatency(record, answer(200), 3, now + 30_000)
    t.equal(record.ms, 3)
  })

  t.test('survives a clock that is put back', async t => {
    t.equal(trustIn(measuredNow(1), now - 3_600_000), 1)
  })

  t.test('is never lowered by what is no good answer', async t => {
    const quick: Attempt[] = [
      ...(['refused', 'connect-timeout', 'reset', 'timeout', 'invalid', 'stale', 'aborted'] as const).map(outcome => attemptThat(outcome)),
      ...[429, 500, 501, 502, 503, 504, 505].map(answer)
    ]
    for (const attempt of quick) {
      const [slow, unknown] = [measuredNow(5_000), { ms: 0, at: 0 }]
      recordLatency(slow, attempt, 0.1, now + 5_000)
      recordLatency(unknown, attempt, 0.1, now)

      t.ok(slow.ms >= 5_000, `${attempt.outcome} ${attempt.status}: ${slow.ms}`)
      t.ok(unknown.at === 0 || unknown.ms >= 1_000, `${attempt.outcome} ${attempt.status} where nothing is known: ${unknown.ms}`)
    }
  })

  t.test('is raised by failures, and by whatever took long', async t => {
    const table: [Attempt, took: number, ms: number][] = [
      [attemptThat('refused'), 1, 1_000], [attemptThat('timeout'), 30_000, 30_000], [answer(503), 1, 1_000],
      [answer(500), 1, 10], [answer(500), 700, 700], [attemptThat('aborted'), 700, 700], [attemptThat('stale'), 700, 10], [answer(404), 700, 700]
    ]
    for (const [attempt, took, ms] of table) {
      const record = measuredNow(10)
      recordLatency(record, attempt, took, now)
      t.equal(record.ms, ms, `${attempt.outcome} ${attempt.status}`)
    }
  })

  t.test('is never nothing, so that requests in flight count', async t => {
    const record: LatencyRecord = { ms: 0, at: 0 }
    recordLatency(record, answer(200), 0, now)
    t.ok(record.ms > 0)
  })
})
