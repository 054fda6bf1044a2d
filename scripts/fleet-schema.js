/**
 * schema/fleet.schema.json: fleet.yaml as a JSON Schema (draft-07), for editors. It says what the program's schemas say, and of the rules
 * between settings those that editors can explain; `fleet-gateway check` knows all of them.
 */
import { FleetOptions } from '../dist/src/config.js'
import { boundsOf, choicesOf, defaultOf, inYaml, isRequired, kindOf, rulesOf } from './settings.js'

/** Wherever a value stands there may be a reference to the environment; what it will be is not known here. */
const reference = '\\$\\{'

/** What only some of the keys of a mapping have to do with each other, by the path of the mapping. */
const rulesBetweenKeys = {
  'agents[]': {
    if: { required: ['instances'] },
    then: { properties: { host: false, port: false } },
    else: { anyOf: [{ required: ['port'] }, { required: ['dns'] }] },
    dependencies: { host: { anyOf: [{ required: ['port'] }, { required: ['instances'] }] }, timeout: { properties: { timeouts: { type: 'object', properties: { response: false } } } } }
  },
  'agents[].dns': { anyOf: [{ required: ['port'] }, { required: ['type'] }] }, // without a port it can only be SRV
  'agents[].tls': { dependencies: { certFile: ['keyFile'], keyFile: ['certFile'], passphraseFile: ['keyFile'] } },
  'auth.keys[]': {
    anyOf: [{ required: ['token'] }, { required: ['tokenFile'] }, { required: ['tokenSha256'] }],
    dependencies: { token: { properties: { tokenFile: false, tokenSha256: false } }, tokenFile: { properties: { tokenSha256: false } } }
  },
  'auth.jwt': { anyOf: [{ required: ['jwksUrl'] }, { required: ['jwksFile'] }], dependencies: { jwksUrl: { properties: { jwksFile: false } } } }
}

/** Shown where there is neither a default nor an example of its own. */
const examples = { duration: ['30s'], size: ['64KiB'] }

/** The schema of one setting, with what is said of it. `patternErrorMessage` is what editors show instead of a pattern. */
function settingSchema (schema, path) {
  const example = schema.examples ?? (defaultOf(schema) === undefined ? examples[kindOf(schema)] : undefined)
  return {
    ...words(schema),
    // Editors write defaults down for a person who asks for the key around them; what an entry of a list leaves out is better left out.
    ...(schema.default !== undefined && !isEmpty(schema.default) && { default: schema.default }),
    ...(example !== undefined && { examples: example }),
    ...(schema.writeOnly === true && { writeOnly: true }),
    ...forms[kindOf(schema)](schema, path)
  }
}

/** A default that says nothing: a mapping's, and no entries at all. */
function isEmpty (value) {
  return typeof value === 'object' && Object.keys(value).length === 0
}

function words (schema) {
  const shown = defaultOf(schema)
  const rules = rulesOf(schema)
  const about = [
    ...(schema.description === undefined ? [] : [schema.description]),
    ...(rules.length === 0 ? [] : [rules.join(' ')]),
    ...(shown === undefined || isEmpty(shown) ? [] : [`Default: \`${inYaml(shown)}\`.`])
  ]
  if (about.length === 0) return {}
  const markdown = about.join('\n\n')
  return { description: about.join(' ').replaceAll('`', ''), ...(markdown.includes('`') && { markdownDescription: markdown }) }
}

/** By kind, what a value has to be. A scalar of any kind may also be a text with a reference in it. */
const forms = {
  boolean: () => ({ type: ['boolean', 'string'], pattern: reference, patternErrorMessage: 'must be true or false' }),
  integer: ({ minimum, maximum }) => ({ type: ['integer', 'string'], minimum, maximum, pattern: reference, patternErrorMessage: 'must be a whole number' }),
  duration (schema) {
    const { pattern, errorMessage } = schema
    const text = { type: 'string', pattern: `${pattern}|${reference}`, patternErrorMessage: errorMessage }
    // 0 is the only one without a unit. The text comes first, so that editors speak of durations when something is wrong.
    return boundsOf(schema).minimum === undefined ? { anyOf: [{ title: 'duration', ...text }, { title: '0', const: 0 }] } : text
  },
  size (schema) {
    const { minimum = 0, maximum } = boundsOf(schema)
    return {
      type: ['integer', 'string'],
      minimum,
      ...(maximum !== undefined && { maximum }),
      pattern: `${schema.textPattern}|${reference}`,
      patternErrorMessage: schema.errorMessage
    }
  },
  choice: schema => ({
    anyOf: [
      { title: 'one of these', enum: choicesOf(schema) },
      { title: 'a reference to the environment', type: 'string', pattern: reference, patternErrorMessage: schema.errorMessage }
    ]
  }),
  text ({ pattern, minLength = 0, maxLength = '', errorMessage }) {
    if (pattern === undefined) return { type: 'string', ...(minLength > 0 && { minLength }), ...(maxLength !== '' && { maxLength }) }
    // A reference may be shorter than what it stands for, so the length is a part of the alternative.
    const length = minLength > 0 || maxLength !== '' ? `(?=^.{${minLength},${maxLength}}$)` : ''
    return { type: 'string', pattern: `${length}${length === '' ? pattern : `(?:${pattern})`}|${reference}`, patternErrorMessage: errorMessage }
  },
  list ({ items, minItems, maxItems }, path) {
    return { type: 'array', items: settingSchema(items, `${path}[]`), ...(minItems !== undefined && { minItems }), ...(maxItems !== undefined && { maxItems }) }
  },
  mapping (schema, path) {
    const { properties } = schema
    const required = Object.keys(properties).filter(key => isRequired(schema, key))
    return {
      type: 'object',
      properties: Object.fromEntries(Object.entries(properties).map(([key, property]) => [key, settingSchema(property, path === '' ? key : `${path}.${key}`)])),
      ...(required.length > 0 && { required }),
      additionalProperties: false,
      ...rulesBetweenKeys[path]
    }
  },
  anything: () => ({ type: 'object' })
}

/** A top-level key with nothing behind it counts as left out, as `agents:` with all its entries commented out. */
function orNothing (schema) {
  return { ...schema, type: [schema.type, 'null'] }
}

function fleetSchema () {
  const { properties, ...whole } = forms.mapping(FleetOptions, '')
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    $comment: 'Made by `npm run docs` from the schemas of the program (src/config.ts): change those.',
    title: 'fleet.yaml',
    description: 'The configuration of a Fleet Gateway: its agents, and one key per concern.',
    ...whole,
    properties: Object.fromEntries(Object.entries(properties).map(([key, schema]) => [key, orNothing(schema)]))
  }
}

export default {
  file: 'schema/fleet.schema.json',
  render: () => `${JSON.stringify(fleetSchema(), null, 2)}\n`
}
