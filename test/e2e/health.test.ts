/** Health over real sockets: what is down is known within seconds, busy is not dead, one trial decides, and panic mode finds who is back. */
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { stateOf, type Instance } from '../../src/fleet/instance.ts'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { closed, deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'

/** A gateway that tells of its instances' changes. */
async function watched (t: Test, options: FleetGatewayOptions) {
  const changes: string[] = []
  const waiting: { count: number, change: string, resolve: () => void }[] = []
  const countOf = (change: string) => changes.filter(known => known === change).length
  const stream = {
    write (line: string) {
      const { change } = JSON.parse(line) as { change?: string }
      if (change === undefined) return
      changes.push(change)
      for (const waiter of waiting) if (countOf(waiter.change) >= waiter.count) waiter.resolve()
    }
  }
  const app = await createGateway({ auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, cors: { enabled: false }, ...options }, { logger: { level: 'info', stream } })
  t.teardown(() => app.close())
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const gateway: ListeningGateway = Object.assign(app, { port, origin: `http://127.0.0.1:${port}` })
  return {
    gateway,
    changes,
    instances: (name = 'planner') => gateway.registry.get(name).instances,
    /** Resolves when the log has told so often of such a change. */
    async until (change: string, count = 1) {
      if (countOf(change) < count) await new Promise<void>(resolve => waiting.push({ count, change, resolve }))
    },
    async health () {
      return await (await fetch(`${gateway.origin}/health`)).json() as { status: string, services: Record<string, { healthy_instances: number }> }
    }
  }
}

/** Resolves with the head of the answer. */
async function responseOf (origin: string, path: string, method = 'GET'): Promise<IncomingMessage> {
  const request = httpRequest(origin + path, { agent: false, method })
  request.end()
  const [response] = await once(request, 'response') as [IncomingMessage]
  return response
}

t.test('with nobody there at the start, and without a request, the fleet is known to be down long before three intervals', async t => {
  const dead = [await deadPort(), await deadPort()].map(port => ({ host: '127.0.0.1', port }))
  const s = await watched(t, { agents: [agentAt('planner', ...dead)] })
  const tooLong = new Promise((_resolve, reject) => setTimeout(() => reject(new Error('that took an interval')), 9_000).unref())

  await Promise.race([s.until('down', 2), tooLong])

  t.match(await s.health(), { status: 'degraded', services: { planner: { healthy_instances: 0 } } })
})

t.test('when all were down the first request after one is back succeeds, whatever its method, before any probe has noticed', async t => {
  for (const method of ['GET', 'POST']) {
    const agents = [await fakeAgent(t), await fakeAgent(t)]
    const s = await watched(t, { agents: [agentAt('planner', ...agents)], health: { interval: '100ms', unhealthyAfter: 1, healthyAfter: 100 } })
    t.equal((await fetch(`${s.gateway.origin}/api/planner/x`)).status, 200)
    await Promise.all(agents.map(({ kill }) => kill()))
    await s.until('down', 2)
    t.equal((await fetch(`${s.gateway.origin}/api/planner/x`)).status, 502)

    for (const agent of agents) {
      await agent.revive()
      for (let request = 0; request < 3; request++) {
        const reply = await fetch(`${s.gateway.origin}/api/planner/x`, { method, ...(method === 'POST' && { body: 'x' }) })
        t.equal(reply.status, 200)
        await reply.text()
      }
      t.same(s.instances().map(stateOf), ['down', 'down'], 'the probes have not said so')
      await agent.kill()
    }
  }
})

t.test('an agent that comes back is up again by its probes', async t => {
  const agent = await fakeAgent(t)
  const s = await watched(t, { agents: [agentAt('planner', agent)], health: { interval: '100ms' } })
  await agent.kill()
  await s.until('down')

  await agent.revive()
  await s.until('up')

  t.match(await s.health(), { status: 'healthy' })
})

t.test('of two that answer 503 to everything one is ejected, and the other goes on being asked', async t => {
  const failing = async () => fakeAgent(t, (request, response) => { request.resume(); response.writeHead(503).end() })
  const s = await watched(t, { agents: [agentAt('planner', await failing(), await failing())], retry: { attempts: 0 } })

  const replies = await Promise.all(Array.from({ length: 50 }, async () => (await fetch(`${s.gateway.origin}/api/planner/x`)).status))

  t.same(new Set(replies), new Set([503]))
  t.same(s.instances().map(stateOf).sort(), ['ejected', 'up'])
})

/** Two instances, the first of which is ejected for its answers and due for its trial. It holds its answers back. */
async function trialScene (t: Test) {
  let failing = true
  const held: ServerResponse[] = []
  let arrived = () => {}
  const first = await fakeAgent(t, (request, response) => {
    request.resume()
    if (failing) return void response.writeHead(503).end()
    held.push(response)
    arrived()
  })
  const second = await fakeAgent(t, (request, response) => { request.resume(); response.end('second') })
  const s = await watched(t, { agents: [agentAt('planner', first, second)], retry: { attempts: 0 } })
  for (let request = 0; request < 10; request++) await (await fetch(`${s.gateway.origin}/api/planner/x`)).text()
  await s.until('ejected')
  failing = false
  const instance = s.instances()[0] as Instance
  instance.runtime.health.ejectedUntil = Date.now() // its time is over
  return {
    ...s,
    held,
    instance,
    /** Resolves when the first instance has a request that it has not answered. */
    async arrives () { if (held.length === 0) await new Promise<void>(resolve => { arrived = resolve }) },
    ask: async (body?: string) => {
      const reply = await fetch(`${s.gateway.origin}/api/planner/x`, body === undefined ? {} : { method: 'POST', body })
      return { status: reply.status, text: await reply.text() }
    }
  }
}

t.test('one request is the trial of an ejected instance; all others that come meanwhile go elsewhere', async t => {
  for (const body of [undefined, 'small', 'x'.repeat(100_000)]) {
    const s = await trialScene(t)

    const asked = Array.from({ length: 20 }, () => s.ask(body))
    await s.arrives()
    for (let request = 0; request < 5; request++) asked.push(s.ask(body))
    const trial = await Promise.race([Promise.all(asked), Promise.all([s.ask(body), s.ask(body)])])
    t.same(trial.map(({ text }) => text), ['second', 'second'])
    t.equal(s.held.length, 1)
    t.equal(stateOf(s.instance), 'ejected')
    s.held[0]!.end('first')
    const texts = (await Promise.all(asked)).map(({ text }) => text)

    t.equal(texts.filter(text => text === 'first').length, 1)
    t.equal(stateOf(s.instance), 'up')
    t.same(s.changes, ['ejected', 'restored'])
  }
})

t.test('a trial whose client goes away makes room for the next', async t => {
  const s = await trialScene(t)
  const client = await rawClient(t, s.gateway.port)
  client.send('GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\n\r\n')
  if (s.held.length === 0 && s.gateway.registry.get('planner').rotation.next === 1) await s.arrives()
  await s.arrives()
  const ended = new Promise<void>(resolve => { s.gateway.facts.onFinished(() => resolve()) })

  client.socket.destroy()
  await ended
  s.held.length = 0
  const asked = [s.ask(), s.ask()]
  await s.arrives()
  s.held[0]!.end('first')

  t.same((await Promise.all(asked)).map(({ text }) => text).sort(), ['first', 'second'])
  t.equal(stateOf(s.instance), 'up')
})

t.test('a trial survives that its instance registers again, drains, or is reloaded; a removed one starts afresh', async t => {
  const acts: [name: string, state: string, act: (s: Awaited<ReturnType<typeof trialScene>>) => void][] = [
    ['registered again', 'up', ({ gateway, instance: { host, port } }) => { gateway.registry.register({ name: 'planner', host, port, weight: 3 }) }],
    ['drained', 'draining', ({ gateway, instance: { id } }) => { gateway.registry.drain('planner', id) }],
    ['reloaded', 'up', ({ gateway, instances }) => { gateway.registry.replaceFile([{ name: 'planner', aliases: ['plan'], instances: instances().map(({ host, port }) => ({ host, port, protocol: 'http', weight: 1 })) }]) }],
    ['removed', 'up', ({ gateway, instance: { id, host, port } }) => {
      gateway.registry.removeInstance('planner', id)
      gateway.registry.register({ name: 'planner', host, port })
    }]
  ]
  for (const [name, state, act] of acts) {
    const s = await trialScene(t)
    const asked = [s.ask(), s.ask()]
    await s.arrives()

    act(s)
    s.held[0]!.end('first')

    t.same((await Promise.all(asked)).map(({ text }) => text).sort(), ['first', 'second'], name)
    t.equal(stateOf(s.instances().find(({ port }) => port === s.instance.port)!), state, name)
  }
})

/** An agent whose health page never answers, with what `serve` does for everything else. Counts the probes that were given up. */
async function busyAgent (t: Test, serve: (request: IncomingMessage, response: ServerResponse) => void) {
  let probes = 0
  const waiting: { count: number, resolve: () => void }[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url !== '/health') return serve(request, response)
    request.socket.once('close', () => {
      probes++
      for (const { count, resolve } of waiting) if (probes >= count) resolve()
    })
  })
  return {
    agent,
    /** Resolves after so many more probes. */
    probed: (more: number) => new Promise<void>(resolve => waiting.push({ count: probes + more, resolve }))
  }
}

