/**
 * Header fields and targets on their way to an agent (RFC 9110 §5 and §7.6, RFC 7239, W3C Trace Context), the gateway's credentials,
 * `Expect`, and the bounds of heads and bodies, over raw sockets on both sides.
 */
import t, { type Test } from 'tap'
import { readAnswers, type Answer } from '../helpers/answers.ts'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { rawRequest } from '../helpers/raw-client.ts'
import { recordingAgent, type ReceivedRequest } from '../helpers/recording-agent.ts'

const secret = 'fleet-secret-token'

interface Asking { method?: string, target?: string, version?: string, host?: string, lines?: string[], body?: string }

async function planner (t: Test, options = {}, policy = {}) {
  const agent = await recordingAgent(t)
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), aliases: ['plan'], ...policy }], ...options })
  gateway.server.keepAliveTimeout = 1_000 // a row that fails must not wait for long
  const ask = async ({ method = 'GET', target = '/api/planner/x', version = '1.1', host = 'localhost', lines = [], body = '' }: Asking = {}): Promise<{ answer: Answer, got: ReceivedRequest | undefined }> => {
    agent.reset()
    const head = [`${method} ${target} HTTP/${version}`, ...(host === '' ? [] : [`Host: ${host}`]), ...lines, 'Connection: close', '', ''].join('\r\n')
    const [answer] = readAnswers(await rawRequest(t, gateway.port, Buffer.from(head + body, 'latin1')), [method])
    t.ok(agent.requests.length <= 1, 'never more than one')
    return { answer: answer!, got: agent.requests[0] }
  }
  return { agent, gateway, ask }
}

t.test('what stands behind the agent\'s name arrives byte for byte', async t => {
  const { ask } = await planner(t)
  const rests = [
    '/', '/x', '//', '///x//', '/./x', '/x/.', '/.', '/.../x', '/..x', '/x..', '/x..y/z', '/a%20b', '/a+b', '/%2F', '/%2f%2F', '/a%2Fb%2fc', '/%25', '/%252e%252e/x', '/%252F', '/%C3%A9', '/%ff%fe', '/%E2%82', '/a;b=c', '/;', '/:',
    '/a:b@c', '/~x', '/$&\'()*+,=!', '/[x]', '/{x}', '/|', '/^', '/`', '/"', '/<x>', '/a,b', '/..;/x', '/%2e', '/%2E/x', '/x%2e%2ex', '/x?', '/?', '/x??', '/x?a=1&a=2?x', '/x?a=%zz', '/x?%', '/x?a=/../b', '/x?../..', '/x?a=b\\c',
    '/x?%00', '/x?a=%2F&b=%2f', '/x?a=+%20', '/x?[]=1&{}', '/x?&&==', '/x?a;b', '/x?é'.replace('é', '%C3%A9'), '/api/planner/x', '/http://a/b', '/x?u=http://a/b?c', `/${'x'.repeat(20_000)}`, `/x?${'q'.repeat(20_000)}`
  ]
  for (const rest of rests) {
    const { got } = await ask({ target: `/api/planner${rest}` })
    t.equal(got?.target, rest, rest.slice(0, 40))
  }
  const table: [string, string][] = [
    ['/api/planner', '/'], ['/api/planner?a', '/?a'], ['/api/planner?', '/?'], ['/api/planner?/x', '/?/x'], ['/api/plan/x', '/x'], ['/api/%70%6c%61%6e/x', '/x'], ['/api/pl%61n?q=%61', '/?q=%61'],
    ['http://localhost/api/planner/x', '/x'], ['HTTP://LOCALHOST:80/api/planner//x?y', '//x?y'], ['https://localhost/api/planner', '/']
  ]
  for (const [target, expected] of table) t.equal((await ask({ target })).got?.target, expected, target)
})

