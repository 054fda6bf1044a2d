/**
 * The form of a request target and the authority that a request is for (RFC 9112 §3.2): what is ambiguous about either is refused, and
 * nobody else looks at them a second way.
 */
import { isIPv6 } from 'node:net'

const absoluteForm = /^https?:\/\/([^/?]*)/i
const highestPort = 65_535

/** `host[:port]` without userinfo (RFC 9110 §7.2). A comma is allowed by RFC 3986, and is two values read as one everywhere else. */
const registeredName = /^((?:[\w.~!$&'()*+;=-]|%[0-9a-f]{2})+)(?::(\d*))?$/i
const literal = /^\[([0-9a-f:.]+)\](?::(\d*))?$/i

/** Whether the value of `Host`, or the authority of a target, is one host with or without a port. */
export function isAuthority (value: string): boolean {
  const address = literal.exec(value)
  const [, host, port = ''] = address ?? registeredName.exec(value) ?? []
  return host !== undefined && Number(port) <= highestPort && (address === null || isIPv6(host))
}

/** Whether a target has a form that is served: origin-form, absolute-form of a URI that is ours to serve, `*` with OPTIONS. */
export function isServedForm (target: string, method: string | undefined): boolean {
  if (target.startsWith('/')) return true
  if (target === '*') return method === 'OPTIONS'
  const authority = absoluteForm.exec(target)?.[1]
  return authority !== undefined && isAuthority(authority)
}

/** Host and port that a request is for: those of an absolute target, whatever `Host` says (RFC 9112 §3.2.2). Empty when nobody says. */
export function requestAuthority (target: string, host: string | undefined): string {
  return (target.startsWith('/') ? undefined : absoluteForm.exec(target)?.[1]) ?? host ?? ''
}

/** What of a target may be told: without the query, which may hold secrets, and without scheme, user and host where it has them (RFC 9112 §3.2.2). */
export function pathOf (target: string): string {
  const query = target.indexOf('?')
  const path = query === -1 ? target : target.slice(0, query)
  return path.startsWith('/') ? path : path.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, '')
}

/** The target without scheme and authority. */
export function originForm (target: string): string {
  if (target.startsWith('/')) return target
  const path = target.replace(absoluteForm, '')
  return path.startsWith('/') ? path : `/${path}`
}

/**
 * What the router sees. A path under /api whose percent-encoding is not UTF-8 is the agent's business, but the router would refuse it:
 * such segments are taken out of its sight. The proxy reads the original target.
 */
export function routableTarget (target: string): string {
  if (!target.includes('%') || !target.includes('/api/')) return target
  const query = target.indexOf('?')
  const path = query === -1 ? target : target.slice(0, query)
  if (isDecodable(path) || brokenEncoding.test(path)) return target
  return path.split('/').map(segment => isDecodable(segment) ? segment : '_').join('/')
}

const brokenEncoding = /%(?![0-9a-f]{2})/i

/** Whether the percent-encodings of a path, or a part of one, are whole, and UTF-8. */
export function isDecodable (path: string): boolean {
  try {
    decodeURIComponent(path)
    return true
  } catch {
    return false
  }
}
