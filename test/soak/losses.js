/**
 * Redis loses its data again and again, while clients register, drain and remove through three gateways whose ways to Redis lag, freeze and break, each kind of
 * connection by itself; so each gateway knows something else at that moment. Each instance belongs to one client, so what it must be is known:
 * what was answered last, or, where that was a refusal, that or what was asked for. After each round all gateways are held against it.
 * Options: --rounds N, --seed N, --main FILE (another build of the gateway). Ends with 1 when anything is not as it must be.
 */
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ask } from './client.js'
import { freePorts } from './fleet.js'
import { startGateways } from './gateways.js'
import { kinds, openLaggingLine, ways } from './lagging-line.js'
import { createLedger } from './ledger.js'
import { randomFrom } from './random.js'
import { startRedis } from './redis-server.js'

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
    main: { type: 'string', default: fileURLToPath(new URL('../../dist/src/main.js', import.meta.url)) }
  }
})
const seed = Number(options.seed)
const rounds = Number(options.rounds)
const say = text => process.stdout.write(`${text}\n`)

/** Everything is the same everywhere so long after all is mended. */
const settleMs = 20_000
/** By then all gateways have looked whether they heard of everything. */
const onceMoreMs = 1_500

/** What an instance is: not there; else its weight and the seconds of its lease, and whether it leaves as soon as nothing is under way. */
const gone = 'gone'
const stateOf = ({ weight, ttl }) => `${weight}/${ttl}`
const partsOf = state => { const [weight, ttl] = state === gone ? [1, 0] : state.split(' ')[0].split('/').map(Number); return { weight, ttl } }
const leaving = ' leaves'
/** It may be gone by now. */
const mayGo = state => state === gone || state.endsWith(leaving)

/** What two agents want; it is one's, or nobody's. */
const alias = 'wanted'

const random = randomFrom(seed)
const folder = await mkdtemp(join(tmpdir(), 'fleet-losses-'))
const started = performance.now()
const notes = []
const note = text => notes.push(`${((performance.now() - started) / 1_000).toFixed(3)} ${text}`)
const ledger = createLedger({
  lost: 'acknowledged registrations that were lost',
  phantom: 'instances that left and are there',
  stale: 'instances that are as they were before',
  unequal: 'registries that differ, or are not shared',
  wrong: 'other wrong outcomes'
}, note)

/** Agents that several clients have an instance of, and agents of one client, which removes them as a whole as well. */
const instances = [['a', 1], ['a', 2], ['b', 1], ['b', 2], ['c', 1], ['c', 2], ['s', 1], ['t', 1]].map(([agent, place], index) => ({
  agent, port: 9_000 + place, isOnly: agent >= 's', key: `${agent} ${9_000 + place}`, id: undefined, may: new Set([gone]), was: new Set([gone]), random: random.branch(`client ${index}`)
}))

const [redisPort, ...linePorts] = await freePorts(4)
const redis = await startRedis({ folder, port: redisPort })
process.on('exit', () => redis.end())
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
const gateways = await startGateways({ folder, main: options.main, redisPort, ports: linePorts, yaml: 'health: {interval: 1h}\n', ledger, openLine: openLaggingLine })
process.on('exit', () => gateways.end())

function nextChange ({ agent, port, isOnly, id, was, random: own }) {
  const kind = own.next()
  if (kind < 0.55) {
    const given = { ...(own.chance(0.7) && { weight: own.integer(2, 9) }), ...(own.chance(0.3) && { ttl: own.integer(3_000, 3_600) }) }
    const aliases = isOnly && own.chance(0.3) && { aliases: own.chance(0.7) ? [alias] : [] }
    // What is left out stays as it is, and an instance that has gone has nothing that could stay. Where data was lost, it is what the gateway knew that wrote it again.
    const from = state => hasLost ? [...was] : mayGo(state) ? [gone, state] : [state]
    return { method: 'POST', path: '/registry/register', body: { name: agent, host: '127.0.0.1', port, ...given, ...aliases }, becomes: state => from(state).map(before => stateOf({ ...partsOf(before), ...given })) }
  }
  if (isOnly && kind < 0.75) return { method: 'DELETE', path: `/registry/${agent}`, becomes: () => [gone] }
  const byAddress = `/registry/${agent}?host=127.0.0.1&port=${port}`
  if (kind < 0.87) return { method: 'DELETE', path: byAddress, becomes: () => [gone] }
  if (kind < 0.95 && id !== undefined) return { method: 'DELETE', path: `/registry/${agent}/instances/${id}`, becomes: () => [gone] }
  return { method: 'DELETE', path: `${byAddress}&drain=true`, becomes: state => mayGo(state) ? [state] : [state + leaving] }
}