t.test('a path with two readings is 400, one that leads nowhere 404, and neither arrives', async t => {
  const { ask } = await planner(t)
  const bad = [
    '/api/planner/..', '/api/planner/../x', '/api/planner/x/..', '/api/planner/x/../../y', '/api/..', '/..', '/api/planner/%2e%2e', '/api/planner/.%2e/x', '/api/planner/%2E.', '/api/planner/..%2fx', '/api/planner/x%2f..', '/api/planner/%2f..%2f',
    '/api/planner/..%5cx', '/api/planner/x%5C..', '/api/planner/%2e%2e%5c', '/api/planner/\\', '/api/planner/a\\b', '/api\\planner', '/api/planner/%00', '/api/planner/a%0ab', '/api/planner/%0d%0a', '/api/planner/%09', '/api/planner/%1f',
    '/api/planner/%7f', '/api/planner/%7F', '/api/planner/%', '/api/planner/%2', '/api/planner/%zz', '/api/planner/%u0041', '/api/planner/%%20', '/api/planner/%-1', '/api/%/x', '/api/planner%00/x', '/api/planner/x#y', '/api/planner/x?a#b', '/api/planner?#',
    '/api/planner/..?x', '/api/planner/%2e%2e?x', 'http://localhost/api/planner/../x', '/api/planner/\xe9', '/api/planner/x?\xff'
  ]
  for (const target of bad) {
    const { answer, got } = await ask({ target })
    t.equal(answer.status, 400, target)
    t.match(answer.body, /"code":"FLEET_BAD_REQUEST"/, target)
    t.equal(got, undefined, target)
  }
  const nowhere = [
    '/api', '/api/', '/api//planner/x', '/api//', '//api/planner/x', '/./api/planner/x', '/api/./planner/x', '/API/planner/x', '/ap%69/planner/x', '/api%2Fplanner/x', '/api/Planner/x', '/api/planner%2Fx', '/api/planne/x', '/api/planner;a/x', '/api/%2570lanner/x',
    '/api/planner%20/x', '/api/constructor/x', '/api/__proto__', '/api/%ff/x', '/apiplanner/x'
  ]
  for (const target of nowhere) {
    const { answer, got } = await ask({ target })
    t.equal(answer.status, 404, target)
    t.equal(got, undefined, target)
  }
})

t.test('fields of the hop stay behind in every spelling, and so does what Connection names', async t => {
  const { ask } = await planner(t)
  const { got } = await ask({
    lines: [
      'connection: X-One', 'CONNECTION:\tx-TWO ,,X-Three,', 'X-One: 1', 'x-two: 1', 'X-THREE: 1', 'x-three: 2', 'Connection: Authorization, Cookie, X-Forwarded-For, Via, traceparent, X-Request-Id, Accept', 'Cookie: a=1', 'Accept: */*', 'Keep-Alive: 5',
      'Proxy-Connection: x', 'Proxy-Authorization: Basic x', 'Proxy-Authenticate: x', 'TE: trailers, gzip', 'Trailer: X-T', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk', 'X-Fleet-Token: abc', 'x-fleet_token: abc', 'X_Forwarded_For: 9.9.9.9', 'X-Kept: 1'
    ]
  })

  t.same(got!.fields.map(([name]) => name.toLowerCase()).sort(), [
    'connection', 'forwarded', 'host', 'traceparent', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-prefix', 'x-forwarded-proto', 'x-kept', 'x-request-id'
  ])
  t.same(got!.valuesOf('x-forwarded-for'), ['127.0.0.1'])
})

t.test('Connection takes neither framing nor Host away', async t => {
  const { ask } = await planner(t)
  const { got } = await ask({ method: 'POST', lines: ['Connection: Content-Length, Host', 'Content-Length: 3'], body: 'abc' })
  const { got: chunked } = await ask({ method: 'POST', lines: ['Connection: Transfer-Encoding', 'Transfer-Encoding: chunked'], body: '3\r\nabc\r\n0\r\n\r\n' })

  t.match([got, chunked], [{ body: 'abc', complete: true }, { body: 'abc', complete: true }])
  t.equal(got!.valuesOf('host').length, 1)
})

