/** src/cli/file-lock.ts: who changes a file is alone, whatever dead ones have left. */
import { readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { withFileLock } from '../../src/cli/file-lock.ts'

for (const [what, left] of [['nothing', {}], ['a lock', { 'fleet.yaml.lock': { dead: '' } }], ['a lock without an owner', { 'fleet.yaml.lock': {} }], ['a file', { 'fleet.yaml.lock': '' }]] as const) {
  t.test(`of many that come at once and find ${what} one works at a time, and all do`, async t => {
    for (let round = 0; round < 4; round++) {
      const folder = t.testdir({ 'fleet.yaml': '', ...left })
      for (const entry of ['fleet.yaml.lock/dead', 'fleet.yaml.lock']) await utimes(join(folder, entry), 0, 0).catch(() => {})
      let [done, working, most] = [0, 0, 0]

      await Promise.all(Array.from({ length: 12 }, () => withFileLock(join(folder, 'fleet.yaml'), async () => {
        most = Math.max(most, ++working)
        await readdir(folder)
        await readdir(folder)
        working--
        done++
      })))

      t.same([done, most], [12, 1])
      t.same(await readdir(folder), ['fleet.yaml'])
    }
  })
}

t.test('who was taken for dead leaves the lock of who came after it alone', async t => {
  const folder = t.testdir({ 'fleet.yaml': '' })
  const [file, lock] = [join(folder, 'fleet.yaml'), join(folder, 'fleet.yaml.lock')]
  const [begun, over] = [deferred(), deferred()]
  let second = Promise.resolve([''])

  await withFileLock(file, async () => {
    const [owner = ''] = await readdir(lock)
    await utimes(join(lock, owner), 0, 0)
    second = withFileLock(file, async () => {
      begun.resolve()
      await over.promise
      return await readdir(lock)
    })
    await begun.promise
  })
  over.resolve()

  t.equal((await second).length, 1)
  t.same(await readdir(folder), ['fleet.yaml'])
})

function deferred () {
  let settle = () => {}
  const promise = new Promise<void>(resolve => { settle = resolve })
  return { promise, resolve: () => settle() }
}
