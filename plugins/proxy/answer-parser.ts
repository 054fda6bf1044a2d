/**
 * Reads the answers on one connection to an agent (RFC 9112), strictly: what can be read in two ways, or in none, is an error. It neither
 * keeps the bytes that it is given nor calls anybody: after each read() the connection looks at what was found.
 */
import { maxResponseHeadBytes } from './connector.ts'

/** A status line and its fields. */
export interface AnswerHead {
  readonly status: number
  readonly reason: string
  /** Names and values as they came, flat. */
  readonly fields: string[]
}

/** What the agent sent is not HTTP, or could be two things. */
export class InvalidAnswerError extends Error {}

/** Body bytes up to here become a latin1 string, which leaves together with the head in one write; more stays where it was read. */
const maxTextBytes = 8 * 1024
/** Bytes of a chunk's size and extensions. */
const maxChunkLineBytes = 4 * 1024
const headEnd = '\r\n\r\n'

const State = { head: 0, length: 1, untilEnd: 2, chunkSize: 3, chunkExtension: 4, chunkLineEnd: 5, chunkData: 6, chunkDataCR: 7, chunkDataLF: 8, trailers: 9, over: 10 } as const
type State = typeof State[keyof typeof State]

export class AnswerParser {
  /** Interim answers found by the last read, in order; unasked 100s are left out (RFC 9110 §15.2). */
  readonly interims: AnswerHead[] = []
  /** The final head, when the last read found it. */
  head: AnswerHead | null = null
  /** What the last read had of the body: short as latin1 text, else as a view of the bytes given, or as a copy of its pieces. */
  body: string | Buffer | null = null
  /** Fields behind the body, flat; empty where there were none. */
  trailers: string[] = []
  /** Bytes of an answer came. */
  began = false
  /** The connection can carry another exchange behind this answer, by what the agent said. */
  persistent = true
  /** Seconds that the agent keeps an idle connection by its own account (`Keep-Alive: timeout`); null when it says nothing. */
  keepAliveS: number | null = null
  #state: State = State.over
  #toHead = false
  /** Bytes of the body, or of the chunk, that are to come. */
  #remaining = 0
  #sizeDigits = 0
  #lineBytes = 0
  /** Of all heads before the final one. */
  #interimBytes = 0
  /** What came of a head or of trailers that are not whole yet. */
  #held: Buffer | null = null
  #heldBytes = 0
  #pieces: Buffer[] = []

  /** The answer is whole. */
  get over (): boolean {
    return this.#state === State.over
  }

  /** A request goes out. @param toHead it is a HEAD, whose answer has no body */
  expect (toHead: boolean): void {
    this.#state = State.head
    this.#toHead = toHead
    this.#release()
    this.began = false
    this.#interimBytes = 0
    this.persistent = true
    this.keepAliveS = null
    this.trailers = []
  }

  /** The bytes of the body that are sure to come still; 0 where that is not known. */
  get remaining (): number {
    return this.#state === State.length || this.#state === State.chunkData ? this.#remaining : 0
  }

  /**
   * Reads on. Bytes behind the end of an answer leave it as it is, but the connection can't be used again.
   * @param bytes good until this returns, and `body` with them
   * @throws InvalidAnswerError
   */
  read (bytes: Buffer): void {
    this.began = true
    this.interims.length = 0
    this.head = null
    this.body = null
    let at = 0
    let text: string | null = null
    while (this.#state === State.head && at < bytes.length) {
      if (this.#heldBytes > 0) {
        at = this.#readHeldHead(bytes, at)
        continue
      }
      const isShort = bytes.length <= maxTextBytes
      if (isShort) text ??= bytes.toString('latin1', 0, bytes.length)
      const end = text === null ? bytes.indexOf(headEnd, at, 'latin1') : text.indexOf(headEnd, at)
      if (end === -1) at = this.#holdHead(bytes, at)
      else {
        const next = end + headEnd.length
        if (text === null) this.#takeHead(bytes.toString('latin1', at, next), 0, end - at)
        else this.#takeHead(text, at, end)
        at = next
      }
    }
    if (at < bytes.length) this.#readBody(bytes, at, text)
  }

