/**
 * Random requests and answers that are almost HTTP, from a seed: a grammar makes them, mutations spoil some. What comes out of the gateway is
 * judged by strict readers on both sides. Used by test/e2e/fuzz.test.ts; FLEET_FUZZ says for how many rounds.
 */
import { connect } from 'node:net'
import type { Seeded } from './seeded.ts'
import { StrictReader, type HttpMessage } from './strict-http.ts'

const methods = ['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH', 'PROPFIND', 'TRACE', 'CONNECT', 'get', 'G@T', '']
const oddFields = [
  'Host: other', 'Content-Length: 3', 'Content-Length: 0', 'Content-Length: -1', 'Content-Length: 1, 1', 'Content-Length: +3', 'Content-Length : 3', 'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip, chunked', 'Transfer-Encoding: xchunked', 'Transfer-Encoding:\tchunked', 'Transfer-Encoding:', 'Transfer-Encoding : chunked', ' Transfer-Encoding: chunked',
  'Connection: close', 'Connection: keep-alive, X-A', 'Connection: content-length', 'Connection: transfer-encoding', 'Upgrade: h2c', 'Upgrade: websocket', 'Expect: 100-continue', 'Expect: x',
  'X-A: b', 'X-A: \x01', 'X-A: \0', 'X-A: a\rb', 'X-A: a\nb', 'X-A:\r\n folded', 'X A: b', ': empty', 'nocolon', `X-Long: ${'y'.repeat(9_000)}`, 'TE: trailers', 'Trailer: X-Sum', 'Range: bytes=0-1',
  'Idempotency-Key: k', 'Cookie: \xe9=\xff', 'Via: 1.1 somebody', 'Forwarded: for="', 'X-Forwarded-For: \'', 'Keep-Alive: timeout=1', 'Authorization: Basic eDp5'
]
const versions = ['HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/1.', 'http/1.1', 'HTTP/1.1 ']
const suffixes = ['', '/', '?a=1', '/%2F', '/..', '/%00', '/%zz', '/a b', '//x', '/\xff', '#f', '/%2e%2e/x', ';p', '/\\x']
const chunkSizes = ['5', '5;ext=1', '05', '0x5', '5 ', 'fffffffff', '-5', '', '5\n', '4', '6', 'FFFFFFFFFFFFFFFF5']

/** One request; its id is in the path and in a field, so that its answer can be told from others'. */
export function randomRequest (random: Seeded, id: string): string {
  const sane = random.next() < 0.35
  const method = sane ? random.oneOf(['GET', 'POST', 'PUT']) : random.oneOf(methods)
  const target = `/api/planner/${id}${sane ? '' : random.oneOf(suffixes)}`
  const fields = ['Host: localhost', `X-Request-Id: ${id}`]
  let body = ''
  const kind = random.below(4)
  if (kind === 1) {
    body = `body-${id}`
    fields.push(`Content-Length: ${body.length + (sane ? 0 : random.oneOf([0, 0, 0, 1, -1, 5]))}`)
  } else if (kind === 2) {
    fields.push('Transfer-Encoding: chunked')
    body = `${sane ? '5' : random.oneOf(chunkSizes)}\r\nhello\r\n0\r\n${random.next() < 0.2 ? 'X-Sum: 1\r\n' : ''}\r\n`
  }
  if (!sane) for (let count = random.below(3); count >= 0; count--) fields.splice(random.below(fields.length + 1), 0, random.oneOf(oddFields))
  const text = `${method} ${target} ${sane ? 'HTTP/1.1' : random.oneOf(versions)}\r\n${fields.join('\r\n')}\r\n\r\n${body}`
  return sane ? text : spoiled(random, text)
}

/** One answer; `id` goes back in a field and in the body. */
export function randomAnswer (random: Seeded, id: string): string {
  const sane = random.next() < 0.4
  const status = sane ? random.oneOf(['200 OK', '404 Not Found', '204 No Content', '304 Not Modified']) : random.oneOf(['200 OK', '100 Continue', '103 Early Hints', '101 Switching Protocols', '204 No Content', '500 x', '999 x', '20', '200\x01', '0 x', '200'])
  const body = `answer-${id}`
  const fields = [`X-Answer: ${id}`]
  const bodiless = status.startsWith('204') || status.startsWith('304')
  let rest = ''
  if (!(sane && bodiless)) {
    if (random.next() < 0.5) {
      fields.push(`Content-Length: ${body.length + (sane ? 0 : random.oneOf([0, 0, 1, -1]))}`)
      rest = body
    } else {
      fields.push('Transfer-Encoding: chunked')
      rest = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`
    }
  }
  if (!sane) for (let count = random.below(3); count >= 0; count--) fields.splice(random.below(fields.length + 1), 0, random.oneOf(oddFields))
  const text = `HTTP/1.1 ${status}\r\n${fields.join('\r\n')}\r\n\r\n${rest}`
  return sane ? text : spoiled(random, text)
}

/** Now and then a bit flipped, a part left out or doubled, an end too soon. */
function spoiled (random: Seeded, text: string): string {
  const at = random.below(text.length)
  const until = Math.min(text.length, at + random.below(20))
  switch (random.below(9)) {
    case 0: return text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ (1 << random.below(8))) + text.slice(at + 1)
    case 1: return text.slice(0, at)
    case 2: return text.slice(0, until) + text.slice(at)
    case 3: return text.slice(0, at) + text.slice(until)
    case 4: return text.replaceAll('\r\n', '\n')
    case 5: return text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at)
    default: return text
  }
}

/** Sends bytes in random pieces and then leaves; resolves with the answers that came whole. @throws StrictHttpError when one is not HTTP */
export function sendRandomly (random: Seeded, port: number, bytes: string, sent: number): Promise<readonly HttpMessage[]> {
  return new Promise((resolve, reject) => {
    // Of what was sent nobody can say which methods the gateway saw, so HEAD is judged by its length alone.
    const reader = new StrictReader(Array.from({ length: sent * 3 + 1 }, () => 'GET'))
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    const patience = setTimeout(() => socket.destroy(), 400)
    let failure: Error | null = null
    socket.on('error', () => {})
    socket.on('data', chunk => {
      try {
        reader.push(chunk)
      } catch (error) {
        failure = error as Error
        socket.destroy()
      }
      if (reader.messages.filter(({ status }) => status >= 200).length >= sent) socket.destroy()
    })
    socket.on('end', () => {
      reader.end()
      socket.end()
    })
    socket.on('close', () => {
      clearTimeout(patience)
      if (failure === null) resolve(reader.messages)
      else reject(failure)
    })
    const buffer = Buffer.from(bytes, 'latin1')
    let at = 0
    const more = () => {
      if (socket.destroyed || at >= buffer.length) return
      const end = Math.min(buffer.length, at + 1 + random.below(random.next() < 0.3 ? 12 : 5_000))
      socket.write(buffer.subarray(at, end), () => setImmediate(more))
      at = end
    }
    socket.on('connect', more)
  })
}
