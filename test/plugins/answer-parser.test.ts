/**
 * What our own client takes for an answer (RFC 9112 §4 to §7), and what it refuses; that how an answer is cut into reads changes nothing; and,
 * answer by answer, that whatever it takes for whole is what llhttp reads as well.
 */
import t, { type Test } from 'tap'
import fc from 'fast-check'
import { request } from 'node:http'
import { Duplex } from 'node:stream'
import { AnswerParser, InvalidAnswerError } from '../../plugins/proxy/answer-parser.ts'
import { seeded, type Seeded } from '../helpers/seeded.ts'

/** What the parser found in the bytes up to the answer's end. */
interface Found {
  readonly interims: readonly string[]
  readonly status: number
  readonly reason: string
  readonly fields: readonly string[]
  readonly body: string
  readonly trailers: readonly string[]
  readonly whole: boolean
  readonly persistent: boolean
  readonly keepAliveS: number | null
}

interface Reading { method?: string, ended?: boolean, parser?: AnswerParser }

/** Reads the pieces as reads of one connection; what comes behind the end of the answer is one more read. @throws InvalidAnswerError */
function read (pieces: readonly (string | Buffer)[], { method = 'GET', ended = false, parser = new AnswerParser() }: Reading = {}): Found {
  const interims: string[] = []
  let body = ''
  let head = { status: 0, reason: '', fields: [] as readonly string[] }
  let heads = 0
  parser.expect(method === 'HEAD')
  for (const piece of pieces) {
    const bytes = typeof piece === 'string' ? Buffer.from(piece, 'latin1') : Buffer.from(piece)
    if (bytes.length === 0) continue
    parser.read(bytes)
    for (const { status, reason, fields } of parser.interims) interims.push([status, reason, ...fields].join('|'))
    if (parser.head !== null) {
      head = parser.head
      heads++
    }
    const found = parser.body
    body += typeof found === 'string' ? found : found?.toString('latin1') ?? ''
    bytes.fill('#') // whoever kept them has something else now
  }
  if (heads > 1) throw new Error(`${heads} final heads`)
  const { status, reason, fields } = head
  const whole = ended ? parser.over || parser.endOfInput() : parser.over
  return { interims, status, reason, fields, body, trailers: parser.trailers, whole, persistent: parser.persistent, keepAliveS: parser.keepAliveS }
}

/** Why the bytes are no answer; null when they are one, or the beginning of one. */
function refusal (bytes: string | readonly string[], reading?: Reading): string | null {
  try {
    read(typeof bytes === 'string' ? [bytes] : bytes, reading)
    return null
  } catch (error) {
    if (error instanceof InvalidAnswerError) return error.message
    throw error
  }
}

const ok = 'HTTP/1.1 200 OK\r\n'
const sized = `${ok}Content-Length: 2\r\n\r\nok`
const chunked = `${ok}Transfer-Encoding: chunked\r\n\r\n`

t.test('a status line is a version that is spoken, three digits, and a reason or none', async t => {
  const rest = 'Content-Length: 0\r\n\r\n'
  const taken: [line: string, status: number, reason: string][] = [
    ['HTTP/1.1 200 OK', 200, 'OK'], ['HTTP/1.0 200 OK', 200, 'OK'], ['HTTP/1.1 200 ', 200, ''], ['HTTP/1.1 200', 200, ''], ['HTTP/1.1 404 Not  Found\tat all', 404, 'Not  Found\tat all'],
    ['HTTP/1.1 999 caf\xe9', 999, 'caf\xe9'], ['HTTP/1.1 200  OK', 200, ' OK'], ['HTTP/1.1 205 x', 205, 'x']
  ]
  for (const [line, status, reason] of taken) t.match(read([`${line}\r\n${rest}`]), { status, reason, whole: true }, line)

  const refused = [
    'HTTP/1.2 200 OK', 'HTTP/2.0 200 OK', 'HTTP/0.9 200 OK', 'HTTP/1.1  200 OK', 'HTTP/1.1\t200 OK', 'http/1.1 200 OK', 'ICY 200 OK', 'HTTP/1.10 200 OK', 'HTTP/01.1 200 OK', 'HTTP/1.1200 OK', ' HTTP/1.1 200 OK',
    '\r\nHTTP/1.1 200 OK', 'HTTP/1.1 20 OK', 'HTTP/1.1 2000 OK', 'HTTP/1.1 200OK', 'HTTP/1.1 2x0 OK', 'HTTP/1.1 -20 OK', 'HTTP/1.1 099 OK', 'HTTP/1.1 000 OK', 'HTTP/1.1 \xb2\xb3\xb2 OK', 'HTTP/1.1 200\tOK',
    'HTTP/1.1 200 O\0K', 'HTTP/1.1 200 O\x7fK', 'HTTP/1.1 200 O\rK', 'HTTP/1.1 200 O\nK', 'HTTP/1.1 200 OK\r', 'HTTP/1.1 ', 'HTTP/1.1 101 Switching Protocols', 'GET / HTTP/1.1', 'garbage'
  ]
  for (const line of refused) t.type(refusal(`${line}\r\n${rest}`), 'string', JSON.stringify(line))
})

