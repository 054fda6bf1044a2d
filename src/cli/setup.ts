/**
 * With what `serve` starts: the file, what flags and environment say over it, and the secret; read, put together and checked, and nothing
 * written yet.
 */
import { locate } from '../config-file.ts'
import { ConfigError, FleetOptions, mergeConfig, parseConfig, readConfigFile, stateDirOf, type ConfigSource, type FleetConfig, type FleetConfigInput } from '../config.ts'
import { startErrors } from '../gateway.ts'
import { parseOptions } from '../options.ts'
import { CommandError, type CommandIo } from './io.ts'
import { overridesOf, type ConfigFlags, type ValueSource } from './overrides.ts'
import { findSecret, type FoundSecret } from './secret.ts'
import { defaultFile } from './target.ts'
import { workersOf } from './workers/count.ts'

export interface Setup {
  /** The fleet's file, whether it exists or not. */
  readonly file: string
  readonly source: Required<Pick<ConfigSource, 'file' | 'positions'>>
  /** What flags and environment say, the secret included. */
  readonly overrides: FleetConfigInput
  /** Who said what of `overrides`, by path. */
  readonly sources: ReadonlyMap<string, ValueSource>
  /** Everything together, as it is written; */
  readonly input: FleetConfigInput
  /** and as it is understood. */
  readonly config: FleetConfig
  /** Null when auth is off. */
  readonly secret: FoundSecret | null
  readonly stateDir: string
}

/**
 * @throws ConfigError with everything that is wrong with the file, and with files that it names
 * @throws CommandError when flags, environment or the secret are no good
 */
export async function setUp (flags: ConfigFlags & { fleet?: string }, io: CommandIo): Promise<Setup> {
  const file = flags.fleet ?? defaultFile
  const { value, ...source } = await readConfigFile(file, io.env)
  const given = overridesOf(flags, io.env, value, parseOptions(FleetOptions, {}, ''))
  const merged = mergeConfig(value, given.config)
  const stateDir = stateDirOf(merged, file)
  parseConfig(merged, source) // what is wrong with the file comes before what is wrong with the secret
  if (flags.secret !== undefined && merged.auth?.enabled === false) throw new CommandError(`--secret is given, but ${file} has auth.enabled: false`)
  if (workersOf(flags, io.env) > 1 && merged.redis?.url === undefined) {
    throw new CommandError('Several workers need a Redis, by which they share registrations, leases and limits: name it with redis.url in ' +
      `${file} or with FLEET_REDIS_URL, or start without --workers (FLEET_WORKERS)`)
  }
  const secret = merged.auth?.enabled === false ? null : await findSecret(flags.secret, io.env, merged.auth, stateDir)
  const said = secret?.secret
  const overrides = said === undefined || secret?.isOwn === true ? given.config : { ...given.config, auth: { ...given.config.auth, secret: said } }
  const input = said === undefined ? merged : mergeConfig(merged, { auth: { secret: said } })
  const config = parseConfig(input, source)
  const problems = locate(startErrors(config), source)
  if (problems.length > 0) throw new ConfigError(problems)
  const sources = new Map(given.sources)
  if (said !== undefined) sources.set('auth.secret', secret!.source)
  return { file, source, overrides, sources, input, config, secret, stateDir }
}
