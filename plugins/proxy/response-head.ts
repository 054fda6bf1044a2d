/**
 * The response head as the client gets it: the agent's fields in their order, without those of this hop, with the gateway's merged in.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import type { Instance } from '../../src/fleet/instance.ts'
import { FieldRole, nominatedFields, type FieldNames } from './field-names.ts'

export interface ResponseHeadSettings {
  readonly status: number
  readonly method: string
  readonly instance: Instance
  /** Where the agent's `/` is for the client, with the name the client used, and under its other names. */
  readonly prefix: string
  readonly knownPrefixes: readonly string[]
  readonly rewriteLocation: boolean
  /** The gateway answers for cross-origin requests: the agent's `Access-Control-*` give way. */
  readonly corsEnabled: boolean
  readonly viaPseudonym: string
  /** What hooks set on the reply: these win over the agent's of the same name. */
  readonly replyHeaders: OutgoingHttpHeaders
  /** The client speaks HTTP/1.1, so that a body without length can be chunked and trailers sent. */
  readonly canChunk: boolean
}

export interface ResponseHead {
  /** A flat list of names and values. */
  readonly fields: string[]
  /** Where in `fields` those begin that are not the agent's. */
  readonly ownFrom: number
  /** Body length the agent announced; null when it did not. */
  readonly contentLength: number | null
  readonly isEventStream: boolean
  /** What `Connection` names, which goes for trailers too; null when nothing. */
  readonly nominated: ReadonlySet<string> | null
}

/**
 * @param raw the agent's fields, flat
 * @throws when its framing is ambiguous
 */
export function responseHead (raw: readonly string[], names: FieldNames, settings: ResponseHeadSettings): ResponseHead {
  const { status, replyHeaders, corsEnabled } = settings
  const nominated = nominatedFields(joined(raw, names, FieldRole.connection))
  const bodiless = isBodiless(status, settings.method)
  const fields: string[] = []
  let contentLength: number | null = null
  let chunked = false
  let isEventStream = false
  let vary = ''
  let trailers: string | null = null
  for (let index = 0; index < raw.length; index += 2) {
    const name = raw[index]!
    const { role, lowerName } = names.of(name)
    let value = raw[index + 1]!
    if (nominated !== null && nominated.has(lowerName)) continue
    switch (role) {
      case FieldRole.hop:
      case FieldRole.connection:
        continue
      case FieldRole.transferEncoding:
        if (chunked || value.trim().toLowerCase() !== 'chunked') throw new Error('a transfer coding nobody asked for') // no TE was sent (RFC 9112 §7.4)
        chunked = true
        continue
      case FieldRole.trailer:
        trailers = trailers === null ? value : `${trailers}, ${value}`
        continue
      case FieldRole.accessControl:
        if (corsEnabled) continue
        break
      case FieldRole.vary:
        vary = vary === '' ? value : `${vary}, ${value}`
        continue
      case FieldRole.location:
        if (settings.rewriteLocation) value = mapLocation(value, settings)
        break
      case FieldRole.contentLength:
        if (status === 204) continue // RFC 9110 §8.6: never in a 204
        if (contentLength !== null) {
          if (contentLength !== Number(value)) throw new Error('two lengths')
          continue
        }
        contentLength = Number(value)
        break
      case FieldRole.contentType:
        isEventStream = value.toLowerCase().startsWith('text/event-stream')
        break
    }
    if (role !== FieldRole.contentLength && lowerName !== 'set-cookie' && Object.hasOwn(replyHeaders, lowerName) && replyHeaders[lowerName] !== undefined) continue
    fields.push(name, value)
  }
  const ownFrom = fields.length
  for (const name in replyHeaders) {
    const value = replyHeaders[name]
    if (value === undefined || name === 'vary' || name === 'content-length' || name === 'transfer-encoding') continue // framing is the agent's
    if (Array.isArray(value)) for (const one of value) fields.push(name, one)
    else fields.push(name, String(value))
  }
  vary = mergeVary(vary, replyHeaders['vary'])
  if (vary !== '') fields.push('vary', vary)
  // Announced only where they can be sent: with a length or without a body Node throws ERR_HTTP_TRAILER_INVALID.
  if (trailers !== null && contentLength === null && !bodiless && settings.canChunk) fields.push('trailer', trailers)
  fields.push('via', `1.1 ${settings.viaPseudonym}`)
  return { fields, ownFrom, contentLength, isEventStream, nominated }
}

