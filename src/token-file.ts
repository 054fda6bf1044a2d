/**
 * Small files that hold one line: a token, as `secretFile` and `tokenFile` name one, or the value of a header. The gateway reads them when it
 * starts and with every reload, and `fleet-gateway check` sees whether it could.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs'

/** Reads the whole file. @throws what node:fs throws, or an error that says what is wrong */
export type ReadFile = (path: string) => string

const printable = /^[!-~]*$/
/** How many characters a token has, wherever it stands. */
export const tokenLength = { least: 8, most: 4_096 } as const

/** Where the file is, for a message; nothing when what was given looks like a token in its place. */
export function shownPath (path: string): string {
  return /[/\\.]/.test(path) ? ` (${path})` : ''
}

/** No file is read any further: a device or a wrong name must not fill the memory. */
export const mostTokenFileBytes = 64 * 1024

/** So much of a file is read at once. */
const pieceBytes = 16 * 1024

/** Reads a file of that size at most; a pipe that nobody writes to is an empty one, and keeps nobody waiting. @throws what node:fs throws, and Error for one that is too long */
export function readBounded (path: string, mostBytes: number): string {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const pieces: Buffer[] = []
    for (let length = 0; ;) {
      const piece = Buffer.alloc(pieceBytes)
      const read = readSync(descriptor, piece)
      if (read === 0) return Buffer.concat(pieces, length).toString()
      pieces.push(piece.subarray(0, read))
      length += read
      if (length > mostBytes) throw new Error(`is longer than ${mostBytes / 1024} KiB`)
    }
  } finally {
    closeSync(descriptor)
  }
}

/** Reads a file that holds a token. @throws as readBounded() */
export const readSmallFile: ReadFile = path => readBounded(path, mostTokenFileBytes)

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
  if (token.length < tokenLength.least) throw new Error(`must hold at least ${tokenLength.least} characters${shownPath(path)}`)
  if (token.length > tokenLength.most) throw new Error(`must hold at most ${tokenLength.most} characters${shownPath(path)}`)
  return token
}
