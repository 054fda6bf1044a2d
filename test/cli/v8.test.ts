/** What serve tells V8, seen in processes of their own, since it holds for a whole process. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { serve } from '../helpers/serve-process.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

const v8 = JSON.stringify(new URL('../../dist/src/cli/v8.js', import.meta.url).href)

/**
 * Lets what one place makes outlive collection after collection, and prints whether what its compiled code makes next is young. The young space is as
 * large as it may be from the start, without which V8 waits with its verdict, and the place is compiled only when that has been reached.
 */
const youth = `
  if (process.argv[1] === 'set') (await import(${v8})).makeObjectsYoung()
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
  const { stdout } = await promisify(execFile)(...unmeasured(process.execPath, ...flags, '--input-type=module', '-e', youth, ...args))
  return stdout === 'true\n'
}

t.test('objects are made among the young ones, whatever became of those before', async t => {
  t.equal(await isYoung(), false, 'V8 by itself makes them among the old ones')
  t.equal(await isYoung('set'), true)
})

/** Makes what Node makes for each `process.nextTick()` again after each of some full collections that meet none of them. */
const ticks = `
  if (process.argv[1] === 'set') (await import(${v8})).keepShapes()
  const turn = () => new Promise(resolve => setImmediate(resolve))
  for (let round = 0; round < 10; round++) {
    process.nextTick(() => {})
    await turn()
    gc()
  }
`

/** @returns how often V8 made a shape for them */
async function tickShapes (t: Test, ...args: string[]): Promise<number> {
  const log = join(t.testdir({}), 'maps.log')
  await promisify(execFile)(...unmeasured(process.execPath, '--expose-gc', '--log-maps', '--no-logfile-per-isolate', `--logfile=${log}`, '--input-type=module', '-e', ticks, ...args))
  return (await readFile(log, 'utf8')).match(/^map,Transition,.*symbol\("async_id_symbol"/gm)!.length
}

t.test('the shape of what each nextTick() makes is kept', async t => {
  t.ok(await tickShapes(t) >= 10, 'V8 by itself forgets it each time')
  t.ok(await tickShapes(t, 'set') <= 2, 'at most, the one of before it was kept besides')
})

/** After a quiet time, and with so many objects alive (of 44 bytes), prints how many MiB of buffers can be taken until everything is collected. */
const growth = `
  import { PerformanceObserver, constants } from 'node:perf_hooks'
  import { setTimeout as delay } from 'node:timers/promises'
  const [count, set] = process.argv.slice(1)
  if (set) (await import(${v8})).leaveRoomToGrow()
  const alive = Array.from({ length: Number(count) }, (_, number) => ({ number }))
  for (let collections = 0; collections < 4; collections++) {
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
  const { stdout } = await promisify(execFile)(...unmeasured(process.execPath, '--expose-gc', '--input-type=module', '-e', growth, ...args))
  return parseInt(stdout)
}

const major = parseInt(process.versions.node)

t.test('after a quiet time there is room for uploads, and no more than a busy time has', async t => {
  t.ok(await mebibytesTaken('600000', 'set') > 45, 'some 25 MiB are alive')
  t.ok(await mebibytesTaken('200000', 'set') < 45, 'some 10 MiB are alive')
})

t.test('V8 by itself leaves little room', { skip: major < 24 && 'the V8 of this Node needs longer to come to rest' }, async t => {
  t.ok(await mebibytesTaken('600000') < 40)
})

t.test('serve tells V8 all of it', async t => {
  const listening = `import v8 from 'node:v8'; import hooks from 'node:async_hooks'; import { syncBuiltinESMExports } from 'node:module'; const { setFlagsFromString } = v8
    const { executionAsyncResource } = hooks; hooks.executionAsyncResource = () => { console.error('asked for a tick'); return executionAsyncResource() }
    v8.setFlagsFromString = flags => { console.error('V8 was told ' + flags); setFlagsFromString(flags) }; syncBuiltinESMExports()`
  const { said } = await serve(t, ['--no-auth', '--port', '0'], { cwd: t.testdir({}), covered: true, env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(listening)}` } })

  for (const flags of ['--no-allocation-site-pretenuring', '--heap-growing-percent=200', '--expose-gc']) t.match(said(), `V8 was told ${flags}\n`)
  t.match(said(), 'asked for a tick')
})
