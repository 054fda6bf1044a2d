/** What is written at the end of a turn of the event loop, together with others, is each request's own as ever. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import type { RequestFacts } from '../../plugins/facts/index.ts'
import { atEndOfTurn } from '../../plugins/proxy/end-of-turn.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { readAnswers } from '../helpers/answers.ts'
import { agentAt, openGateway, quiet, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { okAnswer } from '../helpers/recording-agent.ts'

/** An application whose requests each have an asynchronous context of their own, and what its `onResponse` hooks find in it. */
async function appWithContext (t: Test, agent: { host: string, port: number }) {
  const context = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[][] = []
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  const sockets: Socket[] = []
  app.server.on('connection', (socket: Socket) => sockets.push(socket))
  app.addHook('onRequest', (request, _reply, done) => context.run(request.url, done))
  app.addHook('onResponse', async request => { seen.push([request.url, context.getStore()]) })
  await app.register(openGateway, { ...quiet, ...unprobed, retry: { attempts: 0 }, agents: [agentAt('planner', agent)] })
  return { origin: await app.listen({ host: '127.0.0.1', port: 0 }), seen, sockets }
}

type Rest = () => void
const answers: [what: string, status: number, answer: (response: ServerResponse, url: string) => Rest | void][] = [
  ['that are whole', 200, (response, url) => void response.end(url)],
  ['with a length that come in pieces', 200, (response, url) => {
    response.writeHead(200, { 'content-length': url.length }).flushHeaders()
    return () => response.end(url)
  }],
  ['without a length', 200, (response, url) => {
    response.write(url)
    return () => response.end()
  }],
  ['that can\'t be had', 502, response => void response.socket!.resetAndDestroy()]
]
for (const [what, status, answer] of answers) {
  for (const count of [2, 40]) {
    t.test(`for answers ${what}, ${count} at once, an application's hooks are in the asynchronous context of their own request`, async t => {
      const held: (() => void)[] = []
      const rests = new Map<string, Rest | void>()
      const agent = await fakeAgent(t, (request, response) => {
        const url = request.url!
        held.push(() => rests.set(url, url.startsWith('/first') ? void response.end(url) : answer(response, url)))
        if (held.length === count) for (const give of held.splice(0)) give()
      })
      const { origin, seen } = await appWithContext(t, agent)

      for (const round of ['first', 'second']) { // the second is on connections that requests of the first have opened
        const got = await Promise.all(Array.from({ length: count }, async (_, index) => {
          const response = await fetch(`${origin}/api/planner/${round}/${index}`, { method: 'POST' })
          rests.get(`/${round}/${index}`)?.()
          return [response.status, response.status === 200 ? await response.text() : '']
        }))
        const expected = round === 'first' ? 200 : status
        t.same(got, Array.from({ length: count }, (_, index) => [expected, expected === 200 ? `/${round}/${index}` : '']))
      }
      while (seen.length < 2 * count) await turn()
      for (const [url, store] of seen) t.equal(store, url)
    })
  }
}

t.test('for an answer to a client that is still sending, the hooks are in the context of its request too', async t => {
  const agent = await rawAgent(t, socket => socket.write(okAnswer))
  const { origin, seen } = await appWithContext(t, agent)
  const client = await rawClient(t, Number(new URL(origin).port))
  client.send(`POST /api/planner/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${10 << 20}\r\n\r\n`)
  await client.until(/ok$/)
  client.send('x'.repeat(10 << 20))
  while (seen.length === 0) await turn()
  t.same(seen, [['/api/planner/slow', '/api/planner/slow']])
})

t.test('for an answer that its client was slow to read, the hooks are in the context of its request too', async t => {
  let unread = () => false
  const agent = await fakeAgent(t, (request, response) => {
    const answer = () => {
      if (request.url !== '/slow' || unread()) return response.end('end')
      response.write(Buffer.alloc(64 << 10))
      setImmediate(answer)
    }
    answer()
  })
  const { origin, seen, sockets } = await appWithContext(t, agent)
  await (await fetch(`${origin}/api/planner/first`)).text()
  const client = await rawClient(t, Number(new URL(origin).port))
  client.socket.pause()
  unread = () => sockets.at(-1)!.writableLength > 0 // what follows is written behind it, and ends behind it
  client.send('GET /api/planner/slow HTTP/1.1\r\nHost: localhost\r\n\r\n')
  while (!unread()) await turn()
  for (let turns = 0; turns < 10; turns++) await turn()
  client.socket.resume()
  while (seen.length < 2) await turn()

  t.same(seen, [['/api/planner/first', '/api/planner/first'], ['/api/planner/slow', '/api/planner/slow']])
})

