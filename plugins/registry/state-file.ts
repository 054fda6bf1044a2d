/**
 * registry.json in the state folder, with what was registered. The folder is one gateway's alone.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import { makeFolderDurably, removeTemporaryFiles } from '../../src/durable-file.ts'
import type { RegistrationHostRules } from '../../src/fleet/address.ts'
import type { RegistryState } from '../../src/fleet/registry.ts'
import { createFolderLock } from '../../src/folder-lock.ts'
import { createKeptFile } from '../../src/kept-file.ts'
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
const written = ['registry.json', 'revoked.json', 'secret']

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
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log.warn(`${path} can't be used (${(error as Error).message}); this worker begins without its registrations`)
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
  const file = createKeptFile(join(folder, 'registry.json'), {
    log,
    what: 'Registrations',
    without: 'the fleet starts without its registrations',
    beforeWrite: hold // again, where it could not be had at the start
  })
  let unguarded = false

  async function hold (): Promise<void> {
    const problem = await lock.hold()
    if (problem === undefined || unguarded || cantWrite.has(problem.code ?? '')) return
    unguarded = true
    log.warn(`Another gateway that uses ${folder} would not be noticed: there can be no socket in it (${problem.message})`)
  }

  return {
    async load (rules) {
      await makeFolderDurably(folder).catch(() => {}) // what can't be written is told when there is something to write
      await hold()
      await removeTemporaryFiles(folder, written)
      return await file.load(text => readKeptState(text, rules))
    },

    save: snapshot => file.save(snapshot),

    idle: () => file.idle(),

    async close () {
      await file.idle()
      await lock.release()
    }
  }
}
