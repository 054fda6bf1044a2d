/**
 * Where the token comes from: flag, environment, file of the environment, fleet.yaml, else the one that was made at random and kept.
 * `serve` makes one where there is none; the client commands only look.
 */
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { FleetConfigInput } from '../config.ts'
import { makeFolderDurably, writeFileDurably } from '../durable-file.ts'
import { mostTokenFileBytes, shownPath, tokenLength } from '../token-file.ts'
import { CommandError, exitCodes, type CommandIo } from './io.ts'
import type { ValueSource } from './overrides.ts'

export interface FoundSecret {
  /** Undefined when fleet.yaml has it: the auth plugin reads it there. */
  readonly secret: string | undefined
  /** For people: `--secret`, `FLEET_SECRET`, a file, …; never the secret. */
  readonly from: string
  /** The same for programs; the default when fleet.yaml has it. */
  readonly source: ValueSource
  /** It is the one that was made here, now or earlier; what fleet.yaml says from now on counts more. */
  readonly isOwn: boolean
  /** It was made just now, so that it has to be named once. */
  readonly isNew: boolean
  /** Keeps a new one for the next start: to be called when nothing can fail any more before it is named. @throws CommandError */
  keep (): Promise<void>
}

const nothingToKeep = async () => {}

/** A token to open a gateway with. */
export interface ClientToken {
  readonly token: string
  readonly from: string
}

/** One that flag or environment gave. */
interface GivenToken extends ClientToken {
  readonly source: ValueSource
}

type Auth = FleetConfigInput['auth']

/**
 * What `serve` asks its clients for.
 * @param stateDir where a secret that has to be made is kept
 * @throws CommandError when a source is there but no good
 */
export async function findSecret (flag: string | undefined, env: CommandIo['env'], auth: Auth, stateDir: string): Promise<FoundSecret> {
  const given = await givenToken(flag, env)
  if (given !== undefined) return { secret: given.token, from: given.from, source: given.source, isOwn: false, isNew: false, keep: nothingToKeep }
  if (auth?.secret !== undefined || auth?.secretFile !== undefined || (auth?.keys?.length ?? 0) > 0 || auth?.jwt !== undefined) return { secret: undefined, from: 'fleet.yaml', source: { from: 'default' }, isOwn: false, isNew: false, keep: nothingToKeep }
  const kept = await keptToken(stateDir)
  return kept === undefined ? newSecret(stateDir) : { secret: kept.token, from: kept.from, source: { from: 'state', file: kept.from, isNew: false }, isOwn: true, isNew: false, keep: nothingToKeep }
}

/** What flag or environment give. @throws CommandError when it is no good */
export async function givenToken (flag: string | undefined, { FLEET_SECRET: fromEnv, FLEET_SECRET_FILE: file }: CommandIo['env']): Promise<GivenToken | undefined> {
  if (flag !== undefined) return { ...checked(flag, '--secret', exitCodes.wrongUsage), source: { from: 'flag', flag: '--secret' } }
  if (fromEnv !== undefined && fromEnv !== '') return { ...checked(fromEnv, 'FLEET_SECRET', exitCodes.wrongUsage), source: { from: 'environment', variable: 'FLEET_SECRET' } }
  if (file === undefined || file === '') return undefined
  return { ...checked(await readToken(file, 'FLEET_SECRET_FILE'), `FLEET_SECRET_FILE (${file})`), source: { from: 'environment', variable: 'FLEET_SECRET_FILE', file } }
}

/**
 * What a client command finds where nothing is given; undefined for nothing. Of named keys the first that fleet.yaml has in clear, or in a
 * file, is taken: one with every right before others.
 * @throws CommandError when a source is there but no good
 */
export async function foundToken (auth: Auth, stateDir: string): Promise<ClientToken | undefined> {
  return await fileToken(auth) ?? await keptToken(stateDir)
}

async function fileToken (auth: Auth): Promise<ClientToken | undefined> {
  if (auth?.secret !== undefined) return checked(auth.secret, 'fleet.yaml')
  if (auth?.secretFile !== undefined) return checked(await readToken(auth.secretFile, 'auth.secretFile'), auth.secretFile)
  const keys = (auth?.keys ?? []).filter(({ token, tokenFile }) => token !== undefined || tokenFile !== undefined)
  const key = keys.find(({ scopes, agents }) => scopes.includes('admin') && agents === undefined) ?? keys[0]
  if (key === undefined) return undefined
  const from = `key "${key.id}" of fleet.yaml`
  return checked(key.token ?? await readToken(key.tokenFile!, from), from)
}

async function readToken (file: string, from: string): Promise<string> {
  let text = ''
  try {
    for await (const chunk of createReadStream(file, { encoding: 'utf8', end: mostTokenFileBytes - 1 })) text += chunk as string
  } catch (error) {
    throw new CommandError(`${from} can't be read: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}${shownPath(file)}`)
  }
  return text.trim()
}

async function keptToken (stateDir: string): Promise<ClientToken | undefined> {
  const path = join(stateDir, 'secret')
  const kept = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
    throw new CommandError(`The kept secret can't be read: ${error.message}. Give one with FLEET_SECRET, or run this as the user who owns it`)
  })
  return kept !== undefined && isSound(kept.trim()) ? { token: kept.trim(), from: path } : undefined
}

function newSecret (stateDir: string): FoundSecret {
  const path = join(stateDir, 'secret')
  const secret = randomBytes(24).toString('base64url')
  return {
    secret,
    from: path,
    source: { from: 'state', file: path, isNew: true },
    isOwn: true,
    isNew: true,
    async keep () {
      try {
        await makeFolderDurably(stateDir)
        // What is there is no secret: damaged, and kept for who may want to look at it.
        await rename(path, `${path}.damaged-${Date.now()}`).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'ENOENT') throw error })
        await writeFileDurably(path, `${secret}\n`, { mode: 0o600 })
      } catch (error) {
        throw new CommandError(`A new secret can't be kept: ${(error as Error).message}. Give one with FLEET_SECRET`)
      }
    }
  }
}

function isSound (token: string): boolean {
  return token.length >= tokenLength.least && token.length <= tokenLength.most && /^[!-~]+$/.test(token)
}

function checked (token: string, from: string, exitCode: number = exitCodes.failed): ClientToken {
  if (!isSound(token)) throw new CommandError(`The secret of ${from} must be ${tokenLength.least} or more printable characters without spaces${token.length > tokenLength.most ? `, ${tokenLength.most} at most` : ''}`, exitCode)
  return { token, from }
}
