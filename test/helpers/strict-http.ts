/**
 * A strict reader of HTTP/1.1 messages (RFC 9112): it takes nothing that two parties could read differently. Tests judge with it what the
 * gateway sends, to agents and to clients; it is of no use for anything that has to be lenient.
 */

export interface HttpMessage {
  readonly startLine: string
  /** Of a request; '' for an answer. */
  readonly method: string
  /** Of a request; '' for an answer. */
  readonly target: string
  /** Of an answer; 0 for a request. */
  readonly status: number
  readonly fields: readonly (readonly [name: string, value: string])[]
  readonly trailers: readonly (readonly [name: string, value: string])[]
  /** latin1 */
  readonly body: string
  readonly framing: 'none' | 'length' | 'chunked' | 'close'
}

/** What was read is not what a careful sender sends. */
class StrictHttpError extends Error {}

type State = 'head' | 'sized' | 'chunk-size' | 'chunk' | 'trailers' | 'until-close'

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const fieldValue = /^[\t\x20-\x7e\x80-\xff]*$/
const requestLine = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP\/1\.1$/
const statusLine = /^HTTP\/1\.1 ([1-9]\d\d) [\t\x20-\x7e\x80-\xff]*$/
const forbidden = /[\0\r\n]/

type Draft = { -readonly [Key in keyof HttpMessage]: HttpMessage[Key] }

/** Reads one direction of a connection. */
export class StrictReader {
  /** The messages that are complete, interim answers among them. */
  readonly messages: HttpMessage[] = []
  readonly #isRequest: boolean
  readonly #methods: string[]
  #buffer = ''
  #state: State = 'head'
  #draft: Draft | null = null
  #left = 0

  /** @param methods for answers: those of the requests that were sent, in order; null to read requests */
  constructor (methods: string[] | null) {
    this.#isRequest = methods === null
    this.#methods = methods ?? []
  }

  /** Nothing of an unfinished message was read. */
  get between (): boolean {
    return this.#state === 'head' && this.#buffer === ''
  }

  /** The message whose head is here and whose end is not. */
  get current (): HttpMessage | null {
    return this.#draft
  }

  /** @throws StrictHttpError */
  push (bytes: Buffer | string): void {
    this.#buffer += typeof bytes === 'string' ? bytes : bytes.toString('latin1')
    while (this.#step());
  }

  /** The connection ended properly: completes an answer that lasts until then. Returns whether nothing is cut off. */
  end (): boolean {
    if (this.#state === 'until-close') this.#complete()
    return this.between
  }

  #step (): boolean {
    switch (this.#state) {
      case 'head': {
        const head = this.#take('\r\n\r\n')
        if (head === undefined) return false
        this.#readHead(head)
        return true
      }
      case 'sized':
      case 'chunk': {
        const part = this.#buffer.slice(0, this.#left)
        this.#draft!.body += part
        this.#left -= part.length
        this.#buffer = this.#buffer.slice(part.length)
        if (this.#left > 0) return false
        if (this.#state === 'sized') this.#complete()
        else if (this.#buffer.length < 2) return false
        else if (!this.#buffer.startsWith('\r\n')) throw new StrictHttpError('a chunk is longer than it says')
        else {
          this.#buffer = this.#buffer.slice(2)
          this.#state = 'chunk-size'
        }
        return true
      }
      case 'chunk-size': {
        const line = this.#take('\r\n')
        if (line === undefined) return false
        if (!/^[0-9a-f]{1,8}$/i.test(line)) throw new StrictHttpError(`chunk size ${JSON.stringify(line)}`)
        this.#left = Number.parseInt(line, 16)
        this.#state = this.#left === 0 ? 'trailers' : 'chunk'
        return true
      }
      case 'trailers': {
        const line = this.#take('\r\n')
        if (line === undefined) return false
        if (line === '') this.#complete()
        else this.#draft!.trailers = [...this.#draft!.trailers, readField(line)]
        return true
      }
      case 'until-close':
        if (this.#buffer === '') return false
        this.#draft!.body += this.#buffer
        this.#buffer = ''
        return true
    }
  }

  #take (delimiter: string): string | undefined {
    const end = this.#buffer.indexOf(delimiter)
    if (end === -1) {
      if (this.#state === 'head' && this.#buffer.length > 0 && !/^[A-Z]/i.test(this.#buffer)) throw new StrictHttpError(`a message begins with ${JSON.stringify(this.#buffer.slice(0, 40))}`)
      return undefined
    }
    const text = this.#buffer.slice(0, end)
    this.#buffer = this.#buffer.slice(end + delimiter.length)
    return text
  }

  #readHead (head: string): void {
    const [startLine = '', ...lines] = head.split('\r\n')
    const fields = lines.map(readField)
    const draft: Draft = { startLine, method: '', target: '', status: 0, fields, trailers: [], body: '', framing: 'none' }
    const request = requestLine.exec(startLine)
    const answer = statusLine.exec(startLine)
    if (this.#isRequest ? request === null : answer === null) throw new StrictHttpError(`start line ${JSON.stringify(startLine)}`)
    if (this.#isRequest) {
      draft.method = request![1]!
      draft.target = request![2]!
      if (!/^(?:\/|\*$)/.test(draft.target)) throw new StrictHttpError(`target ${draft.target}`)
      if (valuesOf(fields, 'host').length !== 1) throw new StrictHttpError('not exactly one Host')
    } else draft.status = Number(answer![1])
    this.#draft = draft
    this.#chooseFraming(draft)
  }

  #chooseFraming (draft: Draft): void {
    const lengths = valuesOf(draft.fields, 'content-length')
    const codings = valuesOf(draft.fields, 'transfer-encoding')
    if (lengths.length + codings.length > 1) throw new StrictHttpError('more than one framing field')
    if (lengths.some(length => !/^\d{1,15}$/.test(length))) throw new StrictHttpError(`length ${lengths[0]}`)
    if (codings.some(coding => coding.toLowerCase() !== 'chunked')) throw new StrictHttpError(`coding ${codings[0]}`)
    const { status } = draft
    const interim = status >= 100 && status < 200
    if ((interim || status === 204) && lengths.length + codings.length > 0) throw new StrictHttpError(`a ${status} with framing`)
    const method = this.#isRequest || interim ? '' : this.#methods.shift()
    if (method === undefined) throw new StrictHttpError('an answer that nobody asked for')
    if (interim || status === 204 || status === 304 || method === 'HEAD') return this.#complete()
    if (codings.length > 0) {
      draft.framing = 'chunked'
      this.#state = 'chunk-size'
    } else if (lengths.length > 0) {
      draft.framing = 'length'
      this.#left = Number(lengths[0])
      this.#state = 'sized'
    } else if (this.#isRequest) this.#complete()
    else {
      draft.framing = 'close'
      this.#state = 'until-close'
    }
  }

  #complete (): void {
    this.messages.push(this.#draft!)
    this.#draft = null
    this.#state = 'head'
  }
}

/** The values of all fields of a name. @param name in lower case */
export function valuesOf (fields: HttpMessage['fields'], name: string): string[] {
  return fields.filter(([own]) => own.toLowerCase() === name).map(([, value]) => value)
}

function readField (line: string): [string, string] {
  const colon = line.indexOf(':')
  const name = line.slice(0, colon)
  const value = line.slice(colon + 1).replace(/^[\t ]+|[\t ]+$/g, '')
  if (colon === -1 || !token.test(name) || !fieldValue.test(value) || forbidden.test(line)) throw new StrictHttpError(`field ${JSON.stringify(line)}`)
  return [name, value]
}
