/**
 * The settings of fleet.yaml as their schemas (src/config.ts, built) say them, for documents: kinds of values, bounds, defaults, words.
 */

/**
 * How a setting's value is written.
 * @returns {'duration' | 'size' | 'choice' | 'boolean' | 'integer' | 'text' | 'list' | 'mapping' | 'anything'}
 * @throws for a schema of a form that no setting had before: each document must know what to say of it
 */
export function kindOf (schema) {
  if (schema.needsUnit === true) return 'duration'
  if (Array.isArray(schema.type)) return 'size'
  if (choicesOf(schema) !== undefined) return 'choice'
  if (schema.type === 'boolean' || schema.type === 'integer') return schema.type
  if (schema.type === 'string') return 'text'
  if (schema.type === 'array') return 'list'
  if (schema.type === 'object') return schema.properties === undefined ? 'anything' : 'mapping'
  throw new Error(`A setting's schema has a new form: ${JSON.stringify(schema)}`)
}

/** The values that are allowed, where they are listed. */
export function choicesOf ({ enum: values, anyOf }) {
  return values ?? anyOf?.map(member => member.const)
}

/** Least and greatest value: of durations as a person writes them, of sizes in bytes. */
export function boundsOf ({ minimum, maximum, bounds }) {
  return bounds ?? { minimum, maximum }
}

/** What the setting is when nobody says anything of it; undefined when there is no such value. */
export function defaultOf (schema) {
  return schema.default ?? schema.whenLeftOut
}

/** Whether the mapping is wrong without this key. What has a default is always there in the schemas, but nobody has to write it. */
export function isRequired (mapping, key) {
  return (mapping.required ?? []).includes(key) && defaultOf(mapping.properties[key]) === undefined
}

/** Everything else a value is held to, as sentences: bounds, and the rule for the form of a text. */
export function rulesOf (schema) {
  const kind = kindOf(schema)
  if (kind === 'integer' || kind === 'duration') return range(boundsOf(schema), value => value)
  if (kind === 'size') return range(boundsOf(schema), bytes)
  if (kind === 'text') return schema.errorMessage === undefined ? [] : [`${capitalised(withCode(schema.errorMessage))}.`]
  if (kind !== 'list') return []
  const entries = count => `${count} ${count === 1 ? 'entry' : 'entries'}`
  return [...range({ minimum: schema.minItems, maximum: schema.maxItems }, entries), ...rulesOf(schema.items).map(rule => `Each ${rule[0].toLowerCase()}${rule.slice(1)}`)]
}

function range ({ minimum, maximum }, inWords) {
  if (minimum !== undefined && maximum !== undefined) return [`From ${minimum} to ${inWords(maximum)}.`]
  if (minimum !== undefined) return [`At least ${inWords(minimum)}.`]
  return maximum === undefined ? [] : [`At most ${inWords(maximum)}.`]
}

/** `1048576` → `1MiB`. */
function bytes (value) {
  for (const [unit, factor] of [['GiB', 1024 ** 3], ['MiB', 1024 ** 2], ['KiB', 1024]]) {
    if (value >= factor && value % factor === 0) return `${value / factor}${unit}`
  }
  return `${value} ${value === 1 ? 'byte' : 'bytes'}`
}

/** What is quoted in a message, and patterns, as code. */
function withCode (message) {
  return message.replace(/"([^"]+)"/g, '`$1`').replace(/(?<=must match )(\S+)/, '`$1`')
}

function capitalised (text) {
  return text[0].toUpperCase() + text.slice(1)
}

/** A value as YAML on one line. */
export function inYaml (value) {
  if (Array.isArray(value)) return `[${value.map(inYaml).join(', ')}]`
  if (typeof value === 'object') return `{${Object.entries(value).map(([key, field]) => `${key}: ${inYaml(field)}`).join(', ')}}`
  return typeof value !== 'string' || /^[A-Za-z0-9_./][A-Za-z0-9_./ -]*(?::\/\/[\w.]+)?$/.test(value) ? String(value) : `'${value}'`
}
