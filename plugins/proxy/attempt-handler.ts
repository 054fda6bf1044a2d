/**
 * One attempt on one connection: translates undici's callbacks into what an exchange wants to know, and says how the attempt came out.
 */
import { errors, type Dispatcher } from 'undici'
import type { Upstream } from '../upstream/index.ts'
import type { Attempt, AttemptOutcome } from '../../src/fleet/attempt.ts'
import { ConnectTimeoutError } from './connector.ts'
import type { Connection } from './connections.ts'

/** Who decides what happens. None of these may throw. */
export interface AttemptOwner {
  /** The response head. Returns false to pause. */
  onHead (handler: AttemptHandler, status: number, fields: string[], reason: string): boolean
  /** An interim answer, not 100. */
  onInterim (handler: AttemptHandler, status: number, fields: string[], reason: string): void
  /** Returns false to pause; AttemptHandler.resume() goes on. */
  onChunk (handler: AttemptHandler, chunk: Buffer): boolean
  onEnd (handler: AttemptHandler, trailers: string[] | null): void
  /** Whether the request can go out once more, on a fresh connection, when the one it was on had been closed meanwhile. */
  mayReplay (): boolean
  /** It failed before the response head. */
  onFailure (handler: AttemptHandler, outcome: AttemptOutcome, error: Error): void
  /** It failed in the middle of the response. */
  onBreak (handler: AttemptHandler): void
}

/** The most that is read of an answer nobody wants, to keep its connection. */
const maxDrainBytes = 64 * 1024
/** The instance is busy with it meanwhile; not longer than the shortest pause before a retry there, which wants that place. */
const maxDrainMs = 25

export class AttemptHandler implements Dispatcher.DispatchHandler {
  readonly attempt: Attempt
  /** Request bytes went out. */
  sent = false
  /** All of them did. */
  requestSent = false
  readonly #owner: AttemptOwner
  readonly #upstream: Upstream
  readonly #connection: Connection
  readonly #responseTimeoutMs: number
  #timer: NodeJS.Timeout | null = null
  #resume: (() => void) | null = null
  #reused = false
  #headSeen = false
  #over = false
  #discarding = false
  #released = false
  #drained = 0

  constructor (owner: AttemptOwner, upstream: Upstream, attempt: Attempt, connection: Connection, responseTimeoutMs: number) {
    this.#owner = owner
    this.#upstream = upstream
    this.attempt = attempt
    this.#connection = connection
    this.#responseTimeoutMs = responseTimeoutMs
  }

  /** Goes on after a pause. */
  resume (): void {
    this.#resume?.()
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

  onConnect (): void {
    this.sent = true
    this.#reused = this.#connection.served++ > 0
    this.#connection.awaitsHead = true
    this.#connection.heads.expect()
  }

  /** The whole request went out. */
  onRequestSent (): void {
    this.requestSent = true
    if (this.#over || this.#headSeen) return
    this.#timer = setTimeout(() => this.#timedOut(), this.#responseTimeoutMs)
  }

  onHeaders (status: number, rawFields: Buffer[], resume: () => void, reason: string): boolean {
    if (this.#over) return true
    const fields = rawFields.map(latin1)
    const problem = headProblem(status, this.#connection.heads.version, fields)
    if (problem !== undefined) {
      this.cancel('invalid')
      this.#owner.onFailure(this, 'invalid', new Error(problem))
      return true
    }
    if (status < 200) {
      this.#owner.onInterim(this, status, fields, reason)
      return true
    }
    this.#headSeen = true
    this.#connection.awaitsHead = false
    this.#resume = resume
    this.#clearTimer()
    return this.#owner.onHead(this, status, fields, reason)
  }

  onData (chunk: Buffer): boolean {
    if (this.#over) return true
    if (!this.#discarding) return this.#owner.onChunk(this, chunk)
    this.#drained += chunk.length
    if (this.#drained > maxDrainBytes) this.cancel('answered')
    return true
  }

  onComplete (rawTrailers: unknown): void {
    if (this.#over) return
    if (this.#connection.broken) return this.onError(new Error('the connection broke before it ended'))
    this.#finish()
    this.#release()
    this.#connection.release()
    if (this.#discarding) return
    const trailers = rawTrailers as Buffer[] | null
    this.#owner.onEnd(this, trailers === null || trailers.length === 0 ? null : trailers.map(latin1))
  }

  onError (error: Error): void {
    if (this.#over) return
    this.#finish()
    this.#connection.discard()
    if (!this.#headSeen) {
      const outcome = this.#outcomeOf(error)
      this.#upstream.settle(this.attempt, outcome)
      this.#release()
      this.#owner.onFailure(this, outcome, error)
      return
    }
    this.#release()
    if (!this.#discarding) this.#owner.onBreak(this)
  }

  #timedOut (): void {
    this.cancel('timeout')
    this.#owner.onFailure(this, 'timeout', new Error('no response head in time'))
  }

  #outcomeOf (error: Error): AttemptOutcome {
    if (!this.sent) {
      if (error instanceof errors.InvalidArgumentError) return 'aborted' // the request itself can't be sent
      return error instanceof ConnectTimeoutError ? 'connect-timeout' : 'refused'
    }
    const foreign = error instanceof errors.HTTPParserError || error instanceof errors.HeadersOverflowError ||
      error instanceof errors.ResponseContentLengthMismatchError || (error instanceof errors.SocketError && error.message.startsWith('bad '))
    if (foreign) return 'invalid'
    return this.#reused && !this.#connection.heads.began && this.#owner.mayReplay() ? 'stale' : 'reset'
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

/** What undici lets pass and nobody may rely on. @param fields flat */
function headProblem (status: number, version: string, fields: readonly string[]): string | undefined {
  if (status === 101) return 'an unasked 101' // nobody asked for another protocol (RFC 9110 §15.2.2)
  if (status < 100) return 'a status below 100'
  if (version === '1.1') return undefined
  if (version !== '1.0') return 'a version that is not spoken'
  // RFC 9112 §6.1: in HTTP/1.0 that is faulty framing
  return fields.some((name, index) => index % 2 === 0 && name.toLowerCase() === 'transfer-encoding') ? 'a transfer coding in HTTP/1.0' : undefined
}

function latin1 (bytes: Buffer): string {
  return bytes.toString('latin1')
}
