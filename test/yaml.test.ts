/** src/yaml.ts: values, places and the environment. */
import t from 'tap'
import { YamlError, parseYaml, positionOf, type Environment } from '../src/yaml.ts'

function lines (...text: string[]): string {
  return text.join('\n') + '\n'
}

function valueOf (text: string, env: Environment = {}): unknown {
  const { value, problems } = parseYaml(text, env)
  if (problems.length > 0) throw new Error(problems[0]!.message)
  return value
}

/** `line:column` of keys and values by path. */
function placesOf (text: string, env: Environment = {}): Record<string, string> {
  return Object.fromEntries([...parseYaml(text, env).positions].map(([path, { key, value }]) => {
    return [path, `${key === undefined ? '' : `${key.line}:${key.column} `}${value.line}:${value.column}`]
  }))
}

t.test('nothing is an empty mapping', async t => {
  for (const text of ['', '\n\n', '# a comment', '---\n', '---\n...\n', '~', '\uFEFF']) {
    t.same(valueOf(text), {}, JSON.stringify(text))
    t.ok(parseYaml(text).positions.has(''), JSON.stringify(text))
  }
})

t.test('every kind of value is read', async t => {
  const text = lines('s: text', 'q: "8501"', "a: 'it''s'", 'n: 8501', 'f: 1.5', 'b: true', 'z: null', 'l: [1, two]', 'm: {x: {y: 1}}', 'd: |', '  one', '  two', '1: numeric key')

  t.same(valueOf(text), { s: 'text', q: '8501', a: 'it\'s', n: 8501, f: 1.5, b: true, z: null, l: [1, 'two'], m: { x: { y: 1 } }, d: 'one\ntwo\n', 1: 'numeric key' })
})

t.test('every part has its place, counted from 1', async t => {
  const text = lines('# fleet', 'agents:', '  - name: a', '    port:   8501', '  - name: "b"', '    aliases: [x, \'y\']', '    empty:', 'last: |', '  text')

  t.same(placesOf(text), {
    '': '2:1',
    agents: '2:1 3:3',
    'agents[0]': '3:5',
    'agents[0].name': '3:5 3:11',
    'agents[0].port': '4:5 4:13',
    'agents[1]': '5:5',
    'agents[1].name': '5:5 5:11',
    'agents[1].aliases': '6:5 6:14',
    'agents[1].aliases[0]': '6:15',
    'agents[1].aliases[1]': '6:18',
    'agents[1].empty': '7:5 7:5',
    last: '8:1 9:3'
  })
})

t.test('places do not depend on how lines end, and a byte order mark takes no room', async t => {
  for (const end of ['\n', '\r\n', '\r']) t.same(placesOf(`a: 1${end}${end}b:${end}  c: 2${end}`), { '': '1:1', a: '1:1 1:4', b: '3:1 4:3', 'b.c': '4:3 4:6' }, JSON.stringify(end))
  t.same(placesOf('\uFEFFa: 1'), { '': '1:1', a: '1:1 1:4' })
})

t.test('an item without a value is placed at its dash', async t => {
  t.same(placesOf(lines('l:', '  # - no item', '  - ', '  - 1', '  -', 'x: 2'))['l[0]'], '3:3')
  t.same(placesOf(lines('l:', '  - ', '  - 1', '  -', 'x: 2'))['l[2]'], '4:3')
  t.same(placesOf(lines('l:', '  - - a', '    -', '  -'))['l[0][1]'], '3:5')
})

t.test('the place of what is missing is that of what it is missing in', async t => {
  const { positions } = parseYaml(lines('agents:', '  - host: h', '    timeouts: {connect: 1s}'))

  t.same(positionOf(positions, 'agents[0].port', 'key'), { line: 2, column: 5 })
  t.same(positionOf(positions, 'agents[0].timeouts.idle', 'key'), { line: 3, column: 15 })
  t.same(positionOf(positions, 'agents[0].timeouts', 'key'), { line: 3, column: 5 })
  t.same(positionOf(positions, 'agents[0].timeouts'), { line: 3, column: 15 })
  t.same(positionOf(positions, 'agents[0]', 'key'), { line: 2, column: 5 }, 'an item has no key')
  t.same(positionOf(positions, 'nowhere.at[3].all'), { line: 1, column: 1 })
  t.equal(positionOf(new Map(), 'a'), undefined)
})

t.test('aliases and merge keys bring in what they name, placed where that is written', async t => {
  const text = lines('base: &base {response: 5s, idle: 1m}', 'a: *base', 'b:', '  <<: *base', '  idle: 2m', 'c:', '  <<: [{x: 1}, *base]', '  x: 2', 'd: &d 7', 'e: [*d, *d]')

  t.match(valueOf(text), { a: { response: '5s', idle: '1m' }, b: { response: '5s', idle: '2m' }, c: { response: '5s', idle: '1m', x: 2 }, e: [7, 7] })
  t.notOk(Object.hasOwn((valueOf(text) as { b: object }).b, '<<'))
  const places = placesOf(text)
  t.equal(places['a'], '2:1 2:4')
  t.equal(places['a.idle'], '1:28 1:34')
  t.equal(places['b.idle'], '5:3 5:9')
  t.equal(places['b.response'], '1:14 1:24')
  t.equal(places['e[1]'], '10:9')
})