/** Calls `fn` every 10 ms until the returned function is called. */
function often (t: Test, fn: () => void): () => void {
  const timer = setInterval(fn, 10)
  t.teardown(() => clearInterval(timer))
  return () => clearInterval(timer)
}

const busyHealth = { path: '/health', interval: '100ms', timeout: '200ms' }

t.test('busy is not dead: probes that time out say nothing while an answer is streamed, and count when that stops', async t => {
  let stop = () => {}
  const { agent, probed } = await busyAgent(t, (_request, response) => { stop = often(t, () => response.write('chunk')) })
  const s = await watched(t, { agents: [agentAt('planner', agent)], health: busyHealth })
  const response = await responseOf(s.gateway.origin, '/api/planner/stream')
  response.resume()

  await probed(5)
  t.equal(stateOf(s.instances()[0]!), 'up')
  stop()
  await s.until('down')

  t.equal(response.complete, false, 'the stream was only silent')
  response.destroy()
})

t.test('busy is not dead: nor while an upload is taken', async t => {
  const { agent, probed } = await busyAgent(t, request => request.resume())
  const s = await watched(t, { agents: [agentAt('planner', agent)], health: busyHealth })
  const upload = httpRequest(`${s.gateway.origin}/api/planner/upload`, { method: 'POST', agent: false })
  upload.on('error', () => {})
  const stop = often(t, () => upload.write('chunk'))
  await once(agent.server, 'request')

  await probed(5)
  t.equal(stateOf(s.instances()[0]!), 'up')
  stop()
  await s.until('down')

  upload.destroy()
})

