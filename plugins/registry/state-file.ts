/**
 * registry.json in the state folder: written whole and durably, one write at a time; what came during a write is in the next. Whatever is wrong
 * with it is a warning; what could not be read is never written over. The folder is one gateway's alone.
 */
import { readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { makeFolderDurably, removeTemporaryFiles, writeFileDurably } from '../../src/durable-file.ts'
import type { RegistrationHostRules } from '../../src/fleet/address.ts'
import type { RegistryState } from '../../src/fleet/registry.ts'
import { createFolderLock } from '../../src/folder-lock.ts'
import { readKeptState, type KeptState } from './kept-state.ts'

export interface StateFile {
  /**
   * What was kept; undefined for a first start. A damaged file is set aside with a warning. Where that fails, or the file can't be read,
   * saves are refused from then on.
   * @throws FolderInUseError when another gateway uses the folder
   */
  load (rules?: RegistrationHostRules): Promise<KeptState | undefined>
  /** Resolves when a state taken after this call is on disk. */
  save (snapshot: () => RegistryState): Promise<void>
  /** Resolves when no write is under way. */
  idle (): Promise<void>
  /** As idle(), and leaves the folder to others. */
  close (): Promise<void>
}

/** What killed gateways may have left half written. */
const written = ['registry.json', 'secret']

/** Who can't make a socket for one of these reasons can't write there either, which is said when there is something to write. */
const cantWrite = new Set(['EACCES', 'EDQUOT', 'ENOENT', 'ENOSPC', 'ENOTDIR', 'EROFS'])

/**
 * What another process keeps, for one that only reads it: the worker that writes has the folder. What is wrong with the file it says, and sets nothing
 * aside.
 */
export function createStateReader (folder: string, log: FastifyBaseLogger): StateFile {
  const path = join(folder, 'registry.json')
  return {
    async load (rules) {
      try {
        return readKeptState(await readFile(path, 'utf8'), rules)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log.warn(`${path} can't be used (${messageOf(error)}); this worker begins without its registrations`)
        return undefined
      }
    },
    save: async () => {},
    idle: async () => {},
    close: async () => {}
  }
}

/** The file `registry.json` in `folder`, which is made if it is not there. */
export function createStateFile (folder: string, log: FastifyBaseLogger, lock = createFolderLock(folder)): StateFile {
  const path = join(folder, 'registry.json')
  let writing: Promise<void> = Promise.resolve()
  let next: Promise<void> | null = null
  /** Why the file must stay as it is. */
  let untouchable: string | null = null

  let unguarded = false

  async function hold (): Promise<void> {
    const problem = await lock.hold()
    if (problem === undefined || unguarded || cantWrite.has(problem.code ?? '')) return
    unguarded = true
    log.warn(`Another gateway that uses ${folder} would not be noticed: there can be no socket in it (${problem.message})`)
  }

  function leaveAlone (reason: string): void {
    untouchable = reason
    log.warn(`${reason}; the fleet starts without its registrations, and new ones are refused until that is put right and the gateway restarts`)
  }

  async function setAside (problem: unknown): Promise<void> {
    const damage = `${path} is damaged (${messageOf(problem)})`
    const aside = `${path}.damaged-${Date.now()}`
    try {
      await rename(path, aside)
      log.warn(`${damage}; it was set aside as ${aside}, and the fleet starts without its registrations`)
    } catch (error) {
      leaveAlone(`${damage} and can't be set aside (${messageOf(error)})`)
    }
  }

  return {
    async load (rules) {
      await makeFolderDurably(folder).catch(() => {}) // what can't be written is told when there is something to write
      await hold()
      await removeTemporaryFiles(folder, written)
      let text
      try {
        text = await readFile(path, 'utf8')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') leaveAlone(`${path} can't be read (${messageOf(error)})`)
        return undefined
      }
      try {
        return readKeptState(text, rules)
      } catch (error) {
        await setAside(error)
        return undefined
      }
    },

    async save (snapshot) {
      if (untouchable !== null) throw new Error(`Registrations can't be kept: ${untouchable}`)
      next ??= writing.catch(() => {}).then(async () => {
        next = null
        await makeFolderDurably(folder)
        await hold() // again, where it could not be had at the start
        await writeFileDurably(path, JSON.stringify(snapshot(), null, 1) + '\n', { mode: 0o600 })
      })
      writing = next
      return next
    },

    async idle () {
      await writing.catch(() => {})
    },

    async close () {
      await writing.catch(() => {})
      await lock.release()
    }
  }
}

function messageOf (error: unknown): string {
  return (error as Error).message
}
