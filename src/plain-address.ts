/**
 * Addresses as people write them.
 */

/** `::ffff:192.0.2.1` is how a dual-stack socket writes 192.0.2.1. */
export function plainAddress (address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}
