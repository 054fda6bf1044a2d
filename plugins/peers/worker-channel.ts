/** How a worker speaks with the other workers of its gateway: by messages that the process which started them passes on. */
import type { Peer } from './questions.ts'

/** The way to the process that started this one. */
export interface WorkerChannel {
  /** Which worker this is, from 1. */
  readonly worker: number
  /** Its process id. */
  readonly pid: number
  send (message: ToPrimary): void
  /** Calls `listener` for each message, until the returned function ends that. */
  onMessage (listener: (message: ToWorker) => void): () => void
}

/** What a worker tells the process that started it. */
export type ToPrimary =
  | { readonly kind: 'ask', readonly question: number, readonly topic: string, readonly detail: unknown }
  | { readonly kind: 'answer', readonly question: number, readonly to: number, readonly from: Peer, readonly value: unknown }
  /** It answers questions; */
  | { readonly kind: 'ready' }
  /** it listens, so that the others may start; and it ends so soon after it was told to. */
  | { readonly kind: 'started', readonly endsWithinMs: number }

/** What it is told. */
export type ToWorker =
  /** Its question went to so many. */
  | { readonly kind: 'asked', readonly question: number, readonly count: number }
  | { readonly kind: 'question', readonly question: number, readonly from: number, readonly topic: string, readonly detail: unknown }
  | { readonly kind: 'answer', readonly question: number, readonly from: Peer, readonly value: unknown }
