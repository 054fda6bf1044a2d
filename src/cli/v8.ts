/**
 * What `serve` has V8 do otherwise about garbage: four places where what suits most programs costs one that passes requests on. Each holds for
 * the whole process and from then on. docs/performance.md has the figures.
 */
import { executionAsyncResource } from 'node:async_hooks'
import { nextTick } from 'node:process'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes of bodies between two collections that are asked for. */
const everyBytes = 24 * 1024 * 1024

/** What may be alive at the next full collection, in per cent above what the last left; V8 by itself goes from 10 to 300. */
const growthPercent = 200

/** @returns to be told of each chunk that passes */
export function tuneV8 (): (bytes: number) => void {
  makeObjectsYoung()
  leaveRoomToGrow()
  keepShapes()
  return createCollector()
}

/**
 * V8 notes where objects are made that outlive a collection, and soon makes those of that place among the old ones at once. With some hundred
 * requests under way at the first collections, that place is wherever a request's objects are made: from then on each leaves its garbage among
 * the old, where only full collections find it. At 256 connections that was the fate of seven processes in eight, at 1.5 times the processor
 * time and 60 MiB more memory.
 */
export function makeObjectsYoung (): void {
  setFlagsFromString('--no-allocation-site-pretenuring')
}

/**
 * When a full collection is done, V8 decides how much may be made until the next: many times what is alive while much is made, and next to nothing
 * after a quiet time. A read buffer counts as well, and an upload leaves one for each 64 KiB: a gateway that had rested for half a minute made a
 * full collection every 120 ms while uploads of 1 MiB passed, at three times the processor time, and never found out of it. The price is memory:
 * what many slow streams leave is found later.
 */
export function leaveRoomToGrow (): void {
  setFlagsFromString(`--heap-growing-percent=${growthPercent}`)
}

/** One object of each shape that must not be forgotten. */
const kept: object[] = []

/**
 * V8 forgets a shape when a full collection finds no object of it alive, with the code that was compiled for it. For Node's short-lived objects that
 * is any quiet moment; of a request's own objects the proxy keeps one each. Worst is that of `process.nextTick()`, which is made by a literal with
 * computed names: a second shape at that literal makes a call into the runtime of it, from then on and for good, at four times the cost.
 */
export function keepShapes (): void {
  nextTick(() => { kept.push(executionAsyncResource()) })
  kept.push(setImmediate(() => {}))
}

/**
 * Large bodies leave a read buffer behind for each 64 KiB, outside V8's heap, and V8 is in no hurry: it lets 64 MiB and more of them gather.
 * A minor collection (about a millisecond) after every so many bytes keeps a stream's memory where its buffers are. Buffers that waited for a slow
 * side have become old by then, and are left to V8's full ones.
 */
function createCollector (): (bytes: number) => void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options: { type: 'minor' }) => void
  let passed = 0
  return bytes => {
    passed += bytes
    if (passed < everyBytes) return
    passed = 0
    collect({ type: 'minor' })
  }
}
