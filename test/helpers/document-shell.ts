/**
 * One bash for a document, as a reader has one terminal for it: variables, functions and the working folder stay from command to command.
 * What it started is ended with the test.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import { headsVariable } from './command-shims.ts'
import { unmeasured } from './unmeasured.ts'

/** What came of a command. */
export interface CommandResult {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
  /** Of what its curls were answered, in order. */
  readonly httpStatuses: readonly number[]
}

/** A command that serves until it is told to end. */
export interface RunningCommand {
  /** Resolves when it has printed this. @throws Error when it ends before, or takes too long */
  printed (pattern: RegExp): Promise<RegExpExecArray>
  /**
   * As a terminal's Ctrl-C or a service manager does: the signal reaches everything it started.
   * @returns the exit code
   * @throws Error when it takes too long; it is ended for good then
   */
  stop (signal: NodeJS.Signals): Promise<number>
}

/** No command of a document may take longer. */
const patienceMs = 30_000

export class DocumentShell {
  readonly #bash: ChildProcess
  readonly #scratch: string
  readonly #answers: AsyncIterator<string>
  readonly #ends = new EventEmitter()
  readonly #groups = new Set<number>()
  #count = 0

  /** @param folder where commands run */
  constructor (t: Test, folder: string, env: Readonly<Record<string, string>>) {
    this.#scratch = join(folder, 'home/commands')
    mkdirSync(this.#heads, { recursive: true })
    // Detached is a group of its own, so that what a command leaves in the background can be found.
    this.#bash = spawn(...unmeasured('bash', '--noprofile', '--norc'), {
      cwd: folder, detached: true, env: { ...env, [headsVariable]: this.#heads }, stdio: ['pipe', 'ignore', 'inherit', 'pipe', 'pipe', 'pipe']
    })
    this.#answers = createInterface(this.#pipe(3))[Symbol.asyncIterator]()
    this.#outputOfRunning.resume()
    createInterface(this.#pipe(5)).on('line', line => {
      const [name = '', code] = line.split(' ')
      this.#ends.emit(name, Number(code))
    })
    const closed = once(this.#bash, 'close')
    t.teardown(async () => {
      for (const group of [this.#bash.pid, ...this.#groups]) signalGroup(group, 'SIGKILL')
      await closed
    })
  }

  get #heads (): string {
    return join(this.#scratch, 'heads')
  }

  get #outputOfRunning (): Readable {
    return this.#pipe(4)
  }

  #pipe (fd: number): Readable {
    return (this.#bash.stdio as readonly unknown[])[fd] as Readable
  }

  /** Runs a command to its end. @throws Error when it takes too long, or ends the shell */
  async run (command: string): Promise<CommandResult> {
    const file = this.#write(command)
    const exitCode = await this.#ask(`. '${file}' </dev/null >'${file}.out' 2>'${file}.err'; echo $? >&3`)
    return { exitCode, stdout: readFileSync(`${file}.out`, 'utf8'), stderr: readFileSync(`${file}.err`, 'utf8'), httpStatuses: this.#takeStatuses() }
  }

  /** Starts a command, in a process group of its own. @param env for this command alone */
  async start (command: string, env: Readonly<Record<string, string>> = {}): Promise<RunningCommand> {
    const file = this.#write(`${Object.entries(env).map(([name, value]) => `export ${name}='${value}'`).join('\n')}\n${command}`)
    let output = ''
    this.#outputOfRunning.on('data', (chunk: Buffer) => { output += chunk.toString() })
    const ended = once(this.#ends, file).then(([code]) => code as number)
    // The shell around it outlives the signal, to tell what the command itself ended with.
    const group = await this.#ask(`set -m; ( trap : TERM INT; . '${file}'; echo "${file} $?" >&5 ) </dev/null >&4 2>&1 & set +m; echo $! >&3`)
    this.#groups.add(group)
    return {
      printed: async pattern => {
        const tooLate = AbortSignal.timeout(patienceMs)
        for (;;) {
          const match = pattern.exec(output)
          if (match !== null) return match
          const more = once(this.#outputOfRunning, 'data', { signal: tooLate }).catch(() => { throw new Error(`it did not print ${pattern}:\n${output}`) })
          await Promise.race([more, ended.then(code => { throw new Error(`it ended with ${code} before it printed ${pattern}:\n${output}`) })])
        }
      },
      stop: async signal => {
        signalGroup(group, signal)
        return await within(patienceMs, ended).finally(() => {
          signalGroup(group, 'SIGKILL')
          this.#groups.delete(group)
        })
      }
    }
  }

  /** What the curls since the last call were answered: of each the last status, since interim ones come before. */
  #takeStatuses (): number[] {
    const files = readdirSync(this.#heads).map(name => join(this.#heads, name)).sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs)
    return files.flatMap(file => {
      const statuses = readFileSync(file, 'latin1').match(/(?<=^HTTP\/[\d.]+ )\d{3}/gm) ?? []
      rmSync(file)
      return statuses.slice(-1).map(Number)
    })
  }

  #write (command: string): string {
    const file = join(this.#scratch, `${++this.#count}.sh`)
    writeFileSync(file, `${command}\n`)
    return file
  }

  /** Has bash run a line that answers with a number. */
  async #ask (line: string): Promise<number> {
    this.#bash.stdin!.write(`${line}\n`)
    const { value, done } = await within(patienceMs, this.#answers.next())
    if (done === true) throw new Error('it ended the shell')
    return Number(value)
  }
}

async function within<T> (ms: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const tooLate = new Promise<never>((_resolve, reject) => { timer = setTimeout(() => reject(new Error(`it took longer than ${ms / 1_000} s`)), ms) })
  return await Promise.race([promise, tooLate]).finally(() => clearTimeout(timer))
}

function signalGroup (group: number | undefined, signal: NodeJS.Signals): void {
  try {
    if (group !== undefined) process.kill(-group, signal)
  } catch {} // it is over
}
