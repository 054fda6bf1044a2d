import t, { type Test } from 'tap'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Balancer } from '../../src/fleet/balancer.ts'
import { roundRobin } from '../../src/fleet/round-robin.ts'
import { createGateway } from '../../src/gateway.ts'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { deadPort, fakeAgent, rawAgent, type FakeAgent } from '../helpers/fake-agent.ts'

/** Agents that answer with their number. */
async function numbered (t: Test, count: number): Promise<FakeAgent[]> {
  return Promise.all(Array.from({ length: count }, (_, number) => fakeAgent(t, (request, response) => {
    request.resume()
    request.on('end', () => response.end(String(number)))
  })))
}

function ask ({ origin }: ListeningGateway, path = '/api/planner/x', init: RequestInit = {}) {
  return fetch(origin + path, init)
}

t.test('two instances alternate strictly', async t => {
  const gateway = await startGateway(t, { agents: [agentAt('planner', ...await numbered(t, 2))] })

  const answers = []
  for (let index = 0; index < 6; index++) answers.push(await (await ask(gateway)).text())

  t.equal(answers.join(''), '010101')
})

t.test('what was never sent goes elsewhere, whatever the method and whatever the body', async t => {
  const dead = { host: '127.0.0.1', port: await deadPort() }
  const other = { host: '127.0.0.1', port: await deadPort() }
  const nameless = { host: 'no-such-host.invalid', port: 80 }
  const [live] = await numbered(t, 1)
  const gateway = await startGateway(t, { agents: [agentAt('planner', dead, nameless, other, live!)] })

  for (const body of ['small', 'x'.repeat(300_000)]) {
    gateway.registry.get('planner').rotation.next = 0
    const reply = await ask(gateway, undefined, { method: 'POST', body })
    t.equal(reply.status, 200)
    t.equal(await reply.text(), '0')
  }
})

t.test('when nobody can be reached, each instance is tried once and the answer is 502 at once', async t => {
  const ports = [await deadPort(), await deadPort()]
  const gateway = await startGateway(t, { agents: [agentAt('planner', ...ports.map(port => ({ host: '127.0.0.1', port })))] })
  let attempts = 0
  gateway.facts.onFinished(facts => { attempts = facts.attempts.length })

  const reply = await ask(gateway)

  t.equal(reply.status, 502)
  t.equal(reply.headers.get('proxy-status'), 'fleet-gateway; error=connection_refused')
  const body = await reply.text()
  t.match(JSON.parse(body), { code: 'FLEET_UPSTREAM_UNREACHABLE' })
  t.notMatch(body, new RegExp(ports.join('|')), 'no address of an agent')
  t.equal(attempts, 2)
})

t.test('a 5xx is tried once more on another instance if that is safe, and else passed on', async t => {
  const failing = await fakeAgent(t, (request, response) => { request.resume(); response.writeHead(503).end('sorry') })
  const [live] = await numbered(t, 1)
  const gateway = await startGateway(t, { agents: [agentAt('planner', failing, live!)] })
  const table: [RequestInit, number][] = [
    [{ method: 'GET' }, 200], [{ method: 'PUT', body: 'x' }, 200], [{ method: 'DELETE' }, 200], [{ method: 'POST', body: 'x', headers: { 'idempotency-key': 'k' } }, 200],
    [{ method: 'POST', body: 'x' }, 503], [{ method: 'PATCH', body: 'x' }, 503], [{ method: 'PUT', body: 'x'.repeat(70_000) }, 503]
  ]
  for (const [init, status] of table) {
    gateway.registry.get('planner').rotation.next = 0
    for (const { runtime } of gateway.registry.get('planner').instances) runtime.health.consecutiveFailures = 0
    const reply = await ask(gateway, undefined, init)
    t.equal(reply.status, status, `${init.method} ${String(init.body).length}`)
    t.equal(await reply.text(), status === 200 ? '0' : 'sorry')
  }
})

t.test('the client gets the last attempt\'s answer; 501 and 505 are final, and so is what retry.statuses leaves out', async t => {
  const statuses: number[] = []
  const agent = await fakeAgent(t, (request, response) => {
    const status = Number(request.url!.slice(1))
    statuses.push(status)
    response.writeHead(status).end(`answer ${statuses.length}`)
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent), { ...agentAt('choosy', agent), retry: { statuses: [503] } }, { ...agentAt('never', agent), retry: { attempts: 0 } }] })
  const table: [string, number][] = [['planner/500', 2], ['planner/502', 2], ['planner/501', 1], ['planner/505', 1], ['planner/404', 1], ['choosy/500', 1], ['choosy/503', 2], ['never/503', 1]]
  for (const [path, attempts] of table) {
    statuses.length = 0
    const reply = await ask(gateway, `/api/${path}`)
    t.equal(statuses.length, attempts, path)
    t.equal(await reply.text(), `answer ${attempts}`)
    t.equal(reply.status, Number(path.split('/')[1]))
  }
})