t.test('what is put off is done in order at the end of the turn, and one that throws is not for the others', async t => {
  const done: string[] = []
  const thrown: unknown[] = []
  process.setUncaughtExceptionCaptureCallback(error => thrown.push(error)) // so that those of other tests hear nothing of it
  t.teardown(() => process.setUncaughtExceptionCaptureCallback(null))
  atEndOfTurn(() => {
    done.push('a')
    atEndOfTurn(() => done.push('d'))
  })
  atEndOfTurn(() => { throw new Error('mine') })
  atEndOfTurn(() => done.push('c'))
  t.same(done, [])
  while (done.length < 3) await turn()
  t.match(thrown, [{ message: 'mine' }])
  t.same(done, ['a', 'd', 'c'])
})

/** A gateway in front of an agent that answers no `/held`; so many of those are under way that what is written whole waits. */
async function busyGateway (t: Test, onData: (socket: Socket, text: string) => void, options: FleetGatewayOptions = {}) {
  const agent = await rawAgent(t, (socket, bytes) => {
    const text = bytes.toString('latin1')
    if (!text.includes(' /held ')) onData(socket, text)
  })
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  const sockets: Socket[] = []
  app.server.on('connection', (socket: Socket) => sockets.push(socket))
  await app.register(openGateway, { ...quiet, ...unprobed, retry: { attempts: 0 }, agents: [agentAt('planner', agent)], ...options })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const accounts: RequestFacts[] = []
  app.facts.onFinished(facts => accounts.push(facts))
  const client = await rawClient(t, port)
  const holding = await Promise.all(Array.from({ length: 4 }, () => rawClient(t, port)))
  for (const held of holding) held.send(request('GET', 'held'))
  while (app.facts.inFlight < 4 || agent.connections.length < 4) await turn()
  client.send(request('GET', 'first'))
  await client.until(/ok$/)
  return { app, client, accounts, socket: sockets[0]!, idle: agent.connections.at(-1)! }
}

const request = (method: string, path: string) => `${method} /api/planner/${path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${path}\r\nContent-Length: 0\r\n\r\n`
const turn = () => new Promise(resolve => setImmediate(resolve))

t.test('an answer whose client left before the turn was over counts as one that nobody got', async t => {
  let read = () => {}
  const { app, client, accounts, socket } = await busyGateway(t, agentSocket => agentSocket.write(okAnswer), { onStreamed: () => read() })
  const over = new Promise<void>(resolve => { app.facts.onFinished(() => resolve()) })
  read = () => { queueMicrotask(() => socket.destroy()) } // the answer was read, and is not written yet
  client.send(request('GET', 'left'))
  await over

  t.match(accounts.at(-1), { id: 'left', status: 499, ending: 'client-aborted', bytesSent: 0, attempts: [{ outcome: 'answered' }] })
  t.notMatch(client.received(), /ok[^]*ok/)
})

for (const [what, disturb] of [['ends', (agentSocket: Socket) => agentSocket.end()], ['says something unasked', (agentSocket: Socket) => agentSocket.write('HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nSTRAY')]] as const) {
  for (const method of ['GET', 'POST']) {
    t.test(`a ${method} whose connection ${what} before it was written goes out on another, once`, { skip: process.env['FLEET_UPSTREAM_CLIENT'] === 'undici' && 'undici writes at once' }, async t => {
      const seen: string[] = []
      const { idle, client, accounts } = await busyGateway(t, (agentSocket, text) => {
        seen.push(/^\w+ \S+/.exec(text)![0])
        agentSocket.write(okAnswer)
      })

      // Both are there to be read in one turn, in this order, and the request is written behind it.
      client.send(request(method, 'second'))
      disturb(idle)
      const answers = readAnswers(await client.until(/ok[^]*(ok|STRAY|\})$/))

      t.same(answers.map(({ status, body }) => [status, body]), [[200, 'ok'], [200, 'ok']])
      t.same(seen, ['GET /first', `${method} /second`])
      t.match(accounts.at(-1), { id: 'second', status: 200, attempts: [{ outcome: 'stale' }, { outcome: 'answered' }] })
    })
  }
}

t.test('an answer that waited and that nobody reads is bounded by timeouts.idle', async t => {
  const big = 'x'.repeat(4_000)
  const { client, socket, accounts } = await busyGateway(t, agentSocket => agentSocket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${big.length + 2}\r\n\r\n${big}ok`), { timeouts: { idle: '300ms' } })
  const closed = once(socket, 'close')
  client.socket.pause()
  while (socket.writableLength === 0) { // one at a time: the last is the only one that is unread
    const { length } = accounts
    client.send(request('GET', 'big'))
    while (accounts.length === length && socket.writableLength === 0) await turn()
  }
  await closed
  t.ok(socket.destroyed)
})
