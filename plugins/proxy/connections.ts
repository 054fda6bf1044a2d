/**
 * Connections to instances: per instance a set of undici Clients, one exchange at a time each, the most recently used first. A set of our
 * own rather than undici's Pool, because a replay needs a connection that is known to be fresh, and because the choice stays O(1) with
 * thousands of open event streams.
 */
import type { Socket } from 'node:net'
import { Client, type buildConnector } from 'undici'
import type { Instance, InstanceRuntime } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import { AnswerHeads } from './answer-heads.ts'
import { connectTo, maxResponseHeadBytes } from './connector.ts'

/**
 * Which connections a request may use again. One that can't be replayed takes none whose end may be under way: `settled` leaves out those
 * that were idle for long, since agents close them (gunicorn after 2 s), and of an agent that was seen to close behind its answers, those
 * just released, since that takes it a moment.
 */
export type Reuse = 'any' | 'settled' | 'none'

/** How long a connection is idle at most to be settled, and at least where the agent closes early. */
const settledForMs = 1_000
const settledAfterMs = 5

/** One undici Client and what we know of its socket. */
export class Connection {
  readonly client: Client
  /** Requests sent on the present socket. */
  served = 0
  /** The socket is open. */
  connected = false
  /** A request was sent, and the final response head is not here. */
  awaitsHead = false
  /** The socket broke rather than ended. */
  broken = false
  connectTimeoutMs = 0
  /** When it was released, on the monotonic clock. */
  idleSince = 0
  /** What undici doesn't tell of the answers' heads. */
  readonly heads = new AnswerHeads()
  readonly #owner: ConnectionSet

  constructor (instance: Instance, owner: ConnectionSet, lookupOf: LookupOf) {
    this.#owner = owner
    this.client = new Client(instance.origin, {
      pipelining: 1,
      headersTimeout: 0, // the exchange has its own, precise ones
      bodyTimeout: 0,
      keepAliveTimeout: 4_000,
      keepAliveMaxTimeout: 60_000,
      keepAliveTimeoutThreshold: 1_000,
      maxHeaderSize: maxResponseHeadBytes,
      strictContentLength: true,
      connect: (_options: buildConnector.Options, callback: buildConnector.Callback) => {
        connectTo(instance, { timeoutMs: this.connectTimeoutMs, lookup: lookupOf(instance) }, (error, socket) => {
          if (socket === null) return callback(error ?? new Error('no connection'), null)
          this.served = 0
          this.connected = true
          this.broken = false
          watchBreak(socket, this)
          readBeforeFailing(socket)
          followHeads(socket, this)
          callback(null, socket)
        })
      }
    })
    this.client.on('disconnect', () => {
      this.connected = false
      owner.dropIdle(this)
    })
  }

  /** Gives it back after a complete exchange, to carry the next. */
  release (): void {
    this.#owner.release(this)
  }

  /** Ends it at once, whatever it carries or waits for. */
  discard (): void {
    this.#owner.discard(this)
  }
}

/**
 * Marks the connection when its socket breaks rather than ends, before undici's listeners, which take a reset for the end of a body that
 * lasts until then. With Node 20 a reset that comes together with bytes looks like an end; that the socket has no peer any more tells them apart.
 */
function watchBreak (socket: Socket, connection: Connection): void {
  socket.once('error', () => { connection.broken = true })
  socket.once('end', () => { if (socket.remoteAddress === undefined) connection.broken = true })
}

/** How long what came before the agent closed may take to be read. */
const lastReadMs = 1_000

/**
 * An agent may answer an upload and close without having read all of it: the next write fails then, while the answer waits to be read. So a
 * write's failure is told only when reading has had its time to find that answer, and the end behind it.
 */
