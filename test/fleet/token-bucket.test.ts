import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import t from 'tap'
import { TokenBucket, TokenBuckets, type BucketLimits } from '../../src/fleet/token-bucket.ts'

const limits = fc.record({ burst: fc.integer({ min: 1, max: 1_000_000 }), perMinute: fc.integer({ min: 1, max: 60_000_000 }) })
const smallLimits = fc.record({ burst: fc.integer({ min: 2, max: 50 }), perMinute: fc.integer({ min: 1, max: 100_000 }) })
const pauses = fc.array(fc.integer({ min: 0, max: 120_000 }), { maxLength: 60 })
const start = 1_700_000_000_000

t.test('a new bucket is full: burst tokens at once, then none', async t => {
  const bucket = new TokenBucket({ burst: 3, perMinute: 60 }, start)

  const takes = [1, 2, 3, 4].map(() => bucket.take(start))

  t.same(takes, [
    { allowed: true, tokens: 2, msToFull: 1_000, msToNext: 0 },
    { allowed: true, tokens: 1, msToFull: 2_000, msToNext: 0 },
    { allowed: true, tokens: 0, msToFull: 3_000, msToNext: 1_000 },
    { allowed: false, tokens: 0, msToFull: 3_000, msToNext: 1_000 }
  ])
})

t.test('a token comes back to the millisecond, and not before', async t => {
  const bucket = new TokenBucket({ burst: 1, perMinute: 7 }, start) // a token in 8 571.43 ms
  bucket.take(start)

  t.equal(bucket.take(start + 8_571).allowed, false)
  t.equal(bucket.take(start + 8_571).msToNext, 1)
  t.equal(bucket.take(start + 8_572).allowed, true)
})

t.test('waiting msToNext is exactly enough, and a millisecond less is not', async t => {
  fc.assert(fc.property(limits, pauses, (limit, waits) => {
    const bucket = new TokenBucket({ ...limit, burst: Math.min(limit.burst, 50) }, start)
    let now = start
    for (const wait of waits) {
      now += wait
      let take = bucket.take(now)
      while (take.allowed) take = bucket.take(now)
      if (take.msToNext > 1 && bucket.take(now + take.msToNext - 1).allowed) return false
      now += take.msToNext
      if (!bucket.take(now).allowed) return false
    }
    return true
  }))
})

t.test('waiting msToFull fills it', async t => {
  fc.assert(fc.property(limits, fc.integer({ min: 1, max: 40 }), (limit, taken) => {
    const bucket = new TokenBucket(limit, start)
    let msToFull = 0
    for (let count = 0; count < taken; count++) ({ msToFull } = bucket.take(start))
    return !bucket.isFull(start) && !bucket.isFull(start + msToFull - 1) && bucket.isFull(start + msToFull)
  }))
})

t.test('over any stretch of time no more than burst + refill are allowed, and no fewer when asked without end', async t => {
  fc.assert(fc.property(smallLimits, pauses, (limit, waits) => {
    const bucket = new TokenBucket(limit, start)
    let now = start
    let allowed = 0
    for (const wait of [0, ...waits]) {
      now += Math.min(wait, Math.floor(60_000 / limit.perMinute)) // what is left of a token, and one more, fit in
      while (bucket.take(now).allowed) allowed++
    }
    return allowed === limit.burst + Math.floor((now - start) * limit.perMinute / 60_000)
  }))
})

t.test('tokens stay between none and burst, whatever the clock does', async t => {
  const jumps = fc.array(fc.integer({ min: -10_000_000_000, max: 10_000_000_000 }), { maxLength: 50 })
  fc.assert(fc.property(smallLimits, jumps, (limit, steps) => {
    const bucket = new TokenBucket(limit, start)
    let now = start
    return steps.every(step => {
      now += step
      const { tokens, msToFull, msToNext, allowed } = bucket.take(now)
      return tokens >= 0 && tokens <= limit.burst - (allowed ? 1 : 0) && msToFull >= 0 && msToNext >= 0 && Number.isSafeInteger(tokens)
    })
  }))
})

t.test('a clock that is set back gives nothing and starves nobody', async t => {
  const bucket = new TokenBucket({ burst: 2, perMinute: 60 }, start)
  bucket.take(start)
  bucket.take(start)

  t.equal(bucket.take(start - 3_600_000).allowed, false)
  t.equal(bucket.take(start - 3_600_000 + 1_000).allowed, true)
})

t.test('fractions of a millisecond are left out', async t => {
  const bucket = new TokenBucket({ burst: 1, perMinute: 60_000 }, 0.9)
  bucket.take(0.95)

  t.equal(bucket.take(0.99).allowed, false)
  t.equal(bucket.take(1.01).allowed, true)
})

t.test('new limits keep the bucket as full as it was', async t => {
  const cases: { before: BucketLimits, taken: number, after: BucketLimits, left: number }[] = [
    { before: { burst: 100, perMinute: 600 }, taken: 0, after: { burst: 200, perMinute: 600 }, left: 199 },
    { before: { burst: 100, perMinute: 600 }, taken: 50, after: { burst: 10, perMinute: 600 }, left: 4 },
    { before: { burst: 10, perMinute: 600 }, taken: 10, after: { burst: 1_000, perMinute: 600 }, left: 0 },
    { before: { burst: 10, perMinute: 600 }, taken: 4, after: { burst: 10, perMinute: 1 }, left: 5 }
  ]
  for (const { before, taken, after, left } of cases) {
    const bucket = new TokenBucket(before, start)
    for (let count = 0; count < taken; count++) bucket.take(start)

    bucket.resize(after, start)

    t.equal(bucket.take(start).tokens, left, JSON.stringify({ before, taken, after }))
  }
})

