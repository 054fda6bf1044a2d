/**
 * A file of the state folder: read at the start, written whole and durably, one write at a time; what came during a write is in the next. Whatever is
 * wrong with it is a warning; what could not be read is never written over.
 */
import { readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { makeFolderDurably, writeFileDurably } from './durable-file.ts'

export interface KeptFile {
  /**
   * What `read` makes of the file's text; undefined for a first start. A file that it throws for is set aside with a warning. Where that fails, or the
   * file can't be read, saves are refused from then on.
   */
  load<T> (read: (text: string) => T): Promise<T | undefined>
  /** Resolves when a value taken after this call is on disk, as JSON. */
  save (snapshot: () => unknown): Promise<void>
  /** Resolves when no write is under way. */
  idle (): Promise<void>
}

export interface KeptFileOptions {
  readonly log: FastifyBaseLogger
  /** What is kept there: `Registrations`. */
  readonly what: string
  /** What follows when it can't be had: `the fleet starts without its registrations`. */
  readonly without: string
  /** Called before each write, when the folder is there. */
  readonly beforeWrite?: () => Promise<void>
}

/** The file at this path, readable by its owner alone. Its folder is made when something is written. */
export function createKeptFile (path: string, { log, what, without, beforeWrite = async () => {} }: KeptFileOptions): KeptFile {
  let writing: Promise<void> = Promise.resolve()
  let next: Promise<void> | null = null
  /** Why the file must stay as it is. */
  let untouchable: string | null = null

  function leaveAlone (reason: string): void {
    untouchable = reason
    log.warn(`${reason}; ${without}, and new ones can't be kept until that is put right and the gateway restarts`)
  }

  async function setAside (problem: unknown): Promise<void> {
    const damage = `${path} is damaged (${messageOf(problem)})`
    const aside = `${path}.damaged-${Date.now()}`
    try {
      await rename(path, aside)
      log.warn(`${damage}; it was set aside as ${aside}, and ${without}`)
    } catch (error) {
      leaveAlone(`${damage} and can't be set aside (${messageOf(error)})`)
    }
  }

  return {
    async load (read) {
      let text
      try {
        text = await readFile(path, 'utf8')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') leaveAlone(`${path} can't be read (${messageOf(error)})`)
        return undefined
      }
      try {
        return read(text)
      } catch (error) {
        await setAside(error)
        return undefined
      }
    },

    async save (snapshot) {
      if (untouchable !== null) throw new Error(`${what} can't be kept: ${untouchable}`)
      next ??= writing.catch(() => {}).then(async () => {
        next = null
        await makeFolderDurably(dirname(path))
        await beforeWrite()
        await writeFileDurably(path, JSON.stringify(snapshot(), null, 1) + '\n', { mode: 0o600 })
      })
      writing = next
      return next
    },

    async idle () {
      await writing.catch(() => {})
    }
  }
}

function messageOf (error: unknown): string {
  return (error as Error).message
}
