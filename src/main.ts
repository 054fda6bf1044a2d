#!/usr/bin/env node
/**
 * Process entry: arguments, environment, signals, exit code. The only file that touches `process`.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import { CommandError, type CommandIo } from './cli/io.ts'
import { serve, type ServeFlags } from './cli/serve.ts'

const io: CommandIo = {
  env: process.env,
  say: line => { process.stderr.write(`${line}\n`) },
  isTerminal: process.stderr.isTTY === true,
  onSignal (listener) {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => listener(signal))
  },
  exit: code => process.exit(code)
}

/** A reader that has seen enough (`… | head`) is no failure. */
function ignoreClosedPipe (error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error
}
process.stdout.on('error', ignoreClosedPipe)
process.stderr.on('error', ignoreClosedPipe)

/** Wrong usage, as commander reports it, ends with 2; `--help` and `--version` with 0. */
const usageExitCode = 2

function integer (least: number, most: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || value > most) throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`)
    return value
  }
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const program = new Command('fleet-gateway')
  .description('One HTTP front door to a whole fleet of agents.')
  .version(version)
  .exitOverride()
  .showHelpAfterError('(--help tells more)')

program.command('serve')
  .description('run the gateway')
  .option('--port <port>', 'port to listen on (FLEET_PORT; 9001)', integer(0, 65_535))
  .option('--host <address>', 'address to listen on (FLEET_HOST; 127.0.0.1)')
  .option('--secret <token>', 'the shared secret; better in FLEET_SECRET or FLEET_SECRET_FILE, where other users of the machine can\'t see it')
  .option('--no-auth', 'ask for no token')
  .option('--rate-limit <n>', 'requests a minute per client', integer(1, 60_000_000))
  .option('--no-rate-limit', 'do not limit requests')
  .option('--no-cors', 'leave cross-origin requests to the agents')
  .option('--fleet, --fleet-yaml <file>', 'the fleet\'s file (fleet.yaml)')
  .addHelpText('after', `
Examples:
  $ fleet-gateway serve
  $ FLEET_SECRET=… fleet-gateway serve --port 9001 --fleet fleet.yaml
  $ fleet-gateway serve --no-auth          # on a laptop, loopback only`)
  .action(async (flags: ServeFlags & { fleetYaml?: string }) => {
    const { fleetYaml, ...rest } = flags
    if (rest.auth === false && rest.secret !== undefined) throw new CommandError('--secret and --no-auth contradict each other', usageExitCode)
    process.exit(await serve({ ...(fleetYaml !== undefined && { fleet: fleetYaml }), ...rest }, io))
  })

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : usageExitCode
  } else if (error instanceof CommandError) {
    io.say(error.message)
    process.exitCode = error.exitCode
  } else {
    io.say(error instanceof Error ? error.stack ?? error.message : String(error))
    process.exitCode = 1
  }
}
