/**
 * Name resolution for instances that registered themselves: what a name resolves to is held to the same rules as an address in the
 * registration, at each connection, so that a name can't be turned to another place afterwards (DNS rebinding). Requests, WebSockets and
 * probes all connect through it.
 */
import { lookup as systemLookup, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { isLoopbackAddress, isLoopbackName, resolvedAddressProblem } from './fleet/address.ts'
import type { Instance } from './fleet/instance.ts'

/** Resolves a name to all of its addresses. */
export type ResolveAll = (hostname: string, options: { family?: number | string | undefined, all: true }, callback: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void) => void

/**
 * The lookup for a connection to an instance that is about to be opened; undefined where the system's is right: IP literals, and what
 * fleet.yaml says. Not to be kept, since what fleet.yaml says can change.
 */
export type LookupOf = (instance: Instance) => LookupFunction | undefined

/** What only the whole gateway knows. */
interface LookupSurroundings {
  /** @default the system's resolver */
  readonly resolve?: ResolveAll
  /** Whether an address and port are the gateway's own. @default none is */
  readonly isOwn?: (address: string, port: number) => boolean
  /** The instance as the registry has it now: who keeps one may keep it longer than fleet.yaml names it. @default the one that is given */
  readonly current?: (instance: Instance) => Instance
}

/** @param allowedHosts `registry.allowedHosts` */
export function createLookupOf (allowedHosts: readonly string[] | undefined, { resolve = systemLookup as ResolveAll, isOwn = () => false, current = instance => instance }: LookupSurroundings = {}): LookupOf {
  const rules = allowedHosts === undefined ? {} : { allowedHosts }

  function isAllowed (hostname: string, address: string, port: number): boolean {
    // localhost is no name that somebody could turn, and whoever allows it means loopback, whatever ranges stand beside it.
    const isLoopback = isLoopbackName(hostname) && isLoopbackAddress(address)
    return resolvedAddressProblem(address, isLoopback ? {} : rules) === undefined && !isOwn(address, port)
  }

  function guardedFor ({ port }: Instance): LookupFunction {
    return (hostname, options, callback) => {
      resolve(hostname, { family: options.family, all: true }, (error, found) => {
        if (error !== null) return callback(error, '', 0)
        const allowed = found.filter(({ address }) => isAllowed(hostname, address, port))
        const [first] = allowed
        if (first === undefined) return callback(Object.assign(new Error(`${hostname} resolves to nothing that may be connected to`), { code: 'FLEET_ADDRESS_REFUSED', syscall: 'getaddrinfo' }), '', 0)
        if (options.all === true) callback(null, allowed)
        else callback(null, first.address, first.family)
      })
    }
  }

  return instance => isIP(instance.host) !== 0 || current(instance).source !== 'api' ? undefined : guardedFor(instance)
}
