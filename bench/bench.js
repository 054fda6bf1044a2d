/**
 * `npm run bench`: the gateway as a real process on loopback, in front of cheap upstreams, compared round by round with other proxies; see
 * CONTRIBUTING.md. Ends with 1 when a round was invalid or something did not start. Run it with --help for its options.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeDocument } from './document.js'
import { countDisturbed, undisturbedPercent } from './figures.js'
import { buildRows, keyRows } from './key-ratios.js'
import { gateway, others, projectRoot } from './peers.js'
import { hasProc } from './proc.js'
import { redisServer, startRedis } from './redis.js'
import { runScenario } from './rounds.js'
import { scenarios } from './scenarios.js'
import { createStage, findProgram } from './stage.js'
import { scenarioRows, textTable } from './table.js'
import { startUpstreams } from './upstreams.js'

const usage = `npm run bench -- [options]

  --quick                   get-64, post-1k and get-1m, of ours, bare, stock and nginx, in less than two minutes
  --scenario NAME           only this one; may be repeated: ${scenarios.map(({ name }) => name).join(', ')}
  --peer NAME               only this one; may be repeated: ours, ${others.map(({ name }) => name).join(', ')}
  --gateway NAME=PATH       another build of the gateway (a checkout with dist/) as a further peer; may be repeated
  --gateway-env NAME=KEY=VALUE   a variable of the environment for that build (or for ours); may be repeated
  --gateway-config NAME=FILE     YAML added to that build's fleet.yaml
  --rounds N, --seconds N   how many rounds (5), and how long each puts load on (5); event streams 3 and 10, --quick 4 and 1
  --own-tools               the load generator and the upstream of our own, even where wrk and nginx are installed
  --no-build                take dist/ as it is
  --json FILE               everything that was measured
  --write-docs              write docs/benchmarks.md and its charts
`
const { values: options } = parseArgs({
  options: {
    help: { type: 'boolean' },
    quick: { type: 'boolean', default: false },
    scenario: { type: 'string', multiple: true },
    peer: { type: 'string', multiple: true },
    gateway: { type: 'string', multiple: true, default: [] },
    'gateway-env': { type: 'string', multiple: true, default: [] },
    'gateway-config': { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    'own-tools': { type: 'boolean', default: false },
    'no-build': { type: 'boolean', default: false },
    json: { type: 'string' },
    'write-docs': { type: 'boolean', default: false }
  }
})
/** Of the last minute, before this began to work. */
const [loadAverage] = loadavg()
const say = text => process.stdout.write(`${text}\n`)

if (options.help) {
  say(usage.trimEnd())
  process.exit(0)
}

/** Ends because of what was asked for. */
function refuse (text) {
  process.stderr.write(`${text}\n\n${usage}`)
  process.exit(2)
}

/** `NAME=REST` of each, in order. */
const named = key => options[key].map(text => {
  const at = text.indexOf('=')
  if (at < 1) refuse(`--${key} takes NAME=…, not ${text}`)
  return [text.slice(0, at), text.slice(at + 1)]
})

/** A positive number of the command line, or what stands for it. */
function positive (key, otherwise) {
  const value = options[key] === undefined ? otherwise : Number(options[key])
  if (!(value > 0)) refuse(`--${key} takes a positive number, not ${options[key]}`)
  return value
}

const quick = { scenarios: ['get-64', 'post-1k', 'get-1m'], peers: ['ours', 'bare', 'stock', 'nginx'] }
const wantedScenarios = options.scenario ?? (options.quick ? quick.scenarios : undefined)
const wantedPeers = options.peer ?? (options.quick ? quick.peers : undefined)

/** Environment and configuration that a build of the gateway is given. */
function variantOf (name) {
  return {
    env: Object.fromEntries(named('gateway-env').filter(([of]) => of === name).map(([, pair]) => [pair.split('=')[0], pair.slice(pair.indexOf('=') + 1)])),
    config: named('gateway-config').filter(([of]) => of === name).map(([, file]) => readFileSync(file, 'utf8')).join('\n')
  }
}

const gatewayNames = ['ours', ...named('gateway').map(([name]) => name)]
const peerNames = [...gatewayNames, ...others.map(({ name }) => name)]
for (const [index, name] of peerNames.entries()) if (peerNames.indexOf(name) !== index) refuse(`there are two peers called ${name}`)
for (const name of wantedPeers ?? []) if (!peerNames.includes(name)) refuse(`there is no peer ${name}`)
for (const name of wantedScenarios ?? []) if (!scenarios.some(scenario => scenario.name === name)) refuse(`there is no scenario ${name}`)
for (const key of ['gateway-env', 'gateway-config']) for (const [name] of named(key)) if (!gatewayNames.includes(name)) refuse(`--${key}: there is no gateway ${name}`)

if (!options['no-build']) build()
// npm runs this in the package's folder; paths are meant from where the command was given.
const from = path => resolve(process.env.INIT_CWD ?? '.', path)
const gateways = [gateway('ours', projectRoot, variantOf('ours')), ...named('gateway').map(([name, path]) => gateway(name, from(path), variantOf(name)))]
const allPeers = [...gateways, ...others]

