/**
 * What the tests of secrets do with them: a gateway as a process, every way to show a token, agents that fail in each way. All that comes out is
 * gathered.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { text as textOf } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Canaries } from './canaries.ts'
import { deadPort, fakeAgent, rawAgent } from './fake-agent.ts'
import { unmeasured } from './unmeasured.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

interface Running { readonly child: ChildProcess, readonly port: number, readonly said: () => string, readonly ended: Promise<unknown> }

/** `serve` as a process of its own; what it prints is gathered. */
export async function serve (t: Test, net: Canaries, args: readonly string[], cwd: string, env: Record<string, string> = {}): Promise<Running> {
  const child = spawn(...unmeasured(process.execPath, main, 'serve', '--port', '0', ...args), { cwd, env: { ...process.env, FLEET_SECRET: '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => net.gather('standard output', chunk))
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString()
    net.gather('standard error', chunk)
  })
  const ended = once(child, 'close')
  const port = await new Promise<number>((resolve, reject) => {
    child.stderr.on('data', () => {
      const [, found] = /^Fleet Gateway on http:\/\/[^:]+:(\d+)[^]*try /m.exec(said) ?? []
      if (found !== undefined) resolve(Number(found))
    })
    void ended.then(() => reject(new Error(said)))
  })
  return { child, port, said: () => said, ended }
}

/** Sends bytes, gathers all that comes back, and resolves when the connection is over or nothing more is expected. */
export async function send (net: Canaries, port: number, bytes: string, place = 'answers'): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  socket.on('error', () => {})
  let received = ''
  const over = once(socket, 'close')
  socket.on('data', chunk => {
    received += chunk.toString('latin1')
    if (/^HTTP\/1\.1 101 /.test(received)) socket.destroy()
  })
  socket.on('end', () => socket.end())
  socket.write(Buffer.from(bytes, 'latin1'))
  await over
  net.gather(place, received)
  return received
}

/** A request of which the connection ends with its answer. */
export function request (method: string, path: string, fields: readonly string[] = [], body = ''): string {
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${body === '' ? '' : `Content-Length: ${body.length}\r\nContent-Type: application/json\r\n`}${fields.map(field => `${field}\r\n`).join('')}\r\n${body}`
}

const upgrade = ['Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==']

/** The agents: one that takes everything down, and those that fail in each way. */
export async function agents (t: Test, net: Canaries) {
  const good = await fakeAgent(t, (message, response) => {
    void textOf(message).then(body => {
      net.gather('agent', JSON.stringify([message.method, message.url, message.rawHeaders, body, message.rawTrailers]))
      response.end('good')
    }, () => {})
  })
  good.server.on('upgrade', (message, socket) => {
    net.gather('agent', JSON.stringify([message.method, message.url, message.rawHeaders]))
    socket.on('error', () => {})
    socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n')
  })
  const failing = async (answer: string) => await rawAgent(t, (socket, chunk) => {
    net.gather('agent', chunk)
    socket.end(answer)
  })
  return {
    good: good.port,
    dead: await deadPort(),
    garbage: (await failing('SSH-2.0-OpenSSH_9.2\r\n\r\n')).port,
    cut: (await failing('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken')).port,
    failing: (await failing('HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')).port,
    slow: (await rawAgent(t, (_socket, chunk) => net.gather('agent', chunk))).port
  }
}

/** Every way to show a token, to everything there is. */
export function withToken (token: string, query: string, forAgent: string): string[] {
  const bearer = `Authorization: Bearer ${token}`
  const chunked = (trailers: string) => `POST /api/good/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${bearer}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Fleet-Token, Authorization\r\n\r\n2\r\nhi\r\n0\r\n${trailers}\r\n`
  return [
    ...['good', 'dead', 'garbage', 'cut', 'failing', 'slow', 'nobody'].map(name => request('GET', `/api/${name}/x?token=${query}`, [bearer])),
    request('GET', '/api/good/x', [`X-Fleet-Token: ${token}`, `Authorization: Bearer ${forAgent}`]),
    request('GET', '/api/good/x', [`X-Fleet-Token: ${token}`, bearer]),
    request('GET', '/api/good/x', [`x-fleet-token:${token}`, 'Connection: x-fleet-token, close']),
    request('GET', '/api/good/x', [`X-Fleet-Token: ${token}`, `Proxy-Authorization: Bearer ${token}`]),
    chunked(`X-Fleet-Token: ${token}\r\nAuthorization: Bearer ${token}\r\n`),
    request('GET', '/api/good/x', [...upgrade, `Sec-WebSocket-Protocol: fleet.bearer, fleet.bearer.${token}, chat`]),
    request('GET', '/api/good/x', [...upgrade, bearer, `Sec-WebSocket-Protocol: chat, fleet.bearer.${token}`]),
    ...['/', '/health', '/agents', '/agents/nobody', '/registry', '/stats', '/metrics', '/nowhere'].map(path => request('GET', path, [bearer])),
    request('PUT', '/agents', [bearer]), request('DELETE', '/registry/nobody', [bearer]),
    request('POST', '/registry/register', [bearer], JSON.stringify({ name: 'x', port: 1, token })),
    request('POST', '/registry/register', [bearer], JSON.stringify({ name: 'x', port: 1, host: `http://user:${token}@host/` })),
    // What is wrong with these is not the token.
    request('GET', '/api/good/%00', [bearer]), request('GET', `/api/good/${'x'.repeat(40_000)}`, [bearer]), request('GET', '/api/good/x', [bearer, 'Host: other']), request('GET', '/api/good/x', [bearer, bearer]),
    request('GET', '/api/good/x', [bearer, 'Expect: nothing']), request('GET', '/api/good/x', [bearer, 'X-A: \x01']), request('GET', '/api/good/x', [`Authorization: Bearer ${token}\x01`]), request('GET', '/api/good/x', [`Authorization : Bearer ${token}`]),
    request('GET', `http://user:${token}@localhost/api/good/x`, [bearer]), request('TRACE', '/api/good/x', [bearer]), request('CONNECT', 'localhost:1', [`Proxy-Authorization: Bearer ${token}`]),
    request('POST', '/api/good/x', [bearer, 'Transfer-Encoding: gzip']), `GET /api/good/x HTTP/3.0\r\n${bearer}\r\n\r\n`, `${bearer}\r\n\r\n`, `${token}\r\n\r\n`
  ]
}

/** A wrong token in every way in which one can be shown. */
export function withWrongToken (token: string): string[] {
  return [
    request('GET', '/api/good/x', [`Authorization: Bearer ${token}`]), request('GET', '/agents', [`X-Fleet-Token: ${token}`]), request('GET', '/stats', [`Authorization: bearer   ${token}`]),
    request('GET', '/health', [`Authorization: Bearer ${token}`]), request('GET', '/api/good/x', [...upgrade, `Sec-WebSocket-Protocol: fleet.bearer.${token}`]), request('GET', '/registry', [`X-Fleet-Token: ${token}`, `Authorization: Bearer ${token}`]),
    request('GET', '/agents', [`Authorization: Basic ${token}`]), request('GET', '/agents', [`Authorization: ${token}`]), request('GET', '/agents', [`Cookie: token=${token}`])
  ]
}
