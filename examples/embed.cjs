/**
 * The gateway in a CommonJS application: Node 20.19 and later can require() it. The whole of it is under a prefix, and two single plugins
 * serve a route of the application's own.
 *
 *   npm install fastify fleet-gateway
 *   node examples/embed.cjs              PORT is 3000 unless the environment says otherwise
 */
'use strict'

const { randomBytes } = require('node:crypto')
const { once } = require('node:events')
const { createServer } = require('node:http')
const Fastify = require('fastify')
const { fleetGateway, serverOptions } = require('fleet-gateway')
const { default: registry } = require('fleet-gateway/plugins/registry')
const { default: upstream } = require('fleet-gateway/plugins/upstream')

const { PORT = '3000', FLEET_SECRET: secret = randomBytes(12).toString('base64url') } = process.env

async function main () {
  // Stands in for a service of yours, so that there is something to call.
  const agent = createServer((request, response) => response.end(`the agent got ${request.method} ${request.url}\n`))
  await once(agent.listen(0, '127.0.0.1'), 'listening')
  const { port } = agent.address()

  const app = Fastify(serverOptions())
  app.get('/hello', async () => 'the application says hello\n')

  await app.register(fleetGateway, {
    prefix: '/fleet',
    auth: { secret },
    auditLog: { enabled: false },
    agents: [{ name: 'my-agent', port }]
  })

  // A registry of the application's own, which knows nothing of the gateway's.
  await app.register(registry)
  await app.register(upstream)
  app.registry.register({ name: 'printer', host: '127.0.0.1', port })
  app.registry.register({ name: 'printer', host: '127.0.0.1', port: 9100 })
  app.get('/printer', async () => `next is ${app.upstream.resolve(app.registry.get('printer'), []).origin}\n`)

  const url = await app.listen({ port: Number(PORT) })
  console.log(`${url} is up; try: curl -H 'Authorization: Bearer ${secret}' ${url}/fleet/api/my-agent/any/path`)

  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, async () => {
      await app.close()
      agent.close()
    })
  }
}

main()
