/** Files that hold a token: how much of one is read, and what is said of one that is no good. */
import { spawnSync } from 'node:child_process'
import { chmod, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { readSmallFile, tokenIn } from '../src/token-file.ts'

t.test('the token is the line, without its end', async t => {
  const dir = t.testdir({ unix: 'token-in-a-file\n', windows: 'token-in-a-file\r\n', bare: 'token-in-a-file', long: 'x'.repeat(4_096), link: t.fixture('symlink', 'unix') })

  for (const name of ['unix', 'windows', 'bare', 'link']) t.equal(tokenIn(join(dir, name)), 'token-in-a-file', name)
  t.equal(tokenIn(join(dir, 'long')).length, 4_096)
})

t.test('what is no token is said, with the name of the file and without its content', async t => {
  const dir = t.testdir({ empty: '\n', short: 's3cret\n', spaced: 's3cret and more\n', lines: 's3cret-one\ns3cret-two\n', long: `s3cret${'x'.repeat(4_096)}`, utf8: 's3cret-é-token', huge: 's3cret'.repeat(11_000), folder: {} })
  const cases: [name: string, message: RegExp][] = [
    ['none', /^can not be read: ENOENT \(.*none\)$/], ['folder', /^can not be read: EISDIR \(.*folder\)$/], ['empty', /^names an empty file/], ['short', /at least 8/], ['spaced', /one line of printable/], ['lines', /one line of printable/],
    ['utf8', /one line of printable/], ['long', /at most 4096 characters/], ['huge', /^is longer than 64 KiB \(.*huge\)$/]
  ]
  for (const [name, message] of cases) {
    t.throws(() => tokenIn(join(dir, name)), { message }, name)
    t.throws(() => tokenIn(join(dir, name)), { message: /^((?!s3cret)[^])*$/ }, name)
  }
})

t.test('no more than 64 KiB of a file are read, whatever it is', async t => {
  const dir = t.testdir({ most: 'x'.repeat(64 * 1024), over: 'x'.repeat(64 * 1024 + 1) })

  t.equal(readSmallFile(join(dir, 'most')).length, 64 * 1024)
  t.throws(() => readSmallFile(join(dir, 'over')), { message: 'is longer than 64 KiB' })
  t.throws(() => readSmallFile('/dev/zero'), { message: 'is longer than 64 KiB' }, 'it has no end')
  t.equal(readSmallFile('/dev/null'), '')
})

t.test('a pipe to which nobody writes keeps nobody waiting', { skip: process.platform === 'win32' }, async t => {
  const pipe = join(t.testdir(), 'pipe')
  t.equal(spawnSync('mkfifo', [pipe]).status, 0)

  t.throws(() => tokenIn(pipe), { message: `names an empty file (${pipe})` })
})

t.test('what may not be read, and a link that leads nowhere, are said', { skip: process.getuid?.() === 0 ? 'root reads everything' : false }, async t => {
  const dir = t.testdir({ closed: 'token-in-a-file' })
  await chmod(join(dir, 'closed'), 0)

  t.throws(() => tokenIn(join(dir, 'closed')), { message: /can not be read: EACCES/ })
})

t.test('a link that goes round is no file', async t => {
  const dir = t.testdir()
  await symlink('round', join(dir, 'round'))
  await writeFile(join(dir, 'other'), 'token-in-a-file')

  t.throws(() => tokenIn(join(dir, 'round')), { message: /can not be read: ELOOP/ })
})
