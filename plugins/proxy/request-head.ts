/**
 * The request head as the agent gets it: the client's fields in their order, without those of this hop, and the gateway's own behind them.
 */
import type { IncomingMessage } from 'node:http'
import { BadRequestError } from '../../src/errors.ts'
import type { RequestFacts } from '../facts/index.ts'
import { hasForwardedFor, nodeAddress, readForwarded } from '../../src/forwarded.ts'
import { plainAddress } from '../../src/plain-address.ts'
import { requestAuthority } from '../../src/request-target.ts'
import { isTraceparent } from '../../src/traceparent.ts'
import { FieldRole, nominatedFields, type FieldNames } from './field-names.ts'
import { oneHopLess } from './max-forwards.ts'
import { withOwn, type OwnFields } from './own-fields.ts'
import { withoutTokenProtocol } from './token-protocol.ts'
import type { TraceStarter } from './trace-context.ts'

export interface RequestHeadContext {
  readonly names: FieldNames
  readonly traces: TraceStarter
  /** Agents can be sent trailers. */
  readonly sendsTrailers: boolean
  /** This process's name in `Via`. */
  readonly viaPseudonym: string
}

export interface RequestHeadSettings {
  /** Leave the client's `Authorization` out: it is the gateway's. */
  readonly dropAuthorization: boolean
  readonly preserveHost: boolean
  /** The gateway's own fields for the agent; null when there are none, or the instance is not to have them. */
  readonly own: OwnFields | null
  /** Where the agent's `/` is for the client: `/api/planner`. */
  readonly prefix: string
}

/** A flat list of names and values, without `traceparent` where the request is traced. `Content-Length` stays, `Transfer-Encoding` is the connection's business. */
export function requestHead (raw: IncomingMessage, facts: RequestFacts, settings: RequestHeadSettings, context: RequestHeadContext): string[] {
  const { rawHeaders, headers } = raw
  const { names, traces, viaPseudonym } = context
  const nominated = nominatedFields(headers.connection)
  const continued = isTraceparent(headers.traceparent)
  const isTraced = facts.trace !== null // then each attempt has its own `traceparent`
  const fields: string[] = []
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]!
    const { role, lowerName, isToken } = names.of(name)
    if (!isToken) throw new BadRequestError('The request has a field that can not be forwarded')
    if (nominated !== null && nominated.has(lowerName)) continue
    switch (role) {
      case FieldRole.hop:
      case FieldRole.connection:
      case FieldRole.transferEncoding:
      case FieldRole.forwarding: // said anew below
        continue
      case FieldRole.contentLength:
        if (headers['transfer-encoding'] !== undefined) continue // never both (RFC 9112 §6.2)
        break
      case FieldRole.trailer:
        if (!context.sendsTrailers || headers['transfer-encoding'] === undefined) continue // what can't be sent may not be announced
        break
      case FieldRole.host:
        if (settings.preserveHost) fields.push(name, requestAuthority(facts.url, headers.host))
        continue
      case FieldRole.authorization:
        if (settings.dropAuthorization) continue
        break
      case FieldRole.maxForwards:
        fields.push(name, raw.method === 'OPTIONS' ? oneHopLess(rawHeaders[index + 1]!) : rawHeaders[index + 1]!)
        continue
      case FieldRole.trace:
        if (!continued || (isTraced && lowerName === 'traceparent')) continue
        break
      case FieldRole.subprotocol: {
        const protocols = withoutTokenProtocol(rawHeaders[index + 1]!)
        if (protocols !== '') fields.push(name, protocols)
        continue
      }
    }
    fields.push(name, rawHeaders[index + 1]!)
  }
  addForwarding(fields, raw, facts, settings.prefix)
  fields.push('Via', `${raw.httpVersion} ${viaPseudonym}`, 'X-Request-Id', facts.id)
  if (!continued && !isTraced) fields.push('traceparent', traces.start())
  return settings.own === null ? fields : withOwn(fields, settings.own)
}

/**
 * `X-Forwarded-*` and `Forwarded` (RFC 7239): appended to what a trusted proxy said, in place of what anybody else did. Where it said only the latter, the
 * former say the same.
 */
function addForwarding (fields: string[], raw: IncomingMessage, facts: RequestFacts, prefix: string): void {
  const { headers, socket } = raw
  const peer = plainAddress(socket.remoteAddress ?? '')
  const host = requestAuthority(facts.url, headers.host)
  const proto = (socket as { encrypted?: boolean }).encrypted === true ? 'https' : 'http'
  const element = `for=${forwardedNode(peer)};${host === '' ? '' : `host="${quotable(host)}";`}proto=${proto}`
  if (!facts.peerTrusted) {
    fields.push('X-Forwarded-For', peer)
    if (host !== '') fields.push('X-Forwarded-Host', host)
    fields.push('X-Forwarded-Proto', proto, 'X-Forwarded-Prefix', prefix, 'Forwarded', element)
    return
  }
  const { elements, text } = readForwarded(headers)
  const told = facts.forwardedElement
  const before = hasForwardedFor(headers) ? headers['x-forwarded-for'] : elements.toReversed().map(({ for: node = 'unknown' }) => nodeAddress(node) ?? node).join(', ')
  const firstHost = told?.host ?? first(headers['x-forwarded-host']) ?? host
  fields.push('X-Forwarded-For', appended(before, peer))
  if (firstHost !== '') fields.push('X-Forwarded-Host', firstHost)
  fields.push(
    'X-Forwarded-Proto', told?.proto ?? first(headers['x-forwarded-proto']) ?? proto,
    'X-Forwarded-Prefix', (first(headers['x-forwarded-prefix']) ?? '') + prefix,
    'Forwarded', appended(text, element)
  )
  for (const name of ['x-forwarded-port', 'x-real-ip']) {
    const value = first(headers[name])
    if (value !== undefined) fields.push(name, value)
  }
}

/** As the content of a quoted string (RFC 9110 §5.6.4). */
function quotable (text: string): string {
  return text.includes('"') || text.includes('\\') ? text.replace(/["\\]/g, '\\$&') : text
}

/** RFC 7239 §6: an IPv6 address is bracketed and quoted. */
function forwardedNode (address: string): string {
  return address.includes(':') ? `"[${address}]"` : address === '' ? 'unknown' : address
}

function appended (existing: string | string[] | undefined, value: string): string {
  const before = Array.isArray(existing) ? existing.join(', ') : existing
  return before === undefined || before === '' ? value : `${before}, ${value}`
}

function first (value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}
