/**
 * Whom a client command believes over https: whom Node believes, or the authorities of `--ca` instead; and the gateway whose own certificate the
 * fleet.yaml at hand names, by that very certificate, since it is asked at an address for which that may not be.
 */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { TLSSocket } from 'node:tls'
import { buildConnector } from 'undici'
import { readAuthorities } from '../tls-files.ts'
import { CommandError } from './io.ts'
import type { Trust } from './target.ts'

/** @throws CommandError when the authorities' file is no good */
export function createConnector ({ caFile, caFrom, certFile }: Trust = {}, timeoutMs: number): buildConnector.connector {
  const ca = caFile === undefined ? undefined : authoritiesIn(caFile, caFrom ?? '')
  const options = { timeout: timeoutMs, ...(ca !== undefined && { ca }) }
  if (certFile === undefined) return buildConnector(options)
  // A session that is resumed shows no certificate.
  const connect = buildConnector({ ...options, rejectUnauthorized: false, maxCachedSessions: 0 })
  return (options, callback) => {
    connect(options, (...[error, socket]) => {
      if (error !== null || socket === null) return callback(error ?? new Error('no connection'), null)
      const refusal = options.protocol === 'https:' ? refusalOf(socket as TLSSocket, certFile) : undefined
      if (refusal === undefined) return callback(null, socket)
      socket.destroy()
      callback(refusal, null)
    })
  }
}

/** Why the other side is not believed; nothing was sent to it yet. */
function refusalOf (socket: TLSSocket, certFile: string): Error | undefined {
  if (socket.authorized) return undefined
  const presented = socket.getPeerX509Certificate()?.fingerprint256
  if (presented !== undefined && presented === fingerprintIn(certFile)) return undefined
  const error: unknown = socket.authorizationError
  return error instanceof Error ? error : Object.assign(new Error(String(error)), { code: String(error) })
}

/** Of the first certificate; undefined when there is none to be read here. */
function fingerprintIn (certFile: string): string | undefined {
  try {
    return new X509Certificate(readFileSync(certFile)).fingerprint256
  } catch {
    return undefined // who may not read it is to trust as everybody else
  }
}

function authoritiesIn (caFile: string, from: string): string {
  const { value, problems } = readAuthorities(caFile)
  if (value === null) throw new CommandError(`${from} ${problems[0]!.message}`)
  return value
}
