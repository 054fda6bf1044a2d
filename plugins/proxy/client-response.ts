/**
 * The answer as it is written to the client, past Fastify's reply: a head once, chunks with backpressure, and either a proper end or a cut
 * that can't be taken for one.
 */
import { AsyncResource } from 'node:async_hooks'
import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'
import type { RequestFacts } from '../facts/index.ts'
import type { FleetError } from '../../src/errors.ts'
import { renderProblem } from '../../src/problem.ts'
import type { Chunk } from './agent-connection.ts'
import { atEndOfTurn } from './end-of-turn.ts'
import { announceText, endText, flushHead, headText, isIdle, isNodes, writeFields, type NodeResponse } from './node-response.ts'
import { isBodiless, type ResponseHead } from './response-head.ts'

/** How long a client that is still uploading may take to notice that it was answered. */
const lingerMs = 1_000

/** The most of an answer that waits in the process for the client to take it. */
const maxUnsentBytes = 128 * 1024

/** Bytes; interim answers that a client leaves unread beyond this are dropped. */
const maxInterimBytes = 64 * 1024

/** What a reason phrase may have in any case (RFC 9112 §4). */
const plainReason = /^[\t\x20-\x7e]*$/

export class ClientResponse {
  readonly raw: ServerResponse
  readonly #request: IncomingMessage
  readonly #reply: FastifyReply
  readonly #facts: RequestFacts
  /**
   * The asynchronous context of the request. What comes from an agent's connection is in that of the request which opened it, and the hooks of
   * an application run in the context in which the last of the answer was written, or ended. (What waits behind another answer on its connection,
   * Node writes, in the context of that one.)
   */
  readonly #scope = new AsyncResource('FleetGatewayResponse')
  #contentLength: number | null = null
  #headBuffered = false
  #ending = false
  #informed = false

  constructor (reply: FastifyReply, facts: RequestFacts) {
    this.raw = reply.raw
    this.#request = reply.request.raw
    this.#reply = reply
    this.#facts = facts
  }

  /** A byte of an answer, interim ones included, went to the client. */
  get began (): boolean {
    return this.#informed || this.raw.headersSent
  }

  /** Sends an interim answer (RFC 9110 §15.2), where the client can take one. @param fields flat list of names and values */
  inform (status: number, reason: string, fields: readonly string[]): void {
    const { raw } = this
    if (raw.headersSent || raw.socket === null || this.#request.httpVersion !== '1.1' || raw.socket.writableLength > maxInterimBytes) return
    let head = `HTTP/1.1 ${status} ${sendableReason(status, reason)}\r\n`
    for (let index = 0; index < fields.length; index += 2) head += `${fields[index]}: ${fields[index + 1]}\r\n`
    raw.socket.write(`${head}\r\n`, 'latin1')
    this.#informed = true
  }

  /**
   * Sends an answer that is there whole. Nearly always that is one string to the socket, past what ServerResponse does for those who write an
   * answer piece by piece; it is told that its head is out, and ends as ever.
   * @param body latin1 text
   * @param mayWait it may leave at the end of the turn of the event loop, together with others
   * @param onGiven called when the socket has it; never when the client has left by then
   * @throws when a field can't be sent
   */
  sendWhole (status: number, reason: string, head: ResponseHead, body: string, mayWait: boolean, onGiven: () => void): void {
    const raw = this.raw as NodeResponse
    const phrase = sendableReason(status, reason)
    const text = this.#mayBeText(raw, status) ? headText(raw, status, phrase, head) : null
    if (text === null) {
      this.start(status, reason, head)
      if (body !== '' && !isBodiless(status, this.#facts.method)) this.write(body, null)
      this.end(null)
      return onGiven()
    }
    this.#ending = true
    announceText(raw, status, phrase, text)
    const whole = text + (head.contentLength !== null ? body : `${chunkText(body)}0\r\n\r\n`)
    if (mayWait) atEndOfTurn(() => this.#give(whole, body.length, onGiven))
    else this.#give(whole, body.length, onGiven)
  }

  #give (text: string, bodyLength: number, onGiven: () => void): void {
    const raw = this.raw as NodeResponse
    if (raw.destroyed || raw.socket?.writable !== true) { // the client left in the same turn
      this.#facts.status = 499
      return
    }
    this.#facts.bytesSent = bodyLength
    this.#scope.runInAsyncScope(endText, undefined, raw, text)
    onGiven()
  }

  #write (chunk: string | Uint8Array, encoding?: BufferEncoding, onWritten?: () => void): boolean {
    return this.#scope.runInAsyncScope(this.raw.write as NodeResponse['write'], this.raw, chunk, encoding as never, onWritten)
  }

  #end (chunk?: string | Uint8Array, encoding?: BufferEncoding, onWritten?: () => void): void {
    this.#scope.runInAsyncScope(this.raw.end, this.raw, chunk, encoding as never, onWritten)
  }

  /** The client has sent all of its request, and what it gets may have a body. */
  #mayBeText (raw: NodeResponse, status: number): boolean {
    return isIdle(raw) && this.#request.complete && this.#request.httpVersion === '1.1' && !isBodiless(status, this.#facts.method)
  }

