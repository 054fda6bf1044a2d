/**
 * Under which name a client's address is counted: IPv4 as it is, IPv6 by its /64 (one customer has that many), IPv4-mapped as IPv4.
 */
import { normalizeIP } from '@fastify/rate-limit'

/** Parsing an IPv6 address costs microseconds; so many results are kept. */
const mostKept = 10_000

/** A function that names addresses, with a bounded memory of those it has seen. */
export function createAddressKeys (): (address: string) => string {
  const known = new Map<string, string>()
  return address => {
    if (!address.includes(':')) return address
    const kept = known.get(address)
    if (kept !== undefined) return kept
    const key = normalized(address)
    if (known.size >= mostKept) known.clear() // dropping the first of a Map gets slow, and this is rare
    known.set(address, key)
    return key
  }
}

function normalized (address: string): string {
  const zone = address.indexOf('%')
  return normalizeIP(zone === -1 ? address : address.slice(0, zone))
}
