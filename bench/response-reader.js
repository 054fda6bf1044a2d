/** Reads answers of HTTP/1.1 off a connection, without keeping them: what the load generator and the streams' client need to know, at little cost. */

/**
 * @param {{ head?: (status: number) => void, body?: (bytes: number) => void, end: (status: number) => void }} on `body` is told of payload only,
 *   whatever frames it
 * @returns {{ read: (chunk: Buffer) => void, close: () => boolean }} `close` says whether what was being read may end with the connection
 */
export function createResponseReader (on) {
  let text = '' // of a head, or of a chunk's size line, that is not complete yet
  let part = 'head' // head → body | untilClose, or size → chunk → size … → trailers
  let left = 0
  let status = 0

  const finish = () => {
    part = 'head'
    on.end(status)
  }

  function head (block) {
    status = Number(block.slice(9, 12))
    const isHttp = block.startsWith('HTTP/1.')
    on.head?.(isHttp ? status : 0)
    if (!isHttp) status = 0
    if (status >= 100 && status < 200) return // 100 and 103; the answer follows
    const [, length] = /\r\ncontent-length: *(\d+)/i.exec(block) ?? []
    if (/\r\ntransfer-encoding:[^\r]*chunked/i.test(block)) part = 'size'
    else if (length !== undefined) [part, left] = ['body', Number(length)]
    else part = 'untilClose'
    if (part === 'body' && left === 0) finish()
  }

  /** Takes text up to and with the mark; undefined when it is not there yet. */
  function upTo (mark, chunk, from) {
    const before = text.length
    text += chunk.latin1Slice(from)
    const at = text.indexOf(mark)
    if (at === -1) return undefined
    const taken = text.slice(0, at + mark.length)
    text = ''
    return { taken, next: from + taken.length - before }
  }

  function read (chunk) {
    let at = 0
    while (at < chunk.length) {
      if (part === 'body' || part === 'chunk') {
        const bytes = Math.min(left, chunk.length - at)
        // `left` of a chunk counts the line end behind it, which is no payload.
        on.body?.(part === 'body' ? bytes : Math.min(bytes, Math.max(0, left - 2)))
        left -= bytes
        at += bytes
        if (left > 0) return
        if (part === 'body') finish()
        else part = 'size'
      } else if (part === 'untilClose') {
        on.body?.(chunk.length - at)
        return
      } else {
        const found = upTo(part === 'head' ? '\r\n\r\n' : '\r\n', chunk, at)
        if (found === undefined) return
        at = found.next
        if (part === 'head') head(found.taken)
        else if (part === 'trailers') found.taken === '\r\n' && finish()
        else {
          const size = Number.parseInt(found.taken, 16)
          if (size > 0) [part, left] = ['chunk', size + 2]
          else part = 'trailers'
        }
      }
    }
  }

  return {
    read,
    close () {
      if (part === 'untilClose') finish()
      return part === 'head' && text === ''
    }
  }
}
