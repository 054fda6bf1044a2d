/**
 * Which gateway a client command talks to, and with which token: what flags and environment say, else what `serve` would do here.
 */
import { normalize } from 'node:path'
import { locate, readYamlFile } from '../config-file.ts'
import { ConfigError, parseConfig, stateDirOf, type FleetConfigInput } from '../config.ts'
import { parseOptions } from '../options.ts'
import { ServerOptions } from '../server-options.ts'
import { CommandError, exitCodes, say, type CommandIo } from './io.ts'
import { listenerOf, reachable } from './listener.ts'
import { stateDirOfEnvironment } from './overrides.ts'
import { foundToken, givenToken, type ClientToken } from './secret.ts'

/** Flags of every command that talks to a gateway. */
export interface ClientFlags {
  url?: string
  ca?: string
  secret?: string
  fleet?: string
  json?: boolean
}

export interface Target {
  /** Without a slash at its end: `http://127.0.0.1:9001`, `https://host/fleet`. */
  readonly url: string
  /** What named the address, for people. */
  readonly urlFrom: string
  /** Undefined when none was found: the gateway may ask for none. */
  readonly token: ClientToken | undefined
  /** Whom to believe over https; whom Node believes, when left out. */
  readonly trust?: Trust
}

/** Whom a client believes. */
export interface Trust {
  /** A file with certificates of authorities, instead of those that Node knows. */
  readonly caFile?: string
  /** What named it. */
  readonly caFrom?: string
  /** The certificate's file of the gateway whose fleet.yaml this is: whoever has that certificate is that gateway, whatever its name. */
  readonly certFile?: string
}

/** The file that is looked for in the current folder. */
export const defaultFile = 'fleet.yaml'

/** What makes a file that is missing. */
export function onboardHint (file: string, self: string): string {
  return `"${self} onboard${normalize(file) === defaultFile ? '' : ` --fleet ${file}`}" writes one`
}

/** The listener of a gateway when nobody says otherwise. */
export const { host: defaultHost, port: defaultPort } = parseOptions(ServerOptions, {}, 'server')

/** Where a gateway is when nobody says otherwise. */
export const defaultUrl = `http://${defaultHost}:${defaultPort}`

/** @throws CommandError when the address is no URL, or a source of the token is no good */
export async function findTarget ({ url, ca, secret, fleet = defaultFile }: ClientFlags, io: CommandIo): Promise<Target> {
  const { env } = io
  const address = givenUrl(url, env)
  const given = await givenToken(secret, env)
  // Who says both has no need of a file, and no word about it either.
  const keys: (keyof FleetConfigInput)[] = [...address === undefined || address.url.startsWith('https:') ? ['server' as const] : [], ...given === undefined ? ['auth' as const, 'registry' as const] : []]
  const file = keys.length === 0 ? {} : await readForClient(fleet, keys, io)
  const token = given ?? named(fleet, await foundToken(file.auth, stateDirOfEnvironment(env) ?? stateDirOf(file, fleet)))
  const { tls } = file.server ?? {}
  const trust = { ...givenTrust(ca, env), ...(tls && { certFile: tls.certFile }) }
  if (address !== undefined) return { ...address, token, trust }
  const { host = defaultHost, port = defaultPort, from } = listenerOf({}, env, file, fleet)
  return { url: `${tls === undefined ? 'http' : 'https'}://${reachable(host)}:${port}`, urlFrom: from, token, trust }
}

/** A token of the file, by the file's own name. */
function named (fleet: string, token: ClientToken | undefined): ClientToken | undefined {
  return token && { ...token, from: token.from.replace(/(^|" of )fleet\.yaml$/, (_, before: string) => before + fleet) }
}

function givenTrust (flag: string | undefined, { FLEET_CA_FILE }: CommandIo['env']): Trust {
  if (flag !== undefined) return { caFile: flag, caFrom: '--ca' }
  return FLEET_CA_FILE === undefined || FLEET_CA_FILE === '' ? {} : { caFile: FLEET_CA_FILE, caFrom: 'FLEET_CA_FILE' }
}

/** What `serve` would refuse is not used; nor does it keep a client from asking a gateway that runs. */
async function readForClient (file: string, keys: readonly (keyof FleetConfigInput)[], io: CommandIo): Promise<FleetConfigInput> {
  try {
    // Variables that are in other parts of the file may be set for the gateway alone.
    const { value, ...source } = await readYamlFile(file, io.env, keys)
    if (source.problems.length > 0) throw new ConfigError(locate([], source, source.problems))
    const wanted = typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value).filter(([key]) => (keys as readonly string[]).includes(key))) : value
    parseConfig(wanted, source)
    return (wanted ?? {}) as FleetConfigInput
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    say(io, `${file} is not valid and is not used here; "${io.self} check" tells why`)
    return {}
  }
}

function givenUrl (flag: string | undefined, { FLEET_URL }: CommandIo['env']): Pick<Target, 'url' | 'urlFrom'> | undefined {
  if (flag !== undefined) return { url: checkedUrl(flag, '--url'), urlFrom: '--url' }
  return FLEET_URL === undefined || FLEET_URL === '' ? undefined : { url: checkedUrl(FLEET_URL, 'FLEET_URL'), urlFrom: 'FLEET_URL' }
}

function checkedUrl (text: string, from: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:') || url.hostname === '') {
    throw new CommandError(`${from} must be an address such as ${defaultUrl}${text.includes('@') ? '' : ` (got "${text}")`}`, exitCodes.wrongUsage)
  }
  if (url.username !== '' || url.password !== '') throw new CommandError(`${from} must not hold a password: give the token with FLEET_SECRET`, exitCodes.wrongUsage)
  return url.origin + url.pathname.replace(/\/+$/, '')
}
