/**
 * Small files that hold one line: a token, as `secretFile` and `tokenFile` name one, or the value of a header. The gateway reads them when it
 * starts and with every reload, and `fleet-gateway check` sees whether it could.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs'

/** Reads the whole file. @throws what node:fs throws, or an error that says what is wrong */
export type ReadFile = (path: string) => string

const printable = /^[!-~]*$/
const leastLength = 8
/** As the schema of `token` has it. */
const mostLength = 4_096

/** Where the file is, for a message; nothing when what was given looks like a token in its place. */
export function shownPath (path: string): string {
  return /[/\\.]/.test(path) ? ` (${path})` : ''
}

/** No file is read any further: a device or a wrong name must not fill the memory. */
const mostBytes = 64 * 1024

/** Reads a small file; a pipe that nobody writes to is an empty one, and keeps nobody waiting. @throws what node:fs throws, and Error for one that is too long */
export const readSmallFile: ReadFile = path => {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const bytes = Buffer.alloc(mostBytes + 1)
    let length = 0
    for (let read = -1; read !== 0 && length < bytes.length; length += read) read = readSync(descriptor, bytes, length, bytes.length - length, null)
    if (length > mostBytes) throw new Error(`is longer than ${mostBytes / 1024} KiB`)
    return bytes.toString('utf8', 0, length)
  } finally {
    closeSync(descriptor)
  }
}

/** The line in a file, which may end in a line break. @throws Error that says what is wrong with the file, and never quotes it */
export function lineIn (path: string, readFile: ReadFile = readSmallFile): string {
  let text: string
  try {
    text = readFile(path)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Error(code === undefined ? `${message}${shownPath(path)}` : `can not be read: ${code}${shownPath(path)}`, { cause: error })
  }
  const line = text.replace(/[\r\n]+$/, '')
  if (line === '') throw new Error(`names an empty file${shownPath(path)}`)
  return line
}

/** The token in a file, which may end in a line break. @throws Error that says what is wrong with it, and never quotes it */
export function tokenIn (path: string, readFile: ReadFile = readSmallFile): string {
  const token = lineIn(path, readFile)
  if (!printable.test(token)) throw new Error(`must hold one line of printable characters without spaces${shownPath(path)}`)
  if (token.length < leastLength) throw new Error(`must hold at least ${leastLength} characters${shownPath(path)}`)
  if (token.length > mostLength) throw new Error(`must hold at most ${mostLength} characters${shownPath(path)}`)
  return token
}
