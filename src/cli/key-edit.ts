/**
 * The text of a fleet.yaml with one more key in `auth.keys`, or one less. Nothing is written anew: text is put in, or cut out, at places that the
 * syntax tree names, so that everything else stays byte for byte as it is. Whether the result means what it should is looked at by key-file.ts.
 */
import { isMap, isPair, isScalar, isSeq, Parser, parseDocument, type CST, type Document, type Node, type Pair, type YAMLMap, type YAMLSeq } from 'yaml'
import type { Scope } from '../principal.ts'

/** A key as fleet.yaml has it, with the digest of its token. */
export interface KeyEntry {
  readonly id: string
  readonly tokenSha256: string
  readonly scopes: readonly Scope[]
  readonly agents?: readonly string[]
  readonly rateLimit?: { readonly perMinute: number, readonly burst?: number }
}

/** The file is written in a way that is to be edited by hand. */
export class UnusualFile extends Error {
  override readonly name = 'UnusualFile'
}

type Text = { readonly text: string, readonly eol: string }
type AnyMap = YAMLMap<Node, Node | null>
type AnyPair = Pair<Node, Node | null>

/** How deep a mapping or list is in what it stands in, where there is nothing to go by. */
const step = '  '

/** The entry as lines of a block list, the first with its dash. */
export function keyLines (key: KeyEntry): string[] {
  return fieldsOf(key, plainWhereItCan).map((field, index) => `${index === 0 ? '- ' : '  '}${field}`)
}

/** `name: value` for each field. */
function fieldsOf ({ id, tokenSha256, scopes, agents, rateLimit }: KeyEntry, written: (text: string) => string): string[] {
  const list = (texts: readonly string[]) => `[${texts.map(written).join(', ')}]`
  return [
    `${written('id')}: ${written(id)}`,
    `${written('tokenSha256')}: ${JSON.stringify(tokenSha256)}`, // in quotes, or one of digits alone would be a number
    `${written('scopes')}: ${list(scopes)}`,
    ...(agents === undefined ? [] : [`${written('agents')}: ${list(agents)}`]),
    ...(rateLimit === undefined ? [] : [`${written('rateLimit')}: {${Object.entries(rateLimit).map(([name, value]) => `${written(name)}: ${value}`).join(', ')}}`])
  ]
}

/** Words that YAML, of whatever version, reads as something else than a text. */
const otherwise = /^(?:true|false|null|yes|no|on|off|y|n|nan|inf)$/i

function plainWhereItCan (text: string): string {
  return /^[A-Za-z][A-Za-z0-9_.-]*$/.test(text) && !otherwise.test(text) ? text : JSON.stringify(text)
}

/** The text with the key at the end of `auth.keys`. @throws UnusualFile */
export function withKey (text: string, key: KeyEntry): string {
  const document = parsed(text)
  const source = { text, eol: eolOf(text) }
  const lines = keyLines(key)
  const { contents } = document
  if (isNothing(contents)) return appended(source, null, ['auth:', ...indented(['keys:', ...indented(lines)])])
  if (!isMap(contents)) throw new UnusualFile('it is no mapping')
  const root = contents as AnyMap
  const flowEntry = (quote: boolean) => `{${fieldsOf(key, quote ? JSON.stringify : plainWhereItCan).join(', ')}}`
  const isJson = root.flow === true
  const word = (name: string) => isJson ? JSON.stringify(name) : name

  const auth = pairOf(root, 'auth')
  if (auth === undefined) {
    if (isJson) return intoFlow(text, root, `${word('auth')}: {${word('keys')}: [${flowEntry(true)}]}`)
    return appended(source, root, ['auth:', ...indented(['keys:', ...indented(lines)])])
  }
  if (isNothing(auth.value)) return underKey(source, auth, ['keys:', ...indented(lines)], isJson ? `{${word('keys')}: [${flowEntry(true)}]}` : undefined)
  if (!isMap(auth.value)) throw new UnusualFile('"auth" is not written out as a mapping')
  const settings = auth.value as AnyMap

  const keys = pairOf(settings, 'keys')
  if (keys === undefined) {
    if (settings.flow === true) return intoFlow(text, settings, `${word('keys')}: [${flowEntry(isJson)}]`)
    return belowKey(source, auth, settings, ['keys:', ...indented(lines)])
  }
  if (isNothing(keys.value)) return underKey(source, keys, lines, settings.flow === true ? `[${flowEntry(isJson)}]` : undefined)
  if (!isSeq(keys.value)) throw new UnusualFile('"auth.keys" is not written out as a list')
  const list = keys.value as YAMLSeq<Node>
  if (list.flow === true) return intoFlow(text, list, flowEntry(isJson))
  return insertedLines(source, lineAfter(text, endOf(list)), indentationOf(text, list), lines)
}

/** The text without this entry of `auth.keys`, counted from 0. @throws UnusualFile */
export function withoutKey (text: string, index: number): string {
  const { contents } = parsed(text)
  const auth = isMap(contents) ? pairOf(contents as AnyMap, 'auth')?.value : undefined
  const keys = isMap(auth) ? pairOf(auth as AnyMap, 'keys') : undefined
  if (keys === undefined || !isSeq(keys.value)) throw new UnusualFile('"auth.keys" is not written out as a list')
  const list = keys.value as YAMLSeq<Node>
  return list.flow === true ? outOfFlow(text, list, index) : outOfBlock(text, keys, list, index)
}

