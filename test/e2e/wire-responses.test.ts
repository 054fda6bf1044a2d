/**
 * Answers as bytes (RFC 9112 §6, RFC 9110 §6 and §15): what an agent says that can be read in two ways is a 502 or a cut, what can't
 * arrives as it was, and the client's connection stays in step behind each.
 */
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { readAnswers, type Answer } from '../helpers/answers.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'
import { okAnswer, recordingAgent, type RawAnswer } from '../helpers/recording-agent.ts'

const host = 'Host: localhost\r\n'
const last = `GET /api/planner/last HTTP/1.1\r\n${host}Connection: close\r\n\r\n`

interface Asking { method?: string, version?: string, fields?: string, behind?: string }

async function planner (t: Test, options = {}) {
  const agent = await recordingAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], retry: { attempts: 0 }, ...options })
  gateway.server.keepAliveTimeout = 1_000 // a row that fails must not wait for long
  const ask = async (answer: RawAnswer, { method = 'GET', version = '1.1', fields = '', behind = version === '1.1' ? last : '' }: Asking = {}): Promise<Answer[]> => {
    agent.answer = (socket, request) => {
      if (request.target === '/last') socket.write(okAnswer)
      else if (typeof answer === 'function') answer(socket, request)
      else socket.write(typeof answer === 'string' ? Buffer.from(answer, 'latin1') : answer)
    }
    return readAnswers(await rawRequest(t, gateway.port, `${method} /api/planner/x HTTP/${version}\r\n${host}${fields}\r\n${behind}`), [method])
  }
  return { agent, gateway, ask }
}

const ended = (bytes: string): RawAnswer => socket => { socket.end(Buffer.from(bytes, 'latin1')) }

