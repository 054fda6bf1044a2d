/** Asks name servers, and tells an answer from none. */
import { Resolver } from 'node:dns/promises'
import { isNobodysAddress } from '../../src/fleet/address.ts'
import type { Reply } from './question.ts'

/** Where an SRV record leads to. */
export interface Service {
  /** A name, which has addresses. */
  readonly name: string
  readonly port: number
  readonly priority: number
  readonly weight: number
}

/** One round of questions. */
export interface Lookup {
  addresses (name: string, type: 'A' | 'AAAA'): Promise<Reply<string>>
  services (name: string): Promise<Reply<Service>>
  /** What is under way fails. */
  cancel (): void
}

/** A name server gets this long, and twice that when it is asked again. */
const patience = { timeout: 2_000, tries: 2 } as const

/** What says that a name has no such records: NXDOMAIN, and an answer without any. */
const nothing = new Set(['ENOTFOUND', 'ENODATA'])

/**
 * @param servers those of the system when left out, as they are now: each round reads /etc/resolv.conf anew
 * @throws Error when one of them is no address
 */
export function createLookup (servers?: readonly string[]): Lookup {
  const resolver = new Resolver(patience)
  if (servers !== undefined) resolver.setServers(servers)
  return {
    addresses: (name, type) => replyOf(async () => {
      const found = await (type === 'A' ? resolver.resolve4(name, { ttl: true }) : resolver.resolve6(name, { ttl: true }))
      const usable = found.filter(({ address }) => !isNobodysAddress(address))
      // Node tells no TTL from the 257th record on.
      const ttls = found.flatMap(({ ttl }: { ttl?: number }) => ttl ?? [])
      return { records: usable.map(({ address }) => address), ...(ttls.length > 0 && { ttlMs: Math.min(...ttls) * 1_000 }) }
    }),
    services: name => replyOf(async () => {
      const found = await resolver.resolveSrv(name)
      // A target "." says that there is no such service (RFC 2782).
      return { records: found.filter(service => service.name !== '' && service.name !== '.' && service.port > 0) }
    }),
    cancel: () => resolver.cancel()
  }
}

async function replyOf<R> (ask: () => Promise<{ records: readonly R[], ttlMs?: number }>): Promise<Reply<R>> {
  try {
    const { records, ...others } = await ask()
    return records.length === 0 ? { kind: 'nothing' } : { kind: 'records', records, ...others }
  } catch (error) {
    const { code = 'unknown', message } = error as NodeJS.ErrnoException
    return nothing.has(code) ? { kind: 'nothing' } : { kind: 'failure', reason: code.replace(/^E/, '') || message }
  }
}
