/**
 * Who makes a request and what it may do. The auth plugin decides; whoever looks at names in bodies or lists asks here.
 */

export const scopes = ['read', 'proxy', 'register', 'admin'] as const

/** What a key may do: see the fleet, use the agents, change the fleet, everything. */
export type Scope = typeof scopes[number]

/** Who opened the gateway. */
export interface Principal {
  /** The key's id; null for the shared secret, and for everybody when auth is off. */
  readonly id: string | null
  /** A named key, which rate limits and the audit log can tell from others. */
  readonly named: boolean
  readonly scopes: readonly Scope[]
  /** Names (not aliases) of the agents it may use or change; `*` is all. */
  readonly agents: readonly string[] | '*'
  /** What the key sets differently from `rateLimit`. */
  readonly rateLimit?: { readonly enabled?: boolean, readonly perMinute?: number, readonly burst?: number }
}

/** The shared secret may do everything, and so may everybody when auth is off. */
export const anyone: Principal = Object.freeze({ id: null, named: false, scopes, agents: '*' })

/** Whether the scope is granted; `admin` includes every other. */
export function hasScope (principal: Principal, scope: Scope): boolean {
  return principal.scopes.includes(scope) || principal.scopes.includes('admin')
}

/**
 * Whether the principal may use or change the agent. Nobody (null) may touch nothing.
 * @param principal undefined where no auth plugin runs, and so nothing is forbidden
 * @param agentName the agent's name, not an alias: those can move to another agent
 */
export function mayTouch (principal: Principal | null | undefined, agentName: string): boolean {
  if (principal === undefined) return true
  return principal !== null && (principal.agents === '*' || principal.agents.includes(agentName))
}

/**
 * Whether the principal may see an exchange with the agent. One without an agent (the gateway's own routes, names that nobody has) is only for
 * who may touch every agent.
 * @param principal undefined where no auth plugin runs
 * @param agentName null for none
 */
export function maySeeExchange (principal: Principal | null | undefined, agentName: string | null): boolean {
  if (agentName !== null) return mayTouch(principal, agentName)
  return principal === undefined || principal?.agents === '*'
}
