/**
 * Options said once: a TypeBox schema is the source of types, defaults, documentation and error messages.
 * Used by config.ts for the whole of fleet.yaml and by every plugin for its own part.
 */
import { Type, type Static, type StaticDecode, type TSchema } from 'typebox'
import { Settings } from 'typebox/system'
import { Value } from 'typebox/value'
import type { FieldError } from './errors.ts'
import { nearestNames } from './fleet/nearest-names.ts'

export { Type, type Static, type StaticDecode, type TSchema }

// TypeBox stops after eight errors by default; a person mending a file wants all of them.
Settings.Set({ maxErrors: 1_000 })

/** An error of an option; `at` says whether the place is the key or its value. */
export interface OptionError extends FieldError {
  at: 'key' | 'value'
}

/** Options were rejected; `errors` lists every reason at once. */
export class OptionsError extends Error {
  readonly errors: OptionError[]
  constructor (name: string, errors: OptionError[]) {
    super(errors.map(error => joinPath(name, error)).join('\n'))
    this.name = 'OptionsError'
    this.errors = errors
  }
}

function joinPath (name: string, { path, message }: FieldError): string {
  const separator = path === '' || path.startsWith('[') || name === '' ? '' : '.'
  return `${name}${separator}${path} ${message}`.trim()
}

interface RangeMs { minimumMs?: number, maximumMs?: number, default?: string, description: string }

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

/** A duration as fleet.yaml writes it; resolved to milliseconds. `0` needs no unit. Default range: 0 to about 24 days. */
export function Duration (options: RangeMs) {
  const { minimumMs, maximumMs, ...schema } = options
  const range = { ...(minimumMs !== undefined && { minimumMs }), ...(maximumMs !== undefined && { maximumMs }) }
  return Type.Codec(Type.Refine(
    Type.Unsafe<string>({ type: ['string', 'integer'], pattern: durationPattern.source, ...schema }),
    value => inRange(value as unknown === 0 ? 0 : durationMs(String(value)), range),
    () => rangeRule(range)
  )).Decode(value => value as unknown === 0 ? 0 : durationMs(value)).Encode(formatMs)
}

/** As Duration, and a bare number is seconds: how a registration writes it. */
export function DurationOrSeconds (options: RangeMs) {
  const { minimumMs, maximumMs, ...schema } = options
  const range = { ...(minimumMs !== undefined && { minimumMs }), ...(maximumMs !== undefined && { maximumMs }) }
  const toMs = (value: string | number) => typeof value === 'number' ? Math.round(value * 1_000) : durationMs(value)
  return Type.Codec(Type.Refine(
    Type.Unsafe<string | number>({ type: ['string', 'number'], ...schema }),
    value => inRange(toMs(value), range),
    () => `${rangeRule(range)}, or a number of seconds`
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

/** A size as fleet.yaml writes it: `64KiB`, `10MB`, or a bare number of bytes; resolved to bytes. */
export function Size (options: { default?: string | number, minimum?: number, maximum?: number, description: string }) {
  const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER, ...schema } = options
  return Type.Codec(Type.Refine(
    Type.Unsafe<string | number>({ type: ['string', 'integer'], ...schema }),
    value => { const bytes = sizeBytes(value); return bytes >= minimum && bytes <= maximum },
    () => 'must be a size such as "64KiB", "10MiB" or a number of bytes'
  )).Decode(sizeBytes).Encode(bytes => bytes)
}

/** An object that refuses unknown keys; missing as a whole, it is its own defaults. */
export function Options<P extends Record<string, TSchema>> (properties: P, description: string) {
  return Type.Object(properties, { additionalProperties: false, default: {}, description })
}

/** The wrong fields of `value`, all of them, in a stable order; empty when it is valid. */
export function checkOptions (schema: TSchema, value: unknown): OptionError[] {
  const defaulted = Value.Default(schema, structuredClone(value))
  const found = new Map<string, OptionError>()
  for (const { keyword, instancePath, schemaPath, params, message } of Value.Errors(schema, defaulted)) {
    if (keyword === 'additionalProperties') continue // each unknown key has an error of its own, below
    const pointer = instancePath.split('/').slice(1).map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    if (keyword === 'boolean') {
      add(found, pointer, 'key', unknownKey(schema, schemaPath, pointer.at(-1) ?? ''))
    } else if (keyword === 'required') {
      for (const name of (params as { requiredProperties: string[] }).requiredProperties) add(found, [...pointer, name], 'key', 'is required')
    } else {
      const rule = atSchema(schema, schemaPath)
      const got = valueAt(defaulted, pointer)
      const shown = rule?.['writeOnly'] === true || typeof got === 'object' ? '' : ` (got ${JSON.stringify(got)})`
      add(found, pointer, 'value', (typeof rule?.['errorMessage'] === 'string' ? rule['errorMessage'] : message) + shown)
    }
  }
  return [...found.values()]
}

function add (found: Map<string, OptionError>, pointer: string[], at: 'key' | 'value', message: string): void {
  const path = formatPath(pointer)
  const known = found.get(path)
  // A value of the wrong type also breaks its other rules: the rule that names the form wins.
  if (known === undefined || message.includes('such as')) found.set(path, { path, message, at })
}

/** `['agents', '1', 'port']` → `agents[1].port`. */
export function formatPath (pointer: readonly (string | number)[]): string {
  return pointer.map((part, index) => /^\d+$/.test(String(part)) ? `[${part}]` : `${index === 0 ? '' : '.'}${part}`).join('')
}

function valueAt (value: unknown, pointer: string[]): unknown {
  return pointer.reduce<unknown>((at, part) => typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[part] : undefined, value)
}

function atSchema (schema: TSchema, schemaPath: string): Record<string, unknown> | undefined {
  const parts = schemaPath.split('/').slice(1)
  return valueAt(schema, parts) as Record<string, unknown> | undefined
}

function unknownKey (schema: TSchema, schemaPath: string, key: string): string {
  const parent = atSchema(schema, schemaPath.slice(0, schemaPath.lastIndexOf('/')))
  const nearest = nearestNames(key, Object.keys((parent?.['properties'] ?? {}) as object), 1)[0]
  return nearest === undefined ? 'unknown key' : `unknown key, did you mean "${nearest}"?`
}

/**
 * Validates `value` against `schema`, fills in defaults, resolves durations to milliseconds and sizes to bytes, and freezes the result.
 * Fastify's own `prefix`, `logLevel` and `logSerializers` are set aside first.
 * @param name what the options belong to, put before each path in messages: `rateLimit`
 * @throws {OptionsError} naming every wrong field
 */
export function parseOptions<S extends TSchema> (schema: S, value: unknown, name: string): StaticDecode<S> {
  const data = { ...(value ?? {}) as Record<string, unknown> }
  for (const key of ['prefix', 'logLevel', 'logSerializers']) delete data[key]
  const errors = checkOptions(schema, data)
  if (errors.length > 0) throw new OptionsError(name, errors)
  return deepFreeze(Value.Decode(schema, Value.Default(schema, structuredClone(data)))) as StaticDecode<S>
}

function deepFreeze<T> (value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}
