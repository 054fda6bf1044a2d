/**
 * Where a request's token is: `X-Fleet-Token`, which alone counts when it is there; else `Authorization: Bearer`; else, for WebSockets of
 * browsers, the subprotocol `fleet.bearer.TOKEN`.
 */
import type { IncomingMessage } from 'node:http'

/** What a request brought to be let in. */
export type Credentials =
  /** Nothing that is meant for the gateway. */
  | { readonly kind: 'none' }
  /** The same kind of credential more than once: which one was meant is anybody's guess. */
  | { readonly kind: 'ambiguous' }
  /** In `Authorization`, which @fastify/bearer-auth reads. */
  | { readonly kind: 'authorization' }
  /** Elsewhere. */
  | { readonly kind: 'token', readonly token: string }

const none = { kind: 'none' } as const
const ambiguous = { kind: 'ambiguous' } as const
const authorization = { kind: 'authorization' } as const

const bearerScheme = /^bearer +(?=\S)/i
/** Alone or among other protocols. */
const offersWebSocket = /(?:^|,)[ \t]*websocket[ \t]*(?:,|$)/i
const protocolPrefix = 'fleet.bearer.'

/** The credentials that count. */
export function credentialsOf (raw: IncomingMessage): Credentials {
  const { headers } = raw
  const own = headers['x-fleet-token']
  if (own !== undefined) return valuesOf(raw, 'x-fleet-token').length === 1 ? { kind: 'token', token: String(own) } : ambiguous
  const bearer = headers.authorization
  if (bearer !== undefined && bearerScheme.test(bearer)) return hasTwoAuthorizations(raw) ? ambiguous : authorization
  const protocols = headers['sec-websocket-protocol']
  if (protocols !== undefined && offersWebSocket.test(headers.upgrade ?? '')) {
    const tokens = protocols.split(',').map(protocol => protocol.trim()).filter(protocol => protocol.startsWith(protocolPrefix))
    if (tokens.length > 0) return tokens.length === 1 ? { kind: 'token', token: tokens[0]!.slice(protocolPrefix.length) } : ambiguous
  }
  return bearer !== undefined && hasTwoAuthorizations(raw) ? ambiguous : none
}

/** All bearer tokens in `Authorization`, the repeated ones included: Node keeps only the first in `headers`. */
export function bearerTokensOf (raw: IncomingMessage): string[] {
  if (raw.headers.authorization === undefined) return []
  return valuesOf(raw, 'authorization').filter(value => bearerScheme.test(value)).map(value => value.replace(bearerScheme, '').trim())
}

function hasTwoAuthorizations (raw: IncomingMessage): boolean {
  return valuesOf(raw, 'authorization').length > 1
}

/** Every value of a field, as it came. */
function valuesOf ({ rawHeaders }: IncomingMessage, name: string): string[] {
  const values: string[] = []
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const field = rawHeaders[index]!
    if (field.length === name.length && field.toLowerCase() === name) values.push(rawHeaders[index + 1]!)
  }
  return values
}
