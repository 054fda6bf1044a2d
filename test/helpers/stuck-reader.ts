/** A client that asks for an event stream and never reads of it, from the first byte on: the system keeps the more for who reads quickly. */
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'
import type { ListeningGateway } from './build-gateway.ts'

export interface StuckReader {
  readonly client: Socket
  /** The gateway's side of it. */
  readonly response: ServerResponse
}

export async function stuckReader (t: Test, { port, server }: ListeningGateway, target: string, token = 'any-token'): Promise<StuckReader> {
  const client = connect(port, '127.0.0.1').pause()
  client.on('error', () => {})
  t.teardown(() => client.destroy())
  const asked = once(server, 'request') as Promise<[IncomingMessage, ServerResponse]>
  client.write(`GET ${target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nAuthorization: Bearer ${token}\r\n\r\n`)
  const [, response] = await asked
  return { client, response }
}

/** Resolves when the system takes no more of it (after some 4 MiB). @param more has more sent */
export async function untilFull (response: ServerResponse, more: () => Promise<unknown>): Promise<void> {
  while (!response.writableNeedDrain) await more()
}
