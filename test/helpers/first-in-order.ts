/** Always the first instance that was not tried, whatever its health: so that a test meets its faulty instance each time. */
import type { FastifyInstance } from 'fastify'
import { isAmong, type Balancer } from '../../src/fleet/balancer.ts'

export const firstInOrder: Balancer = {
  pick: ({ instances }, { tried }) => instances.find(instance => !isAmong(tried, instance))
}

/** Forgets failures as they come, so that no instance is ejected. */
export function neverEject (gateway: FastifyInstance): void {
  gateway.upstream.onSettled(({ instance }) => { instance.runtime.health.consecutiveFailures = 0 })
}
