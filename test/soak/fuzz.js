/**
 * The fuzzers for longer than `npm test` gives it, and every case of the agents that close in the middle of an answer: the same tests, run
 * without a reporter. What it finds is found again with the seed that it names.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const longestRunMs = 600_000

/**
 * With FLEET_FUZZ=50 each tries six times as much as in `npm test`: of configurations 21,625 texts, values and reloads for each seed, of
 * registrations 2,875 bodies and races.
 */
const fuzzers = ['test/e2e/fuzz.test.ts', 'test/config.fuzz.test.ts', 'test/e2e/fuzz.registration.test.ts']

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
    for (const file of fuzzers) {
      if (!await run(file, { FLEET_FUZZ: '50', FLEET_SEED: String(seed) })) return [`the fuzzer found something (FLEET_SEED=${seed} FLEET_FUZZ=50 ${file})`]
    }
  }
  say(`fuzzers: all cuts, and seeds ${firstSeed} to ${seed - 1}, survived`)
  return []
}
