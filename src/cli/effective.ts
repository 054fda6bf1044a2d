/**
 * The effective configuration: each setting with its value, as it would be written, and with who said it; secrets are masked.
 */
import { FleetOptions, type FleetConfigInput } from '../config.ts'
import type { TSchema } from '../options.ts'
import { withoutSecrets } from '../secret-fields.ts'
import { positionOf } from '../yaml.ts'
import { legible } from './io.ts'
import type { ValueSource } from './overrides.ts'
import type { Setup } from './setup.ts'

/** One value; what has no settings of its own below it. */
interface Leaf {
  readonly path: string
  readonly value: unknown
  readonly source: ValueSource
  /** What else is to be known of it. */
  readonly note?: string
}

type Node = Leaf | { readonly entries: readonly (readonly [key: string, node: Node])[] } | { readonly items: readonly Node[] }

interface SettingSchema {
  readonly properties?: Readonly<Record<string, TSchema>>
  readonly items?: TSchema
  readonly writeOnly?: true
  readonly default?: unknown
  readonly whenLeftOut?: unknown
}

/** What would run, as a tree. */
export function effectiveConfig ({ input, source, sources, stateDir, config }: Setup): Node {
  const loopbackOnly = config.cors.enabled && !config.auth.enabled && input.cors?.origins === undefined
  const notes: Readonly<Record<string, string>> = loopbackOnly ? { 'cors.origins': 'with auth off, of this machine only' } : {}
  const shown = { ...input, registry: { ...input.registry, stateDir }, ...(input.auth?.secret !== undefined && { auth: withoutSecretFile(input.auth) }) }
  const masked = withoutSecrets(FleetOptions, shown)

  function sourceOf (path: string): ValueSource {
    const said = sources.get(path)
    if (said !== undefined) return said
    const place = source.positions.get(path)
    if (place === undefined) return { from: 'default' }
    const { variables } = place
    return { from: 'file', file: source.file, ...positionOf(source.positions, path, 'key')!, ...(variables !== undefined && { variables }) }
  }

  function nearestSource (path: string, around: string): ValueSource {
    return sourceOf(source.positions.has(path) ? path : around)
  }

  function nodeAt (schema: TSchema, value: unknown, path: string): Node {
    const { properties, items, writeOnly } = schema as SettingSchema
    if (properties !== undefined) return { entries: entriesOf(schema, value as Record<string, unknown>, path) }
    if (Array.isArray(value) && value.length > 0 && (items as SettingSchema | undefined)?.properties !== undefined) {
      return { items: value.map((entry: unknown, index) => nodeAt(items!, entry, `${path}[${index}]`)) }
    }
    // What is masked says by its names alone who said what.
    if (writeOnly === true && isMapping(value)) return { entries: Object.entries(value).map(([key, field]) => [key, { path: `${path}.${key}`, value: field, source: nearestSource(`${path}.${key}`, path) }]) }
    const note = notes[path]
    return { path, value, source: sourceOf(path), ...(note !== undefined && { note }) }
  }

  function entriesOf (schema: TSchema, value: Record<string, unknown>, path: string): [string, Node][] {
    return Object.entries((schema as SettingSchema).properties!).flatMap(([key, property]): [string, Node][] => {
      const { default: fallback, whenLeftOut } = property as SettingSchema
      const effective = value[key] ?? fallback ?? (isSaidElsewhere(key, value, input) ? undefined : whenLeftOut)
      return effective === undefined ? [] : [[key, nodeAt(property, effective, path === '' ? key : `${path}.${key}`)]]
    })
  }

  return nodeAt(FleetOptions, masked, '')
}

function isMapping (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length > 0
}

/** A secret in clear counts before one in a file. */
function withoutSecretFile ({ secretFile: _unused, ...auth }: FleetConfigInput['auth'] & {}): FleetConfigInput['auth'] {
  return auth
}

/** What an entry of `agents` leaves out may be said of its instances, or by another entry of the same name. */
function isSaidElsewhere (key: string, entry: Record<string, unknown>, { agents = [] }: FleetConfigInput): boolean {
  if (entry['instances'] !== undefined && ['host', 'protocol', 'weight'].includes(key)) return true
  return agents.some(agent => agent.name === entry['name'] && key in agent && !['host', 'protocol', 'weight'].includes(key))
}

/** All values, by path. */
function * leavesOf (node: Node): Iterable<Leaf> {
  if ('source' in node) yield node
  else for (const below of 'items' in node ? node.items : node.entries.map(([, entry]) => entry)) yield * leavesOf(below)
}

/** For programs: the configuration, and by the path of each value who said it. */
export function effectiveJson (node: Node): { config: unknown, sources: Record<string, ValueSource> } {
  return { config: plainValue(node), sources: Object.fromEntries([...leavesOf(node)].map(({ path, source }) => [path, source])) }
}

function plainValue (node: Node): unknown {
  if ('source' in node) return node.value
  return 'items' in node ? node.items.map(plainValue) : Object.fromEntries(node.entries.map(([key, entry]) => [key, plainValue(entry)]))
}

/** For people: YAML, with who said it behind each value. */
export function effectiveYaml (node: Node): string {
  return linesOf(node).join('\n')
}

function linesOf (node: Node): string[] {
  if ('source' in node) return [`${scalar(node.value)} # ${legible([sourceInWords(node.source), node.note].filter(part => part !== undefined).join('; '))}`]
  if ('items' in node) return node.items.flatMap(item => linesOf(item).map((line, index) => `${index === 0 ? '- ' : '  '}${line}`))
  return node.entries.flatMap(([key, entry]) => {
    const lines = linesOf(entry)
    const name = scalar(key)
    if (lines.length === 0) return [`${name}: {}`]
    return 'source' in entry ? [`${name}: ${lines[0]}`] : [`${name}:`, ...lines.map(line => `  ${line}`)]
  })
}

/** Text that YAML reads as text without quotes: words, paths, durations and sizes, but for words that mean something else. */
const plainText = /^(?!(?:true|false|null|yes|no|on|off|y|n|\.inf|\.nan)$)(?:\.?[a-z/][\w./-]*|\d+(?:\.\d+)?(?:ms|s|m|h|d|B|KiB|MiB|GiB|KB|MB|GB))$/i

/** JSON is YAML, too; plain text needs no quotes. */
function scalar (value: unknown): string {
  if (typeof value === 'string' && plainText.test(value)) return value
  if (Array.isArray(value)) return `[${value.map(scalar).join(', ')}]`
  // What neither JSON escapes nor YAML takes as it is.
  return JSON.stringify(value).replaceAll(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]/g, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function sourceInWords (source: ValueSource): string {
  switch (source.from) {
    case 'flag': return source.flag
    case 'environment': return source.file === undefined ? source.variable : `${source.variable} (${source.file})`
    case 'file': return `${source.file}:${source.line}${source.variables === undefined ? '' : ` (${source.variables.join(', ')})`}`
    case 'state': return source.isNew ? `made at the start and kept in ${source.file}` : source.file
    case 'default': return 'default'
  }
}
