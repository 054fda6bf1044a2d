/**
 * What an answer of the gateway's own depends on in the request that it is for, and caches have to know.
 */
import type { FastifyReply } from 'fastify'

/** Tells caches that the answer depends on this field of the request, too. */
export function addVary (reply: FastifyReply, field: string): void {
  const vary = reply.getHeader('vary')
  void reply.header('vary', vary === undefined ? field : `${String(vary)}, ${field}`)
}

/** How much the client wants a type of media, all in lower case, from 0 to 1 (RFC 9110 §12.5.1): by the most specific range that has it. */
export function qualityOf (type: string, accept: string): number {
  const [kind] = type.split('/')
  const ranges = accept.split(',').map(range => range.split(';').map(part => part.trim()))
  for (const wanted of [type, `${kind}/*`, '*/*']) {
    const range = ranges.find(([name]) => name === wanted)
    if (range !== undefined) return Number(range.find(part => part.startsWith('q='))?.slice(2) ?? 1) || 0
  }
  return 0
}

/** Whether the client takes gzip (RFC 9110 §12.5.3); `Vary` has to say that it was asked. */
export function takesGzip (acceptEncoding: string | undefined): boolean {
  return /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i.test(acceptEncoding ?? '')
}