t.test('busy is not dead: nor while an agent says that it is at work', async t => {
  let stop = () => {}
  const { agent, probed } = await busyAgent(t, (_request, response) => { stop = often(t, () => response.writeProcessing()) })
  const s = await watched(t, { agents: [agentAt('planner', agent)], health: busyHealth })
  const client = await rawClient(t, s.gateway.port)
  client.send('GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await client.until(/ 102 /)

  await probed(5)
  t.equal(stateOf(s.instances()[0]!), 'up')
  stop()
  await s.until('down')
})

t.test('busy is not dead: nor while a WebSocket moves, in either direction', async t => {
  for (const direction of ['from the agent', 'to the agent']) {
    const { agent, probed } = await busyAgent(t, () => {})
    const sockets: Socket[] = []
    agent.server.on('upgrade', (_request, socket: Socket) => {
      sockets.push(socket)
      socket.on('error', () => {}).resume()
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n')
    })
    const s = await watched(t, { agents: [agentAt('planner', agent)], health: busyHealth })
    const client = await rawClient(t, s.gateway.port)
    client.send('GET /api/planner/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
    await client.until(/ 101 [^]*\r\n\r\n/)
    const stop = often(t, () => direction === 'to the agent' ? client.send('frame') : void sockets[0]!.write('frame'))

    await probed(5)
    t.equal(stateOf(s.instances()[0]!), 'up', direction)
    stop()
    await s.until('down')

    client.socket.destroy()
    sockets[0]!.destroy()
  }
})

t.test('a bad answer is no sign of being busy, however much is streamed', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url === '/health') return void response.writeHead(503).end()
    often(t, () => response.write('chunk'))
  })
  const s = await watched(t, { agents: [agentAt('planner', agent)], health: busyHealth })
  const response = await responseOf(s.gateway.origin, '/api/planner/stream')
  response.resume()

  await s.until('down')

  t.equal(response.complete, false)
  response.destroy()
})

