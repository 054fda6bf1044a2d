/** Options said once: every error at once, in words, at its path; defaults, durations and sizes resolved. */
import t from 'tap'
import {
  Duration, DurationOrSeconds, Options, OptionsError, Size, Type,
  checkOptions, durationMs, formatMs, formatPath, parseOptions, sizeBytes
} from '../src/options.ts'
import { Settings } from '../src/typebox.ts'

const description = 'for tests'

const Sample = Options({
  port: Type.Integer({ default: 9001, minimum: 0, maximum: 65_535 }),
  name: Type.Optional(Type.String({ pattern: '^[a-z]+$', errorMessage: 'must be small letters' })),
  protocol: Type.Optional(Type.Union([Type.Literal('http'), Type.Literal('https')], { errorMessage: 'must be "http" or "https"' })),
  token: Type.Optional(Type.String({ minLength: 8, writeOnly: true })),
  wait: Duration({ default: '3s', minimumMs: 10, maximumMs: 60_000, description }),
  ttl: Type.Optional(DurationOrSeconds({ minimumMs: 1_000, description })),
  limit: Size({ default: '64KiB', maximum: 1024 * 1024, description }),
  inner: Options({ depth: Type.Integer({ default: 1 }), delay: Duration({ default: 0 as unknown as string, description }) }, description),
  keys: Type.Array(Type.Object({ id: Type.String(), secret: Type.String({ writeOnly: true }) }, { additionalProperties: false }), { default: [] }),
  extra: Type.Optional(Type.Record(Type.String(), Type.Unknown()))
}, description)

const complete = { port: 9001, wait: 3_000, limit: 65_536, inner: { depth: 1, delay: 0 }, keys: [] }

/** The errors, as `path message`. */
function errorsOf (value: unknown, form?: { file?: boolean }): string[] {
  return checkOptions(Sample, value, form).map(({ path, message }) => `${path} ${message}`.trim())
}

t.test('nothing at all is all the defaults', async t => {
  for (const nothing of [undefined, null, {}]) t.same(parseOptions(Sample, nothing, 'sample'), complete)
})

t.test('what is given stands, and the rest of a nested object has its defaults', async t => {
  const options = parseOptions(Sample, { port: 0, wait: '500ms', ttl: 2.5, limit: 10, inner: { depth: 7 }, keys: [{ id: 'a', secret: 'b' }], extra: { any: ['thing'] } }, 'sample')

  t.same(options, { port: 0, wait: 500, ttl: 2_500, limit: 10, inner: { depth: 7, delay: 0 }, keys: [{ id: 'a', secret: 'b' }], extra: { any: ['thing'] } })
})

t.test('the result is frozen to the bottom and apart from what was given', async t => {
  const given = { inner: { depth: 7 }, keys: [{ id: 'a', secret: 'b' }] }

  const options = parseOptions(Sample, given, 'sample')

  for (const part of [options, options.inner, options.keys, options.keys[0]]) t.ok(Object.isFrozen(part))
  t.same(given, { inner: { depth: 7 }, keys: [{ id: 'a', secret: 'b' }] })
  t.notOk(Object.isFrozen(given.inner))
  t.same(parseOptions(Sample, {}, 'sample').inner, { depth: 1, delay: 0 }, 'nor do defaults remember')
})

t.test('what is resolved can be parsed again', async t => {
  const once = parseOptions(Sample, { wait: '1m', limit: '1MiB', ttl: '5s' }, 'sample')
  const { ttl, ...others } = once // bare, a ttl is seconds

  t.same(parseOptions(Sample, others, 'sample'), others)
  t.equal(ttl, 5_000)
})

t.test('a field that is set to undefined counts as left out', async t => {
  t.same(parseOptions(Sample, { port: undefined, name: undefined, inner: { depth: undefined } }, 'sample'), complete)
})

t.test("Fastify's own options are set aside when a plugin parses, and are unknown in a file", async t => {
  t.same(parseOptions(Sample, { prefix: '/x', logLevel: 'warn', logSerializers: {} }, 'sample'), complete)
  t.same(errorsOf({ prefix: '/x' }), ['prefix unknown key'])
})