t.test('Retry-After is passed on', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(503, { 'retry-after': '120' }).end() })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  t.equal((await ask(gateway)).headers.get('retry-after'), '120')
})

t.test('a reset before the response head is retried if that is safe', async t => {
  let arrived = 0
  const resetting = await rawAgent(t, socket => { arrived++; socket.resetAndDestroy() })
  const [live] = await numbered(t, 1)
  const gateway = await startGateway(t, { agents: [agentAt('planner', resetting, live!)] })

  t.equal(await (await ask(gateway)).text(), '0')
  gateway.registry.get('planner').rotation.next = 0
  const posted = await ask(gateway, undefined, { method: 'POST', body: 'x' })
  t.match(await posted.json(), { status: 502, code: 'FLEET_UPSTREAM_UNREACHABLE' })
  t.equal(arrived, 2)
})

t.test('at most two attempts carry a request, however many instances fail', async t => {
  let arrived = 0
  const resetting = await Promise.all([1, 2, 3, 4].map(() => rawAgent(t, socket => { arrived++; socket.destroy() })))
  const gateway = await startGateway(t, { agents: [agentAt('planner', ...resetting)] })

  t.equal((await ask(gateway)).status, 502)
  t.equal(arrived, 2)
})

t.test('answers that are retried do not use up connections', async t => {
  const failing = await fakeAgent(t, (_request, response) => { response.writeHead(503).end('x'.repeat(20_000)) })
  const [live] = await numbered(t, 1)
  let connections = 0
  failing.server.on('connection', () => { connections++ })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', failing, live!), health: { interval: '1h' } }] })
  for (let index = 0; index < 9; index++) {
    gateway.registry.get('planner').rotation.next = 0
    gateway.registry.get('planner').instances[0]!.runtime.health.consecutiveFailures = 0
    t.equal(await (await ask(gateway)).text(), '0')
  }

  t.ok(connections <= 3, `${connections} connections for nine answers`)
})

t.test('TLS to an agent is verified', async t => {
  const folder = new URL('../fixtures/', import.meta.url)
  const server = createTlsServer({ key: await readFile(new URL('self-signed.key', folder)), cert: await readFile(new URL('self-signed.crt', folder)) }, (_request, response) => response.end('secure'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const gateway = await startGateway(t, { agents: [{ name: 'planner', instances: [{ host: '127.0.0.1', port, protocol: 'https' }] }] })

  t.match(await (await ask(gateway)).json(), { status: 502, code: 'FLEET_UPSTREAM_UNREACHABLE' })
})

t.test('an idle connection that the agent closes just as it is reused costs nobody anything', async t => {
  const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
  const perConnection = new Map<number, number>()
  const agent = await rawAgent(t, (socket, _chunk, connection) => {
    const count = (perConnection.get(connection) ?? 0) + 1
    perConnection.set(connection, count)
    if (count === 1) socket.write(answer)
    else socket.destroy() // takes the second request and says nothing
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  for (let index = 0; index < 20; index++) t.equal(await (await ask(gateway)).text(), 'ok', String(index))
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.health.consecutiveFailures, 0, 'it counts against nobody')
})

t.test('one of two instances killed under load: no idempotent request fails', async t => {
  const [first, second] = await numbered(t, 2)
  const gateway = await startGateway(t, { agents: [agentAt('planner', first!, second!)], health: { interval: '1s' } })
  const statuses = new Map<number, number>()
  const stop = new AbortController()
  async function client () {
    while (!stop.signal.aborted) {
      const reply = await ask(gateway)
      await reply.text()
      statuses.set(reply.status, (statuses.get(reply.status) ?? 0) + 1)
    }
  }
  const clients = Array.from({ length: 8 }, client)

  await once(second!.server, 'request')
  await first!.kill()
  const dead = gateway.registry.get('planner').instances[0]!
  while (dead.runtime.health.up && dead.runtime.health.ejectedUntil === 0) await once(second!.server, 'request')
  await first!.revive()
  await once(first!.server, 'request')
  stop.abort()
  await Promise.all(clients)

  t.same([...statuses.keys()], [200])
})

t.test('when every instance was down, the first request after one is back succeeds', async t => {
  const [agent] = await numbered(t, 1)
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent!)] })
  await agent!.kill()
  for (let index = 0; index < 8; index++) t.equal((await ask(gateway)).status, 502)
  gateway.registry.get('planner').instances[0]!.runtime.health.up = false

  await agent!.revive()

  t.equal((await ask(gateway)).status, 200)
})

t.test('an agent without any instance is 503 with Retry-After', async t => {
  const gateway = await startGateway(t, { agents: [{ name: 'planner', instances: [] }] })

  const reply = await ask(gateway)

  t.equal(reply.status, 503)
  t.ok(Number(reply.headers.get('retry-after')) >= 1)
  t.match(await reply.json(), { code: 'FLEET_NO_INSTANCE_AVAILABLE' })
})

