/**
 * What becomes of a header field, by its name. Looked up for every field of every message, so names are classified once and remembered
 * in the spelling in which they came.
 */

export const FieldRole = {
  /** Passed on as it is. */
  plain: 0,
  /** Belongs to this hop (RFC 9110 §7.6.1), or is the gateway's own: never passed on. */
  hop: 1,
  /** Names further fields of this hop. */
  connection: 2,
  host: 3,
  contentLength: 4,
  authorization: 5,
  /** `Forwarded`, `X-Forwarded-*`, `X-Real-IP`: believed from trusted proxies only. */
  forwarding: 6,
  trace: 7,
  location: 8,
  vary: 9,
  accessControl: 10,
  trailer: 11,
  contentType: 12,
  transferEncoding: 13,
  subprotocol: 14,
  /** How often `OPTIONS` may be passed on. */
  maxForwards: 15
} as const

export type FieldRole = typeof FieldRole[keyof typeof FieldRole]

export interface Field {
  readonly lowerName: string
  readonly role: FieldRole
  /** It is a name (RFC 9110 §5.1). What a parser has read is; what comes by inject() may be anything. */
  readonly isToken: boolean
}

const hopFields = ['keep-alive', 'proxy-connection', 'proxy-authorization', 'proxy-authenticate', 'proxy-authentication-info', 'te', 'upgrade', 'http2-settings', 'expect', 'x-fleet-token', 'x-request-id']

const roles: ReadonlyMap<string, FieldRole> = new Map<string, FieldRole>([
  ...hopFields.map(name => [name, FieldRole.hop] as const),
  ['connection', FieldRole.connection],
  ['host', FieldRole.host],
  ['content-length', FieldRole.contentLength],
  ['authorization', FieldRole.authorization],
  ['forwarded', FieldRole.forwarding],
  ['x-real-ip', FieldRole.forwarding],
  ['traceparent', FieldRole.trace],
  ['tracestate', FieldRole.trace],
  ['location', FieldRole.location],
  ['vary', FieldRole.vary],
  ['trailer', FieldRole.trailer],
  ['content-type', FieldRole.contentType],
  ['transfer-encoding', FieldRole.transferEncoding],
  ['sec-websocket-protocol', FieldRole.subprotocol],
  ['max-forwards', FieldRole.maxForwards]
])

/** Fields that the gateway removes or speaks for. */
const reservedRoles: ReadonlySet<FieldRole> = new Set([FieldRole.hop, FieldRole.connection, FieldRole.host, FieldRole.contentLength, FieldRole.transferEncoding, FieldRole.forwarding, FieldRole.authorization])

/** Clients choose names: what they can make us remember is bounded. */
const mostRemembered = 2_000
const longestRemembered = 64

/** Classifies field names; one per gateway. */
export class FieldNames {
  readonly #known = new Map<string, Field>()

  of (name: string): Field {
    let field = this.#known.get(name)
    if (field === undefined) {
      field = classify(name.toLowerCase())
      if (name.length > longestRemembered) return field
      if (this.#known.size >= mostRemembered) this.#known.clear() // the usual ones are back in no time
      this.#known.set(name, field)
    }
    return field
  }
}

function classify (lowerName: string): Field {
  // CGI and WSGI can't tell `_` from `-`: what is taken from strangers under one spelling must not reach an agent under the other.
  const isToken = token.test(lowerName)
  if (lowerName.includes('_') && reservedRoles.has(classify(lowerName.replaceAll('_', '-')).role)) return { lowerName, role: FieldRole.hop, isToken }
  const role = roles.get(lowerName) ??
    (lowerName.startsWith('x-forwarded-') ? FieldRole.forwarding : lowerName.startsWith('access-control-') ? FieldRole.accessControl : FieldRole.plain)
  return { lowerName, role, isToken }
}

/** Fields that `Connection` must not take away: without them the message would mean something else (RFC 9110 §7.6.1). */
const untouchable: ReadonlySet<string> = new Set(['content-length', 'host', 'transfer-encoding'])

/** The field names in a `Connection` value, in lower case; null when it names none beyond the usual. */
export function nominatedFields (connection: string | undefined): ReadonlySet<string> | null {
  if (connection === undefined) return null
  const lower = connection.toLowerCase()
  if (lower === 'keep-alive' || lower === 'close' || lower === 'upgrade') return null
  const names = lower.split(',').map(name => name.trim()).filter(name => name !== '' && !untouchable.has(name))
  return names.length === 0 ? null : new Set(names)
}

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const unsendable = /[^\t\x20-\x7e\x80-\xff]/

/** Whether a value can be sent (RFC 9110 §5.5): what came from a parser can, what a hook has set may be anything. */
export function isSendableValue (value: unknown): boolean {
  return typeof value === 'string' && !unsendable.test(value)
}

/** Whether a field that a hook has set can be sent, and is one field. */
export function isSendable (name: string, value: unknown): boolean {
  return isSendableValue(value) && token.test(name)
}
