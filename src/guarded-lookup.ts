/**
 * Name resolution for instances that registered themselves: what a name resolves to is held to the same rules as an address in the
 * registration, at each connection, so that a name can't be turned to another place afterwards (DNS rebinding).
 */
import { lookup as systemLookup, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { resolvedAddressProblem } from './fleet/address.ts'
import type { Instance } from './fleet/instance.ts'

/** Resolves a name to all of its addresses. */
export type ResolveAll = (hostname: string, options: { family?: number | string | undefined, all: true }, callback: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void) => void

/** The lookup for connections to an instance; undefined where the system's is right: IP literals, and what fleet.yaml says. */
export type LookupOf = (instance: Instance) => LookupFunction | undefined

/**
 * @param allowedHosts `registry.allowedHosts`
 * @param resolve @default the system's resolver
 */
export function createLookupOf (allowedHosts: readonly string[] | undefined, resolve: ResolveAll = systemLookup as ResolveAll): LookupOf {
  const rules = allowedHosts === undefined ? {} : { allowedHosts }

  const guarded: LookupFunction = (hostname, options, callback) => {
    resolve(hostname, { family: options.family, all: true }, (error, found) => {
      if (error !== null) return callback(error, '', 0)
      const allowed = found.filter(({ address }) => resolvedAddressProblem(address, rules) === undefined)
      const [first] = allowed
      if (first === undefined) return callback(Object.assign(new Error(`${hostname} resolves to nothing that may be connected to`), { code: 'FLEET_ADDRESS_REFUSED', syscall: 'getaddrinfo' }), '', 0)
      if (options.all === true) callback(null, allowed)
      else callback(null, first.address, first.family)
    })
  }
  return instance => instance.source === 'file' || isIP(instance.host) !== 0 ? undefined : guarded
}
