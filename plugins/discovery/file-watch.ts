/**
 * Tells when a file may have changed, by looking at it: that also sees atomic renames, bind mounts, and files that come and go.
 */
import { createHash } from 'node:crypto'
import { unwatchFile, watchFile } from 'node:fs'
import { stat } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { readText } from '../../src/config-file.ts'

/** How long the content must stand still: an editor that writes in place is not to be caught between emptying the file and filling it. */
const settleMs = 50
const mostLooks = 40

/**
 * Calls `onChange` when the file's stat changes, until the returned function is called. Never keeps the process alive. Resolves when it
 * is watching, so that what is read afterwards is the state it compares with, or an older one.
 */
export async function watchStat (file: string, intervalMs: number, onChange: () => void): Promise<() => void> {
  const listener = () => onChange()
  watchFile(file, { interval: intervalMs, persistent: false }, listener)
  await stat(file).catch(() => {}) // queued behind the watcher's own first look
  return () => unwatchFile(file, listener)
}

/** What contentHash() gives for a file with nothing in it but blanks. */
export const emptyHash = ''

/** What identifies a content; null for a missing file. */
export async function contentHash (file: string): Promise<string | null> {
  const text = await readText(file)
  if (text === undefined) return null
  return text.trim() === '' ? emptyHash : createHash('sha256').update(text).digest('hex')
}

/**
 * As contentHash(), of a content that stood still for a moment; of the last one seen, when the file never rests.
 * @param moment waits between two looks
 */
export async function settledHash (file: string, moment: () => Promise<void> = () => delay(settleMs)): Promise<string | null> {
  let hash = await contentHash(file)
  for (let looks = 1; looks < mostLooks; looks++) {
    await moment()
    const again = await contentHash(file)
    if (again === hash) return hash
    hash = again
  }
  return hash
}
