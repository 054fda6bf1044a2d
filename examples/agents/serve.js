/**
 * What every example agent needs around its routes: a port and host from the environment, `GET /health`, JSON answers, and a clean end.
 * PORT=0 takes any free port; the line that is printed names the real one.
 */
import { createServer } from 'node:http'

/** A request the client got wrong, or that asks for what isn't there; its message is sent. */
export class HttpError extends Error {
  constructor (status, message, headers = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

/** Answers with JSON; `HEAD` gets the head alone, as node:http sees to. */
export function sendJson (response, status, value, headers = {}) {
  const body = `${JSON.stringify(value)}\n`
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': Buffer.byteLength(body), ...headers })
  response.end(body)
}

/** The whole body as text. @throws HttpError 413 over `maxBytes` */
export async function readText (request, maxBytes = 1024 * 1024) {
  const chunks = []
  let size = 0
  // Leaving the loop must not destroy the request, which would take the connection and the answer with it.
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    size += chunk.length
    if (size > maxBytes) throw new HttpError(413, `the body is larger than ${maxBytes} bytes`, { connection: 'close' })
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/**
 * Serves until SIGTERM or SIGINT.
 * @param name the agent's name, for its one line on the terminal
 * @param defaultPort the port when PORT is not set
 * @param routes `'GET /path'` or `'GET /path/*'` → handler({ request, response, url, rest }); a thrown HttpError is answered
 * @param onStop what else is to be ended, called once
 * @returns the server, listening or about to
 */
export function serve ({ name, defaultPort, routes, onStop = () => {} }) {
  const { PORT = String(defaultPort), HOST = '127.0.0.1' } = process.env
  if (!/^\d{1,5}$/.test(PORT) || Number(PORT) > 65_535) {
    console.error(`${name}: PORT must be 0 to 65535 (got ${JSON.stringify(PORT)})`)
    process.exit(2)
  }

  const server = createServer((request, response) => {
    answer(request, response, { 'GET /health': healthy, ...routes }).catch(error => {
      if (!(error instanceof HttpError)) console.error(error)
      if (response.headersSent) return response.destroy()
      const status = error instanceof HttpError ? error.status : 500
      sendJson(response, status, { error: status === 500 ? 'internal error' : error.message }, error.headers)
    })
  })

  server.once('error', error => {
    console.error(`${name}: ${error.message}`)
    process.exit(1)
  })
  server.listen(Number(PORT), HOST, () => {
    const { address, port, family } = server.address()
    console.log(`${name} listening on http://${family === 'IPv6' ? `[${address}]` : address}:${port}`)
  })

  let stopping = false
  const stop = () => {
    if (stopping) return
    stopping = true
    server.close()
    onStop()
    server.closeIdleConnections()
    // What is in flight may finish, but not for ever.
    setTimeout(() => server.closeAllConnections(), 1_000).unref()
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  return server
}

function healthy ({ response }) {
  sendJson(response, 200, { status: 'healthy' })
}

async function answer (request, response, routes) {
  let url
  try {
    url = new URL(request.url, 'http://agent')
  } catch {
    throw new HttpError(400, 'the path is malformed')
  }
  const method = request.method === 'HEAD' ? 'GET' : request.method
  const matches = Object.entries(routes).map(([route, handler]) => {
    const [routeMethod, pattern] = route.split(' ')
    const prefix = pattern.endsWith('*') ? pattern.slice(0, -1) : undefined
    const fits = prefix === undefined ? url.pathname === pattern : url.pathname.startsWith(prefix)
    return fits ? { method: routeMethod, handler, rest: prefix === undefined ? '' : url.pathname.slice(prefix.length) } : undefined
  }).filter(match => match !== undefined)

  const match = matches.find(candidate => candidate.method === method)
  if (match !== undefined) return match.handler({ request, response, url, rest: match.rest })
  if (matches.length === 0) throw new HttpError(404, `nothing is at ${url.pathname}`)
  throw new HttpError(405, `${request.method} is not allowed here`, { allow: matches.map(candidate => candidate.method).join(', ') })
}
