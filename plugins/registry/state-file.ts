/**
 * registry.json in the state folder: written whole, by fsync and rename, one write at a time; what came during a write is in the next.
 * Whatever is wrong with it is a warning; what could not be read is never written over.
 */
import { mkdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import writeFileAtomic from 'write-file-atomic'
import type { RegistrationHostRules } from '../../src/fleet/address.ts'
import type { RegistryState } from '../../src/fleet/registry.ts'
import { readKeptState, type KeptState } from './kept-state.ts'

export interface StateFile {
  /**
   * What was kept; undefined for a first start. A damaged file is set aside with a warning. Where that fails, or the file can't be read,
   * saves are refused from then on.
   */
  load (rules?: RegistrationHostRules): Promise<KeptState | undefined>
  /** Resolves when a state taken after this call is on disk. */
  save (snapshot: () => RegistryState): Promise<void>
  /** Resolves when no write is under way. */
  idle (): Promise<void>
}

/** The file `registry.json` in `folder`, which is made when it is first needed. */
export function createStateFile (folder: string, log: FastifyBaseLogger): StateFile {
  const path = join(folder, 'registry.json')
  let writing: Promise<void> = Promise.resolve()
  let next: Promise<void> | null = null
  /** Why the file must stay as it is. */
  let untouchable: string | null = null

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
        await mkdir(folder, { recursive: true, mode: 0o700 })
        await writeFileAtomic(path, JSON.stringify(snapshot(), null, 1) + '\n', { mode: 0o600 })
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
