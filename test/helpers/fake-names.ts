/**
 * Names that resolve to what a test says, for everything in the process that asks the system's resolver: to show what becomes of a name that
 * somebody else can turn. Other names resolve as ever.
 */
import dns, { type LookupAddress, type LookupOptions } from 'node:dns'
import { syncBuiltinESMExports } from 'node:module'
import { isIP } from 'node:net'
import type { Test } from 'tap'

type Callback = (error: NodeJS.ErrnoException | null, address: string | LookupAddress[], family?: number) => void

/**
 * Takes the resolver over until the test ends; before a gateway is built, since that takes the resolver it finds.
 * @returns the names and their addresses, to be changed at will. None at all is a name that is not there
 */
export function fakeNames (t: Test, names: Record<string, string[]>): Record<string, string[]> {
  const { lookup } = dns
  const table = { ...names }

  function fakeLookup (hostname: string, options: LookupOptions, callback: Callback): void {
    const addresses = table[hostname]
    if (addresses === undefined) return (lookup as (...args: unknown[]) => void)(hostname, options, callback)
    const found = addresses.map(address => ({ address, family: isIP(address) }))
    setImmediate(() => {
      if (found.length === 0) callback(Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), { code: 'ENOTFOUND' }), '')
      else if (options.all === true) callback(null, found)
      else callback(null, found[0]!.address, found[0]!.family)
    })
  }

  dns.lookup = fakeLookup as typeof dns.lookup
  syncBuiltinESMExports()
  t.teardown(() => {
    dns.lookup = lookup
    syncBuiltinESMExports()
  })
  return table
}
