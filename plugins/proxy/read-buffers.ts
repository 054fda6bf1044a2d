/**
 * The memory that connections to agents read into. All share one buffer, since what was read is used before anybody reads again; a
 * connection in the middle of a large body reads into one of its own at a time, which goes to the client as it is, and comes back.
 */

/** Bytes of one read: of whatever comes, and in the middle of a large body, where each read and each write of its own cost more than the bytes. */
const sharedBytes = 64 * 1024
const ownBytes = 256 * 1024
/** How many are kept for the next large body. */
const mostFree = 32

/** The one that all connections read into. What is in it is good until the next read, of whichever connection. */
export const sharedBuffer: Buffer = Buffer.allocUnsafeSlow(sharedBytes)

const free: Buffer[] = []

/** A buffer of one's own. */
export function takeBuffer (): Buffer {
  return free.pop() ?? Buffer.allocUnsafeSlow(ownBytes)
}

/** Gives it back, once, when nobody reads it any more. */
export function giveBuffer (buffer: Buffer): void {
  if (free.length < mostFree) free.push(buffer)
}
