/** How many processes are to serve, and how that is said. */
import { availableParallelism } from 'node:os'
import { InvalidArgumentError } from 'commander'
import { CommandError, exitCodes, type CommandIo } from '../io.ts'

/** More than any machine has processors for. */
const most = 256
const form = `a whole number from 1 to ${most}, or "auto" for one for each processor`

/** Reads `--workers`. @throws InvalidArgumentError */
export function workerCount (text: string): number {
  const count = numberIn(text)
  if (count === undefined) throw new InvalidArgumentError(`It must be ${form}.`)
  return count
}

/** What the flag says, else FLEET_WORKERS, else one. @throws CommandError */
export function workersOf ({ workers }: { workers?: number }, { FLEET_WORKERS: said }: CommandIo['env']): number {
  if (workers !== undefined) return workers
  if (said === undefined || said === '') return 1
  const count = numberIn(said)
  if (count === undefined) throw new CommandError(`FLEET_WORKERS must be ${form}`, exitCodes.wrongUsage)
  return count
}

function numberIn (text: string): number | undefined {
  if (text === 'auto') return Math.min(availableParallelism(), most)
  const count = Number(text)
  return /^\d+$/.test(text) && count >= 1 && count <= most ? count : undefined
}