t.test('a wrong value is named with its path, the rule and what was given', async t => {
  const cases: [unknown, string[]][] = [
    [{ port: 70_000 }, ['port must be <= 65535 (got 70000)']],
    [{ port: '80' }, ['port must be integer (got "80")']],
    [{ port: 1.5 }, ['port must be integer (got 1.5)']],
    [{ port: null }, ['port must be integer']],
    [{ name: 'A1' }, ['name must be small letters (got "A1")']],
    [{ name: 'X'.repeat(500) }, [`name must be small letters (got "${'X'.repeat(99)}…)`]],
    [{ protocol: 'ftp' }, ['protocol must be "http" or "https" (got "ftp")']],
    [{ wait: 'soon' }, ['wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got "soon")']],
    [{ wait: '1ms' }, ['wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got "1ms")']],
    [{ wait: '2m' }, ['wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got "2m")']],
    [{ wait: true }, ['wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got true)']],
    [{ wait: 1.5 }, ['wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got 1.5)']],
    [{ ttl: 0.5 }, ['ttl must be a duration such as "500ms", "30s" or "5m", at least 1s, or a number of seconds (got 0.5)']],
    [{ ttl: '999ms' }, ['ttl must be a duration such as "500ms", "30s" or "5m", at least 1s, or a number of seconds (got "999ms")']],
    [{ limit: '2MiB' }, ['limit must be a size such as "64KiB", "10MiB" or a number of bytes, at most 1048576 (got "2MiB")']],
    [{ limit: 'much' }, ['limit must be a size such as "64KiB", "10MiB" or a number of bytes, at most 1048576 (got "much")']],
    [{ limit: -1 }, ['limit must be a size such as "64KiB", "10MiB" or a number of bytes, at most 1048576 (got -1)']],
    [{ inner: 5 }, ['inner must be object (got 5)']],
    [{ inner: null }, ['inner must be object']],
    [{ inner: { depth: [] } }, ['inner.depth must be integer']],
    [{ keys: {} }, ['keys must be array']],
    [{ keys: [{ id: 'a' }] }, ['keys[0].secret is required']],
    [{ port: () => 1 }, ['port must be integer (got function)']],
    [[], ['must be object']],
    ['text', ['must be object']],
    [7, ['must be object']]
  ]
  for (const [value, expected] of cases) {
    t.same(errorsOf(value), expected)
    t.throws(() => parseOptions(Sample, value, ''), { message: expected.join('\n') })
  }
})

t.test('an unknown key is named with the nearest known one', async t => {
  t.same(errorsOf({ prot: 1 }), ['prot unknown key, did you mean "port"?'])
  t.same(errorsOf({ inner: { dept: 1 } }), ['inner.dept unknown key, did you mean "depth"?'])
  t.same(errorsOf({ keys: [{ id: 'a', secret: 'b', secrets: 'c' }] }), ['keys[0].secrets unknown key, did you mean "secret"?'])
  t.same(errorsOf({ somethingElseEntirely: 1 }), ['somethingElseEntirely unknown key'])
  t.same(errorsOf({ '': 1, 'a/b~c': 2 }), ['"" unknown key', 'a/b~c unknown key'])
  t.same(errorsOf({ onEvent: () => {} }), ['onEvent unknown key'], 'also one that holds what is no data')
})

t.test('every error is told at once, and whether its place is the key or the value', async t => {
  const value = { prot: 1, port: 'x', inner: { depth: 'y', dept: 2 }, keys: [{ secret: 'a' }, 5] }

  t.same(checkOptions(Sample, value).map(({ path, at }) => [path, at]).sort(), [
    ['inner.dept', 'key'],
    ['inner.depth', 'value'],
    ['keys[0].id', 'key'],
    ['keys[1]', 'value'],
    ['port', 'value'],
    ['prot', 'key']
  ])
})

t.test('hundreds of errors are all told', async t => {
  const keys = Array.from({ length: 300 }, () => ({ id: 5, secret: 'a' }))

  t.equal(checkOptions(Sample, { keys }).length, 300)
})

t.test('a secret is never shown, nor what stands where one was meant to be', async t => {
  const cases = [
    { token: 'hunter2' },
    { token: 12_345 },
    { keys: 'hunter2' },
    { keys: ['hunter2'] },
    { keys: [{ id: 'a', secret: 12_345 }] },
    'hunter2'
  ]
  for (const value of cases) {
    const [error, ...others] = errorsOf(value)
    t.same(others, [])
    t.notMatch(error, /hunter2|12345/)
    t.match(error, /must/)
  }
})

t.test('keys that JavaScript objects have by themselves are unknown keys like others', async t => {
  t.same(errorsOf(JSON.parse('{"constructor": 1, "toString": 2, "hasOwnProperty": 3}')), ['constructor unknown key', 'toString unknown key', 'hasOwnProperty unknown key'])
})

t.test('a mapping with any keys keeps them all', async t => {
  const Mapping = Options({ metadata: Type.Record(Type.String(), Type.Unknown()) }, description)
  const metadata = { constructor: 1, prototype: { constructor: 2 }, 'a\nb': [{ prototype: 3 }], '\u2028': 4 }

  t.strictSame(parseOptions(Mapping, { metadata }, ''), { metadata })
})

t.test('what is checked is what is taken', async t => {
  let read = 0
  const options = { get wait () { return read++ === 0 ? '1s' : 'never' } }

  t.equal(parseOptions(Sample, options, '').wait, 1_000)
})

t.test('__proto__ is refused wherever it is, and changes no prototype', async t => {
  const cases: [string, string][] = [
    ['__proto__', '{"__proto__": {"polluted": 1}}'],
    ['extra.__proto__', '{"extra": {"__proto__": {"polluted": 1}}}'],
    ['extra.deep[0].__proto__', '{"extra": {"deep": [{"__proto__": {"polluted": 1}}]}}']
  ]
  for (const [path, json] of cases) {
    const value: unknown = JSON.parse(json)

    t.same(errorsOf(value), [`${path} this key is not allowed`])
    t.throws(() => parseOptions(Sample, value, 'sample'), OptionsError)
    t.equal(({} as { polluted?: number }).polluted, undefined)
  }
})

