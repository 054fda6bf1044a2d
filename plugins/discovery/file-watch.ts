/**
 * What a file's content is, and when it stands still; that the file may have changed, src/file-watch.ts tells.
 */
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { readText } from '../../src/config-file.ts'

/** How long the content must stand still: an editor that writes in place is not to be caught between emptying the file and filling it. */
const settleMs = 50
const mostLooks = 40

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