const skipped = []
const problems = []
const isNamed = peer => named('gateway').some(([name]) => name === peer.name)
const chosen = allPeers.filter(peer => wantedPeers === undefined || wantedPeers.includes(peer.name) || isNamed(peer))
const peers = chosen.filter(peer => {
  if (peer.missing === undefined) return true
  if (peer.isGateway) problems.push(`${peer.name}: ${peer.missing}`)
  else skipped.push(`${peer.name}: ${peer.missing}`)
  return false
})
if (peers.some(({ isInstalled }) => isInstalled)) installPeers()

/** What was typed, but for the file that is of no use to others. */
function commandGiven () {
  const given = process.argv.slice(2)
  const at = given.indexOf('--json')
  if (at !== -1) given.splice(at, 2)
  return ['npm run bench', ...(given.length > 0 ? ['--', ...given] : [])].join(' ')
}

function build () {
  say('building the gateway (npm run build)')
  if (spawnSync('npm', ['run', '-s', 'build'], { cwd: projectRoot, stdio: 'inherit' }).status !== 0) process.exit(1)
}

/** On first use, and when the lock file is newer than what is installed. */
function installPeers () {
  const here = fileURLToPath(new URL('.', import.meta.url))
  const installed = join(here, 'node_modules/.package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(join(here, 'package-lock.json')).mtimeMs) return
  say('installing the peers into bench/node_modules (npm ci)')
  if (spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel', 'error'], { cwd: here, stdio: 'inherit' }).status !== 0) {
    process.stderr.write('the peers could not be installed; --peer ours --peer nginx needs none of them\n')
    process.exit(1)
  }
}

const stage = createStage()
const wrk = options['own-tools'] ? undefined : findProgram('wrk')
const machine = {
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  kernel: `${process.platform} ${release()}`,
  node: process.version,
  load: wrk === undefined ? 'the load generator of bench/' : `wrk ${/^wrk (\S+)/.exec(spawnSync(wrk, ['-v'], { encoding: 'utf8' }).stdout)?.[1] ?? ''}, one thread`,
  pinned: stage.pinned
}
const versions = Object.fromEntries(peers.map(peer => [peer.name, peer.version()]))
if (wrk === undefined && !options['own-tools']) skipped.push('wrk is not installed: load comes from the generator of bench/, which takes more of a processor')
if (!hasProc) skipped.push('there is no /proc: no processor time and no memory')
say(`${machine.cpu}, ${machine.cores} processors, ${machine.kernel}, Node ${machine.node}; ${machine.pinned}; load by ${machine.load}`)
if (loadAverage > 0.5) say(`This machine is not quiet (load average ${loadAverage.toFixed(1)}): absolute figures mean little, ratios less than usual.`)

const results = []
for (const scenario of scenarios) {
  if (wantedScenarios !== undefined && !wantedScenarios.includes(scenario.name)) continue
  if (!hasProc && scenario.kind === 'streams') {
    skipped.push(`${scenario.name}: it is about memory and processor time`)
    continue
  }
  const taking = peers.filter(({ isGateway }) => isGateway || !scenario.onlyGateways)
  if (taking.length < peers.length) skipped.push(`${scenario.name}: it compares the gateway with itself`)
  if (taking.length === 0) continue
  if (scenario.needsRedis && redisServer === undefined) {
    skipped.push(`${scenario.name}: redis-server is not installed`)
    continue
  }
  const upstreams = await startUpstreams(stage, { events: scenario.events, ownTools: options['own-tools'] })
  const redis = scenario.needsRedis ? await startRedis(stage) : undefined
  say(`\n${scenario.name}: ${scenario.title}; upstreams: ${upstreams.about}`)
  const rounds = positive('rounds', scenario.rounds ?? (options.quick ? 4 : 5))
  const seconds = positive('seconds', scenario.seconds ?? (options.quick ? 1 : 5))
  const { entries, problems: found } = await runScenario({ stage, upstreams, redisUrl: redis?.url, wrk, rounds, seconds, say }, scenario, taking)
  await stage.end(upstreams.running)
  if (redis !== undefined) await stage.end(redis.running)
  problems.push(...found)
  results.push({ scenario, rounds, seconds, upstreams: upstreams.about, entries })
  say(`\n${textTable(scenarioRows(scenario, entries))}`)
}

const report = {
  at: new Date().toISOString(),
  command: commandGiven(),
  machine,
  loadAverage,
  peers: peers.map(({ name, about }) => ({ name, about, version: versions[name] })),
  builds: peers.filter(({ isGateway }) => isGateway).map(({ name }) => name),
  results,
  skipped,
  problems
}
for (const [title, rows] of [
  ['The key ratios', keyRows(results, report.builds)],
  ['Other builds against ours', buildRows(results, report.builds)]
]) if (rows.length > 1) say(`\n${title}\n\n${textTable(rows)}`)
say('')
const { rounds: allRounds, disturbed } = countDisturbed(results)
if (disturbed > 0) say(`disturbed: in ${disturbed} of ${allRounds} rounds others took more than ${undisturbedPercent} % of the proxy's core`)
for (const text of skipped) say(`skipped: ${text}`)
for (const text of problems) say(`WRONG: ${text}`)

if (options.json !== undefined) writeFileSync(from(options.json), `${JSON.stringify(report, null, 2)}\n`)
if (options['write-docs']) writeDocument(join(projectRoot, 'docs'), report)
process.exit(problems.length === 0 ? 0 : 1)
