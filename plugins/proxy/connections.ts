/**
 * Connections to instances: per instance a set, one exchange at a time each, the most recently used first. A set of our own rather than
 * undici's Pool, because a replay needs a connection that is known to be fresh, and because the choice stays O(1) with thousands of open
 * event streams.
 */
import type { Instance, InstanceRuntime } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import type { AgentConnection, ConnectionOwner } from './agent-connection.ts'
import { SocketConnection } from './socket-connection.ts'
import { UndiciConnection } from './undici-connection.ts'

/** Who speaks HTTP to agents: our own client, or undici's. */
export type UpstreamClient = 'own' | 'undici'

const classes = { own: SocketConnection, undici: UndiciConnection }

export const upstreamClients = Object.keys(classes) as UpstreamClient[]

/**
 * Which connections a request may use again. One that can't be replayed takes none whose end may be under way: `settled` leaves out those
 * that were idle for long, since agents close them (gunicorn after 2 s), and of an agent that was seen to close behind its answers, those
 * just released, since that takes it a moment.
 */
export type Reuse = 'any' | 'settled' | 'none'

/** How long a connection is idle at most to be settled, and at least where the agent closes early. */
const settledForMs = 1_000
const settledAfterMs = 5

/** Instances that closed an idle connection sooner than any timeout would. */
const closingEarly = new WeakSet<InstanceRuntime>()

/** How often idle connections are looked through for those whose time is over. */
const sweepMs = 1_000

/** The connections of one instance. */
class ConnectionSet implements ConnectionOwner {
  readonly #instance: Instance
  readonly #idle: AgentConnection[] = []
  readonly #all = new Set<AgentConnection>()
  readonly #create: (owner: ConnectionOwner) => AgentConnection
  readonly #onEmpty: () => void
  #leaving = false
  #sweeper: NodeJS.Timeout | null = null

  constructor (instance: Instance, create: (owner: ConnectionOwner) => AgentConnection, onEmpty: () => void) {
    this.#instance = instance
    this.#create = create
    this.#onEmpty = onEmpty
  }

  get isTls (): boolean {
    return this.#instance.protocol === 'https'
  }

  /** Whether its connections are such as would be made for the instance now: a client certificate is shown to trusted ones only. */
  isFor ({ trusted }: Instance): boolean {
    return !this.isTls || trusted === this.#instance.trusted
  }

  acquire (reuse: Reuse): AgentConnection {
    const idle = reuse === 'any' ? this.#takeLast() : reuse === 'none' ? undefined : this.#takeSettled()
    if (idle !== undefined) return idle
    const connection = this.#create(this)
    this.#all.add(connection)
    return connection
  }

  released (connection: AgentConnection): void {
    if (this.#leaving) return this.#drop(connection)
    this.#idle.push(connection)
    this.#sweeper ??= setTimeout(() => this.#sweep(), sweepMs).unref()
  }

  discarded (connection: AgentConnection): void {
    this.#all.delete(connection)
    if (this.#all.size > 0) return
    this.#stopSweeping()
    this.#onEmpty()
  }

  closed (connection: AgentConnection): void {
    const index = this.#idle.indexOf(connection)
    if (index === -1) return
    if (performance.now() - connection.idleSince < settledForMs) closingEarly.add(this.#instance.runtime)
    this.#idle.splice(index, 1)
    this.#drop(connection)
  }

  /** Idle connections close now, the others when they are released. */
  leave (): void {
    this.#leaving = true
    for (const connection of this.#idle.splice(0)) this.#drop(connection)
  }

  destroy (): void {
    this.#leaving = true
    this.#stopSweeping()
    for (const connection of this.#all) connection.destroy()
    this.#all.clear()
    this.#idle.length = 0
  }

  #takeLast (): AgentConnection | undefined {
    for (;;) {
      const connection = this.#idle.pop()
      if (connection === undefined || connection.usable) return connection
      connection.destroy()
      this.#all.delete(connection) // not dropped: the set is about to get another, and is not given up in between
    }
  }

  /** The last released one that is settled. They are in the order of their release. */
  #takeSettled (): AgentConnection | undefined {
    const now = performance.now()
    let index = this.#idle.length - 1
    if (closingEarly.has(this.#instance.runtime)) while (index >= 0 && now - this.#idle[index]!.idleSince < settledAfterMs) index--
    const found = this.#idle[index]
    if (found === undefined || now - found.idleSince > settledForMs || !found.usable) return undefined
    this.#idle.splice(index, 1)
    return found
  }

  #sweep (): void {
    const kept: AgentConnection[] = []
    const over: AgentConnection[] = []
    for (const connection of this.#idle) (connection.usable ? kept : over).push(connection) // asked once: time goes on
    this.#idle.splice(0, this.#idle.length, ...kept)
    for (const connection of over) this.#drop(connection)
    if (this.#idle.length > 0) this.#sweeper!.refresh()
    else this.#stopSweeping()
  }

  #stopSweeping (): void {
    if (this.#sweeper !== null) clearTimeout(this.#sweeper)
    this.#sweeper = null
  }

  #drop (connection: AgentConnection): void {
    connection.destroy()
    this.discarded(connection)
  }
}

/** The connections to all instances. */
export class Connections {
  readonly #sets = new Map<InstanceRuntime, ConnectionSet>()
  readonly #create: (instance: Instance, owner: ConnectionOwner) => AgentConnection

  constructor (lookupOf: LookupOf, tlsOf: TlsOf, client: UpstreamClient) {
    const Class = classes[client]
    this.#create = (instance, owner) => new Class(instance, owner, lookupOf, tlsOf)
  }

  /** A connection that carries nothing else until it is released. */
  acquire (instance: Instance, reuse: Reuse): AgentConnection {
    const { runtime } = instance
    let set = this.#sets.get(runtime)
    if (set === undefined || !set.isFor(instance)) {
      set?.leave()
      const created = new ConnectionSet(instance, owner => this.#create(instance, owner), () => { if (this.#sets.get(runtime) === created) this.#sets.delete(runtime) })
      this.#sets.set(runtime, set = created)
    }
    return set.acquire(reuse)
  }

  /** The instance is gone: what is in flight on it finishes, then its connections close. */
  leave ({ runtime }: Instance): void {
    this.#sets.get(runtime)?.leave()
    this.#sets.delete(runtime)
  }

  /** Connections with TLS carry what is in flight on them, and nothing else: they were made by settings that do not count any more. */
  leaveTls (): void {
    for (const [runtime, set] of this.#sets) {
      if (!set.isTls) continue
      set.leave()
      this.#sets.delete(runtime)
    }
  }

  /** Ends all connections at once. */
  destroy (): void {
    for (const set of this.#sets.values()) set.destroy()
    this.#sets.clear()
  }
}
