/** Which headers an agent may be given, and what their values may be. */
import t from 'tap'
import { headerProblems, readHeaders } from '../src/agent-headers.ts'
import { parseConfig, type ConfigError } from '../src/config.ts'
import { parseYaml } from '../src/yaml.ts'
import { FieldNames, FieldRole } from '../plugins/proxy/field-names.ts'

const problems = (headers: Record<string, unknown>) => headerProblems(headers, 'h').map(({ path, message }) => `${path} ${message}`)

t.test('names are those of header fields, and not of the hop, the framing or the gateway', async t => {
  for (const name of ['Authorization', 'X-Api-Key', 'Cookie', 'x_api_key', 'a', '!#$%&\'*+-.^_`|~', 'Accept-Encoding', 'User-Agent', '1']) t.same(problems({ [name]: 'x' }), [], name)
  for (const name of ['', 'a b', 'a:', 'a\r\nb', 'é', 'a'.repeat(129), '(x)']) t.match(problems({ [name]: 'x' }), [/is no name of a header field$/], JSON.stringify(name))
  const reserved = [
    'Host', 'Content-Length', 'Transfer-Encoding', 'Connection', 'Keep-Alive', 'TE', 'Trailer', 'Upgrade', 'Expect', 'Proxy-Connection', 'Proxy-Authorization', 'HTTP2-Settings', 'Forwarded', 'X-Forwarded-For',
    'X-Forwarded-Anything', 'X-Real-IP', 'Via', 'X-Request-Id', 'traceparent', 'tracestate', 'X-Fleet-Token', 'Sec-WebSocket-Key', 'Sec-WebSocket-Protocol', 'transfer_encoding', 'X_Forwarded_For', 'host'
  ]
  for (const name of reserved) t.match(problems({ [name]: 'x' }), [/can not be set$/], name)
})

t.test('whatever the proxy removes or speaks for is among them', async t => {
  const names = new FieldNames()
  const allowed: ReadonlySet<FieldRole> = new Set([FieldRole.plain, FieldRole.authorization, FieldRole.location, FieldRole.vary, FieldRole.accessControl, FieldRole.contentType])
  const candidates = ['keep-alive', 'proxy-connection', 'proxy-authorization', 'proxy-authenticate', 'proxy-authentication-info', 'te', 'upgrade', 'http2-settings', 'expect', 'x-fleet-token', 'x-request-id', 'connection', 'host', 'content-length', 'forwarded', 'x-real-ip', 'traceparent', 'tracestate', 'trailer', 'transfer-encoding', 'sec-websocket-protocol', 'x-forwarded-host']
  for (const name of candidates) {
    t.notOk(allowed.has(names.of(name).role), name)
    t.equal(problems({ [name]: 'x' }).length, 1, name)
  }
})

t.test('the same field twice is an error, however it is spelt', async t => {
  t.same(problems({ 'X-Key': 'a', 'x-key': 'b', X_Key: 'c' }), ['h.x-key is the same field as X-Key', 'h.X_Key is the same field as x-key'])
  t.match(problems(Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`X-${index}`, 'x']))), [/must have at most 32 fields/])
})

t.test('values are one line of latin1, or name a file; none is repeated', async t => {
  for (const value of ['x', 'Bearer a.b-c', 'a\tb', '\u00e9\u00ff', '~', 'x'.repeat(8_192), { file: '/run/secrets/x' }]) t.same(problems({ 'X-Key': value }), [], JSON.stringify(value))
  const cases: [value: unknown, message: RegExp][] = [
    ['', /must not be empty/], ['s3cret\r\nX: y', /must be one line/], ['s3cret\n', /must be one line/], ['s3cret\0', /must be one line/], ['s3cret\u0085', /must be one line/], ['s3cret\u007f', /must be one line/], ['s3cret\u0100', /latin1/], ['s3cret😀', /latin1/],
    [' s3cret', /must not begin or end with a space/], ['s3cret\t', /must not begin or end/], [`s3cret${'x'.repeat(8_192)}`, /at most 8192/],
    [12, /must be a text, in quotes/], [true, /must be a text/], [null, /must be a text/], [['s3cret'], /must be a text/], [{}, /h\.X-Key\.file must name a file/], [{ file: '' }, /must name a file/], [{ file: 3 }, /must name a file/], [{ file: 'x', fiel: 's3cret' }, /h\.X-Key must be a text or \{file: PATH\}, and has another key/]
  ]
  for (const [value, message] of cases) {
    const found = problems({ 'X-Key': value })
    t.match(found, [message], JSON.stringify(value))
    t.equal(found.length, 1, JSON.stringify(value))
    t.notMatch(found.join(), 's3cret')
  }
})

t.test('in fleet.yaml each error has its place, and entries of one agent say the same', async t => {
  const errorsOf = (text: string, env = {}) => {
    const { value, positions } = parseYaml(text, env)
    try {
      parseConfig(value, { file: 'fleet.yaml', positions })
      return []
    } catch (error) {
      return (error as ConfigError).problems.map(({ line, column, path, message }) => `${line}:${column} ${path} ${message}`)
    }
  }

  t.same(errorsOf('agents:\n  - name: a\n    port: 1\n    headers:\n      Host: x\n      X-Key: ${KEY}\n      1: {file: f}\n', { KEY: '12' }), [
    '5:7 agents[0].headers.Host belongs to the connection or is the gateway\'s to say, and can not be set',
    '6:14 agents[0].headers.X-Key must be a text, in quotes where it looks like a number, or {file: PATH}; a variable that is meant as a string needs quotes around it'
  ])
  t.same(errorsOf('agents:\n  - {name: a, port: 1, headers: s3cret}\n'), ['2:33 agents[0].headers must be object'])
  t.same(errorsOf('agents:\n  - {name: a, port: 1, headers: {A: x}}\n  - {name: a, port: 2, headers: {A: x}}\n  - {name: a, port: 3}\n'), [])
  t.match(errorsOf('agents:\n  - {name: a, port: 1, headers: {A: x}}\n  - {name: a, port: 2, headers: {A: y}}\n'), [/^3:\d+ agents\[1\]\.headers differs from what agents\[0\] says/])
})

t.test('files are read, and all that can\'t be are told at once', async t => {
  const files: Record<string, string> = { good: 'from-a-file\r\n', empty: '\n', spaced: ' x ' }
  const readFile = (path: string) => files[path] ?? (() => { throw Object.assign(new Error('x'), { code: 'ENOENT' }) })()

  t.same(readHeaders({ A: 'written', B: { file: 'good' } }, 'h', readFile), { fields: ['A', 'written', 'B', 'from-a-file'], errors: [] })
  t.same(readHeaders({ A: { file: 'none' }, B: { file: 'empty' }, 3: { file: 'spaced' } }, 'h', readFile).errors.map(({ path, message }) => `${path} ${message}`).sort(), [
    'h.A.file can not be read: ENOENT', 'h.B.file names an empty file', 'h[3].file holds what can not be sent: it must not begin or end with a space (spaced)'
  ])
})
