/**
 * How an address is written. On its own, since the console's page in a browser needs it, too.
 */

/** `host:port`, IPv6 in brackets: what `Host` names and what tells two instances of an agent apart. */
export function authorityOf (host: string, port: number): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}
