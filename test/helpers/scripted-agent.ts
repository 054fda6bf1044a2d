/**
 * An agent that answers byte by byte as a test says, and keeps account: how often each request came, on which connection, how many
 * connections there are. What reaches it is read strictly.
 */
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'
import { StrictReader, valuesOf, type HttpMessage } from './strict-http.ts'

export interface Arrival {
  readonly request: HttpMessage
  /** Its `X-Request-Id`. */
  readonly id: string
  readonly socket: Socket
  /** Requests that the connection carried before this one. */
  readonly before: number
}

export interface ScriptedAgent {
  readonly host: string
  readonly port: number
  /** How often a request of this id came whole. */
  readonly arrivals: Map<string, number>
  /** Connections that are open. */
  readonly open: Set<Socket>
  /** The most there were at a time, and how many there were in all (probes included). */
  readonly connections: { most: number, all: number }
  /** What was wrong with what came. */
  readonly violations: string[]
  /** Resolves when no connection is open. */
  idle (): Promise<void>
}

export interface ScriptedAgentSettings {
  /** A whole request came. */
  onRequest (arrival: Arrival): void
  /** Bytes came, before they are read as a request; true leaves them unread. */
  onBytes? (socket: Socket, bytes: Buffer): boolean
  onConnection? (socket: Socket): void
}

/** Port 0, ended with the test. */
export async function scriptedAgent (t: Pick<Test, 'teardown'>, { onRequest, onBytes, onConnection }: ScriptedAgentSettings): Promise<ScriptedAgent> {
  const arrivals = new Map<string, number>()
  const open = new Set<Socket>()
  const connections = { most: 0, all: 0 }
  const violations: string[] = []
  const waiting = new Set<() => void>()
  const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
    const reader = new StrictReader(null)
    let seen = 0
    open.add(socket)
    connections.all++
    connections.most = Math.max(connections.most, open.size)
    socket.on('error', () => {})
    socket.on('close', () => {
      open.delete(socket)
      if (open.size === 0) for (const done of waiting) done()
    })
    socket.on('end', () => socket.end())
    socket.on('data', bytes => {
      if (onBytes?.(socket, bytes) === true) return
      try {
        reader.push(bytes)
      } catch (error) {
        violations.push(`${(error as Error).message} in ${JSON.stringify(bytes.toString('latin1'))}`)
        return void socket.destroy()
      }
      for (; seen < reader.messages.length; seen++) {
        const request = reader.messages[seen]!
        const id = valuesOf(request.fields, 'x-request-id')[0] ?? ''
        arrivals.set(id, (arrivals.get(id) ?? 0) + 1)
        onRequest({ request, id, socket, before: seen })
      }
    })
    onConnection?.(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of open) socket.destroy()
  })
  return {
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    arrivals,
    open,
    connections,
    violations,
    idle: () => new Promise(resolve => {
      const done = () => {
        waiting.delete(done)
        resolve()
      }
      waiting.add(done)
      if (open.size === 0) done()
    })
  }
}
