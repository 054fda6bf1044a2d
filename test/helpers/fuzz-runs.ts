/** How long properties are tried, and with which seed: `FLEET_FUZZ` and `FLEET_SEED`, as in test/e2e/fuzz.test.ts. */
import type { Test } from 'tap'
import { runSeed } from './seeded.ts'

/** What `npm test` tries of a property; `FLEET_FUZZ=8` is the same. */
const rounds = Number(process.env['FLEET_FUZZ'] ?? 8)

/** Parameters for fc.assert(). @param numRuns as many as `npm test` has time for */
export function runs (numRuns: number) {
  return { seed: runSeed, numRuns: Math.ceil(numRuns * rounds / 8), interruptAfterTimeLimit: 540_000, markInterruptAsFailure: true }
}

/** Says the seed, by which a failure is found again. */
export function saySeed (t: Pick<Test, 'comment'>): void {
  t.comment(`FLEET_SEED=${runSeed}`)
}
