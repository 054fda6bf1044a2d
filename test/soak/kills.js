/**
 * Kills a gateway again and again, while clients register and remove, and holds what the next one says of the registry against what this one
 * had acknowledged: what was answered 200 or 201 must hold, what was not answered may hold or not. All choices are of one seed.
 * Options: --kills N, --seed N, --main FILE (another build of the gateway). Ends with 1 when anything was lost, or a start failed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { watch } from 'node:fs'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ask } from './client.js'
import { randomFrom } from './random.js'

const { values: options } = parseArgs({
  options: {
    kills: { type: 'string', default: '300' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
    main: { type: 'string', default: fileURLToPath(new URL('../../dist/src/main.js', import.meta.url)) }
  }
})
const seed = Number(options.seed)
const wanted = Number(options.kills)
const say = text => process.stdout.write(`${text}\n`)

const random = randomFrom(seed)
const folder = await mkdtemp(join(tmpdir(), 'fleet-kills-'))
const stateDir = join(folder, '.fleet')
const counts = { kills: 0, 'kills while a file was written': 0, 'kills during a start': 0, 'acknowledged registrations': 0, 'acknowledged removals': 0, 'not answered, and there': 0, 'not answered, and not there': 0 }
const problems = []

/** Long enough that no lease runs out here, and a lease that began anew is told from one that went on. */
const ttlSeconds = 3_600

/** Of each client: two agents of its own, and instances of agents that it shares with the others. A larger file takes longer to write. */
const clients = Array.from({ length: 5 }, (_, client) => {
  const places = [`own-${client}`, `own-${client}`, `also-${client}`, 'shared', 'shared', 'common']
  return { random: random.branch(`client ${client}`), keys: places.map((agent, index) => ({ agent, port: 20_000 + client * 100 + index, metadata: { about: 'x'.repeat(index === 0 ? 16_000 : 100) }, state: null, asked: undefined })) }
})
const keys = clients.flatMap(client => client.keys)

let child
process.on('exit', () => child?.kill('SIGKILL'))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

