/**
 * Where a request under /api goes: the first segment names the agent, everything behind it is the agent's and stays as it came.
 */
import { originForm } from '../../src/request-target.ts'

export interface AgentPath {
  /** The first segment as the client wrote it. */
  readonly segment: string
  /** The same, percent-decoded once: a name or alias. */
  readonly name: string
  /** Path and query for the agent; begins with `/`. */
  readonly rest: string
}

/**
 * Splits a request target.
 * @param prefix where the agents are: `/api`, or `/fleet/api` in an embedding application
 * @param caseSensitive whether the router takes `/Fleet/API` for another path
 * @returns undefined when no agent is named
 */
export function agentPath (target: string, prefix: string, caseSensitive = true): AgentPath | undefined {
  const path = originForm(target)
  const start = prefix.length + 1
  const begins = path.startsWith(`${prefix}/`) || (!caseSensitive && path.slice(0, start).toLowerCase() === `${prefix}/`.toLowerCase())
  if (!begins) return undefined // the router decodes: `/ap%69/…` comes here too, and its offsets would be others
  let end = start
  while (end < path.length && path[end] !== '/' && path[end] !== '?') end++
  if (end <= start) return undefined
  const segment = path.slice(start, end)
  const rest = path.slice(end)
  return { segment, name: segment.includes('%') ? decoded(segment) : segment, rest: rest.startsWith('/') ? rest : `/${rest}` }
}

/** What can't be decoded names nobody, and is looked up as it is. */
function decoded (segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    return segment
  }
}
