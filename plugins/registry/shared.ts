/** Registrations that several gateways have in common, in Redis: what may be done to them, and when leases and drains are over. */
import { randomBytes } from 'node:crypto'
import type { Peers } from '../peers/index.ts'
import { NameConflictError } from '../../src/errors.ts'
import { authorityOf } from '../../src/fleet/authority.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import { settingsPart } from './recent-changes.ts'
import type { Registrations } from './registrations.ts'
import { notGiven, settingFields } from './shared-agent.ts'
import { shareData, type SharedChange, type SharedData, type SharedDataOptions } from './shared-data.ts'
import { SharedDrains } from './shared-drains.ts'

export interface SharedOptions extends Omit<SharedDataOptions, 'onApplied'> {
  /** An agent was taken over from Redis. */
  readonly onApplied: (name: string) => void
  /** The workers of this gateway, which have a change before it is answered: the next request may meet any of them. */
  readonly peers?: Pick<Peers, 'ask' | 'answer'>
}

export interface SharedRegistrations extends Registrations, Pick<SharedData, 'known' | 'hasBeenRead' | 'begin' | 'close'> {
  /** Decides about leases that are over, and looks whether everything was heard of. Does nothing while Redis can't be asked. */
  sweep (): Promise<void>
}

/** What workers are asked to take over, */
const topic = 'registry'
/** and to do as well. */
const localTopic = 'registry-local'
type LocalChange = 'drain' | 'removeAgent' | 'removeInstance'
/** Leases that are over and kept are looked at no more often. */
const settleMs = 1_000

