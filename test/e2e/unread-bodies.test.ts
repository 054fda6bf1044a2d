/** Bodies that the gateway does not pass on: those that it reads itself, and those behind a refusal. */
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import type { Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { agentAt, startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { quiet } from '../helpers/quiet.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'

const secret = 'fleet-secret-token'
const register = `POST /registry/register HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${secret}\r\nContent-Type: application/json\r\n`

t.test('who asks for what is not there is told before a body is there', async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  for (const [target, status, code] of [['POST /nowhere', 404, 'FLEET_NOT_FOUND'], ['OPTIONS /nowhere', 404, 'FLEET_NOT_FOUND'], ['POST /agents', 405, 'FLEET_METHOD_NOT_ALLOWED'], ['DELETE /health', 405, 'FLEET_METHOD_NOT_ALLOWED']] as const) {
    for (const fields of ['Content-Type: application/json\r\nContent-Length: 2\r\n', 'Content-Type: ;;\r\nContent-Length: 2\r\n', 'Content-Type: text/plain\r\nContent-Length: 300000\r\n', 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n']) {
      const client = await rawClient(t, gateway.port)
      client.send(`${target} HTTP/1.1\r\nHost: localhost\r\n${fields}\r\n`)
      const answer = await client.until(/\r\n\r\n.+/)
      t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} [^]*"code":"${code}"`), `${target} ${fields}`)
      client.socket.destroy()
    }
  }
})

t.test('a short body that comes behind its refusal leaves the connection as it is', async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  const client = await rawClient(t, gateway.port)
  client.send('POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n')
  await client.until(/FLEET_NOT_FOUND/)
  client.send('{}GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await client.until(/\r\n\r\n\{"status":"ok"\}/)
})

t.test('however many refused bodies come on a connection, nothing of them stays on it', async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  const sockets = new Set<Socket>()
  gateway.server.on('connection', (socket: Socket) => sockets.add(socket))
  const client = await rawClient(t, gateway.port)
  const listeners: number[] = []
  for (let count = 1; count <= 15; count++) {
    client.send('POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n')
    await client.until(new RegExp(`^(?:[^]*?FLEET_NOT_FOUND){${count}}`))
    client.send('{}')
    const [socket] = sockets
    listeners.push(socket!.listenerCount('close'))
  }
  t.equal(listeners.at(-1), listeners[1])
})

t.test('a body that does not end behind its refusal ends the connection', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth: { secret }, agents: [agentAt('planner', agent)] })
  await Promise.all(['POST /api/planner/x', 'POST /nowhere', 'POST /registry/register'].map(async target => {
    const client = await rawClient(t, gateway.port)
    client.send(`${target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n`)
    const sending = setInterval(() => client.send(`400\r\n${'x'.repeat(1_024)}\r\n`), 100)
    t.teardown(() => clearInterval(sending))
    await new Promise(resolve => client.socket.once('close', resolve)) // an error is no surprise
    clearInterval(sending)
    t.match(client.received(), /^HTTP\/1\.1 40[14] /, target)
  }))
})

t.test('an early answer is there at once, also one without a body', async t => {
  const answers: Record<string, string> = { '/204': 'HTTP/1.1 204 No Content\r\n\r\n', '/404': 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n', '/head': 'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n' }
  const agent = await scriptedAgent(t, {
    onRequest () {},
    onBytes (socket, bytes) {
      const [, path = ''] = /^\w+ (\S+) HTTP/.exec(bytes.toString('latin1')) ?? []
      if (path !== '') socket.write(answers[path]!)
      return true
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], ...unprobed })
  for (const path of Object.keys(answers)) {
    const client = await rawClient(t, gateway.port)
    client.send(`${path === '/head' ? 'HEAD' : 'POST'} /api/planner${path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n`)
    await client.until(/\r\n\r\n$/)
    t.equal(gateway.facts.inFlight, 1, `${path}: the upload is not over`)
    client.send('0\r\n\r\n')
    await quiet(gateway)
    client.socket.destroy()
  }
})

t.test('a registration that stands still is refused after timeouts.idle, one that goes on is not', async t => {
  const gateway = await startGateway(t, { auth: { secret }, timeouts: { idle: '300ms' } })
  const body = '{"name":"planner","port":9999}'

  const silent = await rawClient(t, gateway.port)
  silent.send(`${register}Content-Length: ${body.length}\r\n\r\n`)
  await new Promise(resolve => setTimeout(resolve, 100))
  silent.send('{') // and no more
  t.match(await silent.closed(), /^HTTP\/1\.1 408 [^]*connection: close[^]*"code":"FLEET_REQUEST_TIMEOUT"/i)

  const slow = await rawClient(t, gateway.port)
  slow.send(`${register}Content-Length: ${body.length}\r\n\r\n`)
  for (const letter of body) {
    slow.send(letter)
    await new Promise(resolve => setTimeout(resolve, 30))
  }
  t.match(await slow.until(/registered planner/), /^HTTP\/1\.1 201 /)
})

async function send (gateway: ListeningGateway, headers: Record<string, string>, body: Buffer) {
  const outgoing = httpRequest({ port: gateway.port, host: '127.0.0.1', method: 'POST', path: '/registry/register', headers: { authorization: `Bearer ${secret}`, ...headers } })
  outgoing.end(body)
  const [response] = await once(outgoing, 'response')
  return { status: response.statusCode as number, body: JSON.parse(await text(response)) as { detail: string } }
}

t.test('a registration is JSON in UTF-8, as it stands', async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  const type = 'application/json'
  const body = Buffer.from('{"name":"planner","port":9999,"metadata":{"a":"\u00e9\u2615"}}')
  for (const headers of [{ 'content-type': type }, { 'content-type': `${type}; charset=UTF-8` }, { 'content-type': `${type}; charset=ISO-8859-1` }, { 'content-type': type, 'content-encoding': 'identity' }]) t.match(await send(gateway, headers, body), { status: /20[01]/ }, JSON.stringify(headers))
  t.same(gateway.registry.get('planner').metadata, { a: '\u00e9\u2615' })

  t.match(await send(gateway, { 'content-type': type, 'content-encoding': 'gzip' }, body), { status: 400, body: { detail: 'Send the body without a Content-Encoding' } })
  t.match(await send(gateway, { 'content-type': type }, Buffer.from('{"name":"x","port":1,"metadata":{"a":"\xff"}}', 'latin1')), { status: 400, body: { detail: 'The body is not UTF-8' } })
  t.equal(gateway.registry.find('x'), undefined)
})

t.test('what is told of a body that is not there does not matter', async t => {
  const gateway = await startGateway(t, { auth: { secret } })
  const headers = { authorization: `Bearer ${secret}`, 'content-type': 'application/json; charset=ISO-8859-1', 'content-encoding': 'gzip' }
  for (const [method, path, status] of [['GET', '/agents', 200], ['PUT', '/registry/nobody/instances/abc', 404], ['DELETE', '/registry/nobody', 404]] as const) {
    t.equal((await fetch(gateway.origin + path, { method, headers })).status, status, `${method} ${path}`)
  }
})
