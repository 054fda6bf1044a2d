/**
 * `npm run soak -- --redis`: three gateways that share a Redis, real processes all of them, while Redis, the ways to it, gateways and agents fail,
 * alone and together, and instances register and leave through whichever gateway. After each half minute of that everything is mended, and what was
 * acknowledged is held against what each gateway says. All choices are of one seed.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { atRest, compareAtRest } from './at-rest.js'
import { ask, createPool, exchange, judge } from './client.js'
import { killer } from './disturbances.js'
import { freePorts, startFleet } from './fleet.js'
import { startGateways } from './gateways.js'
import { columns, createLedger } from './ledger.js'
import { comesAndGoes, heartbeats, leave, mayHaveLapsed, moments, newMember, register, ttlMs } from './members.js'
import { gatewayEnds, lineFaults, redisOutages } from './outages.js'
import { randomFrom } from './random.js'
import { startRedis } from './redis-server.js'

/** What must not be. */
const titles = {
  failed: columns.failed,
  amplified: columns.amplified,
  foreign: columns.foreign,
  truncated: columns.truncated,
  broken: columns.broken,
  lost: 'acknowledged registrations that were lost',
  phantom: 'instances that left and are there',
  unequal: 'registries that differ, or are not shared',
  unrouted: 'registered instances that got no request',
  slow: 'changes that took longer than 2.5 s',
  wrong: columns.wrong
}

/** Of the file: `alpha` is killed, one instance at a time. */
const ofFile = { steady: ['steady-0'], alpha: ['alpha-0', 'alpha-1', 'alpha-2'], mixed: ['mixed-0'] }
/** Registered once, for good. */
const staying = [['pool', 'pool-0'], ['pool', 'pool-1'], ['mixed', 'mixed-1'], ['leased', 'leased-0', true], ['leased', 'leased-1', true], ['solo', 'solo-0', true], ['other', 'other-0', true]]
const coming = [['pool', 'pool-2'], ['pool', 'pool-3'], ['mixed', 'mixed-2'], ['leased', 'leased-2', true], ['leased', 'leased-3', true], ['guest', 'guest-0'], ['guest', 'guest-1', true]]
const ofMoments = ['moment-0', 'moment-1', 'moment-2']
const mortal = ofFile.alpha
const lasting = [...ofFile.steady, ...ofFile.mixed, ...[...staying, ...coming].map(([, name]) => name), ...ofMoments]
/** What is asked for: each has an instance that lives, whatever happens. */
const served = ['steady', 'alpha', 'mixed', 'pool', 'leased', 'solo', 'other']

/** What fails in one piece, before everything is mended and compared. */
const roundSeconds = 30

/** Everything is the same everywhere so long after the last fault is over. */
const settleMs = 10_000

/** A line is cut for less. */
const forgottenMs = 15_000

/** Of what happened, so much is shown when something is wrong. */
const mostNotes = 1_000

/** Outages that count for no lease; what is shorter does. */
const leastAwayMs = 3_500

/** When Redis was not there, as leases see it. */
function createAway () {
  const outages = []
  return {
    begin (losesData) {
      const outage = { losesData, from: performance.now(), to: Infinity }
      outages.push(outage)
      return outage
    },
    end (outage) { outage.to = performance.now() },
    lostDataSince: from => outages.some(({ losesData, to }) => losesData && to >= from),
    since: from => outages.reduce((sum, outage) => {
      const ms = Math.min(outage.to, performance.now()) - Math.max(outage.from, from)
      return sum + (outage.to - outage.from >= leastAwayMs && ms > 0 ? ms : 0)
    }, 0)
  }
}

/** What may happen beside other things, and what only alone. */
function createTurns () {
  const now = { beside: 0, isAlone: false }
  return {
    async beside (task) {
      while (now.isAlone) await delay(20)
      now.beside++
      await task().finally(() => { now.beside-- })
    },
    async alone (task) {
      now.isAlone = true
      while (now.beside > 0) await delay(20)
      await task().finally(() => { now.isAlone = false })
    }
  }
}

