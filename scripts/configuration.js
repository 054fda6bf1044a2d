/**
 * docs/configuration.md: a reference of fleet.yaml. The prose, with an example for each key, is configuration.template.md; keys, kinds, defaults,
 * bounds and meanings are the schemas', put in where the template has a name in double braces.
 */
import { readFile } from 'node:fs/promises'
import { settingsOfTheStart } from '../dist/src/config-changes.js'
import { FleetOptions } from '../dist/src/config.js'
import { choicesOf, defaultOf, inYaml, isRequired, kindOf, rulesOf } from './settings.js'

const template = new URL('configuration.template.md', import.meta.url)

const sections = FleetOptions.properties

/** How a value is written, for people. */
function kindInWords (schema) {
  const kind = kindOf(schema)
  if (kind === 'choice') return choicesOf(schema).map(choice => `\`${choice}\``).join(' or ')
  if (kind === 'list') return `list of ${kindOf(schema.items) === 'choice' ? choicesOf(schema.items).map(choice => `\`${choice}\``).join(', ') : plurals[kindOf(schema.items)]}`
  return kinds[kind]
}

const kinds = { duration: 'duration', size: 'size', boolean: '`true` or `false`', integer: 'whole number', text: 'text', mapping: 'mapping', anything: 'any mapping' }
const plurals = { integer: 'whole numbers', text: 'texts', mapping: 'mappings' }

/** @param inherited the path of the setting that counts where this one is left out, as an agent's timeouts and the gateway's */
function defaultInWords (schema, required, inherited) {
  if (required) return '*required*'
  if (inherited !== undefined) return `as \`${inherited}\``
  const value = defaultOf(schema)
  return value === undefined || kindOf(schema) === 'mapping' ? '–' : `\`${inYaml(value)}\``
}

function meaning (schema) {
  const example = schema.examples?.[0]
  return [schema.description, ...rulesOf(schema), ...(example === undefined ? [] : [`Example: \`${inYaml(example)}\`.`])].join(' ')
}

/** A row for each setting below `schema`, in order. */
function rows (schema, path, inherited) {
  const kind = kindOf(schema)
  if (kind === 'list') return rows(schema.items, `${path}[]`)
  if (kind !== 'mapping') return []
  return Object.entries(schema.properties).flatMap(([key, property]) => {
    const own = `${path}.${key}`
    const above = inheritedFrom(path, key, inherited)
    const cells = [`\`${own}\``, kindInWords(property), defaultInWords(property, isRequired(schema, key), above), meaning(property)]
    return [`| ${cells.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`, ...rows(property, own, above)]
  })
}

/** A mapping of an agent or a key that has the name of a top-level one overrides that one, field by field. */
function inheritedFrom (path, key, inherited) {
  if (inherited !== undefined) return `${inherited}.${key}`
  return path.endsWith('[]') && key in sections && kindOf(sections[key]) === 'mapping' ? key : undefined
}

function table (key) {
  return ['| key | type | default | meaning |', '|---|---|---|---|', ...rows(sections[key], key)].join('\n')
}

function about (key) {
  const below = settingsOfTheStart.filter(path => path.startsWith(`${key}.`)).map(path => `\`${path}\``)
  const atOnce = below.length === 0 ? 'A change applies at once.' : `A change applies at once, but for ${listed(below)}, which waits for a restart.`
  const when = settingsOfTheStart.includes(key) ? 'A change waits for a restart.' : atOnce
  return `${sections[key].description} ${when}`
}

/** Links to the sections of the prose. */
function contents (prose) {
  const headings = [...prose.matchAll(/^## (.+)$/gm)].map(([, heading]) => heading)
  return headings.map(heading => `[${heading}](#${heading.toLowerCase().replaceAll('`', '').replaceAll(' ', '-')})`).join(' · ')
}

function reloads () {
  const names = keys => listed(keys.map(key => `\`${key}\``))
  const atOnce = Object.keys(sections).filter(key => !settingsOfTheStart.includes(key))
  return `A reload applies ${names(atOnce)} at once. Changes of ${names(settingsOfTheStart)} wait for a restart, as the log says then.`
}

function listed (words) {
  return words.join(', ').replace(/, ([^,]+)$/, ' and $1')
}

async function render () {
  const prose = await readFile(template, 'utf8')
  for (const key of Object.keys(sections)) {
    for (const part of [`## \`${key}\`\n`, `{{about ${key}}}`, `{{table ${key}}}`]) {
      if (!prose.includes(part)) throw new Error(`configuration.template.md has no ${JSON.stringify(part)}: each key has a section`)
    }
  }
  const note = '<!-- Made by `npm run docs` from scripts/configuration.template.md and the option schemas: change those. -->'
  const makers = { about, table, reloads, contents: () => contents(prose) }
  const filled = prose.split('\n\n').map(paragraph => {
    if (!paragraph.includes('{{')) return paragraph
    const text = paragraph.trim().replace(/\{\{(\w+)(?: (\w+))?\}\}/g, (_, maker, key) => makers[maker](key))
    return text.startsWith('|') ? text : wrapped(text)
  })
  return `${[note, ...filled].join('\n\n').trimEnd()}\n`
}

/** In lines like those of the template. */
function wrapped (paragraph) {
  const lines = ['']
  for (const word of paragraph.split(/\s+/)) {
    const line = `${lines.at(-1)} ${word}`.trimStart()
    if (line.length > 150) lines.push(word)
    else lines[lines.length - 1] = line
  }
  return lines.join('\n')
}

export default { file: 'docs/configuration.md', render }