t.test('an agent that lets timeouts.total run out is ejected as for any timeout, unless the client was the slow one', async t => {
  const hanging = await fakeAgent(t, request => request.resume())
  const live = await fakeAgent(t)
  const slow = async ({ port }: ListeningGateway) => {
    const client = await rawClient(t, port)
    client.send('POST /api/planner/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n')
    return client.until(/ 504 /)
  }
  const s = await watched(t, { agents: [{ ...agentAt('planner', hanging, live), timeouts: { total: '100ms' } }] })
  const next = () => { s.gateway.registry.get('planner').rotation.next = 0 }

  for (let request = 0; request < 6; request++) {
    next()
    await slow(s.gateway)
  }
  t.equal(stateOf(s.instances()[0]!), 'up')
  for (let request = 0; request < 5; request++) {
    next()
    t.equal((await fetch(`${s.gateway.origin}/api/planner/x`)).status, 504)
  }

  t.equal(stateOf(s.instances()[0]!), 'ejected')
})

/** What a probe on demand is asked for over HTTP. */
function probeRequest (gateway: ListeningGateway, name = 'planner', id = gateway.registry.get('planner').instances[0]!.id, headers: Record<string, string> = {}) {
  return fetch(`${gateway.origin}/registry/${name}/instances/${id}/probe`, { method: 'POST', headers })
}

t.test('a flood of probes on demand is one connection', async t => {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(response) })
  const gateway = await buildGateway(t, { agents: [agentAt('planner', agent)] })

  const [{ id }] = gateway.registry.get('planner').instances as [Instance]

  const replies = Array.from({ length: 200 }, () => gateway.inject({ method: 'POST', url: `/registry/planner/instances/${id}/probe` }))
  await once(agent.server, 'request')
  held[0]!.end()
  for (const reply of await Promise.all(replies)) t.match(reply.json(), { ok: true, status: 200 })

  t.equal(agent.requests.length, 1)
})

t.test('a client that leaves a probe on demand takes nothing with it', async t => {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(response) })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)] })
  const [{ id }] = gateway.registry.get('planner').instances as [Instance]
  const client = await rawClient(t, gateway.port)
  client.send(`POST /registry/planner/instances/${id}/probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`)
  await once(agent.server, 'request')
  const other = gateway.health.check(gateway.registry.instance('planner', id))

  client.socket.destroy()
  held[0]!.end()

  t.match(await other, { outcome: 'ok' })
  t.match(await (async () => { const reply = probeRequest(gateway); await once(agent.server, 'request'); held[1]!.end(); return (await reply).json() })(), { ok: true })
})

