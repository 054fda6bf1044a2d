/**
 * Which request targets are refused before anything else looks at them: those that two parties could read differently.
 */

/** A target without any of these needs no closer look. */
const suspicious = /[%\\#\x00-\x20\x7f]|\.\./ // eslint-disable-line no-control-regex
const controlCharacter = /[\x00-\x20\x7f]/ // eslint-disable-line no-control-regex
const brokenEncoding = /%(?![0-9a-f]{2})/i
const encodedControl = /%(?:[01][0-9a-f]|7f)/i

/**
 * Why the request target must be refused, or undefined when it is fine. The path is decoded once for this; the query is not.
 * @param target origin-form or absolute-form (RFC 9112 §3.2)
 */
export function targetProblem (target: string): string | undefined {
  if (!suspicious.test(target)) return undefined
  if (controlCharacter.test(target)) return 'The request target has a control character'
  if (target.includes('#')) return 'The request target has a fragment'
  const query = target.indexOf('?')
  const path = query === -1 ? target : target.slice(0, query)
  if (path.includes('\\')) return 'The path has a backslash'
  if (brokenEncoding.test(path)) return 'The path has a broken percent-encoding'
  if (encodedControl.test(path)) return 'The path has an encoded control character'
  const decoded = path.replace(/%2e/gi, '.').replace(/%2f/gi, '/').replace(/%5c/gi, '\\')
  if (decoded.split(/[/\\]/).includes('..')) return 'The path has a ".." segment'
  return undefined
}
