/**
 * Follows the frames of one direction of a WebSocket (RFC 6455 §5.2), header by header, without looking at what is in them: only between
 * two frames can the gateway say something of its own.
 */

const closeOpcode = 0x8

/** Two bytes, at most eight of length, four of mask. */
const longestHeader = 14

export class FrameWalk {
  /** A close frame began: nothing may follow it. */
  closeSeen = false
  readonly #header = new Uint8Array(longestHeader)
  #headerLength = 0
  #payloadLeft = 0

  /** Nothing of a frame is outstanding. */
  get isBetweenFrames (): boolean {
    return this.#headerLength === 0 && this.#payloadLeft === 0
  }

  /**
   * Follows a chunk.
   * @param toBoundary only as far as the end of the frame that it continues
   * @returns how many of its bytes were followed
   */
  follow (chunk: Uint8Array, toBoundary = false): number {
    let at = 0
    while (at < chunk.length) {
      if (toBoundary && this.isBetweenFrames) break
      if (this.#payloadLeft > 0) {
        const passed = Math.min(this.#payloadLeft, chunk.length - at)
        this.#payloadLeft -= passed
        at += passed
      } else {
        this.#header[this.#headerLength++] = chunk[at++]!
        if (this.#headerLength === this.#expectedLength()) this.#takeHeader()
      }
    }
    return at
  }

  #expectedLength (): number {
    if (this.#headerLength < 2) return 2
    const second = this.#header[1]!
    const length = second & 0x7f
    return 2 + (length === 126 ? 2 : length === 127 ? 8 : 0) + ((second & 0x80) === 0 ? 0 : 4)
  }

  #takeHeader (): void {
    const header = this.#header
    const length = header[1]! & 0x7f
    this.#payloadLeft = length < 126 ? length : length === 126 ? header[2]! * 256 + header[3]! : header.subarray(2, 10).reduce((sum, byte) => sum * 256 + byte, 0)
    if ((header[0]! & 0x0f) === closeOpcode) this.closeSeen = true
    this.#headerLength = 0
  }
}