/** `was` is all that it was since all gateways were held against it. */
function becameOneOf (instance, states) {
  instance.may = new Set(states)
  for (const state of [gone, ...states]) instance.was.add(state)
}

/** One change, of which the answer may be of the past: of 404 nothing is known but that whoever answered knew none. */
async function change (instance) {
  const gateway = instance.random.pick(gateways.all)
  const { method, path, body, becomes } = nextChange(instance)
  const { may } = instance
  const begun = performance.now()
  const answer = await ask(gateway, method, path, body)
  const after = [...may].flatMap(becomes)
  note(`${gateway.name} ${method} ${path} ${JSON.stringify(body) ?? ''} ${answer.status} after ${(performance.now() - begun).toFixed(0)} ms, was ${[...may]}`)
  ledger.count(`answers of ${answer.status}`)
  if (answer.status === 200 || answer.status === 201) {
    becameOneOf(instance, after)
    if (body !== undefined) instance.id = answer.body.instance.id
  } else if (answer.status === 404 && method === 'DELETE') {
    const wasThere = ![...may].some(mayGo)
    if (wasThere && !hasLost) ledger.fault('lost', `${method} ${path} at ${gateway.name} was answered 404, and it is ${[...may].join(' or ')}`)
    if (wasThere) ledger.count('unknown where nobody was left who knew')
    becameOneOf(instance, wasThere || hasLost ? [...may, gone] : [gone]) // who knew it may not have told yet
  } else if (answer.status === 503) {
    becameOneOf(instance, [...may, ...after])
  } else if (answer.status === 409 && body?.aliases?.includes(alias)) {
    ledger.count('an alias that was another\'s')
  } else {
    ledger.fault('wrong', `${method} ${path} answered ${answer.status} ${JSON.stringify(answer.body)}`)
  }
}

/** All clients change what is theirs, one change after the other. @returns what ends that, and resolves when the last answer is there */
function changeAll (mostPauseMs) {
  const over = new AbortController()
  const working = instances.map(async instance => {
    while (!over.signal.aborted) {
      await change(instance)
      await delay(instance.random.integer(0, mostPauseMs))
    }
  })
  return async () => {
    over.abort()
    await Promise.all(working)
  }
}

const thaws = new Set()
/** Whether data was lost in this round. */
let hasLost = false

/** Something becomes of one gateway's line, and may stay so until all is mended. */
function disturb (own) {
  const gateway = own.pick(gateways.all)
  const { line } = gateway
  const kind = own.next()
  const tell = what => {
    note(`the line of ${gateway.name}: ${what}`)
    ledger.count('disturbances of lines')
  }
  const later = (ms, act) => {
    const timer = setTimeout(() => { thaws.delete(timer); act() }, ms)
    thaws.add(timer)
  }
  if (kind < 0.45) {
    const ms = own.pick([30, 100, 300, 700, 1_500])
    line.delay('sub down', ms)
    tell(`changes are told ${ms} ms later`)
  } else if (kind < 0.6) {
    const way = own.pick(ways)
    const ms = own.pick([10, 50, 120, 200])
    line.delay(way, ms)
    tell(`${way} takes ${ms} ms`)
  } else if (kind < 0.72) {
    const way = own.pick(ways)
    const ms = own.pick([200, 600, 1_200, 2_500])
    line.freeze(way)
    later(ms, () => line.thaw(way))
    tell(`${way} is frozen for ${ms} ms`)
  } else if (kind < 0.84) {
    const which = own.pick([undefined, undefined, ...kinds])
    line.drop(which)
    tell(`${which ?? 'all'} connections end`)
  } else if (kind < 0.88) {
    const ms = own.pick([300, 1_500])
    line.cut()
    later(ms, () => line.mend())
    tell(`cut for ${ms} ms`)
  } else {
    line.calm({ late: false })
    tell('as ever')
  }
}

function mend (own) {
  for (const timer of thaws) clearTimeout(timer)
  thaws.clear()
  for (const { line } of gateways.all) line.calm({ late: own.chance(0.5) })
  note('all lines are mended')
}

async function lose (own) {
  hasLost = true
  const isKill = own.chance(0.5)
  note(`Redis loses its data${isKill ? ', and is killed' : ''}`)
  ledger.count('losses of all data')
  if (isKill) {
    await redis.kill()
    await redis.forget()
    await delay(own.integer(0, 300))
    await redis.start()
  } else {
    const socket = connect(redisPort, '127.0.0.1')
    socket.write('FLUSHALL\r\n')
    await once(socket, 'data')
    socket.destroy()
  }
}

