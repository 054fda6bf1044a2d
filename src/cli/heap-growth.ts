/**
 * When a full collection is done, V8 decides how much may be made until the next: many times what is alive while much is made, and next to nothing
 * after a quiet time. A read buffer counts as well, and an upload leaves one for each 64 KiB: a gateway that had rested for half a minute made a
 * full collection every 120 ms while uploads of 1 MiB passed, at three times the processor time, and never found out of it.
 */
import { setFlagsFromString } from 'node:v8'

/** What may be alive at the next full collection, in per cent above what the last left; V8 by itself goes from 10 to 300. */
const growthPercent = 200

/** Has V8 leave as much room after a quiet time as in a busy one, in the whole process and from now on. What it gives back at rest stays the same. */
export function leaveRoomToGrow (): void {
  setFlagsFromString(`--heap-growing-percent=${growthPercent}`)
}
