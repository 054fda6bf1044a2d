import t, { type Test } from 'tap'
import { once } from 'node:events'
import { connect } from 'node:net'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { deadPort } from '../helpers/fake-agent.ts'
import { firstInOrder } from '../helpers/first-in-order.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { scriptedAgent, type ScriptedAgent } from '../helpers/scripted-agent.ts'
import { askStrictly } from '../helpers/strict-client.ts'

const ok = (body: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`

/** An agent that does what the path says, and tells when something came. */
async function agentOfStages (t: Test): Promise<ScriptedAgent & { came: () => Promise<unknown> }> {
  let tell = () => {}
  const agent = await scriptedAgent(t, {
    onBytes: () => {
      tell()
      return false
    },
    onRequest ({ request, socket }) {
      const stage = request.target.slice(1)
      if (stage === 'good') socket.write(ok('good'))
      else if (stage === 'hints') socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n')
      else if (stage === 'half-head') socket.write('HTTP/1.1 200 OK\r\nX-A: ')
      else if (stage === 'head') socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n')
      else if (stage === 'half-body') socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel')
      else if (stage === 'half-chunks') socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n')
      else if (stage === 'events') socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na:\n\r\n')
    }
  })
  return Object.assign(agent, { came: () => new Promise<void>(resolve => { tell = resolve }) })
}

interface Stage {
  readonly name: string
  readonly send: string
  /** What has happened when the client leaves. */
  readonly leavesAt: 'sent' | 'agent has it' | RegExp
  /** The request never reaches an agent. */
  readonly unforwarded?: true
}

const head = (line: string, fields = '') => `${line} HTTP/1.1\r\nHost: localhost\r\n${fields}\r\n`
const stages: readonly Stage[] = [
  { name: 'in the request line', send: 'GET /api/plan', leavesAt: 'sent', unforwarded: true },
  { name: 'in the head', send: 'GET /api/planner/silent HTTP/1.1\r\nHost: loc', leavesAt: 'sent', unforwarded: true },
  { name: 'before a small body', send: head('POST /api/planner/silent', 'Content-Length: 4\r\n'), leavesAt: 'sent', unforwarded: true },
  { name: 'in a small body', send: `${head('POST /api/planner/silent', 'Content-Length: 4\r\n')}bo`, leavesAt: 'sent', unforwarded: true },
  { name: 'in a body that is streamed', send: `${head('POST /api/planner/silent', 'Content-Length: 200000\r\n')}${'x'.repeat(100_000)}`, leavesAt: 'agent has it' },
  { name: 'in a body of chunks', send: `${head('POST /api/planner/silent', 'Transfer-Encoding: chunked\r\n')}5\r\nhello\r\n`, leavesAt: 'agent has it' },
  { name: 'while it waits for the head', send: head('GET /api/planner/silent'), leavesAt: 'agent has it' },
  { name: 'while it waits after a POST', send: `${head('POST /api/planner/silent', 'Content-Length: 4\r\n')}body`, leavesAt: 'agent has it' },
  { name: 'after hints', send: head('GET /api/planner/hints'), leavesAt: /103 Early Hints/ },
  { name: 'in the head of the answer', send: head('GET /api/planner/half-head'), leavesAt: 'agent has it' },
  { name: 'between head and body of the answer', send: head('GET /api/planner/head'), leavesAt: /\r\n\r\n$/ },
  { name: 'in the body of the answer', send: head('GET /api/planner/half-body'), leavesAt: /hel$/ },
  { name: 'in the chunks of the answer', send: head('GET /api/planner/half-chunks'), leavesAt: /hel/ },
  { name: 'in an event stream', send: head('GET /api/planner/events'), leavesAt: /a:/ },
  { name: 'in a WebSocket handshake', send: head('GET /api/planner/silent', 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'), leavesAt: 'agent has it' }
]

t.test('a client may leave at any stage: its request at the agent ends, and nothing is left under way', async t => {
  for (const leave of ['FIN', 'RST', 'FIN of both'] as const) {
    for (const { name, send, leavesAt, unforwarded } of stages) {
      const what = `${name}, with ${leave}`
      const agent = await agentOfStages(t)
      const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })
      await gateway.health.firstRound()
      await agent.idle()
      const client = await rawClient(t, gateway.port)

      const came = agent.came()
      const connected = once(gateway.server, 'request')
      client.send(send)
      if (leavesAt === 'agent has it') await came
      else if (leavesAt !== 'sent') await client.until(leavesAt)
      else if (send.includes('\r\n\r\n')) await connected
      if (leave === 'RST') client.socket.resetAndDestroy()
      else if (leave === 'FIN of both') client.socket.destroy()
      // A closed client's FIN looks like one of a client that would read on, and work for who is gone must end: nginx and Envoy decide the same.
      else client.socket.end()

      await agent.idle()
      await quiet(gateway)
      t.equal(underWay(gateway), 0, what)
      t.equal(agent.arrivals.size <= 1, true, what)
      if (unforwarded) t.same([...agent.arrivals], [], `${what}: the agent hears nothing`)
      t.equal((await askStrictly(gateway.port, 'GET', head('GET /api/planner/good'))).answer?.body, 'good', what)
      t.same(gateway.registry.get('planner').instances[0]!.runtime.health.consecutiveFailures, 0, `${what}: nobody's fault`)
      await gateway.close()
    }
  }
})