export function shareRegistrations ({ onApplied, peers, ...options }: SharedOptions): SharedRegistrations {
  const { redis, registry, clock } = options
  const gatewayId = randomBytes(6).toString('hex')
  const drains = new SharedDrains(registry)
  const data = shareData({
    ...options,
    onApplied (name, { isWhole, isKnown }) {
      if (isWhole) drains.end(name)
      if (isKnown) onApplied(name)
    }
  })
  let settledAt = -Infinity

  /** In Redis, here, and at the other workers of this gateway. @throws NotKeptError */
  async function change (asked: SharedChange): Promise<unknown[]> {
    const answer = await data.change(asked)
    if (answer[0] !== 'taken') await peers?.ask('workers', topic, { name: asked.name, isRemoved: asked.script === 'remove' && asked.authority === '' })
    return answer
  }

  /** Does here, and at the other workers of this gateway, what is not shared: to an instance of the file or of DNS. @throws what the registry throws here */
  async function atAllWorkers<What extends LocalChange> (what: What, name: string, id = ''): Promise<ReturnType<Registry[What]>> {
    const done = registry[what](name, id) as ReturnType<Registry[What]>
    await peers?.ask('workers', localTopic, { what, name, id })
    return done
  }

  peers?.answer(localTopic, detail => {
    const { what, name, id } = detail as { what: LocalChange, name: string, id: string }
    try {
      registry[what](name, id)
      return true
    } catch {
      return false // it is so already, as at the one that asks
    }
  })

  /** Another worker has changed an agent, and waits until this one has it. */
  peers?.answer(topic, async detail => {
    const { name, isRemoved } = detail as { name: string, isRemoved: boolean }
    await data.refresh(name, isRemoved)
    return true
  })

  /** Has all gateways decide about leases that seem to be over here: another may have had the heartbeat. What leaves is told like any change. */
  async function settleLeases (): Promise<void> {
    const over = registry.leasesOver()
    const kept = new Set<string>()
    if (over.length > 0 && over.every(({ isKept }) => isKept) && clock.now() - settledAt < settleMs) return
    settledAt = clock.now()
    if (over.length > 0) {
      const left = await data.ask('settle', '', ...over.map(({ key }) => key)) as string[]
      if (left[0] === 'other') return data.resync()
      for (const [index, { name, authority, key }] of over.entries()) {
        const leftMs = Number(left[index] || NaN)
        if (leftMs > 0) registry.renewLease(name, authority, leftMs)
        else if (leftMs === 0) kept.add(key)
      }
    }
    if (data.isSynced) registry.expire(kept)
  }

  /** A registration is not kept. Who was not taken whole, since a name was its for the time being, may be so now. */
  function withdraw (undo: () => void): void {
    undo()
    data.rereadNotWhole()
  }

  /** An instance that drains leaves when no gateway has a request of it under way. */
  async function settleDrains (): Promise<void> {
    const drained = Array.from(drains.underWay(), ({ name, authority, isBusy }) => isBusy
      ? data.ask('busy', name, authority, gatewayId)
      : change({ script: 'remove', name, authority, args: ['drained'] }))
    await Promise.all(drained)
  }

  function instanceAt (nameOrAlias: string, id: string) {
    const instance = registry.instance(nameOrAlias, id)
    const authority = authorityOf(instance.host, instance.port)
    return { instance, name: instance.agent, authority, isShared: registry.isRegistered(instance.agent, authority) }
  }

  let isSweeping = false
  return {
    get known () { return data.known },

    get hasBeenRead () { return data.hasBeenRead },

    get isAvailable () { return this.redis === 'ok' },

    get redis () { return !redis.isUp ? 'away' : data.isSynced && data.isWritable ? 'ok' : 'refusing' },

    begin: data.begin,
    close: data.close,

    async sweep () {
      if (isSweeping || !data.isSynced || !redis.isUp) return
      isSweeping = true
      try {
        await data.check()
        if (data.isSynced) await settleLeases()
        if (data.isSynced) await settleDrains()
      } catch {
        // it is in the log that Redis does not answer
      } finally {
        isSweeping = false
      }
    },

    async register (registration) {
      data.refuseUnsynced()
      const { name, host, port } = registration
      const authority = authorityOf(host, port)
      const ofFile = registry.definitionOfFile(name, authority) // before it is registered: that undoes a DELETE
      const { agent: local, instance, undo } = registry.register(registration)
      const saved = registry.exportInstance(name, authority)!
      const settings = settingFields(registration)
      let answer: unknown[]
      try {
        answer = await change({
          script: 'write',
          name,
          authority,
          args: [JSON.stringify(saved), notGiven(registration).join(), JSON.stringify({ protocol: 'http', weight: 1, ...ofFile }), ...settings],
          parts: settings.length > 0 ? [authority, settingsPart] : [authority]
        })
      } catch (error) {
        withdraw(undo)
        throw error
      }
      if (answer[0] === 'taken') {
        withdraw(undo)
        const [, taken, owner] = answer.map(String)
        throw new NameConflictError(taken === name
          ? `"${name}" is an alias of the agent "${owner}"`
          : `The alias "${taken}" belongs to the agent "${owner}"`)
      }
      const agent = registry.find(name) ?? local // somebody may have removed it by now
      const created = answer[5] === 1 && ofFile === undefined
      return { created, agent, instance: agent.instances.find(({ id }) => id === instance.id) ?? instance }
    },

    async heartbeat (nameOrAlias, id) {
      const { instance, name, authority } = instanceAt(nameOrAlias, id)
      if (instance.lease === null) return instance
      data.refuseUnsynced()
      const { ttlMs } = instance.lease
      let answer: unknown
      try {
        answer = await data.ask('renew', name, `${name} ${authority}`, ttlMs)
        if (answer === 0) await data.refresh(name)
      } catch (error) {
        throw data.notKept(error)
      }
      if (Array.isArray(answer)) {
        data.resync()
        throw data.notKept()
      }
      return (answer === 1 ? registry.renewLease(name, authority, ttlMs) : undefined) ?? registry.instance(name, id)
    },

    async drain (nameOrAlias, id) {
      const { name, authority, isShared } = instanceAt(nameOrAlias, id)
      if (isShared) {
        data.refuseUnsynced()
        drains.askedHere(name, authority)
        await change({ script: 'drain', name, authority, parts: [authority] })
      }
      return await atAllWorkers('drain', name, id)
    },

    async catchUp (name) {
      data.refuseUnsynced()
      try {
        const owner = await data.ownerOf(name)
        if (await data.refresh(owner)) return true
        data.resync() // what is there now knows less
      } catch (error) {
        throw data.notKept(error)
      }
      throw data.notKept()
    },

    reread: data.rereadAll,

    endsDrainOf: ({ agent, host, port }) => registry.isRegistered(agent, authorityOf(host, port)),

    async removeAgent (nameOrAlias) {
      const { name, instances } = registry.get(nameOrAlias)
      // Where nothing is left of it others may have registered something by now.
      const isShared = instances.length === 0 || instances.some(({ host, port }) => registry.isRegistered(name, authorityOf(host, port)))
      if (!isShared) return await atAllWorkers('removeAgent', name)
      data.refuseUnsynced()
      await change({ script: 'remove', name, authority: '', args: ['removed'] })
      return registry.find(name)?.name === name ? await atAllWorkers('removeAgent', name) : { name, inFile: false }
    },

    async removeInstance (nameOrAlias, id) {
      const { instance, name, authority, isShared } = instanceAt(nameOrAlias, id)
      if (!isShared) return await atAllWorkers('removeInstance', name, id)
      data.refuseUnsynced()
      await change({ script: 'remove', name, authority, args: ['removed'] })
      const isLeft = registry.find(name)?.instances.some(other => other.id === id) // the file, or DNS, names it as well
      return isLeft ? await atAllWorkers('removeInstance', name, id) : { name, inFile: false, instance }
    }
  }
}
