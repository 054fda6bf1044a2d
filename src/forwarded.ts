/**
 * What proxies in front say of a request in `Forwarded` (RFC 7239) and `X-Forwarded-For`: read here only, whoever may be believed.
 */
import { isIP } from 'node:net'
import type { IncomingHttpHeaders } from 'node:http'
import parse from 'forwarded-parse'
import { plainAddress } from './plain-address.ts'

/** What one proxy says of the hop before it; names in lower case. */
export type ForwardedElement = Readonly<Record<string, string | undefined>>

/** The elements of `Forwarded`, the client's first; null when there are none, or any of it is malformed: then nothing of it can be passed on. */
export function forwardedElements ({ forwarded }: IncomingHttpHeaders): readonly ForwardedElement[] | null {
  if (forwarded === undefined || forwarded.trim() === '') return null
  try {
    return parse(forwarded)
  } catch {
    return null
  }
}

/**
 * The address in a node of either field (RFC 7239 §6), to which some proxies add the port.
 * @returns undefined for what is no address: a name, `unknown`, an obfuscated one
 */
export function nodeAddress (node: string): string | undefined {
  const [, bracketed, dotted] = /^\[([^\]]*)\](?::[\w.-]+)?$|^([\d.]+):[\w.-]+$/.exec(node) ?? []
  const address = bracketed ?? dotted ?? node
  return isIP(address) === 0 ? undefined : plainAddress(address)
}

/** Who is said to be behind the peer, the nearest first. `X-Forwarded-For` counts where there are both: most proxies write that, and pass the other one on. */
export function forwardedNodes (headers: IncomingHttpHeaders): string[] {
  const listed = headers['x-forwarded-for']
  const text = Array.isArray(listed) ? listed.join() : listed ?? ''
  const nodes = text.trim() === '' ? forwardedElements(headers)?.map(element => element['for'] ?? '') ?? [] : text.split(',').map(node => node.trim())
  return nodes.reverse()
}
