/**
 * Options said once: a TypeBox schema is the source of types, defaults, documentation and error messages.
 * Used by config.ts for the whole of fleet.yaml and by every plugin for its own part.
 */
import { ConfigError } from './config-error.ts'
import type { FieldError } from './errors.ts'
import { nearestNames } from './fleet/nearest-names.ts'
import { withoutPasswords } from './secret-fields.ts'
import { DecodeUnsafe, Settings, Type, Value, type Static, type StaticDecode, type TSchema } from './typebox.ts'

export { Type, type Static, type StaticDecode, type TSchema }

/** TypeBox stops after eight errors by default; a person mending a file wants all of them. */
const mostErrors = 1_000

/** Deeper nesting than any option or metadata has use for; what recurses over values relies on it. */
const mostDepth = 64

/** An error of an option; `at` says whether the place is the key or its value. */
export interface OptionError extends FieldError {
  at: 'key' | 'value'
  /** The known name that was meant, probably. */
  nearest?: string
}

/**
 * Options were rejected: those of one plugin, or what code gave. `problems` lists every reason at once with its whole path, as of any
 * ConfigError; `errors` has the same with paths inside of the plugin's options.
 */
export class OptionsError extends ConfigError {
  readonly errors: readonly OptionError[]
  /** @param name what the options belong to, put before each path: `rateLimit` */
  constructor (name: string, errors: readonly OptionError[]) {
    const problems = errors.map(({ at, ...error }) => ({ ...error, path: joinPath(name, error.path) }))
    super(problems, { message: problems.map(({ path, message }) => `${path} ${message}`.trim()).join('\n') })
    this.name = 'OptionsError'
    this.errors = errors
  }
}

function joinPath (name: string, path: string): string {
  const separator = path === '' || path.startsWith('[') || name === '' ? '' : '.'
  return `${name}${separator}${path}`
}

interface RangeMs { minimumMs?: number, maximumMs?: number, default?: string, whenLeftOut?: string, description: string }

const unitMs: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const durationPattern = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/
const durationRule = 'must be a duration such as "500ms", "30s" or "5m"'

/** Milliseconds of `500ms`, `30s`, `5m`, `2h`, `1d`; NaN for anything else. */
export function durationMs (text: string): number {
  const [, amount, unit] = durationPattern.exec(text) ?? []
  return amount === undefined || unit === undefined ? NaN : Math.round(Number(amount) * unitMs[unit]!)
}

function inRange (ms: number, { minimumMs = 0, maximumMs = 2 ** 31 - 1 }: Partial<RangeMs>): boolean {
  return ms >= minimumMs && ms <= maximumMs
}

/** The range as a person writes it, for documents. */
function inWords ({ minimumMs, maximumMs }: Partial<RangeMs>): { minimum?: string, maximum?: string } {
  return { ...(minimumMs !== undefined && { minimum: formatMs(minimumMs) }), ...(maximumMs !== undefined && { maximum: formatMs(maximumMs) }) }
}

function rangeRule ({ minimumMs, maximumMs }: Partial<RangeMs>): string {
  const atLeast = minimumMs === undefined ? '' : `, at least ${formatMs(minimumMs)}`
  const atMost = maximumMs === undefined ? '' : `, at most ${formatMs(maximumMs)}`
  return durationRule + atLeast + atMost
}

/** The shortest exact way to write milliseconds as a duration. */
export function formatMs (ms: number): string {
  for (const unit of ['d', 'h', 'm', 's']) {
    if (ms > 0 && ms % unitMs[unit]! === 0) return `${ms / unitMs[unit]!}${unit}`
  }
  return `${ms}ms`
}

/**
 * A duration as fleet.yaml writes it (`30s`); resolved to milliseconds. Default range: 0 to about 24 days.
 * In code a bare number is milliseconds, so that what is resolved can be parsed again; in a file only `0` needs no unit.
 */
export function Duration (options: RangeMs) {
  const { minimumMs, maximumMs, ...schema } = options
  const range = { ...(minimumMs !== undefined && { minimumMs }), ...(maximumMs !== undefined && { maximumMs }) }
  const toMs = (value: string | number) => typeof value === 'number' ? value : durationMs(value)
  return Type.Codec(Type.Refine(
    Type.Unsafe<string | number>({ type: ['string', 'integer'], pattern: durationPattern.source, needsUnit: true, bounds: inWords(range), errorMessage: rangeRule(range), ...schema }),
    value => inRange(toMs(value), range),
    () => rangeRule(range)
  )).Decode(toMs).Encode(formatMs)
}

