/**
 * Whether another gateway uses a folder. Each that does listens on a Unix domain socket in it, `lock-ID.sock`: who can be connected to lives,
 * and the system ends that with the process, however it ends. So nothing is ever stuck: no process id is compared, which containers and
 * reboots give out again, and no clock. It holds across the containers of one machine that share a volume; not between machines that
 * share a network file system, since a socket is the kernel's own.
 *
 * Each socket has a name of its own, so that one that nobody listens on any more can be removed without a race: a name never comes
 * back. Of several that start at once the one with the lowest id goes on: each is visible before it looks for others, whoever sees a lower
 * id that is still starting leaves, and whoever sees a higher one waits until that has left, or has turned out to be there already.
 */
import { randomBytes } from 'node:crypto'
import { lstat, open, readdir, readlink, rename, rm, type FileHandle } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'

/** Somebody else uses the folder. */
export class FolderInUseError extends Error {
  readonly code = 'FLEET_STATE_IN_USE'
  constructor (folder: string, holder: Partial<Holder>) {
    const { pid, host, since } = holder
    const who = [pid !== undefined && `process ${pid}`, host !== undefined && `on ${host}`, since !== undefined && `since ${since}`].filter(part => part !== false)
    super(`The state folder ${folder} is in use by another gateway${who.length === 0 ? '' : ` (${who.join(' ')})`}: end that one, or give this one a folder of its own with registry.stateDir`)
    this.name = 'FolderInUseError'
  }
}

export interface FolderLock {
  /**
   * Resolves with undefined when the folder is this one's, now or since an earlier call; with the reason when sockets can't be had there, so that
   * nothing can be told of others.
   * @throws FolderInUseError
   */
  hold (): Promise<NodeJS.ErrnoException | undefined>
  /** Leaves it to others. */
  release (): Promise<void>
}

/** What a socket tells who connects, a line of JSON; a second one when it changes. */
interface Holder {
  readonly state: 'starting' | 'holding'
  readonly host: string
  readonly since: string
  /** As its own container counts them. */
  readonly pid?: string
}

interface Place {
  readonly path: string
  leave (): Promise<void>
}

const socketForm = /^lock-([0-9a-f]{12})\.sock$/
const unfinishedForm = /^lock-[0-9a-f]{12}\.sock\.new$/

/** A socket without its name is one tick old, or was left by a process that was killed in that tick. */
const unfinishedMs = 60_000

/** The system takes some hundred bytes for the path of a socket: 108 on Linux, 104 elsewhere. */
const longestPath = 100

/** Who lives and says nothing for so long, as a process that is stopped, holds. */
const answerMs = 3_000

/** A lock for this folder, not yet held. Two of them are two, in one process as well. */
export function createFolderLock (folder: string): FolderLock {
  let place: Place | undefined
  let last: Promise<unknown> = Promise.resolve()

  async function hold (): Promise<NodeJS.ErrnoException | undefined> {
    // The folder may have been removed and made anew meanwhile, and the socket with it.
    if (place !== undefined && await exists(place.path)) return undefined
    await place?.leave()
    place = undefined
    try {
      place = await takePlace(folder)
    } catch (error) {
      if (error instanceof FolderInUseError) throw error
      return error as NodeJS.ErrnoException
    }
    return undefined
  }

  /** One after the other. */
  function inTurn<T> (task: () => Promise<T>): Promise<T> {
    const result = last.then(task)
    last = result.catch(() => {})
    return result
  }

  return {
    hold: () => inTurn(hold),
    release: () => inTurn(async () => {
      await place?.leave()
      place = undefined
    })
  }
}

async function takePlace (folder: string): Promise<Place> {
  const id = randomBytes(6).toString('hex')
  const path = join(folder, `lock-${id}.sock`)
  const self = { host: hostname(), since: new Date().toISOString(), ...await ownPid() }
  let state: Holder['state'] = 'starting'
  const asking = new Set<Socket>()
  const server = createServer(socket => {
    socket.unref().resume().on('error', () => {}).on('close', () => asking.delete(socket))
    tell(socket)
    asking.add(socket)
  })
  const tell = (socket: Socket) => {
    const line = `${JSON.stringify({ state, ...self } satisfies Holder)}\n`
    if (state === 'starting') socket.write(line)
    else socket.end(line, () => socket.destroy())
  }
  const short = await shortened(folder, path)

  async function leave (): Promise<void> {
    await rm(path, { force: true }).catch(() => {})
    for (const socket of asking) socket.destroy()
    await new Promise(resolve => server.close(resolve))
    await short.close()
  }

  try {
    // Between its making and its listening a socket looks like one that was left, so it gets its name when it listens.
    await listen(server, join(short.folder, `lock-${id}.sock.new`))
    await rename(`${path}.new`, path)
    for (const other of await othersIn(folder, id)) await outlast(folder, short.folder, other, id)
  } catch (error) {
    await leave()
    throw error
  }
  state = 'holding'
  for (const socket of asking) tell(socket)
  return { path, leave }
}

