/**
 * Requests as bytes (RFC 9112, RFC 9110 §4 and §5): one that can be read in two ways is refused and its connection closed, one that can't
 * arrives as it was, and never does one become two. The agent reads off the wire itself and counts.
 */
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { readAnswers } from '../helpers/answers.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'
import { okAnswer, recordingAgent } from '../helpers/recording-agent.ts'

const host = 'Host: localhost\r\n'
const post = `POST /api/planner/x HTTP/1.1\r\n${host}`
const get = `GET /api/planner/x HTTP/1.1\r\n${host}`
/** A request of its own behind the one in question: told apart from it, it shows that the connection is still in step. */
const last = `GET /api/planner/last HTTP/1.1\r\n${host}Connection: close\r\n\r\n`
/** Looks like a request to whoever takes the bytes before it for less than they are. */
const smuggled = `GET /api/planner/smuggled HTTP/1.1\r\n${host}\r\n`

async function planner (t: Test, options = {}) {
  const agent = await recordingAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...options })
  gateway.server.keepAliveTimeout = 1_000 // a row that fails must not wait for long
  return { agent, gateway }
}

/** Bytes, and which status they are refused with. */
type Refused = [name: string, bytes: string, ...statuses: number[]]

async function refuse (t: Test, table: Refused[]): Promise<void> {
  const { agent, gateway } = await planner(t)
  for (const [name, bytes, ...statuses] of table) {
    agent.reset()
    const answers = readAnswers(await rawRequest(t, gateway.port, Buffer.from(bytes, 'latin1')))

    t.equal(answers.length, 1, `${name}: one answer`)
    t.ok(statuses.includes(answers[0]!.status), `${name}: ${answers[0]!.status} is one of ${statuses.join(', ')}`)
    t.same(answers[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['close'], `${name}: the connection closes`)
    t.same(answers[0]!.valuesOf('content-type'), ['application/problem+json; charset=utf-8'], name)
    t.ok(answers[0]!.complete, `${name}: the length is right`)
    t.same(agent.requests.filter(request => request.complete).map(request => request.target), [], `${name}: nothing arrived`)
  }
}

/** Bytes, and what the agent must have got: its target, and its body. */
type Accepted = [name: string, bytes: string, target: string, body?: string]

async function accept (t: Test, table: Accepted[]): Promise<void> {
  const { agent, gateway } = await planner(t)
  for (const [name, bytes, target, body = ''] of table) {
    agent.reset()
    const answers = readAnswers(await rawRequest(t, gateway.port, Buffer.from(bytes + last, 'latin1')))

    t.same(answers.filter(({ status }) => status >= 200).map(({ status }) => status), [200, 200], `${name}: both are answered`)
    t.same(agent.requests.map(request => request.target).sort(), [target, '/last'].sort(), `${name}: one request, and the next`)
    const request = agent.requests.find(request => request.target === target)
    t.equal(request?.body, body, `${name}: the body`)
    t.ok(request?.complete, `${name}: complete`)
  }
}

t.test('a transfer coding that is not plainly "chunked" is refused', async t => {
  const te = (value: string, rest = '') => `${post}Transfer-Encoding: ${value}\r\n${rest}\r\n0\r\n\r\n${smuggled}`
  await refuse(t, [
    ['xchunked', te('xchunked'), 501, 400],
    ['chunkedx', te('chunkedx'), 501, 400],
    ['a prefix', te('chunke'), 501, 400],
    ['quoted', te('"chunked"'), 501, 400],
    ['a parameter', te('chunked;q=1'), 501, 400],
    ['a vertical tab before', te('\x0bchunked'), 400, 501],
    ['a vertical tab behind', te('chunked\x0b'), 400, 501],
    ['a no-break space', te('\xa0chunked'), 400, 501],
    ['identity', te('identity'), 501, 400],
    ['identity, chunked', te('identity, chunked'), 501, 400],
    ['chunked, identity', te('chunked, identity'), 501, 400],
    ['cow, chunked', te('cow, chunked'), 501],
    ['deflate', te('deflate, chunked'), 501],
    ['chunked twice in one', te('chunked,chunked'), 400],
    ['chunked in two lines', te('chunked', 'Transfer-Encoding: chunked\r\n'), 400],
    ['chunked, then identity in a second line', te('chunked', 'Transfer-Encoding: identity\r\n'), 501, 400],
    ['identity, then chunked in a second line', te('identity', 'Transfer-Encoding: chunked\r\n'), 501, 400],
    ['chunked, then an unknown one in lower case', te('chunked', 'transfer-encoding: cow\r\n'), 501, 400],
    ['an empty one, then chunked', te('', 'Transfer-Encoding: chunked\r\n'), 400],
    ['an empty element', te(', chunked'), 400],
    ['an empty element behind', te('chunked,'), 400],
    ['a folded value', te('\r\n chunked'), 400],
    ['a value folded behind', te('chunked\r\n , identity'), 400],
    ['a bare CR behind', te('chunked\r'), 400],
    ['a bare CR before', te('\rchunked'), 400],
    ['a NUL behind', te('chunked\0'), 400],
    ['a space before the colon', `${post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400],
    ['a tab before the colon', `${post}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400],
    ['a line that begins with a space', `${post} Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400],
    ['the first line begins with a space', `POST /api/planner/x HTTP/1.1\r\n Transfer-Encoding: chunked\r\n${host}\r\n0\r\n\r\n${smuggled}`, 400],
    ['a length beside', te('chunked', 'Content-Length: 5\r\n'), 400],
    ['a length of 0 beside', te('chunked', 'Content-Length: 0\r\n'), 400],
    ['a length before', `${post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX`, 400],
    ['a length beside an unknown coding', te('xchunked', 'Content-Length: 5\r\n'), 400, 501],
    ['a length behind a bare LF', te('chunked\nContent-Length: 5'), 400],
    ['HTTP/1.0', `POST /api/planner/x HTTP/1.0\r\n${host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400],
    ['HTTP/1.0 with keep-alive', `POST /api/planner/x HTTP/1.0\r\n${host}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400],
    ['GET with both', `${get}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`, 400]
  ])
})

t.test('a length that is not plainly one number is refused', async t => {
  const cl = (value: string, rest = '') => `${post}Content-Length: ${value}\r\n${rest}\r\nabc${smuggled}`
  await refuse(t, [
    ['a plus', cl('+3'), 400],
    ['a minus', cl('-3'), 400],
    ['minus zero', cl('-0'), 400],
    ['hexadecimal', cl('0x3'), 400],
    ['an exponent', cl('3e0'), 400],
    ['a fraction', cl('3.0'), 400],
    ['an inner space', cl('3 4'), 400],
    ['a letter behind', cl('3a'), 400],
    ['a letter', cl('three'), 400],
    ['a semicolon', cl('3;'), 400],
    ['quoted', cl('"3"'), 400],
    ['nothing', cl(''), 400],
    ['only spaces', cl('   '), 400],
    ['a list of equals', cl('3, 3'), 400],
    ['a list of equals without space', cl('3,3'), 400],
    ['a list that differs', cl('3, 30'), 400],
    ['an empty element', cl('3,'), 400],
    ['an empty element before', cl(',3'), 400],
    ['a second line that differs', cl('3', 'Content-Length: 30\r\n'), 400],
    ['a second line in lower case', cl('30', 'content-length: 3\r\n'), 400],
    ['a second line that is empty', cl('3', 'Content-Length:\r\n'), 400],
    ['2^64', cl('18446744073709551616'), 400],
    ['2^64 + 3', cl('18446744073709551619'), 400],
    ['many digits', cl('9'.repeat(400)), 400],
    ['a vertical tab', cl('\x0b3'), 400],
    ['a no-break space', cl('\xa03'), 400],
    ['a NUL', cl('3\0'), 400],
    ['folded', cl('\r\n 3'), 400],
    ['a bare CR', cl('3\r'), 400],
    ['a space before the colon', `${post}Content-Length : 3\r\n\r\nabc${smuggled}`, 400],
    ['a tab before the colon', `${post}Content-Length\t: 3\r\n\r\nabc${smuggled}`, 400],
    ['an inner space in the name', `${post}Content Length: 3\r\n\r\nabc${smuggled}`, 400],
    ['a line that begins with a tab', `${post}\tContent-Length: 3\r\n\r\nabc${smuggled}`, 400]
  ])
})

t.test('a chunk that is not plainly framed is refused, and the agent never gets a complete request', async t => {
  const chunks = (bytes: string) => `${post}Transfer-Encoding: chunked\r\n\r\n${bytes}`
  await refuse(t, [
    ['0x before the size', chunks(`0x3\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a minus', chunks(`-3\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a plus', chunks(`+3\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a space before the size', chunks(` 3\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['no size', chunks(`\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['no size but an extension', chunks(`;a=b\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['2^64 + 3', chunks(`10000000000000003\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['many digits', chunks(`${'f'.repeat(17)}\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a letter that is no digit', chunks(`3g\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['an underscore', chunks(`1_0\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['more data than the size', chunks(`3\r\nabcd\r\n0\r\n\r\n${smuggled}`), 400],
    ['less data than the size', chunks(`4\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['no line end behind the data', chunks(`3\r\nabc0\r\n\r\n${smuggled}`), 400],
    ['two bytes that are no line end behind the data', chunks(`3\r\nabcXX0\r\n\r\n${smuggled}`), 400],
    ['a bare LF behind the size', chunks(`3\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a bare LF behind the data', chunks(`3\r\nabc\n0\r\n\r\n${smuggled}`), 400],
    ['a bare CR behind the size', chunks(`3\rabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a bare LF behind an extension', chunks(`3;a\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a bare CR in an extension', chunks(`3;a\rb\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a NUL in an extension', chunks(`3;a\0b\r\nabc\r\n0\r\n\r\n${smuggled}`), 400],
    ['a bare LF behind the last chunk', chunks(`3\r\nabc\r\n0\n\n${smuggled}`), 400],
    ['a trailer with a space before its colon', chunks(`0\r\nX-T : 1\r\n\r\n${smuggled}`), 400],
    ['a folded trailer', chunks(`0\r\nX-T: 1\r\n 2\r\n\r\n${smuggled}`), 400],
    ['a trailer with a NUL', chunks(`0\r\nX-T: a\0b\r\n\r\n${smuggled}`), 400],
    ['a trailer that is none', chunks(`0\r\nhello\r\n\r\n${smuggled}`), 400],
    ['trailers over the bound of a head', chunks(`0\r\nX-T: ${'x'.repeat(40_000)}\r\n\r\n${smuggled}`), 400, 431]
  ])
})

t.test('a body is where the framing says, whatever it looks like, and for every method', async t => {
  const body = smuggled
  const chunked = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`
  const methods = ['GET', 'POST', 'DELETE', 'OPTIONS', 'PUT', 'PATCH', 'PROPFIND', 'SEARCH', 'M-SEARCH', 'PURGE', 'LOCK', 'REPORT']
  await accept(t, [
    ...methods.map((method): Accepted => [`${method} with a length`, `${method} /api/planner/x HTTP/1.1\r\n${host}Content-Length: ${body.length}\r\n\r\n${body}`, '/x', body]),
    ...methods.map((method): Accepted => [`${method} in chunks`, `${method} /api/planner/x HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n${chunked}`, '/x', body]),
    ['a length of 0', `${post}Content-Length: 0\r\n\r\n`, '/x'],
    ['leading zeros', `${post}Content-Length: 0003\r\n\r\nabc`, '/x', 'abc'],
    ['spaces around the length', `${post}Content-Length: \t 3 \r\n\r\nabc`, '/x', 'abc'],
    ['no space before the length', `${post}Content-Length:3\r\n\r\nabc`, '/x', 'abc'],
    ['chunked in odd case', `${post}tRANSFER-eNCODING: ChUnKeD\r\n\r\n3\r\nabc\r\n0\r\n\r\n`, '/x', 'abc'],
    ['a tab before chunked', `${post}Transfer-Encoding:\tchunked \r\n\r\n3\r\nabc\r\n0\r\n\r\n`, '/x', 'abc'],
    ['no chunk but the last', `${post}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, '/x'],
    ['a last chunk of many zeros', `${post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n000000\r\n\r\n`, '/x', 'abc'],
    ['a size with leading zeros', `${post}Transfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n0\r\n\r\n`, '/x', 'abc'],
    ['a size in capitals', `${post}Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n`, '/x', '0123456789'],
    ['an extension', `${post}Transfer-Encoding: chunked\r\n\r\n3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n`, '/x', 'abc'],
    ['trailers', `${post}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n`, '/x', 'abc'],
    ['trailers of framing', `${post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nHost: evil\r\nX-Fleet-Token: a\r\nAuthorization: b\r\n\r\n`, '/x', 'abc'],
    ['two spaces before the target', `GET  /api/planner/x HTTP/1.1\r\n${host}\r\n`, '/x'], // RFC 9112 §3 allows to read it so
    ['two spaces behind the target', `GET /api/planner/x  HTTP/1.1\r\n${host}\r\n`, '/x'],
    ['an empty line before the request', `\r\n${post}Content-Length: 3\r\n\r\nabc`, '/x', 'abc'],
    ['two empty lines before the request', `\r\n\r\n${post}Content-Length: 3\r\n\r\nabc`, '/x', 'abc'],
    ['an empty line behind the body', `${post}Content-Length: 3\r\n\r\nabc\r\n`, '/x', 'abc']
  ])
})

t.test('trailers that would frame the message anew don\'t', async t => {
  const { agent, gateway } = await planner(t)
  for (const trailer of ['Transfer-Encoding: chunked', 'Content-Length: 5', 'Transfer-Encoding: cow', 'Connection: X-A']) {
    agent.reset()

    const answers = readAnswers(await rawRequest(t, gateway.port, `${post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n${trailer}\r\n\r\n${last}`))

    // Refused or dropped: what may not be is that what follows is read another way.
    const targets = agent.requests.filter(request => request.complete).map(request => request.target)
    t.ok(targets.every(target => target === '/x' || target === '/last') && targets.length === new Set(targets).size, `${trailer}: ${targets.join(' ')}`)
    t.ok(answers.every(({ status }) => status === 200 || status === 400), `${trailer}: ${answers.map(({ status }) => status).join(' ')}`)
    for (const request of agent.requests) t.equal(request.trailers, '', trailer)
  }
})

t.test('a request line or field line that is not plainly one is refused', async t => {
  const line = (text: string) => `${text}\r\n${host}\r\n${smuggled}`
  const field = (text: string) => `${get}${text}\r\n\r\n${smuggled}`
  await refuse(t, [
    ['HTTP/0.9', 'GET /api/planner/x\r\n\r\n', 400],
    ['HTTP/0.9 with fields', line('GET /api/planner/x'), 400],
    ['a space behind the version', line('GET /api/planner/x HTTP/1.1 '), 400],
    ['a tab before the target', line('GET\t/api/planner/x HTTP/1.1'), 400],
    ['a tab behind the target', line('GET /api/planner/x\tHTTP/1.1'), 400],
    ['a space before the method', line(' GET /api/planner/x HTTP/1.1'), 400],
    ['a space in the target', line('GET /api/planner/x y HTTP/1.1'), 400],
    ['a control byte in the target', line('GET /api/planner/x\x01 HTTP/1.1'), 400],
    ['a NUL in the target', line('GET /api/planner/x\0 HTTP/1.1'), 400],
    ['DEL in the target', line('GET /api/planner/x\x7f HTTP/1.1'), 400],
    ['a bare CR in the target', line('GET /api/planner/x\r HTTP/1.1'), 400],
    ['HTTP/2.0', line('GET /api/planner/x HTTP/2.0'), 400, 505],
    ['HTTP/3.0', line('GET /api/planner/x HTTP/3.0'), 400, 505],
    ['HTTP/0.9 in words', line('GET /api/planner/x HTTP/0.9'), 400, 505],
    ['HTTP/1.11', line('GET /api/planner/x HTTP/1.11'), 400, 505],
    ['HTTP/01.1', line('GET /api/planner/x HTTP/01.1'), 400, 505],
    ['HTTP/1', line('GET /api/planner/x HTTP/1'), 400, 505],
    ['a version in lower case', line('GET /api/planner/x http/1.1'), 400, 505],
    ['another protocol', line('GET /api/planner/x ICE/1.0'), 400, 505],
    ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400, 505],
    ['a method in lower case', line('get /api/planner/x HTTP/1.1'), 400, 501],
    ['a method nobody knows', line('WONDER /api/planner/x HTTP/1.1'), 400, 501],
    ['a method that begins like one', line('GETS /api/planner/x HTTP/1.1'), 400, 501],
    ['a very long method', line(`${'A'.repeat(10_000)} /api/planner/x HTTP/1.1`), 400, 501],
    ['a method with a NUL', line('GE\0T /api/planner/x HTTP/1.1'), 400, 501],
    ['TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', 400],
    ['a target without a slash', line('GET api/planner/x HTTP/1.1'), 400],
    ['authority-form', line('GET localhost:80 HTTP/1.1'), 400],
    ['asterisk-form', line('GET * HTTP/1.1'), 400, 404],
    ['an empty name', field(': x'), 400],
    ['no colon', field('hello'), 400],
    ['a space before the colon', field('X-A : 1'), 400],
    ['a name in brackets', field('X(A): 1'), 400],
    ['a NUL in a name', field('X\0A: 1'), 400],
    ['a byte beyond ASCII in a name', field('X\xe9: 1'), 400],
    ['an @ in a name', field('X@A: 1'), 400],
    ['a folded line', field('X-A: 1\r\n  2'), 400],
    ['a folded line with a tab', field('X-A: 1\r\n\t2'), 400],
    ['a folded empty value', field('X-A:\r\n 2'), 400],
    ['a NUL in a value', field('X-A: a\0b'), 400],
    ['a control byte in a value', field('X-A: a\x02b'), 400],
    ['a vertical tab in a value', field('X-A: a\x0bb'), 400],
    ['a form feed in a value', field('X-A: a\x0cb'), 400],
    ['an escape in a value', field('X-A: a\x1bb'), 400],
    ['DEL in a value', field('X-A: a\x7fb'), 400],
    ['a bare CR in a value', field('X-A: a\rb'), 400],
    ['a bare CR that ends a line', `${get}X-A: a\rX-B: b\r\n\r\n${smuggled}`, 400],
    ['bare CRs throughout', `GET /api/planner/x HTTP/1.1\rHost: localhost\r\r${smuggled}`, 400],
    ['a line of a space behind the fields', `${get} \r\n\r\n${smuggled}`, 400]
  ])
})

t.test('a Host that is missing, double or none is refused, wherever the target leads', async t => {
  const withHost = (lines: string, target = '/api/planner/x') => `GET ${target} HTTP/1.1\r\n${lines}\r\n${smuggled}`
  await refuse(t, [
    ['none', withHost(''), 400],
    ['none, and an absolute target', withHost('', 'http://localhost/api/planner/x'), 400],
    ['none, and an unknown path', withHost('', '/nowhere'), 400],
    ['two', withHost('Host: localhost\r\nHost: localhost\r\n'), 400],
    ['two that differ', withHost('Host: localhost\r\nhost: other\r\n'), 400],
    ['two, the second empty', withHost('Host: localhost\r\nHost:\r\n'), 400],
    ['two, apart', withHost('Host: localhost\r\nX-A: 1\r\nHOST: localhost\r\n'), 400],
    ['empty', withHost('Host:\r\n'), 400],
    ['spaces', withHost('Host:   \r\n'), 400],
    ['a list', withHost('Host: localhost, localhost\r\n'), 400],
    ['an inner space', withHost('Host: local host\r\n'), 400],
    ['a path', withHost('Host: localhost/x\r\n'), 400],
    ['a query', withHost('Host: localhost?x\r\n'), 400],
    ['userinfo', withHost('Host: me@localhost\r\n'), 400],
    ['a scheme', withHost('Host: http://localhost\r\n'), 400],
    ['a port that is none', withHost('Host: localhost:http\r\n'), 400],
    ['a port with a sign', withHost('Host: localhost:+80\r\n'), 400],
    ['a port over 65535', withHost('Host: localhost:65536\r\n'), 400],
    ['two ports', withHost('Host: localhost:80:80\r\n'), 400],
    ['only a port', withHost('Host: :80\r\n'), 400],
    ['a bracket', withHost('Host: [::1\r\n'), 400],
    ['an IPv6 address without brackets', withHost('Host: ::1\r\n'), 400],
    ['brackets around nothing', withHost('Host: []\r\n'), 400],
    ['a name in brackets', withHost('Host: [localhost]\r\n'), 400],
    ['broken percent-encoding', withHost('Host: local%zzhost\r\n'), 400],
    ['a backslash', withHost('Host: local\\host\r\n'), 400],
    ['bytes beyond ASCII', withHost('Host: caf\xe9\r\n'), 400],
    ['a space before the colon', withHost('Host : localhost\r\n'), 400],
    ['userinfo in the target', withHost(host, 'http://me@localhost/api/planner/x'), 400],
    ['userinfo with a password in the target', withHost(host, 'http://me:you@localhost/api/planner/x'), 400],
    ['an empty authority', withHost(host, 'http:///api/planner/x'), 400],
    ['an odd authority', withHost(host, 'http://local host/api/planner/x'), 400],
    ['an authority with a bad port', withHost(host, 'http://localhost:99999/api/planner/x'), 400],
    ['a scheme that is none of ours', withHost(host, 'ftp://localhost/api/planner/x'), 400]
  ])
})

/** A client, and an agent that answers all but `/first`: `first` is the connection on which that waits for the test to answer. */
async function firstUnanswered (t: Test) {
  const { agent, gateway } = await planner(t)
  const client = await rawClient(t, gateway.port)
  const first = new Promise<Socket>(resolve => {
    agent.answer = (socket, { target }) => {
      if (target === '/first') resolve(socket)
      else socket.write(okAnswer)
    }
  })
  return { agent, gateway, client, first }
}

t.test('pipelined requests reach agents one after the other as soon as one of them changes something', async t => {
  const { agent, gateway, client, first } = await firstUnanswered(t)
  const request = (method: string, path: string, close = '') => `${method} /api/planner/${path} HTTP/1.1\r\n${host}${close}Content-Length: 0\r\n\r\n`

  client.send(request('POST', 'first') + request('GET', 'second') + request('DELETE', 'third') + request('GET', 'fourth', 'Connection: close\r\n'))
  const socket = await first
  // Had the second been let through, it would be here before an answer to somebody who asked later.
  await rawRequest(t, gateway.port, `GET /api/planner/other HTTP/1.1\r\n${host}Connection: close\r\n\r\n`)
  t.same(agent.requests.map(({ target }) => target), ['/first', '/other'])
  socket.write(okAnswer)

  t.same(readAnswers(await client.closed()).map(({ status }) => status), [200, 200, 200, 200])
  const arrived = agent.requests.map(({ target }) => target)
  t.same(arrived.filter(target => target !== '/other'), ['/first', '/second', '/third', '/fourth'])
})

t.test('nothing behind an expectation that is refused in its turn reaches an agent', async t => {
  const { agent, gateway, client, first } = await firstUnanswered(t)

  client.send(`GET /api/planner/first HTTP/1.1\r\n${host}\r\n${get}Expect: wonders\r\n\r\n${get}\r\n`)
  const socket = await first
  // Had the third been let through, it would be here before an answer to somebody who asked later.
  await rawRequest(t, gateway.port, `GET /api/planner/other HTTP/1.1\r\n${host}Connection: close\r\n\r\n`)
  socket.write(okAnswer)

  t.same(readAnswers(await client.closed()).map(({ status }) => status), [200, 417])
  t.same(agent.requests.map(({ target }) => target), ['/first', '/other'])
})

t.test('a body that comes together with its expectation, behind another request, leaves the connection to the next request', async t => {
  const { agent, gateway } = await planner(t)

  const text = await rawRequest(t, gateway.port, `${get}\r\n${post}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi${last}`)

  t.same(readAnswers(text).map(({ status }) => status).filter(status => status !== 100), [200, 200, 200])
  t.same(agent.requests.map(({ target }) => target), ['/x', '/x', '/last'])
})

t.test('hundreds of pipelined requests that change something cost one listener each', async t => {
  const agent = await fakeAgent(t, (request, response) => { request.resume(); response.end(request.url) })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const warnings: string[] = []
  const listen = (warning: Error) => { warnings.push(warning.name) }
  process.on('warning', listen)
  t.teardown(() => process.off('warning', listen))
  const client = await rawClient(t, gateway.port)

  const count = 500
  client.send(Array.from({ length: count }, (_, index) => `POST /api/planner/${index} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`).join(''))
  await client.until(new RegExp(`/${count - 1}$`))

  t.same(agent.requests, Array.from({ length: count }, (_, index) => `POST /${index}`))
  t.same(warnings, [])
})
