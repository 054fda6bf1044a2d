/**
 * Which data in Redis was made of which. Where data was lost a gateway writes what it knows as new data, with another epoch; the new data's origin says
 * how much of the old that was, and what the old was made of: `epoch:version` each, the last first. So who comes later can tell whether it knows more.
 */
import type { RegistryState } from '../../src/fleet/registry.ts'

/** Which data is known, up to which version, and the origin of that data. */
export type SharedPoint = NonNullable<RegistryState['shared']>

/** Of so many losses it is known what was made of what was left. */
const mostOrigins = 20

/** The origin of data that is made of what is known; empty where that never was in Redis. */
export function originOf (known: SharedPoint | null): string {
  if (known === null) return ''
  const { epoch, version, origin = '' } = known
  return [`${epoch}:${version}`, ...entriesOf(origin)].slice(0, mostOrigins).join(' ')
}

/** Which data, each up to which version, data with this origin was made of, the last first. */
export function madeOf (origin: string): ReadonlyMap<string, number> {
  return new Map(entriesOf(origin).map(entry => {
    const [epoch = '', version] = entry.split(':')
    return [epoch, Number(version)]
  }))
}

/** Whether that is this data among others, up to the same version or a later one. */
export function includes (versions: ReadonlyMap<string, number>, { epoch, version }: Pick<SharedPoint, 'epoch' | 'version'>): boolean {
  return (versions.get(epoch) ?? -1) >= version
}

/**
 * What is known, beside other data with this origin: all of it is in there (`within`), it goes on from what the data was made of (`beyond`), so that it also
 * says who has left since, or nothing can be told (`beside`).
 */
export function relationOf (known: SharedPoint | null, origin: string): 'within' | 'beyond' | 'beside' {
  if (known === null) return 'beside'
  const there = madeOf(origin)
  if (includes(there, known)) return 'within'
  const [last] = there
  return last === undefined || includes(madeOf(originOf(known)), { epoch: last[0], version: last[1] }) ? 'beyond' : 'beside'
}

/** Whether data is what the known was made of, or an earlier state of that: a backup from before the last loss, or a server that had lagged behind. */
export function isAncestor (data: Pick<SharedPoint, 'epoch' | 'version'>, known: SharedPoint | null): boolean {
  return known !== null && data.epoch !== known.epoch && includes(madeOf(known.origin ?? ''), data)
}

/** Up to which version it is known what data with this origin was made of; -1 where nothing is. */
export function knownOfParent (known: SharedPoint | null, origin: string): number {
  const [last] = madeOf(origin)
  return last === undefined ? -1 : madeOf(originOf(known)).get(last[0]) ?? -1
}

function entriesOf (origin: string): string[] {
  return origin === '' ? [] : origin.split(' ')
}
