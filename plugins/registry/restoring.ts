/**
 * What a gateway makes of data in Redis that is not what it knows: it writes what was lost, or adds to what another gateway wrote again. Who says by which
 * right it does that is `lineage.ts`; that it is one step, and what was touched since, `scripts.ts`.
 */
import { randomBytes } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { Registry } from '../../src/fleet/registry.ts'
import type { FoundData, KnownData } from './known-data.ts'
import { isAncestor, knownOfParent, originOf, relationOf } from './lineage.ts'
import type { PartChange, RecentChanges } from './recent-changes.ts'
import type { Run } from './scripts.ts'
import { changedEntryOf, entryOf } from './shared-agent.ts'

/** So many agents are added in one step. */
const chunk = 500

export interface Restoring {
  readonly registry: Registry
  readonly known: KnownData
  readonly log: FastifyBaseLogger
  /** What was changed of late: here, or elsewhere as far as that is known. */
  readonly recent: RecentChanges
  /** Where changes are told. */
  readonly channel: string
  /** Whether all that Redis had is in the registry: nothing was left out by rules that are this gateway's own. */
  readonly isWhole: () => boolean
}

/** What is known here takes the place of data that Redis lost, wholly or in part. */
export async function restore (found: FoundData, { registry, known, recent, log, channel, isWhole }: Restoring, run: Run): Promise<void> {
  const { epoch, version } = found
  const entries = everythingIn(registry)
  const own = known.point
  const isLater = epoch === '' || (epoch === own?.epoch && own.version >= version) || isAncestor(found, own)
  const madeOf = originOf(!isLater ? found : isWhole() || own === null ? own : { ...own, version: 0 }) // so that others know more
  const changes = recent.missingIn('', isWhole() ? own : null).flatMap(({ name, part, version: changedAt }) => [`${name} ${part}`, changedAt])
  const data = [randomBytes(8).toString('hex'), known.version, madeOf, JSON.stringify(entries), isLater && isWhole() ? 'all' : '', JSON.stringify(changes)]
  const restored = await run('restore', '', epoch, channel, ...data)
  if (restored !== 1) return
  if (entries.length === 0 && known.epoch === undefined) log.info('Redis had no registry yet')
  else log.warn({ agents: entries.length }, `Redis had ${epoch === '' ? 'no' : 'an older'} registry; what is known here was written`)
}

/** Adds what is known here to other data, as far as that was made without it. @returns whether that is done */
export async function merge ({ epoch, origin }: FoundData, { registry, known, channel, isWhole }: Restoring, run: Run): Promise<boolean> {
  const own = known.point
  const related = relationOf(own, origin)
  const relation = related === 'beyond' && !isWhole() ? 'beside' : related
  if (relation === 'within') return true
  const entries = everythingIn(registry)
  if (relation === 'beside' && entries.length === 0) return true
  const [size, nextOrigin, version] = relation === 'beyond' ? [Math.max(entries.length, 1), originOf(own), knownOfParent(own, origin)] : [chunk, '', -1]
  for (let from = 0; from === 0 || from < entries.length; from += size) {
    if (await run('merge', '', epoch, channel, JSON.stringify(entries.slice(from, from + size)), origin, nextOrigin, version) !== 1) return false
  }
  return true
}

/**
 * Makes other data have what was changed of late and is not part of what that was made of, as it is here by now, but for what was changed later: there, or in
 * the data that it was made of by who knows that. When the data was written again long ago nobody can tell. @returns whether that is done
 */
export async function repeat ({ epoch, origin }: FoundData, { registry, known, recent, channel, log, isWhole }: Restoring, run: Run): Promise<boolean> {
  const missing = recent.missingIn(origin, isWhole() ? known.point : null)
  if (missing.length === 0) return true
  const touched = await readTouched(run)
  if (touched.epoch !== epoch) return false
  const touchedAt = (member: string) => touched.versions.get(member) ?? -1
  const byName = new Map<string, PartChange[]>()
  for (const change of missing) {
    const { name, part, version } = change
    if (touchedAt(`${name} ${part}`) >= version || touchedAt(`${name} `) > version) continue
    const changes = byName.get(name) ?? []
    byName.set(name, changes)
    changes.push(change)
  }
  const agents = new Map(registry.exportState().agents.map(agent => [agent.name, agent]))
  const entries = Array.from(byName, ([name, changes]) => changedEntryOf(name, agents.get(name), changes))
  let made = 0
  for (let from = 0; from < entries.length; from += chunk) {
    const answer = Number(await run('again', '', epoch, channel, JSON.stringify(entries.slice(from, from + chunk)), origin))
    if (answer === -1) return false
    made += answer
  }
  if (made !== 0) log.warn({ changes: made }, 'Redis had lost its registry, and had it again without some changes that this gateway knows; they were made again')
  return true
}

/** The version of the last change of each part that was changed of late, by `name part`, and in which data that is. */
export async function readTouched (run: Run): Promise<{ epoch: string, versions: Map<string, number> }> {
  const [epoch = '', ...pairs] = await run('touched', '') as string[]
  const versions = new Map<string, number>()
  for (let index = 0; index < pairs.length; index += 2) versions.set(pairs[index]!, Number(pairs[index + 1]))
  return { epoch, versions }
}

function everythingIn (registry: Registry) {
  return registry.exportState().agents.map(entryOf)
}
