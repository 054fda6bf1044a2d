/** How often an `OPTIONS` may be passed on (RFC 9110 §7.6.2). For other methods `Max-Forwards` means nothing. */
import type { IncomingHttpHeaders } from 'node:http'

/** Digits, of a number that one can be taken from. */
const hopCount = /^\d{1,9}$/

/** Whether whoever has the request now is to answer it. */
export function mustNotGoOn ({ 'max-forwards': hops }: IncomingHttpHeaders): boolean {
  return typeof hops === 'string' && hopCount.test(hops) && Number(hops) === 0
}

/** What the next one is told; what is no number is left as it is. */
export function oneHopLess (hops: string): string {
  return hopCount.test(hops) ? String(Math.max(0, Number(hops) - 1)) : hops
}
