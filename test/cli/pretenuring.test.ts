/** What serve tells V8 about young objects, seen in a process of its own, since it holds for a whole process. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { unmeasured } from '../helpers/unmeasured.ts'

const pretenuring = new URL('../../dist/src/cli/pretenuring.js', import.meta.url).href

/**
 * Lets what one place makes outlive collection after collection, and prints whether what its compiled code makes next is young. The young space is as
 * large as it may be from the start, without which V8 waits with its verdict, and the place is compiled only when that has been reached.
 */
const script = `
  if (process.argv[1] === 'set') (await import(${JSON.stringify(pretenuring)})).makeObjectsYoung()
  const native = (name, ...parameters) => new Function(...parameters, 'return %' + name + '(' + parameters.join() + ')')
  const make = number => [number, number + 1]
  native('PrepareFunctionForOptimization', 'make')(make)
  const kept = []
  for (let round = 0; round < 5; round++) {
    for (let number = 0; number < 200; number++) kept.push(make(number))
    gc({ type: 'minor' })
  }
  native('OptimizeFunctionOnNextCall', 'make')(make)
  make(0)
  console.log(native('InYoungGeneration', 'made')(make(0)))
`

async function isYoung (...args: string[]): Promise<boolean> {
  const flags = ['--expose-gc', '--allow-natives-syntax', '--no-sparkplug', '--min-semi-space-size=1', '--max-semi-space-size=1']
  const { stdout } = await promisify(execFile)(...unmeasured(process.execPath, ...flags, '--input-type=module', '-e', script, ...args))
  return stdout === 'true\n'
}

t.test('objects are made among the young ones, whatever became of those before', async t => {
  t.equal(await isYoung(), false, 'V8 by itself makes them among the old ones')
  t.equal(await isYoung('set'), true)
})
