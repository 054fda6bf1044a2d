/** The facts of an exchange, for who has only Node's response: the server, when a request's body turns out to be no valid HTTP. */
import type { ServerResponse } from 'node:http'
import type { RequestFacts } from '../plugins/facts/index.ts'

const factsKey = Symbol('fleet.facts')

type Recorded = ServerResponse & { [factsKey]?: RequestFacts }

/** Has factsOf() find them. */
export function keepFacts (response: ServerResponse, facts: RequestFacts): void {
  (response as Recorded)[factsKey] = facts
}

/** Undefined for an exchange that the plugin facts has not seen, or not yet. */
export function factsOf (response: ServerResponse): RequestFacts | undefined {
  return (response as Recorded)[factsKey]
}