t.test('a field is a token, a colon and a value without control characters; nothing is folded', async t => {
  const taken: [line: string, name: string, value: string][] = [
    ['X-A: b', 'X-A', 'b'], ['X-A:b', 'X-A', 'b'], ['X-A: \t b c \t ', 'X-A', 'b c'], ['X-A:', 'X-A', ''], ['X-A: \t', 'X-A', ''], ['X-A: a:b', 'X-A', 'a:b'], ['!#$%&\'*+-.^_`|~09: x', '!#$%&\'*+-.^_`|~09', 'x'],
    ['X-A: caf\xe9 \xff\x80', 'X-A', 'caf\xe9 \xff\x80'], ['__proto__: x', '__proto__', 'x'], ['x-a: "quoted\\" \tb"', 'x-a', '"quoted\\" \tb"']
  ]
  for (const [line, name, value] of taken) t.same(read([`${ok}${line}\r\nContent-Length: 0\r\n\r\n`]).fields, [name, value, 'Content-Length', '0'], line)
  t.same(read([`${ok}A: 1\r\na: 2\r\nB: 3\r\nA: 1\r\nContent-Length: 0\r\n\r\n`]).fields, ['A', '1', 'a', '2', 'B', '3', 'A', '1', 'Content-Length', '0'], 'doubles and order stay')
  t.same(read([`${ok}\r\n`]).fields, [])

  const refused = ['X-A : b', 'X A: b', ': b', 'X-A', '', ' X-A: b', '\tX-A: b', 'X-A: b\r\n folded', 'X-A: b\r\n\tfolded', 'X-A: b\r\n folded: x', 'X-A: \0', 'X-A: a\x01b', 'X-A: a\x7fb', 'X-A: a\rb', 'X-A: a\nb', 'X-A: b\nX-B: c', 'X\xe9: b', 'X(A): b', 'X-A\0: b', 'X-A;: b', '"X": b', 'X-A: b\r', '\rX-A: b']
  for (const line of refused) {
    // An empty line would end the head.
    if (line === '') continue
    t.type(refusal(`${ok}${line}\r\nContent-Length: 0\r\n\r\n`), 'string', JSON.stringify(line))
    t.type(refusal(`${ok}Content-Length: 0\r\n${line}\r\n\r\n`), 'string', `${JSON.stringify(line)} at the end`)
  }
  t.type(refusal(sized.replaceAll('\r\n', '\n') + '\r\n\r\n'), 'string', 'bare LF everywhere')
})