  /** Takes the head; it leaves with the first chunk, or by flush(). @throws when a field can't be sent */
  start (status: number, reason: string, { fields, contentLength }: ResponseHead): void {
    writeFields(this.raw as NodeResponse, status, sendableReason(status, reason), fields)
    this.#contentLength = contentLength
    this.#headBuffered = true
  }

  /** Sends the head without waiting for a body. */
  flush (): void {
    if (!this.#headBuffered) return
    this.#headBuffered = false
    this.#scope.runInAsyncScope(flushHead, undefined, this.raw)
  }

  /**
   * @param release called when the chunk's memory is not used any more
   * @returns false when the client is behind; `drain` of `raw` tells when it is not
   */
  write (chunk: Chunk, release: (() => void) | null): boolean {
    const raw = this.raw as NodeResponse
    const first = this.#facts.bytesSent === 0
    this.#facts.bytesSent += chunk.length
    this.#headBuffered = false
    if (typeof chunk === 'string' && raw._headerSent && raw.chunkedEncoding && isIdle(raw)) {
      this.#scope.runInAsyncScope(raw.socket!.write, raw.socket, chunkText(chunk), 'latin1') // an event, say: one string instead of four pieces
      return true
    }
    let given = chunk
    let onWritten = release ?? undefined
    if (!isNodes(raw)) { // who has put himself in between may keep what he is given
      given = Buffer.from(chunk as string, 'latin1')
      onWritten?.()
      onWritten = undefined
    }
    const encoding = typeof given === 'string' ? 'latin1' : undefined as never
    if (first && chunk.length === this.#contentLength && this.#request.complete) {
      this.#end(given, encoding, onWritten) // head and whole body in one write
      return true
    }
    return this.#write(given, encoding, onWritten) || raw.writableLength <= maxUnsentBytes
  }

  /** @param trailers flat list of names and values */
  end (trailers: readonly string[] | null): void {
    const { raw } = this
    if (this.#ending || raw.writableEnded) return
    this.#ending = true
    try {
      if (trailers !== null && trailers.length > 0 && raw.chunkedEncoding) raw.addTrailers(pairs(trailers))
    } catch {
      this.#ending = false
      return this.cut() // a value that can't be sent: better no answer than half of one that looks whole
    }
    if (this.#request.complete) return this.#end()
    this.flush()
    this.#lingeringEnd()
  }

  /** Ends what is without an end of its own, such as an event stream. */
  endStream (): void {
    this.#end()
  }

  /** Breaks the connection off, so that what arrived is not taken for the whole. An answer that is complete stays so. */
  cut (): void {
    if (this.#ending || this.raw.writableEnded) return
    this.#facts.ending ??= 'upstream-aborted'
    const { raw } = this
    // Where only the end of the connection ends the body (HTTP/1.0), an ordinary end would make a whole of it.
    if (raw.headersSent && !raw.chunkedEncoding && this.#contentLength === null && raw.socket instanceof Socket && !('encrypted' in raw.socket)) raw.socket.resetAndDestroy()
    raw.destroy()
  }

  /** Answers with a problem; when an answer has begun, cuts it off. */
  problem (error: FleetError): void {
    const { raw } = this
    if (raw.headersSent) return this.cut()
    this.#ending = true
    const { status, headers, body } = renderProblem(error, this.#facts.id)
    this.#facts.code = error.code
    this.#facts.bytesSent = Buffer.byteLength(body)
    const mine = this.#reply.getHeaders()
    const complete = this.#request.complete
    // With a reason: that of an answer which could not be sent may still be there.
    const own = { ...headers, ...(!complete && { connection: 'close' }) } as Record<string, string>
    try {
      raw.writeHead(status, STATUS_CODES[status] ?? '', { ...mine, ...own } as Record<string, string>)
    } catch { // a hook set a field that can't be sent, which may be what this problem is about
      raw.writeHead(status, STATUS_CODES[status] ?? '', own)
    }
    if (complete) this.#end(body)
    else {
      this.#write(body)
      this.#lingeringEnd()
    }
  }

  /**
   * The client is still sending. To close now would make its kernel throw the answer away unread, so what comes is read and dropped for
   * a moment first.
   */
  #lingeringEnd (): void {
    const request = this.#request
    const end = () => {
      clearTimeout(timer)
      this.#end()
    }
    const timer = setTimeout(end, lingerMs)
    request.removeAllListeners('data')
    request.once('end', end)
    this.raw.once('close', () => clearTimeout(timer))
    if (request.headers.expect === undefined || request.readableFlowing === true) request.resume()
    else end() // it waits for a 100 that never came: there is nothing to read
  }
}

/** The agent's reason phrase; the usual one where other bytes were decoded on the way and can't be told any more. */
export function sendableReason (status: number, reason: string | undefined): string {
  const usual = STATUS_CODES[status] ?? ''
  return reason !== undefined && reason !== usual && plainReason.test(reason) ? reason : usual
}

function pairs (flat: readonly string[]): [string, string][] {
  const list: [string, string][] = []
  for (let index = 0; index < flat.length; index += 2) list.push([flat[index]!, flat[index + 1]!])
  return list
}

/** One chunk (RFC 9112 §7.1) of latin1 text; nothing for nothing, since an empty one would be the last. */
function chunkText (text: string): string {
  return text === '' ? '' : `${text.length.toString(16)}\r\n${text}\r\n`
}
