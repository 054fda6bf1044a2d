/** An agent that speaks https, with a certificate of a test's own authority. Port 0, ended with the test. */
import { once } from 'node:events'
import type { RequestListener } from 'node:http'
import { createServer, type Server, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import type { Test } from 'tap'
import type { Issued } from './certificates.ts'

export interface TlsAgent {
  readonly port: number
  readonly server: Server
  /** Who was asked for in each handshake (SNI); false for nobody. */
  readonly serverNames: (string | false)[]
  /** The common name of the client certificate in each; undefined for none. */
  readonly clients: (string | undefined)[]
}

/** @param handler @default answers with the name it was asked for */
export async function tlsAgent (t: Test, { cert, key }: Pick<Issued, 'cert' | 'key'>, options: ServerOptions = {}, handler?: RequestListener): Promise<TlsAgent> {
  const serverNames: (string | false)[] = []
  const clients: (string | undefined)[] = []
  const server = createServer({ cert, key, ...options }, handler ?? ((request, response) => { response.end(`secure ${request.url}`) }))
  server.on('secureConnection', (socket: TLSSocket & { servername: string | false }) => {
    serverNames.push(socket.servername)
    clients.push((socket.getPeerCertificate() as Partial<PeerCertificate>).subject?.CN as string | undefined)
  })
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return { port: (server.address() as AddressInfo).port, server, serverNames, clients }
}
