/** What serve tells V8 about young objects, seen in a process of its own, since it holds for a whole process. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'

const pretenuring = new URL('../../dist/src/cli/pretenuring.js', import.meta.url).href

/** Lets what one place makes outlive collection after collection, and prints how often what is made there next is old from the beginning. */
const script = `
  if (process.argv[1] === 'set') (await import(${JSON.stringify(pretenuring)})).makeObjectsYoung()
  const isYoung = new Function('object', 'return %InYoungGeneration(object)')
  const make = number => [number, number + 1]
  const kept = []
  let old = 0
  for (let round = 0; round < 60; round++) {
    for (let number = 0; number < 20_000; number++) kept.push(make(number))
    gc({ type: 'minor' })
    if (!isYoung(make(0))) old++
    if (round % 10 === 9) kept.length = 0
  }
  console.log(old)
`

async function oldFromTheBeginning (...args: string[]): Promise<number> {
  const { NODE_OPTIONS: _tap, ...env } = process.env
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', '--allow-natives-syntax', '--input-type=module', '-e', script, ...args], { env })
  return Number(stdout)
}

t.test('objects are made among the young ones, whatever became of those before', async t => {
  t.ok(await oldFromTheBeginning() > 0, 'V8 by itself makes them among the old ones')
  t.equal(await oldFromTheBeginning('set'), 0)
})
