/**
 * registry.json in the state folder: written whole, by fsync and rename, one write at a time; what came during a write is in the next.
 */
import { mkdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import writeFileAtomic from 'write-file-atomic'
import type { RegistryState } from '../../src/fleet/registry.ts'

export interface StateFile {
  /** What was kept; undefined for a first start. A damaged file is set aside with a warning. */
  load (): Promise<RegistryState | undefined>
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

  return {
    async load () {
      const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined
        throw error
      })
      if (text === undefined) return undefined
      try {
        return parseState(text)
      } catch (error) {
        const aside = `${path}.damaged-${Date.now()}`
        await rename(path, aside)
        log.warn(`${path} is damaged (${(error as Error).message}); it was set aside as ${aside}, and the fleet starts without its registrations`)
        return undefined
      }
    },

    save (snapshot) {
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

function parseState (text: string): RegistryState {
  const state = JSON.parse(text) as Partial<RegistryState> | null
  if (state?.version !== 1) throw new Error('unknown version')
  if (!Array.isArray(state.agents)) throw new Error('no agents')
  for (const agent of state.agents) {
    if (typeof agent?.name !== 'string' || !Array.isArray(agent.instances)) throw new Error('an agent without name or instances')
    for (const { host, port } of agent.instances) {
      if (typeof host !== 'string' || !Number.isInteger(port)) throw new Error(`an instance of ${agent.name} without host or port`)
    }
  }
  return state as RegistryState
}
