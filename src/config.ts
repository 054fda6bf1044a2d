/**
 * The whole configuration: the plugins' option schemas put together under the keys of fleet.yaml, and the rules between them.
 * Imports schemas only, so that a configuration can be checked without building a server.
 */
import { dirname, join } from 'node:path'
import { AuditLogOptions } from '../plugins/audit-log/options.ts'
import { AuthOptions, type AuthInput } from '../plugins/auth/options.ts'
import { ConsoleOptions } from '../plugins/console/options.ts'
import { CorsOptions } from '../plugins/cors/options.ts'
import { DocsOptions } from '../plugins/docs/options.ts'
import { HealthOptions } from '../plugins/health/options.ts'
import { MetricsOptions } from '../plugins/metrics/options.ts'
import { PathsOptions, RetryOptions, TimeoutsOptions } from '../plugins/proxy/options.ts'
import { RateLimitOptions } from '../plugins/rate-limit/options.ts'
import { RedisOptions } from '../plugins/redis/options.ts'
import { RegistryOptions } from '../plugins/registry/options.ts'
import { TracingOptions } from '../plugins/tracing/options.ts'
import { BalancerOptions, ConcurrencyOptions } from '../plugins/upstream/options.ts'
import { FileAgentOptions, type FileAgentInput } from './agent-options.ts'
import { agentProblems } from './agent-rules.ts'
import { ConfigError, locate, readYamlFile, schemaErrors, type ConfigSource, type FileSource } from './config-file.ts'
import { sectionProblems } from './config-rules.ts'
import { Options, Type, decodeOptions, parseOptions, type OptionError, type Static, type StaticDecode } from './options.ts'
import { ServerOptions } from './server-options.ts'
import type { Environment, YamlProblem } from './yaml.ts'

export { ConfigError, type ConfigProblem, type ConfigSource } from './config-file.ts'

/** What fleet.yaml may say. */
export const FleetOptions = Options({
  agents: Type.Array(FileAgentOptions, { default: [], description: 'The agents; the same name twice is two instances of one.' }),
  server: ServerOptions,
  auth: AuthOptions,
  rateLimit: RateLimitOptions,
  cors: CorsOptions,
  timeouts: TimeoutsOptions,
  paths: Type.Array(PathsOptions.items, { ...PathsOptions, default: [] }),
  retry: RetryOptions,
  health: HealthOptions,
  balancer: BalancerOptions,
  concurrency: ConcurrencyOptions,
  registry: RegistryOptions,
  redis: RedisOptions,
  auditLog: AuditLogOptions,
  metrics: MetricsOptions,
  docs: DocsOptions,
  tracing: TracingOptions,
  console: ConsoleOptions
}, 'fleet.yaml')

/** The configuration as it was understood: complete, durations in milliseconds, sizes in bytes, frozen. */
export type FleetConfig = StaticDecode<typeof FleetOptions>

/** What an empty configuration is. */
const defaults: FleetConfig = parseOptions(FleetOptions, {}, '')

/** The configuration as it is written, in fleet.yaml or in code: what is left out has its default. */
export interface FleetConfigInput {
  agents?: FileAgentInput[]
  server?: Partial<Static<typeof ServerOptions>>
  auth?: AuthInput
  rateLimit?: Partial<Static<typeof RateLimitOptions>>
  cors?: Partial<Static<typeof CorsOptions>>
  timeouts?: Partial<Static<typeof TimeoutsOptions>>
  paths?: Static<typeof PathsOptions>
  retry?: Partial<Static<typeof RetryOptions>>
  health?: Partial<Static<typeof HealthOptions>>
  balancer?: Partial<Static<typeof BalancerOptions>>
  concurrency?: Partial<Static<typeof ConcurrencyOptions>>
  registry?: Partial<Static<typeof RegistryOptions>>
  redis?: Partial<Static<typeof RedisOptions>>
  auditLog?: Partial<Static<typeof AuditLogOptions>>
  metrics?: Partial<Static<typeof MetricsOptions>>
  docs?: Partial<Static<typeof DocsOptions>>
  tracing?: Partial<Static<typeof TracingOptions>>
  console?: Partial<Static<typeof ConsoleOptions>>
}

