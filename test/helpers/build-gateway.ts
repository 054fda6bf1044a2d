/**
 * The whole gateway for a test: by default without auth, limits and audit log, so that a test turns on what it is about. With
 * FLEET_UPSTREAM_CLIENT=undici that speaks HTTP to agents, so that both clients can be held to the same tests.
 */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import fp from 'fastify-plugin'
import type { Test } from 'tap'
import { createGateway, fleetGateway, type FleetGatewayOptions } from '../../src/gateway.ts'

export interface ListeningGateway extends FastifyInstance {
  readonly port: number
  readonly origin: string
}

/** What is off unless a test turns it on. */
export const quiet = { auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, cors: { enabled: false } } as const satisfies FleetGatewayOptions

const client: FleetGatewayOptions = process.env['FLEET_UPSTREAM_CLIENT'] === 'undici' ? { upstreamClient: 'undici' } : {}

/** What an application around it sees, to look at what it keeps. A function of its own, since `fp()` marks what it is given. */
export const openGateway = fp<FleetGatewayOptions>(async (app, options) => { await fleetGateway(app, options) })

/** For tests of single connections: no probes come between. */
export const unprobed = { health: { interval: '1h' } } as const satisfies FleetGatewayOptions

/** Not listening: for `inject`. */
export async function buildGateway (t: Test, options: FleetGatewayOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const gateway = await createGateway({ ...quiet, ...client, ...options }, server)
  t.teardown(() => gateway.close())
  return gateway
}

/** Listening on a free port of 127.0.0.1. */
export async function startGateway (t: Test, options: FleetGatewayOptions = {}, server: FastifyServerOptions = {}): Promise<ListeningGateway> {
  const gateway = await buildGateway(t, options, server)
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  return Object.assign(gateway, { port, origin: `http://127.0.0.1:${port}` })
}

/** An agent of one or more instances, as `agents` wants it. */
export function agentAt (name: string, ...instances: readonly { host: string, port: number }[]) {
  return { name, instances: instances.map(({ host, port }) => ({ host, port })) }
}
