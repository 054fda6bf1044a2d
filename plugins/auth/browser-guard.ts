/**
 * What stands between a web page and a gateway without auth: a page from elsewhere must neither call it nor reach it under a name of its
 * own (DNS rebinding). Programs that are no browsers are not held up: they send no Origin, and the Host they were told.
 */
import type { IncomingHttpHeaders } from 'node:http'
import { loopbackHost, loopbackOrigin } from '../../src/loopback.ts'

export interface BrowserGuardOptions {
  /** Host names or addresses beside loopback under which the gateway may be called, with or without a port; `*` is any. */
  readonly allowedHosts?: readonly string[]
  /** Origins beside loopback whose pages may call; `*` is any. */
  readonly allowedOrigins?: readonly string[]
}

/** Why the request must be refused, or undefined when it may go on. */
export type BrowserGuard = (method: string, headers: IncomingHttpHeaders) => string | undefined

/** A guard that lets loopback through and what is configured. */
export function createBrowserGuard ({ allowedHosts = [], allowedOrigins = [] }: BrowserGuardOptions): BrowserGuard {
  const anyHost = allowedHosts.includes('*')
  const anyOrigin = allowedOrigins.includes('*')
  const hosts = new Set(allowedHosts.flatMap(host => [host.toLowerCase(), bracketed(host.toLowerCase())]))
  const origins = new Set(allowedOrigins.map(origin => origin.toLowerCase()))

  function isOwnHost (authority: string): boolean {
    const host = withoutPort(authority)
    return loopbackHost.test(host) || hosts.has(host) || hosts.has(authority.toLowerCase())
  }

  function isOwnOrigin (origin: string, authority: string | undefined): boolean {
    if (loopbackOrigin.test(origin) || origins.has(origin.toLowerCase())) return true
    // The gateway's own pages, under a name that was let through as Host. Under any name that would be what rebinding looks like.
    return !anyHost && authority !== undefined && /^https?:\/\//i.test(origin) && origin.replace(/^https?:\/\//i, '').toLowerCase() === authority.toLowerCase()
  }

  return (method, { host, origin, 'sec-fetch-site': site, 'sec-fetch-mode': mode, 'sec-fetch-dest': destination }) => {
    if (!anyHost && host !== undefined && !isOwnHost(host)) return 'The Host is not one of this gateway\'s'
    if (anyOrigin) return undefined
    if (origin !== undefined) return isOwnOrigin(origin, host) ? undefined : 'Pages of this origin may not call the gateway'
    // A link may lead here; anything else that a foreign page makes a browser send may not, nor may it show the gateway in a frame.
    const isLink = mode === 'navigate' && (method === 'GET' || method === 'HEAD') && (destination === undefined || destination === 'document')
    return isLink || isOwnSite(site, host) ? undefined : 'Pages of other sites may not call the gateway'
  }
}

/**
 * Whether what a browser says of the page behind a request is no reason to refuse it (W3C Fetch Metadata). Who says nothing is no browser, or one
 * that is too old to. A site is a whole domain, with pages of anybody who has a name in it: only on loopback is all of it this machine.
 */
function isOwnSite (site: string | string[] | undefined, host: string | undefined): boolean {
  if (site === undefined || site === 'same-origin' || site === 'none') return true
  return site === 'same-site' && host !== undefined && loopbackHost.test(withoutPort(host))
}

/** `[::1]:9001` → `[::1]`, `LocalHost.:9001` → `localhost`. */
function withoutPort (authority: string): string {
  return authority.replace(/:\d*$/, '').replace(/\.$/, '').toLowerCase()
}

/** As a Host header writes an IPv6 address. */
function bracketed (host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
}
