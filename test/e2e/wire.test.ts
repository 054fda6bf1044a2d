/** What arrives as bytes: framing that is ambiguous, heads that are too large or too slow, and what Node by itself would let pass. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import t from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient, rawRequest } from '../helpers/raw-client.ts'

t.test('ambiguous framing is refused, the connection closed, and nothing forwarded', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const line = 'POST /api/planner/x HTTP/1.1\r\n'
  const host = 'Host: localhost\r\n'
  const table: [string, string, number][] = [
    ['length and chunks', `${line}${host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    ['chunks and length', `${line}${host}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n`, 400],
    ['differing lengths', `${line}${host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd`, 400],
    ['two lengths in one', `${line}${host}Content-Length: 3, 4\r\n\r\nabcd`, 400],
    ['a negative length', `${line}${host}Content-Length: -1\r\n\r\n`, 400],
    ['a length that is none', `${line}${host}Content-Length: 0x3\r\n\r\nabc`, 400],
    ['an unknown coding', `${line}${host}Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n`, 501],
    ['an unknown coding before chunked', `${line}${host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`, 501],
    ['an unknown coding behind chunked', `${line}${host}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n`, 501],
    ['chunked twice', `${line}${host}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n`, 400],
    ['an empty coding', `${line}${host}Transfer-Encoding:\r\n\r\n0\r\n\r\n`, 400],
    ['chunks in HTTP/1.0', 'POST /api/planner/x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400],
    ['a space before the colon', `${line}${host}Content-Length : 3\r\n\r\nabc`, 400],
    ['a folded line', `${line}${host}X-A: 1\r\n 2\r\n\r\n`, 400],
    ['no Host', `${line}\r\n`, 400],
    ['two Hosts', `${line}${host}Host: other\r\n\r\n`, 400],
    ['an empty Host', `${line}Host:\r\n\r\n`, 400],
    ['an invalid Host', `${line}Host: a b\r\n\r\n`, 400],
    ['a control character in a field', `${line}${host}X-A: a\x01b\r\n\r\n`, 400],
    ['a NUL in a field', `${line}${host}X-A: a\0b\r\n\r\n`, 400],
    ['a bare carriage return', `${line}${host}X-A: a\rb\r\n\r\n`, 400],
    ['a field name that is none', `${line}${host}X A: b\r\n\r\n`, 400],
    ['no HTTP', 'hello\r\n\r\n', 400],
    ['a broken chunk', `${line}${host}Transfer-Encoding: chunked\r\n\r\nzz\r\n`, 400]
  ]
  for (const [name, bytes, status] of table) {
    const answer = await rawRequest(t, gateway.port, bytes)
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), name)
    t.match(answer, /connection: close/i, name)
    t.match(answer, /application\/problem\+json/, name)
  }
  t.same(agent.requests.filter(request => request !== 'POST /x'), [])
  t.ok(agent.requests.length <= 1, 'only the broken chunk\'s request had begun')
})

t.test('what comes behind a refused request is not read as the next one', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, 'POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/planner/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n')

  t.equal(answer.match(/HTTP\/1\.1 /g)!.length, 1)
  t.same(agent.requests, [])
})

t.test('what comes behind a refusal that closes the connection reaches no agent', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const line = 'GET /api/planner/x HTTP/1.1\r\n'
  const host = 'Host: localhost\r\n'
  const next = `GET /api/planner/next HTTP/1.1\r\n${host}\r\n`
  const table: [string, string, number][] = [
    ['no Host', `${line}\r\n`, 400],
    ['two Hosts', `${line}${host}${host}\r\n`, 400],
    ['a target without a form', `GET * HTTP/1.1\r\n${host}\r\n`, 400],
    ['broken encoding', `GET /api/planner/%zz HTTP/1.1\r\n${host}\r\n`, 400],
    ['another expectation', `${line}${host}Expect: fast\r\n\r\n`, 417]
  ]
  for (const [name, bytes, status] of table) {
    await rawRequest(t, gateway.port, `${line}${host}Connection: close\r\n\r\n`) // leaves an idle connection: what is sent on it is there at once
    agent.requests.length = 0

    const answer = await rawRequest(t, gateway.port, bytes + next)
    await rawRequest(t, gateway.port, `${line}${host}Connection: close\r\n\r\n`)

    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), name)
    t.equal(answer.match(/HTTP\/1\.1 /g)!.length, 1, name)
    t.same(agent.requests, ['GET /x'], name)
  }
})

t.test('a head over 32 KiB is 431', async t => {
  const gateway = await startGateway(t)

  t.match(await rawRequest(t, gateway.port, `GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ${'x'.repeat(40_000)}\r\n\r\n`), /^HTTP\/1\.1 431 [^]*FLEET_HEADERS_TOO_LARGE/)
  t.match(await rawRequest(t, gateway.port, `GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: ${'x'.repeat(30_000)}\r\n\r\n`), /^HTTP\/1\.1 200 /)
})

t.test('a head that does not arrive in time is 408', async t => {
  const gateway = await startGateway(t)
  gateway.server.headersTimeout = 100 // ten seconds are the default

  const client = await rawClient(t, gateway.port)
  client.send('GET / HTTP/1.1\r\nHo')

  t.match(await client.closed(), /^HTTP\/1\.1 408 [^]*FLEET_REQUEST_TIMEOUT/)
})

t.test('no field is dropped for being one of many', async t => {
  const agent = await fakeAgent(t)
  agent.server.maxHeadersCount = 0
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, `GET /api/planner/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${'a: 1\r\n'.repeat(2_500)}\r\n`)

  const { headers } = JSON.parse(answer.slice(answer.indexOf('{'), answer.lastIndexOf('}') + 1)) as { headers: string[] }
  t.equal(headers.filter(name => name === 'a').length, 2_500)
})

t.test('a field\'s bytes beyond ASCII arrive as they were sent', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const answer = await rawRequest(t, gateway.port, Buffer.from('GET /api/planner/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: caf\xe9\r\n\r\n', 'latin1'))

  const echoed = Buffer.from(answer.slice(answer.indexOf('{'), answer.lastIndexOf('}') + 1), 'latin1').toString('utf8')
  const { headers } = JSON.parse(echoed) as { headers: string[] }
  t.equal(headers[headers.indexOf('X-A') + 1], 'caf\xe9')
})

const slowAndQuick = (request: IncomingMessage, response: ServerResponse) => {
  if (request.url === '/slow') setImmediate(() => setImmediate(() => response.end('slow')))
  else response.end('quick')
}
const slow = 'GET /api/planner/slow HTTP/1.1\r\nHost: localhost\r\n\r\n'
const upgrading = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'

t.test('what is refused or upgraded behind a request that is still answered waits for its turn', async t => {
  const agent = await fakeAgent(t, slowAndQuick)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const table: [string, string, number[]][] = [
    ['no Host', 'GET /api/planner/x HTTP/1.1\r\n\r\n', [200, 400]],
    ['an expectation', 'GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n', [200, 417]],
    ['CONNECT', 'CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n', [200, 405]],
    ['no HTTP', 'hello\r\n\r\n', [200, 400]],
    ['a broken chunk', 'POST /api/planner/slow HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', [200, 400]],
    ['a WebSocket', `GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\n${upgrading}\r\n`, [200, 200]],
    ['a WebSocket nowhere', `GET /health/live HTTP/1.1\r\nHost: localhost\r\n${upgrading}\r\nGET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`, [200, 200, 200]],
    ['h2c, twice', 'GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n', [200, 200, 200]]
  ]
  for (const [name, bytes, statuses] of table) {
    const answers = await rawRequest(t, gateway.port, slow + bytes)
    t.same([...answers.matchAll(/HTTP\/1\.1 (\d+) /g)].map(match => Number(match[1])), statuses, name)
    t.ok(answers.indexOf('slow') < answers.lastIndexOf('HTTP/1.1'), name)
  }
})

t.test('a client that leaves with pipelined requests unanswered leaves none of them behind', async t => {
  let left: () => void
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/quick') response.end('quick', () => left())
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const client = await rawClient(t, gateway.port)
  const answered = new Promise<void>(resolve => { left = resolve })
  const finished = new Promise<void>(resolve => {
    gateway.facts.onFinished(() => { if (gateway.facts.inFlight === 0) resolve() })
  })
  client.send('GET /api/planner/hangs HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/planner/quick HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await answered

  client.socket.destroy()

  await finished
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.inFlight, 0)
})

t.test('a client that leaves with an upgrade behind two answers is an error nobody has to hear of', async t => {
  const held = new Map<string | undefined, ServerResponse>()
  let bothHere: () => void
  const both = new Promise<void>(resolve => { bothHere = resolve })
  const agent = await fakeAgent(t, (request, response) => {
    held.set(request.url, response)
    if (held.size === 2) bothHere()
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const bothAnswered = new Promise<void>(resolve => {
    let count = 0
    gateway.facts.onFinished(() => { if (++count === 2) resolve() })
  })
  const client = await rawClient(t, gateway.port)
  const request = (path: string) => `GET /api/planner/${path} HTTP/1.1\r\nHost: localhost\r\n`
  client.send(`${request('a')}\r\n${request('b')}\r\n${request('c')}${upgrading}\r\n`)
  await both
  const settled = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })

  client.socket.destroy()
  held.get('/b')!.end('b')
  await settled
  held.get('/a')!.end('a') // the first write meets a client that is gone, the second fails at once
  await bothAnswered

  t.equal(gateway.facts.inFlight, 0)
  t.same(agent.requests.length, 2)
})

t.test('a WebSocket offer with a body, or in HTTP/1.0, is an ordinary request', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  const withBody = await rawRequest(t, gateway.port, `GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\n${upgrading.replace('Upgrade', 'close, Upgrade')}Content-Length: 5\r\n\r\nhello`)
  const old = await rawRequest(t, gateway.port, `GET /api/planner/x HTTP/1.0\r\nHost: localhost\r\n${upgrading}\r\n`)

  t.match(withBody, /^HTTP\/1\.1 200 [^]*"body":"hello"/)
  t.match(old, /^HTTP\/1\.1 200 /)
  t.notMatch(withBody + old, /"websocket"/)
})
