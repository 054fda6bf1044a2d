/**
 * What several gateways have in common in Redis, and the registry here, which is kept equal to it. A change is written there before it is applied here, and every
 * gateway is told which agent changed and reads it; so what is applied is always what Redis has, in whatever order messages come. After any doubt (a connection
 * that was lost, a version that was not heard of) everything is read again. Without Redis a gateway goes on with what it knows, and drops nothing.
 */
import type { Redis } from 'ioredis'
import type { FastifyBaseLogger } from 'fastify'
import type {} from '../redis/index.ts'
import type { FleetRedis } from '../redis/index.ts'
import { namePattern } from '../../src/agent-options.ts'
import { within, type Clock } from '../../src/clock.ts'
import { NotKeptError } from '../../src/errors.ts'
import type { RegistrationHostRules } from '../../src/fleet/address.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import { redisReason } from '../../src/redis-reasons.ts'
import { createSubscription } from '../../src/redis-subscription.ts'
import { AgentReads } from './agent-reads.ts'
import { KnownData, type FoundData } from './known-data.ts'
import { isAncestor, type SharedPoint } from './lineage.ts'
import { RecentChanges, settingsPart } from './recent-changes.ts'
import { RedisClock } from './redis-clock.ts'
import { merge, readTouched, repeat, restore } from './restoring.ts'
import { loadScripts, registryKeys, type Run, type ScriptName } from './scripts.ts'
import { agentOf, type Fields } from './shared-agent.ts'

export interface SharedDataOptions {
  readonly redis: FleetRedis
  readonly registry: Registry
  readonly clock: Clock
  readonly log: FastifyBaseLogger
  /** What this gateway knew when it was last stopped; null when what it knows was never in Redis. */
  readonly known: SharedPoint | null
  readonly hostRules: () => RegistrationHostRules
  /** An agent was taken over from Redis; whole, unless a change of it is on its way. */
  readonly onApplied: (name: string, { isWhole, isKnown }: { isWhole: boolean, isKnown: boolean }) => void
}

/** A change in Redis, by one of its scripts. */
export interface SharedChange {
  readonly script: 'write' | 'remove' | 'drain'
  readonly name: string
  /** '' for all of the agent. */
  readonly authority: string
  readonly args?: readonly (string | number)[]
  /** What is here already, or is asked for here, and must not be taken for what it was before. */
  readonly parts?: readonly string[]
}

export interface SharedData {
  /** Which data the registry is the same as; of the last time when there is no connection. */
  readonly known: SharedPoint | null
  /** Whether the registry is what Redis has, but for messages that are on their way. */
  readonly isSynced: boolean
  /** Whether the registry was taken over since the start: until then others may know of more agents. */
  readonly hasBeenRead: boolean
  /** Whether Redis could be written when that was last tried: one that is full, or follows another, can be read all the same. */
  readonly isWritable: boolean
  /** What a gateway can't write it must not change either. @throws NotKeptError */
  refuseUnsynced (): void
  /** What is thrown where something is not in Redis. */
  notKept (cause?: unknown): Error
  /** Writes, and takes over what came of it. @returns the script's answer @throws NotKeptError */
  change (asked: SharedChange): Promise<unknown[]>
  /** Runs a script on the data that is known. @throws what Redis says, or the way to it */
  ask (script: ScriptName, name: string, ...args: readonly (string | number)[]): Promise<unknown>
  /** Reads an agent. @returns whether the data is the one that is known */
  refresh (name: string, isRemoved?: boolean): Promise<boolean>
  /** Whose name it is in Redis, for an alias. */
  ownerOf (nameOrAlias: string): Promise<string>
  /** Reads again, soon, those who were not taken whole. */
  rereadNotWhole (): void
  /** Reads all agents again, soon. */
  rereadAll (): void
  /** From now on nothing is certain until everything was read. */
  resync (): void
  /** Resolves when the registry was taken over for the first time, or can't be just now. */
  begin (): Promise<void>
  /** Looks, each second, whether everything was heard of, and reads what was not read. */
  check (): Promise<void>
  close (): Promise<void>
}

