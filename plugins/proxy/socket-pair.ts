/**
 * Two sockets joined byte for byte, with backpressure and half-close both ways, until both have ended. The bytes are the client's and the
 * agent's alone; only when the gateway has to leave it says so in a frame of its own, between two of theirs.
 */
import type { Socket } from 'node:net'
import type { Ending } from '../facts/index.ts'
import { FrameWalk } from './frame-walk.ts'

/** Close frames with status 1001, "going away" (RFC 6455 §7.4.1); the one to the agent is masked, with a key of zeros. */
const goingAway = Buffer.from([0x88, 0x02, 0x03, 0xe9])
const goingAwayMasked = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])

/** How long a side may take to end after a close frame, or when the other is gone. */
const closeMs = 1_000

export interface SocketPairSettings {
  /** The longest time without a byte either way. */
  readonly idleTimeoutMs: number
  /** The agent sent something, or took something. */
  readonly onProgress: () => void
  /** Called once, when it is over. */
  readonly onEnd: (ending: Ending) => void
}

/** One way through: what comes from one side, and how far its frames are. */
interface Way {
  readonly from: Socket
  readonly to: Socket
  readonly walk: FrameWalk
  readonly farewell: Buffer
  /** Who is to blame when its end comes without a close frame. */
  readonly endingIfDead: Ending
}

export class SocketPair {
  readonly #client: Socket
  readonly #agent: Socket
  readonly #settings: SocketPairSettings
  readonly #ways: readonly [fromClient: Way, fromAgent: Way]
  /** Who left without a close frame, if the first to leave did. */
  #deadEnd: Ending | null = null
  #leaving = false
  #over = false
  /** Of before they were joined. */
  readonly #clientBytesBefore: number
  readonly #agentBytesBefore: number

  /** @param clientHead what the client sent before the sockets were joined; `agentHead` likewise */
  constructor (client: Socket, agent: Socket, clientHead: Buffer, agentHead: Buffer, settings: SocketPairSettings) {
    this.#client = client
    this.#agent = agent
    this.#settings = settings
    this.#clientBytesBefore = client.bytesRead - clientHead.length
    this.#agentBytesBefore = agent.bytesRead - agentHead.length
    if (clientHead.length > 0) client.unshift(clientHead)
    if (agentHead.length > 0) agent.unshift(agentHead)
    this.#ways = [
      { from: client, to: agent, walk: new FrameWalk(), farewell: goingAwayMasked, endingIfDead: 'client-aborted' },
      { from: agent, to: client, walk: new FrameWalk(), farewell: goingAway, endingIfDead: 'upstream-aborted' }
    ]

    client.setNoDelay(true)
    client.setTimeout(settings.idleTimeoutMs, () => this.#end('upstream-aborted'))
    // What the client sends is read only as far as the agent takes it.
    for (const side of [client, agent]) side.on('data', settings.onProgress)
    for (const way of this.#ways) this.#open(way)
  }

  /** Bytes of the client, the handshake not counted. */
  get bytesFromClient (): number {
    return this.#client.bytesRead - this.#clientBytesBefore
  }

  get bytesFromAgent (): number {
    return this.#agent.bytesRead - this.#agentBytesBefore
  }

  /** Says to both sides that the gateway goes away, each as soon as the frame it is getting is whole, and ends when they have. */
  leave (): void {
    if (this.#leaving || this.#over) return
    this.#leaving = true
    for (const way of this.#ways) this.#sayFarewell(way)
    // Not unref'd: a socket that is not read keeps no process alive, and whoever closes the application waits for both.
    const last = setTimeout(() => this.#ways.forEach(({ from }) => from.destroy()), closeMs)
    let open = 2
    for (const { from } of this.#ways) from.once('close', () => { if (--open === 0) clearTimeout(last) })
  }

  #open ({ from, to, walk, endingIfDead }: Way): void {
    from.on('data', (chunk: Buffer) => { if (!this.#leaving) walk.follow(chunk) })
    from.on('end', () => { if (!this.#leaving && !this.#ways.some(way => way.walk.closeSeen)) this.#deadEnd ??= endingIfDead })
    from.on('error', () => this.#end(endingIfDead))
    from.on('close', () => this.#end(this.#deadEnd ?? 'complete'))
    from.pipe(to)
  }

  #sayFarewell ({ from, to, walk, farewell }: Way): void {
    from.unpipe(to)
    if (!to.writable) return void from.resume()
    const finish = () => {
      from.off('data', passRest)
      to.end(walk.closeSeen ? '' : farewell)
      from.resume() // what still comes is dropped
    }
    const passRest = (chunk: Buffer) => {
      const passed = walk.follow(chunk, true)
      if (!to.write(chunk.subarray(0, passed))) from.pause()
      if (walk.isBetweenFrames) finish()
    }
    if (walk.isBetweenFrames) return finish()
    to.on('drain', () => from.resume())
    from.on('data', passRest).once('end', () => to.end())
    from.resume()
  }

  #end (ending: Ending): void {
    if (this.#over) return
    this.#over = true
    // The other side still gets what was sent before the end, as long as it takes it.
    for (const { from } of this.#ways) {
      from.setTimeout(closeMs, () => from.destroy())
      from.destroySoon()
    }
    this.#settings.onEnd(ending)
  }
}
