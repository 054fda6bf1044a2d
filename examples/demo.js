#!/usr/bin/env node
/**
 * `npm run demo`: a whole fleet on this machine. Starts the example agents and the gateway in front of them, prints commands to try, and
 * ends everything on Ctrl-C. Of an agent that ends before it says so, and goes on. `--check` runs each of these commands once instead, says which
 * worked, and exits 0 or 1.
 */
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createWriteStream, existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify, styleText } from 'node:util'
import { demoCommands } from './demo-commands.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const gatewayFile = join(root, 'dist/src/main.js')
const host = '127.0.0.1'
const gatewayPort = 9001
const readyWithinMs = 20_000
const endWithinMs = 5_000

const agents = [
  { name: 'trail-agent', aliases: ['trail', 'encoder'], file: 'encoder.js', ports: [8501, 8511] },
  { name: 'git-agent', aliases: ['git', 'repo'], file: 'git-reader.js', ports: [8502] },
  { name: 'clock-agent', aliases: ['clock', 'ticks'], file: 'clock.js', ports: [8503] },
  { name: 'chat-agent', aliases: ['chat'], file: 'chat.js', ports: [8504] }
]

const flags = process.argv.slice(2)
if (flags.some(flag => flag !== '--check')) {
  console.error('usage: npm run demo [-- --check]')
  process.exit(2)
}
const isCheck = flags.includes('--check')

const bold = text => process.stdout.isTTY ? styleText('bold', text) : text

/** The demo can't go on; its message is all there is to say. */
class DemoError extends Error {}

/** Everything that was started, in that order. */
const processes = []
const stop = new AbortController()

/** Whether it ended because somebody took its port between our look at it and its own try. Both the agents and the gateway say so. */
const lostItsPort = ({ isReady, ended, output }) => !isReady && ended !== undefined && /EADDRINUSE|is in use/.test(output)

/** Whether the commands were shown: from now on an agent may end, since to see that is what a gateway is for. */
let isShown = false

/** Starts a Node process whose output goes to a file, and keeps an eye on it: the demo ends when it does, unless it only lost its port or `mayEnd`. */
function start (name, argv, env, logFile, mayEnd = () => false) {
  const child = spawn(process.execPath, argv, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
  const log = createWriteStream(logFile, { flags: 'a', mode: 0o600 })
  const running = { name, child, output: '', isReady: false }
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', chunk => {
      running.output = (running.output + chunk).slice(-4_000)
      log.write(chunk)
    })
  }
  running.exited = once(child, 'close').then(async ([code, signal]) => {
    running.ended = signal ?? `exit code ${code}`
    const what = `${name} ended (${running.ended})`
    if (mayEnd()) console.log(`${what}; the gateway goes on without it.`)
    else if (!lostItsPort(running)) stop.abort(new DemoError(`${what}${running.output === '' ? '' : `:\n${running.output.trim().replaceAll(/^/gm, '  ')}`}`))
    // The folder can only go when nobody is about to make a file in it.
    await new Promise(resolve => log.end(resolve))
  })
  processes.push(running)
  return running
}

/** Waits for `condition` to give a value, unless something ended meanwhile. */
async function until (what, condition) {
  const deadline = performance.now() + readyWithinMs
  for (;;) {
    stop.signal.throwIfAborted()
    const value = await condition()
    if (value !== undefined) return value
    if (performance.now() > deadline) throw new DemoError(`${what} was not ready within ${readyWithinMs / 1_000} s`)
    await sleep(50)
  }
}

const answersOk = async url => {
  const response = await fetch(url, { signal: AbortSignal.timeout(1_000) }).catch(() => undefined)
  await response?.body?.cancel()
  return response?.ok === true ? true : undefined
}

function isFree (port) {
  return new Promise(resolve => {
    const probe = createServer().once('error', () => resolve(false))
    probe.listen(port, host, () => probe.close(() => resolve(true)))
  })
}

