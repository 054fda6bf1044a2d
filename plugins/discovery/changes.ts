/** What a reload changed of the agents, in a few words for the log. */
import { isDeepStrictEqual } from 'node:util'
import type { AgentDefinition } from '../../src/fleet/registry.ts'

const mostNames = 10

/** `agents +2 −1 ~1 (a, b; c; d)`: how many were added, removed and changed, and which, each list bounded; nothing when none was. */
export function agentChanges (before: readonly AgentDefinition[], after: readonly AgentDefinition[]): string[] {
  const had = new Map(before.map(agent => [agent.name, agent]))
  const has = new Set(after.map(({ name }) => name))
  const groups = Object.entries({
    '+': after.filter(({ name }) => !had.has(name)),
    '−': before.filter(({ name }) => !has.has(name)),
    '~': after.filter(agent => had.has(agent.name) && !isDeepStrictEqual(had.get(agent.name), agent))
  }).filter(([, agents]) => agents.length > 0)
  if (groups.length === 0) return []
  const counts = groups.map(([sign, agents]) => `${sign}${agents.length}`).join(' ')
  return [`agents ${counts} (${groups.map(([, agents]) => listed(agents)).join('; ')})`]
}

function listed (agents: readonly AgentDefinition[]): string {
  const names = agents.slice(0, mostNames).map(({ name }) => name).join(', ')
  return agents.length > mostNames ? `${names} and ${agents.length - mostNames} more` : names
}
