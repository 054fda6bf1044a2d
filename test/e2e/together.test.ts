/** What is written at the end of a turn of the event loop, together with others, is each request's own as ever. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import t from 'tap'
import { writeText, type NodeResponse } from '../../plugins/proxy/node-response.ts'
import { fleetGateway } from '../../src/gateway.ts'
import { serverOptions } from '../../src/server.ts'
import { agentAt, quiet, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'

t.test('an application\'s hooks are in the asynchronous context of their own request', async t => {
  const count = 40
  const held: (() => void)[] = []
  const agent = await fakeAgent(t, (request, response) => {
    held.push(() => response.end(request.url))
    if (held.length === count) for (const answer of held) answer()
  })
  const context = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[][] = []
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  app.addHook('onRequest', (request, _reply, done) => context.run(request.url, done))
  app.addHook('onResponse', async request => { seen.push([request.url, context.getStore()]) })
  await app.register(fleetGateway, { ...quiet, ...unprobed, agents: [agentAt('planner', agent)] })
  const origin = await app.listen({ host: '127.0.0.1', port: 0 })

  const bodies = await Promise.all(Array.from({ length: count }, async (_, index) => await (await fetch(`${origin}/api/planner/${index}`)).text()))

  t.same(bodies, Array.from({ length: count }, (_, index) => `/${index}`))
  t.equal(seen.length, count)
  for (const [url, store] of seen) t.equal(store, url)
})

t.test('an answer whose client left before the turn was over is not written', async t => {
  let given = 0
  const over = new Promise<void>(resolve => {
    const server = createServer((_request, response) => {
      writeText(response as NodeResponse, 200, 'OK', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', 'ok', true, () => { given++ })
      response.destroy()
      setImmediate(resolve)
    }).listen(0, '127.0.0.1')
    t.teardown(() => server.close())
    server.once('listening', () => get({ port: (server.address() as AddressInfo).port, agent: false }).on('error', () => {}))
  })
  await over
  t.equal(given, 0)
})

t.test('and that of a client that stays is', async t => {
  const server = createServer((_request, response) => {
    writeText(response as NodeResponse, 200, 'OK', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', 'ok', true, () => {})
  }).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const [response] = await once(get({ port: (server.address() as AddressInfo).port, agent: false }), 'response') as [IncomingMessage]
  t.equal(response.statusCode, 200)
  t.equal((await response.setEncoding('latin1').toArray()).join(''), 'ok')
})
