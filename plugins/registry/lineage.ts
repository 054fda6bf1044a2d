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

/**
 * What is known, beside other data with this origin: all of it is in there (`within`), it goes on from what the data was made of (`beyond`), so that it also
 * says who has left since, or nothing can be told (`beside`).
 */
export function relationOf (known: SharedPoint | null, origin: string): 'within' | 'beyond' | 'beside' {
  if (known === null) return 'beside'
  const madeOf = entriesOf(origin)
  const [own, ...before] = entriesOf(originOf(known))
  if (madeOf.some(entry => includes(entry, own!))) return 'within'
  const [last] = madeOf
  return last === undefined || [own!, ...before].some(entry => includes(entry, last)) ? 'beyond' : 'beside'
}

/** Whether data is what the known was made of, or an earlier state of that: a backup from before the last loss, or a server that had lagged behind. */
export function isAncestor ({ epoch, version }: Pick<SharedPoint, 'epoch' | 'version'>, known: SharedPoint | null): boolean {
  return known !== null && epoch !== known.epoch && isIn(known.origin ?? '', { epoch, version })
}

/** Whether the data with this origin was made of other data as that was at this version or later. */
export function isIn (origin: string, { epoch, version }: Pick<SharedPoint, 'epoch' | 'version'>): boolean {
  return entriesOf(origin).some(entry => includes(entry, `${epoch}:${version}`))
}

/** Which data, up to which version, data with this origin was made of; undefined where that is none. */
function parentOf (origin: string): { epoch: string, version: number } | undefined {
  const [last] = entriesOf(origin)
  if (last === undefined) return undefined
  const [epoch = '', version] = last.split(':')
  return { epoch, version: Number(version) }
}

/** Up to which version it is known what data with this origin was made of; -1 where nothing is. */
export function knownOfParent (known: SharedPoint | null, origin: string): number {
  const parent = parentOf(origin)
  const own = entriesOf(originOf(known)).map(entry => parentOf(entry)!).find(({ epoch }) => epoch === parent?.epoch)
  return own?.version ?? -1
}

/** Whether it is the same data, up to the same version or a later one. */
function includes (entry: string, other: string): boolean {
  const [[epoch, version], [otherEpoch, otherVersion]] = [entry.split(':'), other.split(':')]
  return epoch === otherEpoch && Number(version) >= Number(otherVersion)
}

function entriesOf (origin: string): string[] {
  return origin === '' ? [] : origin.split(' ')
}
