/**
 * What a gateway makes of data in Redis that is not what it knows: it writes what was lost, or adds to what another gateway wrote again. Who says by which
 * right it does that is `lineage.ts`; that it is one step, and what was touched since, `scripts.ts`.
 */
import { randomBytes } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { Registry } from '../../src/fleet/registry.ts'
import type { FoundData, KnownData } from './known-data.ts'
import { isAncestor, originOf, relationOf } from './lineage.ts'
import type { Change } from './own-changes.ts'
import type { Run } from './scripts.ts'
import { entryOf } from './shared-agent.ts'

/** So many agents are added in one step. */
const chunk = 500

export interface Restoring {
  readonly registry: Registry
  readonly known: KnownData
  readonly log: FastifyBaseLogger
  /** Where changes are told. */
  readonly channel: string
  /** Whether all that Redis had is in the registry: nothing was left out by rules that are this gateway's own. */
  readonly isWhole: () => boolean
  /** What was changed since the data was written again, as `scripts.ts` has it. */
  readonly touched: () => Promise<readonly string[]>
  /** On Redis's clock: by when a change has to be there. */
  readonly deadline: () => number
}

/** What is known here takes the place of data that Redis lost, wholly or in part. */
export async function restore (found: FoundData, { registry, known, log, channel, isWhole }: Restoring, run: Run): Promise<void> {
  const { epoch, version } = found
  const entries = everythingIn(registry)
  const own = known.point
  const isLater = epoch === '' || (epoch === own?.epoch && own.version >= version) || isAncestor(found, own)
  const madeOf = originOf(!isLater ? found : isWhole() || own === null ? own : { ...own, version: 0 }) // so that others know more
  const data = [randomBytes(8).toString('hex'), known.version, madeOf, JSON.stringify(entries), isLater && isWhole() ? 'all' : '']
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
  const [size, nextOrigin] = relation === 'beyond' ? [Math.max(entries.length, 1), originOf(own)] : [chunk, '']
  for (let from = 0; from === 0 || from < entries.length; from += size) {
    if (await run('merge', '', epoch, channel, JSON.stringify(entries.slice(from, from + size)), origin, nextOrigin) !== 1) return false
  }
  return true
}

/**
 * Makes changes of this gateway again in other data that was made without them, but for what somebody has changed there since. It is not known whether
 * anybody has when the data was written again long ago. @returns whether that is done
 */
export async function repeat ({ epoch }: FoundData, changes: readonly Change[], { channel, touched, deadline, log }: Restoring, run: Run): Promise<boolean> {
  if (changes.length === 0) return true
  const members = new Set(await touched())
  const names = new Set(Array.from(members, member => member.split(' ')[0]))
  const isUntouched = ([, name, authority]: Change) =>
    members.has('') && !members.has(`${name} `) && (authority === '' ? !names.has(name) : !members.has(`${name} ${authority}`))
  const missing = changes.filter(isUntouched)
  for (const [script, name, ...args] of missing) {
    const [answer] = await run(script, name, epoch, channel, deadline(), name, ...args) as [string]
    if (answer === 'other' || answer === 'late') return false
  }
  if (missing.length > 0) log.warn({ changes: missing.length }, 'Redis had lost its registry and had it again without the last changes of this gateway; they were made again')
  return true
}

function everythingIn (registry: Registry) {
  return registry.exportState().agents.map(entryOf)
}
