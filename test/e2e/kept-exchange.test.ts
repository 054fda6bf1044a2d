/** The exchange that was over last stays alive, for V8's sake; those before it do not. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import t from 'tap'
import { serverOptions } from '../../src/server.ts'
import { agentAt, openGateway, quiet, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
const turn = () => new Promise(resolve => setImmediate(resolve))

t.test('of the exchanges that are over the last one is kept, and no other', async t => {
  const agent = await fakeAgent(t, (request, response) => response.end(request.url))
  const app = Fastify(serverOptions())
  t.teardown(() => app.close())
  const requests: WeakRef<object>[] = []
  app.addHook('onRequest', (request, _reply, done) => {
    requests.push(new WeakRef(request))
    done()
  })
  await app.register(openGateway, { ...quiet, ...unprobed, agents: [agentAt('planner', agent)] })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }

  for (let count = 0; count < 3; count++) {
    const client = await rawClient(t, port)
    client.send(`GET /api/planner/${count} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
    await client.until(new RegExp(`/${count}$`))
  }
  while (app.facts.inFlight > 0) await turn()
  for (let count = 0; count < 5; count++) {
    await turn()
    collect()
  }

  t.same(requests.map(request => request.deref() !== undefined), [false, false, true])
})
