/**
 * One attempt on one connection: what an exchange wants to know of it, in time, and how it came out.
 */
import type { Upstream } from '../upstream/index.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { AgentConnection, AgentRequest, AnswerSink, Chunk, ConnectionFault } from './agent-connection.ts'
import { ConnectTimeoutError } from './connector.ts'

/** Who decides what happens. None of these may throw. */
export interface AttemptOwner {
  onHead (handler: AttemptHandler, status: number, fields: string[], reason: string): void
  /** A short answer that came whole. The attempt is over, its outcome settled and its place free. */
  onWhole (handler: AttemptHandler, status: number, fields: string[], reason: string, body: string): void
  /** An interim answer, not 100. */
  onInterim (handler: AttemptHandler, status: number, fields: string[], reason: string): void
  /**
   * @param release to be called when the chunk's memory is not used any more; null when nobody waits for it
   * @returns false to pause; AttemptHandler.resume() goes on
   */
  onChunk (handler: AttemptHandler, chunk: Chunk, release: (() => void) | null): boolean
  onEnd (handler: AttemptHandler, trailers: string[] | null): void
  /** Whether the request can go out once more, on a fresh connection, when the one it was on had been closed meanwhile. @param sent bytes of it went out */
  mayReplay (sent: boolean): boolean
  /** It failed before the response head. */
  onFailure (handler: AttemptHandler, outcome: AttemptOutcome, error: Error): void
  /** It failed in the middle of the response. */
  onBreak (handler: AttemptHandler, error: Error): void
}

/** The most that is read of an answer nobody wants, to keep its connection. */
const maxDrainBytes = 64 * 1024
/** The instance is busy with it meanwhile; not longer than the shortest pause before a retry there, which wants that place. */
const maxDrainMs = 25

export class AttemptHandler implements AnswerSink {
  readonly attempt: Attempt
  /** Request bytes went out. */
  sent = false
  /** All of them did. */
  requestSent = false
  readonly #owner: AttemptOwner
  readonly #upstream: Upstream
  readonly #connection: AgentConnection
  readonly #responseTimeoutMs: number
  #timer: NodeJS.Timeout | null = null
  #reused = false
  #headSeen = false
  #over = false
  #discarding = false
  #released = false
  #drained = 0

  constructor (owner: AttemptOwner, upstream: Upstream, attempt: Attempt, connection: AgentConnection, responseTimeoutMs: number) {
    this.#owner = owner
    this.#upstream = upstream
    this.attempt = attempt
    this.#connection = connection
    this.#responseTimeoutMs = responseTimeoutMs
  }

  start (request: AgentRequest): void {
    this.#connection.send(request, this)
  }

  /** Goes on after a pause. */
  resume (): void {
    if (!this.#over) this.#connection.resume()
  }

  /** The answer is not wanted: what is left of it is read and dropped, or the connection ended. The outcome was settled; the place is free then. */
  discard (): void {
    this.#discarding = true
    this.#timer = setTimeout(() => this.cancel('answered'), maxDrainMs)
  }

  /** Ends the attempt at once. `outcome` is recorded unless one is known. */
  cancel (outcome: AttemptOutcome): void {
    if (this.#over) return
    this.#finish()
    if (this.attempt.outcome === 'pending') this.#upstream.settle(this.attempt, outcome)
    this.#release()
    this.#connection.discard()
  }

  onSend (reused: boolean): void {
    this.sent = true
    this.#reused = reused
  }

  onSent (): void {
    this.requestSent = true
    if (this.#over || this.#headSeen) return
    this.#timer = setTimeout(() => this.#timedOut(), this.#responseTimeoutMs)
  }

  onInterim (status: number, fields: string[], reason: string): void {
    this.#owner.onInterim(this, status, fields, reason)
  }

  onWhole (status: number, fields: string[], reason: string, body: string): void {
    this.#finish()
    this.#connection.release()
    this.#upstream.settle(this.attempt, 'answered', status)
    this.#release()
    this.#owner.onWhole(this, status, fields, reason, body)
  }

  onHead (status: number, fields: string[], reason: string): void {
    this.#headSeen = true
    this.#clearTimer()
    this.#owner.onHead(this, status, fields, reason)
  }

  onChunk (chunk: Chunk, release: (() => void) | null): boolean {
    if (!this.#discarding) return this.#owner.onChunk(this, chunk, release)
    this.#drained += chunk.length
    release?.()
    if (this.#drained > maxDrainBytes) this.cancel('answered')
    return true
  }

  onEnd (trailers: string[] | null): void {
    this.#finish()
    this.#release()
    this.#connection.release()
    if (!this.#discarding) this.#owner.onEnd(this, trailers)
  }

  onFault (fault: ConnectionFault, error: Error, began: boolean): void {
    this.#finish()
    if (!this.#headSeen) {
      const outcome = this.#outcomeOf(fault, error, began)
      this.#upstream.settle(this.attempt, outcome)
      this.#release()
      this.#owner.onFailure(this, outcome, error)
      return
    }
    this.#release()
    if (!this.#discarding) this.#owner.onBreak(this, error)
  }

  #timedOut (): void {
    this.cancel('timeout')
    this.#owner.onFailure(this, 'timeout', new Error('no response head in time'))
  }

  #outcomeOf (fault: ConnectionFault, error: Error, began: boolean): AttemptOutcome {
    switch (fault) {
      case 'unsendable': return 'aborted'
      case 'unconnected': return error instanceof ConnectTimeoutError ? 'connect-timeout' : 'refused'
      case 'invalid': return 'invalid'
      default: return (this.#reused || !this.sent) && !began && this.#owner.mayReplay(this.sent) ? 'stale' : 'reset'
    }
  }

  #release (): void {
    if (this.#released) return
    this.#released = true
    this.#upstream.release(this.attempt)
  }

  #finish (): void {
    this.#over = true
    this.#clearTimer()
  }

  #clearTimer (): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }
}
