/**
 * What a command may touch of the process; main.ts hands it over, tests hand over their own.
 */
import type { Readable, Writable } from 'node:stream'
import { stripVTControlCharacters } from 'node:util'
import pc from 'picocolors'

/** A stream that may be a terminal. */
export interface Terminal {
  readonly isTTY?: boolean
  /** Width in characters. */
  readonly columns?: number
  /** Height in lines. */
  readonly rows?: number
}

export interface CommandIo {
  /** How this program was called, for hints that can be copied: `fleet-gateway`, `node dist/src/main.js`. */
  readonly self: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdin: Readable & Terminal
  /** For the data that a command was asked for; `serve` leaves it to the audit log. */
  readonly stdout: Writable & Terminal
  /** For people: progress, questions, failures. */
  readonly stderr: Writable & Terminal
  /** Calls `listener` for each SIGTERM, SIGINT, SIGHUP, and the others that are named, until the returned function leaves them to the system again. */
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void, others?: readonly NodeJS.Signals[]) => () => void
  /** Ends the process at once. */
  readonly exit: (code: number) => never
}

/** A Ctrl-C reaches the process twice, by the terminal and by npm; only a later signal means impatience. */
export const sameSignalMs = 500

/** Exit codes (CONTRACT: command line). */
export const exitCodes = { good: 0, failed: 1, wrongUsage: 2 } as const

/** A failure with its cure in one line; no stack is shown for it. Without a message, everything is said already. */
export class CommandError extends Error {
  readonly exitCode: number
  constructor (message = '', exitCode: number = exitCodes.failed) {
    super(message)
    this.exitCode = exitCode
  }
}

/** Writes a line for people. */
export function say ({ stderr }: Pick<CommandIo, 'stderr'>, line: string): void {
  stderr.write(`${onlyColours(line)}\n`)
}

/** Writes data that was asked for. */
export function print ({ stdout }: Pick<CommandIo, 'stdout'>, text: string): void {
  stdout.write(`${onlyColours(text)}\n`)
}

/** What stands for a character that is not shown. */
const notShown = '\ufffd'

/** Control characters, but for the line break; what turns the direction of writing, so that a line reads as another; further line breaks. */
// eslint-disable-next-line no-control-regex
const orders = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g

/** Text from elsewhere without what a terminal would take for orders (escape sequences and other control characters). */
export function plain (text: string): string {
  return stripVTControlCharacters(text).replace(orders, notShown)
}

/** A value from elsewhere as it may be shown: every text in it, and every key, is plain and on one line. */
export function legible<T> (value: T): T {
  if (typeof value === 'string') return plain(value.replaceAll(/[\t\r\n]+/g, ' ')) as T
  if (Array.isArray(value)) return value.map(legible) as T
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [legible(key), legible(inner)])) as T
}

/** The last guard before a terminal: whatever a text is made of, only line breaks and the program's own colours are left of its control characters. */
export function onlyColours (text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.split(/(\u001b\[\d{1,2}m)/).map((part, index) => index % 2 === 1 ? part : part.replace(orders, notShown)).join('')
}

/**
 * As `--json` has it: two spaces on a terminal, and the same in a pipe, so that both can be read and compared.
 */
export function printJson (io: Pick<CommandIo, 'stdout'>, value: unknown): void {
  print(io, harmlessJson(value, 2))
}

/** JSON itself escapes the first 32 control characters alone; the others are escaped here, since the terminal is the same. */
export function harmlessJson (value: unknown, indent = 0): string {
  return JSON.stringify(value, null, indent).replace(orders, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

export type Colors = ReturnType<typeof pc.createColors>

/** The colours for a stream: none off a terminal, on a dumb one, or where NO_COLOR is set (https://no-color.org); FORCE_COLOR wins over the first two. */
export function colorsFor (stream: Terminal, { NO_COLOR, FORCE_COLOR, TERM }: CommandIo['env']): Colors {
  if (isSet(NO_COLOR)) return pc.createColors(false)
  return pc.createColors(isSet(FORCE_COLOR) ? FORCE_COLOR !== '0' : stream.isTTY === true && TERM !== 'dumb')
}

function isSet (variable: string | undefined): boolean {
  return variable !== undefined && variable !== ''
}
