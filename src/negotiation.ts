/**
 * What an answer of the gateway's own depends on in the request that it is for, and caches have to know.
 */
import type { FastifyReply } from 'fastify'

/** Tells caches that the answer depends on this field of the request, too. */
export function addVary (reply: FastifyReply, field: string): void {
  const vary = reply.getHeader('vary')
  void reply.header('vary', vary === undefined ? field : `${String(vary)}, ${field}`)
}

/** Whether the client takes gzip (RFC 9110 §12.5.3); `Vary` has to say that it was asked. */
export function takesGzip (acceptEncoding: string | undefined): boolean {
  return /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i.test(acceptEncoding ?? '')
}
