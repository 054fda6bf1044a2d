/** A client that speaks bytes, for what no HTTP library would send. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface RawClient {
  readonly socket: Socket
  /** Everything received so far, latin1. */
  readonly received: () => string
  send (data: string | Buffer): void
  /** Resolves with everything received once it matches; rejects when the connection ends first. */
  until (pattern: RegExp): Promise<string>
  /** Resolves with everything received once the connection is over. */
  closed (): Promise<string>
}

export async function rawClient (t: Test, port: number): Promise<RawClient> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  let received = ''
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => { received += chunk })
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')

  return {
    socket,
    received: () => received,
    send: data => { socket.write(data) },
    until: pattern => new Promise((resolve, reject) => {
      const look = () => { if (pattern.test(received)) done(() => resolve(received)) }
      const over = () => done(() => pattern.test(received) ? resolve(received) : reject(new Error(`connection over before ${pattern}; received: ${received}`)))
      const done = (settle: () => void) => {
        socket.off('data', look)
        socket.off('end', over)
        socket.off('close', over)
        settle()
      }
      socket.on('data', look)
      socket.on('end', over)
      socket.on('close', over)
      if (socket.closed || socket.readableEnded) over()
      else look()
    }),
    closed: async () => {
      if (!socket.readableEnded && !socket.closed) await Promise.race([once(socket, 'end'), once(socket, 'close')])
      return received
    }
  }
}

/** Sends one request and resolves with everything received until the server ends the connection. */
export async function rawRequest (t: Test, port: number, request: string | Buffer): Promise<string> {
  const client = await rawClient(t, port)
  client.send(request)
  return client.closed()
}
