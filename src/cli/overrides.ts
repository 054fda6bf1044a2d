/**
 * What flags and the environment say of the configuration, and which of them said it: flags before the environment, both before the file.
 */
import type { FleetConfigInput } from '../config.ts'
import type { CommandIo } from './io.ts'
import { listenerOf } from './listener.ts'

/** Flags of `serve` that say something of the configuration, as commander gives them; one that was not given is undefined. */
export interface ConfigFlags {
  port?: number
  host?: string
  secret?: string
  /** false for --no-auth */
  auth?: boolean
  /** Requests a minute; false for --no-rate-limit. */
  rateLimit?: number | boolean
  /** false for --no-cors */
  cors?: boolean
  /** How many processes serve. */
  workers?: number
}

/** Who said the value of a setting. */
export type ValueSource =
  | { readonly from: 'flag', readonly flag: string }
  /** `file` when the variable only names the file that holds the value. */
  | { readonly from: 'environment', readonly variable: string, readonly file?: string }
  /** `variables` that the value is made of. */
  | { readonly from: 'file', readonly file: string, readonly line: number, readonly column: number, readonly variables?: readonly string[] }
  /** Made by the gateway; `isNew` when that will be at the next start. */
  | { readonly from: 'state', readonly file: string, readonly isNew: boolean }
  | { readonly from: 'default' }

export interface Overrides {
  readonly config: FleetConfigInput
  /** By path: `server.port`. */
  readonly sources: ReadonlyMap<string, ValueSource>
}

/**
 * What flags and environment say, but for the secret.
 * @param file what the file says
 * @throws CommandError when a variable of the environment, or a host, can't be
 */
export function overridesOf (flags: ConfigFlags, env: CommandIo['env'], file: FleetConfigInput, defaults: { rateLimit: { burst: number } }): Overrides {
  const { host, port } = listenerOf(flags, env, {})
  const stateDir = stateDirOfEnvironment(env)
  const perMinute = typeof flags.rateLimit === 'number' ? flags.rateLimit : undefined
  const sources = new Map<string, ValueSource>()

  function said<T> (path: string, value: T | undefined, source: ValueSource): Record<string, T> {
    if (value === undefined) return {}
    sources.set(path, source)
    return { [path.slice(path.indexOf('.') + 1)]: value }
  }

  const flag = (name: string): ValueSource => ({ from: 'flag', flag: name })
  const variable = (name: string): ValueSource => ({ from: 'environment', variable: name })
  const off = (flag: unknown) => flag === false ? false : undefined
  // Limits that are asked for are on; so many at once as a minute brings, where nobody says otherwise.
  const burst = perMinute === undefined || file.rateLimit?.burst !== undefined ? undefined : Math.min(perMinute, defaults.rateLimit.burst)
  const config = {
    server: {
      ...said('server.host', host, flags.host === undefined ? variable('FLEET_HOST') : flag('--host')),
      ...said('server.port', port, flags.port === undefined ? variable('FLEET_PORT') : flag('--port'))
    },
    auth: said('auth.enabled', off(flags.auth), flag('--no-auth')),
    cors: said('cors.enabled', off(flags.cors), flag('--no-cors')),
    rateLimit: {
      ...said('rateLimit.enabled', perMinute === undefined ? off(flags.rateLimit) : true, flag(perMinute === undefined ? '--no-rate-limit' : '--rate-limit')),
      ...said('rateLimit.perMinute', perMinute, flag('--rate-limit')),
      ...said('rateLimit.burst', burst, flag('--rate-limit'))
    },
    registry: said('registry.stateDir', stateDir, variable('FLEET_STATE_DIR')),
    redis: said('redis.url', env['FLEET_REDIS_URL'] || undefined, variable('FLEET_REDIS_URL'))
  }
  const given = Object.entries(config).filter(([, section]) => Object.keys(section).length > 0)
  return { config: Object.fromEntries(given) as FleetConfigInput, sources }
}

/** Where the environment wants what is kept over a restart. */
export function stateDirOfEnvironment ({ FLEET_STATE_DIR }: CommandIo['env']): string | undefined {
  return FLEET_STATE_DIR === '' ? undefined : FLEET_STATE_DIR
}
