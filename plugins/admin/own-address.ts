/**
 * Whether an address is the gateway's own: an agent registered there would make it talk to itself.
 */
import type { AddressInfo, Server } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'

/** True when `host:port` leads back to `server`. False while it does not listen on a port. */
export function isOwnAddress (server: Server, host: string, port: number): boolean {
  const listening = server.address()
  if (listening === null || typeof listening === 'string' || listening.port !== port) return false
  const name = host.toLowerCase()
  return boundAddresses(listening).has(name) || (isLoopbackName(name) && listensOnLoopback(listening))
}

function boundAddresses ({ address }: AddressInfo): Set<string> {
  if (address !== '0.0.0.0' && address !== '::') return new Set([address])
  const all = Object.values(networkInterfaces()).flatMap(entries => entries ?? []).map(entry => entry.address.toLowerCase())
  return new Set([...all, hostname().toLowerCase()])
}

function isLoopbackName (name: string): boolean {
  return name === 'localhost' || name.endsWith('.localhost') || name.startsWith('127.') || name === '::1'
}

function listensOnLoopback ({ address }: AddressInfo): boolean {
  return address === '0.0.0.0' || address === '::' || address === '::1' || address.startsWith('127.')
}
