/**
 * The keys in a fleet.yaml, for `fleet-gateway key`: reads them, and changes the file in one step or not at all. What the file is before and after
 * is checked, and that nothing but the one key is different in between.
 */
import { constants } from 'node:fs'
import { access, lstat, readFile, stat } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import { ConfigError, parseConfig, type ConfigProblem, type FleetConfigInput } from '../config.ts'
import { writeFileDurably } from '../durable-file.ts'
import { isUnsetVariable, parseYaml, YamlError, type Environment } from '../yaml.ts'
import { keyLines, UnusualFile, withKey, withoutKey, type KeyEntry } from './key-edit.ts'
import { CommandError } from './io.ts'

type AuthInput = NonNullable<FleetConfigInput['auth']>

/** A file as it is now. */
export interface KeyFile {
  readonly file: string
  /** Undefined for a file that is missing. */
  readonly text: string | undefined
  /** What it says, with what the environment holds. */
  readonly value: FleetConfigInput
  readonly auth: AuthInput
  readonly keys: NonNullable<AuthInput['keys']>
  /** Variables that are not set here are no mistake: the gateway may have them. */
  readonly unset: readonly string[]
}

/** The file could not be changed; it is as it was. `why` says what is in the way. */
export class NotChanged extends Error {
  readonly why: string
  constructor (why: string, options?: ErrorOptions) {
    super(why, options)
    this.why = why
  }
}

/** @throws CommandError with all that is wrong with the file */
export async function readKeyFile (file: string, env: Environment): Promise<KeyFile> {
  const text = await textOf(file)
  const { value, problems, unset } = examined(file, text ?? '', env)
  if (problems.length > 0) throw new CommandError(`${new ConfigError(problems).message}\n${file} is not valid; nothing was changed`)
  const auth = value.auth ?? {}
  return { file, text, value, auth, keys: auth.keys ?? [], unset }
}

/** As the file is to be edited: byte for byte, a mark at its begin included. */
async function textOf (file: string): Promise<string | undefined> {
  try {
    const there = await stat(file)
    if (!there.isFile()) throw new CommandError(`${file} is ${there.isDirectory() ? 'a folder' : 'no ordinary file'}`)
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await readFile(file))
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (error instanceof CommandError) throw error
    if (code !== 'ENOENT') throw new CommandError(code === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? `${file} is not UTF-8 text` : `${file} can't be read: ${message}`)
    if (await lstat(file).catch(() => undefined) !== undefined) throw new CommandError(`${file} is a link to a file that does not exist; remove it, or name that file`)
    return undefined
  }
}

interface Examined { value: FleetConfigInput, problems: ConfigProblem[], unset: string[] }

/** What `serve` would say of the text where all variables that it names are set. */
function examined (file: string, text: string, env: Environment): Examined {
  try {
    const { value, positions, problems } = parseYaml(text, env)
    const unset = problems.filter(isUnsetVariable)
    const unread = new Set(unset.map(({ path }) => path))
    const wrong: ConfigProblem[] = problems.filter(problem => !isUnsetVariable(problem)).map(problem => ({ file, ...problem }))
    try {
      parseConfig(value, { file, positions })
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      wrong.push(...error.problems.filter(({ path }) => !unread.has(path)))
    }
    const isMapping = typeof value === 'object' && value !== null
    return { value: (isMapping ? value : {}) as FleetConfigInput, problems: wrong, unset: [...new Set(unset.map(({ message }) => message))] }
  } catch (error) {
    if (!(error instanceof YamlError)) throw error
    return { value: {}, problems: [{ file, line: error.line, column: error.column, path: '', message: error.message }], unset: [] }
  }
}

/** Adds the key. @throws NotChanged */
export async function addKey (before: KeyFile, key: KeyEntry, env: Environment): Promise<void> {
  await change(before, env, text => withKey(text, key), auth => ({ ...auth, keys: [...auth.keys ?? [], key] }))
}

/** Removes the key at this place of the list. @throws NotChanged */
export async function removeKey (before: KeyFile, index: number, env: Environment): Promise<void> {
  await change(before, env, text => withoutKey(text, index), auth => ({ ...auth, keys: (auth.keys ?? []).filter((_, place) => place !== index) }))
}

/** What is to be added to a file that is not changed, for people. */
export function byHand (key: KeyEntry): string {
  return ['auth:', '  keys:', ...keyLines(key).map(line => `    ${line}`)].join('\n')
}

/** `auth` as it is written. */
interface WrittenAuth { keys?: readonly unknown[] }

/** What the change means. */
type Meaning = (auth: WrittenAuth) => WrittenAuth

async function change ({ file, text = '', text: found }: KeyFile, env: Environment, edit: (text: string) => string, meant: Meaning): Promise<void> {
  const edited = editedText(file, text, env, edit, meant)
  try {
    // Replacing it needs rights to the folder alone; who made the file read-only meant more.
    if (found !== undefined) await access(file, constants.W_OK)
    if (await textOf(file) !== found) throw new NotChanged('somebody else has changed it just now; try again')
    await writeFileDurably(file, edited)
  } catch (error) {
    if (error instanceof NotChanged) throw error
    throw new NotChanged((error as Error).message, { cause: error })
  }
}

/** @throws NotChanged when the text would mean anything else than it should */
function editedText (file: string, text: string, env: Environment, edit: (text: string) => string, meant: Meaning): string {
  let edited: string
  try {
    edited = edit(text)
  } catch (error) {
    if (!(error instanceof UnusualFile)) throw error
    throw new NotChanged(`it is not written as usual (${error.message})`, { cause: error })
  }
  const { problems } = examined(file, edited, env)
  if (problems.length > 0 || !isDeepStrictEqual(asWritten(edited), withAuth(asWritten(text), meant))) throw new NotChanged('it is not written as usual (a change would touch more than the key)')
  return edited
}

/** What the text says, references to the environment as they are written. */
function asWritten (text: string): unknown {
  try {
    return parseYaml(text).value
  } catch {
    return undefined
  }
}

function withAuth (value: unknown, meant: Meaning): unknown {
  const { auth, ...others } = value as { auth?: WrittenAuth }
  return { ...others, auth: meant({ ...auth }) }
}
