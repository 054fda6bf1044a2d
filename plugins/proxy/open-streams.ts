/**
 * The open event streams and tunnels of a gateway. Once they were told to end, one that opens late (its agent took long to answer) is told
 * as well: it would keep an application from closing for as long as it liked.
 */
import type { EndableStream } from './forward-context.ts'

export class OpenStreams extends Set<EndableStream> {
  #ended = false

  override add (stream: EndableStream): this {
    super.add(stream)
    if (this.#ended) setImmediate(() => { if (this.has(stream)) stream.endStream() })
    return this
  }

  /** Ends all properly, and from now on every other too. */
  endAll (): void {
    this.#ended = true
    for (const stream of this) stream.endStream()
  }
}