function parsed (text: string): Document {
  const document = parseDocument(text, { keepSourceTokens: true, logLevel: 'silent', prettyErrors: false, uniqueKeys: false })
  if (document.errors.length > 0) throw new UnusualFile('parts of it can be read in more than one way')
  return document
}

function pairOf (map: AnyMap, name: string): AnyPair | undefined {
  return map.items.find(pair => isPair(pair) && isScalar(pair.key) && pair.key.value === name)
}

/** There is no value, or one that says so. */
function isNothing (node: unknown): boolean {
  return node === null || (isScalar(node) && node.value === null)
}

function indented (lines: readonly string[], by = step): string[] {
  return lines.map(line => `${by}${line}`)
}

/** How the file ends its lines. */
function eolOf (text: string): string {
  return /\r?\n/.exec(text)?.[0] ?? '\n'
}

function lineStart (text: string, offset: number): number {
  const start = text.lastIndexOf('\n', offset - 1) + 1
  return start === 0 && text.startsWith('\uFEFF') ? 1 : start
}

/** Where the next line begins; the end of the text when there is none. */
function lineAfter (text: string, offset: number): number {
  if (offset > 0 && text[offset - 1] === '\n') return offset // what ends there brought its line break with it
  const end = text.indexOf('\n', offset)
  return end === -1 ? text.length : end + 1
}

/** The blanks before a block collection's entries. */
function indentationOf (text: string, collection: Node): string {
  const offset = startOf(collection)
  const before = text.slice(lineStart(text, offset), offset)
  if (!/^ *$/.test(before)) throw new UnusualFile('a mapping or list begins in the middle of a line')
  return before
}

function startOf (node: Node): number {
  const first = isMap(node) && node.flow !== true ? (node.items[0]?.key as Node | undefined) : undefined
  return rangeOf(first ?? node)[0]
}

function rangeOf (node: Node): readonly [start: number, end: number] {
  if (!node.range) throw new UnusualFile('a place in it is not known')
  return [node.range[0], node.range[1]]
}

/** What stands last in a node: a scalar, an alias, or a collection in brackets. */
function lastOf (node: Node): Node {
  if (!(isMap(node) || isSeq(node)) || node.flow === true || node.items.length === 0) return node
  const last = node.items.at(-1) as Node | AnyPair
  return lastOf(isPair(last) ? last.value ?? last.key : last)
}

/** Where the last character of a node's content is; comments behind it are not its own. */
function endOf (node: Node): number {
  return rangeOf(lastOf(node))[1]
}

/** Puts lines in where a line begins, or at the end of a text whose last line is not ended, which then ends as it did. */
function insertedLines ({ text, eol }: Text, at: number, indentation: string, lines: readonly string[]): string {
  const block = indented(lines, indentation).join(eol)
  const isAfterLine = at === 0 || text[at - 1] === '\n' || (at === 1 && text.startsWith('\uFEFF'))
  return text.slice(0, at) + (isAfterLine ? block + eol : eol + block) + text.slice(at)
}

/** Puts a top-level key in at the end, behind an empty line where the file has some. @param root null where nothing is written yet */
function appended (source: Text, root: AnyMap | null, lines: readonly string[]): string {
  const { text, eol } = source
  const end = [...new Parser().parse(text)].find(({ type }) => type === 'doc-end') // `...`
  const at = end === undefined ? text.length : (end as CST.DocumentEnd).offset
  const inserted = insertedLines(source, at, root === null ? '' : indentationOf(text, root), lines)
  const before = text.slice(0, at)
  const hasEmptyLines = /\n[ \t]*\r?\n/.test(before)
  const last = root === null ? null : lastOf(root)
  // An empty line behind a text of the form `|+` would be a part of it.
  const isBlockText = isScalar(last) && /^BLOCK_/.test(String(last.type))
  if (!hasEmptyLines || isBlockText || /\n[ \t]*\r?\n$/.test(before)) return inserted
  const from = before.endsWith('\n') ? at : at + eol.length
  return inserted.slice(0, from) + eol + inserted.slice(from)
}

