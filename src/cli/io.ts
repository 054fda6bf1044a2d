/**
 * What a command may touch of the process; main.ts hands it over, tests hand over their own.
 */

export interface CommandIo {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Standard error: for people. Standard output is the audit log's. */
  readonly say: (line: string) => void
  /** A person reads what is said, not a log. */
  readonly isTerminal: boolean
  /** Calls `listener` for each SIGTERM, SIGINT and SIGHUP. */
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => void
  /** Ends the process at once. */
  readonly exit: (code: number) => never
}

/** A failure with its cure in one line; no stack is shown for it. */
export class CommandError extends Error {
  readonly exitCode: number
  constructor (message: string, exitCode = 1) {
    super(message)
    this.exitCode = exitCode
  }
}
