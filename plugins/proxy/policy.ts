/**
 * What holds for one agent: the gateway's defaults with the agent's overrides put over them, worked out once per agent and change.
 */
import type { Agent } from '../../src/fleet/agent.ts'
import type { RetryOptions, TimeoutsOptions } from './options.ts'

/** Durations in milliseconds, sizes in bytes. */
export interface ForwardPolicy {
  readonly connectTimeoutMs: number
  readonly responseTimeoutMs: number
  readonly idleTimeoutMs: number
  /** null is unlimited. */
  readonly totalTimeoutMs: number | null
  readonly retryAttempts: number
  readonly maxRetryBodyBytes: number
  readonly isRetryStatus: (status: number) => boolean
  readonly forwardAuthorization: boolean
  readonly preserveHost: boolean
  readonly rewriteLocation: boolean
}

export interface PolicyTable {
  of (agent: Agent): ForwardPolicy
}

/** 501 and 505 say that the agent will never do it. */
const hopelessStatuses: ReadonlySet<number> = new Set([501, 505])

/** Agents are immutable values, so each is looked at once. */
export function createPolicyTable (timeouts: TimeoutsOptions, retry: RetryOptions): PolicyTable {
  const known = new WeakMap<Agent, ForwardPolicy>()
  return {
    of (agent) {
      let policy = known.get(agent)
      if (policy === undefined) known.set(agent, policy = policyOf(agent, timeouts, retry))
      return policy
    }
  }
}

function policyOf (agent: Agent, timeouts: TimeoutsOptions, retry: RetryOptions): ForwardPolicy {
  const own = agent.policy
  const statuses = own.retry?.statuses ?? retry.statuses
  const chosen = statuses && new Set(statuses)
  return {
    connectTimeoutMs: own.timeouts?.connect ?? timeouts.connect,
    responseTimeoutMs: own.timeouts?.response ?? timeouts.response,
    idleTimeoutMs: own.timeouts?.idle ?? timeouts.idle,
    totalTimeoutMs: own.timeouts?.total ?? timeouts.total ?? null,
    retryAttempts: own.retry?.attempts ?? retry.attempts,
    maxRetryBodyBytes: own.retry?.maxBodyBytes ?? retry.maxBodyBytes,
    isRetryStatus: status => status >= 500 && (chosen ? chosen.has(status) : !hopelessStatuses.has(status)),
    forwardAuthorization: own.forwardAuthorization ?? false,
    preserveHost: own.preserveHost ?? false,
    rewriteLocation: own.rewriteLocation ?? true
  }
}