  /** The connection ended in order. @returns whether that ends the answer */
  endOfInput (): boolean {
    if (this.#state !== State.untilEnd) return false
    this.#state = State.over
    return true
  }

  #hold (bytes: Buffer, at: number): void {
    const length = bytes.length - at
    const needed = this.#heldBytes + length
    if (this.#held === null || this.#held.length < needed) {
      const grown = Buffer.allocUnsafe(Math.max(needed * 2, 1_024))
      this.#held?.copy(grown, 0, 0, this.#heldBytes)
      this.#held = grown
    }
    bytes.copy(this.#held, this.#heldBytes, at)
    this.#heldBytes = needed
  }

  /** @returns where to go on in `bytes` */
  #holdHead (bytes: Buffer, at: number): number {
    this.#hold(bytes, at)
    if (this.#heldBytes > maxResponseHeadBytes) throw new InvalidAnswerError('a head that is too long')
    if (!looksLikeHttp(this.#held!, this.#heldBytes)) throw new InvalidAnswerError('no HTTP')
    return bytes.length
  }

  /** A head that comes in pieces. @returns where to go on in `bytes` */
  #readHeldHead (bytes: Buffer, at: number): number {
    const before = this.#heldBytes
    this.#hold(bytes, at)
    const held = this.#held!.subarray(0, this.#heldBytes)
    const end = held.indexOf(headEnd, Math.max(0, before - headEnd.length + 1), 'latin1')
    this.#heldBytes = before
    if (end === -1) return this.#holdHead(bytes, at)
    this.#takeHead(held.toString('latin1', 0, end + headEnd.length), 0, end)
    this.#release()
    return at + end + headEnd.length - before
  }

  #release (): void {
    this.#heldBytes = 0
    this.#held = null
  }

  /** @param end where its last line ends */
  #takeHead (text: string, start: number, end: number): void {
    if (end - start > maxResponseHeadBytes) throw new InvalidAnswerError('a head that is too long')
    const isNew = text.startsWith('HTTP/1.1 ', start)
    if (!isNew && !text.startsWith('HTTP/1.0 ', start)) throw new InvalidAnswerError('a version that is not spoken')
    const status = statusAt(text, start + 9)
    const lineEnd = valueEnd(text, start + 12)
    if (text.charCodeAt(start + 12) !== space && lineEnd !== start + 12) throw new InvalidAnswerError('a status of more than three digits')
    const fields: string[] = []
    const framing = this.#takeFields(text, lineEnd + 2, end + 2, fields)
    if (status < 200) {
      if (status === 101) throw new InvalidAnswerError('an unasked 101') // nobody asked for another protocol (RFC 9110 §15.2.2)
      this.#interimBytes += end - start
      if (this.#interimBytes > maxResponseHeadBytes) throw new InvalidAnswerError('interim answers without end')
      if (status !== 100) this.interims.push({ status, reason: text.slice(start + 13, lineEnd), fields })
      return
    }
    this.head = { status, reason: text.slice(start + 13, lineEnd), fields }
    this.#frame(status, isNew, framing)
  }

  /** @returns what of the fields is about framing */
  #takeFields (text: string, from: number, to: number, fields: string[]): Framing {
    let framing = noFraming
    let at = from
    while (at < to) {
      let colon = at
      while (isToken[text.charCodeAt(colon)] === 1) colon++
      if (colon === at || text.charCodeAt(colon) !== 0x3a) throw new InvalidAnswerError('a field name that is none')
      let start = colon + 1
      while (isBlank(text.charCodeAt(start))) start++
      const lineEnd = valueEnd(text, start)
      let end = lineEnd
      while (end > start && isBlank(text.charCodeAt(end - 1))) end--
      const name = text.slice(at, colon)
      const value = text.slice(start, end)
      fields.push(name, value)
      if (mayFrame[name.length] === 1) {
        const lowerName = name.toLowerCase()
        if (framingNames.has(lowerName)) {
          if (framing === noFraming) framing = { length: undefined, coding: undefined, connection: '', keepAlive: '' }
          addFraming(framing, lowerName, value)
        }
      }
      at = lineEnd + 2
    }
    return framing
  }

