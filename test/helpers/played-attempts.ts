/** Attempts as the proxy records them, for plugins that read what happened to a request. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type {} from '../../plugins/facts/index.ts'
import type {} from '../../plugins/upstream/index.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Instance } from '../../src/fleet/instance.ts'

export type PlayedAttempt = readonly [instance: Instance, outcome: AttemptOutcome, status?: number]

/** Each begins, is settled and lets go of its place, one behind the other. */
export function playAttempts ({ upstream }: FastifyInstance, { facts }: FastifyRequest, attempts: readonly PlayedAttempt[]): void {
  for (const [instance, outcome, status] of attempts) {
    const attempt = upstream.begin(instance)
    facts.attempts.push(attempt)
    upstream.settle(attempt, outcome, status)
    upstream.release(attempt)
  }
}