t.test('other fields arrive as they were, in order, with duplicates', async t => {
  const { ask } = await planner(t)
  const kept = [
    'X-A: 1', 'X-B: 2', 'x-a: 3', 'X-A: 3', 'X-Empty:', 'X-Tab: a\tb', 'X-Inner: a  b', 'X-Bytes: caf\xe9\xff', 'Cookie: a=1; b=2', 'Cookie: c=3', 'Accept: a', 'Accept: b', 'User-Agent: x', 'Range: bytes=0-1', 'If-None-Match: "x", W/"y"',
    'Accept-Encoding: gzip;q=0.5, br', 'Content-Type: text/plain; charset="x"', 'Authorization: Basic abc', 'Authorization: Basic def', 'Date: yesterday', 'X-Under_score: 1', '!#$%&\'*+-.^_`|~9: odd', `X-Long: ${'x'.repeat(20_000)}`, 'Max-Forwards: 3'
  ]
  const { got } = await ask({ lines: kept })

  const sent = new Set(kept.map(line => line.slice(0, line.indexOf(':'))))
  t.same(got!.fields.filter(([name]) => sent.has(name)).map(([name, value]) => `${name}: ${value}`.trim()), kept)

  const many = Array.from({ length: 200 }, (_, index) => `X-${index}: ${index}`)
  const { got: all } = await ask({ lines: many })
  t.same(all!.fields.filter(([name]) => /^X-\d/.test(name)).map(([name, value]) => `${name}: ${value}`), many)
})

t.test('OPTIONS goes as far as Max-Forwards says, other methods do not count', async t => {
  const { ask } = await planner(t)
  const asked = async (method: string, hops: string) => {
    const { got, answer } = await ask({ method, lines: [`Max-Forwards: ${hops}`] })
    return got?.valuesOf('max-forwards')[0] ?? [answer?.status, answer?.valuesOf('allow')[0]?.includes('PROPFIND')]
  }
  t.same(await asked('OPTIONS', '0'), [204, true], 'the gateway answers itself')
  t.same(await asked('OPTIONS', '00'), [204, true])
  for (const [method, hops, arrives] of [['OPTIONS', '1', '0'], ['OPTIONS', '7', '6'], ['OPTIONS', 'x', 'x'], ['GET', '0', '0'], ['GET', '3', '3'], ['OPTIONS', '3\r\nMax-Forwards: 0', '2']] as const) t.equal(await asked(method, hops), arrives, `${method} ${hops}`)
})

t.test('forwarding fields: said anew for a stranger, continued for a trusted proxy', async t => {
  const { ask } = await planner(t)
  const spoofed = ['X-Forwarded-For: 9.9.9.9', 'x-forwarded-for: 8.8.8.8', 'Forwarded: for=9.9.9.9', 'X-Forwarded-Host: evil', 'X-Forwarded-Proto: https', 'X-Forwarded-Port: 1', 'X-Forwarded-Prefix: /evil', 'X-Real-IP: 9.9.9.9', 'X-Forwarded-Server: x', 'X-Forwarded: x']
  const { got: stranger } = await ask({ host: 'LocalHost:81', lines: spoofed })
  t.same(['x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-prefix', 'forwarded', 'x-real-ip', 'x-forwarded-port', 'x-forwarded-server'].map(name => stranger!.valuesOf(name)),
    [['127.0.0.1'], ['LocalHost:81'], ['http'], ['/api/planner'], ['for=127.0.0.1;host="LocalHost:81";proto=http'], [], [], []])

  const { ask: askTrusted } = await planner(t, { server: { trustedProxies: ['127.0.0.1'] } })
  const { got: trusted } = await askTrusted({ lines: ['X-Forwarded-For: 192.0.2.1', 'X-Forwarded-For: 2001:db8::1', 'Forwarded: for="[2001:db8::1]"', 'Forwarded: for=192.0.2.1;proto=https', 'X-Forwarded-Proto: https', 'X-Forwarded-Host: front.example'] })
  t.same(trusted!.valuesOf('x-forwarded-for'), ['192.0.2.1, 2001:db8::1, 127.0.0.1'])
  t.same(trusted!.valuesOf('forwarded'), ['for="[2001:db8::1]", for=192.0.2.1;proto=https, for=127.0.0.1;host="localhost";proto=http'])
  t.same(trusted!.valuesOf('x-forwarded-proto'), ['https'])
  t.same(trusted!.valuesOf('x-forwarded-host'), ['front.example'])

  const { got: bare } = await askTrusted()
  t.same(bare!.valuesOf('x-forwarded-for'), ['127.0.0.1'])
  t.same(bare!.valuesOf('x-forwarded-host'), ['localhost'])
})

