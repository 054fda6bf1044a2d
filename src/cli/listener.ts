/**
 * Where the gateway listens: flags before the environment, and both before fleet.yaml.
 */
import type { FleetConfigInput } from '../config.ts'
import { hostProblem } from '../fleet/address.ts'
import { CommandError, exitCodes, type CommandIo } from './io.ts'

export interface Listener {
  readonly host?: string
  readonly port?: number
  /** What named the port, or else the host, for people. */
  readonly from: string
}

/**
 * What is said of the listener; where nothing is, the schema's defaults hold.
 * @param fileName what the file is called, for people
 * @throws CommandError when FLEET_PORT is no port, or a host is none
 */
export function listenerOf (flags: { host?: string, port?: number }, { FLEET_HOST, FLEET_PORT }: CommandIo['env'], file: FleetConfigInput, fileName = ''): Listener {
  const envPort = portOf(FLEET_PORT)
  const envHost = FLEET_HOST === '' ? undefined : FLEET_HOST
  checkHost(flags.host, '--host')
  if (flags.host === undefined) checkHost(envHost, 'FLEET_HOST')
  const host = flags.host ?? envHost ?? file.server?.host
  const port = flags.port ?? envPort ?? file.server?.port
  const from = envPort !== undefined ? 'FLEET_PORT' : envHost !== undefined ? 'FLEET_HOST' : file.server?.port !== undefined || file.server?.host !== undefined ? fileName : 'the default'
  return { ...(host !== undefined && { host }), ...(port !== undefined && { port }), from }
}

function portOf (text: string | undefined): number | undefined {
  // Kubernetes gives every pod such variables of its services: FLEET_PORT=tcp://10.0.0.1:9001 for one that is called "fleet".
  if (text === undefined || text === '' || text.startsWith('tcp://')) return undefined
  const port = Number(text)
  if (!/^\d+$/.test(text) || port > 65_535) throw new CommandError(`FLEET_PORT must be a port from 0 to 65535 (got "${text}")`, exitCodes.wrongUsage)
  return port
}

function checkHost (host: string | undefined, from: string): void {
  const problem = host === undefined ? undefined : hostProblem(host)
  if (problem !== undefined) throw new CommandError(`${from} ${problem} (got "${host}")`, exitCodes.wrongUsage)
}

/** A host for URLs: who listens everywhere is reached on this machine, and IPv6 needs its brackets. */
export function reachable (host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') ? `[${host}]` : host
}
