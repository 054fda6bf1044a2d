/**
 * What the log is told of a failed exchange and the client is not: the cause, with its address. One line a second for each instance, so
 * that a dead agent under load does not fill the disk; the audit log has every request.
 */
import type { FastifyBaseLogger } from 'fastify'
import type { RequestFacts } from '../facts/index.ts'
import type { FleetError } from '../../src/errors.ts'
import type { InstanceRuntime } from '../../src/fleet/instance.ts'
import { tlsReason } from '../../src/tls-reasons.ts'

const quietMs = 1_000

/** Writes defects with their stack, and failures of agents as warnings. */
export function createReporter (log: FastifyBaseLogger): (error: FleetError, facts: RequestFacts) => void {
  const saidAt = new WeakMap<InstanceRuntime, number>()

  return (error, facts) => {
    if (error.code === 'FLEET_INTERNAL') return log.error({ err: error.cause ?? error, requestId: facts.id }, 'A defect of the gateway')
    const instance = facts.attempts.at(-1)?.instance
    if (!error.code.startsWith('FLEET_UPSTREAM_') || instance === undefined) return
    const now = Date.now()
    if (now - (saidAt.get(instance.runtime) ?? 0) < quietMs) return
    saidAt.set(instance.runtime, now)
    const cause = tlsReason(error.cause) ?? (error.cause instanceof Error ? error.cause.message : '')
    log.warn({ requestId: facts.id, agent: instance.agent, instance: instance.id, origin: instance.origin, code: error.code, cause }, `${error.message}${cause === '' ? '' : `: ${cause}`}`)
  }
}
