/**
 * `npm run simulate`: what a Redis has to do for a thousand gateways and a hundred thousand agents. A real Redis and the registry's own scripts; of
 * each gateway only what it asks of Redis, since two cores have no room for a thousand. Costs are Redis's CPU time for each operation, measured one
 * by one, and then added up at the rates that so many gateways have; the fan-out of changes and the storm of reconnections are played as far as a machine
 * allows, and what was played is said. Options: --gateways N, --agents N, --seconds N, --json FILE.
 */
import { writeFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { loadScripts, registryKeys } from '../dist/plugins/registry/scripts.js'
import { redisServer, startRedis } from './redis.js'
import { createStage } from './stage.js'

const { values: options } = parseArgs({
  options: {
    gateways: { type: 'string', default: '1000' },
    agents: { type: 'string', default: '100000' },
    seconds: { type: 'string', default: '5' },
    json: { type: 'string' }
  }
})
const gateways = Number(options.gateways)
const agents = Number(options.agents)
const seconds = Number(options.seconds)
/** As plugins/redis and plugins/registry have them, a gateway. */
const rates = { ping: 2, look: 1, note: 1 }
/** A lease of 30 s is renewed every ten. */
const heartbeatSeconds = 10
/** Played at once in the storm; all of them would be the same work so many times over. */
const stormGateways = Math.min(gateways, 8)
const chunk = 500
const say = text => process.stdout.write(`${text}\n`)

const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
const fields = (index, port) => ['metadata', JSON.stringify({ about: [`what agent ${index} is for`] }), `i:10.0.${index >> 8 & 255}.${index & 255}:${port}`, JSON.stringify({ host: `10.0.${index >> 8 & 255}.${index & 255}`, port, protocol: 'http', weight: 1, ttlMs: 30_000 })]
const nameOf = index => `agent-${index}`

if (redisServer === undefined) {
  say('There is no redis-server (or valkey-server) here')
  process.exit(1)
}
const stage = createStage()
const { url, running: server } = await startRedis(stage, { proxy: true })
const connect = (more = {}) => new Redis(url, { enableAutoPipelining: true, maxRetriesPerRequest: 0, ...more })
const client = connect()
const keys = registryKeys((first, ...others) => [`fleet:{${first}}`, ...others].join(':'))
const run = loadScripts(client, keys)
const results = {}
/** No change comes too late. */
const late = Date.now() + 3_600_000

async function info (section) {
  return Object.fromEntries((await client.info(section)).split('\r\n').filter(line => line.includes(':')).map(line => line.split(':')))
}

/** Redis's CPU seconds so far. */
async function cpuSeconds () {
  const { used_cpu_sys: sys, used_cpu_user: user } = await info('cpu')
  return Number(sys) + Number(user)
}

/** What a piece of work costs Redis, and how long it takes. */
async function measured (work) {
  const [before, sentBefore, mark] = [await cpuSeconds(), Number((await info('stats')).total_net_output_bytes), performance.now()]
  const value = await work()
  const ms = performance.now() - mark
  return { value, ms, cpuMs: (await cpuSeconds() - before) * 1_000, bytes: Number((await info('stats')).total_net_output_bytes) - sentBefore }
}

/** CPU µs of one operation, of many that are sent in batches. */
async function costOf (count, operation) {
  const { cpuMs } = await measured(async () => {
    for (let from = 0; from < count; from += chunk) await Promise.all(Array.from({ length: Math.min(chunk, count - from) }, (_, index) => operation(from + index)))
  })
  return cpuMs * 1_000 / count
}

try {
  say(`${gateways} gateways, ${agents} agents with one instance and a lease each; ${(await info('server')).redis_version ?? 'unknown'} is the server's version`)

  const emptyBytes = Number((await info('memory')).used_memory)
  const entries = Array.from({ length: agents }, (_, index) => ({ name: nameOf(index), aliases: [], fields: fields(index, 8_000), leases: [fields(index, 8_000)[2].slice(2), 3_600_000] }))
  const text = JSON.stringify(entries)
  const restored = await measured(() => run('restore', '', '', keys.channel, 'epoch', 1, '', text, 'all'))
  const memory = Number((await info('memory')).used_memory) - emptyBytes
  results.restore = { seconds: restored.ms / 1_000, bytes: text.length }
  results.memory = { mib: memory / 2 ** 20, bytesAnAgent: memory / agents }
  say(`restore of all, in one step: ${(restored.ms / 1_000).toFixed(1)} s in which Redis answers nobody, ${(text.length / 2 ** 20).toFixed(0)} MiB sent`)
  say(`memory of Redis: ${results.memory.mib.toFixed(0)} MiB, ${results.memory.bytesAnAgent.toFixed(0)} bytes an agent`)

  /** As a gateway that has come, or come back, does it (plugins/registry/shared.ts). */
  async function readAll (own = client) {
    const read = loadScripts(own, keys)
    const names = await own.smembers(keys.agents)
    for (let from = 0; from < names.length; from += chunk) await Promise.all(names.slice(from, from + chunk).map(name => read('read', name)))
  }
  const snapshot = await measured(() => readAll())
  results.snapshot = { seconds: snapshot.ms / 1_000, cpuSeconds: snapshot.cpuMs / 1_000, mib: snapshot.bytes / 2 ** 20 }
  say(`everything read by one gateway: ${results.snapshot.seconds.toFixed(1)} s, ${results.snapshot.cpuSeconds.toFixed(2)} s of Redis's CPU, ${results.snapshot.mib.toFixed(0)} MiB`)

  const count = 20_000
  const epoch = 'epoch'
  const costs = {
    ping: await costOf(count, () => client.ping()),
    look: await costOf(count, () => run('look', '', '', keys.channel)),
    note: await costOf(count, () => run('note', '', '', keys.channel)),
    renew: await costOf(count, index => run('renew', nameOf(index), epoch, keys.channel, `${nameOf(index % agents)} ${fields(index % agents, 8_000)[2].slice(2)}`, 3_600_000)),
    read: await costOf(count, index => run('read', nameOf(index % agents))),
    write: await costOf(count, index => run('write', nameOf(index % agents), epoch, keys.channel, late, nameOf(index % agents), fields(index % agents, 8_000)[2].slice(2), 3_600_000, ...fields(index % agents, 8_000)))
  }
  results.costs = costs
  say(`CPU of Redis, µs an operation: ${Object.entries(costs).map(([name, micros]) => `${name} ${micros.toFixed(1)}`).join(', ')}`)

  const heartbeats = agents / heartbeatSeconds
  const idle = gateways * Object.entries(rates).reduce((sum, [name, rate]) => sum + rate * costs[name], 0) / 1e6
  const renewals = heartbeats * costs.renew / 1e6
  results.steady = { operations: gateways * (rates.ping + rates.look + rates.note) + heartbeats, ofACore: idle + renewals }
  say(`at rest, worked out of these: ${results.steady.operations.toFixed(0)} operations/s, ${((idle + renewals) * 100).toFixed(0)} % of Redis's core (${(idle * 100).toFixed(0)} % for gateways that look, ${(renewals * 100).toFixed(0)} % for heartbeats)`)

  const steady = await (async () => {
    let done = 0
    const before = await cpuSeconds()
    const mark = performance.now()
    const names = ['ping', 'look', 'note']
    while (performance.now() - mark < seconds * 1_000) {
      const due = Math.floor((performance.now() - mark) / 1_000 * results.steady.operations) - done
      const batch = Math.min(due, 2_000)
      await Promise.all(Array.from({ length: batch }, (_, index) => {
        const place = (done + index) % (gateways * 4 + heartbeats)
        if (place >= gateways * 4) return run('renew', '', epoch, keys.channel, `${nameOf(place % agents)} ${fields(place % agents, 8_000)[2].slice(2)}`, 3_600_000)
        const name = names[place % 4] ?? 'ping'
        return name === 'ping' ? client.ping() : run(name, '', '', keys.channel)
      }))
      done += Math.max(batch, 0)
      if (due <= 0) await wait(5)
    }
    const took = (performance.now() - mark) / 1_000
    return { rate: done / took, ofACore: (await cpuSeconds() - before) / took }
  })()
  results.steadyPlayed = steady
  say(`the same, played: ${steady.rate.toFixed(0)} operations/s, ${(steady.ofACore * 100).toFixed(0)} % of Redis's core`)

  const subscribers = []
  for (let from = 0; from < gateways; from += 100) {
    subscribers.push(...await Promise.all(Array.from({ length: Math.min(100, gateways - from) }, async () => {
      const subscriber = connect({ enableAutoPipelining: false })
      await subscriber.subscribe(keys.channel)
      return subscriber
    })))
  }
  const heardAt = new Map()
  for (const subscriber of subscribers) {
    subscriber.on('message', (_channel, message) => {
      const version = message.split(' ')[1]
      const entry = heardAt.get(version)
      if (entry !== undefined && ++entry.heard === gateways) entry.done(performance.now() - entry.mark)
    })
  }
  const changes = 50
  const told = []
  const fanOut = await measured(async () => {
    for (let index = 0; index < changes; index++) {
      const version = String(Number((await run('look', '', '', keys.channel))[1]) + 1)
      told.push(await new Promise((resolve, reject) => {
        heardAt.set(version, { heard: 0, mark: performance.now(), done: resolve })
        run('write', nameOf(index), epoch, keys.channel, late, nameOf(index), fields(index, 8_000)[2].slice(2), 3_600_000, ...fields(index, 8_000)).catch(reject)
      }))
      heardAt.delete(version)
    }
  })
  told.sort((a, b) => a - b)
  const publishMicros = fanOut.cpuMs * 1_000 / changes
  results.fanOut = { p50: percentile(told, 0.5), p99: percentile(told, 0.99), cpuMicrosAChange: publishMicros, readsMicros: gateways * costs.read }
  say(`a change told to ${gateways}: all have heard after ${results.fanOut.p50.toFixed(0)} ms (p99 ${results.fanOut.p99.toFixed(0)}), ${(publishMicros / 1_000).toFixed(1)} ms of Redis's CPU; each then reads the agent: ${(gateways * costs.read / 1_000).toFixed(1)} ms more`)
  const perChange = (publishMicros + gateways * costs.read) / 1e6
  results.mostChanges = (1 - results.steady.ofACore) / perChange
  say(`changes a second that one Redis can tell and have read, beside the rest: ${Math.max(results.mostChanges, 0).toFixed(0)}`)
  for (const subscriber of subscribers) subscriber.disconnect()

  const storm = await measured(async () => {
    const own = Array.from({ length: stormGateways }, () => connect())
    try {
      await Promise.all(own.map(readAll))
    } finally {
      for (const connection of own) connection.disconnect()
    }
  })
  results.storm = { gateways: stormGateways, seconds: storm.ms / 1_000, cpuSecondsEach: storm.cpuMs / 1_000 / stormGateways, mib: storm.bytes / 2 ** 20, allSeconds: storm.cpuMs / 1_000 / stormGateways * gateways }
  say(`a storm: ${stormGateways} gateways that read everything at once take ${results.storm.seconds.toFixed(1)} s and ${results.storm.cpuSecondsEach.toFixed(2)} s of Redis's CPU each; ${gateways} would keep it busy for ${(results.storm.allSeconds / 60).toFixed(0)} minutes`)
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify({ gateways, agents, ...results }, null, 1))
} finally {
  client.disconnect()
  await stage.end(server)
}
