/**
 * How one configuration differs from another, in words for a log: never a secret, never more than fits in a line.
 */
import { isDeepStrictEqual } from 'node:util'
import { formatMs, type TSchema } from './options.ts'
import { withoutPasswords } from './secret-fields.ts'

/** One setting that differs. */
export interface SettingChange {
  /** `rateLimit.perMinute` */
  readonly path: string
  /** `rateLimit.perMinute 600 → 300` */
  readonly text: string
}

/** Settings that a running gateway can't change; those below them neither. The documents are made of it. @public */
export const settingsOfTheStart = ['server', 'registry.stateDir', 'redis', 'metrics', 'docs', 'tracing', 'console'] as const

/** Whether a change of the setting takes effect when the gateway restarts, and not before. */
export function waitsForRestart (path: string): boolean {
  return settingsOfTheStart.some(setting => path === setting || path.startsWith(`${setting}.`))
}

/** So many names are told of a list. */
const mostNames = 10
/** So much of a value. */
const mostCharacters = 60

interface SettingSchema {
  readonly properties?: Readonly<Record<string, TSchema>>
  readonly needsUnit?: true
  readonly writeOnly?: true
}

/**
 * The settings that differ, in the order of the schema.
 * @param schema of both, which are resolved
 * @param except top-level keys that are told of by somebody else
 */
export function settingChanges (schema: TSchema, before: unknown, after: unknown, except: readonly string[] = []): SettingChange[] {
  return [...changesBelow(schema, before, after, '')].filter(({ path }) => !except.includes(path.split('.', 1)[0]!))
}

function * changesBelow (schema: TSchema, before: unknown, after: unknown, path: string): Iterable<SettingChange> {
  if (isDeepStrictEqual(before, after)) return
  const { properties } = schema as SettingSchema
  if (properties === undefined) return yield { path, text: `${path} ${inWords(schema as SettingSchema, before, after)}` }
  for (const [key, property] of Object.entries(properties)) {
    yield * changesBelow(property, field(before, key), field(after, key), path === '' ? key : `${path}.${key}`)
  }
}

function field (value: unknown, key: string): unknown {
  return (value as Record<string, unknown> | undefined)?.[key]
}

function inWords (schema: SettingSchema, before: unknown, after: unknown): string {
  if (schema.writeOnly === true) return before === undefined ? 'set' : after === undefined ? 'unset' : 'changed'
  if (Array.isArray(before) && Array.isArray(after)) return listInWords(before, after)
  return `${shown(schema, before)} → ${shown(schema, after)}`
}

/** `+added −removed ~changed`, each entry by its name. */
function listInWords (before: readonly unknown[], after: readonly unknown[]): string {
  const had = new Map(before.map(entry => [nameOf(entry), entry]))
  const has = new Map(after.map(entry => [nameOf(entry), entry]))
  const parts = [
    ...[...has.keys()].filter(name => !had.has(name)).map(name => `+${name}`),
    ...[...had.keys()].filter(name => !has.has(name)).map(name => `−${name}`),
    ...[...has].filter(([name, entry]) => had.has(name) && !isDeepStrictEqual(had.get(name), entry)).map(([name]) => `~${name}`)
  ]
  if (parts.length === 0) return 'in another order'
  return parts.length > mostNames ? `${parts.slice(0, mostNames).join(' ')} and ${parts.length - mostNames} more` : parts.join(' ')
}

/** What an entry is known by: a key's id, a path's prefix, or itself. */
function nameOf (entry: unknown): string {
  const { id, prefix } = (typeof entry === 'object' && entry !== null ? entry : {}) as { id?: string, prefix?: string }
  return id ?? prefix ?? shown({}, entry)
}

function shown ({ needsUnit }: SettingSchema, value: unknown): string {
  if (value === undefined) return 'unset'
  const text = needsUnit === true && typeof value === 'number' ? formatMs(value) : typeof value === 'string' ? value : JSON.stringify(value)
  const plain = withoutPasswords(text).replaceAll(/\s+/g, ' ')
  return plain.length > mostCharacters ? `${plain.slice(0, mostCharacters)}…` : plain
}