/** Whether an answer never has a body, whatever its head says (RFC 9110 §6.4.1). */
export function isBodiless (status: number, method: string): boolean {
  return status === 204 || status === 304 || method === 'HEAD'
}

/** The fields of an interim answer without those of the hop. @param raw flat */
export function interimFields (raw: readonly string[], names: FieldNames, corsEnabled: boolean): string[] {
  const nominated = nominatedFields(joined(raw, names, FieldRole.connection))
  const fields: string[] = []
  for (let index = 0; index < raw.length; index += 2) {
    const { role, lowerName } = names.of(raw[index]!)
    const ofHop = role === FieldRole.hop || role === FieldRole.connection || role === FieldRole.transferEncoding || role === FieldRole.contentLength
    if (role === FieldRole.accessControl && corsEnabled) continue
    if (!ofHop && nominated?.has(lowerName) !== true) fields.push(raw[index]!, raw[index + 1]!)
  }
  return fields
}

/**
 * What may follow a body (RFC 9110 §6.5.1): nothing of framing, the hop or this gateway's.
 * @param raw flat
 * @param nominated what `Connection` of the head names
 */
export function trailerFields (raw: readonly string[], names: FieldNames, nominated: ReadonlySet<string> | null): string[] {
  const fields: string[] = []
  for (let index = 0; index < raw.length; index += 2) {
    const { role, lowerName } = names.of(raw[index]!)
    if (role === FieldRole.plain && lowerName !== 'set-cookie' && nominated?.has(lowerName) !== true) fields.push(raw[index]!, raw[index + 1]!)
  }
  return fields
}

function joined (raw: readonly string[], names: FieldNames, role: FieldRole): string | undefined {
  let value: string | undefined
  for (let index = 0; index < raw.length; index += 2) {
    if (names.of(raw[index]!).role === role) value = value === undefined ? raw[index + 1]! : `${value},${raw[index + 1]}`
  }
  return value
}

function mergeVary (theirs: string, ours: OutgoingHttpHeaders[string]): string {
  const mine = Array.isArray(ours) ? ours.join(', ') : ours === undefined ? '' : String(ours)
  if (theirs === '' || mine === '') return theirs + mine
  const members = [...theirs.split(','), ...mine.split(',')].map(name => name.trim())
  if (members.includes('*')) return '*'
  const seen = new Map(members.map(name => [name.toLowerCase(), name]))
  return [...seen.values()].join(', ')
}

/** Root-relative, or at the agent's own origin: mapped under the agent's prefix, once. Anything else is as it was. */
function mapLocation (location: string, { prefix, knownPrefixes, instance }: Pick<ResponseHeadSettings, 'prefix' | 'knownPrefixes' | 'instance'>): string {
  const path = pathAtAgent(location, instance)
  if (path === undefined) return location
  const alreadyThere = [prefix, ...knownPrefixes].some(known => path === known || (path.startsWith(known) && '/?#'.includes(path.charAt(known.length))))
  return alreadyThere ? path : prefix + path
}

/** The path of a location that leads to the agent itself; undefined for one that leads elsewhere or is relative. */
function pathAtAgent (location: string, { origin }: Instance): string | undefined {
  if (location.startsWith('/') && !location.startsWith('//')) return location
  const authority = origin.slice(origin.indexOf('//'))
  const lower = location.toLowerCase()
  const matched = [origin, authority].find(start => lower.startsWith(start.toLowerCase()))
  if (matched === undefined) return undefined
  const rest = location.slice(matched.length)
  if (rest === '') return '/'
  if (rest.startsWith('/')) return rest
  return rest.startsWith('?') || rest.startsWith('#') ? `/${rest}` : undefined
}
