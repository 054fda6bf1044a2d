/** What changes who is registered: each change counts, and is kept, when its promise resolves. */
import type { Agent } from '../../src/fleet/agent.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { Registration, Registry } from '../../src/fleet/registry.ts'

/** How the Redis fares by which registrations are shared: `away`, it does not answer; `refusing`, it does, and can keep no change just now. */
export type RedisState = 'ok' | 'away' | 'refusing'

export interface Registrations {
  /** Whether a change could be kept just now, as far as it is known; not that it will. */
  readonly isAvailable: boolean
  /** Undefined where nothing is shared. */
  readonly redis: RedisState | undefined
  /** @throws NameConflictError InvalidRegistrationError NotKeptError; nothing has changed then */
  register (registration: Registration): Promise<{ created: boolean, agent: Agent, instance: Instance }>
  /** Renews the lease of an instance. @throws AgentNotFoundError InstanceNotFoundError NotKeptError */
  heartbeat (name: string, id: string): Promise<Instance>
  /**
   * Learns what other gateways were told of an agent, where something of it is not known here: their word may be on its way. @returns whether there are others
   * @throws NotKeptError where that can not be found out
   */
  catchUp (name: string): Promise<boolean>
  /** What is taken of others' registrations has changed here: the file, or the hosts that are allowed. */
  reread (): void
  /** Takes an instance out of the rotation. @throws AgentNotFoundError InstanceNotFoundError NotKeptError */
  drain (name: string, id: string): Promise<Instance>
  /** Whether an instance that drains is removed without further ado when its last request has ended, at whichever gateway. */
  endsDrainOf (instance: Instance): boolean
  /** @throws AgentNotFoundError NotKeptError */
  removeAgent (nameOrAlias: string): Promise<{ name: string, inFile: boolean }>
  /** @throws AgentNotFoundError InstanceNotFoundError NotKeptError */
  removeInstance (nameOrAlias: string, id: string): Promise<{ name: string, inFile: boolean, instance: Instance }>
}

/** Those of one gateway, which are kept on its disk. @param save resolves when the registry's present state is kept */
export function ownRegistrations (registry: Registry, save: () => Promise<void>): Registrations {
  return {
    isAvailable: true,
    redis: undefined,
    reread () {}, // there are none
    async catchUp () { return false },
    async register (registration) {
      const { undo, ...registered } = registry.register(registration)
      try {
        await save()
      } catch (error) { // what can't be kept must not be served either, or it would be gone after a restart
        undo()
        throw error
      }
      return registered
    },
    async heartbeat (name, id) { return registry.heartbeat(name, id) },
    async drain (name, id) {
      const instance = registry.drain(name, id)
      await save().catch(() => {}) // it is in the log, and tried again; a disk must not keep anybody from leaving
      return instance
    },
    endsDrainOf: () => false,
    async removeAgent (nameOrAlias) {
      const removed = registry.removeAgent(nameOrAlias)
      await save()
      return removed
    },
    async removeInstance (nameOrAlias, id) {
      const removed = registry.removeInstance(nameOrAlias, id)
      await save()
      return removed
    }
  }
}
