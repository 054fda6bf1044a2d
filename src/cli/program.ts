/**
 * The command line as a whole: its commands, its help, and what each kind of failure prints and exits with.
 */
import { Command, CommanderError } from 'commander'
import { nearestNames } from '../fleet/nearest-names.ts'
import { agentsCommand } from './agents.ts'
import { checkCommand } from './check.ts'
import { deregisterCommand } from './deregister.ts'
import { explainCommand } from './explain.ts'
import { healthCommand } from './health.ts'
import { colorsFor, CommandError, exitCodes, onlyColours, plain, say, type CommandIo } from './io.ts'
import { keyCommand } from './key.ts'
import { onboardCommand } from './onboard.ts'
import { packageVersion } from './package.ts'
import { registerCommand } from './register.ts'
import { routesCommand } from './routes.ts'
import { runCommand } from './run.ts'
import { serveCommand } from './serve.ts'
import { statsCommand } from './stats.ts'
import { testCommand } from './test.ts'

/** In the order in which somebody new needs them. */
const commands = [serveCommand, onboardCommand, checkCommand, keyCommand, testCommand, explainCommand, agentsCommand, routesCommand, healthCommand, statsCommand, registerCommand, deregisterCommand, runCommand]

/** The whole program, for parsing and for the documents. */
export function createProgram (io: CommandIo): Command {
  const program = new Command('fleet-gateway')
    .description('One HTTP front door to a whole fleet of agents.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .enablePositionalOptions() // so that "--" and what is behind it are left to the command
    .addHelpText('after', `
Exit codes: ${exitCodes.good} good, ${exitCodes.failed} failed, ${exitCodes.wrongUsage} wrong usage.
Environment: FLEET_SECRET, FLEET_SECRET_FILE (token), FLEET_HOST, FLEET_PORT (listener), FLEET_STATE_DIR (what is kept), FLEET_URL, FLEET_CA_FILE (gateway of the other commands), NO_COLOR.`)
  for (const create of commands) program.addCommand(create(io))
  for (const command of [program, ...program.commands, ...program.commands.flatMap(({ commands }) => commands)]) {
    command
      .exitOverride()
      .showHelpAfterError(`("${pathOf(command)} --help" tells more)`)
      .configureOutput({
        writeOut: text => io.stdout.write(onlyColours(text)),
        writeErr: text => io.stderr.write(onlyColours(text)),
        getOutHelpWidth: () => io.stdout.columns ?? 100,
        getErrHelpWidth: () => io.stderr.columns ?? 100,
        getOutHasColors: () => colorsFor(io.stdout, io.env).isColorSupported,
        getErrHasColors: () => colorsFor(io.stderr, io.env).isColorSupported,
        outputError: (text, write) => write(colorsFor(io.stderr, io.env).red(plain(withoutValue(text, command))))
      })
      .configureHelp({ styleTitle: title => colorsFor(io.stdout, io.env).bold(title), sortOptions: false })
  }
  return program
}

/** `fleet-gateway key new`. */
function pathOf (command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

/** A misspelt `--secert=TOKEN` or `-sTOKEN` is no reason to print the token. */
function withoutValue (text: string, { options }: Command): string {
  const [, name] = /^error: unknown option '(--[^'=]+(?==)|-[^'-](?=[^']))/.exec(text) ?? []
  if (name === undefined) return text
  const [meant] = nearestNames(name, options.flatMap(({ long, short }) => [long ?? '', short ?? '']))
  return `error: unknown option '${name}'\n${meant === undefined ? '' : `(Did you mean ${meant}?)\n`}`
}

/** Runs the command that the arguments name. @returns the exit code */
export async function run (args: readonly string[], io: CommandIo): Promise<number> {
  try {
    await createProgram(io).parseAsync(args, { from: 'user' })
    return exitCodes.good
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.good : exitCodes.wrongUsage
    const { red } = colorsFor(io.stderr, io.env)
    if (error instanceof CommandError) {
      if (error.message !== '') say(io, red(plain(error.message)))
      return error.exitCode
    }
    say(io, red(plain(error instanceof Error ? error.stack ?? error.message : String(error))))
    return exitCodes.failed
  }
}