/** Requests that may be repeated, to who has an instance all the time. */
async function requests (soak) {
  const { random, ledger, gateways, fleet } = soak
  while (!soak.over()) {
    const agent = random.pick(served)
    const gateway = random.pick(gateways.live())
    const { kills } = gateway
    const method = random.pick(['GET', 'GET', 'HEAD', 'PUT', 'DELETE'])
    const bytes = method === 'PUT' ? random.integer(1, 20_000) : 0
    const answerBytes = random.integer(0, 30_000)
    const path = `/api/${agent}/echo?bytes=${answerBytes}${random.chance(0.4) ? '&chunked' : ''}${random.chance(0.3) ? `&delay=${random.integer(1, 300)}` : ''}`
    const result = await exchange({ gateway, pool: soak.pool }, { id: ledger.id(method), method, path, bytes })
    if (gateway.kills !== kills && !result.complete) ledger.count('cut by the kill of a gateway')
    else if ((result.status === 503 || result.status === 404) && isForgotten(soak, agent)) ledger.count('asked for who could renew no lease')
    else judge({ ledger, fleet }, result, { mortal: agent === 'alpha' ? ['alpha'] : [], answerBytes: method === 'HEAD' ? 0 : answerBytes, bytes })
    await soak.pause(random.integer(0, 40))
  }
}

/** Whether an agent's leases may all be over: no gateway could be reached that reached Redis, and one that is cut off may not know of their return. */
function isForgotten (soak, agent) {
  const ones = soak.members.slice(0, staying.length).filter(member => member.agent === agent)
  return ones.length > 0 && ones.every(member => mayHaveLapsed(soak, member) || performance.now() - member.lapsedAt < forgottenMs)
}

/** The registry as a gateway has it, of agents that have instances: what must be the same everywhere, and in no order. */
async function registryOf (gateway) {
  const { body } = await ask(gateway, 'GET', '/registry')
  const found = new Map()
  for (const [agent, { instances, friendly_names: aliases, metadata }] of Object.entries(body)) {
    for (const { port, weight, source, lease, state } of instances) found.set(`${agent} ${port}`, { weight, source, leased: lease !== null, draining: state === 'draining', aliases, metadata })
  }
  return found
}

const asText = registry => JSON.stringify([...registry].sort(([a], [b]) => a < b ? -1 : 1))

/** @returns what of the fleet is not as it must be by now: a kind and a sentence each */
async function differences ({ members, gateways, fleet }) {
  const found = []
  const registries = new Map()
  for (const gateway of gateways.all) {
    const { status, body } = await ask(gateway, 'GET', '/health/ready')
    if (status !== 200 || body.degraded !== undefined) found.push(['unequal', `${gateway.name} is ready with ${status} ${JSON.stringify(body)}`])
    registries.set(gateway, await registryOf(gateway))
  }
  for (const member of members) {
    const { agent, name, state, leased, weight } = member
    const key = `${agent} ${fleet.portOf[name]}`
    for (const [gateway, registry] of registries) {
      const there = registry.get(key)
      const what = `${agent} ${name} at ${gateway.name}`
      if (state === 'in' && there === undefined) found.push(['lost', `${what} is not there`])
      else if (state === 'in' && (there.leased !== leased || there.weight !== weight || there.draining)) found.push(['lost', `${what} is ${JSON.stringify(there)}, and was registered with weight ${weight}`])
      if ((state === 'out' || state === 'leaves') && there !== undefined) found.push(['phantom', `${what} is ${JSON.stringify(there)}${state === 'leaves' ? `, and leaves since ${((performance.now() - member.since) / 1_000).toFixed(1)} s` : ''}`])
      if (state === 'unknown') found.push(['wrong', `${what}: a change has no answer`])
    }
  }
  const [[first, expected], ...others] = registries
  for (const [gateway, registry] of others) if (asText(registry) !== asText(expected)) found.push(['unequal', `${first.name}: ${asText(expected)}\n    ${gateway.name}: ${asText(registry)}`])
  return found
}

