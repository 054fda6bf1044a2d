/**
 * YAML text → a value, and where each part of it stands. Reads `${NAME}` and `${NAME:-default}` from the environment it is given,
 * in values alone and after parsing, so that what a variable holds can never become YAML syntax. What the keys mean is config.ts's business.
 */
import { CHOMPING_MODE, COLLECTION_STYLE, CORE_SCHEMA, EVENT_ID, SCALAR_STYLE, YAMLException, constructFromEvents, mergeTag, parseEvents, type Event, type ScalarEvent } from 'js-yaml'
import { formatPath } from './options.ts'

/** A place in the text, counted from 1; columns are UTF-16 units. */
export interface Position {
  readonly line: number
  readonly column: number
}

/** Where a part of the value stands; the key is there for what a mapping holds. */
interface Place {
  readonly key?: Position
  readonly value: Position
  /** The environment made this value something else than a string. */
  readonly retyped?: true
  /** The number that stands here, to tell it from one that was laid over it later. */
  readonly number?: number
  /** The variables of the environment that the value is made of, so that it may be a secret wherever it stands. */
  readonly variables?: readonly string[]
}

/** By path, as formatPath makes it: `agents[1].port`, '' for the whole. */
export type Positions = ReadonlyMap<string, Place>

/** Environment variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>

/** A value that names an environment variable which is not there, or names it wrongly. */
export interface YamlProblem extends Position {
  readonly path: string
  readonly message: string
}

/** The text is not YAML, or not one document of it. */
export class YamlError extends Error {
  readonly line: number
  readonly column: number
  constructor (message: string, { line, column }: Position, options?: ErrorOptions) {
    super(message, options)
    this.name = 'YamlError'
    this.line = line
    this.column = column
  }
}

/** A text as a value, and where its parts stand. */
export interface Yaml {
  readonly value: unknown
  readonly positions: Positions
  /** Values that could not be resolved; they are as they were written, and not to be used. */
  readonly problems: readonly YamlProblem[]
}

/** The place of the key or value at `path`; for what is not there, of the nearest thing around it. Undefined when nothing is. */
export function positionOf (positions: Positions, path: string, at: 'key' | 'value' = 'value'): Position | undefined {
  for (let near = path; ; near = near.slice(0, Math.max(near.lastIndexOf('.'), near.lastIndexOf('['), 0))) {
    const place = positions.get(near)
    if (place !== undefined) return near === path && at === 'key' ? place.key ?? place.value : place.value
    if (near === '') return undefined
  }
}

/** `origin` is where the text itself stands, also for an alias of it. */
interface Scalar { kind: 'scalar', value: unknown, plain: boolean, offset: number, origin: number }
interface Sequence { kind: 'sequence', items: Node[], offset: number }
interface Mapping { kind: 'mapping', entries: Entry[], offset: number }
type Node = Scalar | Sequence | Mapping
interface Entry { key: string, keyOffset: number, value: Node }

const schema = CORE_SCHEMA.withTags(mergeTag)

/** Aliases may repeat a part; together they may not make more than this of a file. */
const maxNodes = 500_000
const maxDepth = 200

/**
 * Reads one YAML document; no content at all is an empty mapping. Aliases and merge keys (`<<`) are resolved: what they bring in stands where
 * its anchor is.
 * @param env where `${NAME}` is looked up; `$${` is a literal `${`
 * @param keys the top-level keys that matter: references in others are not resolved, and nobody misses their variables
 * @throws {YamlError}
 */
export function parseYaml (text: string, env: Environment = {}, keys?: readonly string[]): Yaml {
  const source = text.startsWith('\uFEFF') ? text.slice(1) : text
  const locate = locator(source)
  const events = checkedEvents(source, locate)
  const root: Node = events.length === 0 ? emptyMapping() : readDocument(source, events)
  return place(root, locate, env, keys)
}

