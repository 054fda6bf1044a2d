/**
 * `fleet-gateway check [file]`: says whether `serve` would take the file, with every error and its place. Asks no gateway.
 */
import { Command } from 'commander'
import { locate, readText } from '../config-file.ts'
import { ConfigError, parseConfig, readConfigFile, type ConfigProblem, type FleetConfig } from '../config.ts'
import { startErrors } from '../gateway.ts'
import { fleetOf, jsonOption, withExamples } from './command.ts'
import { colorsFor, CommandError, exitCodes, plain, print, printJson, say, type CommandIo } from './io.ts'
import { defaultFile, onboardHint } from './target.ts'
import { count } from './wording.ts'

interface CheckFlags {
  fleet?: string
  json?: boolean
}

export function checkCommand (io: CommandIo): Command {
  const command = new Command('check')
    .argument('[file]', 'the file (fleet.yaml)')
    .option('--fleet, --fleet-yaml <file>', 'the same')
    .option(...jsonOption)
    .action((file: string | undefined, flags: CheckFlags) => check(file, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway check'],
    ['fleet-gateway check staging.yaml --json | jq -r \'.problems[].message\'']
  ])
}

async function check (given: string | undefined, flags: CheckFlags, io: CommandIo): Promise<void> {
  if (given !== undefined && flags.fleet !== undefined) throw new CommandError('Name the file once', exitCodes.wrongUsage)
  if (given === '') throw new CommandError('Name a file: what was given is empty', exitCodes.wrongUsage)
  const file = given ?? flags.fleet ?? defaultFile
  const { problems, config } = await examine(file, io)
  if (config === undefined || problems.length > 0) return tellProblems(file, problems, flags, io)
  const agents = new Set(config.agents.map(({ name }) => name)).size
  const instances = config.agents.reduce((sum, agent) => sum + (agent.instances?.length ?? (agent.port === undefined ? 0 : 1)), 0)
  const names = config.agents.filter(({ dns }) => dns !== undefined).length
  if (flags.json) printJson(io, { ok: true, file, agents, instances, problems })
  else print(io, `${colorsFor(io.stdout, io.env).green('ok')}  ${file}: ${count(agents, 'agent')}, ${count(instances, 'instance')}${names === 0 ? '' : ` and ${count(names, 'name')} in DNS`}`)
}

/** What is wrong with the file, for people or programs. @throws CommandError always: this is a failure */
export function tellProblems (file: string, problems: readonly ConfigProblem[], { json = false }: { json?: boolean }, io: CommandIo): never {
  if (json) {
    printJson(io, { ok: false, file, problems })
    throw new CommandError()
  }
  const text = plain(new ConfigError(problems).message)
  // Of a file that is missing, or can't be read, that is all there is to say.
  if (problems.every(({ path, line }) => path === '' && line === undefined)) throw new CommandError(text)
  say(io, text)
  throw new CommandError(`${file} has ${count(problems.length, 'problem')}; a running gateway keeps what it has`)
}

async function examine (file: string, { env, self }: CommandIo): Promise<{ problems: readonly ConfigProblem[], config?: FleetConfig }> {
  try {
    if (await readText(file) === undefined) return { problems: [{ file, path: '', message: `there is no such file; ${onboardHint(file, self)}` }] }
    const { value, ...source } = await readConfigFile(file, env)
    const config = parseConfig(value, source)
    return { config, problems: locate(startErrors(withoutOverruled(config, env)), source) }
  } catch (error) {
    if (error instanceof ConfigError) return { problems: error.problems }
    throw error
  }
}

/** Where the environment has the secret `serve` reads no file for it, so nothing in that can be wrong. */
function withoutOverruled (config: FleetConfig, { FLEET_SECRET, FLEET_SECRET_FILE }: CommandIo['env']): FleetConfig {
  const { secretFile: _overruled, ...auth } = config.auth
  return (FLEET_SECRET ?? '') === '' && (FLEET_SECRET_FILE ?? '') === '' ? config : { ...config, auth }
}
