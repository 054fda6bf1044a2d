/**
 * An agent that reads requests off the wire itself, so that a test can tell byte for byte what arrived and how many requests it was, and
 * answers with whatever bytes the test wants.
 */
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { rawAgent, type RawAgent } from './fake-agent.ts'

/** One request as it arrived, text as latin1. */
export interface ReceivedRequest {
  /** The request line, and the field lines as they came. */
  readonly head: string
  readonly method: string
  readonly target: string
  readonly fields: readonly (readonly [string, string])[]
  /** Decoded; as far as it came. */
  readonly body: string
  /** Of a chunked body. */
  readonly trailers: string
  readonly framing: 'none' | 'length' | 'chunked'
  /** All of it is here. */
  readonly complete: boolean
  /** All values of a field. @param name in lower case */
  valuesOf (name: string): string[]
}

/** What to send for a request: bytes, or whatever a function does with the connection. */
export type RawAnswer = string | Buffer | ((socket: Socket, request: ReceivedRequest) => void)

interface RecordingAgent extends RawAgent {
  /** Complete requests, and the unfinished last one of each connection, in order of connections. */
  readonly requests: ReceivedRequest[]
  /** Sent for each complete request. */
  answer: RawAnswer
  /** Sent as soon as the head of a request is here, in place of `answer`; null waits for the whole request. */
  earlyAnswer: RawAnswer | null
  /** Forgets what arrived. */
  reset (): void
}

export const okAnswer = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

interface Recorded { bytes: string, answered: number, early: number, from: number }

/** Answers `ok` unless told otherwise. */
export async function recordingAgent (t: Test): Promise<RecordingAgent> {
  const recorded: Recorded[] = []
  const agent = await rawAgent(t, (socket, chunk, connection) => {
    while (recorded.length <= connection) recorded.push({ bytes: '', answered: 0, early: 0, from: 0 })
    const record = recorded[connection]!
    record.bytes += chunk.toString('latin1')
    const requests = readRequests(record.bytes)
    if (recording.earlyAnswer !== null) {
      while (record.early < requests.length) send(recording.earlyAnswer, socket, requests[record.early++]!)
      return
    }
    for (const request of requests.slice(record.answered)) {
      if (!request.complete) break
      record.answered++
      record.early = record.answered
      send(recording.answer, socket, request)
    }
  })
  const recording: RecordingAgent = {
    ...agent,
    answer: okAnswer,
    earlyAnswer: null,
    get requests () { return recorded.flatMap(({ bytes, from }) => readRequests(bytes).slice(from)) },
    reset () { for (const record of recorded) record.from = readRequests(record.bytes).length }
  }
  return recording
}

function send (answer: RawAnswer, socket: Socket, request: ReceivedRequest): void {
  if (typeof answer === 'function') answer(socket, request)
  else socket.write(typeof answer === 'string' ? Buffer.from(answer, 'latin1') : answer)
}

/** Splits what came on a connection, strictly: what is no request by RFC 9112 throws, since the gateway must not send it. */
function readRequests (bytes: string): ReceivedRequest[] {
  const requests: ReceivedRequest[] = []
  let at = 0
  while (at < bytes.length) {
    const headEnd = bytes.indexOf('\r\n\r\n', at)
    if (headEnd === -1) break
    const head = bytes.slice(at, headEnd)
    const [line, ...lines] = head.split('\r\n')
    const [, method, target] = /^([!#$%&'*+.^_`|~\w-]+) ([^\s\0-\x1f]+) HTTP\/1\.1$/.exec(line!) ?? fail(line!) // eslint-disable-line no-control-regex
    const fields = lines.map(text => {
      const [, name, value] = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*$/.exec(text) ?? fail(text)
      return [name!, value!] as const
    })
    const valuesOf = (name: string) => fields.filter(field => field[0].toLowerCase() === name).map(field => field[1])
    const codings = valuesOf('transfer-encoding')
    const lengths = valuesOf('content-length')
    if (codings.length + lengths.length > 1) fail(head)
    const framing = codings.length > 0 ? 'chunked' : lengths.length > 0 ? 'length' : 'none'
    const { body, trailers, complete, end } = framing === 'chunked'
      ? readChunks(bytes, headEnd + 4)
      : readLength(bytes, headEnd + 4, Number(lengths[0] ?? 0))
    requests.push({ head, method: method!, target: target!, fields, body, trailers, framing, complete, valuesOf })
    if (!complete) break
    at = end
  }
  return requests
}

interface Body { body: string, trailers: string, complete: boolean, end: number }

function readLength (bytes: string, start: number, length: number): Body {
  const body = bytes.slice(start, start + length)
  return { body, trailers: '', complete: body.length === length, end: start + length }
}

/** Also reads the chunks of answers. */
export function readChunks (bytes: string, start: number): Body {
  let body = ''
  let at = start
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd === -1) return { body, trailers: '', complete: false, end: at }
    const line = bytes.slice(at, lineEnd)
    if (!/^[0-9a-f]+$/i.test(line)) fail(line)
    const size = parseInt(line, 16)
    at = lineEnd + 2
    if (size === 0) {
      if (bytes.startsWith('\r\n', at)) return { body, trailers: '', complete: true, end: at + 2 }
      const end = bytes.indexOf('\r\n\r\n', at)
      return end === -1 ? { body, trailers: '', complete: false, end: at } : { body, trailers: bytes.slice(at, end), complete: true, end: end + 4 }
    }
    body += bytes.slice(at, at + size)
    if (bytes.length < at + size + 2) return { body, trailers: '', complete: false, end: at }
    if (!bytes.startsWith('\r\n', at + size)) fail(bytes.slice(at + size, at + size + 2))
    at += size + 2
  }
}

function fail (text: string): never {
  throw new Error(`not HTTP/1.1: ${JSON.stringify(text.slice(0, 200))}`)
}