/** Parses, and lets js-yaml refuse duplicate keys, unknown tags and aliases, and wrong merges. */
function checkedEvents (source: string, locate: (offset: number) => Position): Event[] {
  try {
    const events = parseEvents(source, {})
    const second = events.findIndex((event, index) => index > 0 && event.type === EVENT_ID.DOCUMENT)
    if (second !== -1) throw new YamlError('a second document begins; there may be only one', locate(contentOffset(source, events.slice(second))))
    constructFromEvents(events, { source, schema, maxTotalMergeKeys: maxNodes })
    return events
  } catch (error) {
    if (!(error instanceof YAMLException) || error.mark === undefined) throw error
    const { position } = error.mark
    const isInQuote = error.reason === duplicate && /["']/.test(source.charAt(position - 1))
    const offset = isInQuote ? position - 1 : position
    throw new YamlError(clearer(error.reason, source, offset), locate(offset), { cause: error })
  }
}

/** js-yaml's reason for a key that is there twice. */
const duplicate = 'duplicated mapping key'

function clearer (reason: string, source: string, offset: number): string {
  if (reason === duplicate) return `duplicate key ${/^(?:"[^"]*"|'[^']*'|[^\s:,{}[\]]+)/.exec(source.slice(offset, offset + 100))?.[0] ?? ''}`.trim()
  // Names of aliases and tags are not repeated: a secret may begin with such a sign.
  if (/alias/.test(reason)) return 'this alias has no anchor before it; a text that begins with "*" needs quotes'
  if (/\btag\b/.test(reason)) return 'this tag is not known, or does not fit; a text that begins with "!" needs quotes'
  if (/^[ \t]*\t/.test(source.slice(source.lastIndexOf('\n', offset - 1) + 1))) return `${reason} (tabs can't indent YAML)`
  return reason
}

/** Where the first node stands; for a document without any, the end of the text. */
function contentOffset (source: string, events: readonly Event[]): number {
  for (const event of events) {
    const offset = offsetOf(event)
    if (offset !== undefined) return offset
  }
  return source.length
}

function emptyMapping (): Mapping {
  return { kind: 'mapping', entries: [], offset: 0 }
}

function offsetOf (event: Event): number | undefined {
  if (event.type === EVENT_ID.ALIAS) return event.anchorStart - 1
  if (event.type === EVENT_ID.MAPPING || event.type === EVENT_ID.SEQUENCE) return event.start
  if (event.type !== EVENT_ID.SCALAR || event.valueStart === -1) return undefined
  if (event.style === SCALAR_STYLE.SINGLE_QUOTED || event.style === SCALAR_STYLE.DOUBLE_QUOTED) return event.valueStart - 1
  return event.style === SCALAR_STYLE.PLAIN ? event.valueStart : event.valueStart + Math.max(event.indent, 0)
}

/** The dash of a block sequence's next item, looked for from `offset`. */
function dashAfter (source: string, offset: number): number {
  const dash = /(?<=^[ \t]*(?:- +)*)-(?=\s|$)/gm
  dash.lastIndex = offset
  return dash.exec(source)?.index ?? offset
}

/** Events → a tree that knows its offsets. The events have been checked: only what is valid gets here. */
function readDocument (source: string, events: readonly Event[]): Node {
  const values = scalarValues(source, events)
  const anchors = new Map<string, Node>()
  let index = 1 // behind the document event
  /** Where what was read last ends. */
  let readTo = 0

  /** @param placeOfNothing where a value stands that is not written at all */
  function readNode (placeOfNothing: () => number): Node {
    const event = events[index++]!
    const offset = offsetOf(event) ?? placeOfNothing()
    readTo = Math.max(readTo, offset, 'valueEnd' in event ? event.valueEnd : 0)
    if (event.type === EVENT_ID.ALIAS) return { ...anchors.get(source.slice(event.anchorStart, event.anchorEnd))!, offset }
    if (event.type === EVENT_ID.SCALAR) return anchored(event, { kind: 'scalar', value: values.get(event), plain: isPlain(event), offset, origin: offset })
    if (event.type === EVENT_ID.SEQUENCE) return readSequence(anchored(event, { kind: 'sequence', items: [], offset }))
    return readMapping(anchored(event, { kind: 'mapping', entries: [], offset }))
  }

  /** An anchor is known before its content is read, as content may name it. */
  function anchored<N extends Node> (event: Event, node: N): N {
    if ('anchorStart' in event && event.anchorStart !== -1) anchors.set(source.slice(event.anchorStart, event.anchorEnd), node)
    return node
  }

  function readSequence (node: Sequence): Sequence {
    while (events[index]!.type !== EVENT_ID.POP) {
      const from = readTo
      node.items.push(readNode(() => dashAfter(source, from)))
      readTo = Math.max(readTo, node.items.at(-1)!.offset + 1) // behind the dash of an item that is not written
    }
    index++
    return node
  }

  function readMapping (node: Mapping): Mapping {
    const merged: Node[] = []
    while (events[index]!.type !== EVENT_ID.POP) {
      const isMerge = isMergeKey(source, events[index]!)
      const key = readNode(() => node.offset)
      const value = readNode(() => key.offset)
      if (isMerge) merged.push(value)
      else node.entries.push({ key: String((key as Scalar).value), keyOffset: key.offset, value })
    }
    index++
    for (const { entries } of merged.flatMap(mappingsOf)) {
      const own = new Set(node.entries.map(({ key }) => key))
      node.entries.push(...entries.filter(({ key }) => !own.has(key)))
    }
    return node
  }

  const root = readNode(() => 0)
  return root.kind === 'scalar' && root.value === null ? emptyMapping() : root
}

/** Neither quoted nor tagged: what it is shows in its text. */
function isPlain ({ style, tagStart }: ScalarEvent): boolean {
  return style === SCALAR_STYLE.PLAIN && tagStart === -1
}

function isMergeKey (source: string, event: Event): boolean {
  return event.type === EVENT_ID.SCALAR && isPlain(event) && source.slice(event.valueStart, event.valueEnd) === '<<'
}

function mappingsOf (node: Node): Mapping[] {
  if (node.kind === 'mapping') return [node]
  return node.kind === 'sequence' ? node.items.flatMap(mappingsOf) : []
}

/** The values of all scalars, each by its tag or by what it looks like, by event. One call for all: for each by itself it takes a hundred times longer. */
function scalarValues (source: string, events: readonly Event[]): ReadonlyMap<Event, unknown> {
  const scalars = events.filter((event): event is ScalarEvent => event.type === EVENT_ID.SCALAR)
  const values = constructScalars(source, events[0]!, scalars)
  return new Map(scalars.map((event, index) => [event, values[index]]))
}

/** @param document the event whose directives say what tags mean */
function constructScalars (source: string, document: Event, scalars: readonly ScalarEvent[]): unknown[] {
  const nowhere = { anchorStart: -1, anchorEnd: -1, tagStart: -1, tagEnd: -1 }
  const list: Event = { type: EVENT_ID.SEQUENCE, start: 0, ...nowhere, style: COLLECTION_STYLE.BLOCK }
  const end: Event = { type: EVENT_ID.POP }
  return constructFromEvents([document, list, ...scalars, end, end], { source, schema })[0] as unknown[]
}

function resolvePlain (text: string): unknown {
  const document: Event = { type: EVENT_ID.DOCUMENT, explicitStart: false, explicitEnd: false, directives: [] }
  const scalar: ScalarEvent = { type: EVENT_ID.SCALAR, valueStart: 0, valueEnd: text.length, anchorStart: -1, anchorEnd: -1, tagStart: -1, tagEnd: -1, style: SCALAR_STYLE.PLAIN, chomping: CHOMPING_MODE.CLIP, indent: -1, fast: true }
  return constructScalars(text, document, [scalar])[0]
}

/** The tree → the value, with the position of every path, and with what the environment holds. */
function place (root: Node, locate: (offset: number) => Position, env: Environment, keys: readonly string[] | undefined): Yaml {
  const positions = new Map<string, Place>()
  const problems = new Map<number, YamlProblem>()
  const above = new Set<unknown>()
  let count = 0

  function at (node: Node, pointer: string[], keyOffset?: number): unknown {
    const path = formatPath(pointer)
    if (++count > maxNodes || pointer.length > maxDepth) throw new YamlError('the aliases make too much of this', locate(node.offset))
    positions.set(path, { ...(keyOffset !== undefined && { key: locate(keyOffset) }), value: locate(node.offset) })
    if (node.kind === 'scalar') {
      const value = scalarAt(node, pointer, path)
      if (typeof value === 'number') positions.set(path, { ...positions.get(path)!, number: value })
      return value
    }
    const content = node.kind === 'sequence' ? node.items : node.entries
    if (above.has(content)) throw new YamlError('an alias of what it stands in', locate(node.offset))
    above.add(content)
    const value = node.kind === 'sequence'
      ? node.items.map((item, index) => at(item, [...pointer, String(index)]))
      : Object.fromEntries(node.entries.map(({ key, keyOffset, value }) => [key, at(value, [...pointer, key], keyOffset)])) // fromEntries defines __proto__ as an ordinary key
    above.delete(content)
    return value
  }

  function scalarAt ({ value, plain, origin }: Scalar, pointer: string[], path: string): unknown {
    const matters = keys === undefined || pointer.length === 0 || keys.includes(pointer[0]!)
    if (typeof value !== 'string' || !value.includes('${') || !matters) return value
    const { text, message, variables } = substitute(value, env)
    if (variables.length > 0) positions.set(path, { ...positions.get(path)!, variables })
    if (message !== undefined) {
      problems.set(origin, { ...locate(origin), path, message })
      return value
    }
    const resolved = plain ? resolvePlain(text) : text
    if (typeof resolved !== 'string') positions.set(path, { ...positions.get(path)!, retyped: true })
    return resolved
  }

  return { value: at(root, []), positions, problems: [...problems.values()] }
}

const unsetVariable = 'the environment variable'

/** Whether all that is wrong is that a variable is not set here; elsewhere it may be. */
export function isUnsetVariable ({ message }: YamlProblem): boolean {
  return message.startsWith(`${unsetVariable} `)
}

/** `$${`, a well-formed reference, or the start of an ill-formed one. */
const reference = /\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{/g

/** As in a shell, the default also stands for a variable that is empty. */
function substitute (value: string, env: Environment): { text: string, variables: readonly string[], message?: string } {
  const variables = new Set<string>()
  let message: string | undefined
  const text = value.replace(reference, (match, name: string | undefined, fallback: string | undefined) => {
    if (match === '$${') return '${'
    if (name === undefined) {
      message ??= 'an unfinished reference to the environment; write ${NAME} or ${NAME:-default}, or $${ for a literal "${"'
      return match
    }
    variables.add(name)
    const found = Object.hasOwn(env, name) ? env[name] : undefined
    if (found === undefined && fallback === undefined) message ??= `${unsetVariable} ${name} is not set`
    return fallback === undefined ? found ?? '' : found || fallback
  })
  return { text, variables: [...variables], ...(message !== undefined && { message }) }
}

/** Offsets → lines and columns; a line ends with LF, CRLF or CR. */
function locator (source: string): (offset: number) => Position {
  const starts = [0]
  for (const { index, 0: end } of source.matchAll(/\r\n|\r|\n/g)) starts.push(index + end.length)
  return offset => {
    let low = 0
    let high = starts.length - 1
    while (low < high) {
      const middle = Math.ceil((low + high) / 2)
      if (starts[middle]! <= offset) low = middle
      else high = middle - 1
    }
    return { line: low + 1, column: offset - starts[low]! + 1 }
  }
}
