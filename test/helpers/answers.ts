/** Answers as a client reads them off the wire: strictly, so that a test fails where a client could be misled. */
import { readChunks } from './recording-agent.ts'

export interface Answer {
  readonly status: number
  readonly reason: string
  /** Status line and field lines. */
  readonly head: string
  /** Names in lower case. */
  readonly fields: readonly (readonly [string, string])[]
  /** Decoded, latin1. */
  readonly body: string
  readonly trailers: string
  readonly framing: 'none' | 'length' | 'chunked' | 'close'
  /** By the framing; one that ends with the connection always is. */
  readonly complete: boolean
  /** All values of a field. @param name in lower case */
  valuesOf (name: string): string[]
}

/** Reads all answers, interim ones included. @param methods of the requests, in order; the rest are GET */
export function readAnswers (bytes: string, methods: readonly string[] = []): Answer[] {
  const answers: Answer[] = []
  let at = 0
  let final = 0
  while (at < bytes.length) {
    const headEnd = bytes.indexOf('\r\n\r\n', at)
    if (headEnd === -1) throw new Error(`no head: ${JSON.stringify(bytes.slice(at, at + 200))}`)
    const head = bytes.slice(at, headEnd)
    const [line, ...lines] = head.split('\r\n')
    const [, status, reason] = /^HTTP\/1\.1 (\d{3}) ([\t\x20-\x7e\x80-\xff]*)$/.exec(line!) ?? fail(line!)
    const fields = lines.map(text => {
      const [, name, value] = /^([!#$%&'*+.^_`|~\w-]+): ?([\t\x20-\x7e\x80-\xff]*)$/.exec(text) ?? fail(text)
      return [name!.toLowerCase(), value!.trim()] as const
    })
    const valuesOf = (name: string) => fields.filter(field => field[0] === name).map(field => field[1])
    const codings = valuesOf('transfer-encoding')
    const lengths = valuesOf('content-length')
    const code = Number(status)
    const bodiless = code < 200 || code === 204 || code === 304 || methods[final] === 'HEAD'
    if (code < 200 || code === 204 ? codings.length + lengths.length > 0 : codings.length + lengths.length > 1) fail(head)
    const start = headEnd + 4
    let body = ''
    let trailers = ''
    let complete = true
    let framing: Answer['framing'] = codings.length > 0 ? 'chunked' : lengths.length > 0 ? 'length' : bodiless ? 'none' : 'close'
    at = start
    if (bodiless) framing = 'none'
    else if (framing === 'chunked') {
      const read = readChunks(bytes, start)
      body = read.body
      trailers = read.trailers
      complete = read.complete
      at = complete ? read.end : bytes.length
    } else if (framing === 'length') {
      const length = Number(lengths[0])
      body = bytes.slice(start, start + length)
      complete = body.length === length
      at = start + body.length
    } else {
      body = bytes.slice(start)
      at = bytes.length
    }
    if (code >= 200 || code === 101) final++
    answers.push({ status: code, reason: reason!, head, fields, body, trailers, framing, complete, valuesOf })
  }
  return answers
}

function fail (text: string): never {
  throw new Error(`not HTTP/1.1: ${JSON.stringify(text.slice(0, 200))}`)
}
