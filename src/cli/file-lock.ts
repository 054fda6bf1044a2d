/**
 * One at a time, of processes that read a file, change it and write it back: who is late must not undo what another has done meanwhile.
 *
 * The lock is a folder beside the file with the owner's entry in it, whose name never comes back. So each step is one that the system does for one
 * process alone: a folder with an entry takes the place of one that is empty or missing, never of another's; and who takes a dead owner's entry away
 * can't hit that of whoever came after it.
 */
import { randomUUID } from 'node:crypto'
import { lstat, mkdir, readdir, realpath, rename, rm, rmdir, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

const waitMs = 25
/** A change takes milliseconds. What is older, or of a time to come, was left by a process that died. */
const staleMs = 10_000

/** Runs the work while nobody else does who asks for the same file. Where no lock can be put down the work runs without one: nor can it write there. */
export async function withFileLock<T> (file: string, work: () => Promise<T>): Promise<T> {
  const target = await realpath(file).catch(() => file) // a link and what it leads to are one file
  const lock = `${target}.lock`
  const owner = randomUUID()
  const isOurs = await take(lock, owner)
  try {
    return await work()
  } finally {
    if (isOurs) await release(lock, owner)
  }
}

async function take (lock: string, owner: string): Promise<boolean> {
  const ours = `${lock}.${owner}`
  try {
    await mkdir(ours)
    await writeFile(join(ours, owner), '')
    for (;;) {
      try {
        await rename(ours, lock)
        return true
      } catch (error) {
        ignore(error, 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')
      }
      if (!await removeStale(lock)) await delay(waitMs)
    }
  } catch {
    await rm(ours, { recursive: true, force: true }).catch(() => {})
    return false
  }
}

/** Takes away what a dead owner left. @returns whether there was something */
async function removeStale (lock: string): Promise<boolean> {
  const entries = await readdir(lock).then(names => names.map(name => join(lock, name)), () => [lock]) // what is no folder is no lock of today
  for (const entry of entries) {
    const there = await lstat(entry).catch(() => undefined)
    if (there === undefined || Math.abs(Date.now() - there.mtimeMs) <= staleMs) continue
    // Not of a folder: in the place of a dead thing there may be a lock by now.
    await unlink(entry).catch((error: unknown) => ignore(error, 'ENOENT', 'EISDIR'))
    return true
  }
  return false
}

/** @throws the error, unless it is one of these */
function ignore (error: unknown, ...codes: readonly string[]): void {
  if (!codes.includes((error as NodeJS.ErrnoException).code ?? '')) throw error
}

async function release (lock: string, owner: string): Promise<void> {
  await unlink(join(lock, owner)).catch(() => {})
  await rmdir(lock).catch(() => {}) // somebody else's already
}
