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
  /** Calls `listener` for each SIGTERM, SIGINT and SIGHUP. */
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => void
  /** Ends the process at once. */
  readonly exit: (code: number) => never
}

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
  stderr.write(`${line}\n`)
}

/** Writes data that was asked for. */
export function print ({ stdout }: Pick<CommandIo, 'stdout'>, text: string): void {
  stdout.write(`${text}\n`)
}

/** Text from elsewhere without what a terminal would take for orders (escape sequences and other control characters). */
export function plain (text: string): string {
  // eslint-disable-next-line no-control-regex
  return stripVTControlCharacters(text).replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '\ufffd')
}

/** As `--json` has it: two spaces on a terminal, and the same in a pipe, so that both can be read and compared. */
export function printJson (io: Pick<CommandIo, 'stdout'>, value: unknown): void {
  print(io, JSON.stringify(value, null, 2))
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
