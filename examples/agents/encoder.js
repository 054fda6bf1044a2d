/**
 * An agent that encodes text. It keeps no state, so several instances can share the work: each answer names the port it came from.
 *
 *   GET  /encode?text=…            POST /encode with {"text": …} or text/plain
 *   POST /echo                     the body comes back as it is, while it is still being sent
 */
import { createHash } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { HttpError, readText, sendJson, serve } from './serve.js'

const server = serve({
  name: 'trail-agent',
  defaultPort: 8501,
  routes: {
    'GET /encode' ({ response, url }) {
      const text = url.searchParams.get('text')
      if (text === null) throw new HttpError(400, 'give the text as ?text=…')
      sendJson(response, 200, encode(text))
    },
    async 'POST /encode' ({ request, response }) {
      sendJson(response, 200, encode(await givenText(request)))
    },
    async 'POST /echo' ({ request, response }) {
      const { 'content-type': type = 'application/octet-stream', 'content-length': length } = request.headers
      response.writeHead(200, { 'content-type': type, ...(length !== undefined && { 'content-length': length }) })
      // Whoever stops sending or reading ends the exchange; there is nobody left to answer.
      await pipeline(request, response).catch(() => {})
    }
  }
})

async function givenText (request) {
  const [type] = (request.headers['content-type'] ?? 'text/plain').split(';')
  const body = await readText(request)
  if (type.trim().toLowerCase() === 'text/plain') return body
  if (type.trim().toLowerCase() !== 'application/json') throw new HttpError(415, 'send application/json or text/plain')
  let value
  try {
    value = JSON.parse(body)
  } catch {
    throw new HttpError(400, 'the body is not JSON')
  }
  if (typeof value?.text !== 'string') throw new HttpError(400, 'the body must be {"text": "…"}')
  return value.text
}

function encode (text) {
  return {
    text,
    base64: Buffer.from(text).toString('base64'),
    hex: Buffer.from(text).toString('hex'),
    sha256: createHash('sha256').update(text).digest('hex'),
    rot13: rot13(text),
    instance: server.address()?.port
  }
}

function rot13 (text) {
  return text.replaceAll(/[a-z]/gi, letter => {
    const base = letter <= 'Z' ? 65 : 97
    return String.fromCharCode((letter.charCodeAt(0) - base + 13) % 26 + base)
  })
}
