/**
 * One bash for a document, as a reader has one terminal for it: variables, functions and the working folder stay from command to command.
 * What it started is ended with the test.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import { statusFileVariable } from './command-shims.ts'

/** What came of a command. */
export interface CommandResult {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
  /** Of what its curls were answered, in order. */
  readonly httpStatuses: readonly number[]
}

/** A command that serves until it is told to end. The shell waits for it, so nothing else can be run meanwhile. */
export interface RunningCommand {
  /** Resolves when it has printed this. @throws Error when it ends before, or takes too long */
  printed (pattern: RegExp): Promise<RegExpExecArray>
  /** As a terminal's Ctrl-C or a service manager does: the signal reaches everything it started. @returns the exit code */
  stop (signal: NodeJS.Signals): Promise<number>
}

/** No command of a document may take longer. */
const patienceMs = 30_000

export class DocumentShell {
  readonly #bash: ChildProcess
  readonly #scratch: string
  readonly #answers: AsyncIterator<string>
  readonly #groups = new Set<number>()
  #count = 0

  /** @param folder where commands run */
  constructor (t: Test, folder: string, env: Readonly<Record<string, string>>) {
    this.#scratch = join(folder, 'home/commands')
    mkdirSync(this.#scratch)
    // Detached is a group of its own, so that what a command leaves in the background can be found.
    this.#bash = spawn('bash', ['--noprofile', '--norc'], {
      cwd: folder, detached: true, env: { ...env, [statusFileVariable]: this.#statusFile }, stdio: ['pipe', 'ignore', 'inherit', 'pipe', 'pipe']
    })
    this.#answers = createInterface(this.#bash.stdio[3] as Readable)[Symbol.asyncIterator]()
    this.#outputOfRunning.resume()
    const closed = once(this.#bash, 'close')
    t.teardown(async () => {
      for (const group of [this.#bash.pid, ...this.#groups]) signalGroup(group, 'SIGKILL')
      await closed
    })
  }

  get #statusFile (): string {
    return join(this.#scratch, 'statuses')
  }

  get #outputOfRunning (): Readable {
    return this.#bash.stdio[4] as Readable
  }

  /** Runs a command to its end. @throws Error when it takes too long, or ends the shell */
  async run (command: string): Promise<CommandResult> {
    const file = this.#write(command)
    rmSync(this.#statusFile, { force: true })
    this.#tell(`. '${file}' </dev/null >'${file}.out' 2>'${file}.err'; echo $? >&3`)
    const exitCode = await this.#nextNumber()
    const httpStatuses = existsSync(this.#statusFile) ? readFileSync(this.#statusFile, 'utf8').trim().split('\n').map(Number) : []
    return { exitCode, stdout: readFileSync(`${file}.out`, 'utf8'), stderr: readFileSync(`${file}.err`, 'utf8'), httpStatuses }
  }

  /** Starts a command, in a process group of its own. @param env for this command alone */
  async start (command: string, env: Readonly<Record<string, string>> = {}): Promise<RunningCommand> {
    const file = this.#write(`${Object.entries(env).map(([name, value]) => `export ${name}='${value}'`).join('\n')}\n${command}`)
    let output = ''
    const onOutput = (chunk: Buffer) => { output += chunk.toString() }
    this.#outputOfRunning.on('data', onOutput)
    // The shell around it outlives the signal, to tell what the command itself ended with.
    this.#tell(`set -m; ( trap : TERM INT; . '${file}' ) </dev/null >&4 2>&1 & set +m; echo $! >&3; wait $! 2>/dev/null; echo $? >&3`)
    const group = await this.#nextNumber()
    this.#groups.add(group)
    const ended = this.#nextNumber(2 * patienceMs)
    ended.catch(() => {}) // whoever waits for it is told
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
        const code = await ended
        this.#outputOfRunning.off('data', onOutput)
        this.#groups.delete(group)
        return code
      }
    }
  }

  #write (command: string): string {
    const file = join(this.#scratch, `${++this.#count}.sh`)
    writeFileSync(file, `${command}\n`)
    return file
  }

  #tell (line: string): void {
    this.#bash.stdin!.write(`${line}\n`)
  }

  async #nextNumber (withinMs = patienceMs): Promise<number> {
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<never>((_resolve, reject) => { timer = setTimeout(() => reject(new Error(`it took longer than ${withinMs / 1_000} s`)), withinMs) })
    try {
      const { value, done } = await Promise.race([this.#answers.next(), tooLate])
      if (done === true) throw new Error('it ended the shell')
      return Number(value)
    } finally {
      clearTimeout(timer)
    }
  }
}

function signalGroup (group: number | undefined, signal: NodeJS.Signals): void {
  try {
    if (group !== undefined) process.kill(-group, signal)
  } catch {} // it is over
}