t.test('the authority of an absolute target is what the request is for, whatever Host says', async t => {
  const { ask } = await planner(t, {}, { preserveHost: true })
  const { got } = await ask({ target: 'http://127.0.0.1:99/api/planner/x', host: 'localhost' })

  t.same(got!.valuesOf('host'), ['127.0.0.1:99'])
  t.same(got!.valuesOf('x-forwarded-host'), ['127.0.0.1:99'])
  t.match(got!.valuesOf('forwarded'), [/host="127\.0\.0\.1:99"/])
})

t.test('preserveHost without any Host still names the instance', async t => {
  const { ask, agent } = await planner(t, {}, { preserveHost: true })

  t.same((await ask({ version: '1.0', host: '' })).got!.valuesOf('host'), [`127.0.0.1:${agent.port}`])
  t.same((await ask({ lines: ['Connection: Host'] })).got!.valuesOf('host'), ['localhost'])
})

t.test('request ids and traces: a sane one goes on, any other is made anew', async t => {
  const { ask } = await planner(t)
  const ids: [string[], boolean][] = [[['abc-123'], true], [['A.b_c~d+e/f=g:h'], true], [['x'.repeat(128)], true], [['x'.repeat(129)], false], [[''], false], [['a b'], false], [['a,b'], false], [['a"b'], false], [['<x>'], false], [['caf\xe9'], false], [['one', 'two'], false], [['same', 'same'], false]]
  for (const [values, kept] of ids) {
    const { answer, got } = await ask({ lines: values.map(value => `X-Request-Id: ${value}`) })
    t.equal(got!.valuesOf('x-request-id').length, 1)
    t.same(got!.valuesOf('x-request-id'), answer.valuesOf('x-request-id'))
    t.equal(got!.valuesOf('x-request-id')[0] === values[0], kept, values.join(' and '))
  }
  const id = '0af7651916cd43dd8448eb211c80319c'
  const parent = 'b7ad6b7169203331'
  const traces: [string[], boolean][] = [
    [[`00-${id}-${parent}-01`], true], [[`00-${id}-${parent}-00`], true], [[`00-${id}-${parent}-ff`], true], [[`01-${id}-${parent}-01`], true], [[`cc-${id}-${parent}-01-more`], true], [[`cc-${id}-${parent}-01.more`], false], [[`00-${id}-${parent}-01-more`], false],
    [[`ff-${id}-${parent}-01`], false], [[`00-${id.toUpperCase()}-${parent}-01`], false], [[`00-${id}-${parent.toUpperCase()}-01`], false], [[`00-${'0'.repeat(32)}-${parent}-01`], false], [[`00-${id}-${'0'.repeat(16)}-01`], false], [[`0-${id}-${parent}-01`], false],
    [[`00-${id}-${parent}`], false], [[`00-${id}-${parent}-1`], false], [[`00-${id}-${parent}-0x`], false], [[`00_${id}_${parent}_01`], false], [[''], false], [['x'], false], [[`00-${id}-${parent}-01`, `00-${id}-${parent}-01`], false], [[`00-${id}-${parent}-01,00-${id}-${parent}-01`], false]
  ]
  for (const [values, kept] of traces) {
    const { got } = await ask({ lines: [...values.map(value => `traceparent: ${value}`), 'tracestate: a=1', 'TraceState: b=2'] })
    const [trace, ...more] = got!.valuesOf('traceparent')
    t.same(more, [])
    t.match(trace, /^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}/)
    t.equal(trace!.slice(3, 35) === id, kept, values.join(' and '))
    t.same(got!.valuesOf('tracestate'), kept ? ['a=1', 'b=2'] : [])
  }
})

