/** Runs one scenario: starts who takes part, lets them take turns round by round, and ends them. */
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { setTimeout as delay } from 'node:timers/promises'
import { median } from './figures.js'
import { load } from './load-with.js'
import { cpuSeconds, cpuTime, residentKiB } from './proc.js'
import { checkAnswer } from './scenarios.js'

const streamsClient = fileURLToPath(new URL('streams.js', import.meta.url))

/**
 * How long load is put on before the first round: connections are opened, and code is compiled, which takes some ten thousand requests and, on one
 * processor, seconds. Three times a round's time, but not longer than this.
 */
const mostWarmSeconds = 5
/** With so many connections where the scenario says no number: at a low rate that would take minutes. */
const warmConnections = 64

/** A round that gives no figure, with what was wrong. */
class InvalidRound extends Error {}

/**
 * @typedef {object} Run
 * @property {ReturnType<import('./stage.js').createStage>} stage
 * @property {{ ports: number[] }} upstreams
 * @property {string} [redisUrl] where there is a Redis, for scenarios that need one
 * @property {string | undefined} wrk
 * @property {number} rounds
 * @property {number} seconds
 * @property {(text: string) => void} say
 */

/**
 * @param {Run} run
 * @returns {Promise<{ entries: { name: string, base?: string, rounds: (Record<string, number> | undefined)[], problems: string[] }[], problems: string[] }>}
 *   a round is undefined where it gave no figure
 */
export async function runScenario (run, scenario, peers) {
  const { say } = run
  const results = scenario.entries(peers).map(entry => ({ ...entry, rounds: [], problems: [] }))
  const processes = new Map()
  const problems = []

  if (!scenario.fresh) {
    const ready = await Promise.all(results.map(entry => attempt(async () => await prepare(run, scenario, entry, processes))))
    for (const [index, error] of ready.entries()) if (error !== undefined) results[index].problems.push(`did not start: ${error.message}`)
    for (const entry of results.filter(isAlive)) {
      const error = await attempt(async () => await warm(run, entry))
      if (error !== undefined) entry.problems.push(`left out: ${error.message}`)
    }
  }
  for (let round = 0; round < run.rounds; round++) {
    const taking = results.filter(isAlive)
    for (const entry of taking) {
      let figures
      const error = await attempt(async () => { figures = await (scenario.fresh ? freshRound : measure)(run, scenario, entry) })
      entry.rounds.push(figures)
      if (error === undefined) continue
      say(`  ${entry.name}: round ${round + 1} gives no figure: ${error.message}`)
      entry.problems.push(`round ${round + 1} gives no figure: ${error.message}`)
    }
    if (scenario.kind === 'latency') addLatency(taking, round)
    say(`  round ${round + 1} of ${run.rounds}: ${taking.map(entry => `${entry.name} ${tell(scenario, entry.rounds[round])}`).join(' · ')}`)
  }
  await Promise.all([...processes.values()].map(async started => await started.then(({ running }) => run.stage.end(running), () => {})))
  for (const entry of results) problems.push(...entry.problems.map(text => `${scenario.name}, ${entry.name}: ${text}`))
  return { entries: results.map(({ name, base, rounds, problems, isDirect = false }) => ({ name, base, isDirect, rounds, problems })), problems }
}

const isAlive = entry => !entry.problems.some(text => /^(did not start|left out)/.test(text))

/** What was thrown, if anything was. */
async function attempt (task) {
  try {
    await task()
  } catch (error) {
    return error
  }
}

/** The figures of a round that are compared, for whoever watches. */
function tell ({ figures }, round) {
  if (round === undefined) return '–'
  const shown = figures.filter(({ key, compared }) => compared && Number.isFinite(round[key]))
  return (shown.length > 0 ? shown : figures.filter(({ key }) => Number.isFinite(round[key]))).map(({ key, digits, title }) => `${round[key].toFixed(digits)} ${title}`).join(', ')
}

/** Starts an entry's process, unless another entry has it already, and leaves its port with the entry. */
async function prepare (run, scenario, entry, processes) {
  const { stage, redisUrl, upstreams: { ports } } = run
  if (entry.isDirect) {
    entry.port = ports[0]
    return
  }
  const key = entry.process ?? entry.name
  if (!processes.has(key)) processes.set(key, entry.peer.start(stage, { ports, fleet: entry.fleet?.(ports, { redisUrl }) }))
  const { running, port, proof } = await processes.get(key)
  Object.assign(entry, { running, port, proof })
  await stage.rests(running)
}

/** Looks at one answer, and lets code be compiled and connections be opened. */
async function warm (run, entry) {
  await checkAnswer(entry.port, entry.task, entry.peer?.isGateway)
  const { rate, ...task } = entry.task
  await load(run.stage, { connections: warmConnections, ...task, port: entry.port, seconds: Math.min(3 * run.seconds, mostWarmSeconds) }, run.wrk)
}