/** Puts lines under a key with nothing behind it; what is written there for nothing goes. @param inFlow what to write instead inside `{ }` */
function underKey (source: Text, pair: AnyPair, lines: readonly string[], inFlow: string | undefined): string {
  const { text } = source
  const colon = colonOf(pair)
  const [start, end] = pair.value === null ? [colon + 1, colon + 1] : rangeOf(pair.value)
  const isWritten = end > start
  const props = text.slice(colon + 1, start)
  if (isWritten && !/^[ \t]*$/.test(props)) throw new UnusualFile('a key without a value has an anchor or a tag')
  if (inFlow !== undefined) return `${text.slice(0, colon + 1)} ${inFlow}${text.slice(isWritten ? end : colon + 1)}`
  const bare = isWritten ? text.slice(0, colon + 1) + text.slice(end) : text
  const keyStart = rangeOf(pair.key)[0]
  const indentation = text.slice(lineStart(text, keyStart), keyStart)
  if (!/^ *$/.test(indentation)) throw new UnusualFile('a key stands in the middle of a line')
  if (!/^[ \t]*(?:#.*)?\r?$/.test(bare.slice(colon + 1).split('\n', 1)[0]!)) throw new UnusualFile('a key without a value has an anchor or a tag')
  return insertedLines({ ...source, text: bare }, lineAfter(bare, colon + 1), indentation + step, lines)
}

/** Puts lines in as the first under a key, above what is there. */
function belowKey (source: Text, pair: AnyPair, map: AnyMap, lines: readonly string[]): string {
  const { text } = source
  const at = lineAfter(text, colonOf(pair) + 1)
  if (startOf(map) < at) throw new UnusualFile('a mapping begins in the middle of a line')
  return insertedLines(source, at, indentationOf(text, map), lines)
}

function colonOf (pair: AnyPair): number {
  const colon = (pair.srcToken as CST.CollectionItem | undefined)?.sep?.find(({ type }) => type === 'map-value-ind')
  if (colon === undefined) throw new UnusualFile('a key has no colon')
  return colon.offset
}

/** Puts an entry in as the last between brackets. */
function intoFlow (text: string, collection: AnyMap | YAMLSeq<Node>, entry: string): string {
  const last = collection.items.at(-1) as Node | AnyPair | undefined
  if (last === undefined) {
    const at = rangeOf(collection)[0] + 1
    return text.slice(0, at) + entry + text.slice(at)
  }
  const at = endOf(isPair(last) ? last.value ?? last.key : last)
  return `${text.slice(0, at)}, ${entry}${text.slice(at)}`
}

function outOfBlock (text: string, keys: AnyPair, list: YAMLSeq<Node>, index: number): string {
  const items = (list.srcToken as CST.BlockSequence).items.filter(({ start }) => start.some(({ type }) => type === 'seq-item-ind'))
  const dash = items[index]?.start.find(({ type }) => type === 'seq-item-ind')
  const node = list.items[index]
  if (dash === undefined || node === undefined) throw new UnusualFile('the key is not where it should be')
  const from = lineStart(text, dash.offset)
  if (!/^ *$/.test(text.slice(from, dash.offset))) throw new UnusualFile('a list begins in the middle of a line')
  const cut = text.slice(0, from) + text.slice(lineAfter(text, endOf(node)))
  if (list.items.length > 1) return cut
  // A key with nothing behind it is no empty list.
  const colon = colonOf(keys)
  if (!/^[ \t]*(?:#.*)?\r?$/.test(text.slice(colon + 1).split('\n', 1)[0]!)) throw new UnusualFile('"auth.keys" has an anchor or a tag')
  return `${cut.slice(0, colon + 1)} []${cut.slice(colon + 1)}`
}

function outOfFlow (text: string, list: YAMLSeq<Node>, index: number): string {
  const all = (list.srcToken as CST.FlowCollection).items
  const items = all.filter(({ key, value, sep }) => value !== undefined || sep !== undefined || (key !== undefined && key !== null))
  const item = items[index]
  const node = list.items[index]
  if (item === undefined || node === undefined) throw new UnusualFile('the key is not where it should be')
  const commaOf = (entry: CST.CollectionItem | undefined) => entry?.start.find(({ type }) => type === 'comma')?.offset
  const start = item.start.find(({ type }) => type === 'anchor' || type === 'tag')?.offset ?? rangeOf(node)[0]
  const end = endOf(node)
  const following = commaOf(all[all.indexOf(item) + 1])
  const own = commaOf(item)
  // One comma goes with it: the one behind it, or of the last the one before it. Blanks that are left between two others go as well.
  if (following !== undefined) return withoutBlankLine(cutOut(text, [[start, end], [following, following + 1 + blanksAt(text, following + 1)]]), start)
  if (own === undefined) return cutOut(text, [[start, end]])
  const isBeside = /^,[ \t]*$/.test(text.slice(own, start))
  return withoutBlankLine(cutOut(text, isBeside ? [[own, end]] : [[own, own + 1], [start, end]]), start - 1)
}

/** How many blanks before another entry of the line. */
function blanksAt (text: string, offset: number): number {
  const blanks = /^[ \t]*/.exec(text.slice(offset))![0].length
  return /[\r\n#]/.test(text[offset + blanks] ?? '\n') ? 0 : blanks
}

function cutOut (text: string, parts: readonly (readonly [from: number, to: number])[]): string {
  return [...parts].sort((a, b) => b[0] - a[0]).reduce((left, [from, to]) => left.slice(0, from) + left.slice(to), text)
}

/** The text without the line at the offset, if nothing is on it now. */
function withoutBlankLine (text: string, offset: number): string {
  const [from, to] = [lineStart(text, offset), lineAfter(text, offset)]
  return /^[ \t]*\r?\n$/.test(text.slice(from, to)) ? text.slice(0, from) + text.slice(to) : text
}
