/**
 * The client's request body, as attempts need it: a small one is collected and can be sent again; a large one, or one of unknown length,
 * is streamed with backpressure while a copy of its beginning is kept as far as a retry may need it.
 */
import type { IncomingMessage } from 'node:http'

/** Called when a chunk came in. */
type ProgressListener = (chunkLength: number) => void

/** Where a streamed body goes. */
export interface BodyTarget {
  /** @returns false when it has enough for now: RequestBody.resume() goes on */
  write (chunk: Buffer): boolean
  /** The body is whole. @param trailers what came behind it, flat */
  end (trailers: readonly string[]): void
}

export interface RequestBody {
  /** All of it, where it was collected; null when there is none, undefined when it is streamed. */
  readonly whole: Buffer | null | undefined
  /** Streams it to `target` from its start; what an earlier target was given does not matter. */
  pour (target: BodyTarget): void
  /** The target takes more. */
  resume (): void
  /** The client has sent all of it. */
  readonly complete: boolean
  /** It can be sent from the start once more, whatever was sent already. */
  readonly replayable: boolean
  /** The client has more to send, and we are waiting for it rather than for the agent. */
  readonly waitsForClient: boolean
  /** Nothing more goes to the present target; the body stays readable for the next. */
  detach (): void
  /** No further attempt will come. */
  finish (): void
}

/** A body that is there whole, or none. */
class WholeBody implements RequestBody {
  readonly complete = true
  readonly replayable = true
  readonly waitsForClient = false
  readonly whole: Buffer | null

  constructor (whole: Buffer | null) {
    this.whole = whole
  }

  pour (): void {}
  resume (): void {}
  detach (): void {}
  finish (): void {}
}

/** No body. */
export const noBody: RequestBody = new WholeBody(null)

/** A body that was collected whole. */
export function bufferedBody (bytes: Buffer): RequestBody {
  return new WholeBody(bytes)
}

/** The body of a request that has arrived with its head, or before anybody asked for it; null where some of it is to come. */
export function arrivedBody (raw: IncomingMessage, length: number): Buffer | null {
  return raw.complete && raw.readableLength === length ? raw.read() as Buffer | null : null
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
  /** What came behind the body, as agents may have it; flat. */
  readonly trailers: () => readonly string[]
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
  readonly whole = undefined
  #target: BodyTarget | null = null
  #started = false
  #paused = false

  constructor (raw: IncomingMessage, settings: StreamSettings) {
    this.#raw = raw
    this.#settings = settings
    raw.on('error', () => {}) // the response's close event tells of a client that went away
  }

  get replayable (): boolean {
    return this.#copy !== null
  }

  get waitsForClient (): boolean {
    return !this.complete && !this.#paused
  }

  pour (target: BodyTarget): void {
    this.#target = target
    let goesOn = true
    for (const chunk of this.#copy ?? []) goesOn = target.write(chunk) && goesOn
    if (this.complete) return target.end(this.#settings.trailers())
    this.#start()
    this.#paused = !goesOn
    if (goesOn) this.#raw.resume()
  }

  resume (): void {
    if (this.#target === null || this.complete || !this.#paused) return
    this.#paused = false
    this.#raw.resume()
  }

  detach (): void {
    this.#target = null
    if (this.complete) return
    this.#paused = true
    this.#raw.pause()
  }

  finish (): void {
    this.#target = null
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
      this.#target?.end(this.#settings.trailers())
    })
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
    if (this.#target === null || this.#target.write(chunk)) return
    this.#paused = true
    this.#raw.pause()
  }
}