t.test('an answer that can be read in two ways, or in none, is 502, and the client\'s connection goes on', async t => {
  const { ask } = await planner(t)
  const ok = 'HTTP/1.1 200 OK\r\n'
  const table: [string, RawAnswer][] = [
    ['an unasked 101', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'],
    ['an unasked 101 without fields', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['two lengths that differ', `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc`],
    ['a list of lengths that differ', `${ok}Content-Length: 2, 3\r\n\r\nabc`],
    ['one length twice', `${ok}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok`],
    ['a negative length', `${ok}Content-Length: -1\r\n\r\n`],
    ['a length with a plus', `${ok}Content-Length: +2\r\n\r\nok`],
    ['a hexadecimal length', `${ok}Content-Length: 0x2\r\n\r\nok`],
    ['a length of letters', `${ok}Content-Length: two\r\n\r\nok`],
    ['a length over 2^64', `${ok}Content-Length: 18446744073709551618\r\n\r\nok`],
    ['length and chunks', `${ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`],
    ['chunks and length', `${ok}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n`],
    ['an unknown coding', ended(`${ok}Transfer-Encoding: gzip\r\n\r\nok`)],
    ['identity', ended(`${ok}Transfer-Encoding: identity\r\n\r\nok`)],
    ['an unknown coding behind chunked', ended(`${ok}Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n`)],
    ['chunked twice', `${ok}Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`],
    ['chunked in two lines', `${ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`],
    ['xchunked', ended(`${ok}Transfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`)],
    ['a vertical tab before chunked', ended(`${ok}Transfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`)],
    ['chunks in HTTP/1.0', ended('HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n')],
    ['a space before the colon', `${ok}Content-Length : 2\r\n\r\nok`],
    ['a folded line', `${ok}X-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok`],
    ['a NUL in a value', `${ok}X-A: a\0b\r\nContent-Length: 2\r\n\r\nok`],
    ['a control byte in a value', `${ok}X-A: a\x01b\r\nContent-Length: 2\r\n\r\nok`],
    ['DEL in a value', `${ok}X-A: a\x7fb\r\nContent-Length: 2\r\n\r\nok`],
    ['a bare CR in a value', `${ok}X-A: a\rb\r\nContent-Length: 2\r\n\r\nok`],
    ['a name that is none', `${ok}X A: b\r\nContent-Length: 2\r\n\r\nok`],
    ['an empty name', `${ok}: b\r\nContent-Length: 2\r\n\r\nok`],
    ['a line without colon', `${ok}hello\r\nContent-Length: 2\r\n\r\nok`],
    ['garbage', 'hello\r\n\r\n'],
    ['HTTP/0.9', ended('hello')],
    ['another server\'s greeting', 'SSH-2.0-OpenSSH_9.6\r\n'],
    ['HTTP/2', 'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['HTTP/1.2', 'HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a status of two digits', 'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a status of four digits', 'HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a status of four digits that begins as an interim one', 'HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n'],
    ['status 099', 'HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok'],
    ['status 000', 'HTTP/1.1 000 Odd\r\nContent-Length: 2\r\n\r\nok'],
    ['a status of letters', 'HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok'],
    ['a head of 200 KiB', `${ok}X-A: ${'x'.repeat(200_000)}\r\nContent-Length: 2\r\n\r\nok`],
    ['nothing', ended('')],
    ['half a status line', ended('HTTP/1.1 20')],
    ['half a head', ended(`${ok}Content-Length: 2\r\nX-A`)],
    ['only an interim answer', ended('HTTP/1.1 103 Early Hints\r\n\r\n')]
  ]
  for (const [name, answer] of table) {
    const answers = await ask(answer)

    t.same(answers.filter(({ status }) => status >= 200).map(({ status }) => status), [502, 200], name)
    const problem = answers.find(({ status }) => status === 502)
    t.match(problem?.body, /"code":"FLEET_UPSTREAM_(INVALID|UNREACHABLE)"/, name)
    t.match(problem?.valuesOf('proxy-status'), [/^fleet-gateway; error=/], name)
    t.notMatch(problem?.body, /127\.0\.0\.1/, name)
  }
})

type Expected = Partial<Pick<Answer, 'status' | 'reason' | 'body' | 'framing' | 'trailers'>>

t.test('an answer that is plain arrives as it was, and the client\'s connection goes on', async t => {
  const { ask } = await planner(t)
  const ok = 'HTTP/1.1 200 OK\r\n'
  const dripped = (bytes: string): RawAnswer => socket => {
    const drip = (at: number): void => { if (at < bytes.length) socket.write(bytes.charAt(at), () => setImmediate(drip, at + 1)) }
    drip(0)
  }
  const table: [string, RawAnswer, Expected, string?][] = [
    ['a length', `${ok}Content-Length: 2\r\n\r\nok`, { status: 200, body: 'ok', framing: 'length' }],
    ['a length of 0', `${ok}Content-Length: 0\r\n\r\n`, { status: 200, body: '', framing: 'length' }],
    ['chunks', `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n`, { status: 200, body: 'ok!', framing: 'chunked' }],
    ['chunks in odd case', `${ok}transfer-ENCODING: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`, { status: 200, body: 'ok', framing: 'chunked' }],
    ['chunks with extensions', `${ok}Transfer-Encoding: chunked\r\n\r\n2;a="b"\r\nok\r\n0;c\r\n\r\n`, { status: 200, body: 'ok', framing: 'chunked' }],
    ['until the connection ends', ended(`${ok}\r\nok`), { status: 200, body: 'ok', framing: 'chunked' }],
    ['HTTP/1.0 until the connection ends', ended('HTTP/1.0 200 OK\r\n\r\nok'), { status: 200, body: 'ok', framing: 'chunked' }],
    ['HTTP/1.0 with a length', ended('HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'), { status: 200, body: 'ok', framing: 'length' }],
    ['HTTP/1.0 with keep-alive', 'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok', { status: 200, body: 'ok', framing: 'length' }],
    ['Connection: close', ended(`${ok}Connection: close\r\nContent-Length: 2\r\n\r\nok`), { status: 200, body: 'ok', framing: 'length' }],
    ['no reason', 'HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok', { status: 200, reason: '', body: 'ok' }],
    ['no reason and no space', 'HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok', { status: 200, body: 'ok' }],
    ['a reason of its own', 'HTTP/1.1 200 All is well\r\nContent-Length: 2\r\n\r\nok', { status: 200, reason: 'All is well', body: 'ok' }],
    ['status 600', 'HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok', { status: 600, body: 'ok' }],
    ['status 999', 'HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok', { status: 999, body: 'ok' }],
    ['205', 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', { status: 205, body: '' }],
    ['204', 'HTTP/1.1 204 No Content\r\n\r\n', { status: 204, body: '', framing: 'none' }],
    ['204 with a length', 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', { status: 204, body: '', framing: 'none' }],
    ['204 with a stray body', 'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nstray', { status: 204, body: '', framing: 'none' }],
    ['204 in chunks', 'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstray\r\n0\r\n\r\n', { status: 204, body: '', framing: 'none' }],
    ['304 with a length', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "e"\r\n\r\n', { status: 304, body: '', framing: 'none' }],
    ['304 with a stray body', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nstray', { status: 304, body: '', framing: 'none' }],
    ['304 in chunks', 'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', { status: 304, body: '', framing: 'none' }],
    ['HEAD with a length', `${ok}Content-Length: 5\r\n\r\n`, { status: 200, body: '', framing: 'none' }, 'HEAD'],
    ['HEAD without a length', `${ok}\r\n`, { status: 200, body: '', framing: 'none' }, 'HEAD'],
    ['HEAD in chunks', `${ok}Transfer-Encoding: chunked\r\n\r\n`, { status: 200, body: '', framing: 'none' }, 'HEAD'],
    ['HEAD with a stray body', `${ok}Content-Length: 5\r\n\r\nstray`, { status: 200, body: '', framing: 'none' }, 'HEAD'],
    ['an unasked 100', `HTTP/1.1 100 Continue\r\n\r\n${okAnswer}`, { status: 200, body: 'ok' }],
    ['an unasked 100 with fields', `HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n${okAnswer}`, { status: 200, body: 'ok' }],
    ['three of them', `${'HTTP/1.1 100 Continue\r\n\r\n'.repeat(3)}${okAnswer}`, { status: 200, body: 'ok' }],
    ['an unasked 100 byte by byte', dripped(`HTTP/1.1 100 Continue\r\n\r\n${okAnswer}`), { status: 200, body: 'ok' }],
    ['102', `HTTP/1.1 102 Processing\r\n\r\n${okAnswer}`, { status: 200, body: 'ok' }],
    ['103 many times', `${'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'.repeat(3)}${okAnswer}`, { status: 200, body: 'ok' }],
    ['103 byte by byte', dripped(`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${okAnswer}`), { status: 200, body: 'ok' }],
    ['103, 100 and 200', `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n${okAnswer}`, { status: 200, body: 'ok' }],
    ['all of it byte by byte', dripped(`${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n`), { status: 200, body: 'ok', framing: 'chunked' }],
    ['a head of 100 KiB', `${ok}X-A: ${'x'.repeat(100_000)}\r\nContent-Length: 2\r\n\r\nok`, { status: 200, body: 'ok' }],
    ['more than the length, which is nobody\'s', ended(`${ok}Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`), { status: 200, body: 'ok' }],
    ['a second answer nobody asked for', `${okAnswer}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`, { status: 200, body: 'ok' }],
    ['401 with a challenge', 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="a"\r\nContent-Length: 2\r\n\r\nno', { status: 401, body: 'no' }]
  ]
  table.push(['100 and 103 byte by byte', dripped(`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\nX: y\r\n\r\n${okAnswer}`), { status: 200, body: 'ok' }])
  for (const [name, answer, expected, method = 'GET'] of table) {
    const answers = (await ask(answer, { method })).filter(({ status }) => status >= 200)

    t.match(answers[0], expected, name)
    t.ok(answers[0]?.complete, `${name}: complete`)
    t.equal(answers.length, 2, `${name}: two answers`)
    t.match(answers[1], { status: 200, body: 'ok' }, `${name}: the next is in step`)
  }
})

t.test('an answer that breaks off or goes wrong in its body is cut, so that nobody takes it for the whole', async t => {
  const { ask } = await planner(t)
  const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
  const table: [string, RawAnswer][] = [
    ['shorter than its length', ended('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort')],
    ['no last chunk', ended(`${chunked}2\r\nok\r\n`)],
    ['half a chunk', ended(`${chunked}5\r\nok`)],
    ['no line end behind the last chunk', ended(`${chunked}2\r\nok\r\n0\r\n`)],
    ['a size that is none', `${chunked}2\r\nok\r\nzz\r\n`],
    ['a size over 2^64', `${chunked}2\r\nok\r\n10000000000000002\r\nok\r\n0\r\n\r\n`],
    ['a chunk longer than its size', `${chunked}2\r\nokay\r\n0\r\n\r\n`],
    ['a reset', socket => { socket.write(`${chunked}2\r\nok\r\n`, () => socket.resetAndDestroy()) }]
  ]
  for (const [name, answer] of table) {
    for (const version of ['1.1', '1.0']) {
      const answers = await ask(answer, { version, behind: '' }).catch(() => [])
      const [first] = answers

      // What went wrong at once may be a 502 instead; HTTP/1.0 without a length has nothing but the reset to tell by.
      if (first !== undefined && first.status !== 502 && version === '1.1') t.notOk(first.complete, `${name}: not complete`)
      t.ok(answers.length <= 1, `${name}: nothing behind it`)
    }
  }
})

t.test('the agent\'s fields arrive in order and as they were; those of its hop don\'t', async t => {
  const { ask } = await planner(t)
  const kept = [
    'Server: agent/1', 'Date: Thu, 01 Jan 2026 00:00:00 GMT', 'Set-Cookie: a=1; Path=/; HttpOnly', 'Set-Cookie: b=2', 'set-cookie: a=3', 'Content-Type: text/plain;charset=ISO-8859-1', 'Content-Encoding: gzip',
    'ETag: W/"x"', 'Vary: Accept', 'X-Empty:', 'X-A: 1', 'X-B: 2', 'X-A: 3', 'X-Tab: a\tb', 'X-Bytes: caf\xe9 \xff', 'Content-Location: /other', 'Refresh: 5; url=/x', 'WWW-Authenticate: Basic', 'Age: 7',
    'Cache-Control: max-age=1', 'Warning: 199 - "x"', 'Access-Control-Allow-Origin: https://a.example', 'Via: 1.0 agents-own', 'Retry-After: 3', 'Content-Range: bytes 0-1/2', 'Link: </x>; rel=next', 'Proxy-Status: agent'
  ]
  const hop = ['Connection: X-Hop, keep-alive', 'connection:\tx-other ,, X-THIRD', 'X-Hop: 1', 'x-hop: 2', 'X-Other: 1', 'X-Third: 1', 'Keep-Alive: timeout=5', 'Proxy-Connection: x', 'Proxy-Authenticate: Basic', 'Upgrade: h2c', 'TE: trailers']

  const [answer] = await ask(`HTTP/1.1 200 OK\r\n${[...kept, ...hop].join('\r\n')}\r\nContent-Length: 2\r\n\r\nok`)

  const names = answer!.fields.map(([name]) => name)
  for (const name of ['x-hop', 'x-other', 'x-third', 'proxy-connection', 'proxy-authenticate', 'upgrade', 'te']) t.notOk(names.includes(name), name)
  t.notOk(answer!.valuesOf('keep-alive').includes('timeout=5'))
  for (const line of kept) {
    const [name, value] = [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]
    t.ok(answer!.valuesOf(name).includes(value), line)
  }
  t.same(answer!.valuesOf('set-cookie'), ['a=1; Path=/; HttpOnly', 'b=2', 'a=3'])
  t.same(answer!.valuesOf('date').length, 1)
  t.same(answer!.valuesOf('content-type').length, 1)
  t.match(answer!.valuesOf('via').join(', '), /^1\.0 agents-own, 1\.1 fleet-/)
  const [bare] = await ask(okAnswer)
  t.same(bare!.valuesOf('content-type'), [], 'none is invented')
  t.same(bare!.valuesOf('server'), [])
})

t.test('Connection of an answer takes neither its framing nor what it can\'t do without', async t => {
  const { ask } = await planner(t)

  const [length] = await ask('HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nok')
  const [chunked] = await ask('HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n')

  t.match([length, chunked], [{ body: 'ok', complete: true }, { body: 'ok', complete: true }])
})

t.test('interim answers reach a client that can read them, and no other', async t => {
  const { ask } = await planner(t)
  const hints = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\n'

  const modern = await ask(hints + hints + okAnswer)
  const old = await ask(hints + okAnswer, { version: '1.0' })
  const unasked = await ask(`HTTP/1.1 100 Continue\r\n\r\n${okAnswer}`)

  t.same(modern.map(({ status }) => status), [103, 103, 200, 200])
  t.same(modern[0]!.fields, [['link', '</a>']])
  t.same(old.map(({ status }) => status), [200])
  t.same(unasked.map(({ status }) => status), [200, 200])
})

t.test('trailers reach a client of HTTP/1.1 and bring nothing of framing; an older one gets the body', async t => {
  const { ask } = await planner(t)
  const answer = (trailers: string) => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n${trailers}\r\n\r\n`

  const [modern, next] = await ask(answer('X-Sum: 7\r\nX-Sum: 8\r\nHost: x\r\nConnection: close'), { fields: 'TE: trailers\r\n' })
  const [old] = await ask(answer('X-Sum: 7'), { version: '1.0' })

  t.match(modern, { body: 'ok', trailers: 'X-Sum: 7\r\nX-Sum: 8', complete: true })
  t.match(next, { status: 200 })
  t.match(old, { body: 'ok', framing: 'close' })
})

t.test('a client of HTTP/1.0 gets no chunks, and its connection is kept only where it asked and the length is known', async t => {
  const { ask } = await planner(t)
  const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'
  const keep = 'Connection: keep-alive\r\n'
  const again = `GET /api/planner/last HTTP/1.0\r\n${host}\r\n`

  const plain = await ask(okAnswer, { version: '1.0' })
  const kept = await ask(okAnswer, { version: '1.0', fields: keep, behind: again })
  const unknown = await ask(chunked, { version: '1.0', fields: keep })
  const head = await ask('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', { version: '1.0', method: 'HEAD' })

  t.match(plain, [{ body: 'ok', framing: 'length' }])
  t.same(plain[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['close'])
  t.equal(kept.length, 2)
  t.same(kept[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['keep-alive'])
  t.match(unknown, [{ body: 'ok', framing: 'close' }])
  t.same(unknown[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['close'])
  t.match(head, [{ status: 200, body: '' }])
})

t.test('bodies are byte for byte the same whatever their coding', async t => {
  const { ask } = await planner(t)
  const bytes = Buffer.from(Array.from({ length: 4_096 }, (_, index) => (index * 7) % 256))

  const [length] = await ask(Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: ${bytes.length}\r\n\r\n`), bytes]))
  const [chunked] = await ask(Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n0\r\n\r\n')]))

  t.ok(Buffer.from(length!.body, 'latin1').equals(bytes))
  t.ok(Buffer.from(chunked!.body, 'latin1').equals(bytes))
})

t.test('a head that leaves before its body keeps its bytes, of an answer and of a refused upgrade', async t => {
  const { agent, gateway } = await planner(t)
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
  for (const [name, status, fields] of [['an answer', '200 OK', ''], ['a refused upgrade', '403 Forbidden', upgrade]] as const) {
    let asked: Socket
    agent.answer = socket => {
      asked = socket
      socket.write(Buffer.from(`HTTP/1.1 ${status}\r\nX-Name: Zo\xc3\xab \xe9\xff\r\nContent-Length: 2\r\n\r\n`, 'latin1'))
    }
    const client = await rawClient(t, gateway.port)

    client.send(`GET /api/planner/x HTTP/1.1\r\n${host}${fields}\r\n`)
    await client.until(/\r\n\r\n$/)
    asked!.write('ok')
    const [answer] = readAnswers(await client.until(/\r\n\r\nok$/), ['GET'])

    t.same(answer!.valuesOf('x-name'), ['Zo\xc3\xab \xe9\xff'], name)
    client.socket.destroy()
  }
})

t.test('a Location is mapped with each spelling of the agent\'s origin, and nothing else that looks like one', async t => {
  const { ask, agent } = await planner(t)
  const at = `127.0.0.1:${agent.port}`
  const table: [string, string][] = [
    ['/x', '/api/planner/x'], ['/', '/api/planner/'], ['/x?a=/b#c', '/api/planner/x?a=/b#c'], ['/?a', '/api/planner/?a'], [`http://${at}/x`, '/api/planner/x'], [`HTTP://${at}/x`, '/api/planner/x'],
    [`http://${at}`, '/api/planner/'], [`http://${at}#f`, '/api/planner/#f'], [`//${at}/x`, '/api/planner/x'], ['/api/planner', '/api/planner'], ['/api/planner?x', '/api/planner?x'], ['/api/planner#x', '/api/planner#x'],
    ['/api/other/x', '/api/planner/api/other/x'], [`http://${at}@evil.example/x`, `http://${at}@evil.example/x`], [`http://user@${at}/x`, `http://user@${at}/x`], [`http://${at}.evil.example/`, `http://${at}.evil.example/`],
    [`https://${at}/x`, `https://${at}/x`], ['?x=1', '?x=1'], ['#x', '#x'], ['./x', './x'], ['x:y', 'x:y'], ['mailto:a@b', 'mailto:a@b'], ['', '']
  ]
  for (const [location, expected] of table) {
    const [answer] = await ask(`HTTP/1.1 302 Found\r\nLocation: ${location}\r\nContent-Length: 0\r\n\r\n`)
    t.same(answer!.valuesOf('location'), [expected], location)
  }
  const [created] = await ask('HTTP/1.1 201 Created\r\nLocation: /things/1\r\nContent-Length: 0\r\n\r\n')
  t.same(created!.valuesOf('location'), ['/api/planner/things/1'])
})

t.test('an answer to an upload that is still coming reaches the client whole, and the connection closes', async t => {
  const table = ['200 OK', '401 Unauthorized', '413 Content Too Large', '500 Oops'].flatMap(status => [['length', status], ['chunked', status]] as const)
  await Promise.all(table.map(async ([framing, status]) => {
    const { gateway, agent } = await planner(t)
    agent.earlyAnswer = framing === 'length'
      ? `HTTP/1.1 ${status}\r\nContent-Length: 2\r\n\r\nok`
      : `HTTP/1.1 ${status}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`
    const answers = readAnswers(await rawRequest(t, gateway.port, `POST /api/planner/x HTTP/1.1\r\n${host}Content-Length: 1000000\r\n\r\n${'x'.repeat(100_000)}`))

    t.match(answers, [{ status: Number(status.slice(0, 3)), body: 'ok', complete: true }], `${status}, ${framing}`)
    t.same(answers[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['close'])
  }))
})

t.test('an answer reaches the client also when the agent resets the connection behind it, with the upload still coming', async t => {
  const { gateway, agent } = await planner(t)
  agent.earlyAnswer = socket => { socket.write('HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno', () => socket.resetAndDestroy()) }
  const statuses: number[] = []
  const upload = `POST /api/planner/x HTTP/1.1\r\n${host}Content-Length: 5000000\r\n\r\n${'x'.repeat(4_000_000)}`
  for (let round = 0; round < 5; round++) { // whether a write or the answer comes first is chance
    const received = await Promise.all(Array.from({ length: 4 }, () => rawRequest(t, gateway.port, upload)))

    statuses.push(...received.flatMap(bytes => readAnswers(bytes)).map(({ status }) => status))
  }

  t.same(statuses, Array(20).fill(413))
})
