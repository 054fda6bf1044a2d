/**
 * HTTP/1.1 towards an agent, on a socket of our own: one string for the head and a small body, an answer that is read where it lands, and
 * nothing between the two sockets. What undici does besides (pipelining, redirects, streams of its own) a gateway has no use for.
 */
import type { Socket } from 'node:net'
import type { Instance } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import { AnswerParser, InvalidAnswerError } from './answer-parser.ts'
import type { AgentConnection, AgentRequest, AnswerSink, ConnectionFault, ConnectionOwner } from './agent-connection.ts'
import { connectTo } from './connector.ts'
import { atEndOfTurn } from './end-of-turn.ts'
import { isSendableValue } from './field-names.ts'
import { readBeforeFailing } from './late-write-errors.ts'
import { giveBuffer, sharedBuffer, takeBuffer } from './read-buffers.ts'
import type { BodyTarget } from './request-body.ts'

/** A body up to here leaves in one string with its head. */
const maxInlineBytes = 16 * 1024
/** The most of a request that waits in the process for the agent to take it. */
const maxUnsentBytes = 64 * 1024
/** A body with more than this to come is read into buffers of its own. */
const largeBytes = 128 * 1024
/** A buffer goes to the client as it is with at least this in it; of less it gets a copy, or those that wait for it would take many times their bytes. */
const leastGivenBytes = 128 * 1024
/** How long an idle connection is kept, where the agent says nothing of it. */
const idleMs = 4_000
/** At most, whatever it says; and how much earlier than it. */
const mostIdleMs = 60_000
const earlierMs = 1_000

/** What a request target must not have (RFC 9112 §3.2). */
const unsendableInPath = /[^\x21-\x7e\x80-\xff]/

/** Methods whose requests say that they have no body (RFC 9110 §8.6). */
const bodyMethods: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH', 'QUERY', 'PROPFIND', 'PROPPATCH'])

export class SocketConnection implements AgentConnection, BodyTarget {
  idleSince = 0
  readonly #instance: Instance
  readonly #owner: ConnectionOwner
  readonly #lookupOf: LookupOf
  readonly #tlsOf: TlsOf
  readonly #hostLine: string
  readonly #parser = new AnswerParser()
  #socket: Socket | null = null
  #giveUp: (() => void) | null = null
  /** Of the exchange under way. */
  #request: AgentRequest | null = null
  #sink: AnswerSink | null = null
  #used = false
  #sent = false
  /** Its request will be written at the end of the turn: nothing of it went out. */
  #waits = false
  #chunked = false
  #paused = false
  #readsBeforeFailing = false
  #over = false
  /** The socket broke rather than ended. */
  #broken = false
  /** What the socket reads into next, when it is not the shared buffer. */
  #ownBuffer: Buffer | null = null
  #keptMs = idleMs

  constructor (instance: Instance, owner: ConnectionOwner, lookupOf: LookupOf, tlsOf: TlsOf) {
    this.#instance = instance
    this.#owner = owner
    this.#lookupOf = lookupOf
    this.#tlsOf = tlsOf
    this.#hostLine = `Host: ${instance.origin.slice(instance.origin.indexOf('//') + 2)}\r\n`
  }

  get usable (): boolean {
    return !this.#over && performance.now() - this.idleSince < this.#keptMs
  }