/** Waits until everything is as it must be, as long as it may take; counts what is not so then. */
async function settle (soak) {
  const begun = performance.now()
  const silent = soak.members.some(({ state, leased }) => state === 'leaves' && leased)
  const mostMs = soak.settleMs + (silent ? 2 * ttlMs : 0) // who fell silent leaves when its lease is over; if many did at once, one ttl later
  let found
  do {
    found = await differences(soak)
    if (found.length === 0) break
    await delay(100)
  } while (performance.now() - begun < mostMs)
  for (const [column, text] of found) soak.ledger.fault(column, text)
  const ms = performance.now() - begun
  soak.note(`settled after ${ms.toFixed(0)} ms`)
  if (!silent) soak.ledger.most('longest way back to one registry, ms', ms)
  soak.ledger.count('comparisons of all registries')
  return found.length === 0
}

/** Each registered instance gets requests, from each gateway. */
async function routes (soak) {
  const { members, gateways, ledger, pool } = soak
  const expected = new Map()
  for (const { agent, name, state } of members) if (state === 'in') expected.set(agent, [...expected.get(agent) ?? ofFile[agent] ?? [], name])
  await Promise.all(gateways.all.map(async gateway => {
    for (const [agent, names] of expected) {
      const missing = new Set(names)
      for (let tries = 0; tries < names.length * 8 && missing.size > 0; tries++) { // weights are 5 at most
        const { status, headers } = await exchange({ gateway, pool }, { id: ledger.id('get'), path: `/api/${agent}/echo?bytes=10` })
        if (status === 200) missing.delete(headers['x-soak-instance'])
      }
      for (const name of missing) ledger.fault('unrouted', `${agent} ${name} by ${gateway.name}`)
    }
  }))
}