t.test('a client that leaves while a retry waits its moment ends it', async t => {
  const agent = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n') } })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })
  const client = await rawClient(t, gateway.port)

  const answered = new Promise<void>(resolve => { gateway.upstream.onSettled(() => resolve()) })
  client.send(head('GET /api/planner/', 'X-Request-Id: left\r\n'))
  await answered
  client.socket.resetAndDestroy()

  await quiet(gateway)
  // The longest pause passes with this one's.
  await askStrictly(gateway.port, 'GET', head('GET /api/planner/'))
  t.equal(agent.arrivals.get('left'), 1)
  t.equal(underWay(gateway), 0)
})

t.test('a client that leaves while a connection is being opened ends that', async t => {
  let lookedUp = () => {}
  const began = new Promise<void>(resolve => { lookedUp = resolve })
  const gateway = await startGateway(t, { agents: [{ name: 'planner', host: '127.0.0.1', port: await deadPort() }], health: { interval: '1h' } })
  gateway.upstream.onBegin(() => lookedUp())
  const client = await rawClient(t, gateway.port)

  client.send(head('GET /api/planner/'))
  client.socket.resetAndDestroy()
  await Promise.race([began, quiet(gateway)])

  await quiet(gateway)
  t.equal(underWay(gateway), 0)
})

t.test('a client that reads nothing holds up nobody else, and is given up when idle', async t => {
  const agent = await scriptedAgent(t, {
    onRequest ({ request, socket }) {
      if (request.target === '/good') return void socket.write(ok('good'))
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
      const chunk = `10000\r\n${'x'.repeat(65_536)}\r\n`
      const more = () => { while (!socket.destroyed && socket.write(chunk)); }
      socket.on('drain', more)
      more()
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { idle: '300ms' }, health: { interval: '1h' } })
  const client = connect({ port: gateway.port, host: '127.0.0.1' }).pause()
  t.teardown(() => client.destroy())
  client.on('error', () => {})

  client.write(head('GET /api/planner/endless'))
  await once(gateway.server, 'request')
  const meanwhile = await askStrictly(gateway.port, 'GET', head('GET /api/planner/good'))

  t.equal(meanwhile.answer?.body, 'good')
  await quiet(gateway)
  t.equal(underWay(gateway), 0)
})

t.test('a client that never finishes its body is 408 by timeouts.idle, and the agent\'s request ends', async t => {
  for (const fields of ['Content-Length: 10\r\n', 'Content-Length: 200000\r\n', 'Transfer-Encoding: chunked\r\n']) {
    const agent = await agentOfStages(t)
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { idle: '100ms' }, health: { interval: '1h' } })

    const { answer, violation } = await askStrictly(gateway.port, 'POST', `${head('POST /api/planner/silent', fields)}5\r\nhe`)

    t.match({ answer, violation }, { answer: { status: 408 }, violation: null }, fields)
    await agent.idle()
    await quiet(gateway)
    t.equal(underWay(gateway), 0, fields)
  }
})

t.test('answers to pipelined requests stay in order when the client leaves in the middle of the first', async t => {
  const agent = await agentOfStages(t)
  const gateway = await startGateway(t, { balancer: firstInOrder, agents: [agentAt('planner', agent)], health: { interval: '1h' } })
  const client = await rawClient(t, gateway.port)

  client.send(head('GET /api/planner/half-body') + head('GET /api/planner/good') + head('GET /api/planner/silent'))
  t.match(await client.until(/hel/), /^[^]*hel$/)
  client.socket.resetAndDestroy()

  await quiet(gateway)
  t.equal(underWay(gateway), 0)
  await agent.idle() // the connection that is kept is closed when nobody comes
})