/** Resolves when the other is gone. @throws FolderInUseError when it stays */
async function outlast (folder: string, shortFolder: string, other: string, id: string): Promise<void> {
  const name = `lock-${other}.sock`
  for await (const answer of answersOf(join(shortFolder, name))) {
    if (answer.state !== 'starting' || other < id) throw new FolderInUseError(folder, answer)
  }
  // Its owner is not there any more, and nobody else will ever have its name.
  await rm(join(folder, name), { force: true }).catch(() => {})
}

/** What somebody who lives says of itself, until the connection ends; nothing when nobody is there. */
async function * answersOf (path: string): AsyncGenerator<Partial<Holder>> {
  const socket = createConnection({ path })
  socket.setTimeout(answerMs, () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })))
  let text = ''
  try {
    for await (const chunk of socket) {
      text += String(chunk)
      const lines = text.split('\n')
      text = lines.pop()!
      for (const line of lines) yield readHolder(line)
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // Anything else comes from somebody who is there: silent, or with more who ask than there is room for.
    if (code !== 'ECONNREFUSED' && code !== 'ENOENT' && code !== 'ECONNRESET' && code !== 'EPIPE') yield {}
  } finally {
    socket.destroy()
  }
}

function readHolder (line: string): Partial<Holder> {
  try {
    const { state, host, since, pid } = JSON.parse(line) as Record<string, unknown>
    return {
      ...((state === 'starting' || state === 'holding') && { state }),
      ...(typeof host === 'string' && { host }),
      ...(typeof since === 'string' && { since }),
      ...(typeof pid === 'string' && { pid })
    }
  } catch {
    return {}
  }
}

/** The ids of the other sockets; those that never got their name are removed. */
async function othersIn (folder: string, id: string): Promise<string[]> {
  const names = await readdir(folder)
  for (const name of names.filter(candidate => unfinishedForm.test(candidate))) {
    const unfinished = await lstat(join(folder, name)).catch(() => undefined)
    if (unfinished !== undefined && Date.now() - unfinished.mtimeMs > unfinishedMs) await rm(join(folder, name), { force: true }).catch(() => {})
  }
  return names.flatMap(name => socketForm.exec(name)?.[1] ?? []).filter(other => other !== id)
}

/** The folder under a name that leaves room for a socket's in its path: on Linux every open folder has one. @throws with ENAMETOOLONG where it has none */
async function shortened (folder: string, path: string): Promise<{ folder: string, close: () => Promise<void> }> {
  if (Buffer.byteLength(`${path}.new`) <= longestPath) return { folder, close: async () => {} }
  const handle: FileHandle = await open(folder, 'r')
  const short = `/proc/self/fd/${handle.fd}`
  if (await exists(short)) return { folder: short, close: () => handle.close() }
  await handle.close()
  throw Object.assign(new Error(`the path of ${folder} is too long for a socket`), { code: 'ENAMETOOLONG' })
}

/** Where the system tells. */
async function ownPid (): Promise<{ pid?: string }> {
  const pid = await readlink('/proc/self').catch(() => undefined)
  return pid === undefined ? {} : { pid }
}

function listen (server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // Of a cluster's workers each is a gateway of its own.
    // To ask is everybody's right: a user who may not would take it for left, or be stuck with it. Said here it is done in the same step: a chmod
    // later could meet something else under the name, such as a link.
    server.listen({ path, exclusive: true, readableAll: true, writableAll: true }, () => {
      server.off('error', reject)
      server.unref()
      resolve()
    })
  })
}

async function exists (path: string): Promise<boolean> {
  return await lstat(path).then(() => true, () => false)
}