t.test('of several merged mappings the first wins', async t => {
  t.same(valueOf(lines('x: &x {a: 1}', 'y: &y {a: 2, b: 2}', 'z:', '  <<: [*x, *y]')), { x: { a: 1 }, y: { a: 2, b: 2 }, z: { a: 1, b: 2 } })
})

t.test('a quoted "<<" is an ordinary key', async t => {
  t.same(valueOf('"<<": {a: 1}'), { '<<': { a: 1 } })
})

t.test('a value that two aliases share is two values', async t => {
  const { x, y } = valueOf(lines('x: &x {a: 1}', 'y: *x')) as { x: object, y: object }

  t.not(x, y)
})

t.test('keys like __proto__ are ordinary keys and change no prototype', async t => {
  const value = valueOf(lines('__proto__: {polluted: true}', 'constructor: {prototype: {polluted: true}}', 'a: &a {__proto__: {polluted: 1}}', 'b:', '  <<: *a')) as Record<string, Record<string, unknown>>

  t.ok(Object.hasOwn(value, '__proto__'))
  t.ok(Object.hasOwn(value['b']!, '__proto__'))
  t.equal(value['polluted'], undefined)
  t.equal(Object.getPrototypeOf(value), Object.prototype)
  t.equal((({}) as Record<string, unknown>)['polluted'], undefined)
})