t.test('a body ends by its length, its chunks, the connection, or is not there (RFC 9112 §6.3)', async t => {
  const table: [what: string, bytes: string, expected: Partial<Found>, reading?: Reading][] = [
    ['a length', sized, { body: 'ok', whole: true, persistent: true }],
    ['a length of 0', `${ok}Content-Length: 0\r\n\r\n`, { body: '', whole: true, persistent: true }],
    ['zeros before a length', `${ok}Content-Length: 0002\r\n\r\nok`, { body: 'ok', whole: true }],
    ['too short for its length', `${ok}Content-Length: 3\r\n\r\nok`, { body: 'ok', whole: false }, { ended: true }],
    ['more than its length', `${sized}xyz`, { body: 'ok', whole: true, persistent: false }],
    ['another answer behind it', sized + sized, { body: 'ok', whole: true, persistent: false }],
    ['chunks', `${chunked}2\r\nok\r\n0\r\n\r\n`, { body: 'ok', whole: true, persistent: true }],
    ['a coding in another case', `${ok}tRANSFER-eNCODING:\tCHUNKED \r\n\r\n2\r\nok\r\n0\r\n\r\n`, { body: 'ok', whole: true }],
    ['no chunk but the last', `${chunked}0\r\n\r\n`, { body: '', whole: true, persistent: true }],
    ['chunks without an end', `${chunked}2\r\nok\r\n`, { body: 'ok', whole: false }, { ended: true }],
    ['chunks without the last line', `${chunked}2\r\nok\r\n0\r\n`, { body: 'ok', whole: false }, { ended: true }],
    ['more than its chunks', `${chunked}2\r\nok\r\n0\r\n\r\nx`, { body: 'ok', whole: true, persistent: false }],
    ['neither', `${ok}\r\nok`, { body: 'ok', whole: false, persistent: false }],
    ['neither, and the connection ends', `${ok}\r\nok`, { body: 'ok', whole: true, persistent: false }, { ended: true }],
    ['neither, with keep-alive', `${ok}Connection: keep-alive\r\n\r\nok`, { body: 'ok', whole: true, persistent: false }, { ended: true }],
    ['204', 'HTTP/1.1 204 No Content\r\n\r\n', { body: '', whole: true, persistent: true }],
    ['204 with a length of 0', 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', { body: '', whole: true, persistent: true }],
    ['204 with a length', 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok', { body: '', whole: true, persistent: false }],
    ['204 that announces a body', 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n', { body: '', whole: true, persistent: false }],
    ['204 with chunks', 'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n', { body: '', whole: true, persistent: false }],
    ['304 with the length of what is not sent', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 200\r\n\r\n', { body: '', whole: true, persistent: true }],
    ['304 with a stray body', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok', { body: '', whole: true, persistent: false }],
    ['304 with chunks', 'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', { body: '', whole: true, persistent: false }],
    ['HEAD with a length', `${ok}Content-Length: 200\r\n\r\n`, { body: '', whole: true }, { method: 'HEAD' }],
    ['HEAD with a body', sized, { body: '', whole: true, persistent: false }, { method: 'HEAD' }],
    ['HEAD with chunks', `${chunked}2\r\nok\r\n0\r\n\r\n`, { body: '', whole: true, persistent: false }, { method: 'HEAD' }],
    ['HEAD without framing', `${ok}\r\n`, { body: '', whole: true }, { method: 'HEAD' }],
    ['205 with a length', 'HTTP/1.1 205 Reset\r\nContent-Length: 2\r\n\r\nok', { body: 'ok', whole: true }],
    ['nothing', '', { whole: false }, { ended: true }],
    ['half a head', 'HTTP/1.1 200 OK\r\nX: ', { whole: false }, { ended: true }]
  ]
  for (const [what, bytes, expected, reading] of table) t.match(read([bytes], reading), expected, what)
})

t.test('framing that can be read in two ways, or in none, is refused', async t => {
  const refused = [
    'Content-Length: 2\r\nContent-Length: 3', 'Content-Length: 2\r\ncontent-length: 2', 'Content-Length: 2, 2', 'Content-Length: 2,3', 'Content-Length: +2', 'Content-Length: -2', 'Content-Length: 0x2', 'Content-Length: 2.0', 'Content-Length: 2e0', 'Content-Length:',
    'Content-Length: 2 2', 'Content-Length: "2"', 'Content-Length: \xb2', 'Content-Length: 9007199254740993', 'Content-Length: 99999999999999999999', 'Content-Length: two',
    'Transfer-Encoding: chunked\r\nContent-Length: 2', 'Content-Length: 2\r\nTransfer-Encoding: chunked', 'Transfer-Encoding: gzip', 'Transfer-Encoding: identity', 'Transfer-Encoding: gzip, chunked', 'Transfer-Encoding: chunked, gzip', 'Transfer-Encoding: chunked, chunked',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked', 'Transfer-Encoding:', 'Transfer-Encoding: ,chunked', 'Transfer-Encoding: chunked;q=1', 'Transfer-Encoding: "chunked"', 'Transfer-Encoding: xchunked', 'Transfer-Encoding: chunked\xa0', 'Transfer-Encoding: chunKed\r\nTransfer-Encoding: identity'
  ]
  for (const fields of refused) {
    t.type(refusal(`${ok}${fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n`), 'string', fields)
    t.type(refusal(`${ok}${fields}\r\n\r\n`, { method: 'HEAD' }), 'string', `${fields}, to a HEAD`)
    t.type(refusal(`HTTP/1.1 304 Not Modified\r\n${fields}\r\n\r\n`), 'string', `${fields}, of a 304`)
  }
  t.type(refusal('HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'), 'string', 'chunks in HTTP/1.0')
  t.equal(refusal(`${ok}Content_Length: 5\r\nX-Content-Length: 9\r\nContent-Length: 2\r\n\r\nok`), null, 'names that only look like it are no framing')
})

t.test('chunks are a hexadecimal size, extensions behind a semicolon, and exactly so many bytes', async t => {
  const taken: [chunks: string, body: string][] = [
    ['2\r\nok\r\n0\r\n\r\n', 'ok'], ['1\r\no\r\n1\r\nk\r\n0\r\n\r\n', 'ok'], ['0002\r\nok\r\n0000\r\n\r\n', 'ok'], ['a\r\n0123456789\r\n0\r\n\r\n', '0123456789'], ['A\r\n0123456789\r\n0\r\n\r\n', '0123456789'],
    ['2;ext\r\nok\r\n0\r\n\r\n', 'ok'], ['2;a=b;c="d e"\r\nok\r\n0;last\r\n\r\n', 'ok'], ['2 ;a\r\nok\r\n0\r\n\r\n', 'ok'], ['2 \t\r\nok\r\n0\r\n\r\n', 'ok'], ['4\r\n\r\n\r\n\r\n0\r\n\r\n', '\r\n\r\n'], ['5\r\n0\r\n\r\n\r\n0\r\n\r\n', '0\r\n\r\n']
  ]
  for (const [chunks, body] of taken) t.match(read([chunked + chunks]), { body, whole: true, persistent: true }, JSON.stringify(chunks))

  const refused = [
    'g\r\nok', '\r\nok\r\n', ' 2\r\nok\r\n', '0x2\r\nok\r\n', '+2\r\nok\r\n', '-2\r\nok\r\n', '2\nok\r\n', '2\r\nok\n', '2\r\nokk\r\n', '2\r\no\r\n0\r\n\r\n', '2\r\nok0\r\n', '2\rxok\r\n', '2\r\nok\rx', '2;a\nok\r\n', '2;a\0\r\nok\r\n', '2;a\x7f\r\nok\r\n', ';a\r\nok\r\n',
    '2 2\r\nok\r\n', '2 a\r\nok\r\n', '2\t\x0b\r\nok\r\n', 'ffffffffffffff\r\n', '00000000000002\r\nok', '2,2\r\nok\r\n', '2"\r\nok\r\n', `2;${'x'.repeat(5_000)}\r\nok`, `2${' '.repeat(5_000)}\r\nok`, '\0\r\n'
  ]
  for (const chunks of refused) t.type(refusal(chunked + chunks), 'string', JSON.stringify(chunks).slice(0, 50))
})

t.test('trailers are fields, and frame nothing', async t => {
  const taken: [trailers: string, expected: string[]][] = [
    ['', []], ['X-Sum: 1\r\n', ['X-Sum', '1']], ['a:b\r\nA: \t c \r\n', ['a', 'b', 'A', 'c']], ['Content-Length: 5\r\nConnection: close\r\nTransfer-Encoding: gzip\r\n', ['Content-Length', '5', 'Connection', 'close', 'Transfer-Encoding', 'gzip']]
  ]
  for (const [trailers, expected] of taken) t.match(read([`${chunked}2\r\nok\r\n0\r\n${trailers}\r\n`]), { body: 'ok', trailers: expected, whole: true, persistent: true }, trailers)
  for (const line of ['X Sum: 1', ' X: 1', 'X: 1\r\n folded', ': 1', 'nothing', 'X: a\0', 'X: a\nb', 'X: a\rb']) t.type(refusal(`${chunked}0\r\n${line}\r\n\r\n`), 'string', JSON.stringify(line))

  const parser = new AnswerParser()
  t.same(read([`${chunked}0\r\nX-Sum: 1\r\n\r\n`], { parser }).trailers, ['X-Sum', '1'])
  t.same(read([sized], { parser }).trailers, [], 'those of an earlier answer are gone')
})

t.test('interim answers come before the final one; an unasked 100 is nobody\'s, an unasked 101 is refused', async t => {
  const hints = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nConnection: close\r\n\r\n'
  const goOn = 'HTTP/1.1 100 Continue\r\n\r\n'

  t.match(read([hints + goOn + hints + sized]), { interims: ['103|Early Hints|Link|</a>|Content-Length|5|Connection|close', '103|Early Hints|Link|</a>|Content-Length|5|Connection|close'], status: 200, body: 'ok', whole: true, persistent: true })
  t.match(read([goOn + goOn + sized]), { interims: [], body: 'ok', whole: true })
  t.match(read([goOn], { ended: true }), { status: 0, whole: false })
  t.match(read([`HTTP/1.1 199 x\r\nTransfer-Encoding: chunked\r\n\r\n${sized}`], { method: 'HEAD' }), { interims: ['199|x|Transfer-Encoding|chunked'], status: 200, whole: true })
  for (const bytes of [`HTTP/1.1 101 x\r\n\r\n${sized}`, `${hints}HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n`, `HTTP/1.1 100 Continue\r\nX A: b\r\n\r\n${sized}`, `HTTP/1.1 100 Continue\n\n${sized}`]) t.type(refusal(bytes), 'string', bytes)
})

t.test('whether the connection can carry another exchange is what the agent said, by its version', async t => {
  const table: [version: string, fields: string, persistent: boolean, keepAliveS: number | null][] = [
    ['1.1', '', true, null], ['1.1', 'Connection: close\r\n', false, null], ['1.1', 'connection: CLOSE\r\n', false, null], ['1.1', 'Connection: x, close ,y\r\n', false, null], ['1.1', 'Connection: x\r\nConnection: close\r\n', false, null],
    ['1.1', 'Connection: closed\r\n', true, null], ['1.1', 'Connection:\r\n', true, null], ['1.1', 'Connection: keep-alive\r\n', true, null], ['1.1', 'Connection: keep-alive, close\r\n', false, null], ['1.0', '', false, null],
    ['1.0', 'Connection: keep-alive\r\n', true, null], ['1.0', 'Connection: Keep-Alive\r\n', true, null], ['1.0', 'Connection: close\r\n', false, null], ['1.0', 'Connection: keep-alives\r\n', false, null],
    ['1.1', 'Keep-Alive: timeout=5\r\n', true, 5], ['1.1', 'keep-alive: max=7, Timeout = "12"\r\n', true, 12], ['1.1', 'Keep-Alive: timeout=0\r\n', true, 0], ['1.1', 'Keep-Alive: xtimeout=5\r\n', true, null], ['1.1', 'Keep-Alive: timeout=-5\r\n', true, null],
    ['1.1', 'Keep-Alive: timeout\r\n', true, null], ['1.1', 'Keep-Alive: 300\r\n', true, null]
  ]
  for (const [version, fields, persistent, keepAliveS] of table) t.match(read([`HTTP/${version} 200 OK\r\n${fields}Content-Length: 2\r\n\r\nok`]), { whole: true, persistent, keepAliveS }, `${version} ${fields}`)
})

t.test('a head, trailers and a chunk\'s line have bounds, however they come', async t => {
  const long = 'x'.repeat(131_072)
  const pieces = (text: string, size: number) => Array.from({ length: Math.ceil(text.length / size) }, (_, index) => text.slice(index * size, (index + 1) * size))
  const table: [what: string, bytes: string][] = [
    ['a head', `${ok}X-A: ${long}\r\nContent-Length: 0\r\n\r\n`], ['a head of many fields', `${ok}${'a:\r\n'.repeat(40_000)}\r\n`], ['a reason', `HTTP/1.1 200 ${long}\r\n\r\n`], ['a head without end', `${ok}X-A: ${long}${long}`], ['interim heads', `${'HTTP/1.1 103 x\r\n\r\n'.repeat(10_000)}${sized}`], ['unasked 100s', `${'HTTP/1.1 100 x\r\n\r\n'.repeat(10_000)}${sized}`], ['an interim head', `HTTP/1.1 103 x\r\nX-A: ${long}\r\n\r\n${sized}`],
    ['trailers', `${chunked}0\r\nX-A: ${long}\r\n\r\n`], ['trailers without end', `${chunked}0\r\nX-A: ${long}${long}`], ['an extension', `${chunked}2;${long}`]
  ]
  for (const [what, bytes] of table) for (const size of [bytes.length, 65_536, 1_460]) t.type(refusal(pieces(bytes, size)), 'string', `${what} in reads of ${size}`)

  const longest = `${ok}X-A: ${'x'.repeat(120_000)}\r\nContent-Length: 2\r\n\r\nok`
  for (const size of [longest.length, 65_536, 1_460, 1]) t.match(read(pieces(longest, size)), { body: 'ok', whole: true, persistent: true }, `a long head in reads of ${size}`)
})

t.test('what is no HTTP is refused with its first bytes; what may become it is waited for', async t => {
  for (const bytes of ['S', 'SSH-2.0-x\r\n', 'HTTX', 'HTTP/2', 'HTTP/1.2', '\r\n', '\n', ' ', '\0', '{"a":1}', 'http/1.1 200 OK']) t.type(refusal(bytes), 'string', JSON.stringify(bytes))
  for (const bytes of ['H', 'HTTP/', 'HTTP/1.', 'HTTP/1.0 ', 'HTTP/1.1 2', 'HTTP/1.1 200 OK\r']) t.equal(refusal(bytes), null, bytes)
})

t.test('a parser starts each answer anew, whatever the last one was', async t => {
  const parser = new AnswerParser()
  t.match(read(['HTTP/1.0 200 OK\r\nConnection: close\r\nKeep-Alive: timeout=5\r\n\r\nok'], { parser, ended: true }), { whole: true, persistent: false, keepAliveS: 5 })
  t.match(read(['HTTP/1.1 200 OK\r\nX-A: '], { parser }), { whole: false })
  t.equal(parser.began, true)
  parser.expect(false)
  t.equal(parser.began, false)

  t.match(read([sized], { parser }), { status: 200, fields: ['Content-Length', '2'], body: 'ok', trailers: [], whole: true, persistent: true, keepAliveS: null })
})

t.test('the work for a long head that comes byte by byte grows with its length, and so does that for trailers and interims', async t => {
  const filler = 'X-Filler: abcdefgh\r\n'.repeat(4_000)
  const table = [`${ok}${filler}Content-Length: 2\r\n\r\nok`, `${chunked}0\r\n${filler}\r\n`, `${'HTTP/1.1 103 x\r\n\r\n'.repeat(4_000)}${sized}`]
  for (const text of table) {
    let copied = 0
    const { copy } = Buffer.prototype
    Buffer.prototype.copy = function (this: Buffer, ...args: Parameters<Buffer['copy']>) {
      const count = copy.apply(this, args)
      copied += count
      return count
    }
    try {
      t.match(read([...text]), { status: 200, whole: true })
    } finally {
      Buffer.prototype.copy = copy
    }
    t.ok(copied < text.length * 8, `${copied} bytes copied for ${text.length}`)
  }
})

/** Cut into reads at random places; very small and very large ones are likely. */
function cut (random: Seeded, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = []
  const most = random.oneOf([1, 3, 40, 5_000, 20_000, 100_000])
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + 1 + random.below(most))
    pieces.push(bytes.subarray(at, end))
    at = end
  }
  return pieces
}

const fieldValue = fc.stringMatching(/^[!-~\x80-\xff]([ \t!-~\x80-\xff]{0,30}[!-~\x80-\xff])?$/)
const fieldList = fc.array(fc.tuple(fc.stringMatching(/^X-[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}$/), fieldValue), { maxLength: 5 })
const bodyBytes = fc.oneof(fc.string({ unit: 'binary-ascii', maxLength: 60 }), fc.integer({ min: 0, max: 40_000 }).map(length => 'body\r\n\r\n'.repeat(length / 8)))

/** An answer that is right, with what is in it. */
const rightAnswer = fc.record({
  interims: fc.array(fc.tuple(fc.constantFrom(100, 102, 103, 110), fieldList), { maxLength: 3 }),
  status: fc.integer({ min: 200, max: 599 }).filter(status => status !== 204 && status !== 304),
  fields: fieldList,
  body: bodyBytes,
  framing: fc.constantFrom('length', 'chunks', 'end'),
  chunkBytes: fc.integer({ min: 1, max: 30_000 }),
  extension: fc.constantFrom('', ';a', ' ; b="c d"', ' '),
  trailers: fieldList,
  closes: fc.boolean(),
  behind: fc.constantFrom('', '', 'x', sized),
  seed: fc.nat()
})

const lines = (fields: readonly (readonly [string, string])[]) => fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')

t.test('however a right answer is cut into reads, it is found as it was written', async t => {
  fc.assert(fc.property(rightAnswer, ({ interims, status, fields, body, framing, chunkBytes, extension, trailers, closes, behind, seed }) => {
    const framed: [string, string][] = [...fields, ...(closes ? [['Connection', 'close'] as [string, string]] : []), ...(framing === 'end' ? [] : [framing === 'length' ? ['Content-Length', `${body.length}`] as [string, string] : ['Transfer-Encoding', 'chunked'] as [string, string]])]
    let text = interims.map(([interim, ofInterim]) => `HTTP/1.1 ${interim} Interim\r\n${lines(ofInterim)}\r\n`).join('') + `HTTP/1.1 ${status} Reason\r\n${lines(framed)}\r\n`
    if (framing === 'chunks') {
      for (let at = 0; at < body.length; at += Math.max(chunkBytes, Math.ceil(body.length / 500))) {
        const chunk = body.slice(at, at + Math.max(chunkBytes, Math.ceil(body.length / 500)))
        text += `${chunk.length.toString(16)}${extension}\r\n${chunk}\r\n`
      }
      text += `0${extension}\r\n${lines(trailers)}\r\n`
    } else text += body
    const rest = framing === 'end' ? '' : behind
    const bytes = Buffer.from(text + rest, 'latin1')

    const found = read(cut(seeded(seed), bytes), { ended: true })

    const expected: Found = {
      interims: interims.filter(([interim]) => interim !== 100).map(([interim, ofInterim]) => [interim, 'Interim', ...ofInterim.flat()].join('|')),
      status,
      reason: 'Reason',
      fields: framed.flat(),
      body,
      trailers: framing === 'chunks' ? trailers.flat() : [],
      whole: true,
      persistent: framing !== 'end' && !closes && (rest === '' || found.persistent),
      keepAliveS: null
    }
    // What came behind it in a read of its own is the connection's to notice.
    t.strictSame({ ...found, persistent: rest === '' ? found.persistent : expected.persistent }, expected)
    return true
  }), { numRuns: 150 })
})

t.test('bytes behind an answer in the same read spoil the connection, and not the answer', async t => {
  for (const answer of [sized, `${chunked}2\r\nok\r\n0\r\n\r\n`, `${chunked}2\r\nok\r\n0\r\nA: b\r\n\r\n`, 'HTTP/1.1 204 x\r\n\r\n', 'HTTP/1.1 304 x\r\n\r\n', `${ok}Content-Length: 0\r\n\r\n`]) {
    t.match(read([answer]), { whole: true, persistent: true }, answer)
    for (const behind of ['x', '\r\n', '\0', sized]) t.match(read([answer + behind]), { whole: true, persistent: false }, answer + behind)
  }
})

/** What llhttp makes of the bytes, by Node's own client; null when it refuses them or misses the end. */
function readByNode (bytes: Buffer, method: string): Promise<Found | null> {
  return new Promise(resolve => {
    const interims: string[] = []
    const socket = new Duplex({ read () {}, write (_chunk, _encoding, callback) { callback() } })
    const asking = request({ method, maxHeaderSize: 1 << 20, createConnection: () => socket as never, setHost: false })
    let answered = false
    const refuse = () => {
      resolve(null)
      socket.destroy()
    }
    asking.on('error', () => { if (!answered) refuse() }) // bytes behind an answer are an error of their own
    asking.on('upgrade', refuse)
    asking.on('information', ({ statusCode, statusMessage, rawHeaders }) => { if (statusCode !== 100) interims.push([statusCode, statusMessage, ...rawHeaders].join('|')) })
    asking.on('response', response => {
      answered = true
      const chunks: Buffer[] = []
      response.on('error', () => {})
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('close', () => {
        resolve({
          interims,
          status: response.statusCode!,
          reason: response.statusMessage!,
          fields: response.rawHeaders,
          body: Buffer.concat(chunks).toString('latin1'),
          trailers: response.rawTrailers,
          whole: response.complete,
          persistent: false,
          keepAliveS: null
        })
        socket.destroy()
      })
    })
    asking.end()
    socket.push(bytes)
    setImmediate(() => socket.push(null))
  })
}

const parts = {
  lines: ['HTTP/1.1 200 OK', 'HTTP/1.1 200 OK', 'HTTP/1.1 404 Not Found', 'HTTP/1.0 200 OK', 'HTTP/1.1 204 No Content', 'HTTP/1.1 304 x', 'HTTP/1.1 200', 'HTTP/1.1 500 '],
  fields: ['Content-Length: 11', 'Content-Length: 11', 'Content-Length: 5', 'Content-Length: 0', 'Transfer-Encoding: chunked', 'Transfer-Encoding: chunked', 'Transfer-Encoding: gzip', 'Transfer-Encoding: identity', 'transfer-encoding:chunked ', 'Connection: close', 'Connection: keep-alive', 'X-A: b', 'X-Empty:', 'X-B:  \tc ', 'X-C: \xe9', 'Trailer: X-Sum', 'Upgrade: x', 'Connection: upgrade', 'Proxy-Connection: close', 'X-D: a,b;c="d"'],
  bodies: ['hello world', 'hello', '', '5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n', 'b\r\nhello world\r\n0\r\nX-Sum: 1\r\n\r\n', 'B \r\nhello world\r\n0\r\n\r\n', '5\r\nhello\r\n0\r\n\r\n', '0\r\n\r\n'],
  inserts: ['\r', '\n', '\r\n', ' ', '\t', '\0', ':', ';', '0', '1', 'a', ',', '\x7f', '\xff', 'HTTP/1.1 100 x\r\n\r\n', '\r\n\r\n', '\r\n ', 'Content-Length: 3\r\n', 'Transfer-Encoding: chunked\r\n', '"', '=', '-', '+', 'x']
}

function mutatedAnswer (random: Seeded): string {
  let text = random.next() < 0.2 ? 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' : ''
  text += `${random.oneOf(parts.lines)}\r\n`
  for (let count = random.below(4); count > 0; count--) text += `${random.oneOf(parts.fields)}\r\n`
  text += `\r\n${random.oneOf(parts.bodies)}`
  for (let count = random.below(3); count > 0; count--) {
    const at = random.below(text.length + 1)
    switch (random.below(5)) {
      case 0: text = text.slice(0, at) + random.oneOf(parts.inserts) + text.slice(at); break
      case 1: text = text.slice(0, at) + text.slice(at + 1 + random.below(3)); break
      case 2: text = text.slice(0, at) + random.oneOf(parts.inserts) + text.slice(at + 1); break
      case 3: text = text.slice(0, at) + text.slice(at, at + 9) + text.slice(at); break
      default: text = text.slice(0, at)
    }
  }
  return text
}

/** Where ours takes what llhttp refuses, on purpose: the text of an extension, and blanks behind a chunk's size, mean nothing and go no further. */
function isLaxOnPurpose (bytes: string): boolean {
  return /\r\n[\da-f]+(?:[ \t]+|[ \t]*;[^\r\n]*)\r\n/i.test(bytes)
}

async function compare (t: Test, random: Seeded, count: number) {
  const tally = { both: 0, oursStricter: 0, lax: 0, neither: 0 }
  for (let index = 0; index < count; index++) {
    const text = mutatedAnswer(random)
    const method = random.oneOf(['GET', 'GET', 'GET', 'HEAD'])
    let ours: Found | null = null
    try {
      ours = read(cut(random, Buffer.from(text, 'latin1')), { method, ended: true })
    } catch (error) {
      if (!(error instanceof InvalidAnswerError)) throw error
    }
    if (ours?.whole === false) ours = null
    const theirs = await readByNode(Buffer.from(text, 'latin1'), method)
    const comparable = theirs?.whole === true ? theirs : null
    if (ours === null) tally[comparable === null ? 'neither' : 'oursStricter']++
    else if (comparable === null) {
      tally.lax++
      if (!isLaxOnPurpose(text)) t.fail(`ours takes what llhttp refuses: ${method} ${JSON.stringify(text)}`)
    } else {
      tally.both++
      const { interims, status, reason, fields, body, trailers } = ours
      const mine = { interims, status, reason, fields, body, trailers }
      const { interims: i, status: s, reason: r, fields: f, body: b, trailers: tr } = comparable
      if (JSON.stringify(mine) !== JSON.stringify({ interims: i, status: s, reason: r, fields: f, body: b, trailers: tr })) t.strictSame(mine, comparable, `${method} ${JSON.stringify(text)}`)
    }
  }
  return tally
}

t.test('whatever is taken for a whole answer is what llhttp reads too', async t => {
  const random = seeded()
  t.comment(`FLEET_SEED=${random.seed}`)

  const tally = await compare(t, random, Number(process.env['FLEET_FUZZ'] ?? 8) * 200)

  t.comment(JSON.stringify(tally))
  t.ok(tally.both > 0 && tally.oursStricter > 0)
})

t.test('where it differs from llhttp it does so on purpose', async t => {
  const stricter: [what: string, bytes: string][] = [
    ['a version that nobody speaks over TCP like this', 'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a coding that nobody asked for, with chunks', `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`],
    ['a coding that nobody asked for, until the end', `${ok}Transfer-Encoding: gzip\r\n\r\nok`],
    ['chunks in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['empty lines before an answer', `\r\n${sized}`]
  ]
  for (const [what, bytes] of stricter) {
    t.type(refusal(bytes), 'string', what)
    t.match(await readByNode(Buffer.from(bytes, 'latin1'), 'GET'), { status: 200, whole: true }, `${what}: llhttp`)
  }
  const laxer: [what: string, bytes: string][] = [
    ['blanks behind a chunk\'s size', `${chunked}2 \r\nok\r\n0\r\n\r\n`],
    ['blanks before an extension', `${chunked}2 ;a\r\nok\r\n0\r\n\r\n`],
    ['an extension of any text', `${chunked}2;(a)\r\nok\r\n0\r\n\r\n`]
  ]
  for (const [what, bytes] of laxer) {
    t.match(read([bytes]), { body: 'ok', whole: true }, what)
    t.not((await readByNode(Buffer.from(bytes, 'latin1'), 'GET'))?.whole, true, `${what}: llhttp`)
  }
})
