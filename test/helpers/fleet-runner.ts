/** `fleet-gateway run` as a process, with programs that tell what becomes of them. */
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { gatherFrom, type PrintingChild } from './printing-child.ts'
import { measuredIf } from './unmeasured.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** As `npm test` has built it. */
const main = join(root, 'dist/src/main.js')

/**
 * A program that listens on PORT, unless LISTENS is `no`. It prints each signal it gets. A SIGTERM ends it with 0; a SIGINT a while later, with
 * the number of them. `/hold` is answered when somebody has asked for `/release`, `/exit?code=3` ends it.
 */
const listener = `
const { createServer } = require('node:http')
const { env, pid, argv } = process
let interrupts = 0
const held = []
for (const signal of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2']) {
  process.on(signal, () => {
    console.log('got ' + signal)
    if (signal === 'SIGTERM') process.exit(0)
    if (signal === 'SIGINT' && ++interrupts === 1) setTimeout(() => process.exit(interrupts), 1_000)
  })
}
const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://any')
  if (pathname === '/exit') process.exit(Number(searchParams.get('code')))
  if (pathname === '/hold') { console.log('holds'); return held.push(response) }
  if (pathname === '/release') for (const one of held) one.end('released')
  response.end(JSON.stringify({ pid, port: env.PORT, host: env.HOST, args: argv.slice(1) }))
})
console.log('pid ' + pid)
if (env.LISTENS === 'no') setInterval(() => {}, 1_000)
else server.listen(env.PORT, env.HOST)
`

export interface Runner extends PrintingChild {
  readonly pid: number
  kill (signal: NodeJS.Signals): void
  /** Types at its terminal, or writes into its standard input. */
  write (text: string): void
}

export interface RunnerOptions {
  env?: Record<string, string>
  cwd?: string
  /** Whether coverage is measured in it, which takes it a second longer to start. */
  covered?: boolean
  /** What runs it: `script …`, `unshare …`. It gets the command as further arguments. */
  around?: readonly string[]
}

/** Why tests that need a terminal can't run; false when they can. */
export const noTerminal = spawnSync('script', ['--version']).status === 0 ? false : 'there is no script(1) from util-linux here, which gives a terminal'

/** The words of `fleet-gateway run …`, for who runs them differently. */
export function runWords (...args: readonly string[]): string[] {
  return [process.execPath, main, 'run', ...args]
}

/** Starts a command, and ends it and the listeners it started with the test. */
export function startWords (t: Test, [file = '', ...args]: readonly string[], { env = {}, cwd = root, covered = false }: Omit<RunnerOptions, 'around'> = {}): Runner {
  const { FLEET_URL, FLEET_HOST, FLEET_PORT, FLEET_SECRET, FLEET_SECRET_FILE, PORT, HOST, SHELL, ...inherited } = process.env
  // A session of its own has no terminal, wherever the tests run: a signal is then never taken for a key of one.
  const child = spawn(...measuredIf(covered, file, ...args), { cwd, env: { ...inherited, NO_COLOR: '1', ...env }, stdio: ['pipe', 'pipe', 'pipe'], detached: true })
  const printing = gatherFrom(child)
  child.stdin.on('error', () => {})
  t.teardown(async () => {
    // Numbers of another namespace are somebody else's here; what is in it ends with it.
    if (file !== 'unshare') for (const [, pid] of printing.output().matchAll(/^pid (\d+)/gm)) killIfThere(Number(pid))
    child.kill('SIGKILL')
    await printing.ended
  })
  return {
    ...printing,
    pid: child.pid ?? NaN,
    kill: signal => { child.kill(signal) },
    write: text => { child.stdin.write(text) }
  }
}

/** Starts `fleet-gateway run` with these arguments. */
export function startRunner (t: Test, args: readonly string[], { around = [], ...options }: RunnerOptions = {}): Runner {
  return startWords(t, [...around, ...runWords(...args)], options)
}

/** The command of a program that listens and tells of signals. */
export function listenerCommand (...args: readonly string[]): string[] {
  return [process.execPath, '-e', listener, '--', ...args]
}

/** Resolves when the agent has so many instances. */
export async function untilInstances ({ registry }: FastifyInstance, name: string, count: number): Promise<void> {
  const has = () => (registry.find(name)?.instances.length ?? 0) === count
  if (has()) return
  await new Promise<void>(resolve => {
    const stop = registry.onChange(() => {
      if (!has()) return
      stop()
      resolve()
    })
  })
}

function killIfThere (pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}
