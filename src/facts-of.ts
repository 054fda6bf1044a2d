/**
 * The facts of an exchange, where only Node's response is known: in the server, when a request's body turns out to be no valid HTTP. For as long
 * as the response is there.
 */
import type { ServerResponse } from 'node:http'
import type { RequestFacts } from '../plugins/facts/index.ts'

const factsKey = Symbol('fleet.facts')
const refusalKey = Symbol('fleet.refusal')

type Recorded = ServerResponse & { [factsKey]?: RequestFacts, [refusalKey]?: Refusal }

/** What the server answered past Fastify; without a status when the client counts as one that left. */
export interface Refusal extends Partial<Pick<RequestFacts, 'status' | 'code' | 'bytesSent' | 'ending'>> {
  readonly id: string
}

/** Called by the plugin facts when an account begins. */
export function keepFacts (response: ServerResponse, facts: RequestFacts): void {
  (response as Recorded)[factsKey] = facts
}

/** The id of its account, where it has one yet. */
export function accountId (response: ServerResponse): string | undefined {
  return (response as Recorded)[factsKey]?.id
}

/** Has the account say what the server answered; where there is none yet, the one that the plugin facts may begin. */
export function recordRefusal (response: ServerResponse, refusal: Refusal): void {
  const recorded = response as Recorded
  if (recorded[factsKey] === undefined) recorded[refusalKey] = refusal
  else Object.assign(recorded[factsKey], refusal)
}

/** What the server answered before there was an account. */
export function refusalBefore (response: ServerResponse): Refusal | undefined {
  return (response as Recorded)[refusalKey]
}