/** @returns whether all was as it must be */
export async function soakSharedRedis ({ short, seconds, seed, main, say }) {
  if (spawnSync('redis-server', ['--version']).status !== 0) {
    say('redis-server is not installed')
    return false
  }
  const started = performance.now()
  const folder = await mkdtemp(join(tmpdir(), 'fleet-soak-'))
  const random = randomFrom(seed)
  const notes = []
  function note (text) {
    notes.push(`${((performance.now() - started) / 1_000).toFixed(3)} ${text}`)
    if (notes.length > mostNotes) notes.shift()
  }
  const ledger = createLedger(titles, note)
  const fleet = await startFleet({ folder, random: random.branch('fleet'), instances: { mortal, lasting } })
  process.on('exit', () => fleet.end())
  const [redisPort, ...linePorts] = await freePorts(4)
  const redis = await startRedis({ folder, port: redisPort })
  process.on('exit', () => redis.end())
  const agents = Object.entries(ofFile).map(([agent, names]) => `  - {name: ${agent}, instances: [${names.map(name => `{host: 127.0.0.1, port: ${fleet.portOf[name]}}`).join(', ')}]}\n`)
  const gateways = await startGateways({ folder, main, redisPort, ports: linePorts, yaml: `agents:\n${agents.join('')}health: {interval: 2s}\n`, ledger })
  process.on('exit', () => gateways.end())
  const [lasts, ...others] = gateways.all
  say(`seed ${seed}, ${seconds} s, node ${process.version}, gateways on ${gateways.all.map(({ port }) => port).join(', ')}, Redis on ${redisPort}`)

  const problems = []
  const away = createAway()
  const members = staying.map(([agent, name, leased]) => newMember(agent, name, { leased }))
  const guests = coming.map(([agent, name, leased]) => newMember(agent, name, { leased }))
  members.push(...guests)
  let isOver = false
  let hurtAt = -Infinity
  let mayHurt = true
  const base = {
    ledger,
    fleet,
    gateways,
    redis,
    away,
    members,
    note,
    pool: createPool(),
    settleMs: short ? 3 * settleMs : settleMs, // other tests run beside it
    awaySince: away.since,
    lostDataSince: away.lostDataSince,
    pause: ms => delay(ms),
    isOver: () => isOver,
    mayHurtGateways: () => mayHurt,
    gatewayWasHurt () { hurtAt = performance.now() },
    /** Waits until no gateway was killed for so long, and keeps them from being killed. */
    async untilGatewaysAreUnhurt (ms) {
      mayHurt = false
      await delay(Math.max(0, hurtAt + ms - performance.now()))
    },
    gatewaysMayBeHurt () { mayHurt = true },
    ...createTurns()
  }
  const soakOf = (name, over = () => isOver) => ({ ...base, random: random.branch(name), over })
  const guarded = async (name, part) => await part.catch(error => { problems.push(`${name}: ${error.stack}`) })

  for (const member of members.slice(0, staying.length)) await register(soakOf(`first ${member.name}`), member)
  const beating = members.map(member => guarded('heartbeats', heartbeats(soakOf(`heart ${member.name}`), member)))

  const isWrong = () => problems.length > 0 || gateways.problems().length > 0 || Object.values(ledger.faults).some(({ count }) => count > 0)

  async function round (number, forSeconds) {
    const until = performance.now() + forSeconds * 1_000
    const of = name => soakOf(`${name} ${number}`, () => performance.now() >= until || gateways.problems().length > 0)
    note(`round ${number}`)
    await Promise.all([
      ...Array.from({ length: 10 }, (_, index) => guarded('requests', requests(of(`requests ${index}`)))),
      ...guests.map(member => guarded('comesAndGoes', comesAndGoes(of(member.name), member))),
      ...ofMoments.map(name => guarded('moments', moments(of(name), name))),
      guarded('redisOutages', redisOutages(of('redis'))),
      ...gateways.all.map(gateway => guarded('lineFaults', lineFaults(of(`line ${gateway.name}`), gateway))),
      ...others.map(gateway => guarded('gatewayEnds', gatewayEnds(of(`end ${gateway.name}`), gateway))),
      guarded('killer', killer(of('killer')))
    ])
    if (await settle(base)) await routes(base)
  }

  await settle(base)
  if (!short) await round(0, Math.min(seconds / 10, roundSeconds)) // warm
  const rest = async most => {
    base.pool.destroy()
    base.pool = createPool()
    return await atRest(lasts.process, { short, most })
  }
  const start = await rest()
  const rounds = short ? 1 : Math.ceil(seconds / roundSeconds)
  for (let number = 1; number <= rounds && !isWrong(); number++) await round(number, seconds / rounds)

  if (!isWrong()) {
    const last = soakOf('end')
    for (const member of members.slice(staying.length)) if (member.state === 'in') await leave(last, member, 'removed')
    for (const member of members) if (member.leased && member.state === 'in') while (member.isBusy) await delay(20)
    await settle(base)
  }
  const end = await rest(start.sockets)
  isOver = true
  await Promise.all(beating)
  const arrived = await ledger.audit(fleet.records)
  for (const gateway of gateways.all) await gateways.terminate(gateway)
  problems.push(...gateways.problems())
  fleet.end()
  await redis.kill()

  say(`\n${((performance.now() - started) / 1_000).toFixed(0)} s, ${arrived} requests arrived at agents\n`)
  problems.push(...ledger.table(say), ...compareAtRest(start, end, { short, say }))
  if (problems.length === 0) {
    await rm(folder, { recursive: true, force: true })
    say(`\nAll as it must be (seed ${seed})`)
    return true
  }
  for (const [pid, log] of gateways.logs()) await writeFile(join(folder, `gateway-${pid}.log`), log)
  await writeFile(join(folder, 'happened.log'), `${notes.join('\n')}\n`)
  say(`\nWRONG, with --redis --seed ${seed} (what happened is in ${folder}):\n${problems.join('\n')}`)
  return false
}
