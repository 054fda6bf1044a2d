/** Agents for tests: real HTTP servers, and bare TCP servers that misbehave byte by byte. Port 0, ended with the test. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Server as TcpServer, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'

export interface FakeAgent {
  readonly host: string
  readonly port: number
  readonly origin: string
  /** What has arrived so far: `GET /path`. */
  readonly requests: string[]
  readonly server: Server
  /** Stops listening and ends all connections, as a killed process would. */
  kill (): Promise<void>
  /** Listens again on the same port. */
  revive (): Promise<void>
}

/** Answers with what it got, as JSON. */
const echo: RequestListener = (request, response) => {
  void text(request).then(body => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ port: (request.socket.address() as AddressInfo).port, method: request.method, url: request.url, headers: request.rawHeaders, body }))
  }, () => {}) // the request was given up
}

/** @param handler @default answers with what it got */
export async function fakeAgent (t: Test, handler: RequestListener = echo): Promise<FakeAgent> {
  const requests: string[] = []
  const server = createServer((request: IncomingMessage, response) => {
    requests.push(`${request.method} ${request.url}`)
    handler(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const kill = async () => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }
  t.teardown(kill)
  return {
    host: '127.0.0.1',
    port,
    origin: `http://127.0.0.1:${port}`,
    requests,
    server,
    kill,
    async revive () {
      server.listen(port, '127.0.0.1')
      await once(server, 'listening')
    }
  }
}

export interface RawAgent {
  readonly host: string
  readonly port: number
  /** Connections accepted so far. */
  readonly connections: Socket[]
  readonly server: TcpServer
}

/** A TCP server. `onData` gets each chunk with its connection and the connection's number, counted from 0. */
export async function rawAgent (t: Test, onData: (socket: Socket, chunk: Buffer, connection: number) => void): Promise<RawAgent> {
  const connections: Socket[] = []
  const server = createTcpServer(socket => {
    const number = connections.push(socket) - 1
    socket.on('error', () => {})
    socket.on('data', chunk => onData(socket, chunk, number))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of connections) socket.destroy()
  })
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port, connections, server }
}

/** A port of 127.0.0.1 where nobody listens. */
export async function deadPort (): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Resolves when the connection is over, in whatever way. */
export async function closed (socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise(resolve => socket.once('close', resolve))
}