t.test('what is not one YAML document is refused with its place', async t => {
  const cases: [name: string, text: string, place: string, message: RegExp][] = [
    ['an open list', 'a: [1', '1:6', /unexpected end/],
    ['an open quote', 'b: 1\na: "x', '2:6', /unexpected end/],
    ['bad indentation', 'a: b: c', '1:5', /bad indentation/],
    ['a tab', 'a:\n\tb: 1', '2:1', /tabs can't indent/],
    ['a key twice', 'a: 1\nb: 2\na: 3', '3:1', /duplicate key a$/],
    ['a nested key twice', 'a:\n  - port: 1\n    port: 2', '3:5', /duplicate key port$/],
    ['a key twice in braces', '{a: 1, a: 2}', '1:8', /duplicate key a$/],
    ['a quoted key twice', '"a b": 1\n"a b": 2', '2:1', /duplicate key "a b"$/],
    ['__proto__ twice', '__proto__: 1\n__proto__: 2', '2:1', /duplicate key/],
    ['a mapping as key', '? {a: 1}\n: 2', '1:1', /complex keys/],
    ['a second document', 'a: 1\n---\nb: 2', '3:1', /a second document/],
    ['a second document without content', 'a: 1\n---\n', '3:1', /a second document/],
    ['an alias without anchor', 'a: *nobody', '1:5', /no anchor/],
    ['an unknown tag', 'a: !!js/function x', '1:4', /tag is not known/],
    ['an unknown tag of a mapping', 'a: !foo {b: 1}', '1:4', /tag is not known/],
    ['a tag that does not fit', 'a: !!int x', '1:4', /does not fit/],
    ['a merge of no mapping', 'a: 1\n<<: 2', '2:1', /merge/],
    ['a NUL', 'a: 1\nb: \0', '2:4', /null byte/],
    ['an alias of itself', 'a: &a [1, *a]', '1:11', /alias of what it stands in/],
    ['too deep', '['.repeat(200) + ']'.repeat(200), '1:100', /nesting/]
  ]
  for (const [name, text, place, message] of cases) {
    try {
      parseYaml(text)
      t.fail(name)
    } catch (error) {
      t.ok(error instanceof YamlError, `${name}: ${String(error)}`)
      const { line, column, message: got } = error as YamlError
      t.equal(`${line}:${column}`, place, `${name}: ${got}`)
      t.match(got, message, name)
      t.notMatch(got, '\n', 'one line')
    }
  }
})

t.test('a secret that begins with a sign of YAML does not get into the error', async t => {
  for (const text of ['secret: *s3cr3t-s3cr3t', 'secret: !s3cr3t-s3cr3t', 'secret: !s3cr3t!s3cr3t x', 'secret: &a *s3cr3t-s3cr3t']) {
    t.throws(() => parseYaml(text), YamlError, text)
    try { parseYaml(text) } catch (error) { t.notMatch((error as Error).message, /s3cr3t/, text) }
  }
})

t.test('aliases of aliases can not fill the memory', async t => {
  const names = 'abcdefghij'.split('')
  const text = lines('a: &a [x, x, x, x, x, x, x, x]', ...names.slice(1).map((name, index) => `${name}: &${name} [${Array(8).fill(`*${names[index]}`).join(', ')}]`))

  t.throws(() => parseYaml(text), { name: 'YamlError', message: /too much/ })
})

t.test('a chain of aliases can not exhaust the stack', async t => {
  const text = lines('a0: &a0 [1]', ...Array.from({ length: 500 }, (_, index) => `a${index + 1}: &a${index + 1} [*a${index}]`))

  t.throws(() => parseYaml(text), { name: 'YamlError', message: /too much/ })
})

t.test('a large fleet is not too much', async t => {
  const text = lines('base: &base {connect: 1s}', 'agents:', ...Array.from({ length: 6_000 }, (_, index) => `  - {name: agent-${index}, port: 8501, timeouts: {<<: *base, idle: 1m}}`))

  t.equal((valueOf(text) as { agents: unknown[] }).agents.length, 6_000)
})

const env: Environment = { PORT: '8501', NAME: 'planner', YES: 'true', EMPTY: '', EVIL: '1\nadmin: {x: [1]} # "\'', NULL: 'null', HASH: 'a # b', NESTED: '${PORT}', UNSET: undefined }

t.test('a reference to the environment is replaced, and a plain value read again', async t => {
  const cases: [text: string, value: unknown][] = [
    ['${PORT}', 8501],
    ['${PORT:-1}', 8501],
    ['${NOBODY:-8502}', 8502],
    ['${NOBODY:-}', null],
    ['${EMPTY:-8502}', 8502],
    ['${EMPTY}', null],
    ['${UNSET:-3}', 3],
    ['"${PORT}"', '8501'],
    ["'${PORT}'", '8501'],
    ['!!str ${PORT}', '8501'],
    ['|-\n  ${PORT}', '8501'],
    ['${YES}', true],
    ['"${YES}"', 'true'],
    ['${NULL}', null],
    ['${NAME}', 'planner'],
    ['http://${NAME}:${PORT}/x', 'http://planner:8501/x'],
    ['${NOBODY:-a:-b}', 'a:-b'],
    ['"${NOBODY:-a b}"', 'a b'],
    ['$${PORT}', '${PORT}'],
    ['"a $${b} ${PORT}"', 'a ${b} 8501'],
    ['$PORT', '$PORT'],
    ['a$b', 'a$b'],
    ['$$', '$$'],
    ['${NESTED}', '${PORT}'],
    ['${HASH}', 'a # b'],
    ['["${PORT}", x]', ['8501', 'x']]
  ]
  for (const [text, value] of cases) t.same(valueOf(`v: ${text}`, env), { v: value }, text)
})

t.test('what a variable holds is one value, whatever it looks like', async t => {
  t.same(valueOf('v: ${EVIL}\nw: "${EVIL}"', env), { v: env['EVIL'], w: env['EVIL'] })
})

t.test('keys are left alone', async t => {
  t.same(valueOf('${PORT}: 1', env), { '${PORT}': 1 })
})

t.test('a missing variable is a problem at its value, with its path, each one', async t => {
  const { problems, value } = parseYaml(lines('a: 1', 'b:', '  - ${NOBODY}', '  - "x ${NOBODY2} ${NOBODY3}"', 'c: ${PORT}'), env)

  t.same(problems, [
    { line: 3, column: 5, path: 'b[0]', message: 'the environment variable NOBODY is not set' },
    { line: 4, column: 5, path: 'b[1]', message: 'the environment variable NOBODY2 is not set' }
  ])
  t.same(value, { a: 1, b: ['${NOBODY}', 'x ${NOBODY2} ${NOBODY3}'], c: 8501 })
})

t.test('a value with a problem that is used twice is one problem', async t => {
  t.equal(parseYaml('a: &a ${NOBODY}\nb: *a').problems.length, 1)
})

t.test('what every object has is no variable', async t => {
  for (const name of ['constructor', '__proto__', 'toString']) t.match(parseYaml(`a: \${${name}}`).problems[0], { message: `the environment variable ${name} is not set` })
})

t.test('a reference that is not well formed is a problem, too', async t => {
  for (const text of ['${}', '${1A}', '${A', '${A-b}', '${A:b}', '${ A }', '"${A:-"']) t.match(parseYaml(`v: ${text}`, { A: 'x' }).problems[0], { path: 'v', message: /unfinished reference/ }, text)
})

t.test('a value that is no string any more is marked', async t => {
  const { positions } = parseYaml('a: ${PORT}\nb: "${PORT}"\nc: ${NAME}\nd: 8501', env)

  t.same([...positions].filter(([, { retyped }]) => retyped).map(([path]) => path), ['a'])
})

t.test('with keys that matter, references in others are not looked at', async t => {
  const { value, problems } = parseYaml('agents: ["${NAME}"]\nauth: {secret: "${NOBODY}"}\nport: ${PORT}', env, ['agents'])

  t.same(problems, [])
  t.same(value, { agents: ['planner'], auth: { secret: '${NOBODY}' }, port: '${PORT}' })
})
