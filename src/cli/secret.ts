/**
 * Where the shared secret comes from: flag, environment, file of the environment, fleet.yaml, else one made at random and kept.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import writeFileAtomic from 'write-file-atomic'
import type { FleetConfigInput } from '../config.ts'
import { CommandError } from './io.ts'

export interface FoundSecret {
  /** Undefined when fleet.yaml has it: the auth plugin reads it there. */
  readonly secret: string | undefined
  /** For people: `--secret`, `FLEET_SECRET`, a file, …; never the secret. */
  readonly from: string
  /** It was made just now, so that it has to be named once. */
  readonly isNew: boolean
}

const fewestCharacters = 8

/** @throws CommandError when a source is there but no good */
export async function findSecret (flag: string | undefined, env: Readonly<Record<string, string | undefined>>, auth: FleetConfigInput['auth'], stateDir: string): Promise<FoundSecret> {
  if (flag !== undefined) return { secret: checked(flag, '--secret'), from: '--secret', isNew: false }
  const { FLEET_SECRET: fromEnv, FLEET_SECRET_FILE: file } = env
  if (fromEnv !== undefined && fromEnv !== '') return { secret: checked(fromEnv, 'FLEET_SECRET'), from: 'FLEET_SECRET', isNew: false }
  if (file !== undefined && file !== '') {
    const text = await readFile(file, 'utf8').catch((error: Error) => { throw new CommandError(`FLEET_SECRET_FILE can't be read: ${error.message}`) })
    return { secret: checked(text.trim(), `FLEET_SECRET_FILE (${file})`), from: `FLEET_SECRET_FILE (${file})`, isNew: false }
  }
  if (auth?.secret !== undefined || auth?.secretFile !== undefined || (auth?.keys?.length ?? 0) > 0) return { secret: undefined, from: 'fleet.yaml', isNew: false }
  return keptSecret(join(stateDir, 'secret'), stateDir)
}

async function keptSecret (path: string, stateDir: string): Promise<FoundSecret> {
  const kept = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new CommandError(`The kept secret can't be read: ${error.message}`)
  })
  if (kept !== undefined && kept.trim().length >= fewestCharacters) return { secret: checked(kept.trim(), path), from: path, isNew: false }
  const secret = randomBytes(24).toString('base64url')
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 })
    await writeFileAtomic(path, `${secret}\n`, { mode: 0o600 })
  } catch (error) {
    throw new CommandError(`A new secret can't be kept: ${(error as Error).message}. Give one with FLEET_SECRET`)
  }
  return { secret, from: path, isNew: true }
}

function checked (secret: string, from: string): string {
  if (secret.length < fewestCharacters || !/^[!-~]+$/.test(secret)) throw new CommandError(`The secret of ${from} must be ${fewestCharacters} or more printable characters without spaces`)
  return secret
}
