/**
 * What an exchange needs of a connection to an agent, whoever speaks HTTP on it: our own client (socket-connection.ts) or undici's.
 */
import type { RequestBody } from './request-body.ts'

/** A piece of a body: bytes, or what is the same as latin1 text. */
export type Chunk = Buffer | string

export interface AgentRequest {
  readonly method: string
  /** Path and query. */
  readonly path: string
  /** Flat list of names and values. With `Host` only where that is not the instance's own. */
  readonly fields: string[]
  readonly body: RequestBody
  readonly connectTimeoutMs: number
  /** It may leave at the end of the turn of the event loop, together with others. */
  readonly mayWait: boolean
}

/** Why there is no answer, or no more of it. */
export type ConnectionFault =
  /** No connection came about. */
  | 'unconnected'
  /** The request can't be sent as it is. */
  | 'unsendable'
  /** What came is not HTTP, or could be two things. */
  | 'invalid'
  /** It ended or was reset. */
  | 'broken'

/** Who gets the answer. Nothing comes behind onWhole(), onEnd() or onFault(). */
export interface AnswerSink {
  /** Request bytes go out from here on. @param reused whether the connection carried others before */
  onSend (reused: boolean): void
  /** All of the request went out. */
  onSent (): void
  /** An interim answer other than 100 and 101. @param fields flat */
  onInterim (status: number, fields: string[], reason: string): void
  /** A short answer that came whole, in one read. @param fields flat @param body latin1 text */
  onWhole (status: number, fields: string[], reason: string, body: string): void
  /** @param fields flat */
  onHead (status: number, fields: string[], reason: string): void
  /**
   * @param release to be called when the chunk's memory is not used any more, once; null when it is nobody else's
   * @returns false to pause; AgentConnection.resume() goes on, and a little may come before it stops
   */
  onChunk (chunk: Chunk, release: (() => void) | null): boolean
  /** @param trailers flat; null when there were none */
  onEnd (trailers: string[] | null): void
  /** @param began a byte of an answer came */
  onFault (fault: ConnectionFault, error: Error, began: boolean): void
}

/** One exchange at a time. */
export interface AgentConnection {
  /** When it was released, on the monotonic clock. */
  idleSince: number
  /** Sends a request, over a new connection when there is none. Never throws. */
  send (request: AgentRequest, sink: AnswerSink): void
  /** Goes on after a pause. */
  resume (): void
  /** Gives it back after a complete exchange, to carry the next where it can. */
  release (): void
  /** Ends it at once, whatever it carries or waits for; its sink hears nothing more. */
  discard (): void
  /** Another exchange can be begun. */
  readonly usable: boolean
  /** Ends it at once without telling its owner, who knows. */
  destroy (): void
}

/** Who keeps it while it is idle. */
export interface ConnectionOwner {
  released (connection: AgentConnection): void
  /** It is of no use any more. */
  discarded (connection: AgentConnection): void
  /** The agent closed it; nothing when it was not idle. */
  closed (connection: AgentConnection): void
}
