/** Tells when a file may have changed, by looking at it: that also sees atomic renames, bind mounts, links that are turned, and files that come and go. */
import { unwatchFile, watchFile } from 'node:fs'
import { stat } from 'node:fs/promises'

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
