/**
 * Whether an example answer in a document is what really comes: the same keys, the same words, the same kind of values. What differs from run
 * to run (ids, times, numbers) may differ. `…` stands for whatever there is: further keys, a value, further lines.
 */
import { isDeepStrictEqual } from 'node:util'

/** What differs between the example and the real answer, a line each; none when they agree. */
export function answerDifferences (language: string, example: string, actual: string): string[] {
  try {
    if (language === 'json') return jsonDifferences(parseExample(example), JSON.parse(actual) as unknown)
    return language === 'http' ? httpDifferences(example, actual) : lineDifferences(lines(example), lines(actual))
  } catch (error) {
    return [`${(error as Error).message} in: ${actual}`]
  }
}

/** JSON in which `…` may stand for anything. @throws SyntaxError */
export function parseExample (text: string): unknown {
  let isInText = false
  let previous = ''
  const open: string[] = []
  let json = ''
  for (const character of text) {
    if (character === '"' && previous !== '\\') isInText = !isInText
    if (!isInText && (character === '{' || character === '[')) open.push(character)
    if (!isInText && (character === '}' || character === ']')) open.pop()
    const isEllipsis = character === '…' && !isInText
    json += !isEllipsis ? character : open.at(-1) === '{' && !/:\s*$/.test(json) ? '"…": "…"' : '"…"'
    previous = character === '\\' && previous === '\\' ? '' : character
  }
  return JSON.parse(json)
}

function jsonDifferences (example: unknown, actual: unknown, path = ''): string[] {
  if (example === '…') return []
  if (isMapping(example) && isMapping(actual)) return mappingDifferences(example, actual, path)
  if (Array.isArray(example) && Array.isArray(actual)) {
    const isOpen = example.at(-1) === '…'
    const listed = isOpen ? example.slice(0, -1) : example
    if (isOpen ? actual.length < listed.length : actual.length !== listed.length) return [`${path} has ${actual.length} elements, not ${listed.length}`]
    return listed.flatMap((value, index) => jsonDifferences(value, actual[index], `${path}[${index}]`))
  }
  if (typeof example === 'number' && typeof actual === 'number') return []
  const isSame = typeof example === 'string' && typeof actual === 'string' ? constant(example) === constant(actual) : isDeepStrictEqual(example, actual)
  return isSame ? [] : [`${path} is ${JSON.stringify(actual)}, not ${JSON.stringify(example)}`]
}

function mappingDifferences (example: Record<string, unknown>, actual: Record<string, unknown>, path: string): string[] {
  const wanted = new Map(Object.entries(example).filter(([key]) => key !== '…').map(([key, value]) => [withoutIds(key), value]))
  const found = new Map(Object.entries(actual).map(([key, value]) => [withoutIds(key), value]))
  const surplus = '…' in example ? [] : [...found.keys()].filter(key => !wanted.has(key)).map(key => `${path}.${key} is not in the example`)
  const others = [...wanted].flatMap(([key, value]) => found.has(key) ? jsonDifferences(value, found.get(key), `${path}.${key}`) : [`${path}.${key} is not in the answer`])
  return [...surplus, ...others]
}

function isMapping (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Status line, and each header of the example among the real ones; then the body. */
function httpDifferences (example: string, actual: string): string[] {
  const [wanted, found] = [splitMessage(example), splitMessage(actual)]
  const missing = wanted.head.filter(line => line !== '…' && !found.head.some(other => constant(other.toLowerCase()) === constant(line.toLowerCase())))
  const head = missing.map(line => `"${line}" is not in the answer:\n${found.head.join('\n')}`)
  if (wanted.body === '') return head
  return [...head, ...answerDifferences(/^[{[]/.test(wanted.body) ? 'json' : 'text', wanted.body, found.body)]
}

function splitMessage (text: string): { head: string[], body: string } {
  const [head = '', ...body] = text.replaceAll('\r', '').trim().split('\n\n')
  return { head: head.split('\n'), body: body.join('\n\n').trim() }
}

function lineDifferences (example: readonly string[], actual: readonly string[]): string[] {
  const [wanted, ...others] = example
  if (wanted === undefined) return actual.length === 0 ? [] : [`"${actual[0]}" is not in the example`]
  if (wanted === '…') {
    const rests = Array.from({ length: actual.length + 1 }, (_, skipped) => lineDifferences(others, actual.slice(skipped)))
    return rests.find(differences => differences.length === 0) ?? rests[0]!
  }
  if (actual[0] === undefined || constant(wanted) !== constant(actual[0])) return [`the answer has "${actual[0] ?? ''}" where the example has "${wanted}"`]
  return lineDifferences(others, actual.slice(1))
}

function lines (text: string): string[] {
  return text.trim().split('\n').map(line => line.trimEnd()).filter(line => line !== '')
}

/** The text without what differs from run to run: times, ids, and numbers, which may be ports. */
function constant (text: string): string {
  const timeless = text.replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z|\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT/g, '<time>')
  return withoutIds(timeless).replaceAll(/(?<![a-z\d])\d+(?:\.\d+)?/gi, '0')
}

/** Of requests, traces, instances and commits. */
function withoutIds (text: string): string {
  return text
    .replaceAll(/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, '<id>')
    .replaceAll(/\b(?=[0-9a-f]*\d)(?:[0-9a-f]{40}|[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{12})\b/g, '<id>')
}
