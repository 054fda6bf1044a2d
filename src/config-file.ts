/**
 * A configuration file as text and places: reads it, and says where in it something is wrong. What its keys mean is not known here.
 */
import { readFile } from 'node:fs/promises'
import { ConfigError, type ConfigProblem } from './config-error.ts'
import { checkOptions, OptionsError, type OptionError, type TSchema } from './options.ts'
import { YamlError, parseYaml, positionOf, type Environment, type Positions, type YamlProblem } from './yaml.ts'

export { ConfigError, type ConfigProblem }

/** Where a configuration comes from. */
export interface ConfigSource {
  /** The file's name, as it was given. */
  readonly file?: string
  /** Without these, errors name no line; what is given in code has none. */
  readonly positions?: Positions
  /** Names that may stand beside what is configured, in code alone: a key that is not known may be meant as one of them. */
  readonly codeNames?: (pathOfKey: string) => readonly string[]
}

/** A file as a source. */
export type FileSource = Required<Pick<ConfigSource, 'file' | 'positions'>>

/** A file's contents, not validated yet. */
export interface ConfigText extends FileSource {
  /** Undefined for a file that is missing. */
  readonly value: unknown
  /** Variables that are missing; their values stay as they are written, so the configuration must be refused. */
  readonly problems: readonly YamlProblem[]
}

/**
 * Reads a YAML file. A missing one is the same as an empty one.
 * @param env for `${NAME}` in the file
 * @param keys the top-level keys that matter; references to the environment in others are left alone
 * @throws {ConfigError} when it can't be read or is not YAML
 */
export async function readYamlFile (file: string, env: Environment, keys?: readonly string[]): Promise<ConfigText> {
  const text = await readText(file)
  if (text === undefined) return { file, value: undefined, positions: new Map(), problems: [] }
  try {
    return { file, ...parseYaml(text, env, keys) }
  } catch (error) {
    if (error instanceof YamlError) throw new ConfigError([{ file, line: error.line, column: error.column, path: '', message: error.message }], { cause: error })
    throw error
  }
}

const readFailures: Record<string, string> = {
  EACCES: 'can not be read: permission denied',
  EISDIR: 'can not be read: it is a folder',
  ENOTDIR: 'can not be read: a part of its path is no folder',
  ERR_ENCODING_INVALID_ENCODED_DATA: 'is not UTF-8 text'
}

/** The file's text; undefined when there is no such file. @throws {ConfigError} when it can't be read */
export async function readText (file: string): Promise<string | undefined> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(file))
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new ConfigError([{ file, path: '', message: readFailures[code] ?? `can not be read: ${message}` }], { cause: error })
  }
}

/**
 * The errors as problems with their places, in the order in which they stand in the file. What is wrong with a value because a
 * variable is missing counts once.
 */
export function locate (errors: readonly OptionError[], { file, positions }: ConfigSource = {}, variables: readonly YamlProblem[] = []): ConfigProblem[] {
  const from = file === undefined ? {} : { file }
  if (positions === undefined) return errors.map(({ at, ...error }) => ({ ...from, ...error }))
  const missing = new Set(variables.map(({ path }) => path))
  const located = errors.filter(({ path }) => !missing.has(path)).map(({ at, message, ...error }) => {
    const { path } = error
    const shown = { ...error, path: shownPath(path, message) }
    if (isOfCode(error, at, message, positions)) return { ...shown, message }
    const { retyped, variables } = positions.get(path) ?? {}
    const wantsText = retyped === true && !/^must be (?:[<>]|integer|boolean|a duration|a size)/.test(message)
    return { ...from, ...positionOf(positions, path, at), ...shown, message: (variables === undefined ? message : withoutValue(message)) + (wantsText ? '; a variable that is meant as a string needs quotes around it' : '') }
  })
  return [...variables.map(variable => ({ ...from, ...variable })), ...located]
    .sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0))
}

/** Runs what reads options, or files that they name. What is wrong with those of a file is told with its places. @throws {ConfigError} */
export async function placing<T> (source: ConfigSource, act: () => T): Promise<Awaited<T>> {
  try {
    return await act()
  } catch (error) {
    if (!(error instanceof OptionsError) || source.file === undefined) throw error
    throw new ConfigError(locate(withFullPaths(error), source), { cause: error })
  }
}

/** The errors, each with its path in the whole configuration. */
export function withFullPaths ({ errors, problems }: OptionsError): OptionError[] {
  return errors.map((wrong, index) => ({ ...wrong, path: problems[index]!.path }))
}

/** What is there to be wrong, and is not in the file, was laid over it in code. */
function isOfCode ({ path }: Pick<OptionError, 'path'>, at: 'key' | 'value', message: string, positions: Positions): boolean {
  return path !== '' && !positions.has(path) && (at === 'value' || message.startsWith('unknown key'))
}

/** The errors of the schema. A duration needs its unit where the file wrote it; what was laid over it in code is milliseconds. */
export function schemaErrors (schema: TSchema, value: unknown, { positions, codeNames = () => [] }: ConfigSource = {}): OptionError[] {
  const errors = checkOptions(schema, value, { besides: path => positions?.has(path) === true ? [] : codeNames(path) })
  if (positions === undefined) return errors
  const paths = new Set(errors.map(({ path }) => path))
  const isFromFile = (path: string) => positions.get(path)?.number === valueAt(value, path)
  return [...errors, ...checkOptions(schema, value, { file: true }).filter(({ path }) => !paths.has(path) && isFromFile(path))]
}

/** What is at a path whose keys are plain words. */
function valueAt (value: unknown, path: string): unknown {
  return (path.match(/[^.[\]]+/g) ?? []).reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], value)
}

/** What a variable holds is not shown: `port: ${FLEET_SECRET}` is a mistake that would end up in a log. */
function withoutValue (message: string): string {
  return message.replace(/ \(got [^]*\)/, ' (got what the variable holds)')
}

/** A key with a colon, an equals sign or a space in it was meant as a key and its value: `{secret:TOKEN}`. */
function shownPath (path: string, message: string): string {
  return message.startsWith('unknown key') ? path.replace(/[:=\s][^]*$/, '…') : path
}
