/** src/durable-file.ts: that a text is on disk, whole, in the order in which a power cut may come between any two steps. */
import * as fs from 'node:fs/promises'
import { chmod, chown, lstat, mkdir, readFile, readdir, readlink, stat, symlink, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { removeTemporaryFiles, writeFileDurably } from '../src/durable-file.ts'
import type * as DurableFile from '../src/durable-file.ts'

type Step = (what: string) => void

/** The module over a file system of which every step is told before it is done; what `before` throws is the system's answer. */
async function withSteps (t: Test, before: Step = () => {}) {
  const steps: string[] = []
  const step = (what: string) => {
    steps.push(what.replace(/[0-9a-f]{12}(?=\.tmp)/, 'RANDOM'))
    before(steps.at(-1)!)
  }
  const module = await t.mockImport<typeof DurableFile>('../src/durable-file.ts', {
    'node:fs/promises': {
      ...fs,
      async open (path: string, flags: string, mode?: number) {
        step(`open ${basename(path)} ${flags}`)
        const handle = await fs.open(path, flags, mode)
        for (const name of ['writeFile', 'sync', 'close'] as const) {
          const real = handle[name].bind(handle) as (...args: unknown[]) => Promise<void>
          Object.defineProperty(handle, name, {
            value: async (...args: unknown[]) => {
              step(`${name} ${basename(path)}`)
              await real(...args)
            }
          })
        }
        return handle
      },
      async rename (from: string, to: string) {
        step(`rename ${basename(from)} ${basename(to)}`)
        await fs.rename(from, to)
      }
    }
  })
  return { ...module, steps: () => steps.map(text => text.replace('RANDOM', '*')) }
}

const failure = (code: string) => Object.assign(new Error(code), { code })

t.test('a text is synced before it gets its name, and the folder after that', async t => {
  const folder = join(t.testdir({ state: {} }), 'state')
  const { writeFileDurably, steps } = await withSteps(t)

  await writeFileDurably(join(folder, 'a.json'), 'text')

  t.same(steps(), [
    'open a.json.*.tmp wx', 'writeFile a.json.*.tmp', 'sync a.json.*.tmp', 'close a.json.*.tmp',
    'rename a.json.*.tmp a.json', 'open state r', 'sync state', 'close state'
  ])
  t.equal(await readFile(join(folder, 'a.json'), 'utf8'), 'text')
  t.same(await readdir(folder), ['a.json'])
})

t.test('of folders that are made each is synced into the one above', async t => {
  const folder = t.testdir({ there: {} })
  const { makeFolderDurably, steps } = await withSteps(t)

  await makeFolderDurably(join(folder, 'there/one/two'))
  await makeFolderDurably(join(folder, 'there/one/two'))

  t.same(steps().filter(text => text.startsWith('sync')), ['sync one', 'sync there'], 'and those that are there are left alone')
  t.equal((await stat(join(folder, 'there/one/two'))).mode & 0o777, 0o700)
})

t.test('whatever fails, the file is as it was and nothing is left beside it', async t => {
  for (const where of ['open a.json', 'writeFile', 'sync a.json', 'close a.json', 'rename']) {
    const folder = t.testdir({ 'a.json': 'before' })
    const { writeFileDurably } = await withSteps(t, text => { if (text.startsWith(where)) throw failure('ENOSPC') })

    await t.rejects(writeFileDurably(join(folder, 'a.json'), 'after'), { code: 'ENOSPC' }, where)

    t.equal(await readFile(join(folder, 'a.json'), 'utf8'), 'before', where)
    t.same(await readdir(folder), ['a.json'], where)
  }
})

t.test('a folder that can not be synced is a failure where the disk says so, and none where there is no such thing', async t => {
  const folder = join(t.testdir({ state: {} }), 'state')
  for (const [code, fails] of [['EIO', true], ['ENOSPC', true], ['EINVAL', false], ['ENOTSUP', false], ['EPERM', false]] as const) {
    const { writeFileDurably } = await withSteps(t, text => { if (text === 'sync state') throw failure(code) })
    const written = writeFileDurably(join(folder, 'a.json'), code)

    if (fails) await t.rejects(written, { code })
    else await t.resolves(written, code)
  }
})

t.test('a file keeps its mode unless another is given, whatever the umask, and is followed where it is a link', async t => {
  const folder = t.testdir({ 'real.json': 'before', other: {} })
  await chmod(join(folder, 'real.json'), 0o666)
  await symlink('../real.json', join(folder, 'other/link.json'))

  await writeFileDurably(join(folder, 'other/link.json'), 'through the link')

  t.equal(await readlink(join(folder, 'other/link.json')), '../real.json')
  t.equal(await readFile(join(folder, 'real.json'), 'utf8'), 'through the link')
  t.equal((await stat(join(folder, 'real.json'))).mode & 0o777, 0o666)
  await writeFileDurably(join(folder, 'real.json'), 'closed', { mode: 0o600 })
  t.equal((await stat(join(folder, 'real.json'))).mode & 0o777, 0o600)
})

t.test('what root writes stays readable for the user it belongs to', { skip: process.getuid?.() === 0 ? false : 'only root writes for others' }, async t => {
  const folder = t.testdir({ 'a.json': 'before' })
  await chown(join(folder, 'a.json'), 65_534, 65_534)

  await writeFileDurably(join(folder, 'a.json'), 'after', { mode: 0o600 })

  t.match(await stat(join(folder, 'a.json')), { uid: 65_534, gid: 65_534 })
})

t.test('only what a killed writer of these files left is removed', async t => {
  const names = ['a.json', 'a.json.0123456789ab.tmp', 'a.json.ffffffffffff.tmp', 'b.json.0123456789ab.tmp', 'a.json.tmp', 'a.json.1.tmp', 'a.json.0123456789AB.tmp', 'x.a.json.0123456789ab.tmp', 'a.json.0123456789ab.tmp.bak']
  const folder = t.testdir(Object.fromEntries(names.map(name => [name, ''])))
  await mkdir(join(folder, 'a.json.aaaaaaaaaaaa.tmp'))
  await writeFile(join(folder, 'a.json.aaaaaaaaaaaa.tmp/inside'), '')
  await symlink('a.json', join(folder, 'a.json.bbbbbbbbbbbb.tmp'))

  await removeTemporaryFiles(folder, ['a.json', 'c.json'])

  t.same((await readdir(folder)).sort(), [...names.filter(name => !['a.json.0123456789ab.tmp', 'a.json.ffffffffffff.tmp'].includes(name)), 'a.json.aaaaaaaaaaaa.tmp', 'a.json.bbbbbbbbbbbb.tmp'].sort())
  t.ok((await lstat(join(folder, 'a.json.bbbbbbbbbbbb.tmp'))).isSymbolicLink())
  await t.resolves(removeTemporaryFiles(join(folder, 'nowhere'), ['a.json']))
})
