/**
 * One who watches: an event stream that holds one message at most for a reader who is slow, and begins anew when he is back.
 */
import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import type { Principal } from '../../src/principal.ts'

/** Nobody has read anything for so many ticks: the client is gone, though its connection is not. */
const patienceTicks = 60

export class Viewer extends Readable {
  readonly request: FastifyRequest
  /** Who it is; undefined where no auth plugin runs. */
  principal: Principal | null | undefined
  /** Has to be told everything before it is told changes. */
  isBehind = true
  #wantsMore = false
  #missed = 0
  #isOver = false

  /** It was dismissed; what it was told last may still be on its way. */
  get isOver (): boolean {
    return this.#isOver
  }

  constructor (request: FastifyRequest, principal: Principal | null | undefined) {
    super({ highWaterMark: 1 }) // a byte is enough to wait with what comes next
    this.request = request
    this.principal = principal
  }

  override _read (): void {
    this.#wantsMore = true
  }

  /** Whether it has taken what it was told last. Asked once each tick. */
  isReady (): boolean {
    if (this.#wantsMore) {
      this.#missed = 0
      return true
    }
    this.isBehind = true
    if (++this.#missed >= patienceTicks) this.destroy()
    return false
  }

  /** Sends a message. @param json on one line */
  tell (event: string, json: string): void {
    if (this.#isOver || this.destroyed) return
    this.#wantsMore = false
    const text = `event: ${event}\ndata: ${json}\n\n`
    this.request.facts.bytesSent += Buffer.byteLength(text)
    this.push(text)
  }

  /** Says why, and ends. */
  dismiss (reason: 'unauthorized' | 'closing'): void {
    if (this.#isOver || this.destroyed) return
    this.tell('bye', JSON.stringify({ reason }))
    this.#isOver = true
    this.push(null)
  }
}
