import type { FastifyInstance } from 'fastify'

/** Resolves when no exchange is under way any more. A test in which one is left runs into its timeout. */
export function quiet ({ facts }: FastifyInstance): Promise<void> {
  return new Promise(resolve => {
    if (facts.inFlight === 0) return resolve()
    const stop = facts.onFinished(() => {
      if (facts.inFlight > 0) return
      stop()
      resolve()
    })
  })
}

/** Attempts under way at all instances of an agent. */
export function underWay ({ registry }: FastifyInstance, agent = 'planner'): number {
  return registry.get(agent).instances.reduce((sum, { runtime }) => sum + runtime.inFlight, 0)
}