function readBeforeFailing (socket: Socket): void {
  const { _write: write, _writev: writev } = socket
  const late = (callback: (error?: Error | null) => void) => (error?: Error | null): void => {
    const { code } = (error ?? {}) as NodeJS.ErrnoException
    if (code !== 'EPIPE' && code !== 'ECONNRESET') return callback(error)
    const timer = setTimeout(callback, lastReadMs, error)
    socket.once('close', () => clearTimeout(timer))
  }
  socket._write = (chunk, encoding, callback) => write.call(socket, chunk, encoding, late(callback))
  socket._writev = (chunks, callback) => writev!.call(socket, chunks, late(callback))
}

/** What undici reads goes through `heads` as long as a head is awaited. */
function followHeads (socket: Socket, connection: Connection): void {
  const read = socket.read
  socket.read = size => {
    const chunk = read.call(socket, size) as Buffer | null
    return chunk === null || !connection.awaitsHead ? chunk : connection.heads.pass(chunk)
  }
}

/** Instances that closed an idle connection sooner than any timeout would. */
const closingEarly = new WeakSet<InstanceRuntime>()

/** The connections of one instance. */
class ConnectionSet {
  readonly #instance: Instance
  readonly #idle: Connection[] = []
  readonly #all = new Set<Connection>()
  readonly #lookupOf: LookupOf
  readonly #onEmpty: () => void
  #leaving = false

  constructor (instance: Instance, lookupOf: LookupOf, onEmpty: () => void) {
    this.#instance = instance
    this.#lookupOf = lookupOf
    this.#onEmpty = onEmpty
  }

  acquire (reuse: Reuse): Connection {
    const idle = reuse === 'any' ? this.#idle.pop() : reuse === 'none' ? undefined : this.#takeSettled()
    if (idle !== undefined) return idle
    const connection = new Connection(this.#instance, this, this.#lookupOf)
    this.#all.add(connection)
    return connection
  }

  release (connection: Connection): void {
    if (this.#leaving || !connection.connected) this.#drop(connection)
    else {
      connection.idleSince = performance.now()
      this.#idle.push(connection)
    }
  }

  /** The last released one that is settled. They are in the order of their release. */
  #takeSettled (): Connection | undefined {
    const now = performance.now()
    let index = this.#idle.length - 1
    if (closingEarly.has(this.#instance.runtime)) while (index >= 0 && now - this.#idle[index]!.idleSince < settledAfterMs) index--
    const found = this.#idle[index]
    if (found === undefined || now - found.idleSince > settledForMs) return undefined
    this.#idle.splice(index, 1)
    return found
  }

  discard (connection: Connection): void {
    void connection.client.destroy()
    this.#forget(connection)
  }

  dropIdle (connection: Connection): void {
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
    for (const { client } of this.#all) void client.destroy()
    this.#all.clear()
    this.#idle.length = 0
  }

  #drop (connection: Connection): void {
    void connection.client.close()
    this.#forget(connection)
  }

  #forget (connection: Connection): void {
    this.#all.delete(connection)
    if (this.#all.size === 0) this.#onEmpty()
  }
}

/** The connections to all instances. */
export class Connections {
  readonly #sets = new Map<InstanceRuntime, ConnectionSet>()
  readonly #lookupOf: LookupOf

  constructor (lookupOf: LookupOf) {
    this.#lookupOf = lookupOf
  }

  /** A connection that carries nothing else until it is released. */
  acquire (instance: Instance, connectTimeoutMs: number, reuse: Reuse): Connection {
    const { runtime } = instance
    let set = this.#sets.get(runtime)
    if (set === undefined) {
      const created = new ConnectionSet(instance, this.#lookupOf, () => { if (this.#sets.get(runtime) === created) this.#sets.delete(runtime) })
      this.#sets.set(runtime, set = created)
    }
    const connection = set.acquire(reuse)
    connection.connectTimeoutMs = connectTimeoutMs
    return connection
  }

  /** The instance is gone: what is in flight on it finishes, then its connections close. */
  leave ({ runtime }: Instance): void {
    this.#sets.get(runtime)?.leave()
    this.#sets.delete(runtime)
  }

  /** Ends all connections at once. */
  destroy (): void {
    for (const set of this.#sets.values()) set.destroy()
    this.#sets.clear()
  }
}
