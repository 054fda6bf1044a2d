/**
 * Option schemas as JSON Schema 2020-12, which OpenAPI 3.1 speaks: the words of ours that it doesn't know become descriptions, so that what is
 * documented of a body is what the gateway checks it against.
 */
import type { TSchema } from '../../src/options.ts'

/** JSON Schema, as plain data. */
export type JsonSchema = Readonly<Record<string, unknown>>

/** What is passed on as it is. */
const plainWords = new Set([
  'type', 'required', 'enum', 'const', 'pattern', 'minLength', 'maxLength', 'minimum', 'maximum', 'minItems', 'maxItems', 'default', 'examples'
])

/** What an option schema says, for a document. */
export function toJsonSchema (schema: TSchema): JsonSchema {
  return converted(schema as unknown as Record<string, unknown>)
}

function converted (schema: Readonly<Record<string, unknown>>): JsonSchema {
  const result: Record<string, unknown> = {}
  for (const [word, value] of Object.entries(schema)) if (plainWords.has(word)) result[word] = value
  // An option that is a constant and has no type is a choice of an enumeration.
  const { description, errorMessage, whenLeftOut, properties, patternProperties, items, anyOf, additionalProperties } = schema
  const words = [description, errorMessage === undefined ? undefined : `It ${String(errorMessage)}.`].filter(text => text !== undefined)
  if (words.length > 0) result['description'] = words.join(' ')
  if (whenLeftOut !== undefined) result['default'] = whenLeftOut
  if (properties !== undefined) result['properties'] = mapped(properties)
  if (patternProperties !== undefined) result['additionalProperties'] = true // any key, any value: what metadata is
  else if (additionalProperties !== undefined) result['additionalProperties'] = additionalProperties
  if (items !== undefined) result['items'] = converted(items as Record<string, unknown>)
  if (anyOf !== undefined) result['enum'] = (anyOf as { const: unknown }[]).map(member => member.const)
  if (anyOf !== undefined && result['type'] === undefined) result['type'] = 'string'
  return result
}

function mapped (properties: unknown): Record<string, JsonSchema> {
  return Object.fromEntries(Object.entries(properties as Record<string, Record<string, unknown>>).map(([key, property]) => [key, converted(property)]))
}