t.test('Via is appended to, and a loop over another proxy is found', async t => {
  const { ask } = await planner(t)
  const { got } = await ask({ version: '1.1', lines: ['Via: 1.0 fred, 1.1 p.example.net', 'Via: 1.1 other'] })
  const { got: old } = await ask({ version: '1.0' })
  const own = /fleet-\w+/.exec(got!.valuesOf('via').at(-1)!)![0]

  t.match(got!.valuesOf('via').join(', '), /^1\.0 fred, 1\.1 p\.example\.net, 1\.1 other, 1\.1 fleet-\w+$/)
  t.match(old!.valuesOf('via'), [/^1\.0 fleet-/])
  for (const lines of [[`Via: 1.1 ${own}`], [`Via: 1.1 a, 1.1 ${own} (comment)`], ['Via: 1.1 a', `via: 1.1 ${own}`], [`Via: 1.1 ${own}`, 'Connection: Via']]) {
    const { answer, got } = await ask({ lines })
    t.equal(answer.status, 508, lines.join(' '))
    t.equal(got, undefined)
  }
  t.equal((await ask({ lines: ['Via: 1.1 fleet-000000000000'] })).answer.status, 200, 'another gateway')
})

t.test('the token that opened the gateway is at no agent, and the agent\'s own credentials are', async t => {
  const { ask } = await planner(t, { auth: { secret } })
  const bearer = `Authorization: Bearer ${secret}`
  const table: [string, string[], number, string[]?][] = [
    ['none', [], 401], ['Bearer', [bearer], 200, []], ['in lower case', [`authorization: bearer ${secret}`], 200, []], ['in capitals', [`AUTHORIZATION: BEARER ${secret}`], 200, []], ['with several spaces', [`Authorization: Bearer   ${secret}`], 200, []],
    ['a wrong one', ['Authorization: Bearer wrong'], 401], ['Basic', ['Authorization: Basic abc'], 401], ['no scheme', [`Authorization: ${secret}`], 401], ['no token', ['Authorization: Bearer'], 401], ['an empty one', ['Authorization: '], 401],
    ['two', [bearer, bearer], 401], ['two that differ', [bearer, 'Authorization: Bearer x'], 401], ['a list', [`${bearer}, Bearer x`], 401], ['X-Fleet-Token', [`X-Fleet-Token: ${secret}`], 200, []],
    ['X-Fleet-Token and Basic', [`X-Fleet-Token: ${secret}`, 'Authorization: Basic abc'], 200, ['Basic abc']], ['X-Fleet-Token and another Bearer', [`x-fleet-token: ${secret}`, 'Authorization: Bearer mine'], 200, ['Bearer mine']],
    ['both the gateway\'s', [`X-Fleet-Token: ${secret}`, bearer], 200, []], ['a wrong X-Fleet-Token beside a right Bearer', ['X-Fleet-Token: wrong', bearer], 401], ['an empty X-Fleet-Token beside a right Bearer', ['X-Fleet-Token:', bearer], 401],
    ['two X-Fleet-Tokens', [`X-Fleet-Token: ${secret}`, `X-Fleet-Token: ${secret}`], 401], ['X-Fleet-Token with a scheme', [`X-Fleet-Token: Bearer ${secret}`], 401], ['in the query', [], 401], ['in a cookie', [`Cookie: token=${secret}`], 401]
  ]
  for (const [name, lines, status, authorization = []] of table) {
    const { answer, got } = await ask({ lines, target: name === 'in the query' ? `/api/planner/x?token=${secret}&access_token=${secret}` : '/api/planner/x' })
    t.equal(answer.status, status, name)
    if (status === 401) {
      t.match(answer.valuesOf('www-authenticate'), [/^Bearer/], name)
      t.equal(got, undefined, name)
    } else {
      t.same(got?.valuesOf('authorization'), authorization, name)
      t.notOk(got?.head.includes(secret), name)
    }
  }
})

t.test('with auth off Authorization passes, and X-Fleet-Token does not', async t => {
  const { ask } = await planner(t)
  const { got } = await ask({ lines: ['Authorization: Bearer mine', 'X-Fleet-Token: x'] })

  t.same(got!.valuesOf('authorization'), ['Bearer mine'])
  t.same(got!.valuesOf('x-fleet-token'), [])
})