const nameForm = new RegExp(namePattern)
/** So many agents are asked for at once. */
const chunk = 500
const lookMs = 1_000
/** All that is known is written or read in this time, and never is nothing heard for so long. */
const bulkMs = 30_000
const bulkSilentMs = 5_000
/** The start waits so long for what others know. */
const beginMs = 5_000

export function shareData ({ redis, registry, clock, log, known: kept, hostRules, onApplied }: SharedDataOptions): SharedData {
  const client = redis.client!
  const keys = registryKeys((...parts) => redis.key(...parts))
  const run = loadScripts(client, keys)
  /** While everything is read or written: that takes longer than anybody may wait who asks the gateway. */
  let bulk: Redis | null = null
  const known = new KnownData(kept)
  const recent = new RecentChanges()
  const reads = new AgentReads()
  /** Agents of which something is left out here: by rules that are this gateway's own, or because its file has the name. */
  const notWhole = new Set<string>()
  const restoring = { registry, known, recent, log, channel: keys.channel, isWhole: () => notWhole.size === 0 }
  let isSynced = false
  let hasBeenRead = false
  let isWritable = true
  let syncing: Promise<void> | null = null
  let isClosed = false
  /** Agents to be read, and which of them were removed as a whole. */
  const dirty = new Map<string, { isRemoved: boolean }>()
  let isReadingSoon = false
  /** What was told while it is not known yet which version was found. */
  let toldEarly: string[] | null = null
  /** Whether something was told that does not fit what was read. */
  let isDoubtful = false
  let lookedAt = -Infinity
  const redisClock = new RedisClock()
  let aheadAt = 0
  let wake = () => {}
  const isSyncedOnce = new Promise<void>(resolve => { wake = resolve })

  const notKept = (cause?: unknown) => new NotKeptError(
    'The Redis in which gateways share the registry can not be asked just now; try again in 1 s',
    { headers: { 'retry-after': '1' } },
    ...(cause === undefined ? [] : [{ cause }])
  )

  /** Asks which data there is. */
  async function lookAt (): Promise<FoundData> {
    const [epoch, version, origin, time] = await run('look', '', '', keys.channel) as [string, string, string, string]
    redisClock.heard(Number(time))
    return { epoch, version: Number(version), origin }
  }

  /** On Redis's clock: when whoever asked has been told that it did not answer, and may have asked elsewhere. */
  function deadline (): number {
    return Math.floor(redisClock.now() + client.options.commandTimeout!)
  }

  /** Writes, and takes over what came of it. @throws NotKeptError */
  async function change (asked: SharedChange): Promise<unknown[]> {
    return await reads.asking(asked.name, () => changeNow(asked))
  }

  async function changeNow ({ script, name, authority, args = [], parts = [] }: SharedChange): Promise<unknown[]> {
    let answer: unknown[]
    try {
      answer = await reads.writing(name, parts, () => run(script, name, known.epoch!, keys.channel, deadline(), name, authority, ...args)) as unknown[]
    } catch (error) {
      dirty.set(name, { isRemoved: false }) // whether it was written nobody knows
      log.warn(`The shared registry could not be written: ${redisReason(error)}`)
      throw notKept(error)
    }
    if (answer[0] === 'other') {
      resync()
      throw notKept()
    }
    if (answer[0] === 'late') { // Redis's clock may have been put on
      lookedAt = -Infinity
      throw notKept()
    }
    if (answer[0] === 'taken') return answer
    const [epoch, version, told] = [String(answer[0]), Number(answer[1]), Number(answer[3])]
    if (epoch !== known.epoch) throw notKept() // it was answered when other data was known already
    const isRemoved = script === 'remove' && authority === ''
    // What was told of it comes by another connection. Where nothing was, this version is of somebody else's change.
    if (told === 1 && isSynced && version === known.version + 1) known.hearOf(name, version)
    apply(name, answer, isRemoved)
    recent.made(epoch, version, name, answer[4] as string[])
    if (dirty.size > 0) readSoon()
    return answer
  }

  function apply (name: string, [epoch, version, fields]: readonly unknown[], isRemoved = false): void {
    if (epoch !== known.epoch) return
    const written = reads.beingWritten(name)
    const isWhole = written.size === 0
    if (!isWhole) dirty.set(name, { isRemoved })
    const { isLatest, whole } = reads.came(name, Number(version), isWhole)
    known.wasRead(name, whole)
    if (!isLatest) return
    const skipped: string[] = []
    const isKnown = (fields as Fields).length > 0 || registry.find(name) !== undefined
    const isTaken = registry.replaceRegistered(name, agentOf(name, fields as Fields, hostRules(), skipped), { isRemoved, except: written, exceptSettings: written.has(settingsPart) })
    if (isTaken && skipped.length === 0) notWhole.delete(name)
    else notWhole.add(name)
    for (const reason of skipped) log.warn(`Left out of the shared registrations: ${reason}`)
    onApplied(name, { isWhole, isKnown })
  }

  /** @returns whether the data is the one that is known */
  async function refresh (name: string, isRemoved = false, read = run): Promise<boolean> {
    return await reads.asking(name, async () => {
      const answer = await read('read', name) as unknown[]
      apply(name, answer, isRemoved)
      return answer[0] === known.epoch
    })
  }

  /** Reads what was heard of. */
  async function readDirty (): Promise<void> {
    const names = [...dirty]
    dirty.clear()
    try {
      await Promise.all(names.map(([name, { isRemoved }]) => refresh(name, isRemoved)))
    } catch {
      resync()
    }
  }

  /** What came in one piece is read in one piece. */
  function readSoon (): void {
    if (isReadingSoon || !isSynced) return
    isReadingSoon = true
    queueMicrotask(() => {
      isReadingSoon = false
      void readDirty()
    })
  }

  function heard (message: string): void {
    if (toldEarly !== null) {
      toldEarly.push(message)
      return
    }
    const [epoch = '', text = '', kind = '', name = '', authority = '', ...changes] = message.split(' ')
    const version = Number(text)
    if (!Number.isSafeInteger(version) || (kind !== 'all' && !nameForm.test(name))) return // no gateway has written that
    if (epoch !== known.epoch || version > known.version + 1) return resync()
    if (version <= known.version) return
    if (kind === 'all') return known.hear(version)
    if (kind === 'lapsed') registry.renewLease(name, authority, 0) // so it is over here as well when it leaves
    for (const change of changes) {
      const at = change.lastIndexOf('@')
      tellOf(version, name, change.slice(0, at), Number(change.slice(at + 1)))
    }
    dirty.set(name, { isRemoved: kind === 'removed' && authority === '' })
    known.hearOf(name, version)
    readSoon()
  }

  /** From now on nothing is certain until everything was read. */
  function resync (): void {
    isSynced = false
    isDoubtful = true
    if (syncing !== null || isClosed || !redis.isUp || !subscription.isHearing) return
    syncing = synchronise().then(() => {
      syncing = null
      if (isDoubtful) resync() // meanwhile there was reason to
    }, (error: unknown) => {
      syncing = null
      toldEarly = null
      if (!isClosed) log.warn(`The shared registry could not be read: ${redisReason(error)}`)
      clock.after(lookMs, () => { if (!isSynced) resync() })
    })
  }

  async function synchronise (): Promise<void> {
    bulk = client.duplicate({ commandTimeout: bulkMs, socketTimeout: bulkSilentMs, enableOfflineQueue: true })
    bulk.on('error', () => {}) // the other connection's are in the log
    try {
      await becomeEqual(loadScripts(bulk, keys))
    } finally {
      bulk?.disconnect()
      bulk = null
    }
  }

  async function becomeEqual (runAtLength: Run): Promise<void> {
    do {
      isDoubtful = false
      toldEarly = []
      let found = await lookAt()
      const { epoch, version } = found
      if (epoch === '' || (epoch === known.epoch && version < known.version) || isAncestor(found, known.point)) {
        await restore(found, restoring, runAtLength)
        isDoubtful = true
        continue
      }
      if (epoch !== known.epoch) {
        // What was changed last comes first: whoever then takes this data for its own, with more of the rest, leaves that alone.
        const isAdded = await repeat(found, restoring, runAtLength) && await merge(found, restoring, runAtLength)
        if (isAdded) found = await lookAt() // what was added is part of what is read
        if (!isAdded || found.epoch !== epoch) {
          isDoubtful = true
          continue
        }
        reads.restart()
      }
      known.beginReadingAll(found)
      const told = toldEarly
      toldEarly = null
      for (const message of told) heard(message) // what changes from here on is read once more
      const names = [...new Set([...await client.smembers(keys.agents), ...registry.exportState().agents.map(({ name }) => name)])]
      let isSame = await readRecent(runAtLength) // before what it came to
      for (let from = 0; isSame && from < names.length; from += chunk) {
        isSame = (await Promise.all(names.slice(from, from + chunk).map(name => refresh(name, false, runAtLength)))).every(Boolean)
      }
      if (isSame) known.endReadingAll(found.version)
      else isDoubtful = true // it was lost meanwhile, and what was known before is what counts
    } while (isDoubtful)
    if (!subscription.isHearing) return // it begins anew when changes are told again
    isSynced = hasBeenRead = true
    wake()
    log.info({ version: known.version }, 'The registry is shared')
    await readDirty()
  }

  /** Which parts were changed of late is told only to who is there. @returns whether the data is the one that is known */
  async function readRecent (read: Run): Promise<boolean> {
    const { epoch, versions } = await readTouched(read)
    if (epoch !== known.epoch) return false
    for (const [member, version] of versions) {
      const [name = '', part = ''] = member.split(' ')
      if (name !== '') tellOf(known.version, name, part, version)
    }
    return true
  }

  /** @param by this version of the known data it is so @param version of the change, which may be of data before */
  function tellOf (by: number, name: string, part: string, version: number): void {
    recent.told({ epoch: known.epoch!, version: Math.min(version, by), by, name, part }, known.point?.epoch)
  }

  /** Sees whether a change was made that was not told here, or other data is there. */
  async function look (): Promise<void> {
    const before = { epoch: known.epoch, version: known.version } // messages may be faster than the answer
    const { epoch, version, origin } = await lookAt()
    if (!isSynced) return
    if (epoch !== before.epoch || version < before.version) return resync()
    known.isMadeOf(origin)
    const isBehind = aheadAt > known.version // since the last look, too
    aheadAt = version > known.version ? version : 0
    if (isBehind) subscription.renew()
  }

  /** Notes that there is a gateway, so that leases go on; and finds out whether Redis can be written. */
  async function note (): Promise<void> {
    const before = isWritable
    let reason = ''
    await run('note', '', '', keys.channel).then(() => { isWritable = true }, (error: unknown) => {
      isWritable = false
      reason = redisReason(error)
    })
    if (before && !isWritable) log.warn(`The shared registry could not be written: ${reason}`)
  }

  const stopWatching = redis.onStatus(isUp => {
    isSynced = false
    redisClock.forget()
    if (!isUp) return
    resync()
    if (subscription.isHearing) subscription.renew() // of a line that was cut both ends may know nothing
  })
  const subscription = createSubscription(client, { channels: [keys.channel], clock, log, onMessage: heard, onHearing: resync, onDeaf: () => { isSynced = false } })

  /** Some time soon. */
  function reread (names: Iterable<string>): void {
    for (const name of names) if (!dirty.has(name)) dirty.set(name, { isRemoved: false })
    readSoon()
  }

  return {
    get known () { return known.point },

    get isSynced () { return isSynced },

    get hasBeenRead () { return hasBeenRead },

    get isWritable () { return isWritable },

    notKept,
    change,
    refresh,
    resync,

    refuseUnsynced () {
      if (!isSynced || !redis.isUp) throw notKept()
    },

    ask: (script, name, ...args) => run(script, name, known.epoch!, keys.channel, ...args),

    ownerOf: async nameOrAlias => await client.hget(keys.names, nameOrAlias) ?? nameOrAlias,

    rereadNotWhole: () => reread(notWhole),

    rereadAll () {
      if (isSynced) client.smembers(keys.agents).then(reread, resync)
    },

    async begin () {
      subscription.begin()
      if (redis.isUp) await within(beginMs, clock, isSyncedOnce)
    },

    async check () {
      if (clock.now() - lookedAt >= lookMs) {
        lookedAt = clock.now()
        await Promise.all([look(), note()])
      }
      if (isSynced && dirty.size > 0) await readDirty()
    },

    async close () {
      isClosed = true
      stopWatching()
      subscription.close()
      bulk?.disconnect()
      await syncing
    }
  }
}
