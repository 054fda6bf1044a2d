/**
 * Whether a client wants the live stream or one answer: content negotiation (RFC 9110 §12.5.1) between the two.
 */

/** How much a type is wanted, and how precisely it was named: 2 itself, 1 `text/*`, 0 any, -1 not at all. */
interface Wish { readonly quality: number, readonly precision: number }

/** True when `text/event-stream` is wanted more than `application/json`, or as much and named more precisely. */
export function wantsEventStream (accept: string | undefined): boolean {
  if (accept === undefined || !/event-stream|text\/\*/i.test(accept)) return false
  const ranges = accept.split(',').map(rangeIn)
  const stream = wishFor('text/event-stream', ranges)
  const json = wishFor('application/json', ranges)
  if (stream.quality !== json.quality) return stream.quality > json.quality
  return stream.quality > 0 && stream.precision > json.precision
}

interface Range { readonly type: string, readonly quality: number }

function rangeIn (text: string): Range {
  const [type = '', ...parameters] = text.split(';').map(part => part.trim().toLowerCase())
  const weight = parameters.find(parameter => parameter.startsWith('q='))
  const quality = weight === undefined ? 1 : Number(weight.slice(2))
  return { type, quality: quality >= 0 && quality <= 1 ? quality : 0 }
}

function wishFor (type: string, ranges: readonly Range[]): Wish {
  const names = ['*/*', `${type.split('/')[0]!}/*`, type]
  let wish: Wish = { quality: 0, precision: -1 }
  for (const range of ranges) {
    const precision = names.indexOf(range.type)
    if (precision > wish.precision) wish = { quality: range.quality, precision }
  }
  return wish
}
