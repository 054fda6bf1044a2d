/**
 * The fuzzer for longer than `npm test` gives it, and every case of the agents that close in the middle of an answer: the same tests, run
 * without a reporter. What it finds is found again with the seed that it names.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const longestRunMs = 600_000

/** Runs one test file; true when it passes. */
async function run (file, env) {
  const child = spawn(process.execPath, ['node_modules/tap/dist/esm/run.mjs', '--disable-coverage', '--reporter=terse', `--timeout=${longestRunMs / 1_000}`, file], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, ...env } })
  const [code] = await once(child, 'exit')
  return code === 0
}

/** All cuts once, then one seed after the other until the time is over. @returns what is wrong, a line each */
export async function fuzz (seconds, firstSeed, say) {
  if (!await run('test/e2e/faults-agent.test.ts', { FLEET_FAULTS: 'all' })) return ['an agent that closed in the middle of an answer was not survived (FLEET_FAULTS=all test/e2e/faults-agent.test.ts)']
  const until = performance.now() + seconds * 1_000
  let seed = firstSeed
  for (; performance.now() < until; seed++) {
    if (!await run('test/e2e/fuzz.test.ts', { FLEET_FUZZ: '50', FLEET_SEED: String(seed) })) return [`the fuzzer found something (FLEET_SEED=${seed} FLEET_FUZZ=50 test/e2e/fuzz.test.ts)`]
  }
  say(`fuzzer: all cuts, and seeds ${firstSeed} to ${seed - 1}, survived`)
  return []
}
