/**
 * Whether an address is the gateway's own: an instance there would make it talk to itself. Asked of what a registration names, and again of
 * what a name resolves to.
 */
import { isIP, type AddressInfo, type Server } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { canonicalHost, isLoopbackAddress, isLoopbackName } from './fleet/address.ts'
import { plainAddress } from './plain-address.ts'

/**
 * True when `host:port` leads back to `server`, as far as that can be told without resolving a name. False while it does not listen on a
 * port. With loopback all of 127.0.0.0/8 is meant, and both families: which of them are bound is too fine a distinction to rely on.
 */
export function isOwnAddress (server: Server, host: string, port: number): boolean {
  const listening = server.address()
  if (listening === null || typeof listening === 'string' || listening.port !== port) return false
  const address = boundAddress(listening)
  const isEverywhere = address === '0.0.0.0' || address === '::'
  const name = canonicalHost(host)
  if (isLoopbackName(name) || isLoopbackAddress(name)) return isEverywhere || isLoopbackAddress(address)
  if (isIP(name) === 0) return !isLoopbackAddress(address) && namesOfThisMachine().has(name)
  return isEverywhere ? addressesOfThisMachine().has(name) : name === address
}

function boundAddress ({ address }: AddressInfo): string {
  return canonicalHost(plainAddress(address))
}

function addressesOfThisMachine (): Set<string> {
  return new Set(Object.values(networkInterfaces()).flatMap(entries => entries ?? []).map(({ address }) => canonicalHost(address)))
}

/** `box.example.com`, `box`, and `box.local` as mDNS has it. Other names show when they are resolved. */
function namesOfThisMachine (): Set<string> {
  const name = canonicalHost(hostname())
  const [first = name] = name.split('.')
  return new Set([name, first, `${first}.local`])
}
