/**
 * Asks one instance for its OpenAPI document, as probes ask for its health: on a connection of its own, with the agent's TLS and headers.
 * What comes back is bounded in time and size, and a redirect is followed nowhere.
 */
import http from 'node:http'
import https from 'node:https'
import type { Clock } from '../../src/clock.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'

/** Where agents are expected to have it. */
const documentPath = '/openapi.json'
const longestMs = 3_000
const mostBytes = 1024 * 1024

/** How instances are reached, and what is said to them. */
export interface Ways {
  readonly clock: Clock
  readonly lookupOf: LookupOf
  readonly tlsOf: TlsOf
  /** What the gateway's own requests to an instance carry, a flat list of names and values; undefined for nothing. */
  readonly headersOf: (instance: Instance) => readonly string[] | undefined
}

/** There is no document: what the request for it does instead, in words that tell nothing of addresses. */
export class NoDocument extends Error {}

/** The text of the document. @param signal ends it @throws NoDocument */
export async function askForDocument (instance: Instance, { clock, lookupOf, tlsOf, headersOf }: Ways, signal: AbortSignal): Promise<string> {
  const { protocol, host, port } = instance
  const headers: Record<string, string> = { 'user-agent': 'fleet-gateway-docs', accept: 'application/json', 'accept-encoding': 'identity', connection: 'close' }
  const own = headersOf(instance) ?? []
  for (let index = 0; index < own.length; index += 2) headers[own[index]!.toLowerCase()] = own[index + 1]!
  const lookup = lookupOf(instance)
  const { request } = protocol === 'https' ? https : http
  const tls = protocol === 'https' ? tlsOf(instance) : undefined
  return await new Promise((resolve, reject) => {
    const asked = request({ host, port, path: documentPath, headers, agent: false, signal, ...(lookup && { lookup }), ...tls })
    let problem = 'does not answer'
    const giveUp = (reason: string) => {
      reject(new NoDocument(reason)) // at once: what has arrived already may still come to its end
      asked.destroy()
    }
    const cancelTimeout = clock.after(longestMs, () => giveUp(`does not answer within ${longestMs / 1_000} s`))
    asked.once('response', response => {
      const { statusCode = 0, headers: { 'content-encoding': coding = 'identity' } } = response
      if (statusCode !== 200) return giveUp(`answers with status ${statusCode}`)
      if (coding !== 'identity') return giveUp('gives what is encoded, unasked')
      const chunks: Buffer[] = []
      let bytes = 0
      problem = 'breaks off'
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > mostBytes) giveUp('gives more than 1 MiB')
        else chunks.push(chunk)
      })
      response.once('end', () => resolve(Buffer.concat(chunks).toString()))
      response.once('error', () => {}) // 'close' follows
    })
    asked.once('error', () => {}) // 'close' follows
    asked.once('close', () => {
      cancelTimeout()
      reject(new NoDocument(problem))
    })
    asked.end()
  })
}
