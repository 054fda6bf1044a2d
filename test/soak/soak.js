/**
 * `npm run soak`: a real gateway process in front of real agent processes, for ten minutes or as long as asked, while agents die, fleet.yaml is
 * rewritten, registrations come and go, and clients do whatever clients do; all of it from one seed. Ends with a table, and with 1 when
 * anything in it is not as it must be. Options: --seconds N, --seed N, --short (what `npm test` runs: no memory, no gigabyte, no kills), --only PART,
 * --kills N (of the gateway, by kills.js, at the end), --main FILE (another build of the gateway). With --redis it is several gateways that share a
 * Redis (shared-redis.js) instead, and then --losses N rounds of one that loses its data (losses.js).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { atRest, compareAtRest } from './at-rest.js'
import { createPool } from './client.js'
import { fleetYaml, killer, register, registrar, reloader } from './disturbances.js'
import { startFleet } from './fleet.js'
import { startGateway } from './gateway-process.js'
import { fuzz } from './fuzz.js'
import { oneGibibyte } from './large-bodies.js'
import { createLedger } from './ledger.js'
import { randomFrom } from './random.js'
import { soakSharedRedis } from './shared-redis.js'
import { eventStreams, webSockets } from './streams.js'
import { aborts, badClients, largeBodies, slowClients, smallRequests } from './traffic.js'

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
    short: { type: 'boolean', default: false },
    redis: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true },
    kills: { type: 'string', default: '300' },
    losses: { type: 'string', default: '20' },
    main: { type: 'string', default: fileURLToPath(new URL('../../dist/src/main.js', import.meta.url)) }
  }
})
const { short } = options
const seed = Number(options.seed)
const seconds = Number(options.seconds)
const say = text => process.stdout.write(`${text}\n`)

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
if (options.redis) {
  const isRight = await soakSharedRedis({ short, seconds, seed, main: options.main, say })
  const isKept = short || await losses()
  process.exit(isRight && isKept ? 0 : 1)
}

/** Each part, and how many of it run beside each other. */
const parts = {
  smallRequests: [smallRequests, 12],
  largeBodies: [largeBodies, 2],
  slowClients: [slowClients, 4],
  aborts: [aborts, 3],
  badClients: [badClients, 2],
  eventStreams: [eventStreams, 12],
  webSockets: [webSockets, 8],
  killer: [killer, 1],
  reloader: [reloader, 1],
  registrar: [registrar, 1]
}

const started = performance.now()
const folder = await mkdtemp(join(tmpdir(), 'fleet-soak-'))
const random = randomFrom(seed)
const ledger = createLedger()
const fleet = await startFleet({ folder, random: random.branch('fleet') })
process.on('exit', () => fleet.end())

const problems = []
/** What the parts work with; the sockets of `pool` are the soak's own. */
const base = { ledger, fleet, folder, pool: createPool(), largestBytes: (short ? 2 : 32) * 2 ** 20, longestStreamMs: short ? 2_000 : 20_000 }
let phase = 0

/** Runs all parts for a while, and waits until each has come to its end. */
async function run (forSeconds) {
  const over = performance.now() + forSeconds * 1_000
  const number = phase++
  const running = Object.entries(parts).filter(([name]) => options.only === undefined || options.only.includes(name)).flatMap(([name, [part, count]]) => Array.from({ length: count }, async (_, index) => {
    const soak = { ...base, gateway, random: random.branch(`${name} ${index} ${number}`), over: () => performance.now() >= over || gateway.faults.length > 0, pause: ms => delay(ms) }
    try {
      await part(soak)
    } catch (error) {
      problems.push(`${name}: ${error.stack}`)
    }
  }))
  await Promise.all(running)
}

/** Runs another program of the soak. @returns whether it found that all is as it must be */
async function succeeds (program, ...args) {
  const child = spawn(process.execPath, [fileURLToPath(new URL(program, import.meta.url)), ...args, '--seed', options.seed, '--main', options.main], { stdio: ['ignore', 'inherit', 'inherit'] })
  process.on('exit', () => child.kill())
  const [code] = await once(child, 'close')
  return code === 0
}

/** A gateway that is killed again and again keeps what it acknowledged. @returns what is wrong, a line each */
async function kills () {
  const isKept = await succeeds('kills.js', '--kills', options.kills)
  return isKept ? [] : [`a killed gateway lost something (node test/soak/kills.js --kills ${options.kills} --seed ${options.seed})`]
}

/** Gateways that share a Redis which loses its data again and again keep what they acknowledged. */
async function losses () {
  say(`\nnode test/soak/losses.js --rounds ${options.losses} --seed ${options.seed}\n`)
  return await succeeds('losses.js', '--rounds', options.losses)
}

/** The soak's own connections end first. */
async function rest (most) {
  base.pool.destroy()
  base.pool = createPool()
  return await atRest(gateway, { short, most })
}

await writeFile(join(folder, 'fleet.yaml'), fleetYaml(fleet, random.branch('first file')))
const gateway = await startGateway({ main: options.main, folder })
process.on('exit', () => gateway.kill())
for (const name of ['pool-0', 'pool-1']) await register(gateway, fleet, name)
say(`seed ${seed}, ${seconds} s, node ${process.version}, gateway on ${gateway.origin}`)

if (!short) await run(Math.min(seconds / 10, 30)) // warm: code compiled, buffers and tables at their size
const start = await rest()
if (!short && options.only === undefined) problems.push(...await oneGibibyte(gateway, say))
await run(seconds)
const end = await rest(start.sockets)
const arrived = await ledger.audit(fleet.records)
const ended = await gateway.end()
fleet.end()
await rm(folder, { recursive: true, force: true })

problems.push(...gateway.faults)
if (ended.code !== 0) problems.push(`the gateway ended with ${ended.signal ?? ended.code}`)

say(`\n${((performance.now() - started) / 1_000).toFixed(0)} s, ${arrived} requests arrived at agents\n`)
problems.push(...ledger.table(say))
problems.push(...compareAtRest(start, end, { short, say }))

if (!short && options.only === undefined) {
  problems.push(...await fuzz(seconds / 10, seed, say))
  problems.push(...await kills())
}
if (problems.length === 0) say(`\nAll as it must be (seed ${seed})`)
else say(`\nWRONG, with --seed ${seed}:\n${problems.join('\n')}`)
process.exit(problems.length === 0 ? 0 : 1)