/** As Duration, and a bare number is seconds: how a registration writes it. */
export function DurationOrSeconds (options: RangeMs) {
  const { minimumMs, maximumMs, ...schema } = options
  const range = { ...(minimumMs !== undefined && { minimumMs }), ...(maximumMs !== undefined && { maximumMs }) }
  const toMs = (value: string | number) => typeof value === 'number' ? Math.round(value * 1_000) : durationMs(value)
  const errorMessage = `${rangeRule(range)}, or a number of seconds`
  return Type.Codec(Type.Refine(
    Type.Unsafe<string | number>({ type: ['string', 'number'], errorMessage, ...schema }),
    value => inRange(toMs(value), range),
    () => errorMessage
  )).Decode(toMs).Encode(formatMs)
}

const unitBytes: Record<string, number> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, KB: 1e3, MB: 1e6, GB: 1e9 }
const sizePattern = /^(\d+(?:\.\d+)?)\s?(B|KiB|MiB|GiB|KB|MB|GB)$/

/** Bytes of `64KiB`, `10MB` or a bare number; NaN for anything else. */
export function sizeBytes (value: string | number): number {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? value : NaN
  const [, amount, unit] = sizePattern.exec(value) ?? []
  return amount === undefined || unit === undefined ? NaN : Math.round(Number(amount) * unitBytes[unit]!)
}

function sizeRule ({ minimum, maximum }: { minimum?: number, maximum?: number }): string {
  const atLeast = minimum === undefined ? '' : `, at least ${minimum}`
  const atMost = maximum === undefined ? '' : `, at most ${maximum}`
  return `must be a size such as "64KiB", "10MiB" or a number of bytes${atLeast}${atMost}`
}

/** A size as fleet.yaml writes it: `64KiB`, `10MB`, or a bare number of bytes; resolved to bytes. */
export function Size (options: { default?: string | number, minimum?: number, maximum?: number, description: string }) {
  const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER, ...schema } = options
  const range = { ...(options.minimum !== undefined && { minimum }), ...(options.maximum !== undefined && { maximum }) }
  const errorMessage = sizeRule(options)
  return Type.Codec(Type.Refine(
    // The range of numbers is the refinement's: JSON Schema has no word for it that holds for texts, too.
    Type.Unsafe<string | number>({ type: ['string', 'integer'], bounds: range, textPattern: sizePattern.source, errorMessage, ...schema }),
    value => { const bytes = sizeBytes(value); return bytes >= minimum && bytes <= maximum },
    () => errorMessage
  )).Decode(sizeBytes).Encode(bytes => bytes)
}

/** An object that refuses unknown keys; missing as a whole, it is its own defaults. */
export function Options<P extends Record<string, TSchema>> (properties: P, description: string) {
  return Type.Object(properties, { additionalProperties: false, default: {}, description })
}

/** How a value came to be written. */
export interface CheckForm {
  /** By hand in a file, where a duration needs its unit; in code a bare number is milliseconds. */
  file?: boolean
  /** Further names that a key that is not known may be meant as, by its path. */
  besides?: (path: string) => readonly string[]
}

/** The wrong fields of `value`, all of them, in a stable order; empty when it is valid. */
export function checkOptions (schema: TSchema, value: unknown, form: CheckForm = {}): OptionError[] {
  return examine(schema, value, form).errors
}

/** What is wrong with `value`; and where nothing is, a copy of it with its defaults. */
function examine (schema: TSchema, value: unknown, { file = false, besides = () => [] }: CheckForm): { errors: OptionError[], defaulted?: unknown } {
  const found = new Map<string, OptionError>()
  const deep = deepPath(value)
  if (deep !== undefined) return { errors: [{ path: formatPath(deep.slice(0, 3)), message: `is nested deeper than ${mostDepth} levels`, at: 'value' }] }
  const data = copyOf(value)
  for (const pointer of protoKeys(data)) add(found, pointer, 'key', { message: 'this key is not allowed' })
  if (found.size > 0) return { errors: [...found.values()] } // such a key would get lost, or worse, in what follows

  const defaulted = Value.Default(schema, data)
  for (const { keyword, instancePath, schemaPath, params, message } of allErrors(schema, defaulted)) {
    if (keyword === 'additionalProperties') continue // each unknown key has an error of its own, below
    const pointer = instancePath.split('/').slice(1).map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    if (keyword === 'boolean') {
      add(found, pointer, 'key', unknownKey(schema, schemaPath, pointer.at(-1) ?? '', besides(formatPath(pointer))))
    } else if (keyword === 'required') {
      for (const name of (params as { requiredProperties: string[] }).requiredProperties) add(found, [...pointer, name], 'key', { message: 'is required' })
    } else {
      add(found, pointer, 'value', valueError(atSchema(schema, schemaPath), message, valueAt(defaulted, pointer)))
    }
  }
  if (file) for (const { pointer, message } of bareDurations(schema, defaulted)) add(found, pointer, 'value', { message })
  return { errors: [...found.values()], defaulted }
}

