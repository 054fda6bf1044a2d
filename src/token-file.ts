/**
 * A token in a file, as `secretFile` and `tokenFile` name one: the auth plugin reads it, and `fleet-gateway check` sees whether it could.
 */
import { readFileSync } from 'node:fs'

/** Reads the whole file. @throws what node:fs throws */
export type ReadFile = (path: string) => string

const printable = /^[!-~]*$/
const leastLength = 8

/** Where the file is, for a message; nothing when what was given looks like a token in its place. */
export function shownPath (path: string): string {
  return /[/\\.]/.test(path) ? ` (${path})` : ''
}

/** The token in a file, which may end in a line break. @throws Error that says what is wrong with it, and never quotes it */
export function tokenIn (path: string, readFile: ReadFile = name => readFileSync(name, 'utf8')): string {
  let text: string
  try {
    text = readFile(path)
  } catch (error) {
    throw new Error(`can not be read: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}${shownPath(path)}`, { cause: error })
  }
  const token = text.replace(/[\r\n]+$/, '')
  if (token === '') throw new Error(`names an empty file${shownPath(path)}`)
  if (!printable.test(token)) throw new Error(`must hold one line of printable characters without spaces${shownPath(path)}`)
  if (token.length < leastLength) throw new Error(`must hold at least ${leastLength} characters${shownPath(path)}`)
  return token
}