t.test('an agent that does not answer in time is 504, and the request at it is ended', async t => {
  const ended: Promise<unknown>[] = []
  const agent = await fakeAgent(t, request => { ended.push(once(request.socket, 'close')) })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), timeout: '50ms' }] })

  const reply = await ask(gateway)

  t.match(await reply.json(), { status: 504, code: 'FLEET_UPSTREAM_TIMEOUT' })
  t.equal(agent.requests.length, 1, 'it is not sent again')
  await ended[0]
})

t.test('what an agent says wrongly is 502 and not retried', async t => {
  const table: [string, string][] = [
    ['garbage', 'this is not HTTP\r\n\r\n'], ['an unasked 101', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx'], ['a bare 101', 'HTTP/1.1 101 Switching Protocols\r\n\r\nxx'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc'], ['length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['an endless head', `HTTP/1.1 200 OK\r\n${`X: ${'y'.repeat(1_000)}\r\n`.repeat(200)}\r\n`]
  ]
  for (const [name, bytes] of table) {
    let arrived = 0
    const agent = await rawAgent(t, socket => { arrived++; socket.write(bytes) })
    const gateway = await startGateway(t, { agents: [agentAt('raw', agent)] })
    const reply = await ask(gateway, '/api/raw/')
    t.equal(reply.status, 502, name)
    t.match(await reply.json(), { code: 'FLEET_UPSTREAM_INVALID' }, name)
    t.equal(arrived, 1, name)
  }
})

t.test('a connection that breaks under a POST counts against the instance, since nobody could replay it', async t => {
  const perConnection = new Map<number, number>()
  const agent = await rawAgent(t, (socket, _chunk, connection) => {
    const count = (perConnection.get(connection) ?? 0) + 1
    perConnection.set(connection, count)
    if (count === 1) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    else socket.destroy()
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })

  t.equal((await ask(gateway, undefined, { method: 'POST', body: 'x' })).status, 200)
  t.equal((await ask(gateway, undefined, { method: 'POST', body: 'x' })).status, 502)
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.health.consecutiveFailures, 1)
})

t.test('a defect is 500, in the log with its stack, and costs only its own request', async t => {
  const lines: string[] = []
  const agent = await fakeAgent(t)
  let broken = true
  const balancer: Balancer = { pick: (...args) => { if (broken) throw new Error('the balancer broke'); return roundRobin.pick(...args) } }
  const gateway = await createGateway({ auth: { enabled: false }, auditLog: { enabled: false }, balancer, agents: [agentAt('planner', agent)] }, { logger: { level: 'warn', stream: { write: line => { lines.push(line) } } } })
  t.teardown(() => gateway.close())
  await gateway.listen({ port: 0, host: '127.0.0.1' })
  const origin = `http://127.0.0.1:${(gateway.server.address() as AddressInfo).port}`

  for (const init of [{}, { method: 'POST', body: 'x' }]) {
    const reply = await fetch(`${origin}/api/planner/x`, init)
    t.match(await reply.json(), { status: 500, code: 'FLEET_INTERNAL' })
  }
  t.match(lines.join(''), /the balancer broke[^]*failover\.test\.ts/)
  broken = false
  t.equal((await fetch(`${origin}/api/planner/x`)).status, 200)
})

t.test('the log says why an agent could not be reached, once a second', async t => {
  const lines: string[] = []
  const port = await deadPort()
  const gateway = await createGateway({ auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, agents: [{ name: 'planner', host: '127.0.0.1', port }] }, { logger: { level: 'warn', stream: { write: line => { lines.push(line) } } } })
  t.teardown(() => gateway.close())
  const before = Date.now()

  for (let index = 0; index < 20; index++) t.equal((await gateway.inject('/api/planner/x')).statusCode, 502)

  const said = lines.filter(line => line.includes('ECONNREFUSED') && line.includes('FLEET_UPSTREAM_UNREACHABLE'))
  t.match(said[0], String(port))
  t.ok(said.length <= 1 + (Date.now() - before) / 1_000, `${said.length} lines`)
})

t.test('the log says when an agent breaks off in the middle of its answer, of which the client only sees the end', async t => {
  const lines: string[] = []
  const agent = await rawAgent(t, socket => { socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf') })
  const gateway = await createGateway({ auth: { enabled: false }, auditLog: { enabled: false }, agents: [agentAt('raw', agent)] }, { logger: { level: 'warn', stream: { write: line => { lines.push(line) } } } })
  t.teardown(() => gateway.close())
  await gateway.listen({ port: 0, host: '127.0.0.1' })

  const reply = await fetch(`http://127.0.0.1:${(gateway.server.address() as AddressInfo).port}/api/raw/x`)
  await t.rejects(reply.text())

  t.match(lines.join(''), /in the middle of its answer/)
})
