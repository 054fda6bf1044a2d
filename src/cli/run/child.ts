/**
 * The program that `run` starts: with the terminal, the streams and the environment of the runner, and exit codes as shells have them.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { CommandError } from '../io.ts'

/** As shells say that a program is there but can't be run, and that there is none (POSIX, 2.8.2). */
const cannotRun = 126
const notFound = 127

export interface Program {
  /** Resolves with its exit code, or 128 and the number of the signal that ended it. */
  readonly ended: Promise<number>
  /** Sends it a signal; nothing when it is over. */
  signal (name: NodeJS.Signals): void
}

/** Starts a program. @throws CommandError with the exit code that a shell would give */
export async function startProgram ([file, ...args]: readonly [string, ...string[]], env: Readonly<Record<string, string | undefined>>): Promise<Program> {
  // In the runner's own process group: so it may read from the terminal, and Ctrl-C and Ctrl-Z reach it as ever.
  const child = spawn(file, args, { env, stdio: 'inherit' })
  const ended = new Promise<number>(resolve => {
    child.once('exit', (code, signal) => resolve(code ?? exitCodeOf(signal!)))
  })
  try {
    await once(child, 'spawn')
  } catch (error) {
    throw refusal(file, error as NodeJS.ErrnoException)
  }
  return {
    ended,
    signal: name => { child.kill(name) }
  }
}

/** The exit code of what a signal ended. */
function exitCodeOf (signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal]
}

function refusal (file: string, { code, message }: NodeJS.ErrnoException): CommandError {
  if (code === 'ENOENT') return new CommandError(`${file} is not found: is it installed, and on the PATH?`, notFound)
  if (code === 'EACCES') return new CommandError(`${file} can't be run: it is no program, or you may not execute it`, cannotRun)
  return new CommandError(`${file} can't be run: ${message}`, cannotRun)
}