/** Starts something on the first of these ports that it can have; `attempt` gives what was started, with `isReady` when it is. */
async function onFirstFree (ports, attempt) {
  for (const port of ports) {
    if (port !== 0 && !await isFree(port)) continue
    const running = await attempt(port)
    if (running.isReady) return running
  }
  throw new DemoError('no port is free')
}

/** Waits until it is ready, or has lost its port. */
async function readyOrGone (running, condition) {
  const isReady = await until(running.name, async () => lostItsPort(running) ? false : await condition())
  return Object.assign(running, { isReady })
}

/** Starts one instance, on a port of its own choice when its usual one is taken; gives the real port. */
async function startAgent ({ name, file, ports }, usualPort, folder) {
  const label = ports.length > 1 ? `${name} (${usualPort})` : name
  const { port } = await onFirstFree([usualPort, 0], async wanted => {
    const env = { ...process.env, PORT: String(wanted), HOST: host, REPO: root }
    const agent = start(label, [join(root, 'examples/agents', file)], env, join(folder, 'agents.log'), () => isShown && !stop.signal.aborted)
    return await readyOrGone(agent, async () => {
      const match = /listening on http:\/\/\S*:(\d+)/.exec(agent.output)
      if (match === null) return undefined
      agent.port = Number(match[1])
      return await answersOk(`http://${host}:${agent.port}/health`)
    })
  })
  if (port !== usualPort) console.log(`Port ${usualPort} is taken, so ${name} is on ${port}.`)
  return port
}

async function startGateway (folder, secret) {
  const { FLEET_SECRET_FILE, FLEET_HOST, FLEET_PORT, FLEET_URL, ...env } = process.env
  const ports = Array.from({ length: 100 }, (_, index) => gatewayPort + index)
  const { url } = await onFirstFree(ports, async port => {
    const argv = [gatewayFile, 'serve', '--fleet', join(folder, 'fleet.yaml'), '--host', host, '--port', String(port)]
    const gateway = start('the gateway', argv, { ...env, FLEET_SECRET: secret }, join(folder, 'gateway.log'))
    gateway.url = `http://${host}:${port}`
    // Not before it says that the port is its own: whoever took it meanwhile may answer as well.
    return await readyOrGone(gateway, async () => gateway.output.includes(gateway.url) ? await answersOk(`${gateway.url}/health/ready`) : undefined)
  })
  if (url !== `http://${host}:${gatewayPort}`) console.log(`Port ${gatewayPort} is taken, so the gateway is at ${url}.`)
  return url
}

/** The fleet as it really is, in fleet.yaml's form; JSON strings are YAML strings. */
function fleetYaml (fleet, folder) {
  return [
    'server: {drainTimeout: 2s}',
    `registry: {stateDir: ${JSON.stringify(join(folder, 'state'))}}`,
    `auditLog: {file: ${JSON.stringify(join(folder, 'audit.log'))}}`,
    'health: {path: /health}',
    'agents:',
    ...fleet.flatMap(({ name, aliases, ports }) => [
      `  - name: ${name}`,
      `    aliases: [${aliases.join(', ')}]`,
      `    instances: [${ports.map(port => `{host: ${host}, port: ${port}}`).join(', ')}]`
    ])
  ].join('\n') + '\n'
}

async function build () {
  if (existsSync(gatewayFile)) return
  console.log('Building the gateway…')
  const [code] = await once(spawn('npm', ['run', '-s', 'build'], { cwd: root, stdio: 'inherit' }), 'exit')
  if (code !== 0) throw new DemoError('the build failed')
}