  #frame (status: number, isNew: boolean, { length, coding, connection, keepAlive }: Framing): void {
    if (coding !== undefined) {
      if (coding.toLowerCase() !== 'chunked') throw new InvalidAnswerError('a transfer coding nobody asked for') // no TE was sent (RFC 9112 §7.4)
      if (length !== undefined) throw new InvalidAnswerError('length and chunks')
      if (!isNew) throw new InvalidAnswerError('a transfer coding in HTTP/1.0') // RFC 9112 §6.1: faulty framing
    }
    const bytes = length === undefined ? undefined : lengthOf(length)
    this.persistent = isNew ? !hasOption(connection, 'close') : hasOption(connection, 'keep-alive')
    if (keepAlive !== '') this.keepAliveS = keepAliveOf(keepAlive)
    if (this.#toHead || status === 204 || status === 304) {
      // Some send a body all the same, and nobody knows when it ends.
      if (this.#toHead || coding !== undefined || (status === 204 && bytes !== undefined && bytes > 0)) this.persistent = false
      this.#state = State.over
    } else if (coding !== undefined) this.#expectChunk()
    else if (bytes === undefined) {
      this.#state = State.untilEnd
      this.persistent = false
    } else {
      this.#remaining = bytes
      this.#state = bytes === 0 ? State.over : State.length
    }
  }

