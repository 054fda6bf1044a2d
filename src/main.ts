#!/usr/bin/env node
/**
 * Process entry: arguments, environment, signals, exit code. The only file that touches `process`. It imports nothing of the program
 * itself before it knows that this Node can run it.
 */
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { basename, relative } from 'node:path'
import type { CommandIo } from './cli/io.ts'

const { engines } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { engines: { node: string } }

/** Whether the running Node is as new as `>=20.19.0` asks. */
function isNewEnough (range: string): boolean {
  const numbers = (version: string) => version.replace(/^\D+/, '').split('.').map(Number)
  const [least, running] = [numbers(range), numbers(process.versions.node)]
  const index = least.findIndex((number, place) => number !== running[place])
  return index === -1 || running[index]! > least[index]!
}

/** `fleet-gateway` where it is installed, else what was typed. */
function ownName (): string {
  const [, script = ''] = process.argv
  return basename(script).startsWith('fleet-gateway') ? 'fleet-gateway' : `node ${relative(process.cwd(), script)}`
}

/** A reader that has seen enough (`… | head`) is no failure; a disk that is full is. */
function onOutputError (error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') return
  process.stderr.write(`The output can't be written: ${error.message}\n`)
  process.exitCode = 1
}

const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/** What becomes of commands that are told to end while they are being loaded; as the first process of a container they would not hear it. */
const onEarlySignal: Readonly<Record<string, (signal: NodeJS.Signals) => void>> = {
  // It ends well; what it would read or open again it has not read or opened yet.
  serve: signal => { if (signal !== 'SIGHUP' && signal !== 'SIGUSR2') process.exit(0) },
  // Its program has not been started.
  run: signal => { process.exit(128 + constants.signals[signal]) }
}

async function main (): Promise<void> {
  // One listener for good: while it changed, a signal would be lost. A command that only asks is ended as any other program.
  let onSignal: ((signal: NodeJS.Signals) => void) | undefined
  const taken = new Set<NodeJS.Signals>()
  const take = (listener: (signal: NodeJS.Signals) => void, others: readonly NodeJS.Signals[] = []) => {
    for (const signal of [...signals, ...others]) if (!taken.has(signal)) process.on(signal, () => onSignal?.(signal))
    for (const signal of [...signals, ...others]) taken.add(signal)
    onSignal = listener
  }
  const early = onEarlySignal[process.argv[2] ?? '']
  if (early !== undefined) take(early, process.argv[2] === 'serve' ? ['SIGUSR2'] : [])
  process.stdout.on('error', onOutputError)
  process.stderr.on('error', () => {}) // a terminal that was closed must not end a gateway
  const io: CommandIo = {
    self: ownName(),
    env: process.env,
    // Looked at only by who asks questions: a stdin that is closed must not trouble the others.
    get stdin () { return process.stdin },
    stdout: process.stdout,
    stderr: process.stderr,
    onSignal (listener, others) {
      take(listener, others)
      return () => { for (const signal of taken) process.removeAllListeners(signal) }
    },
    exit: code => process.exit(code)
  }
  const { run } = await import('./cli/program.ts')
  const code = await run(process.argv.slice(2), io)
  process.exitCode = code === 0 ? process.exitCode ?? 0 : code
}

if (isNewEnough(engines.node)) {
  await main()
} else {
  process.stderr.write(`Fleet Gateway needs Node ${engines.node}, and this is ${process.versions.node}: install a newer one from https://nodejs.org\n`)
  process.exitCode = 1
}
