/** src/folder-lock.ts: one holder at a time, and nothing that a dead one leaves is in anybody's way. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, rmSync, symlinkSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import * as net from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createFolderLock, type FolderLock } from '../src/folder-lock.ts'
import type * as FolderLockModule from '../src/folder-lock.ts'

/** A lock that is released with the test. */
function lockIn (t: Test, folder: string): FolderLock {
  const lock = createFolderLock(folder)
  t.teardown(() => lock.release())
  return lock
}

const inUse = { code: 'FLEET_STATE_IN_USE', name: 'FolderInUseError' }

/** One whose path has room for the name of a socket, which a fixture of the test's may not have. */
async function shortFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lock-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Somebody else's socket in the folder, by its name. */
async function stranger (t: Test, folder: string, id: string, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer(onConnection).listen(join(folder, `lock-${id}.sock`))
  await once(server, 'listening')
  t.teardown(() => new Promise(resolve => server.close(resolve)))
  return server
}

/** Sockets of a process that was killed. */
async function leftBehind (folder: string, ...names: string[]): Promise<void> {
  const program = 'const names = process.argv.slice(1); let open = 0; for (const name of names) require("net").createServer().listen(name, () => { if (++open === names.length) console.log("open") })'
  const child = spawn(process.execPath, ['-e', program, ...names], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  child.kill('SIGKILL')
  await once(child, 'close')
}

t.test('a second one is told who holds the folder and what to do, and gets it after that one', async t => {
  const folder = t.testdir({})
  const [first, second] = [lockIn(t, folder), lockIn(t, folder)]
  t.equal(await first.hold(), undefined)
  t.equal(await first.hold(), undefined, 'it is held already')

  await t.rejects(second.hold(), {
    ...inUse,
    message: new RegExp(`^The state folder ${folder} is in use by another gateway \\(${process.platform === 'linux' ? `process ${process.pid} ` : ''}on ${hostname()} since 20\\d\\d-.*Z\\): end that one, or give this one a folder of its own with registry\\.stateDir$`)
  })
  t.equal((await readdir(folder)).length, 1, 'who is refused leaves nothing')
  await first.release()
  t.same(await readdir(folder), [])
  t.equal(await second.hold(), undefined)
})

t.test('what killed processes left is in nobody\'s way, and is removed', async t => {
  const folder = t.testdir({})
  await leftBehind(folder, 'lock-000000000000.sock', 'lock-ffffffffffff.sock', 'lock-aaaaaaaaaaaa.sock')
  t.equal((await readdir(folder)).length, 3)
  const lock = lockIn(t, folder)

  t.equal(await lock.hold(), undefined)

  t.equal((await readdir(folder)).length, 1)
  await t.rejects(lockIn(t, folder).hold(), inUse)
})

t.test('a socket that was left before it had its name is removed when it is old', async t => {
  const folder = t.testdir({ 'lock-000000000000.sock.new': '', 'lock-111111111111.sock.new': '', 'lock-x.sock.new': '' })
  await utimes(join(folder, 'lock-000000000000.sock.new'), 1, 1)
  await utimes(join(folder, 'lock-x.sock.new'), 1, 1)
  const lock = lockIn(t, folder)

  await lock.hold()
  await lock.release()

  t.same((await readdir(folder)).sort(), ['lock-111111111111.sock.new', 'lock-x.sock.new'])
})

t.test('of many that come at once one gets the folder, also where dead ones were', async t => {
  for (let round = 0; round < 10; round++) {
    const folder = t.testdir({})
    if (round % 5 === 0) await leftBehind(folder, 'lock-000000000000.sock', 'lock-ffffffffffff.sock')
    const locks = Array.from({ length: 8 }, () => lockIn(t, folder))

    const outcomes = await Promise.allSettled(locks.map(lock => lock.hold()))

    const refused = outcomes.flatMap(outcome => outcome.status === 'rejected' ? [outcome.reason as unknown] : [])
    t.equal(refused.length, 7, `round ${round}`)
    for (const reason of refused) t.match(reason, inUse)
    t.equal((await readdir(folder)).length, 1)
    await Promise.all(locks.map(lock => lock.release()))
  }
})

t.test('who is still starting is waited for by a lower id, and makes a higher one leave', async t => {
  const starting = `${JSON.stringify({ state: 'starting', host: 'elsewhere', since: 'now' })}\n`
  const lowest = await shortFolder(t)
  await stranger(t, lowest, '000000000000', socket => { socket.write(starting) })
  await t.rejects(lockIn(t, lowest).hold(), { ...inUse, message: /\(on elsewhere since now\)/ })

  const leaving = join(lowest, 'leaving')
  await mkdir(leaving)
  await stranger(t, leaving, 'ffffffffffff', socket => { socket.end(starting) })
  t.equal(await lockIn(t, leaving).hold(), undefined)

  const staying = join(lowest, 'staying')
  await mkdir(staying)
  await stranger(t, staying, 'ffffffffffff', socket => { socket.write(starting, () => socket.end(`${JSON.stringify({ state: 'holding', pid: '7' })}\n`)) })
  await t.rejects(lockIn(t, staying).hold(), { ...inUse, message: /\(process 7\)/ })
})

t.test('who lives and says nothing, or nonsense, holds', async t => {
  for (const answer of [undefined, 'hello\n', 'null\n', '{"state":"idle","host":7}\n']) {
    const folder = await shortFolder(t)
    const sockets: Socket[] = []
    await stranger(t, folder, '0123456789ab', socket => {
      sockets.push(socket)
      if (answer !== undefined) socket.write(answer)
    })

    await t.rejects(lockIn(t, folder).hold(), { ...inUse, message: /in use by another gateway: end that one/ }, answer ?? 'silence')

    for (const socket of sockets) socket.destroy()
  }
})

t.test('whatever is put in the place of a socket that is new, its rights are not changed', async t => {
  const folder = await shortFolder(t)
  const secret = join(folder, 'secret')
  await writeFile(secret, 'secret', { mode: 0o600 })
  const { createFolderLock } = await t.mockImport<typeof FolderLockModule>('../src/folder-lock.ts', {
    'node:net': {
      ...net,
      createServer: (onConnection: (socket: Socket) => void) => net.createServer(onConnection).prependListener('listening', () => {
        const [name = ''] = readdirSync(folder).filter(candidate => candidate.endsWith('.new'))
        rmSync(join(folder, name))
        symlinkSync(secret, join(folder, name))
      })
    }
  })
  const lock = createFolderLock(folder)
  t.teardown(() => lock.release())

  await lock.hold()

  t.equal((await stat(secret)).mode & 0o777, 0o600)
})

t.test('anybody may ask the socket', async t => {
  const folder = await shortFolder(t)

  await lockIn(t, folder).hold()

  const [name = ''] = await readdir(folder)
  t.equal((await stat(join(folder, name))).mode & 0o666, 0o666)
})

t.test('a folder whose path is too long for a socket can be held', { skip: process.platform === 'linux' ? false : 'only Linux has another name for it' }, async t => {
  const folder = join(t.testdir({}), 'long'.repeat(30))
  await mkdir(folder)
  const [first, second] = [lockIn(t, folder), lockIn(t, folder)]

  t.equal(await first.hold(), undefined)

  await t.rejects(second.hold(), inUse)
  await first.release()
  t.equal(await second.hold(), undefined)
})

t.test('who lost the folder takes the one that is there now, unless somebody else has', async t => {
  const folder = join(t.testdir({ state: {} }), 'state')
  const [first, second] = [lockIn(t, folder), lockIn(t, folder)]
  await first.hold()
  await rm(folder, { recursive: true })
  await mkdir(folder)

  t.equal(await first.hold(), undefined)
  await t.rejects(second.hold(), inUse)

  await rename(folder, `${folder}-away`)
  await mkdir(folder)
  t.equal(await second.hold(), undefined)
  await t.rejects(first.hold(), inUse)
})

t.test('where there can be no socket, why is the answer, and later it is tried again', async t => {
  const parent = t.testdir({ file: '' })
  const lock = lockIn(t, join(parent, 'state'))

  t.match(await lock.hold(), { code: /^E/ })
  t.match(await lockIn(t, join(parent, 'file')).hold(), { code: /^E/ })
  await mkdir(join(parent, 'state'))
  t.equal(await lock.hold(), undefined)
  t.equal((await readdir(join(parent, 'state'))).length, 1)
})

t.test('a lock keeps no process from ending, and what is in the folder is nobody\'s business', async t => {
  const folder = t.testdir({ 'registry.json': '{}', 'lock.sock': 'not ours', 'lock-zz.sock': '' })
  const program = `import { createFolderLock } from ${JSON.stringify(new URL('../dist/src/folder-lock.js', import.meta.url).href)}; console.log(await createFolderLock(process.argv[1]).hold())`
  const { NODE_OPTIONS, ...env } = process.env
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, folder], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const [printed] = await once(child.stdout, 'data') as [Buffer]
  t.same(await once(child, 'close'), [0, null])
  t.equal(printed.toString(), 'undefined\n')

  const lock = lockIn(t, folder)
  await lock.hold()
  await lock.release()

  t.same((await readdir(folder)).sort(), ['lock-zz.sock', 'lock.sock', 'registry.json'])
  await writeFile(join(folder, 'registry.json'), '{}')
})
