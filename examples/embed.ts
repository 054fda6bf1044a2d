/**
 * The whole gateway in a TypeScript application, with typed decorators, a balancer and an audit destination of its own.
 *
 *   npm install fastify fleet-gateway @types/node
 *   node examples/embed.ts               Node 22.18 or later strips the types; before, compile it with tsc
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { fleetGateway, mayTake, serverOptions, type AuditDestination, type Balancer, type FleetGatewayOptions } from 'fleet-gateway'

const { PORT = '3000', FLEET_SECRET: secret = randomBytes(12).toString('base64url') } = process.env

// Stands in for a service of yours, so that there is something to call.
const agent = createServer((request, response) => response.end(`the agent got ${request.method} ${request.url}\n`))
await once(agent.listen(0, '127.0.0.1'), 'listening')
const { port } = agent.address() as AddressInfo

/** The instance that is least busy for its weight, by rules of our own: an agent's `balancer.policy` is not asked then. */
const leastBusy: Balancer = {
  pick ({ instances }, choice) {
    const able = instances.filter(instance => mayTake(instance, choice))
    return able.sort((a, b) => a.runtime.inFlight / a.weight - b.runtime.inFlight / b.weight)[0]
  }
}

const lines: string[] = []
const audit: AuditDestination = { write (text) { lines.push(...text.trimEnd().split('\n')) } }

const options: FleetGatewayOptions = {
  auth: { secret },
  balancer: leastBusy,
  auditDestination: audit,
  agents: [{ name: 'my-agent', port, timeout: '10s' }]
}

const app: FastifyInstance = Fastify(serverOptions())
app.get('/hello', async () => 'the application says hello\n')

// Called in a scope of the application's own rather than registered, so that its decorators are within reach.
await app.register(async fleet => {
  await fleetGateway(fleet, options)
  fleet.registry.register({ name: 'other', host: 'localhost', port })
  fleet.get('/mine', { config: { fleet: { scope: 'read' } } }, async request => ({
    asks: request.principal?.id ?? null,
    request: request.facts.id,
    served: fleet.stats.snapshot().total_requests,
    written: lines.length
  }))
}, { prefix: '/fleet' })

const url = await app.listen({ port: Number(PORT) })
console.log(`${url} is up; try: curl -H 'Authorization: Bearer ${secret}' ${url}/fleet/api/my-agent/any/path`)

async function end (): Promise<void> {
  await app.close()
  agent.close()
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void end())
