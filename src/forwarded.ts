/**
 * What proxies in front say of a request in `Forwarded` (RFC 7239) and `X-Forwarded-For`: read here only, from the end, which is what the nearest of them
 * added. What a client put before that may be anything, and must not hide it.
 */
import { isIP } from 'node:net'
import type { IncomingHttpHeaders } from 'node:http'
import { plainAddress } from './plain-address.ts'

/** What one proxy says of the hop before it. */
export interface ForwardedElement {
  readonly for?: string
  readonly host?: string
  readonly proto?: string
}

/** The end of `Forwarded`, as far as it is sound. */
export interface Forwarded {
  /** The nearest first. */
  readonly elements: readonly ForwardedElement[]
  /** As it can be passed on; empty when nothing of it can. */
  readonly text: string
}

/** `name=token` or `name="…"` (RFC 7239 §4). */
const pair = /^([\w!#$%&'*+.^`|~-]+)=(?:([\w!#$%&'*+.^`|~-]+)|"((?:[^"\\]|\\[^])*)")$/

const tokenCharacter = /[\w!#$%&'*+.^`|~-]/

export function readForwarded ({ forwarded = '' }: IncomingHttpHeaders): Forwarded {
  const elements: ForwardedElement[] = []
  const end = blankBefore(forwarded, forwarded.length)
  let soundFrom = end
  let pairs: Record<string, string> | null = null
  let start = end
  const close = () => {
    if (pairs === null) return // an empty element counts for nothing (RFC 9110 §5.6.1.2)
    elements.push(pairs)
    pairs = null
    soundFrom = start
  }
  for (let at = end; ;) {
    const mark = forwarded[at - 1]
    if (mark === undefined || mark === ',') close()
    if (mark === undefined) break
    if (mark === ',' || mark === ';') {
      at = blankBefore(forwarded, at - 1)
      continue
    }
    start = pairStart(forwarded, at)
    const [, name, token, quoted] = pair.exec(forwarded.slice(start, at)) ?? []
    if (name === undefined) break
    pairs ??= {}
    pairs[name.toLowerCase()] ??= token ?? quoted!.replace(/\\(.)/g, '$1')
    at = blankBefore(forwarded, start)
    if (at > 0 && forwarded[at - 1] !== ',' && forwarded[at - 1] !== ';') break
  }
  return { elements, text: forwarded.slice(soundFrom, end) }
}

/** Where the pair begins that ends at `end`; what is no pair is told by its form. */
function pairStart (text: string, end: number): number {
  let at = end
  if (text[at - 1] === '"') at = openingQuote(text, at - 1)
  else at = tokenStart(text, at)
  return text[at - 1] === '=' ? tokenStart(text, at - 1) : at
}

function tokenStart (text: string, end: number): number {
  let at = end
  while (at > 0 && tokenCharacter.test(text[at - 1]!)) at--
  return at
}

/** Of the string that is closed at `closing`; 0 where nothing opens it. */
function openingQuote (text: string, closing: number): number {
  let at = closing
  do {
    at = text.lastIndexOf('"', at - 1)
  } while (at > 0 && isEscaped(text, at))
  return Math.max(0, at)
}

function isEscaped (text: string, at: number): boolean {
  let first = at
  while (text[first - 1] === '\\') first--
  return (at - first) % 2 === 1
}

/** The end of what is before spaces and tabs that end at `end`. */
function blankBefore (text: string, end: number): number {
  let at = end
  while (text[at - 1] === ' ' || text[at - 1] === '\t') at--
  return at
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

/** What is believed of who is behind a peer that is trusted. */
export interface Behind {
  /** The first that is not trusted itself. Of what is no address nobody can be known, so that the one before it counts. */
  readonly client: string
  /** What was said of it in `Forwarded`; null where `X-Forwarded-For` counts: most proxies write that, and pass the other one on. */
  readonly element: ForwardedElement | null
}

export function whoIsBehind (peer: string, headers: IncomingHttpHeaders, trusts: (address: string, hop: number) => boolean): Behind {
  const elements = hasForwardedFor(headers) ? null : readForwarded(headers).elements
  const nodes = elements?.map(element => element.for ?? '') ?? listed(headers['x-forwarded-for']).split(',').map(node => node.trim()).reverse()
  let client = peer
  let hop = 0
  for (const node of nodes) {
    hop++
    const address = nodeAddress(node)
    if (address !== undefined) client = address
    if (address === undefined || !trusts(address, hop)) break
  }
  return { client, element: elements?.[hop - 1] ?? null }
}

/** Whether `X-Forwarded-For` says anything. */
export function hasForwardedFor (headers: IncomingHttpHeaders): boolean {
  return listed(headers['x-forwarded-for']).trim() !== ''
}

function listed (value: string | string[] | undefined): string {
  return Array.isArray(value) ? value.join() : value ?? ''
}
