/**
 * Files that are whole or as they were before, whatever happens in between. The new text goes into a file beside the old one, is synced, and
 * takes the old one's place by rename; then the folder is synced, too, or a power cut could bring the old file back after its successor was
 * acknowledged (SQLite and etcd do the same). Not by write-file-atomic: it takes what the system wrote at once for all there was to
 * write, so that on a full disk the beginning of the new text replaces a good file; and it leaves the folder unsynced.
 */
import { randomBytes } from 'node:crypto'
import type { Stats } from 'node:fs'
import { mkdir, open, readdir, realpath, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'

/** Of the random part of a temporary file's name. */
const randomDigits = 12

const temporaryForm = new RegExp(`^(.+)\\.[0-9a-f]{${randomDigits}}\\.tmp$`)

/** What a system answers that has no such thing as syncing a folder, or forbids to open one. */
const cantSyncFolders = new Set(['EACCES', 'EBADF', 'EINVAL', 'EISDIR', 'ENOTSUP', 'EPERM'])

/**
 * Resolves when the text is on disk under this name, through a link if it is one. A file that is there keeps its owner, and its mode unless
 * another is given.
 * @throws what node:fs throws; the file is then as it was, unless it was only the folder that could not be synced
 */
export async function writeFileDurably (path: string, text: string, { mode }: { mode?: number } = {}): Promise<void> {
  const target = await realpath(path).catch(() => path)
  const before = await stat(target).catch(() => undefined)
  const wanted = mode ?? (before && before.mode & 0o7777)
  const temporary = `${target}.${randomBytes(randomDigits / 2).toString('hex')}.tmp`
  const file = await open(temporary, 'wx', wanted)
  try {
    try {
      await file.writeFile(text) // until all of it is written
      if (before !== undefined) await keepOwner(file, before)
      if (wanted !== undefined) await file.chmod(wanted).catch(unlessForbidden) // whatever the umask says
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, target)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {}) // it may be the disk itself that fails; the next start cleans up
    throw error
  }
  await syncFolder(dirname(target))
}

/** Makes a folder, and those above it, for its owner alone; what is there stays as it is. Resolves when it is on disk. */
export async function makeFolderDurably (folder: string): Promise<void> {
  const first = await mkdir(folder, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  const highest = dirname(resolve(first))
  for (let above = dirname(resolve(folder)); ; above = dirname(above)) {
    await syncFolder(above)
    if (above === highest || above === dirname(above)) return
  }
}

/**
 * Removes what killed writers of these files left in the folder. Only for who knows that nobody writes there now; other files with similar
 * names are nobody's business.
 */
export async function removeTemporaryFiles (folder: string, names: readonly string[]): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const left = entries.filter(entry => entry.isFile() && names.includes(temporaryForm.exec(entry.name)?.[1] ?? ''))
  await Promise.all(left.map(({ name }) => rm(join(folder, name), { force: true }).catch(() => {}))) // a nuisance at most
}

async function syncFolder (folder: string): Promise<void> {
  let handle: FileHandle | undefined
  try {
    handle = await open(folder, 'r')
    await handle.sync()
  } catch (error) {
    if (!cantSyncFolders.has((error as NodeJS.ErrnoException).code ?? '')) throw error
  } finally {
    await handle?.close()
  }
}

/** Root may write what belongs to a service's user, who has to be able to read it afterwards. */
async function keepOwner (file: FileHandle, { uid, gid }: Stats): Promise<void> {
  const own = await file.stat()
  if (own.uid !== uid || own.gid !== gid) await file.chown(uid, gid).catch(unlessForbidden)
}

/** Owner and mode are a courtesy: who may not change them still has the text on disk. */
function unlessForbidden (error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPERM' && error.code !== 'EINVAL' && error.code !== 'ENOSYS') throw error
}
