/**
 * The client's request body, as attempts need it: a small one is collected and can be sent again; a large one, or one of unknown length,
 * is streamed with backpressure while a copy of its beginning is kept as far as a retry may need it.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** Called when a chunk came in. */
type ProgressListener = (chunkLength: number) => void

export interface RequestBody {
  /** What an attempt sends. A stream is good for one attempt. */
  open (): Buffer | Readable | null
  /** The client has sent all of it. */
  readonly complete: boolean
  /** It can be sent from the start once more, whatever was sent already. */
  readonly replayable: boolean
  /** The client has more to send, and we are waiting for it rather than for the agent. */
  readonly waitsForClient: boolean
  /** Ends the present attempt's stream; the body stays readable for the next. */
  detach (): void
  /** No further attempt will come. */
  finish (): void
}

/** No body. */
export const noBody: RequestBody = {
  open: () => null,
  complete: true,
  replayable: true,
  waitsForClient: false,
  detach () {},
  finish () {}
}

/** A body that was collected whole. */
export function bufferedBody (bytes: Buffer): RequestBody {
  return { ...noBody, open: () => bytes }
}

/**
 * Collects a body whose length is known and small. Calls back once, when it is complete; never when the client goes away first.
 * @param length bytes announced
 */
export function collectBody (raw: IncomingMessage, length: number, onProgress: ProgressListener, callback: (body: Buffer) => void): void {
  const chunks: Buffer[] = []
  let received = 0
  raw.on('data', (chunk: Buffer) => {
    chunks.push(chunk)
    received += chunk.length
    onProgress(chunk.length)
  })
  raw.on('end', () => {
    if (received === length) callback(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, received))
  })
  raw.on('error', () => {}) // the response's close event tells of a client that went away
}

export interface StreamSettings {
  /** The most bytes that are kept for a retry. */
  readonly maxReplayBytes: number
  /** The most bytes the body may have. */
  readonly limitBytes: number
  readonly onProgress: ProgressListener
  /** The body is over its limit; called once. */
  readonly onTooLarge: () => void
}

/** A body that is passed on while it comes in. */
export class StreamedBody implements RequestBody {
  complete = false
  bytesReceived = 0
  readonly #raw: IncomingMessage
  readonly #settings: StreamSettings
  #copy: Buffer[] | null = []
  #current: Readable | null = null
  #started = false
  #paused = false

  constructor (raw: IncomingMessage, settings: StreamSettings) {
    this.#raw = raw
    this.#settings = settings
  }

  get replayable (): boolean {
    return this.#copy !== null
  }

  get waitsForClient (): boolean {
    return !this.complete && !this.#paused
  }

  open (): Readable {
    const stream = new Readable({
      highWaterMark: 64 * 1024,
      read: () => {
        if (this.#current !== stream || this.complete) return
        this.#paused = false
        this.#raw.resume()
      }
    })
    stream.on('error', () => {}) // undici destroys it with its own error, which the attempt reports
    this.#current = stream
    for (const chunk of this.#copy ?? []) stream.push(chunk)
    if (this.complete) stream.push(null)
    this.#start()
    return stream
  }

  detach (): void {
    this.#current = null
    if (this.complete) return
    this.#paused = true
    this.#raw.pause()
  }

  finish (): void {
    this.#current = null
    this.#copy = null
    this.#paused = false
  }

  #start (): void {
    if (this.#started) return
    this.#started = true
    this.#raw.on('data', (chunk: Buffer) => this.#take(chunk))
    this.#raw.on('end', () => {
      this.complete = true
      this.#settings.onProgress(0)
      this.#current?.push(null)
    })
    this.#raw.on('error', () => {})
    this.#raw.pause()
  }

  #take (chunk: Buffer): void {
    const { limitBytes, maxReplayBytes, onProgress, onTooLarge } = this.#settings
    const before = this.bytesReceived
    this.bytesReceived += chunk.length
    onProgress(chunk.length)
    if (this.bytesReceived > limitBytes) {
      if (before <= limitBytes) onTooLarge()
      return
    }
    if (this.bytesReceived <= maxReplayBytes) this.#copy?.push(chunk)
    else this.#copy = null
    if (this.#current === null || this.#current.push(chunk)) return
    this.#paused = true
    this.#raw.pause()
  }
}