t.test('what came back before new limits came at the old rate', async t => {
  const bucket = new TokenBucket({ burst: 10, perMinute: 60 }, start)
  for (let count = 0; count < 10; count++) bucket.take(start)

  bucket.resize({ burst: 10, perMinute: 60_000 }, start + 5_000)

  t.equal(bucket.take(start + 5_000).tokens, 4)
})

t.test('each key has a bucket of its own', async t => {
  const buckets = new TokenBuckets()
  const one = { burst: 1, perMinute: 1 }

  t.equal(buckets.take('a', one, start).allowed, true)
  t.equal(buckets.take('a', one, start).allowed, false)
  t.equal(buckets.take('b', one, start).allowed, true)
  t.equal(buckets.take('__proto__', one, start).allowed, true)
  t.equal(buckets.take('__proto__', one, start).allowed, false)
  t.equal(buckets.size, 3)
})

t.test('a known key takes new limits at once', async t => {
  const buckets = new TokenBuckets()
  const quick = { burst: 2, perMinute: 60_000 }
  buckets.take('a', { burst: 1, perMinute: 1 }, start)

  t.equal(buckets.take('a', quick, start + 1).allowed, false, 'until now it filled slowly')
  t.equal(buckets.take('a', quick, start + 2).allowed, true)
})

t.test('to make room a full bucket goes first, though others were used less recently', async t => {
  const buckets = new TokenBuckets(3)
  buckets.take('slow', { burst: 1, perMinute: 1 }, start)
  buckets.take('quick', { burst: 1, perMinute: 60_000 }, start)
  buckets.take('slow too', { burst: 1, perMinute: 1 }, start)

  buckets.take('new', { burst: 1, perMinute: 1 }, start + 1) // by now `quick` is full again

  t.equal(buckets.size, 3)
  t.equal(buckets.take('slow', { burst: 1, perMinute: 1 }, start + 1).allowed, false)
  t.equal(buckets.take('slow too', { burst: 1, perMinute: 1 }, start + 1).allowed, false)
})

t.test('when none is full the least recently used goes', async t => {
  const buckets = new TokenBuckets(2)
  const slow = { burst: 1, perMinute: 1 }
  buckets.take('a', slow, start)
  buckets.take('b', slow, start)
  buckets.take('a', slow, start) // refused, and used all the same

  buckets.take('c', slow, start)

  t.equal(buckets.take('a', slow, start).allowed, false, 'a was kept')
  t.equal(buckets.take('b', slow, start).allowed, true, 'b was dropped, and begins again')
})

t.test('the bounded store does what a plain list would: no more than allowed, full ones dropped first, then the least recently used', async t => {
  const limit = (key: number) => ({ burst: 1 + key % 3, perMinute: 600 * (1 + key % 2) })
  const uses = fc.array(fc.record({ key: fc.integer({ min: 0, max: 40 }), wait: fc.constantFrom(0, 0, 0, 0, 1, 20, 120) }), { maxLength: 300, size: 'max' })
  fc.assert(fc.property(fc.integer({ min: 1, max: 16 }), uses, (most, steps) => {
    const buckets = new TokenBuckets(most)
    let model: { key: number, bucket: TokenBucket }[] = [] // the least recently used first
    let now = start
    for (const { key, wait } of steps) {
      now += wait
      const known = model.find(entry => entry.key === key)
      if (known === undefined && model.length >= most) {
        const owing = model.filter(({ bucket }) => !bucket.isFull(now)) // so few that all are looked at
        model = owing.length < model.length ? owing : model.slice(1)
      }
      const entry = known ?? { key, bucket: new TokenBucket(limit(key), now) }
      model = [...model.filter(other => other !== entry), entry]
      const expected = entry.bucket.take(now)

      const take = buckets.take(String(key), limit(key), now)

      if (JSON.stringify(take) !== JSON.stringify(expected) || buckets.size !== model.length) return false
    }
    return true
  }), { numRuns: 200 })
})

t.test('making room goes on where it stood, wherever that was and whoever was dropped', async t => {
  const slow = { burst: 1, perMinute: 1 }
  for (let most = 17; most <= 40; most++) {
    for (let evictions = 0; evictions <= 40; evictions++) {
      const buckets = new TokenBuckets(most)
      for (let index = 0; index < most + evictions; index++) buckets.take(`before ${index}`, slow, start)

      buckets.take('after', slow, start + 60_000) // all are full by now, and sixteen of them are looked at

      if (buckets.size !== most - 16 + 1) t.fail(`${buckets.size} of ${most} after ${evictions} evictions`)
    }
  }
  t.pass()
})

t.test('a flood of addresses is bounded, however many come', async t => {
  const buckets = new TokenBuckets(50_000)

  for (let index = 0; index < 300_000; index++) buckets.take(`ip:${index}`, { burst: 10, perMinute: 1 }, start)

  t.equal(buckets.size, 50_000)
})

t.test('a client that stays costs no memory', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const buckets = new TokenBuckets()
  const use = (times: number) => {
    for (let count = 0; count < times; count++) for (const key of ['a', 'b', 'c']) buckets.take(key, { burst: 5, perMinute: 60_000 }, start + count)
    collect()
    return process.memoryUsage().heapUsed
  }
  use(10_000)

  const before = use(10_000)
  const after = use(300_000)

  t.ok(after - before < 2_000_000, `${after - before} bytes more`)
})
