/**
 * `headers` of an agent in fleet.yaml: fields of the gateway's own, such as credentials, that its requests to the agent carry. Which may be set,
 * what their values may be, and where those are read. Sending them is the proxy's and the prober's business.
 */
import type { OptionError } from './options.ts'
import { lineIn, type ReadFile } from './token-file.ts'

/** A value as it is written: itself, or a file that holds it. */
type HeaderValue = string | { file: string }

/** By name, as it is written. */
export type AgentHeaders = Readonly<Record<string, HeaderValue>>

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}$/

/** What RFC 9110 §5.5 lets a value be, without control characters and characters beyond latin1. */
const printable = /^[\t\x20-\x7e\xa0-\xff]+$/
const surrounded = /^[ \t]|[ \t]$/

const mostFields = 32
const longestValue = 8_192

/** Of the hop or the framing, or said by the gateway itself: beside `x-forwarded-*` and `sec-websocket-*`. */
const reserved: ReadonlySet<string> = new Set([
  'connection', 'keep-alive', 'proxy-connection', 'proxy-authorization', 'proxy-authenticate', 'proxy-authentication-info', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'http2-settings', 'expect',
  'content-length', 'host', 'forwarded', 'x-real-ip', 'via', 'x-request-id', 'traceparent', 'tracestate', 'x-fleet-token'
])

/** What two names have in common that agents may take for one: CGI and WSGI can't tell `_` from `-`. */
export function headerKey (name: string): string {
  return name.toLowerCase().replaceAll('_', '-')
}

function isReserved (key: string): boolean {
  return reserved.has(key) || key.startsWith('x-forwarded-') || key.startsWith('sec-websocket-')
}

/** What is wrong with the names, and with the values that are there. No value is repeated. @param path where they stand */
export function headerProblems (headers: Readonly<Record<string, unknown>>, path: string): OptionError[] {
  const problems: OptionError[] = []
  const known = new Map<string, string>()
  const names = Object.keys(headers)
  if (names.length > mostFields) problems.push({ path, at: 'value', message: `must have at most ${mostFields} fields` })
  for (const name of names) {
    const at = below(path, name)
    const key = headerKey(name)
    if (!token.test(name)) problems.push({ path: at, at: 'key', message: 'is no name of a header field' })
    else if (isReserved(key)) problems.push({ path: at, at: 'key', message: 'belongs to the connection or is the gateway\'s to say, and can not be set' })
    else if (known.has(key)) problems.push({ path: at, at: 'key', message: `is the same field as ${known.get(key)}` })
    else problems.push(...writtenProblems(headers[name], at))
    known.set(key, name)
  }
  return problems
}

function writtenProblems (value: unknown, path: string): OptionError[] {
  if (typeof value === 'string') {
    const message = valueProblem(value)
    return message === undefined ? [] : [{ path, at: 'value', message }]
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [{ path, at: 'value', message: 'must be a text, in quotes where it looks like a number, or {file: PATH}' }]
  const { file, ...others } = value as Record<string, unknown>
  // The key is not shown: it may be the value itself, as in `{TOKEN}`.
  if (Object.keys(others).length > 0) return [{ path, at: 'value', message: 'must be a text or {file: PATH}, and has another key' }]
  return typeof file === 'string' && file !== '' ? [] : [{ path: below(path, 'file'), at: 'value', message: 'must name a file' }]
}

function valueProblem (value: string): string | undefined {
  if (value === '') return 'must not be empty'
  if (value.length > longestValue) return `must have at most ${longestValue} characters`
  if (!printable.test(value)) return 'must be one line of printable latin1 characters'
  return surrounded.test(value) ? 'must not begin or end with a space' : undefined
}

/** Values that are read, and why others could not be. */
export interface ReadHeaders {
  /** Flat list of names and values, as they are sent. */
  readonly fields: readonly string[]
  readonly errors: readonly OptionError[]
}

/** Reads the files; the names and values that are written have passed headerProblems(). @param path where they stand */
export function readHeaders (headers: AgentHeaders, path: string, readFile?: ReadFile): ReadHeaders {
  const fields: string[] = []
  const errors: OptionError[] = []
  for (const [name, value] of Object.entries(headers)) {
    try {
      fields.push(name, typeof value === 'string' ? value : valueIn(value.file, readFile))
    } catch (error) {
      errors.push({ path: below(below(path, name), 'file'), at: 'value', message: (error as Error).message })
    }
  }
  return { fields, errors }
}

function valueIn (file: string, readFile: ReadFile | undefined): string {
  const value = lineIn(file, readFile)
  const problem = valueProblem(value)
  if (problem !== undefined) throw new Error(`holds what can not be sent: it ${problem} (${file})`)
  return value
}

/** As formatPath() of options.ts writes it. */
function below (path: string, key: string): string {
  return /^\d+$/.test(key) ? `${path}[${key}]` : `${path}.${key === '' ? '""' : key}`
}
