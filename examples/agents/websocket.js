/**
 * WebSockets by hand (RFC 6455), enough for a chat: the server's handshake, and frames for either end of a connection.
 * No extensions, so a frame with a reserved bit is a protocol error.
 */
import { createHash, randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'

const opcodes = { continuation: 0x0, text: 0x1, binary: 0x2, close: 0x8, ping: 0x9, pong: 0xA }
const maxMessageBytes = 1024 * 1024
/** How far a reader may fall behind before it is let go. */
const maxUnsentBytes = 4 * maxMessageBytes
/** How long the other side may take to answer a close. */
const closeTimeoutMs = 1_000
/** Codes that may stand in a close frame (§7.4); 1005, 1006 and 1015 only ever name an absence. */
const mayBeSent = code => (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999)

/** The Sec-WebSocket-Accept for a Sec-WebSocket-Key. */
export const acceptKey = key => createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')

/** Answers a handshake. The connection when it was a good one, undefined when it was refused with its HTTP status. */
export function accept (request, socket, head) {
  const { upgrade = '', connection = '', 'sec-websocket-key': key = '', 'sec-websocket-version': version } = request.headers
  const isWebSocket = request.method === 'GET' && upgrade.toLowerCase() === 'websocket' && /(^|,)\s*upgrade\s*(,|$)/i.test(connection)
  if (!isWebSocket || !/^[A-Za-z0-9+/]{22}==$/.test(key)) return refuse(socket, '400 Bad Request')
  if (version !== '13') return refuse(socket, '426 Upgrade Required', 'Sec-WebSocket-Version: 13\r\n')
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptKey(key)}\r\n\r\n`)
  return new Connection(socket, head, { isServer: true })
}

/** Answers an upgrade that won't happen. */
export function refuse (socket, status, headers = '') {
  socket.on('error', () => {})
  socket.end(`HTTP/1.1 ${status}\r\n${headers}Connection: close\r\nContent-Length: 0\r\n\r\n`)
}

/** A protocol error of the other side, and the code that says so. */
class ProtocolError extends Error {
  constructor (code, message) {
    super(message)
    this.code = code
  }
}

/**
 * One end of an open WebSocket. Emits `message` (Buffer, isBinary), `pong` (Buffer), and `close` (code, reason) once; the code is 1005
 * when the other side named none, 1006 when the connection broke.
 */
export class Connection extends EventEmitter {
  #socket
  #isServer
  #unread = Buffer.alloc(0)
  /** Opcode and parts of the message that is being put together. */
  #message = null
  #closeSent = false
  #closed = null

  constructor (socket, head, { isServer }) {
    super()
    this.#socket = socket
    this.#isServer = isServer
    socket.setNoDelay(true)
    socket.setTimeout(0)
    socket.on('data', chunk => this.#read(chunk))
    socket.on('error', () => {})
    socket.on('end', () => socket.end())
    socket.on('close', () => this.emit('close', ...(this.#closed ?? [1006, ''])))
    if (head.length > 0) socket.unshift(head)
  }

  /** Sends a string as text, a Buffer as binary. A reader that is too far behind is let go. */
  send (data) {
    this.#write(typeof data === 'string' ? opcodes.text : opcodes.binary, Buffer.from(data))
    if (this.#socket.writableLength > maxUnsentBytes) this.#socket.destroy()
  }

  ping (data = '') {
    this.#write(opcodes.ping, Buffer.from(data))
  }

  /** Says goodbye; the other side's answer, or `closeTimeoutMs`, ends the connection. */
  close (code = 1000, reason = '') {
    if (this.#closeSent) return
    const payload = Buffer.alloc(2)
    payload.writeUInt16BE(code)
    this.#sendClose(Buffer.concat([payload, Buffer.from(reason)]))
  }

  #sendClose (payload) {
    this.#write(opcodes.close, payload)
    this.#closeSent = true
    setTimeout(() => this.#socket.destroy(), closeTimeoutMs).unref()
  }

  #write (opcode, payload) {
    if (this.#closeSent || !this.#socket.writable) return
    const { length } = payload
    const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10)
    head[0] = 0x80 | opcode
    head[1] = (this.#isServer ? 0 : 0x80) | (length < 126 ? length : length < 65_536 ? 126 : 127)
    if (head.length === 4) head.writeUInt16BE(length, 2)
    if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2)
    if (this.#isServer) return this.#socket.write(Buffer.concat([head, payload]))
    const mask = randomBytes(4)
    this.#socket.write(Buffer.concat([head, mask, masked(payload, mask)]))
  }

  #read (chunk) {
    this.#unread = Buffer.concat([this.#unread, chunk])
    try {
      while (this.#closed === null) {
        const frame = this.#nextFrame()
        if (frame === undefined) return
        this.#handle(frame)
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#closed = [error.code, error.message]
      this.close(error.code, error.message)
      this.#socket.end()
    }
  }

  /** Takes one whole frame off what was read (§5.2); undefined while it isn't all there. */
  #nextFrame () {
    const bytes = this.#unread
    if (bytes.length < 2) return
    const isFinal = (bytes[0] & 0x80) !== 0
    const opcode = bytes[0] & 0x0F
    const isMasked = (bytes[1] & 0x80) !== 0
    const isControl = opcode >= 0x8
    let length = bytes[1] & 0x7F
    if ((bytes[0] & 0x70) !== 0) throw new ProtocolError(1002, 'a reserved bit is set')
    if (!Object.values(opcodes).includes(opcode)) throw new ProtocolError(1002, 'unknown opcode')
    if (isControl && (!isFinal || length > 125)) throw new ProtocolError(1002, 'bad control frame')
    if (isMasked !== this.#isServer) throw new ProtocolError(1002, `frames must ${this.#isServer ? '' : 'not '}be masked`)

    let at = 2
    if (length === 126) {
      if (bytes.length < 4) return
      length = bytes.readUInt16BE(2)
      at = 4
    } else if (length === 127) {
      if (bytes.length < 10) return
      length = Number(bytes.readBigUInt64BE(2))
      at = 10
    }
    const known = this.#message?.length ?? 0
    if (length + (isControl ? 0 : known) > maxMessageBytes) throw new ProtocolError(1009, 'the message is too large')
    const start = at + (isMasked ? 4 : 0)
    if (bytes.length < start + length) return
    const payload = bytes.subarray(start, start + length)
    this.#unread = bytes.subarray(start + length)
    return { opcode, isFinal, payload: isMasked ? masked(payload, bytes.subarray(at, at + 4)) : payload }
  }

  #handle ({ opcode, isFinal, payload }) {
    if (opcode === opcodes.ping) return this.#write(opcodes.pong, payload)
    if (opcode === opcodes.pong) return this.emit('pong', payload)
    if (opcode === opcodes.close) return this.#handleClose(payload)
    if ((opcode === opcodes.continuation) !== (this.#message !== null)) throw new ProtocolError(1002, 'fragments out of order')
    this.#message ??= { opcode, parts: [], length: 0 }
    this.#message.parts.push(payload)
    this.#message.length += payload.length
    if (!isFinal) return
    const message = this.#message
    this.#message = null
    const data = Buffer.concat(message.parts)
    if (message.opcode === opcodes.text) requireUtf8(data)
    // After our own close nobody is interested in messages any more.
    if (!this.#closeSent) this.emit('message', data, message.opcode === opcodes.binary)
  }

  #handleClose (payload) {
    const code = payload.length === 0 ? 1005 : payload.length === 1 ? 0 : payload.readUInt16BE(0)
    if (payload.length > 0 && !mayBeSent(code)) throw new ProtocolError(1002, 'bad close code')
    requireUtf8(payload.subarray(2))
    this.#closed = [code, payload.subarray(2).toString()]
    // The answer repeats the code (§5.5.1), and the server is the one who ends the TCP connection (§7.1.1).
    if (!this.#closeSent) this.#sendClose(payload.subarray(0, 2))
    if (this.#isServer) this.#socket.end()
  }
}

function masked (payload, mask) {
  return Buffer.from(payload.map((byte, index) => byte ^ mask[index % 4]))
}

function requireUtf8 (data) {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(data)
  } catch {
    throw new ProtocolError(1007, 'not UTF-8')
  }
}
