/**
 * What holds for one agent, and for paths of it: the gateway's defaults with the agent's overrides put over them, worked out once per agent
 * and change.
 */
import type { Agent, Timeouts } from '../../src/fleet/agent.ts'
import type { PathsOptions, RetryOptions, TimeoutsOptions } from './options.ts'
import { ownFields, type OwnFields } from './own-fields.ts'

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
  /** Fields of the gateway's own; null for none. */
  readonly own: OwnFields | null
}

export interface PolicyTable {
  /** @param path path and query for the agent */
  of (agent: Agent, path: string): ForwardPolicy
  /** The prefix of `paths` that counts there; undefined when none does. */
  prefixAt (agent: Agent, path: string): string | undefined
}

/** What agents can override. */
export interface ForwardDefaults {
  readonly timeouts: TimeoutsOptions
  readonly retry: RetryOptions
  readonly paths: PathsOptions
}

/** 501 and 505 say that the agent will never do it. */
const hopelessStatuses: ReadonlySet<number> = new Set([501, 505])

/** What holds for an agent, and where something else does; the longest prefix first. */
interface AgentPolicies {
  readonly base: ForwardPolicy
  readonly paths: readonly { readonly prefix: string, readonly policy: ForwardPolicy }[]
}

/** Agents are immutable values, so each is looked at once. */
export function createPolicyTable (defaults: ForwardDefaults): PolicyTable {
  const known = new WeakMap<Agent, AgentPolicies>()

  function policiesFor (agent: Agent): AgentPolicies {
    let policies = known.get(agent)
    if (policies === undefined) known.set(agent, policies = policiesOf(agent, defaults))
    return policies
  }

  return {
    of (agent, path) {
      const policies = policiesFor(agent)
      return policies.paths.find(({ prefix }) => isBelow(path, prefix))?.policy ?? policies.base
    },
    prefixAt: (agent, path) => policiesFor(agent).paths.find(({ prefix }) => isBelow(path, prefix))?.prefix
  }
}

/** By whole segments. */
function isBelow (path: string, prefix: string): boolean {
  if (!path.startsWith(prefix)) return false
  const next = path[prefix.length]
  return next === undefined || next === '/' || next === '?' || prefix.endsWith('/')
}

function policiesOf (agent: Agent, defaults: ForwardDefaults): AgentPolicies {
  const base = policyOf(agent, defaults)
  // Of two equal prefixes the agent's own stands first, and sort() is stable.
  const paths = [...agent.policy.paths ?? [], ...defaults.paths].sort((a, b) => b.prefix.length - a.prefix.length)
  return { base, paths: paths.map(({ prefix, timeouts }) => ({ prefix, policy: { ...base, ...limitsOf(timeouts, base) } })) }
}

type Limits = Pick<ForwardPolicy, 'connectTimeoutMs' | 'responseTimeoutMs' | 'idleTimeoutMs' | 'totalTimeoutMs'>

/** The timeouts that are given, and for the others those that hold otherwise. */
function limitsOf ({ connect, response, idle, total }: Timeouts, otherwise: Limits): Limits {
  return {
    connectTimeoutMs: connect ?? otherwise.connectTimeoutMs,
    responseTimeoutMs: response ?? otherwise.responseTimeoutMs,
    idleTimeoutMs: idle ?? otherwise.idleTimeoutMs,
    totalTimeoutMs: total ?? otherwise.totalTimeoutMs
  }
}

function policyOf ({ policy: own, headers }: Agent, { timeouts, retry }: ForwardDefaults): ForwardPolicy {
  const statuses = own.retry?.statuses ?? retry.statuses
  const chosen = statuses && new Set(statuses)
  const { connect: connectTimeoutMs, response: responseTimeoutMs, idle: idleTimeoutMs, total: totalTimeoutMs = null } = timeouts
  return {
    ...limitsOf(own.timeouts ?? {}, { connectTimeoutMs, responseTimeoutMs, idleTimeoutMs, totalTimeoutMs }),
    retryAttempts: own.retry?.attempts ?? retry.attempts,
    maxRetryBodyBytes: own.retry?.maxBodyBytes ?? retry.maxBodyBytes,
    isRetryStatus: status => status >= 500 && (chosen ? chosen.has(status) : !hopelessStatuses.has(status)),
    forwardAuthorization: own.forwardAuthorization ?? false,
    preserveHost: own.preserveHost ?? false,
    rewriteLocation: own.rewriteLocation ?? true,
    own: ownFields(headers)
  }
}
