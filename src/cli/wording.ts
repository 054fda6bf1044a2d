/**
 * Numbers and fleets as people read them.
 */
import type { TakenOutStats } from '../../plugins/stats/snapshot.ts'
import type { Agent } from '../fleet/agent.ts'

/** `1 agent`, `2 agents`. */
export function count (number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}

/** `45 s`, `12 min`, `3 h`, `5 d`: the largest unit that fits. */
export function duration (seconds: number): string {
  for (const [unit, length] of [['d', 86_400], ['h', 3_600], ['min', 60]] as const) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`
  }
  return `${Math.floor(seconds)} s`
}

/** That a reload was refused. @param more what is wrong with the file, or who tells */
export function olderConfiguration (more = ''): string {
  return `An older configuration runs, since the file is bad: ${more}`
}

/** So many are named in a line. */
const mostNames = 8

/** `encoder, git and 3 more, 7 instances`; `none` for no agents. */
export function fleetInWords (fleet: Iterable<Agent>): string {
  const agents = [...fleet]
  if (agents.length === 0) return 'none'
  return `${listed(agents.map(({ name }) => name))}, ${count(agents.reduce((sum, { instances }) => sum + instances.length, 0), 'instance')}`
}

/** `encoder, git (localhost:8502)`: what of the file somebody took out of the fleet. */
export function takenOutInWords (takenOut: readonly TakenOutStats[]): string {
  return listed(takenOut.map(({ agent, instances }) => instances === undefined ? agent : `${agent} (${listed(instances)})`))
}

/** When it is back. */
export const backInWords = 'it is back when that file changes, or the gateway restarts; take out of the file what is to stay away'

function listed (texts: readonly string[]): string {
  return texts.length > mostNames ? `${texts.slice(0, mostNames).join(', ')} and ${texts.length - mostNames} more` : texts.join(', ')
}

/** Why an instance does not serve, and since when; empty where it does, or where that is not told. */
export function whyNotUp ({ state, why, since }: { state: string, why: string | null, since: string | null }): string {
  return state === 'up' || state === 'draining' || !why ? '' : `${why}, since ${since}`
}
