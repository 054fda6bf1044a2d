/**
 * One at a time, of processes that read a file, change it and write it back: who is late must not undo what another has done meanwhile.
 */
import { lstat, open, realpath, rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

const waitMs = 25
/** A change takes milliseconds. What is older, or of a time to come, was left by a process that died. */
const staleMs = 10_000

/** Runs the work while nobody else does who asks for the same file. Where no lock can be put down the work runs without one: nor can it write there. */
export async function withFileLock<T> (file: string, work: () => Promise<T>): Promise<T> {
  const target = await realpath(file).catch(() => file) // a link and what it leads to are one file
  const lock = `${target}.lock`
  const isOurs = await take(lock)
  try {
    return await work()
  } finally {
    if (isOurs) await rm(lock, { force: true })
  }
}

async function take (lock: string): Promise<boolean> {
  for (;;) {
    try {
      await (await open(lock, 'wx')).close()
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return false
    }
    const there = await lstat(lock).catch(() => undefined)
    if (there !== undefined && Math.abs(Date.now() - there.mtimeMs) > staleMs) await rm(lock, { force: true })
    else await delay(waitMs)
  }
}
