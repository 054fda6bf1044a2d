import t, { type Test } from 'tap'
import { once } from 'node:events'
import { METHODS } from 'node:http'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'

/** What echo agents answer. */
interface Echo { port: number, method: string, url: string, headers: string[], body: string }

function valuesOf ({ headers }: Echo, name: string): string[] {
  return headers.filter((_value, index) => index % 2 === 1 && headers[index - 1]!.toLowerCase() === name)
}

async function gatewayWithEcho (t: Test, options = {}) {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), aliases: ['plan'] }], ...options })
  return { agent, gateway, url: `${gateway.origin}/api/planner` }
}

function bodyOf (answer: string): Echo {
  return JSON.parse(answer.slice(answer.indexOf('{'), answer.lastIndexOf('}') + 1)) as Echo
}

t.test('everything behind the agent\'s name goes on untouched', async t => {
  const { gateway } = await gatewayWithEcho(t)
  const table: [string, string][] = [
    ['/api/planner', '/'], ['/api/planner/', '/'], ['/api/planner?a=1', '/?a=1'], ['/api/plan/x', '/x'], ['/api/%70lanner/x', '/x'],
    ['/api/planner/a%2Fb', '/a%2Fb'], ['/api/planner/a+b%20c', '/a+b%20c'], ['/api/planner//a//', '//a//'], ['/api/planner/a;b=1/c:d', '/a;b=1/c:d'],
    ['/api/planner/x?a=1&a=2?x&b=%zz', '/x?a=1&a=2?x&b=%zz'], ['/api/planner/%ff', '/%ff'], ['/api/planner/%E2%82%AC', '/%E2%82%AC'], ['/api/planner/a/./b', '/a/./b'],
    [`/api/planner/${'x'.repeat(3_000)}`, `/${'x'.repeat(3_000)}`], ['http://elsewhere/api/planner/abs?x', '/abs?x']
  ]
  for (const [target, expected] of table) {
    const answer = await rawRequest(t, gateway.port, `GET ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
    t.equal(bodyOf(answer).url, expected, target.slice(0, 60))
  }
})

t.test('a target that two parties could read differently never reaches the agent', async t => {
  const { gateway, agent } = await gatewayWithEcho(t)

  for (const target of ['/api/planner/..', '/api/planner/%2e%2e/x', '/api/planner/a%5c..%5cb', '/api/planner/\\x', '/api/planner/%00', '/api/planner/%zz', '/api/..%2fplanner/x']) {
    const answer = await rawRequest(t, gateway.port, `GET ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
    t.match(answer, /^HTTP\/1\.1 400 [^]*FLEET_BAD_REQUEST/, target)
  }
  t.same(agent.requests, [])
})

t.test('every method but TRACE and CONNECT reaches the agent, with its body', async t => {
  const { gateway, agent } = await gatewayWithEcho(t)

  for (const method of METHODS) {
    const answer = await rawRequest(t, gateway.port, `${method} /api/planner/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi`)
    if (method === 'TRACE' || method === 'CONNECT') t.match(answer, /^HTTP\/1\.1 405 [^]*\r\nallow: /i, method)
    else if (method === 'HEAD') t.match(answer, /^HTTP\/1\.1 200 /, method)
    else t.match(bodyOf(answer), { method, body: 'hi' }, method)
  }
  t.equal(agent.requests.length, METHODS.length - 2)
})

t.test('bodies of any content type are byte for byte the same', async t => {
  const { url } = await gatewayWithEcho(t)

  for (const type of ['text/plain', 'application/json', 'application/json; charset=iso-8859-1', 'application/x-www-form-urlencoded', 'garbage', 'multipart/form-data; boundary=x']) {
    const reply = await fetch(`${url}/x`, { method: 'POST', headers: { 'content-type': type }, body: '{"not json' })
    const got = await reply.json() as Echo
    t.equal(got.body, '{"not json', type)
    t.same(valuesOf(got, 'content-type'), [type])
  }
  const large = await fetch(`${url}/x`, { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'x'.repeat(2_000_000) })
  t.equal((await large.json() as Echo).body.length, 2_000_000)
})

t.test('a request without a body stays without one', async t => {
  const { gateway } = await gatewayWithEcho(t)

  for (const method of ['POST', 'DELETE', 'MKCOL', 'PUT', 'GET']) {
    const got = bodyOf(await rawRequest(t, gateway.port, `${method} /api/planner/m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`))
    t.same(valuesOf(got, 'transfer-encoding'), [], method)
  }
})

t.test('fields of the hop stay behind, the rest arrives in order with its duplicates', async t => {
  const { gateway } = await gatewayWithEcho(t)
  const got = bodyOf(await rawRequest(t, gateway.port, [
    'GET /api/planner/x HTTP/1.1', 'Host: localhost', 'X-A: 1', 'X-B: 2', 'X-A: 3', 'Connection: close, X-Secret', 'X-Secret: 1', 'Keep-Alive: timeout=5', 'TE: trailers',
    'Proxy-Authorization: Basic x', 'Proxy-Connection: keep-alive', 'Upgrade: h2c', 'Trailer: X-T', 'X-Fleet-Token: t', '', ''
  ].join('\r\n')))

  for (const name of ['x-secret', 'keep-alive', 'te', 'proxy-authorization', 'proxy-connection', 'upgrade', 'trailer', 'x-fleet-token', 'http2-settings']) t.same(valuesOf(got, name), [], name)
  t.same(got.headers.filter(name => /^X-[AB]$/.test(name)), ['X-A', 'X-B', 'X-A'])
  t.same(valuesOf(got, 'x-a'), ['1', '3'])
})

t.test('the agent learns who asked, and a stranger can\'t tell it otherwise', async t => {
  const { gateway, agent } = await gatewayWithEcho(t)
  const reply = await fetch(`${gateway.origin}/api/plan/x`, { headers: { 'x-forwarded-for': '9.9.9.9', 'x-forwarded-proto': 'https', forwarded: 'for=9.9.9.9', 'x-real-ip': '9.9.9.9', 'x-forwarded-anything': 'x' } })
  const got = await reply.json() as Echo

  t.same(valuesOf(got, 'x-forwarded-for'), ['127.0.0.1'])
  t.same(valuesOf(got, 'x-forwarded-host'), [`127.0.0.1:${gateway.port}`])
  t.same(valuesOf(got, 'x-forwarded-proto'), ['http'])
  t.same(valuesOf(got, 'x-forwarded-prefix'), ['/api/plan'])
  t.same(valuesOf(got, 'forwarded'), [`for=127.0.0.1;host="127.0.0.1:${gateway.port}";proto=http`])
  t.same(valuesOf(got, 'x-real-ip'), [])
  t.same(valuesOf(got, 'x-forwarded-anything'), [])
  t.same(valuesOf(got, 'host'), [`127.0.0.1:${agent.port}`])
  t.match(valuesOf(got, 'via'), [/^1\.1 fleet-/])
})

t.test('a trusted proxy\'s word is appended to', async t => {
  const { url } = await gatewayWithEcho(t, { server: { trustedProxies: ['127.0.0.0/8'] } })
  const reply = await fetch(`${url}/x`, { headers: { 'x-forwarded-for': '192.0.2.7', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'front', forwarded: 'for=192.0.2.7', 'x-forwarded-prefix': '/front' } })
  const got = await reply.json() as Echo

  t.same(valuesOf(got, 'x-forwarded-for'), ['192.0.2.7, 127.0.0.1'])
  t.same(valuesOf(got, 'x-forwarded-proto'), ['https'])
  t.same(valuesOf(got, 'x-forwarded-host'), ['front'])
  t.same(valuesOf(got, 'x-forwarded-prefix'), ['/front/api/planner'])
  t.match(valuesOf(got, 'forwarded'), [/^for=192\.0\.2\.7, for=127\.0\.0\.1;/])
})

t.test('what a trusted proxy says in Forwarded alone the agent is told in every way', async t => {
  const { url } = await gatewayWithEcho(t, { server: { trustedProxies: ['127.0.0.0/8'] } })
  const told = async (headers: Record<string, string>) => {
    const got = await (await fetch(`${url}/x`, { headers })).json() as Echo
    return ['x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'forwarded'].map(name => valuesOf(got, name).join('|'))
  }

  t.match(await told({ forwarded: 'for=10.9.9.9;host=forged.example;proto=http, for="[2001:db8::1]:80";host=pub.example;proto=https' }), [
    '10.9.9.9, 2001:db8::1, 127.0.0.1', 'pub.example', 'https', /^for=10\.9\.9\.9;host=forged\.example;proto=http, for="\[2001:db8::1\]:80";host=pub\.example;proto=https, for=127\.0\.0\.1;/
  ], 'of several the one about the client')
  t.match(await told({ forwarded: 'for=192.0.2.7;host="pub.example', 'x-forwarded-for': '192.0.2.8' }), ['192.0.2.8, 127.0.0.1', /^127\.0\.0\.1:\d+$/, 'http', /^for=127\.0\.0\.1;[^,]*$/], 'what is malformed is left out')
  t.match(await told({ forwarded: 'for=127.0.0.1;host=evil.example;proto=https, for=_hidden;host=good.example;proto=http' }), [/, _hidden, 127\.0\.0\.1$/, 'good.example', 'http', /^for=127/], 'not what the client said of itself')
  t.match(await told({ forwarded: 'x, for="a, for=192.0.2.7;host=pub.example', 'x-forwarded-host': 'evil.example' }), ['192.0.2.7, 127.0.0.1', 'pub.example', 'http', /^for=192\.0\.2\.7;host=pub\.example, for=127/], 'nor by what is broken')
  t.match(await told({ forwarded: 'for=unknown' }), ['unknown, 127.0.0.1', /^127/, 'http', /^for=unknown, for=127/])
})

t.test('a sane request id is kept, any other replaced; agent and client see the same', async t => {
  const { url } = await gatewayWithEcho(t)

  for (const [sent, kept] of [['abc-1', true], ['a b"c', false], ['x'.repeat(200), false]] as const) {
    const reply = await fetch(url, { headers: { 'x-request-id': sent } })
    const got = await reply.json() as Echo
    t.equal(reply.headers.get('x-request-id') === sent, kept, sent.slice(0, 10))
    t.same(valuesOf(got, 'x-request-id'), [reply.headers.get('x-request-id')])
    t.match(reply.headers.get('via'), /^1\.1 fleet-/)
  }
})

t.test('a valid trace is continued, any other started anew', async t => {
  const { url } = await gatewayWithEcho(t)
  const valid = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const table: [Record<string, string>, RegExp, number][] = [
    [{ traceparent: valid, tracestate: 'a=1' }, /^00-0af7651916cd43dd8448eb211c80319c-/, 1],
    [{ traceparent: '00-00000000000000000000000000000000-b7ad6b7169203331-01', tracestate: 'a=1' }, /^00-(?!0{32})[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/, 0],
    [{ traceparent: `${valid}-extra` }, /^00-(?!0af7)[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/, 0],
    [{}, /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/, 0]
  ]
  for (const [headers, expected, states] of table) {
    const got = await (await fetch(url, { headers })).json() as Echo
    t.equal(valuesOf(got, 'traceparent').length, 1)
    t.match(valuesOf(got, 'traceparent')[0], expected)
    t.equal(valuesOf(got, 'tracestate').length, states)
  }
})

t.test('Host is the instance\'s, unless preserveHost', async t => {
  const { gateway } = await gatewayWithEcho(t, { auth: { secret: 'fleet-secret-token' } })
  const agent = await fakeAgent(t)
  gateway.registry.register({ name: 'vhost', host: agent.host, port: agent.port, policy: { preserveHost: true } })

  const answer = await rawRequest(t, gateway.port, 'GET /api/vhost/x HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer fleet-secret-token\r\nConnection: close\r\n\r\n')

  t.same(valuesOf(bodyOf(answer), 'host'), ['shop.example'])
})

t.test('Location is mapped under the agent once, and only when it leads to the agent', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(302, { location: decodeURIComponent(request.url!.slice(2)).replace('ORIGIN', agent.origin) }).end()
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), aliases: ['plan'] }] })
  const table: [string, string][] = [
    ['/next?x=1', '/api/planner/next?x=1'], ['/', '/api/planner/'], ['ORIGIN/a', '/api/planner/a'], ['ORIGIN', '/api/planner/'], ['ORIGIN?x', '/api/planner/?x'],
    ['/api/planner/a', '/api/planner/a'], ['/api/plan/a', '/api/plan/a'], ['ORIGIN/api/planner/a', '/api/planner/a'], ['/api/plannerx', '/api/planner/api/plannerx'],
    ['next', 'next'], ['../x', '../x'], ['https://elsewhere/x', 'https://elsewhere/x'], ['//elsewhere/x', '//elsewhere/x'], ['ORIGIN1/x', `${agent.origin}1/x`]
  ]
  for (const [sent, expected] of table) {
    const reply = await fetch(`${gateway.origin}/api/planner?${encodeURIComponent(sent)}`, { redirect: 'manual' })
    t.equal(reply.headers.get('location'), expected, sent)
  }
  gateway.registry.register({ name: 'planner', host: agent.host, port: agent.port, policy: { rewriteLocation: false } })
  t.equal((await fetch(`${gateway.origin}/api/planner?%2Fnext`, { redirect: 'manual' })).headers.get('location'), '/next')
})

