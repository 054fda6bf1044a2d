/** Change without harm: what stays does not notice a reload, a registration or a removal, and what leaves finishes what it has begun. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, type FakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'

interface Answer { status: number, text: string }

function ask ({ port }: ListeningGateway, path: string, { method = 'GET', body = '', agent }: { method?: string, body?: string, agent?: Agent } = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const outgoing = httpRequest({ port, host: '127.0.0.1', path, method, headers, agent: agent ?? false }, response => {
      response.toArray().then(chunks => resolve({ status: response.statusCode!, text: Buffer.concat(chunks as Buffer[]).toString() }), reject)
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

/** Open sockets and timers of this process. */
function resources (): { sockets: number, timers: number } {
  const all = process.getActiveResourcesInfo()
  return { sockets: all.filter(name => name === 'TCPSocketWrap').length, timers: all.filter(name => name === 'Timeout').length }
}

t.test('a hundred reloads under load harm no request and no stream', async t => {
  const payload = randomBytes(64 * 1024)
  const pieces = 300
  const downloads: ServerResponse[] = []
  const events: ServerResponse[] = []
  const steady = await fakeAgent(t, (incoming, response) => {
    if (incoming.url === '/events') return void (events.push(response), response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders())
    downloads.push(response.writeHead(200, { 'content-length': pieces * payload.length }))
    response.flushHeaders()
  })
  const rooms = new WebSocketServer({ server: steady.server })
  rooms.on('connection', room => room.on('message', data => room.send(data)))
  const others = await Promise.all(Array.from({ length: 4 }, async () => fakeAgent(t, (incoming, response) => { incoming.resume().on('end', () => response.end(incoming.headers['x-request-id'])) })))
  const [one, two, three, nomad] = others as [FakeAgent, FakeAgent, FakeAgent, FakeAgent]

  const at = ({ port }: FakeAgent, weight = 1) => `{host: 127.0.0.1, port: ${port}, weight: ${weight}}`
  /** Each version differs from the one before in order, weights, timeouts, aliases, who is there, and where the nomad is. */
  const fleet = (version: number) => {
    const agents = [
      `  - {name: steady, instances: [${at(steady, version % 9 + 1)}], aliases: [steady-${version}], timeout: ${20 + version % 7}s}`,
      `  - {name: a, instances: [${[at(one, version % 5 + 1), ...(version % 3 === 0 ? [] : [at(two)]), ...(version % 2 === 0 ? [at(nomad)] : [])].join(', ')}]}`,
      `  - {name: b, instances: [${[...(version % 2 === 1 ? [at(nomad)] : []), at(three)].join(', ')}], aliases: [also-b]}`
    ]
    return `agents:\n${(version % 2 === 0 ? agents : agents.reverse()).join('\n')}\ntimeouts: {connect: ${2 + version % 3}s}\nhealth: {interval: ${1 + version % 5}s}\n`
  }
  const file = join(t.testdir({ 'fleet.yaml': fleet(0) }), 'fleet.yaml')
  const gateway = await startGateway(t, { file })
  const { runtime } = gateway.registry.get('steady').instances[0]!
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))

  const stream = await rawClient(t, gateway.port)
  stream.send('GET /api/steady/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await stream.until(/\r\n\r\n/)
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/steady/`)
  await once(socket, 'open')
  const outgoing = httpRequest(`${gateway.origin}/api/steady/download`, { agent: false }).end()
  const [download] = await once(outgoing, 'response') as [IncomingMessage]
  const downloadEnded = once(download, 'end')
  let downloaded = 0
  let wrong = 0
  download.on('data', (chunk: Buffer) => {
    for (let offset = 0; offset < chunk.length;) {
      const from = downloaded % payload.length
      const length = Math.min(payload.length - from, chunk.length - offset)
      if (payload.compare(chunk, offset, offset + length, from, from + length) !== 0) wrong++
      offset += length
      downloaded += length
    }
  })
  const atStart = resources()

  const state = { over: false }
  let asked = 0
  const failures: string[] = []
  const agent = new Agent({ keepAlive: true, maxSockets: 8 })
  const load = Array.from({ length: 4 }, async (_, worker) => {
    while (!state.over) {
      const { status, text } = await ask(gateway, ['/api/a/', '/api/b/', '/api/also-b/'][asked++ % 3]!, { agent, ...(worker % 2 === 0 && { method: 'POST', body: '"x"' }) })
      if (status !== 200) failures.push(`${status} ${text}`)
    }
  })
  for (let version = 1; version <= 100; version++) {
    if (version % 10 === 0) { // somebody saves a mistake first
      await writeFile(file, `${fleet(version)}nonsense: {`)
      t.equal(await gateway.discovery.reload(), false)
    }
    if (version % 3 === 0) await writeFile(file, fleet(version))
    else {
      await writeFile(`${file}.new`, fleet(version))
      await rename(`${file}.new`, file)
    }
    t.equal(await gateway.discovery.reload(), true)
    events[0]!.write(`data: ${version}\n\n`)
    for (let piece = 0; piece < pieces / 100; piece++) downloads[0]!.write(payload)
    socket.send(String(version))
    t.equal(String((await once(socket, 'message') as [Buffer])[0]), String(version))
    t.ok(gateway.registry.find(`steady-${version}`), 'the new configuration runs')
  }
  state.over = true
  await Promise.all(load)
  downloads[0]!.end()
  await downloadEnded
  await stream.until(/data: 100\n/)
  agent.destroy()

  t.same(failures, [])
  t.ok(asked > 100, `${asked} requests`)
  t.same([...stream.received().matchAll(/data: (\d+)\n/g)].map(([, number]) => Number(number)), Array.from({ length: 100 }, (_, index) => index + 1))
  t.equal(socket.readyState, WebSocket.OPEN)
  t.same([downloaded, wrong], [pieces * payload.length, 0])
  t.equal(gateway.registry.get('steady').instances[0]!.runtime, runtime, 'an instance that stays keeps its record')
  t.equal(runtime.inFlight, 2, 'the event stream and the WebSocket')
  t.same(warnings, [])
  socket.terminate()
  stream.socket.destroy()
  // Idle connections of ours and to agents end by themselves; what grew with the reloads would stay.
  while (resources().sockets > atStart.sockets || runtime.inFlight > 0) await once(steady.server, 'connection')
  t.ok(resources().timers <= atStart.timers + 10, `${atStart.timers} timers became ${resources().timers}`)
})

/** An agent whose answers are given by the test. */
async function heldAgent (t: Test) {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (incoming, response) => { incoming.resume(); held.push(response) })
  return Object.assign(agent, { held })
}

t.test('an instance that leaves finishes what is in flight, however it was sent away, and gets nothing new', async t => {
  const [leaving, staying] = [await heldAgent(t), await fakeAgent(t, (_request, response) => response.end('stays'))]
  const file = join(t.testdir({ 'fleet.yaml': '' }), 'fleet.yaml')
  const both = JSON.stringify({ agents: [agentAt('a', leaving, staying)] })
  const one = JSON.stringify({ agents: [agentAt('a', staying)] })
  const ways: [string, (gateway: ListeningGateway, id: string) => Promise<unknown>][] = [
    ['taken out of the file', async gateway => { await writeFile(file, one); t.equal(await gateway.discovery.reload(), true) }],
    ['the file has another agent', async gateway => { await writeFile(file, 'agents: []\n'); t.equal(await gateway.discovery.reload(), true) }],
    ['removed at once', async (gateway, id) => t.equal((await ask(gateway, `/registry/a/instances/${id}`, { method: 'DELETE' })).status, 200)],
    ['the whole agent removed', async gateway => t.equal((await ask(gateway, '/registry/a', { method: 'DELETE' })).status, 200)],
    ['drained', async (gateway, id) => t.match(JSON.parse((await ask(gateway, `/registry/a/instances/${id}?drain=true`, { method: 'DELETE' })).text), { instance: { state: 'draining' } })]
  ]

  for (const [way, send] of ways) {
    await writeFile(file, both)
    const gateway = await startGateway(t, { file })
    const pending = ask(gateway, '/api/a/held')
    while (leaving.held.length === 0) await once(leaving.server, 'request')
    const { id, runtime } = gateway.registry.get('a').instances[0]!

    await send(gateway, id)
    const during = await Promise.all([ask(gateway, '/api/a/'), ask(gateway, '/api/a/'), ask(gateway, '/api/a/')])
    const gone = gateway.registry.find('a') === undefined
    leaving.held.pop()!.end('finished')

    t.same(during.map(({ status, text }) => status === 200 ? text : status), gone ? [404, 404, 404] : ['stays', 'stays', 'stays'], way)
    t.same(await pending, { status: 200, text: 'finished' }, way)
    t.equal(runtime.inFlight, 0, way)
    t.equal(leaving.held.length, 0, way)
    await gateway.close()
  }
})

t.test('a drained instance leaves when the last of its streams has ended', async t => {
  const agent = await heldAgent(t)
  const gateway = await startGateway(t, { agents: [agentAt('a', agent)] })
  const pending = ask(gateway, '/api/a/')
  while (agent.held.length === 0) await once(agent.server, 'request')
  const { id } = gateway.registry.get('a').instances[0]!
  const left = new Promise<void>(resolve => { gateway.registry.onChange(({ removed }) => { if (removed.some(instance => instance.id === id)) resolve() }) })

  for (let times = 0; times < 3; times++) t.equal((await ask(gateway, `/registry/a/instances/${id}?drain=true`, { method: 'DELETE' })).status, 200)
  t.equal((await ask(gateway, '/api/a/')).status, 503, 'there is nobody else')
  t.match(JSON.parse((await ask(gateway, '/agents/a')).text), { instances: [{ state: 'draining' }] })
  agent.held[0]!.end()
  await pending
  await left

  t.same(JSON.parse((await ask(gateway, '/agents/a')).text).instances, [])
  t.equal((await ask(gateway, '/api/a/')).status, 503, 'it is remembered')
  t.equal((await ask(gateway, '/registry/a', { method: 'DELETE' })).status, 200)
  t.equal((await ask(gateway, '/api/a/')).status, 404, 'and forgotten on request')
})

t.test('a request whose body is still coming goes to whoever is there when it has come', async t => {
  const [before, after] = [await heldAgent(t), await fakeAgent(t, (incoming, response) => { incoming.resume().on('end', () => response.end('after')) })]
  for (const method of ['PUT', 'POST']) {
    const gateway = await startGateway(t, { agents: [] })
    gateway.registry.register({ name: 'a', host: before.host, port: before.port })
    const client = await rawClient(t, gateway.port)
    client.send(`${method} /api/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello`)
    while (gateway.facts.inFlight === 0) await ask(gateway, '/health/live')

    gateway.registry.register({ name: 'a', host: after.host, port: after.port })
    gateway.registry.removeInstance('a', gateway.registry.get('a').instances[0]!.id)
    client.send('world')

    t.match(await client.until(/after/), /^HTTP\/1\.1 200 /, method)
    t.equal(before.held.length, 0)
  }
})

t.test('a retry goes to an instance that came after the request', async t => {
  const after = await fakeAgent(t, (_request, response) => response.end('after'))
  const before = await fakeAgent(t, incoming => {
    // While this request is here, the fleet becomes another, and its instance dies.
    gateway.registry.register({ name: 'a', host: after.host, port: after.port })
    gateway.registry.removeInstance('a', gateway.registry.get('a').instances[0]!.id)
    incoming.socket.destroy()
  })
  const gateway = await startGateway(t, { agents: [] })
  gateway.registry.register({ name: 'a', host: before.host, port: before.port })

  t.same(await ask(gateway, '/api/a/'), { status: 200, text: 'after' })
})

t.test('a thousand registrations at once disturb nobody, and all of them are there', async t => {
  const agent = await fakeAgent(t, (_request, response) => response.end('here'))
  const gateway = await startGateway(t, { agents: [agentAt('steady', agent)], registry: { stateDir: join(t.testdir(), '.fleet') } })
  const pool = new Agent({ keepAlive: true, maxSockets: 50 })
  const state = { over: false }
  const failures: Answer[] = []
  const load = Array.from({ length: 4 }, async () => {
    while (!state.over) {
      const answer = await ask(gateway, '/api/steady/', { agent: pool })
      if (answer.text !== 'here') failures.push(answer)
    }
  })

  const statuses = await Promise.all(Array.from({ length: 1_000 }, async (_, index) => {
    const body = JSON.stringify({ name: `agent-${index}`, host: agent.host, port: agent.port })
    return (await ask(gateway, '/registry/register', { method: 'POST', body, agent: pool })).status
  }))
  state.over = true
  await Promise.all(load)

  t.same([...new Set(statuses)], [201])
  t.equal(gateway.registry.size, 1_001)
  t.same(failures, [])
  t.equal((await ask(gateway, '/api/agent-999/')).text, 'here')
  pool.destroy()
})