t.test('closing the gateway ends a probe on demand and its connection', async t => {
  let asked = () => {}
  const arrived = new Promise<void>(resolve => { asked = resolve })
  const mute = await rawAgent(t, () => asked())
  const gateway = await startGateway(t, { agents: [agentAt('planner', mute)] })
  const probing = probeRequest(gateway).then(reply => reply.status, () => 'cut off')
  await arrived

  await gateway.close()

  await t.resolves(probing)
  for (const socket of mute.connections) await closed(socket)
})

t.test('a probe on demand takes of an agent no more than its head', async t => {
  let written = 0
  const endless = await rawAgent(t, socket => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n')
    const chunk = Buffer.alloc(64 * 1024)
    const more = () => { do written += chunk.length; while (!socket.destroyed && socket.write(chunk)) }
    socket.on('drain', more)
    more()
  })
  const bigHead = await rawAgent(t, socket => {
    socket.write('HTTP/1.1 200 OK\r\n')
    const line = `x: ${'y'.repeat(60_000)}\r\n`
    const more = () => { do written += line.length; while (!socket.destroyed && socket.write(line)) }
    socket.on('drain', more)
    more()
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', endless), agentAt('writer', bigHead)] })

  t.match(await (await probeRequest(gateway)).json(), { ok: true, status: 200 })
  const [{ id }] = gateway.registry.get('writer').instances as [Instance]
  t.match(await (await probeRequest(gateway, 'writer', id)).json(), { ok: false, outcome: 'bad', status: null, cause: 'HPE_HEADER_OVERFLOW' })

  for (const socket of [...endless.connections, ...bigHead.connections]) await closed(socket)
  t.ok(written < 100 * 1024 * 1024)
})

t.test('who may probe on demand: keys that read, of their agents; no foreign page; nobody what is not there', async t => {
  const agents = [await fakeAgent(t), await fakeAgent(t)]
  const token = (id: string) => `token-of-${id}-0123456789abcdef`
  const gateway = await startGateway(t, {
    agents: [{ ...agentAt('planner', agents[0]!), aliases: ['plan'] }, agentAt('writer', agents[1]!)],
    auth: {
      enabled: true,
      keys: [
        { id: 'reader', token: token('reader'), scopes: ['read'] },
        { id: 'user', token: token('user'), scopes: ['proxy'] },
        { id: 'writers', token: token('writers'), scopes: ['read'], agents: ['writer'] }
      ]
    }
  })
  const { id } = gateway.registry.get('planner').instances[0]!
  const cases: [key: string | null, name: string, id: string, status: number][] = [
    ['reader', 'planner', id, 200],
    ['reader', 'plan', id, 200],
    ['reader', 'writer', id, 404],
    ['reader', 'planner', 'nobody', 404],
    ['reader', 'planner', '%00', 400],
    ['reader', '__proto__', id, 404],
    ['user', 'planner', id, 403],
    ['writers', 'planner', id, 403],
    ['writers', 'plan', id, 403],
    ['writers', 'nobody', id, 403],
    [null, 'planner', id, 401]
  ]
  const before = agents[0]!.requests.length
  for (const [key, name, instance, status] of cases) {
    const reply = await probeRequest(gateway, name, instance, key === null ? {} : { authorization: `Bearer ${token(key)}` })
    t.equal(reply.status, status, `${key} ${name} ${instance}`)
  }
  t.equal(agents[0]!.requests.length - before, 2, 'the agent hears of none of the others')

  const open = await startGateway(t, { agents: [agentAt('planner', agents[0]!)] })
  t.equal((await probeRequest(open, undefined, undefined, { origin: 'https://evil.example' })).status, 403)
  t.equal((await probeRequest(open, undefined, undefined, { 'content-type': 'application/json' })).status, 200, 'the type of a body that is not there')
  t.equal((await probeRequest(open, undefined, undefined, { 'content-type': 'text/xml' })).status, 200)
})
