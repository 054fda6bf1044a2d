/** What serve tells V8 about its heap's growth, seen in a process of its own, since it holds for a whole process. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { unmeasured } from '../helpers/unmeasured.ts'

const heapGrowth = new URL('../../dist/src/cli/heap-growth.js', import.meta.url).href

/** After a quiet time, and with some 25 MiB alive, prints how many MiB of buffers can be taken until everything is collected. */
const script = `
  import { PerformanceObserver, constants } from 'node:perf_hooks'
  import { setTimeout as delay } from 'node:timers/promises'
  if (process.argv[1] === 'set') (await import(${JSON.stringify(heapGrowth)})).leaveRoomToGrow()
  const alive = Array.from({ length: 600_000 }, (_, number) => ({ number }))
  for (let count = 0; count < 4; count++) {
    gc()
    await delay(200)
  }
  let collected = false
  new PerformanceObserver(list => { collected ||= list.getEntries().some(({ detail }) => detail.kind !== constants.NODE_PERFORMANCE_GC_MINOR) }).observe({ entryTypes: ['gc'] })
  const taken = []
  while (!collected && taken.length < 16 * 200) {
    taken.push(Buffer.alloc(64 * 1024))
    if (taken.length % 16 === 0) await delay(0)
  }
  console.log(taken.length / 16, alive.length)
`

async function mebibytesTaken (...args: string[]): Promise<number> {
  const { stdout } = await promisify(execFile)(...unmeasured(process.execPath, '--expose-gc', '--input-type=module', '-e', script, ...args))
  return parseInt(stdout)
}

const major = parseInt(process.versions.node)

t.test('there is room for uploads after a quiet time', async t => {
  t.ok(await mebibytesTaken('set') > 45)
})

t.test('V8 by itself leaves none', { skip: major < 24 && 'the V8 of this Node needs longer to come to rest' }, async t => {
  t.ok(await mebibytesTaken() < 40)
})
