/**
 * Large bodies leave a read buffer behind for each 64 KiB, outside V8's heap, and V8 is in no hurry: it lets 64 MiB and more of them gather.
 * A collection after every so many bytes keeps a stream's memory where its buffers are. Most are minor (about a millisecond); buffers that
 * waited for a slow side have become old by then, and only a full one frees those.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes of bodies between two collections. */
const everyBytes = 24 * 1024 * 1024

/** Of so many collections one is full. */
const fullEvery = 4

/** To be told of each chunk that passes. */
export function createCollector (): (bytes: number) => void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options: { type: 'minor' | 'major' }) => void
  let passed = 0
  let count = 0
  return bytes => {
    passed += bytes
    if (passed < everyBytes) return
    passed = 0
    count = (count + 1) % fullEvery
    collect({ type: count === 0 ? 'major' : 'minor' })
  }
}
