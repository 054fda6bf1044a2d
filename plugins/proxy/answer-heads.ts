/**
 * Follows the heads of an agent's answers in the bytes before undici's parser gets them, for the two things that it doesn't do: an unasked
 * `100 Continue` ends the connection for it, while a client must be able to read one (RFC 9110 §15.2), and it doesn't tell the version.
 */

/** Bytes; an interim head that is longer is left to undici, which bounds it. */
const maxInterimBytes = 4 * 1024
/** `HTTP/1.1 100 ` */
const startBytes = 13
const headEnd = '\r\n\r\n'

export class AnswerHeads {
  /** Version of the answer's last head: `1.1`, or whatever stands there. */
  version = ''
  /** Something of an answer came. */
  began = false
  #atStart = true
  /** What came of a head that can't be judged yet. */
  #held: Buffer | null = null

  /** A request goes out: what comes is a head. */
  expect (): void {
    this.#atStart = true
    this.began = false
    this.#held = null
  }

  /** What the parser is to see of `chunk`; null when that is nothing yet. */
  pass (chunk: Buffer): Buffer | null {
    if (!this.#atStart) return chunk
    this.began = true
    if (this.#held === null && isFinalHead(chunk)) { // nearly always
      this.version = '1.1'
      this.#atStart = false
      return chunk
    }
    let rest = this.#held === null ? chunk : Buffer.concat([this.#held, chunk])
    this.#held = null
    const passed: Buffer[] = []
    while (rest.length > 0) {
      if (rest.length < startBytes && looksLikeHttp(rest)) {
        this.#held = rest
        break
      }
      const start = rest.toString('latin1', 0, startBytes)
      this.version = start.slice(5, 8)
      if (!/^HTTP\/1\.1 1(?!01)\d\d[ \r\n]/.test(start)) { // `1000` is no status
        this.#atStart = false
        passed.push(rest)
        break
      }
      const end = rest.indexOf(headEnd)
      if (end === -1) {
        if (rest.length <= maxInterimBytes) this.#held = rest
        else {
          this.#atStart = false
          passed.push(rest)
        }
        break
      }
      const next = end + headEnd.length
      if (start.slice(9, 12) !== '100') passed.push(rest.subarray(0, next))
      rest = rest.subarray(next)
    }
    if (passed.length === 0) return null
    return passed.length === 1 ? passed[0]! : Buffer.concat(passed)
  }
}

/** Begins with `HTTP/1.1`, and with no 1xx: told by single bytes, since it is asked for every answer. */
function isFinalHead (bytes: Buffer): boolean {
  return bytes.length >= startBytes && bytes[5] === 0x31 && bytes[6] === 0x2e && bytes[7] === 0x31 && bytes[9] !== 0x31
}

/** Anything else need not be waited for. */
function looksLikeHttp (bytes: Buffer): boolean {
  return 'HTTP/'.startsWith(bytes.toString('latin1', 0, 5))
}