function show (commands, { url, secret, folder, fleet }) {
  const instances = fleet.reduce((sum, { ports }) => sum + ports.length, 0)
  console.log(`\n${bold(`Fleet Gateway is at ${url}`)}, in front of ${fleet.length} agents with ${instances} instances.`)
  console.log(`See it in a browser: ${url}/console/ (the token is ${secret}). Or try, in another terminal:`)
  for (const { title, command } of commands) console.log(`\n${bold(`# ${title}`)}\n${command}`)
  const spare = processes.findLast(({ name }) => name.startsWith(fleet[0].name)).child.pid
  console.log(`\n${bold(`# End one of the two instances of ${fleet[0].name}: every call still gets its answer`)}\nkill ${spare}`)
  console.log(`\nThe audit log is ${join(folder, 'audit.log')}; the gateway's own log is beside it. Both go when the demo ends.`)
  console.log(bold('Ctrl-C ends everything.'))
}

/** Runs the commands as they are printed; true when all of them did what they promise. */
async function check (commands) {
  let failed = 0
  for (const { title, command, isGood, runs = 1 } of commands) {
    const outputs = []
    for (let run = 0; run < runs; run += 1) {
      stop.signal.throwIfAborted()
      const { stdout = '', stderr = '', message } = await promisify(execFile)('sh', ['-c', command], { timeout: 30_000, signal: stop.signal }).catch(error => error)
      outputs.push(stdout + (message === undefined ? '' : `${stderr}${message}`))
    }
    stop.signal.throwIfAborted()
    const good = isGood(...outputs)
    if (!good) failed += 1
    console.log(`${good ? 'ok    ' : 'failed'}  ${title}`)
    if (!good) console.log(`${command}\n${outputs.join('\n')}`.replaceAll(/^/gm, '        '))
  }
  console.log(failed === 0 ? `All ${commands.length} examples work.` : `${failed} of ${commands.length} examples failed.`)
  return failed === 0
}

/** Ends what was started, the gateway first, and waits for it. */
async function end () {
  for (const { child, exited } of processes.toReversed()) {
    child.kill('SIGTERM')
    const last = setTimeout(() => child.kill('SIGKILL'), endWithinMs)
    await exited
    clearTimeout(last)
  }
}

/** Someone wants it to end: that is no failure. */
class Interrupted extends Error {}

async function main (folder) {
  await build()
  const secret = process.env.FLEET_SECRET || randomBytes(12).toString('base64url')
  const fleet = []
  for (const agent of agents) {
    const ports = []
    for (const port of agent.ports) ports.push(await startAgent(agent, port, folder))
    fleet.push({ ...agent, ports })
  }
  await writeFile(join(folder, 'fleet.yaml'), fleetYaml(fleet, folder), { mode: 0o600 })
  const url = await startGateway(folder, secret)

  const gitPort = fleet.find(({ name }) => name === 'git-agent').ports[0]
  const hasHistory = await answersOk(`http://${host}:${gitPort}/log?n=1`) === true
  if (!hasHistory) console.log('This folder is no git repository (or git is missing), so there is no example of git-agent.')
  const commands = demoCommands({ url, secret, hasHistory, sparePort: fleet[0].ports[1], clientFile: relative(process.cwd(), join(root, 'examples/chat-client.js')) })
  if (isCheck) return await check(commands) ? 0 : 1
  show(commands, { url, secret, folder, fleet })
  isShown = true
  await once(stop.signal, 'abort')
  throw stop.signal.reason
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop.abort(new Interrupted(signal)))
// Nobody reads on (`npm run demo | head`): that is an end like any other.
process.stdout.on('error', () => stop.abort(new Interrupted('output closed')))
// Whatever goes wrong here, nothing that was started is left behind.
process.on('exit', () => processes.forEach(({ child }) => child.kill('SIGTERM')))

const folder = await mkdtemp(join(tmpdir(), 'fleet-demo-'))
try {
  process.exitCode = await main(folder)
} catch (error) {
  const reason = stop.signal.aborted ? stop.signal.reason : error
  if (!(reason instanceof Interrupted)) {
    console.error(reason instanceof DemoError ? `The demo ends: ${reason.message}` : reason)
    process.exitCode = 1
  } else if (isCheck) {
    process.exitCode = 1
  } else {
    console.log('\nEnding…')
  }
} finally {
  await end()
  await rm(folder, { recursive: true, force: true })
}
