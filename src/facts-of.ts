/** The facts of an exchange, for who has only Node's response: the server, when a request's body turns out to be no valid HTTP. */
import type { ServerResponse } from 'node:http'

/** What there is to write where an answer went past Fastify; the plugin facts has the rest. */
export interface AnswerFacts {
  readonly id: string
  status: number
  code: string | null
  bytesSent: number
  ending: string | null
}

const factsKey = Symbol('fleet.facts')

type Recorded = ServerResponse & { [factsKey]?: AnswerFacts }

/** Has factsOf() find them. */
export function keepFacts (response: ServerResponse, facts: AnswerFacts): void {
  (response as Recorded)[factsKey] = facts
}

/** Undefined for an exchange that the plugin facts has not seen, or not yet. */
export function factsOf (response: ServerResponse): AnswerFacts | undefined {
  return (response as Recorded)[factsKey]
}
