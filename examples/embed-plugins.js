/**
 * Single plugins in an application of your own: its own way of knowing who calls, its own paths, and of the gateway what forwards, balances
 * and watches. Which plugin needs which is in docs/embedding.md.
 *
 *   npm install fastify fleet-gateway ws
 *   node examples/embed-plugins.js       PORT is 3000 unless the environment says otherwise
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import Fastify from 'fastify'
import { UnauthenticatedError } from 'fleet-gateway'
import { discovery, facts, health, problem, proxy, registry, stats, upstream } from 'fleet-gateway/plugins'
import { WebSocketServer } from 'ws'

const { PORT = '3000' } = process.env
const sessions = new Map([[randomBytes(12).toString('base64url'), 'ann']])

// Stand in for two instances of a service of yours, so that there is something to call.
async function startInstance (name) {
  const server = createServer(({ method, url, headers }, response) => response.end(`${name} got ${method} ${url} with token ${headers.authorization}\n`))
  new WebSocketServer({ server }).on('connection', client => client.on('message', text => client.send(`${name} heard ${text}`)))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return server
}
const instances = [await startInstance('one'), await startInstance('two')]

const app = Fastify()
app.get('/hello', async () => 'the application says hello\n')

// A scope of its own, so that hooks and error answers are for what is in it only.
await app.register(async tools => {
  await tools.register(facts)   // first: what happens to a request is recorded on it
  await tools.register(problem) // errors are answered as problem details
  tools.decorateRequest('user', null)
  tools.decorateRequest('authorizationIsGateways', true) // our tokens are for us: agents don't see them
  tools.addHook('onRequest', async request => {
    request.user = sessions.get(request.headers.authorization?.replace(/^Bearer /i, '')) ?? null
    if (request.user === null) throw new UnauthenticatedError('Send the token of a session')
  })
  await tools.register(registry)
  await tools.register(discovery, { agents: [{ name: 'tool', instances: instances.map(server => ({ port: server.address().port })) }] })
  await tools.register(upstream)
  await tools.register(health)                  // /tools/health; takes instances out that fail
  await tools.register(stats)                   // /tools/stats
  await tools.register(proxy, { path: '/call' }) // /tools/call/{agent}/…
  tools.get('/me', async request => ({ user: request.user, agents: [...tools.registry.names()] }))
}, { prefix: '/tools' })

const url = await app.listen({ port: Number(PORT) })
const [token] = sessions.keys()
console.log(`${url} is up; try: curl -H 'Authorization: Bearer ${token}' ${url}/tools/call/tool/any/path`)

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await app.close()
    for (const server of instances) server.close()
  })
}
