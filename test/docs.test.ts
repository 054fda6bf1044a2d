import t from 'tap'
import { readdir, readFile } from 'node:fs/promises'
import { errorCatalogue } from '../src/errors.ts'

const root = new URL('../', import.meta.url)

t.test('docs/errors.md has exactly the errors of the catalogue, with their status and title', async t => {
  const text = await readFile(new URL('docs/errors.md', root), 'utf8')
  const sections = [...text.matchAll(/^## (\w+)\n\n\*\*(\d+)\*\* · (.+)$/gm)].map(([, code, status, title]) => ({ code, statusCode: Number(status), title }))

  t.same(sections, [...errorCatalogue.values()])
})

t.test('the README names every plugin', async t => {
  const text = await readFile(new URL('README.md', root), 'utf8')
  const folders = (await readdir(new URL('plugins', root), { withFileTypes: true })).filter(entry => entry.isDirectory())
  for (const { name } of folders) t.match(text, `| \`${name}\` |`, name)
})
