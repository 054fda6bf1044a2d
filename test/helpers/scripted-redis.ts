/** What a client takes for a Redis: it answers what it has to at the start, and PING as the test says. */
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface ScriptedRedis {
  readonly url: string
  /** How each PING is answered from now on. */
  answers (how: 'good' | 'bad'): void
  /** Ends the connections that are open. */
  cut (): void
}

/** @param version what it says it is */
export async function scriptedRedis (t: Test, { version = '7.2.4' } = {}): Promise<ScriptedRedis> {
  const info = `redis_version:${version}\r\nloading:0\r\n`
  let pong = ''
  const answers = (how: 'good' | 'bad') => { pong = how === 'good' ? '+PONG\r\n' : '-ERR it is not well\r\n' }
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    socket.on('data', data => {
      // Short commands, which come in one piece.
      for (const [, name = ''] of data.toString('latin1').matchAll(/\*\d+\r\n\$\d+\r\n(\w+)\r\n/g)) {
        const command = name.toLowerCase()
        socket.write(command === 'ping' ? pong : command === 'info' ? `$${info.length}\r\n${info}\r\n` : '+OK\r\n')
      }
    })
  })
  const cut = () => { for (const socket of sockets) socket.destroy() }
  answers('good')
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    const closed = once(server, 'close')
    server.close()
    cut()
    await closed
  })
  return { url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, answers, cut }
}
