/**
 * `node test/soak/fuzz.js [seconds] [seed]`: the fuzzer for longer, and every case of the agents that close in the middle of an answer. Exits 1
 * when something was found; the seed that finds it again is printed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const seconds = Number(process.argv[2] ?? 60)
const firstSeed = Number(process.argv[3] ?? Date.now() % 1_000_000_000)
const longestRunMs = 600_000

/** Runs one test file; true when it passes. */
async function run (file, env) {
  const child = spawn(process.execPath, ['node_modules/tap/dist/esm/run.mjs', '--disable-coverage', '--reporter=terse', `--timeout=${longestRunMs / 1_000}`, file], { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  const [code] = await once(child, 'exit')
  return code === 0
}

let good = await run('test/e2e/faults-agent.test.ts', { FLEET_FAULTS: 'all' })
const until = Date.now() + seconds * 1_000
for (let seed = firstSeed; good && Date.now() < until; seed++) {
  good = await run('test/e2e/fuzz.test.ts', { FLEET_FUZZ: '50', FLEET_SEED: String(seed) })
  if (!good) console.log(`found with FLEET_SEED=${seed} FLEET_FUZZ=50`)
}
process.exit(good ? 0 : 1)