/** What is wrong with something, in words. */
type Wrong = Pick<OptionError, 'message' | 'nearest'>

/** What is wrong with a value: what its schema says of its form, or else the rule that it breaks; and the value, unless it may be a secret. */
function valueError (rule: Record<string, unknown> | undefined, message: string, got: unknown): Wrong {
  const shown = typeof got === 'object' || (rule !== undefined && hidesValues(rule)) ? '' : ` (got ${shorten(asText(got))})`
  const quotes = rule?.['type'] === 'string' && (typeof got === 'number' || typeof got === 'boolean') ? `, in quotes where it looks like a ${typeof got}` : ''
  return withNearest((typeof rule?.['errorMessage'] === 'string' ? rule['errorMessage'] : message) + quotes + shown, nearestChoice(rule, got))
}

function withNearest (message: string, nearest: string | undefined): Wrong {
  return nearest === undefined ? { message } : { message: `${message}, did you mean "${nearest}"?`, nearest }
}

/** As JSON has it, or what JSON has no word for: functions, and the large integers of code. */
function asText (got: unknown): string {
  return typeof got === 'bigint' ? `${got}n` : JSON.stringify(got) ?? typeof got
}

/** A short list of choices is its own suggestion. */
const mostWithoutSuggestion = 4

function nearestChoice (rule: Record<string, unknown> | undefined, got: unknown): string | undefined {
  const choices = ((rule?.['anyOf'] ?? []) as { const?: unknown }[]).map(member => member.const).filter(choice => typeof choice === 'string')
  return typeof got !== 'string' || choices.length <= mostWithoutSuggestion ? undefined : nearestNames(got, choices, 1)[0]
}

/** What was meant for a secret field may stand in the place of its parent, as in `auth: SECRET`. */
function hidesValues (rule: object): boolean {
  return 'writeOnly' in rule || 'mayHoldPassword' in rule || Object.values(rule).some((part: unknown) => typeof part === 'object' && part !== null && hidesValues(part))
}

function shorten (text: string): string {
  const shown = withoutPasswords(text) // of a URL, wherever one was written by mistake
  return shown.length > 100 ? `${shown.slice(0, 100)}…` : shown
}

/** A value that breaks several rules is one error: the first, which is the one about its type. */
function add (found: Map<string, OptionError>, pointer: string[], at: 'key' | 'value', wrong: Wrong): void {
  const path = formatPath(pointer)
  if (!found.has(path)) found.set(path, { path, ...wrong, at })
}

/** Where `value` has a number for a duration: without a unit nobody knows whether it was meant as seconds. */
function * bareDurations (schema: TSchema, value: unknown, pointer: string[] = []): Iterable<{ pointer: string[], message: string }> {
  const { needsUnit, errorMessage, items, properties } = schema as { needsUnit?: true, errorMessage?: string, items?: TSchema, properties?: Record<string, TSchema> }
  if (needsUnit === true && typeof value === 'number' && value !== 0) yield { pointer, message: `${errorMessage} (got ${value})` }
  if (Array.isArray(value)) {
    if (items !== undefined) for (const [index, item] of value.entries()) yield * bareDurations(items, item, [...pointer, String(index)])
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, property] of Object.entries(properties ?? {})) yield * bareDurations(property, (value as Record<string, unknown>)[key], [...pointer, key])
  }
}

/** A deep copy of what is data; a field that is set to undefined is left out. Functions and the like are kept, to be refused as what they are. */
function copyOf (value: unknown): unknown {
  if (Array.isArray(value)) return value.map(copyOf)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined).map(([key, field]) => [key, copyOf(field)]))
}

/** Where the value is nested too deep; undefined when it is not. */
function deepPath (value: unknown, pointer: string[] = []): string[] | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  if (pointer.length > mostDepth) return pointer
  for (const [key, field] of Object.entries(value)) {
    if (typeof field !== 'object') continue
    const deep = deepPath(field, [...pointer, key])
    if (deep !== undefined) return deep
  }
  return undefined
}