/** Begins to watch the proxy's processor; what is returned tells how much of it the proxy had since then, and how much somebody else. */
function watch ({ stage }, { pid }) {
  const from = performance.now()
  const own = cpuSeconds(pid)
  const all = cpuTime(stage.proxyCpu)
  return () => {
    const cpu = cpuSeconds(pid) - own
    const seconds = (performance.now() - from) / 1_000
    return { cpu, seconds, busyPercent: cpu * 100 / seconds, othersPercent: Math.max(0, cpuTime(stage.proxyCpu) - all - cpu) * 100 / seconds }
  }
}

/** Puts load on, and takes the processor's time before and after. */
async function loadRound (run, { port, running, task, isDirect }) {
  const watched = isDirect ? undefined : watch(run, running)
  const { requests, requestsPerSecond, p50, p99, failures } = await load(run.stage, { ...task, port, seconds: run.seconds }, run.wrk)
  const { cpu, busyPercent, othersPercent } = watched?.() ?? {}
  if (running?.ended) throw new InvalidRound(`it ended: ${running.printed().trim().slice(-300)}`)
  if (failures.length > 0) throw new InvalidRound(failures.join('; '))
  return {
    requestsPerSecond,
    p50,
    p99,
    requests,
    ...(!isDirect && { cpuMicros: cpu * 1e6 / requests, busyPercent, othersPercent, memoryMiB: residentKiB(running.pid) / 1_024 })
  }
}

const measures = { load: loadRound, latency: loadRound, streams: streamsRound }

/** One entry's turn. @throws {InvalidRound} when it gives no figure */
async function measure (run, scenario, entry) {
  const figures = await measures[scenario.kind](run, entry)
  if (entry.proof?.() === false) throw new InvalidRound('it wrote no audit log: not everything is on')
  return figures
}

/** What is above the way straight to the upstream in the same round; nothing where that has no figure. */
function addLatency (entries, round) {
  const direct = entries.find(({ isDirect }) => isDirect)?.rounds[round]
  for (const { isDirect, rounds } of entries) {
    const figures = rounds[round]
    if (isDirect || figures === undefined || direct === undefined) continue
    figures.addedP50 = figures.p50 - direct.p50
    figures.addedP99 = figures.p99 - direct.p99
  }
}

/** A round with a process of its own. */
async function freshRound (run, scenario, entry) {
  const processes = new Map()
  try {
    await prepare(run, scenario, entry, processes)
    return await measure(run, scenario, entry)
  } finally {
    for (const started of processes.values()) await started.then(({ running }) => run.stage.end(running), () => {})
  }
}

/** Opens the streams, waits until memory is steady, and counts events and processor time for a while. */
async function streamsRound (run, { port, running, task }) {
  const { stage } = run
  const open = async streams => {
    const client = stage.start(process.execPath, [streamsClient, JSON.stringify({ ...task, port, streams })], { ipc: true })
    const [first] = await Promise.race([once(client.child, 'message'), client.exited.then(() => [{ failure: client.printed().trim() || 'the client ended' }])])
    if (first.failure !== undefined) throw new InvalidRound(first.failure)
    return client
  }
  const ask = async client => {
    client.child.send('count')
    const [{ events, failure }] = await Promise.race([once(client.child, 'message'), client.exited.then(() => [{ failure: client.printed() }])])
    if (failure !== undefined) throw new InvalidRound(failure)
    return events
  }

  // A heap that has been at work: without it, most of what is added is room for garbage, whatever the streams hold.
  const { failures } = await load(stage, { ...task.warm, port, seconds: 2 }, run.wrk)
  if (failures.length > 0) throw new InvalidRound(failures.join('; '))
  await stage.end(await open(task.warmStreams))
  await stage.rests(running)
  const before = residentKiB(running.pid)
  const client = await open(task.streams)
  await steadyMemory(running.pid)
  const events = await ask(client)
  const watched = watch(run, running)
  const from = performance.now()
  const memory = []
  while (performance.now() - from < run.seconds * 1_000) {
    await delay(1_000)
    memory.push(residentKiB(running.pid))
  }
  const counted = await ask(client) - events
  const { cpu, seconds, busyPercent, othersPercent } = watched()
  await stage.end(client)
  const expected = seconds * task.streams
  if (counted < expected * 0.95) throw new InvalidRound(`${counted} events came where ${expected.toFixed(0)} were sent`)
  return {
    kibPerStream: (median(memory) - before) / task.streams,
    cpuMicros: cpu * 1e6 / counted,
    memoryMiB: median(memory) / 1_024,
    busyPercent,
    othersPercent,
    events: counted
  }
}

/** Resolves when resident memory has moved by less than 1 % in five seconds, or after 30 s. */
async function steadyMemory (pid) {
  const seen = []
  for (let second = 0; second < 30; second++) {
    seen.push(residentKiB(pid))
    const recent = seen.slice(-6)
    if (recent.length === 6 && Math.max(...recent) - Math.min(...recent) < Math.max(...recent) / 100) return
    await delay(1_000)
  }
}