/** @returns the gateway when it listens; undefined when it was killed before, as it is after `killAfterMs` */
async function start (killAfterMs) {
  child = spawn(process.execPath, [options.main, 'serve', '--port', '0', '--no-auth', '--no-rate-limit'], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  const closed = once(child, 'close')
  let log = ''
  const listening = new Promise(resolve => {
    child.stderr.on('data', chunk => {
      log += chunk
      const [, port] = /^Fleet Gateway on http:\S+:(\d+)$/m.exec(log) ?? []
      if (port !== undefined) resolve(Number(port))
    })
  })
  const gateway = { child, closed, log: () => log }
  if (killAfterMs !== undefined) {
    await delay(killAfterMs)
    await kill(gateway)
    return undefined
  }
  const port = await Promise.race([listening, closed.then(() => undefined)])
  if (port === undefined) throw new Error(`The gateway did not start: ${log}`)
  if (/damaged|Left out|can't/.test(log)) problems.push(`A start complained: ${log}`)
  return { ...gateway, port }
}

async function kill ({ child: process, closed }) {
  process.kill('SIGKILL')
  await closed
  counts.kills++
  if ((await readdir(stateDir)).some(name => name.endsWith('.tmp'))) counts['kills while a file was written']++
}

/** One change after the other, until the gateway is gone. */
async function change (client, gateway, acknowledged) {
  for (;;) {
    const key = client.random.pick(client.keys)
    const { method, path, body, concerned, state } = nextChange(client, key)
    for (const other of concerned) other.asked = { state }
    let answer
    try {
      answer = await ask(gateway, method, path, body)
    } catch {
      return
    }
    for (const other of concerned) other.asked = undefined
    if (answer.status !== 200 && answer.status !== 201) {
      problems.push(`${method} ${path} answered ${answer.status} ${JSON.stringify(answer.body)}`)
      return
    }
    for (const other of concerned) other.state = state
    if (method === 'POST') key.id = answer.body.instance.id
    counts[method === 'POST' ? 'acknowledged registrations' : 'acknowledged removals']++
    acknowledged()
  }
}

function nextChange ({ random: own, keys: all }, key) {
  const { agent, port, metadata, state } = key
  if (state === null || own.chance(0.5)) {
    const weight = own.integer(1, 100)
    const leased = own.chance(0.5)
    const ttl = leased ? ttlSeconds : state?.ttl // a lease stays one when a registration says nothing of it
    return { method: 'POST', path: '/registry/register', body: { name: agent, host: '127.0.0.1', port, weight, metadata, ...(leased && { ttl: ttlSeconds }) }, concerned: [key], state: { weight, ttl } }
  }
  if (agent.startsWith('own') && own.chance(0.3)) return { method: 'DELETE', path: `/registry/${agent}`, concerned: all.filter(other => other.agent === agent), state: null }
  const path = own.chance(0.5) ? `/registry/${agent}/instances/${key.id}` : `/registry/${agent}?host=127.0.0.1&port=${port}`
  return { method: 'DELETE', path, concerned: [key], state: null }
}

/** Holds the registry against what was acknowledged; what was not answered is taken as it is found. */
async function compare (gateway) {
  const { status, body } = await ask(gateway, 'GET', '/registry')
  if (status !== 200) problems.push(`GET /registry answered ${status}`)
  const inTime = Date.now() + (ttlSeconds - 600) * 1_000
  let instances = 0
  for (const key of keys) {
    const found = body[key.agent]?.instances.find(({ port }) => port === key.port)
    const state = found === undefined ? null : { weight: found.weight, ttl: found.lease?.ttl_seconds }
    if (found !== undefined) instances++
    if (found?.lease && Date.parse(found.lease.expires_at) < inTime) problems.push(`${key.agent} at ${key.port} got less than one ttl: ${JSON.stringify(found.lease)}`)
    const sameAs = other => JSON.stringify(state) === JSON.stringify(other)
    if (key.asked !== undefined) counts[sameAs(key.asked.state) ? 'not answered, and there' : 'not answered, and not there']++
    if (!sameAs(key.state) && !(key.asked !== undefined && sameAs(key.asked.state))) {
      problems.push(`${key.agent} at ${key.port}: ${JSON.stringify(state)} after kill ${counts.kills}, acknowledged was ${JSON.stringify(key.state)}${key.asked === undefined ? '' : `, asked for ${JSON.stringify(key.asked.state)}`}`)
    }
    Object.assign(key, { state, asked: undefined, id: found?.id })
  }
  const all = Object.values(body).flatMap(agent => agent.instances)
  if (all.length !== instances) problems.push(`${all.length - instances} instances are there that nobody registered`)
}

/** A killed gateway's files are gone when the next one has started. */
async function tidiness () {
  const names = await readdir(stateDir)
  const sockets = names.filter(name => /^lock-\w+\.sock$/.test(name))
  const others = names.filter(name => name !== 'registry.json' && !sockets.includes(name) && !name.endsWith('.sock.new'))
  if (sockets.length !== 1 || others.length > 0) problems.push(`Left in the folder after kill ${counts.kills}: ${names.join(' ')}`)
}

/** Resolves when it is time to kill. */
async function moment (acknowledgements) {
  const kind = random.pick(['any', 'writing', 'acknowledged'])
  if (kind === 'any') return delay(random.integer(0, 150))
  if (kind === 'acknowledged') return acknowledgements(random.integer(1, 40))
  const skipped = random.integer(0, 10)
  const watcher = watch(stateDir)
  let seen = 0
  await new Promise(resolve => watcher.on('change', (_event, name) => { if (name.endsWith('.tmp') && seen++ >= skipped) resolve() }))
  watcher.close()
}

await writeFile(join(folder, 'fleet.yaml'), 'health: {interval: 1h}\n')
const started = performance.now()
let gateway = await start()
let startMs = performance.now() - started
while (counts.kills < wanted && problems.length === 0) {
  let acknowledged = 0
  let waiting = () => {}
  const working = clients.map(client => change(client, gateway, () => { acknowledged++; waiting() }))
  const time = moment(count => new Promise(resolve => { waiting = () => { if (acknowledged >= count) resolve() } }))
  await Promise.race([time, Promise.all(working), gateway.closed])
  await kill(gateway)
  await Promise.all(working)
  if (random.chance(0.2) && counts.kills < wanted) {
    await start(random.integer(0, Math.ceil(startMs)))
    counts['kills during a start']++
  }
  const from = performance.now()
  gateway = await start()
  startMs = performance.now() - from
  await tidiness()
  await compare(gateway)
}
gateway.child.kill('SIGTERM')
const [code, signal] = await gateway.closed
if (code !== 0) problems.push(`The last gateway ended with ${signal ?? code}: ${gateway.log()}`)
const left = await readdir(stateDir)
if (left.some(name => name !== 'registry.json' && !name.endsWith('.sock.new'))) problems.push(`Left in the folder at the end: ${left.join(' ')}`)
await rm(folder, { recursive: true, force: true })

for (const [what, count] of Object.entries(counts)) say(`${what.padEnd(44)} ${String(count).padStart(10)}`)
say(problems.length === 0 ? `Nothing that was acknowledged was lost (seed ${seed})` : `WRONG, with --seed ${seed}:\n${problems.join('\n')}`)
process.exit(problems.length === 0 ? 0 : 1)
