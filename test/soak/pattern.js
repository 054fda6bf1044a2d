/** Bodies of any length that both sides can make from an id alone, so that whoever receives one knows whether it is whole and whose it is. */
import { createHash } from 'node:crypto'

const blockBytes = 64 * 1024

/** The block of which the body of `id` consists, over and over. */
function blockOf (id) {
  const seed = createHash('sha256').update(id).digest()
  return Buffer.alloc(blockBytes, seed)
}

/** The body in pieces. */
export function * pieces (id, bytes) {
  const block = blockOf(id)
  for (let left = bytes; left > 0; left -= blockBytes) yield left >= blockBytes ? block : block.subarray(0, left)
}

/** Looks at a body while it arrives: `equal` as long as each byte is the right one, `bytes` so far. */
export function createComparison (id) {
  const block = blockOf(id)
  const seen = { equal: true, bytes: 0 }
  return {
    seen,
    take (chunk) {
      for (let offset = 0; offset < chunk.length;) {
        const at = seen.bytes % blockBytes
        const length = Math.min(blockBytes - at, chunk.length - offset)
        if (block.compare(chunk, offset, offset + length, at, at + length) !== 0) seen.equal = false
        offset += length
        seen.bytes += length
      }
    }
  }
}
