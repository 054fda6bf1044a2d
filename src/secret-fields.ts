/**
 * A configuration as it may be shown: without values whose schema says `writeOnly`, without what names of free fields give away, and
 * without passwords in addresses.
 */
import type { TSchema } from './options.ts'

/** What stands in the place of a secret. */
const masked = '********'

/** A text in which the passwords of addresses are masked, `redis://user:********@host`, and what stands there without a user, which may be a token. */
export function withoutPasswords (text: string): string {
  return text.replaceAll(/\/\/([^/\s:@]*:)?[^/\s]*@/g, (_, user = '') => `//${user}${masked}@`)
}

/** Names of fields that hold secrets where no schema says so: `apiKey`, `db_password`. */
const secretName = /secret|token|passw|credential|authorization|cookie|api[-_]?key|private[-_]?key/i

interface FieldSchema {
  readonly writeOnly?: true
  readonly properties?: Readonly<Record<string, TSchema>>
  readonly patternProperties?: Readonly<Record<string, TSchema>>
  readonly additionalProperties?: TSchema | boolean
  readonly items?: TSchema
}

/** A copy of `value` in which secrets are masked. */
export function withoutSecrets (schema: TSchema, value: unknown): unknown {
  const { writeOnly, items = {}, ...mapping } = schema as FieldSchema
  if (writeOnly === true) return maskedAll(value)
  if (typeof value === 'string') return withoutPasswords(value)
  if (Array.isArray(value)) return value.map(entry => withoutSecrets(items as TSchema, entry))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, isSecret(mapping, key, field) ? maskedAll(field) : withoutSecrets(schemaOf(mapping, key), field)]))
}

/** Values of headers are mostly credentials; a list has their names alone. */
function isSecret ({ properties }: FieldSchema, key: string, value: unknown): boolean {
  return key === 'headers' ? !Array.isArray(value) : properties === undefined && secretName.test(key)
}

function schemaOf ({ properties = {}, patternProperties = {}, additionalProperties }: FieldSchema, key: string): TSchema {
  const own = Object.hasOwn(properties, key) ? properties[key] : Object.entries(patternProperties).find(([pattern]) => new RegExp(pattern).test(key))?.[1]
  return own ?? (typeof additionalProperties === 'object' ? additionalProperties : {}) as TSchema
}

function maskedAll (value: unknown): unknown {
  if (Array.isArray(value)) return value.map(maskedAll)
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, maskedAll(field)]))
  return masked
}