t.test('in a file a duration needs its unit', async t => {
  const bare = { wait: 500, inner: { delay: 7 } }

  t.same(errorsOf(bare), [])
  t.same(errorsOf(bare, { file: true }), [
    'wait must be a duration such as "500ms", "30s" or "5m", at least 10ms, at most 1m (got 500)',
    'inner.delay must be a duration such as "500ms", "30s" or "5m" (got 7)'
  ])
  t.same(errorsOf({ inner: { delay: 0 }, ttl: 5, limit: 100 }, { file: true }), [], 'but for 0; and bare seconds and bytes are what they are')
  t.same(parseOptions(Sample, bare, '').wait, 500)
})

t.test('in a file durations in lists need their unit, too', async t => {
  const List = Options({ paths: Type.Array(Type.Object({ wait: Type.Optional(Duration({ description })) })) }, description)

  t.same(checkOptions(List, { paths: [{ wait: '1s' }, { wait: 5 }, {}] }, { file: true }).map(({ path }) => path), ['paths[1].wait'])
})

t.test('an OptionsError says what the options belong to', async t => {
  try {
    parseOptions(Sample, { port: -1, keys: [{ id: 'a' }] }, 'sample')
    t.fail('it was accepted')
  } catch (error) {
    t.ok(error instanceof OptionsError)
    t.match(error, {
      name: 'OptionsError',
      message: 'sample.port must be >= 0 (got -1)\nsample.keys[0].secret is required',
      errors: [{ path: 'port', at: 'value' }, { path: 'keys[0].secret', at: 'key' }]
    })
  }
  t.throws(() => parseOptions(Sample, [], 'sample'), { message: 'sample must be object' })
  t.throws(() => parseOptions(Type.Array(Type.Integer()), ['x'], 'ports'), { message: 'ports[0] must be integer (got "x")' })
})

t.test('durations', async t => {
  const cases: [string, number][] = [
    ['0ms', 0], ['500ms', 500], ['1.5s', 1_500], ['30s', 30_000], ['5m', 300_000], ['2h', 7_200_000], ['1d', 86_400_000],
    ['', NaN], ['5', NaN], ['s', NaN], ['-5s', NaN], ['5 s', NaN], ['5S', NaN], ['5s ', NaN], ['1e3s', NaN], ['1.s', NaN], ['5ss', NaN]
  ]
  for (const [text, ms] of cases) t.ok(Object.is(durationMs(text), ms), `"${text}"`)
})

t.test('milliseconds are written as the shortest exact duration', async t => {
  const cases: [number, string][] = [[0, '0ms'], [1, '1ms'], [1_500, '1500ms'], [1_000, '1s'], [90_000, '90s'], [300_000, '5m'], [7_200_000, '2h'], [172_800_000, '2d']]
  for (const [ms, text] of cases) {
    t.equal(formatMs(ms), text)
    t.equal(durationMs(text), ms, 'and read back')
  }
})

t.test('sizes', async t => {
  const cases: [string | number, number][] = [
    [0, 0], [512, 512], ['10B', 10], ['64KiB', 65_536], ['1.5 MiB', 1_572_864], ['1GiB', 1_073_741_824], ['5KB', 5_000], ['2MB', 2_000_000], ['1GB', 1_000_000_000],
    [1.5, NaN], [Infinity, NaN], ['', NaN], ['64', NaN], ['64kib', NaN], ['-1B', NaN], ['64  KiB', NaN], ['1TiB', NaN]
  ]
  for (const [text, bytes] of cases) t.ok(Object.is(sizeBytes(text), bytes), `"${text}"`)
})

t.test('paths', async t => {
  t.equal(formatPath([]), '')
  t.equal(formatPath(['agents', 1, 'port']), 'agents[1].port')
  t.equal(formatPath(['agents', '1', 'instances', '0', 'host']), 'agents[1].instances[0].host')
  t.equal(formatPath([0, 'port']), '[0].port')
  t.equal(formatPath(['metadata', '']), 'metadata.""')
})

t.test('what is nested without end is refused instead of overflowing the stack', async t => {
  const schema = Type.Object({ metadata: Type.Record(Type.String(), Type.Unknown()) }, { additionalProperties: false })
  const nested = JSON.parse(`{"metadata":{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}}`) as object

  t.match(checkOptions(schema, nested), [{ path: /^metadata\.a/, message: /nested deeper than 64 levels/ }])
  t.same(checkOptions(schema, JSON.parse(`{"metadata":{"a":${'['.repeat(50)}${']'.repeat(50)}}}`)), [])
})

t.test('TypeBox keeps the settings that the application around it chose', async t => {
  const before = Settings.Get().maxErrors

  checkOptions(Type.Object({ a: Type.String() }), {})

  t.equal(Settings.Get().maxErrors, before)
})
