/**
 * Large bodies leave a read buffer behind for each 64 KiB, outside V8's heap, and V8 is in no hurry: it lets 64 MiB and more of them gather.
 * A minor collection (about a millisecond) after every so many bytes keeps a stream's memory where its buffers are. Buffers that waited for a slow
 * side have become old by then; those V8 finds by itself, when there are many.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes of bodies between two collections. */
const everyBytes = 24 * 1024 * 1024

/** To be told of each chunk that passes. */
export function createCollector (): (bytes: number) => void {
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