function allErrors (schema: TSchema, value: unknown) {
  if (Value.Check(schema, value)) return [] // as nearly always, and found in half of the time
  return withSettings({ maxErrors: mostErrors }, () => Value.Errors(schema, value))
}

/** Settings are TypeBox's for the whole process, a host application included, so they are given back. */
function withSettings<R> (settings: Partial<ReturnType<typeof Settings.Get>>, act: () => R): R {
  const before = { ...Settings.Get() }
  Settings.Set(settings)
  try {
    return act()
  } finally {
    Settings.Set(before)
  }
}

/** Where `value` has a key `__proto__` of its own. */
function * protoKeys (value: unknown, pointer: string[] = []): Iterable<string[]> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, field] of Object.entries(value)) {
    if (key === '__proto__') yield [...pointer, key]
    else yield * protoKeys(field, [...pointer, key])
  }
}

/** `['agents', '1', 'port']` → `agents[1].port`. */
export function formatPath (pointer: readonly (string | number)[]): string {
  return pointer.map((part, index) => {
    if (/^\d+$/.test(String(part))) return `[${part}]`
    return `${index === 0 ? '' : '.'}${part === '' ? '""' : part}`
  }).join('')
}

function valueAt (value: unknown, pointer: string[]): unknown {
  return pointer.reduce<unknown>((at, part) => typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[part] : undefined, value)
}

/** The schema behind a path; for a member of a union that has its own message, the union. */
function atSchema (schema: TSchema, schemaPath: string): Record<string, unknown> | undefined {
  const parts = schemaPath.split('/').slice(1)
  const union = parts.at(-2) === 'anyOf' ? valueAt(schema, parts.slice(0, -2)) as Record<string, unknown> | undefined : undefined
  return union?.['errorMessage'] === undefined ? valueAt(schema, parts) as Record<string, unknown> | undefined : union
}

function unknownKey (schema: TSchema, schemaPath: string, key: string, besides: readonly string[]): Wrong {
  const parent = atSchema(schema, schemaPath.slice(0, schemaPath.lastIndexOf('/')))
  const known = [...Object.keys((parent?.['properties'] ?? {}) as object), ...besides]
  return withNearest('unknown key', key === '' ? undefined : nearestNames(key, known, 1)[0])
}

/** `value` without what `schema` has no name for, at any depth; what it has a name for may be wrong all the same. `value` is changed. */
export function withoutUnknown (schema: TSchema, value: unknown): unknown {
  return Value.Clean(schema, value)
}

/**
 * Validates `value` against `schema`, fills in defaults, resolves durations to milliseconds and sizes to bytes, and freezes the result.
 * What was resolved before may be parsed again. Fastify's own `prefix`, `logLevel` and `logSerializers` are set aside first.
 * @param value the options; none at all is the same as an empty object
 * @param name what the options belong to, put before each path in messages: `rateLimit`
 * @param besides names of what else may be given where the options are: a key that is not known may be meant as one of them
 * @throws {OptionsError} naming every wrong field
 */
export function parseOptions<S extends TSchema> (schema: S, value: unknown, name: string, besides: readonly string[] = []): StaticDecode<S> {
  const data = withoutFastifyOptions(value ?? {})
  const { errors, defaulted } = examine(schema, data, { besides: path => /[.[]/.test(path) ? [] : besides })
  if (errors.length > 0) throw new OptionsError(name, errors)
  return decode(schema, defaulted)
}

/** What valid options stand for, with defaults: durations in milliseconds and so on. */
export function decodeOptions<S extends TSchema> (schema: S, data: unknown): StaticDecode<S> {
  return decode(schema, Value.Default(schema, copyOf(data)))
}

/** @param defaulted nobody else's */
function decode<S extends TSchema> (schema: S, defaulted: unknown): StaticDecode<S> {
  // Sorting the members of unions takes most of the time, and no value is of two of them that are decoded in different ways.
  // Value.Decode() would look once more at what is known to be valid, and take out of mappings with any keys what it has no pattern for.
  return deepFreeze(withSettings({ unionPrioritySort: false }, () => DecodeUnsafe({}, schema, defaulted))) as StaticDecode<S>
}

function withoutFastifyOptions (value: unknown): unknown {
  if (typeof value !== 'object' || Array.isArray(value)) return value
  const { prefix, logLevel, logSerializers, ...data } = value as Record<string, unknown>
  return data
}

function deepFreeze<T> (value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}