  #readBody (bytes: Buffer, from: number, text: string | null): void {
    let at = from
    const { length } = bytes
    if (this.#state === State.untilEnd) {
      this.body = bodyOf(bytes, at, length, text)
      return
    }
    if (this.#state === State.length) {
      const end = Math.min(length, at + this.#remaining)
      this.body = bodyOf(bytes, at, end, text)
      this.#remaining -= end - at
      if (this.#remaining === 0) this.#state = State.over
      at = end
    } else if (this.#state !== State.over) at = this.#readChunks(bytes, at)
    if (at < length) this.persistent = false
  }

  #expectChunk (): void {
    this.#state = State.chunkSize
    this.#remaining = 0
    this.#sizeDigits = 0
    this.#lineBytes = 0
  }

  /** RFC 9112 §7.1. @returns where the answer ends */
  #readChunks (bytes: Buffer, from: number): number {
    const pieces = this.#pieces
    let at = from
    while (at < bytes.length && this.#state !== State.over) {
      if (this.#state === State.chunkData) {
        const end = Math.min(bytes.length, at + this.#remaining)
        pieces.push(bytes.subarray(at, end))
        this.#remaining -= end - at
        if (this.#remaining === 0) this.#state = State.chunkDataCR
        at = end
      } else if (this.#state === State.trailers) at = this.#readTrailers(bytes, at)
      else this.#readChunkLine(bytes[at++]!)
    }
    if (pieces.length > 0) {
      const whole = pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)
      this.#pieces = []
      this.body = bodyOf(whole, 0, whole.length, null)
    }
    return at
  }

  #readChunkLine (byte: number): void {
    switch (this.#state) {
      case State.chunkSize: {
        const digit = hexValue[byte]!
        if (digit !== noDigit && this.#lineBytes === 0) {
          if (++this.#sizeDigits > maxSizeDigits) throw new InvalidAnswerError('a chunk that is too long')
          this.#remaining = this.#remaining * 16 + digit
          return
        }
        if (this.#sizeDigits === 0) throw new InvalidAnswerError('a chunk without size')
        if (byte === carriageReturn) this.#state = State.chunkLineEnd
        else if (byte === semicolon) this.#state = State.chunkExtension
        else if (!isBlank(byte) || ++this.#lineBytes > maxChunkLineBytes) throw new InvalidAnswerError('a chunk size that is none')
        return
      }
      case State.chunkExtension:
        if (byte === carriageReturn) this.#state = State.chunkLineEnd
        else if (!isText(byte) || ++this.#lineBytes > maxChunkLineBytes) throw new InvalidAnswerError('a chunk extension that is none')
        return
      case State.chunkLineEnd:
        if (byte !== lineFeed) throw new InvalidAnswerError('a bare CR behind a chunk size')
        this.#state = this.#remaining === 0 ? State.trailers : State.chunkData
        return
      case State.chunkDataCR:
        if (byte !== carriageReturn) throw new InvalidAnswerError('a chunk longer than its size')
        this.#state = State.chunkDataLF
        return
      default:
        if (byte !== lineFeed) throw new InvalidAnswerError('a bare CR behind a chunk')
        this.#expectChunk()
    }
  }

  /** @returns where to go on */
  #readTrailers (bytes: Buffer, at: number): number {
    const before = this.#heldBytes
    this.#hold(bytes, at)
    const held = this.#held!.subarray(0, this.#heldBytes)
    // The empty line behind them; alone when there are none.
    const none = held.length >= 2 && held[0] === carriageReturn && held[1] === lineFeed
    const end = none ? 0 : held.indexOf(headEnd, Math.max(0, before - headEnd.length + 1), 'latin1')
    if ((end === -1 ? this.#heldBytes : end) > maxResponseHeadBytes) throw new InvalidAnswerError('trailers that are too long')
    if (end === -1) return bytes.length
    if (!none) this.#takeFields(held.toString('latin1', 0, end + 2), 0, end + 2, this.trailers)
    this.#release()
    this.#state = State.over
    return at + end + (none ? 2 : headEnd.length) - before
  }
}

/** The values of the fields that say where a message ends, and whether another can follow. */
interface Framing {
  length: string | undefined
  coding: string | undefined
  connection: string
  keepAlive: string
}

const noFraming: Framing = { length: undefined, coding: undefined, connection: '', keepAlive: '' }
const framingNames: ReadonlySet<string> = new Set(['content-length', 'transfer-encoding', 'connection', 'keep-alive'])
/** By the length of a name: whether it could be one of them. */
const mayFrame = new Uint8Array(256)
for (const { length } of framingNames) mayFrame[length] = 1

function addFraming (framing: Framing, lowerName: string, value: string): void {
  switch (lowerName) {
    case 'content-length':
      if (framing.length !== undefined) throw new InvalidAnswerError('two lengths')
      framing.length = value
      return
    case 'transfer-encoding':
      framing.coding = framing.coding === undefined ? value : `${framing.coding}, ${value}`
      return
    case 'connection':
      framing.connection = `${framing.connection},${value}`
      return
    default:
      framing.keepAlive = value
  }
}

function hasOption (connection: string, option: string): boolean {
  if (connection === ',keep-alive' || connection === ',close') return connection.slice(1) === option // nearly always, where there is one
  return connection !== '' && connection.toLowerCase().split(',').some(one => one.trim() === option)
}

function lengthOf (value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidAnswerError('a length that is none')
  return Number(value)
}

function keepAliveOf (value: string): number | null {
  const seconds = /(?:^|[\s,;])timeout\s*=\s*"?(\d{1,9})/i.exec(value)?.[1]
  return seconds === undefined ? null : Number(seconds)
}

/** @param text the same bytes, where they were decoded already */
function bodyOf (bytes: Buffer, start: number, end: number, text: string | null): string | Buffer {
  if (end - start > maxTextBytes) return bytes.subarray(start, end)
  return text === null ? bytes.toString('latin1', start, end) : text.slice(start, end)
}

const space = 0x20
const semicolon = 0x3b
const carriageReturn = 0x0d
const lineFeed = 0x0a
const noDigit = 255
/** Larger sizes are beyond what a number holds exactly. */
const maxSizeDigits = 13

const hexValue = new Uint8Array(256).fill(noDigit)
for (const [value, digits] of [...'0123456789abcdef'].entries()) for (const digit of [digits, digits.toUpperCase()]) hexValue[digit.charCodeAt(0)] = value

/** RFC 9110 §5.6.2. */
const isToken = new Uint8Array(256)
for (let code = 0; code < 256; code++) if (/[!#$%&'*+\-.^_`|~0-9A-Za-z]/.test(String.fromCharCode(code))) isToken[code] = 1

function isBlank (code: number): boolean {
  return code === space || code === 0x09
}

/** What may stand in a field value or a reason (RFC 9110 §5.5). */
function isText (code: number): boolean {
  return (code >= space && code !== 0x7f) || code === 0x09
}

/** Where the line's CRLF begins. @throws at any other control character */
function valueEnd (text: string, from: number): number {
  let at = from
  while (isText(text.charCodeAt(at))) at++
  if (text.charCodeAt(at) !== carriageReturn || text.charCodeAt(at + 1) !== lineFeed) throw new InvalidAnswerError('a control character in a line')
  return at
}

function statusAt (text: string, at: number): number {
  const status = (text.charCodeAt(at) - 0x30) * 100 + (text.charCodeAt(at + 1) - 0x30) * 10 + text.charCodeAt(at + 2) - 0x30
  if (!/^\d{3}$/.test(text.slice(at, at + 3)) || status < 100) throw new InvalidAnswerError('a status that is none')
  return status
}

/** So far: what is no HTTP need not be waited for. */
function looksLikeHttp (bytes: Buffer, length: number): boolean {
  const start = bytes.toString('latin1', 0, Math.min(length, 9))
  return 'HTTP/1.1 '.startsWith(start) || 'HTTP/1.0 '.startsWith(start)
}
