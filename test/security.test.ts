/** SECURITY.md names for each defence the tests that show it: they exist, in the file and under the name that it says. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (name: string) => readFileSync(join(root, name), 'utf8')

/** The rows of the table below a heading, without its head. */
function rowsBelow (text: string, heading: string): string[][] {
  const [, section = ''] = text.split(`\n## ${heading}\n`)
  const lines = section.split('\n## ', 1)[0]!.split('\n').filter(line => line.startsWith('|'))
  return lines.slice(2).map(line => line.slice(1, -1).split('|').map(cell => cell.trim()))
}

t.test('each attack has a defence, and each defence a test that exists', async t => {
  const rows = rowsBelow(read('SECURITY.md'), 'Attacks and defences')
  const named = new Set<string>()

  for (const cells of rows) {
    const [attack = '', defence = '', shownBy = ''] = cells
    t.equal(cells.length, 3, attack)
    t.ok(defence !== '', attack)
    for (const reference of shownBy.split(' · ')) {
      const [, file, name] = /^`(test\/[\w./-]+\.test\.ts)` › (.+)$/.exec(reference) ?? []
      t.ok(file !== undefined && name !== undefined, `${attack}: ${reference}`)
      if (file === undefined || name === undefined) continue
      t.ok(read(file).includes(`t.test('${name.replaceAll('\'', '\\\'')}',`), `${file} has "${name}"`)
      t.notOk(named.has(reference), `${reference} is named once`)
      named.add(reference)
    }
  }

  t.ok(rows.length > 20 && named.size > 30, `${rows.length} attacks, ${named.size} tests`)
})
