/** What the configuration has and the fleet has not: a DELETE or a drain took it out, until the file changes or the gateway restarts. */
import type { Agent } from '../../src/fleet/agent.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import type { AgentDefinition } from '../../src/fleet/registry.ts'

/** An agent that is not there, or not with all of its instances. */
export interface TakenOut {
  readonly agent: string
  /** Each `host:port` that is missing; left out when the whole agent is. */
  readonly instances?: readonly string[]
}

/**
 * What DNS finds is not looked at: it comes and goes.
 * @param find the agent with a name or alias, as the registry has it
 */
export function takenOut (definitions: readonly AgentDefinition[], find: (nameOrAlias: string) => Agent | undefined): TakenOut[] {
  return definitions.flatMap(({ name, instances }) => {
    const agent = find(name)
    if (agent?.name !== name) return [{ agent: name }] // another one may have taken the name as an alias meanwhile
    const there = new Set(agent.instances.map(({ host, port }) => authorityOf(host, port)))
    const missing = instances.map(({ host, port }) => authorityOf(host, port)).filter(authority => !there.has(authority))
    return missing.length === 0 ? [] : [{ agent: name, instances: missing }]
  })
}
