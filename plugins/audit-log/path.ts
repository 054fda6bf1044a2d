/**
 * What of a request's target may be told: never its query.
 */

/** Without the query, which may hold secrets, and without scheme, user and host when the target has them (RFC 9112 §3.2.2). */
export function pathOf (url: string): string {
  const query = url.indexOf('?')
  const path = query === -1 ? url : url.slice(0, query)
  return path.startsWith('/') ? path : path.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, '')
}

/** The beginning of a long target, without its query, and as a string of its own: a slice would keep the whole. */
export function shortened (url: string, length: number): string {
  return Buffer.from(pathOf(url).slice(0, length)).toString()
}
