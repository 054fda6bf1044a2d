/**
 * HTTP/1.1 towards an agent by undici: a Client per connection, one exchange at a time. Beside it stands what undici doesn't tell, and what it
 * would pass though nobody may rely on it.
 */
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { Client, errors, type buildConnector, type Dispatcher } from 'undici'
import type { Instance } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import type { AgentConnection, AgentRequest, AnswerSink, ConnectionFault, ConnectionOwner } from './agent-connection.ts'
import { AnswerHeads } from './answer-heads.ts'
import { connectTo, maxResponseHeadBytes } from './connector.ts'
import { readBeforeFailing } from './late-write-errors.ts'

export class UndiciConnection implements AgentConnection, Dispatcher.DispatchHandler {
  idleSince = 0
  readonly #owner: ConnectionOwner
  readonly #client: Client
  /** What undici doesn't tell of the answers' heads. */
  readonly #heads = new AnswerHeads()
  /** Of the exchange under way. */
  #sink: AnswerSink | null = null
  #connectTimeoutMs = 0
  /** Requests sent on the present socket. */
  #served = 0
  /** The socket is open. */
  #connected = false
  /** A request was sent, and the final response head is not here. */
  #awaitsHead = false
  /** The socket broke rather than ended. */
  #broken = false
  #sent = false
  #resume: (() => void) | null = null

  constructor (instance: Instance, owner: ConnectionOwner, lookupOf: LookupOf, tlsOf: TlsOf) {
    this.#owner = owner
    this.#client = new Client(instance.origin, {
      pipelining: 1,
      headersTimeout: 0, // the exchange has its own, precise ones
      bodyTimeout: 0,
      keepAliveTimeout: 4_000,
      keepAliveMaxTimeout: 60_000,
      keepAliveTimeoutThreshold: 1_000,
      maxHeaderSize: maxResponseHeadBytes,
      strictContentLength: true,
      connect: (_options: buildConnector.Options, callback: buildConnector.Callback) => {
        connectTo(instance, { timeoutMs: this.#connectTimeoutMs, lookup: lookupOf(instance), tlsOf }, (error, socket) => {
          if (socket === null) return callback(error ?? new Error('no connection'), null)
          this.#served = 0
          this.#connected = true
          this.#broken = false
          this.#watchBreak(socket)
          readBeforeFailing(socket)
          this.#followHeads(socket)
          callback(null, socket)
        })
      }
    })
    this.#client.on('disconnect', () => {
      this.#connected = false
      owner.closed(this)
    })
  }

  get usable (): boolean {
    return this.#connected
  }

  send ({ method, path, fields, body, connectTimeoutMs }: AgentRequest, sink: AnswerSink): void {
    this.#sink = sink
    this.#connectTimeoutMs = connectTimeoutMs
    this.#sent = false
    let stream: Readable | null = null
    if (body.whole === undefined) {
      let begun = false
      const read = () => {
        if (begun) return body.resume()
        begun = true // there is a connection: before, nothing may be taken that another attempt could need
        body.pour({ write: chunk => created.push(chunk), end: () => created.push(null) })
      }
      const created = stream = new Readable({ highWaterMark: 64 * 1024, read })
      created.on('error', () => {}) // undici destroys it with its own error, which the sink is told
    }
    this.#client.dispatch({ path, method: method as 'GET', headers: fields, body: body.whole ?? stream, reset: false, blocking: false }, this)
  }

  resume (): void {
    this.#resume?.()
  }

  release (): void {
    this.idleSince = performance.now()
    if (this.#connected) this.#owner.released(this)
    else this.discard()
  }

  discard (): void {
    this.destroy()
    this.#owner.discarded(this)
  }

  destroy (): void {
    this.#sink = null
    void this.#client.destroy()
  }

  onConnect (): void {
    this.#sent = true
    this.#awaitsHead = true
    this.#heads.expect()
    this.#sink?.onSend(this.#served++ > 0)
  }

  onRequestSent (): void {
    this.#sink?.onSent()
  }

  onHeaders (status: number, rawFields: Buffer[], resume: () => void, reason: string): boolean {
    if (this.#sink === null) return true
    const fields = rawFields.map(latin1)
    const problem = headProblem(status, this.#heads.version, fields)
    if (problem !== undefined) this.#fail('invalid', new Error(problem))
    else if (status < 200) this.#sink.onInterim(status, fields, reason)
    else {
      this.#awaitsHead = false
      this.#resume = resume
      this.#sink.onHead(status, fields, reason)
    }
    return true
  }

  onData (chunk: Buffer): boolean {
    return this.#sink?.onChunk(chunk, null) ?? true
  }

  onComplete (rawTrailers: unknown): void {
    if (this.#sink === null) return
    if (this.#broken) return this.#fail('broken', new Error('the connection broke before it ended'))
    const sink = this.#sink
    this.#sink = null
    const trailers = rawTrailers as Buffer[] | null
    sink.onEnd(trailers === null || trailers.length === 0 ? null : trailers.map(latin1))
  }

  onError (error: Error): void {
    if (this.#sink !== null) this.#fail(this.#faultOf(error), error)
  }

  #fail (fault: ConnectionFault, error: Error): void {
    const sink = this.#sink!
    this.discard()
    sink.onFault(fault, error, this.#sent && this.#heads.began)
  }

  #faultOf (error: Error): ConnectionFault {
    if (!this.#sent) return error instanceof errors.InvalidArgumentError ? 'unsendable' : 'unconnected'
    const foreign = error instanceof errors.HTTPParserError || error instanceof errors.HeadersOverflowError ||
      error instanceof errors.ResponseContentLengthMismatchError || (error instanceof errors.SocketError && error.message.startsWith('bad '))
    return foreign ? 'invalid' : 'broken'
  }

  /**
   * Notes when the socket breaks rather than ends, before undici's listeners, which take a reset for the end of a body that lasts until then.
   * With Node 20 a reset that comes together with bytes looks like an end; that the socket has no peer any more tells them apart.
   */
  #watchBreak (socket: Socket): void {
    socket.once('error', () => { this.#broken = true })
    socket.once('end', () => { if (socket.remoteAddress === undefined) this.#broken = true })
  }

  /** What undici reads goes through `heads` as long as a head is awaited. */
  #followHeads (socket: Socket): void {
    const read = socket.read
    socket.read = size => {
      const chunk = read.call(socket, size) as Buffer | null
      return chunk === null || !this.#awaitsHead ? chunk : this.#heads.pass(chunk)
    }
  }
}

/** What undici lets pass and nobody may rely on. @param fields flat */
function headProblem (status: number, version: string, fields: readonly string[]): string | undefined {
  if (status === 101) return 'an unasked 101' // nobody asked for another protocol (RFC 9110 §15.2.2)
  if (status < 100) return 'a status below 100'
  if (version === '1.1') return undefined
  if (version !== '1.0') return 'a version that is not spoken'
  // RFC 9112 §6.1: in HTTP/1.0 that is faulty framing
  return fields.some((name, index) => index % 2 === 0 && name.toLowerCase() === 'transfer-encoding') ? 'a transfer coding in HTTP/1.0' : undefined
}

function latin1 (bytes: Buffer): string {
  return bytes.toString('latin1')
}