t.test('Expect: the 100 is the gateway\'s, after everything that could refuse', async t => {
  const { gateway, agent } = await planner(t, { auth: { secret }, server: { bodyLimit: '1KiB' } })
  const head = (lines: string[], target = '/api/planner/x', version = '1.1') => [`POST ${target} HTTP/${version}`, 'Host: localhost', ...lines, 'Connection: close', '', ''].join('\r\n')
  const token = `X-Fleet-Token: ${secret}`
  const table: [string, string, number[]][] = [
    ['without token', head(['Content-Length: 2', 'Expect: 100-continue']), [401]],
    ['too large', head([token, 'Content-Length: 2000', 'Expect: 100-continue']), [413]],
    ['an unknown agent', head([token, 'Content-Length: 2', 'Expect: 100-continue'], '/api/nobody/x'), [404]],
    ['another method\'s path', head([token, 'Content-Length: 2', 'Expect: 100-continue'], '/health'), [405]],
    ['a bad path', head([token, 'Content-Length: 2', 'Expect: 100-continue'], '/api/planner/..'), [400]],
    ['another expectation', head([token, 'Content-Length: 2', 'Expect: wonders']), [417]],
    ['two expectations', head([token, 'Content-Length: 2', 'Expect: 100-continue, wonders']), [417]],
    ['a body sent at once', `${head([token, 'Content-Length: 2', 'Expect: 100-continue'])}hi`, [100, 200]],
    ['odd case', `${head([token, 'Content-Length: 2', 'expect: 100-CONTINUE'])}hi`, [100, 200]],
    ['chunks', `${head([token, 'Transfer-Encoding: chunked', 'Expect: 100-continue'])}2\r\nhi\r\n0\r\n\r\n`, [100, 200]],
    ['no body', head([token, 'Expect: 100-continue']), [200]],
    ['HTTP/1.0', `${head([token, 'Content-Length: 2', 'Expect: 100-continue'], '/api/planner/x', '1.0')}hi`, [200]]
  ]
  for (const [name, bytes, statuses] of table) {
    agent.reset()
    const answers = readAnswers(await rawRequest(t, gateway.port, bytes))
    const got = answers.map(({ status }) => status)
    t.same(name === 'a body sent at once' || name === 'odd case' || name === 'chunks' ? got.filter(status => status !== 100) : got, statuses.filter(status => status !== 100 || !['a body sent at once', 'odd case', 'chunks'].includes(name)), name)
    if (statuses.includes(200)) t.same(agent.requests[0]?.valuesOf('expect'), [], name)
    else t.same(agent.requests, [], name)
  }
})

t.test('a body over the bound never arrives whole', async t => {
  const { gateway, agent, ask } = await planner(t, { server: { bodyLimit: '1KiB' } })
  const aborted = new Promise<void>(resolve => {
    agent.earlyAnswer = socket => { socket.once('close', () => resolve()) }
  })

  const answers = readAnswers(await rawRequest(t, gateway.port, `POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3ff\r\n${'x'.repeat(1_023)}\r\n2\r\nab\r\n`))
  await aborted

  t.match(answers, [{ status: 413, complete: true }])
  t.same(answers[0]!.valuesOf('connection').map(value => value.toLowerCase()), ['close'])
  t.ok(agent.requests.every(request => !request.complete))

  agent.earlyAnswer = null
  const { answer, got } = await ask({ method: 'POST', lines: ['Content-Length: 1025'] })
  t.equal(answer.status, 413)
  t.equal(got, undefined)
  t.equal((await ask({ method: 'POST', lines: ['Content-Length: 1024'], body: 'x'.repeat(1_024) })).got?.body.length, 1_024)
  t.equal((await ask({ method: 'POST', lines: ['Transfer-Encoding: chunked'], body: `400\r\n${'x'.repeat(1_024)}\r\n0\r\n\r\n` })).got?.body.length, 1_024)
})