t.test('the agent\'s answer keeps its order, duplicates, codings and reason; fields of its hop stay behind', async t => {
  const agent = await rawAgent(t, socket => {
    socket.end('HTTP/1.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nX-B: 2\r\nSet-Cookie: c=3\r\nContent-Encoding: gzip\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc')
  })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  const client = await rawClient(t, gateway.port)
  client.send('GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const answer = await client.until(/abc$/)

  t.match(answer, /^HTTP\/1\.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nX-B: 2\r\nSet-Cookie: c=3\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n/)
  t.notMatch(answer, /x-hop|timeout=1|proxy-authenticate|h2c|connection: close/i)
})

t.test('CORS on: the gateway\'s word replaces the agent\'s and Vary is merged; off: the agent\'s passes', async t => {
  const agent = await fakeAgent(t, (_request, response) => {
    response.writeHead(200, { 'access-control-allow-origin': 'https://agent.example', 'access-control-max-age': '5', vary: 'Accept-Encoding' }).end('x')
  })
  const agents = [agentAt('planner', agent)]
  const on = await startGateway(t, { agents, auth: { secret: 'fleet-secret-token' }, cors: { origins: ['https://app.example'] } })
  const off = await startGateway(t, { agents })
  const headers = { authorization: 'Bearer fleet-secret-token', origin: 'https://app.example' }

  const answered = await fetch(`${on.origin}/api/planner/x`, { headers })
  t.equal(answered.headers.get('access-control-allow-origin'), 'https://app.example')
  t.equal(answered.headers.get('access-control-max-age'), null)
  t.match(answered.headers.get('vary'), /Accept-Encoding/)
  t.match(answered.headers.get('vary'), /Origin/)

  const passed = await fetch(`${off.origin}/api/planner/x`)
  t.equal(passed.headers.get('access-control-allow-origin'), 'https://agent.example')
  t.equal(passed.headers.get('vary'), 'Accept-Encoding')
})

t.test('a plain OPTIONS reaches the agent, a preflight does not', async t => {
  const { url, agent } = await gatewayWithEcho(t, { auth: { secret: 'fleet-secret-token' }, cors: { enabled: true } })

  const preflight = await fetch(`${url}/x`, { method: 'OPTIONS', headers: { origin: 'https://a.example', 'access-control-request-method': 'PATCH' } })
  t.equal(preflight.status, 204)
  t.match(preflight.headers.get('access-control-allow-methods'), /PATCH/)
  t.same(agent.requests, [])

  const plain = await fetch(`${url}/x`, { method: 'OPTIONS', headers: { authorization: 'Bearer fleet-secret-token' } })
  t.equal(plain.status, 200)
  t.same(agent.requests, ['OPTIONS /x'])
})

t.test('HEAD, 204 and 304 have no body, whatever the agent says of one', async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    const [, status] = /\/(\d+)/.exec(chunk.toString())!
    socket.write(`HTTP/1.1 ${status} X\r\nContent-Length: 5\r\nETag: "e"\r\n\r\n`)
    if (status === '200' && !chunk.toString().startsWith('HEAD')) socket.write('12345')
  })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })
  const client = await rawClient(t, gateway.port)

  client.send('HEAD /api/raw/200 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 200 [^]*Content-Length: 5/i)
  client.send('GET /api/raw/304 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.match(await client.until(/304[^]*\r\n\r\n/), /304 X[^]*ETag: "e"/)
  client.send('GET /api/raw/204 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const third = (await client.until(/204[^]*\r\n\r\n/)).split('HTTP/1.1 204')[1]!
  t.notMatch(third, /content-length/i)
  client.send('GET /api/raw/200 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.match(await client.until(/12345$/), /12345$/, 'the connection is still in step')
})

t.test('103 passes on, before the answer', async t => {
  const agent = await fakeAgent(t, (_request, response) => {
    response.writeEarlyHints({ link: '</style.css>; rel=preload' })
    response.end('done')
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, 'GET /api/planner/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')

  t.match(answer, /^HTTP\/1\.1 103 Early Hints\r\nLink: <\/style.css>; rel=preload\r\n\r\nHTTP\/1\.1 200 OK/i)
})

t.test('trailers pass on where they can, and are dropped where they can\'t', async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    if (chunk.toString().startsWith('GET /chunked')) socket.write('HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n')
    else socket.write('HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nContent-Length: 3\r\n\r\nabc')
  })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  t.match(await rawRequest(t, gateway.port, 'GET /api/raw/chunked HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'), /trailer: X-Sum[^]*0\r\nX-Sum: 7\r\n\r\n$/i)
  t.match(await rawRequest(t, gateway.port, 'GET /api/raw/length HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 200 [^]*abc$/)
})

t.test('an HTTP/1.0 client gets no chunks, and the end of the connection as the end', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.write('abc'); response.end('def') })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, 'GET /api/planner/ HTTP/1.0\r\n\r\n')

  t.notMatch(answer, /transfer-encoding/i)
  t.match(answer, /\r\n\r\nabcdef$/)
})

