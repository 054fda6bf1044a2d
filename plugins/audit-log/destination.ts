/**
 * Where audit lines go: a file that is appended to, or standard output. One write at a time; what comes meanwhile is in the next.
 * Not pino.destination(): its flushSync() repeats a failed write for ever, so that a full disk would hang the process at its exit.
 */
import { accessSync, close, constants, fstatSync, mkdirSync, openSync, statSync, write, writeSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

/** Takes text; one that throws loses it. */
export interface AuditDestination {
  write (text: string): unknown
  /** Everything is written, or given up, when this returns. */
  flushSync? (): void
  /** Ends it; everything is written, or given up, when the promise resolves. */
  end? (): void | Promise<void>
}

/** A destination of ours. */
export interface OpenDestination extends AuditDestination {
  /** The file that has its name now is another, or there is none: it was rotated. */
  readonly isElsewhere: boolean
}

const standardOutput = 1
/** As `a`; and a pipe that is full, or that nobody reads, holds nobody up. Windows has no such pipes. */
const appending = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | (constants.O_NONBLOCK ?? 0)
/** Owner and group may read it. */
const fileMode = 0o640
/** What may wait for a slow disk; lines that come when it is full are lost. */
const maxPendingLength = 16 * 1024 * 1024
/** A pipe whose reader is slow is tried again after this time, */
const busyMs = 50
/** and at the end of the process not for longer than this. */
const patienceMs = 1_000

/** So much goes into a pipe in one piece, whoever else writes to it, as other workers do (POSIX has 512 at least, Linux this). */
const atomicBytes = 4_096
const lineFeed = 10

const writeAsync = promisify(write)

/**
 * Opens `file` for appending, with its folder; standard output when it is left out.
 * @param onError told of each failure, and that the lines at hand were lost
 * @throws NodeJS.ErrnoException when the file can't be opened
 */
export function openDestination (file: string | undefined, onError: (error: Error) => void): OpenDestination {
  if (file === undefined) return new DescriptorDestination(standardOutput, undefined, onError)
  mkdirSync(dirname(file), { recursive: true })
  return new DescriptorDestination(openSync(file, appending, fileMode), file, onError)
}

/** Why openDestination() would fail, as a predicate; undefined when it would not. Opens and makes nothing. */
export function destinationProblem (file: string): string | undefined {
  try {
    const found = statSync(file, { throwIfNoEntry: false })
    if (found === undefined) return folderProblem(dirname(resolve(file)))
    if (found.isDirectory()) return `can't be written: ${file} is a folder`
    accessSync(file, constants.W_OK)
    return undefined
  } catch (error) {
    return `can't be written: ${(error as Error).message}`
  }
}

/** Of a folder in which something is to be made, or that is to be made itself. @throws what node:fs throws */
function folderProblem (folder: string): string | undefined {
  const found = statSync(folder, { throwIfNoEntry: false })
  if (found === undefined) return folderProblem(dirname(folder))
  if (!found.isDirectory()) return `can't be written: ${folder} is no folder`
  accessSync(folder, constants.W_OK | constants.X_OK)
  return undefined
}

class DescriptorDestination implements OpenDestination {
  readonly #fd: number
  readonly #file: string | undefined
  readonly #onError: (error: Error) => void
  readonly #isPipe: boolean
  #pending: string[] = []
  #pendingLength = 0
  #draining: Promise<void> | null = null
  /** Until then a busy pipe is tried again. */
  #giveUpAt = Infinity
  /** The number of a file that was closed may be another file's by now. */
  #isEnded = false

  constructor (fd: number, file: string | undefined, onError: (error: Error) => void) {
    this.#fd = fd
    this.#file = file
    this.#onError = onError
    this.#isPipe = fstatSync(fd).isFIFO()
  }

  get isElsewhere (): boolean {
    if (this.#file === undefined) return false
    if (this.#isEnded) return true
    try {
      const [own, named] = [fstatSync(this.#fd), statSync(this.#file)]
      return own.ino !== named.ino || own.dev !== named.dev
    } catch {
      return true
    }
  }

  write (text: string): void {
    if (this.#isEnded) {
      this.#onError(new Error('The audit log was closed before a line of it came'))
      return
    }
    if (this.#pendingLength + text.length > maxPendingLength) {
      this.#onError(new Error('The audit log is written too slowly'))
      return
    }
    this.#pending.push(text)
    this.#pendingLength += text.length
    this.#draining ??= this.#drain()
  }

  flushSync (): void {
    const giveUpAt = performance.now() + patienceMs
    let rest = this.#take()
    try {
      while (rest.length > 0) rest = rest.subarray(this.#writeSomeSync(this.#piece(rest), giveUpAt))
    } catch (error) {
      this.#onError(error as Error)
    }
  }

  async end (): Promise<void> {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#giveUpAt = performance.now() + patienceMs
    await this.#draining
    if (this.#fd !== standardOutput) await promisify(close)(this.#fd).catch(this.#onError)
  }

  /** What is written next: all of it, or as many whole lines as nobody else's get between. */
  #piece (bytes: Buffer): Buffer {
    if (!this.#isPipe || bytes.length <= atomicBytes) return bytes
    const last = bytes.lastIndexOf(lineFeed, atomicBytes - 1)
    const end = last === -1 ? bytes.indexOf(lineFeed, atomicBytes) : last // a longer line goes alone
    return end === -1 ? bytes : bytes.subarray(0, end + 1)
  }

  #take (): Buffer {
    const text = this.#pending.join('')
    this.#pending = []
    this.#pendingLength = 0
    return Buffer.from(text)
  }

  async #drain (): Promise<void> {
    await Promise.resolve() // what is flushed at once, like the last lines before an exit, must not be under way already
    while (this.#pendingLength > 0) {
      let rest = this.#take()
      try {
        while (rest.length > 0) rest = rest.subarray(await this.#writeSome(this.#piece(rest)))
      } catch (error) {
        this.#onError(error as Error)
      }
    }
    this.#draining = null
  }

  /** @returns how many bytes were written */
  async #writeSome (bytes: Buffer): Promise<number> {
    try {
      return (await writeAsync(this.#fd, bytes)).bytesWritten
    } catch (error) {
      if (!isBusy(error) || performance.now() > this.#giveUpAt) throw error
      await sleep(busyMs)
      return 0
    }
  }

  #writeSomeSync (bytes: Buffer, giveUpAt: number): number {
    try {
      return writeSync(this.#fd, bytes)
    } catch (error) {
      if (!isBusy(error) || performance.now() > giveUpAt) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, busyMs)
      return 0
    }
  }
}

function isBusy (error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'EAGAIN'
}