/** Resolves when each gateway can register; what they share is what they agree on. */
async function shared () {
  const until = performance.now() + settleMs
  for (const gateway of gateways.all) {
    while ((await ask(gateway, 'GET', '/health')).body.redis !== 'ok') {
      if (performance.now() > until) return ledger.fault('unequal', `${gateway.name} does not share the registry after ${settleMs} ms`)
      await delay(50)
    }
  }
}

/** What each gateway has of each instance, and whose the alias is. */
async function found () {
  return await Promise.all(gateways.all.map(async gateway => {
    const { body } = await ask(gateway, 'GET', '/registry')
    const all = Object.entries(body).flatMap(([agent, { instances: some }]) => some.map(({ port, weight, lease, state }) => [`${agent} ${port}`, stateOf({ weight, ttl: lease?.ttl_seconds ?? 0 }) + (state === 'draining' ? leaving : '')]))
    const owners = Object.entries(body).filter(([, { friendly_names: names, instances: some }]) => some.length > 0 && names.includes(alias)).map(([agent]) => agent)
    return new Map([...all, [alias, owners.join(' and ')]])
  }))
}

/** What is not as it must be: a column of the table and a sentence each. */
function differences (registries) {
  const owners = new Set(registries.map(registry => registry.get(alias)))
  const ofAlias = owners.size > 1 || [...owners].some(owner => owner.includes(' and ')) ? [['unequal', `the alias is ${[...owners].map(owner => owner || 'nobody').join(', ')}'s`]] : []
  return ofAlias.concat(instances.flatMap(({ key, may }) => {
    const states = registries.map(registry => registry.get(key) ?? gone)
    const [state] = states
    const what = `${key} is ${states.join(', ')}, and may be ${[...may].join(' or ')}`
    const mayBeGone = [...may].some(mayGo)
    if (states.some(other => other !== state)) return [['unequal', what]]
    if (may.has(state) && !state.endsWith(leaving)) return []
    if (state === gone) return mayBeGone ? [] : [['lost', what]]
    return [[mayBeGone ? 'phantom' : 'stale', what]]
  }))
}

/** Waits until all is as it must be, as long as it may take; counts what is not so then, and goes on from what is there. */
async function compare () {
  await shared()
  const until = performance.now() + settleMs
  let registries
  let wrong
  do {
    registries = await found()
    wrong = differences(registries)
    if (wrong.length === 0) break
    await delay(100)
  } while (performance.now() < until)
  if (wrong.length === 0) { // and stays so
    await delay(onceMoreMs)
    registries = await found()
    wrong = differences(registries)
  }
  for (const [column, text] of wrong) ledger.fault(column, text)
  ledger.count('comparisons of all registries')
  for (const instance of instances) {
    instance.was.clear()
    becameOneOf(instance, [registries[0].get(instance.key) ?? gone])
  }
}

async function round (number) {
  const own = random.branch(`round ${number}`)
  hasLost = false
  note(`round ${number}`)
  const end = changeAll(own.pick([20, 60, 200]))
  for (let left = own.integer(2, 8); left > 0; left--) {
    disturb(own)
    await delay(own.integer(20, 300))
  }
  if (own.chance(0.3)) await end()
  if (own.chance(0.9)) await lose(own)
  for (let left = own.integer(0, 3); left > 0; left--) {
    await delay(own.integer(50, 700))
    disturb(own)
  }
  for (let more = own.pick([0, 0, 1, 2]); more > 0; more--) { // before all have what was written again
    await delay(own.integer(0, 300))
    await lose(own)
  }
  await delay(own.integer(0, 1_500))
  await end()
  mend(own)
  await compare()
}

const isWrong = () => Object.values(ledger.faults).some(({ count }) => count > 0)
await shared()
for (let number = 1; number <= rounds && !isWrong(); number++) await round(number)
for (const gateway of gateways.all) await gateways.terminate(gateway)
await redis.kill()

const problems = [...ledger.table(say), ...gateways.problems()]
if (problems.length === 0) {
  await rm(folder, { recursive: true, force: true })
  say(`Nothing that was acknowledged was lost (seed ${seed})`)
} else {
  for (const [pid, log] of gateways.logs()) await writeFile(join(folder, `gateway-${pid}.log`), log)
  await writeFile(join(folder, 'happened.log'), `${notes.join('\n')}\n`)
  say(`WRONG, with --seed ${seed} (what happened is in ${folder}):\n${problems.join('\n')}`)
}
process.exit(problems.length === 0 ? 0 : 1)