  send (request: AgentRequest, sink: AnswerSink): void {
    this.#request = request
    this.#sink = sink
    if (this.#socket !== null) return this.#write()
    const { connectTimeoutMs } = request
    const onread = { buffer: () => this.#ownBuffer ?? sharedBuffer, callback: (length: number, buffer: Uint8Array) => this.#read(buffer as Buffer, length) }
    this.#giveUp = connectTo(this.#instance, { timeoutMs: connectTimeoutMs, lookup: this.#lookupOf(this.#instance), tlsOf: this.#tlsOf, onread }, (error, socket) => {
      this.#giveUp = null
      if (this.#over) return void socket?.destroy()
      if (socket === null) return this.#fail('unconnected', error ?? new Error('no connection'))
      this.#socket = socket
      this.#listen(socket)
      this.#write()
    })
  }

  resume (): void {
    if (!this.#paused || this.#over) return
    this.#paused = false
    this.#socket!.resume()
  }

  release (): void {
    this.idleSince = performance.now()
    const { persistent, keepAliveS } = this.#parser
    if (keepAliveS !== null) this.#keptMs = Math.min(keepAliveS * 1_000 - earlierMs, mostIdleMs)
    // An answer may come before the agent took all of the request: what it would make of the rest nobody knows.
    if (!persistent || !this.#sent || this.#over || this.#paused || this.#keptMs <= 0 || this.#socket!.writableLength > 0) return this.discard()
    this.#owner.released(this)
  }

  discard (): void {
    this.destroy()
    this.#owner.discarded(this)
  }

  destroy (): void {
    if (this.#over) return
    this.#over = true
    this.#sink = null
    this.#giveUp?.()
    this.#socket?.destroy()
    this.#ownBuffer = null // the kernel may still write into it: it is not given back
  }

  /** A piece of the streamed body. */
  write (chunk: Buffer): boolean {
    if (this.#over) return true
    const socket = this.#socket!
    let hasRoom: boolean
    if (this.#chunked) {
      socket.cork()
      socket.write(`${chunk.length.toString(16)}\r\n`, 'latin1')
      socket.write(chunk)
      hasRoom = socket.write('\r\n', 'latin1')
      socket.uncork()
    } else hasRoom = socket.write(chunk)
    return hasRoom || socket.writableLength <= maxUnsentBytes // only where it has none, by its own mark, there will be a `drain`
  }

  /** The streamed body is whole. @param trailers flat */
  end (trailers: readonly string[]): void {
    if (this.#over) return
    if (this.#chunked) {
      let text = '0\r\n'
      for (let index = 0; index < trailers.length; index += 2) text += `${trailers[index]}: ${trailers[index + 1]}\r\n`
      this.#socket!.write(`${text}\r\n`, 'latin1')
    }
    this.#wasSent()
  }

  #write (): void {
    const { method, path, fields, body, mayWait } = this.#request!
    const socket = this.#socket!
    this.#parser.expect(method === 'HEAD')
    this.#sent = false
    this.#chunked = false
    if (unsendableInPath.test(path)) return this.#fail('unsendable', new Error('a path that can not be sent'))
    const { whole } = body
    let hasHost = false
    let hasLength = false
    let text = ''
    for (let index = 0; index < fields.length; index += 2) {
      const name = fields[index]!
      const value = fields[index + 1]!
      // Requests that came by a connection were parsed; those of inject(), and what a host adds, may hold anything.
      if (!isSendableValue(value)) return this.#fail('unsendable', new Error('a field that can not be sent'))
      if (name.length === 4 && name.toLowerCase() === 'host') hasHost = true
      else if (name.length === 14 && name.toLowerCase() === 'content-length') hasLength = true
      text += `${name}: ${value}\r\n`
    }
    if (!hasLength) {
      if (whole === undefined) {
        this.#chunked = true
        text += 'Transfer-Encoding: chunked\r\n'
      } else if (bodyMethods.has(method)) text += 'Content-Length: 0\r\n'
    }
    text = `${method} ${path} HTTP/1.1\r\n${hasHost ? '' : this.#hostLine}Connection: keep-alive\r\n${text}\r\n`
    if (whole === null || (whole !== undefined && whole.length <= maxInlineBytes)) {
      if (whole !== null) text += whole.toString('latin1', 0, whole.length)
      if (!mayWait) return this.#writeWhole(text)
      this.#waits = true
      atEndOfTurn(() => this.#writeLate(text))
      return
    }
    this.#begin()
    this.#expectEarlyAnswers()
    if (whole === undefined) {
      socket.write(text, 'latin1')
      return body.pour(this)
    }
    socket.cork()
    socket.write(text, 'latin1')
    socket.write(whole)
    socket.uncork()
    this.#wasSent()
  }

  #begin (): void {
    this.#sink!.onSend(this.#used)
    this.#used = true
  }

  #writeWhole (text: string): void {
    this.#begin()
    this.#socket!.write(text, 'latin1')
    this.#wasSent()
  }

  #writeLate (text: string): void {
    this.#waits = false
    if (!this.#over) this.#writeWhole(text)
  }

  /** Once per connection, and only for what the agent may not read to its end: it costs something with each write. */
  #expectEarlyAnswers (): void {
    if (this.#readsBeforeFailing) return
    this.#readsBeforeFailing = true
    readBeforeFailing(this.#socket!)
  }

  #wasSent (): void {
    this.#sent = true
    this.#sink?.onSent()
  }

  #listen (socket: Socket): void {
    socket.on('drain', () => this.#request?.body.resume())
    socket.on('end', () => {
      // With Node 20 a reset that comes together with bytes looks like an end; that the socket has no peer any more tells them apart.
      if (socket.remoteAddress === undefined) this.#broken = true
      this.#ended()
    })
    socket.on('error', error => {
      this.#broken = true
      this.#lost(error)
    })
    socket.on('close', () => this.#lost(new Error('the connection was closed')))
    // TLS has no `onread`.
    if ('encrypted' in socket) socket.on('data', (bytes: Buffer) => { if (!this.#read(bytes, bytes.length)) socket.pause() })
  }

  /** @returns whether to go on reading */
  #read (buffer: Buffer, length: number): boolean {
    const sink = this.#sink
    if (sink === null || this.#waits) {
      if (!this.#over) this.#lost(new Error('the agent said something that nobody asked for')) // it would be taken for the next answer
      return true
    }
    const parser = this.#parser
    try {
      parser.read(length === buffer.length ? buffer : buffer.subarray(0, length))
    } catch (error) {
      this.#fail(error instanceof InvalidAnswerError ? 'invalid' : 'broken', error as Error)
      return true
    }
    const { interims, head, body } = parser
    parser.head = parser.body = null // nothing that was passed on is kept until the next read
    for (const { status, fields, reason } of interims) if (this.#sink === sink) sink.onInterim(status, fields, reason)
    if (head !== null && this.#sink === sink) {
      const { status, fields, reason } = head
      if (parser.over && parser.trailers.length === 0 && (body === null || typeof body === 'string')) {
        this.#sink = this.#request = null
        sink.onWhole(status, fields, reason, body ?? '')
        return true
      }
      sink.onHead(status, fields, reason)
    }
    if (body !== null && this.#sink === sink) this.#pass(sink, body, buffer)
    if (parser.over && this.#sink === sink) this.#finish()
    return !this.#paused
  }

  /** @param buffer what `body` is a view of, when it is none of TLS's */
  #pass (sink: AnswerSink, body: string | Buffer, buffer: Buffer): void {
    let release: (() => void) | null = null
    let chunk = body
    const isOwn = buffer === this.#ownBuffer
    const isRead = isOwn || buffer === sharedBuffer
    if (isRead && typeof body !== 'string' && body.buffer === buffer.buffer) {
      if (isOwn && body.length >= leastGivenBytes) {
        this.#ownBuffer = null
        release = () => giveBuffer(buffer)
      } else chunk = Buffer.from(body)
    }
    const goesOn = sink.onChunk(chunk, release)
    if (!goesOn && !this.#parser.over) this.#paused = true
    if (this.#over || !isRead) return
    if (this.#parser.remaining > largeBytes) this.#ownBuffer ??= takeBuffer()
    else if (this.#ownBuffer !== null) {
      giveBuffer(this.#ownBuffer) // the socket gets the shared one before anybody reads again
      this.#ownBuffer = null
    }
  }

  #finish (): void {
    const sink = this.#sink!
    const { trailers } = this.#parser
    this.#sink = null
    this.#request = null
    sink.onEnd(trailers.length === 0 ? null : trailers)
  }

  /** The agent's side of the connection is over. */
  #ended (): void {
    if (this.#sink !== null && !this.#broken && this.#parser.endOfInput()) return this.#finish()
    this.#lost(new Error('the connection ended'))
  }

  /** No more can come. */
  #lost (error: Error): void {
    if (this.#over) return
    if (this.#sink !== null) return this.#fail('broken', error)
    this.destroy()
    this.#owner.closed(this)
  }

  #fail (fault: ConnectionFault, error: Error): void {
    const sink = this.#sink!
    this.discard()
    sink.onFault(fault, error, this.#parser.began)
  }
}
