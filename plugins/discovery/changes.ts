/** What a reload changed, in one line for the log. */
import { isDeepStrictEqual } from 'node:util'
import type { AgentDefinition } from '../../src/fleet/registry.ts'

const mostNames = 10

/** `added a, b; removed c; changed d`, each list bounded; `no agent changed` when there is nothing to say. */
export function summariseChanges (before: readonly AgentDefinition[], after: readonly AgentDefinition[]): string {
  const had = new Map(before.map(agent => [agent.name, agent]))
  const has = new Set(after.map(({ name }) => name))
  const groups = {
    added: after.filter(({ name }) => !had.has(name)),
    removed: before.filter(({ name }) => !has.has(name)),
    changed: after.filter(agent => had.has(agent.name) && !isDeepStrictEqual(had.get(agent.name), agent))
  }
  const parts = Object.entries(groups).filter(([, agents]) => agents.length > 0).map(([what, agents]) => `${what} ${listed(agents)}`)
  return parts.length === 0 ? 'no agent changed' : parts.join('; ')
}

function listed (agents: readonly AgentDefinition[]): string {
  const names = agents.slice(0, mostNames).map(({ name }) => name).join(', ')
  return agents.length > mostNames ? `${names} and ${agents.length - mostNames} more` : names
}
