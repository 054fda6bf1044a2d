/**
 * What this gateway knows of Node's ServerResponse beyond its documents, most of it so that a short answer can leave in one string, where
 * ServerResponse would check each field once more and hand the socket three pieces. test/e2e/client-response.test.ts compares what clients get either way.
 */
import { OutgoingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { isSendable } from './field-names.ts'
import type { ResponseHead } from './response-head.ts'

/** What Node keeps of an answer, and has done since it has answers. */
export type NodeResponse = ServerResponse & {
  _header: string | null
  _headerSent: boolean
  _removedTE: boolean
  readonly _hasBody: boolean
  _send (data: string, encoding: 'latin1'): boolean
  readonly _keepAliveTimeout: number
  readonly _defaultKeepAlive: boolean
  readonly _maxRequestsPerSocket: number | undefined
  readonly socket: Socket & { _httpMessage?: unknown } | null
}

/** As Node has them: what patches the prototype later, or leaves its alias alone, is told apart. */
const { write: nodesWrite, end: nodesEnd } = OutgoingMessage.prototype

/** Nobody has put himself between the answer and its connection, as tracers and loggers do. */
export function isNodes ({ writeHead, write, end }: ServerResponse): boolean {
  return writeHead === (ServerResponse.prototype as { writeHeader?: unknown }).writeHeader && write === nodesWrite && end === nodesEnd
}

/** It is the answer's turn, and nothing of it waits: what is written to the socket now is where it would have been. */
export function isIdle (raw: NodeResponse): boolean {
  const { socket } = raw
  return socket !== null && socket._httpMessage === raw && socket.writable && raw.writableLength === 0 && isNodes(raw)
}

/** Tells an idle answer that its head is out; endText() writes it. @param head of headText() */
export function announceText (raw: NodeResponse, status: number, reason: string, head: string): void {
  raw.statusCode = status
  raw.statusMessage = reason
  raw._header = head
  raw._headerSent = true
}

/** Writes an announced answer, head and framed body, and ends it. */
export function endText (raw: NodeResponse, text: string): void {
  raw.socket!.write(text, 'latin1')
  raw.end()
}

/** Sends the head of an answer alone, in latin1 as ever. `flushHeaders()` would send it in UTF-8, and make two bytes of each beyond ASCII. */
export function flushHead (raw: ServerResponse): void {
  if ((raw as NodeResponse)._hasBody) nodesWrite.call(raw, '', 'latin1', undefined)
  else (raw as NodeResponse)._send('', 'latin1') // write() does nothing for an answer without a body
}

/**
 * Gives an answer its head, by writeHead(). Of what a hook has set on it before, which is among `fields` as well, writeHead() would make one
 * field per name.
 * @param fields flat
 * @throws when a field can't be sent
 */
export function writeFields (raw: NodeResponse, status: number, reason: string, fields: string[]): void {
  const set = raw.getHeaderNames()
  if (set.length === 0) return void raw.writeHead(status, reason, fields)
  const { sendDate } = raw
  for (const name of set) raw.removeHeader(name)
  raw.sendDate = sendDate
  raw._removedTE = false // what was removed would not be added either
  try {
    for (let index = 0; index < fields.length; index += 2) raw.appendHeader(fields[index]!, fields[index + 1]!)
    raw.writeHead(status, reason)
  } catch (error) {
    for (const name of raw.getHeaderNames()) raw.removeHeader(name) // the problem that stands for it has nothing of it
    throw error
  }
}

/**
 * The head of an answer of HTTP/1.1 with a body, as ServerResponse would write it on a connection that stays. Null when it has something to
 * decide: the connection may not stay, the head says something of it, or has what can't be sent.
 */
export function headText (raw: NodeResponse, status: number, reason: string, { fields, ownFrom, contentLength }: ResponseHead): string | null {
  const isPlain = raw._header === null && raw.getHeaderNames().length === 0 && raw.shouldKeepAlive && raw.sendDate && raw._defaultKeepAlive && raw._maxRequestsPerSocket === 0
  if (!isPlain) return null
  let text = `HTTP/1.1 ${status} ${reason}\r\n`
  let hasDate = false
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index]!
    const value = fields[index + 1]!
    if (index >= ownFrom && !isSendable(name, value)) return null // the agent's were read with that in mind; these a hook may have set
    switch (name.length) {
      case 4:
        if (name.toLowerCase() === 'date') hasDate = true
        break
      case 7:
        if (name.toLowerCase() === 'trailer') return null
        break
      case 10:
        if (name.toLowerCase() === 'connection' || name.toLowerCase() === 'keep-alive') return null
        break
      case 14:
        if (contentLength === null && name.toLowerCase() === 'content-length') return null
        break
      case 17:
        if (name.toLowerCase() === 'transfer-encoding') return null
        break
    }
    text += `${name}: ${value}\r\n`
  }
  if (!hasDate) text += `Date: ${httpDate()}\r\n`
  const keepAliveMs = raw._keepAliveTimeout
  text += keepAliveMs > 0 ? `Connection: keep-alive\r\nKeep-Alive: timeout=${Math.floor(keepAliveMs / 1_000)}\r\n` : 'Connection: keep-alive\r\n'
  return contentLength === null ? `${text}Transfer-Encoding: chunked\r\n\r\n` : `${text}\r\n`
}

/** The date is made once a second. */
let dateSecond = 0
let date = ''

/** RFC 9110 §5.6.7. */
function httpDate (): string {
  const second = Math.floor(Date.now() / 1_000)
  if (second !== dateSecond) {
    dateSecond = second
    date = new Date(second * 1_000).toUTCString()
  }
  return date
}
