/**
 * What hooks have set on a reply, without the copy of it that `reply.getHeaders()` makes: that is the dearest thing in a small exchange.
 */
import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyReply } from 'fastify'

/** Fastify keeps them on the reply under a symbol of this description. */
const description = 'fastify.reply.headers'

let key: symbol | undefined

/** By their names in lower case; to be read, not changed. */
export function headersOf (reply: FastifyReply): OutgoingHttpHeaders {
  if (reply.raw.getHeaderNames().length > 0) return reply.getHeaders() as OutgoingHttpHeaders // somebody set some past Fastify
  const own = key === undefined ? undefined : headersUnder(reply, key)
  if (own !== undefined) return own
  key = Object.getOwnPropertySymbols(reply).find(symbol => symbol.description === description)
  return (key === undefined ? undefined : headersUnder(reply, key)) ?? reply.getHeaders() as OutgoingHttpHeaders
}

function headersUnder (reply: FastifyReply, symbol: symbol): OutgoingHttpHeaders | undefined {
  return (reply as unknown as Record<symbol, OutgoingHttpHeaders | undefined>)[symbol]
}