/**
 * Validates a configuration, fills in defaults, resolves and freezes it. A key with nothing behind it counts as left out.
 * @param source where `value` was read from, so that errors name line and column; durations from there need their unit
 * @throws {ConfigError} with everything that is wrong
 */
export function parseConfig (value: unknown, source?: ConfigSource): FleetConfig {
  const given = withoutEmptyKeys(value)
  refuse(configErrors(given, source), source)
  return decodeOptions(FleetOptions, given)
}

/** A configuration file's contents, as YAML and not as a valid configuration yet. */
export interface ConfigContents extends FileSource {
  /** Not validated: parseConfig() does that. */
  readonly value: FleetConfigInput
}

/**
 * Reads a configuration file for parseConfig(), to which it goes together with its places. A missing file is an empty fleet.
 * @param file its name, as errors shall have it
 * @param env for `${NAME}` in the file
 * @throws {ConfigError} when it can't be read, is not YAML or names a variable that is missing; in the last case with all other errors
 */
export async function readConfigFile (file: string, env: Environment = {}): Promise<ConfigContents> {
  const { value, positions, problems } = await readYamlFile(file, env)
  const source = { file, positions }
  const given = withoutEmptyKeys(value)
  if (problems.length > 0) refuse(configErrors(given, source), source, problems)
  return { ...source, value: given as FleetConfigInput }
}

/**
 * Reads and validates a configuration file. A missing file is an empty fleet.
 * @throws {ConfigError} with everything that is wrong
 */
export async function loadConfig (file: string, env: Environment = {}): Promise<FleetConfig> {
  const { value, ...source } = await readConfigFile(file, env)
  return parseConfig(value, source)
}

/** What `base` says, and where `overrides` says something about the same key, that. Lists are replaced as a whole. */
export function mergeConfig (base: FleetConfigInput, overrides: FleetConfigInput): FleetConfigInput {
  return merged(base, overrides) as FleetConfigInput
}

/** Where what is kept over a restart belongs: `registry.stateDir`, else `.fleet` beside the file. */
export function stateDirOf ({ registry }: Pick<FleetConfigInput, 'registry'>, file: string): string {
  return registry?.stateDir ?? join(dirname(file), '.fleet')
}

function merged (base: unknown, overrides: unknown): unknown {
  if (overrides === undefined) return base
  if (!isMapping(overrides) || base === undefined) return overrides
  if (!isMapping(base)) return base // wrong, and to be refused as what it is
  const keys = new Set([...Object.keys(base), ...Object.keys(overrides)])
  return Object.fromEntries([...keys].map(key => [key, merged(own(base, key), own(overrides, key))]))
}

function isMapping (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function own (value: Record<string, unknown>, key: string): unknown {
  return Object.hasOwn(value, key) ? value[key] : undefined
}

/** `agents:` with all its entries commented out is a key without a value; so is the whole of an empty file. Unknown keys stay, to be refused. */
function withoutEmptyKeys (value: unknown): unknown {
  if (value === undefined || value === null) return {}
  if (!isMapping(value)) return value
  return Object.fromEntries(Object.entries(value).filter(([key, section]) => section !== null || !Object.hasOwn(FleetOptions.properties, key)))
}

function configErrors (value: unknown, source: ConfigSource | undefined): OptionError[] {
  const errors = schemaErrors(FleetOptions, value, source)
  const isSound = (path: string) => !errors.some(error => error.path === path || error.path.startsWith(`${path}.`) || error.path.startsWith(`${path}[`))
  if (!isMapping(value)) return errors
  return [...errors, ...agentProblems(value['agents'], isSound), ...sectionProblems(value as FleetConfigInput, isSound, defaults)]
}

function refuse (errors: readonly OptionError[], source: ConfigSource | undefined, variables: readonly YamlProblem[] = []): void {
  if (errors.length > 0 || variables.length > 0) throw new ConfigError(locate(errors, source, variables))
}
