/**
 * The command line as a whole: its commands, its help, and what each kind of failure prints and exits with.
 */
import { Command, CommanderError } from 'commander'
import { nearestNames } from '../fleet/nearest-names.ts'
import { commands } from './commands.ts'
import { colorsFor, CommandError, exitCodes, onlyColours, plain, say, type CommandIo } from './io.ts'
import { packageVersion } from '../version.ts'

/**
 * The program, for parsing and for the documents.
 * @param words commands that none of these names are there by name alone, for the help @default all are there as they are
 */
export async function createProgram (io: CommandIo, words?: readonly string[]): Promise<Command> {
  const program = new Command('fleet-gateway')
    .description('One HTTP front door to a whole fleet of agents.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .enablePositionalOptions() // so that "--" and what is behind it are left to the command
    .addHelpText('after', `
Exit codes: ${exitCodes.good} good, ${exitCodes.failed} failed, ${exitCodes.wrongUsage} wrong usage.
Environment: FLEET_SECRET, FLEET_SECRET_FILE (token), FLEET_HOST, FLEET_PORT (listener), FLEET_STATE_DIR (what is kept), FLEET_REDIS_URL (what gateways share), FLEET_WORKERS (processes), FLEET_URL, FLEET_CA_FILE (gateway of the other commands), NO_COLOR.`)
  for (const { name, about, load } of commands) {
    const isWanted = words === undefined || words.includes(name)
    program.addCommand((isWanted ? (await load())(io) : new Command(name)).description(about))
  }
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
        outputError: (text, write) => write(colorsFor(io.stderr, io.env).red(plain(withHint(withoutValue(text, command), command))))
      })
      .configureHelp({
        styleTitle: title => colorsFor(io.stdout, io.env).bold(title),
        sortOptions: false,
        ...(command === program && { subcommandTerm: (listed: Command) => listed.name() }) // what they take is in the help of each
      })
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

/** A flag that nobody knows is probably the program's, of a command that runs one. */
function withHint (text: string, command: Command): string {
  if (!command.usage().includes(' -- ') || !text.startsWith('error: unknown option')) return text
  return `${text}(The program and what is its own stand behind "--": ${pathOf(command)} ${command.usage()})\n`
}

/** Runs the command that the arguments name. @returns the exit code */
export async function run (args: readonly string[], io: CommandIo): Promise<number> {
  try {
    const program = await createProgram(io, args)
    await program.parseAsync(args, { from: 'user' })
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
