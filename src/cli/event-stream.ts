/**
 * The events in an event stream's text (HTML Living Standard, "Server-sent events"), as far as this program is sent them.
 */

/** What a stream told. */
export interface StreamEvent {
  /** `message` when it has none. */
  readonly type: string
  /** Empty when only the id is told. */
  readonly data: string
  /** The last that was told. */
  readonly id: string | undefined
}

const blockEnd = /\r?\n\r?\n/
/** So many characters of an end may be there before the next chunk. */
const longestSeam = 3

/** @throws RangeError when an event does not end within so many characters */
export async function * eventsIn (text: AsyncIterable<string>, mostCharacters = 1024 * 1024): AsyncGenerator<StreamEvent> {
  let begun = ''
  let rest = ''
  let id: string | undefined
  for await (const chunk of text) {
    // An event may come in thousands of chunks: what has no end in it is not looked through again with each of them.
    rest += chunk
    const ended = blockEnd.test(rest) ? begun + rest : undefined
    const blocks = ended?.split(blockEnd) ?? []
    begun = ended === undefined ? begun + rest.slice(0, -longestSeam) : ''
    rest = ended === undefined ? rest.slice(-longestSeam) : blocks.pop()!
    if (begun.length + rest.length > mostCharacters) throw new RangeError('an event without an end')
    for (const block of blocks) {
      const fields = block.split(/\r?\n/).map(fieldIn)
      const valuesOf = (name: string) => fields.filter(field => field.name === name).map(({ value }) => value)
      id = valuesOf('id').at(-1) ?? id
      yield { type: valuesOf('event').at(-1) ?? 'message', data: valuesOf('data').join('\n'), id }
    }
  }
}

/** Of a comment the name is empty. */
function fieldIn (line: string): { name: string, value: string } {
  const colon = line.indexOf(':')
  if (colon === -1) return { name: line, value: '' }
  return { name: line.slice(0, colon), value: line.slice(colon + 1).replace(/^ /, '') }
}
