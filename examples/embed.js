/**
 * The whole gateway in a Fastify application of your own, beside the application's own routes, error handler and WebSockets.
 *
 *   npm install fastify fleet-gateway ws
 *   node examples/embed.js               PORT is 3000 unless the environment says otherwise
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import Fastify from 'fastify'
import { fleetGateway, serverOptions } from 'fleet-gateway'
import { WebSocketServer } from 'ws'

const { PORT = '3000', FLEET_SECRET: secret = randomBytes(12).toString('base64url') } = process.env

// Stands in for a service of yours, so that there is something to call.
const agent = createServer((request, response) => response.end(`the agent got ${request.method} ${request.url}\n`))
new WebSocketServer({ server: agent }).on('connection', client => client.on('message', text => client.send(`the agent heard ${text}`)))
await once(agent.listen(0, '127.0.0.1'), 'listening')

// serverOptions() is what only a listener can do: limits of request heads, strict framing, answers to what is not HTTP.
const app = Fastify(serverOptions())

// What is yours stays yours.
app.get('/hello', async () => 'the application says hello\n')
app.get('/fails', async () => { throw new Error('a defect') })
app.setErrorHandler(async (error, request, reply) => reply.code(500).send(`the application failed: ${error.message}\n`))
const room = new WebSocketServer({ noServer: true })
app.server.on('upgrade', (request, socket, head) => {
  if (request.url !== '/echo') return socket.destroy()
  room.handleUpgrade(request, socket, head, client => client.on('message', text => client.send(`the application heard ${text}`)))
})

// Everything of the gateway is under /fleet: /fleet/api/{agent}/…, /fleet/health, /fleet/agents, /fleet/registry, …
await app.register(fleetGateway, {
  prefix: '/fleet',
  auth: { secret },
  auditLog: { enabled: false },
  agents: [{ name: 'my-agent', aliases: ['mine'], port: agent.address().port }]
})

const url = await app.listen({ port: Number(PORT) })
console.log(`${url} is up; try: curl -H 'Authorization: Bearer ${secret}' ${url}/fleet/api/my-agent/any/path`)

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    for (const client of room.clients) client.close(1001)
    await app.close() // ends event streams and WebSockets to agents, and waits for what is in flight
    agent.close()
  })
}