t.test('what is refused before any hook has the client\'s id as well', async t => {
  const { gateway } = await gatewayWithEcho(t)
  const host = 'Host: localhost\r\n'
  for (const [target, fields, status] of [['/api/planner/%zz', host, 400], ['/api/planner/x', `${host}Expect: wonders\r\n`, 417], ['/api/planner/x', '', 400]] as const) {
    const answer = await rawRequest(t, gateway.port, `GET ${target} HTTP/1.1\r\n${fields}X-Request-Id: mine\r\nConnection: close\r\n\r\n`)
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} [^]*x-request-id: mine\r\n[^]*urn:request:mine`, 'i'))
  }
})

t.test('where there is no Host there is no X-Forwarded-Host', async t => {
  for (const trustedProxies of [[], ['127.0.0.1']]) {
    const { gateway } = await gatewayWithEcho(t, { server: { trustedProxies } })

    const got = bodyOf(await rawRequest(t, gateway.port, 'GET /api/planner/ HTTP/1.0\r\n\r\n'))

    t.same(valuesOf(got, 'x-forwarded-host'), [])
    t.same(valuesOf(got, 'x-forwarded-proto'), ['http'])
  }
})

t.test('100 Continue comes from the gateway, and only when the body is wanted', async t => {
  const { gateway, agent } = await gatewayWithEcho(t, { auth: { secret: 'fleet-secret-token' }, server: { bodyLimit: '1KiB' } })
  const head = (token: string, length: number) => `POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\nContent-Length: ${length}\r\nExpect: 100-continue\r\n\r\n`

  const wanted = await rawClient(t, gateway.port)
  wanted.send(head('fleet-secret-token', 2))
  await wanted.until(/^HTTP\/1\.1 100 Continue\r\n\r\n/)
  wanted.send('hi')
  t.match(bodyOf((await wanted.until(/"body":"hi"\}/)).slice(25)), { body: 'hi' })

  t.match(await rawRequest(t, gateway.port, head('wrong-token', 2)), /^HTTP\/1\.1 401 /)
  t.match(await rawRequest(t, gateway.port, head('fleet-secret-token', 5_000)), /^HTTP\/1\.1 413 /)
  t.match(await rawRequest(t, gateway.port, 'POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: magic\r\n\r\n'), /^HTTP\/1\.1 417 /)
  t.same(agent.requests, ['POST /x'])
})

t.test('a body over server.bodyLimit is 413, streamed ones as well', async t => {
  const agent = await fakeAgent(t, request => { request.resume() })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], server: { bodyLimit: '100KiB' } })
  const chunk = 'x'.repeat(64 * 1024)
  const client = await rawClient(t, gateway.port)

  client.send('POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n')
  client.send(`10000\r\n${chunk}\r\n10000\r\n${chunk}\r\n`)

  t.match(await client.until(/FLEET_BODY_TOO_LARGE/), /^HTTP\/1\.1 413 [^]*connection: close/i)
  t.match(await client.closed(), /413/)
})

t.test('an early answer to an upload that is still coming reaches the client', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(403).end('no thanks') })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const client = await rawClient(t, gateway.port)

  client.send('POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nbeginning')
  client.send(Buffer.alloc(1_000_000))

  t.match(await client.until(/no thanks/), /^HTTP\/1\.1 403 /)
})

t.test('an unknown agent is 404 with the nearest names, a missing name too', async t => {
  const { gateway } = await gatewayWithEcho(t)

  const reply = await fetch(`${gateway.origin}/api/planer/x`)
  t.equal(reply.status, 404)
  const body = await reply.json() as { code: string, nearest: string[] }
  t.equal(body.code, 'FLEET_AGENT_NOT_FOUND')
  t.ok(body.nearest.includes('planner'))
  t.equal((await fetch(`${gateway.origin}/api/`)).status, 404)
  t.equal((await fetch(`${gateway.origin}/api`)).status, 404)
  for (const name of ['__proto__', 'constructor', 'toString']) t.equal((await fetch(`${gateway.origin}/api/${name}/x`)).status, 404, name)
})

t.test('a request that loops through the gateway is 508', async t => {
  const gateway = await startGateway(t)
  gateway.registry.register({ name: 'self', host: '127.0.0.1', port: gateway.port })

  const reply = await fetch(`${gateway.origin}/api/self/api/self/x`)

  t.equal(reply.status, 508)
  t.match(await reply.json(), { code: 'FLEET_LOOP_DETECTED' })
})

t.test('requests on one connection are answered in order, whatever the agents\' pace', async t => {
  const gates: (() => void)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/slow') gates.push(() => response.end('slow one'))
    else response.end('quick one')
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const client = await rawClient(t, gateway.port)

  client.send('GET /api/planner/slow HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/planner/quick HTTP/1.1\r\nHost: localhost\r\n\r\n')
  while (gates.length === 0) await once(agent.server, 'request')
  gates[0]!()

  t.match(await client.until(/quick one/), /slow one[^]*quick one/)
})

t.test('a reason phrase with other than plain characters does not cost the answer', async t => {
  const agent = await rawAgent(t, socket => { socket.write('HTTP/1.1 200 Ça va 日本\r\nContent-Length: 2\r\n\r\nok') })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  t.match(await rawRequest(t, gateway.port, 'GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\n[^]*ok$/)
  t.match(await rawRequest(t, gateway.port, 'GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\n[^]*ok$/)
})

t.test('a transfer coding that nobody asked for is an invalid answer, not its undecoded bytes', async t => {
  const agent = await rawAgent(t, socket => { socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n') })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  t.match(await rawRequest(t, gateway.port, 'GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 502 [^]*FLEET_UPSTREAM_INVALID/)
})

t.test('an unasked 100 Continue is skipped, wherever it is cut', async t => {
  const agent = await rawAgent(t, (socket, chunk) => {
    const answer = 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Go on\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\nHTTP/1.1 100 is a body.'
    const at = Number(/\/(\d+)/.exec(chunk.toString())![1])
    socket.write(answer.slice(0, at), () => setImmediate(() => socket.write(answer.slice(at))))
  })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  for (const at of [12, 20, 25, 40, 60, 100, 104, 110]) {
    const answer = await fetch(`${gateway.origin}/api/raw/${at}`, { method: 'POST', body: 'x' })
    t.equal(answer.status, 200, `cut at ${at}`)
    t.equal(await answer.text(), 'HTTP/1.1 100 is a body.')
  }
})

t.test('interim answers go on without the fields of their hop, and a flood of them neither waits in the process nor passes', async t => {
  const hint = `HTTP/1.1 103 Early Hints\r\nLink: <${'x'.repeat(1_000)}>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n`
  const agent = await rawAgent(t, socket => { socket.write(`${hint.repeat(20_000)}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok`) })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })
  const client = await rawClient(t, gateway.port)
  client.socket.pause()
  const answered = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })

  client.send('GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  await answered
  client.socket.resume()

  const answer = await client.closed()
  t.match(answer, /^HTTP\/1\.1 103 Early Hints\r\nLink: [^]*HTTP\/1\.1 (?:200|502) /)
  t.notMatch(answer, /X-Hop/)
  t.ok(answer.length < 20_000 * 1_000, 'some were dropped, or the answer refused')
})

t.test('an early answer that came whole does not cut a client that is still uploading off', async t => {
  const agent = await rawAgent(t, socket => { socket.write('HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nbig') })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })
  const client = await rawClient(t, gateway.port)

  client.send('POST /api/raw/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000009\r\n\r\nbeginning')
  await client.until(/big$/)
  await new Promise<void>((resolve, reject) => {
    client.socket.once('error', reject)
    client.socket.write(Buffer.alloc(30_000_000), error => error ? reject(error) : resolve())
  })

  t.match(await client.closed(), /^HTTP\/1\.1 413 Too Much\r\n[^]*big$/)
})

t.test('the token among the subprotocols reaches no agent, in an ordinary request either', async t => {
  const { gateway } = await gatewayWithEcho(t, { auth: { secret: 'fleet-secret-token' } })

  const answer = await rawRequest(t, gateway.port, 'GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: fleet.bearer.fleet-secret-token, chat\r\n\r\n')

  t.match(answer, /^HTTP\/1\.1 200 /)
  t.same(valuesOf(bodyOf(answer), 'sec-websocket-protocol'), ['chat'])
})

t.test('trailers bring nothing of framing, the hop or the gateway', async t => {
  const agent = await rawAgent(t, socket => {
    socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=1\r\nConnection: close\r\nX-Fleet-Token: x\r\n\r\n')
  })
  const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })

  const answer = await rawRequest(t, gateway.port, 'GET /api/raw/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')

  t.match(answer, /\r\n0\r\nX-Sum: 7\r\n\r\n$/)
})

t.test('a token that opened the gateway reaches an agent only where fleet.yaml says so', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth: { secret: 'fleet-secret-token', keys: [{ id: 'registrar', token: 'registrar-token', scopes: ['register'] }] }, agents: [agentAt('plain', agent), { ...agentAt('trusted', agent), forwardAuthorization: true }] })
  const seen = async (path: string, headers: Record<string, string>) => valuesOf(await (await fetch(`${gateway.origin}${path}`, { headers })).json() as Echo, 'authorization')
  const bearer = { authorization: 'Bearer fleet-secret-token' }

  t.same(await seen('/api/plain/x', bearer), [])
  t.same(await seen('/api/trusted/x', bearer), ['Bearer fleet-secret-token'])
  t.same(await seen('/api/plain/x', { 'x-fleet-token': 'fleet-secret-token', authorization: 'Basic mine' }), ['Basic mine'])
  t.same(await seen('/api/plain/x', { 'x-fleet-token': 'fleet-secret-token', ...bearer }), [], 'not by the back door either')
})

t.test('an instance that a mere registrar placed gets no token, even if the file trusts its agent later', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth: { secret: 'fleet-secret-token', keys: [{ id: 'registrar', token: 'registrar-token', scopes: ['register'] }] } })
  await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { authorization: 'Bearer registrar-token', 'content-type': 'application/json' }, body: JSON.stringify({ name: 'own', host: '127.0.0.1', port: agent.port }) })
  gateway.registry.replaceFile([{ name: 'own', policy: { forwardAuthorization: true }, instances: [] }])

  const got = await (await fetch(`${gateway.origin}/api/own/x`, { headers: { authorization: 'Bearer fleet-secret-token' } })).json() as Echo

  t.same(valuesOf(got, 'authorization'), [])
})
