/**
 * A finished exchange as `/audit` and the console show it: the fields of the audit line, and each try. Made when somebody asks, since most
 * exchanges are asked for by nobody.
 */
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import type { Ending } from '../facts/index.ts'
import { pathOf } from '../../src/request-target.ts'
import type { KeptFacts } from './recent.ts'

/** One try at one instance. */
export interface AuditTry {
  /** Id of the instance. */
  instance: string
  outcome: AttemptOutcome
  /** Until the outcome was known: the response head, or the failure. */
  duration_ms: number
  /** Of the agent's answer; left out without one. */
  status?: number
}

/** A finished exchange. What the fields mean is in docs/operations.md; no secret, header, query or body is in it. */
export interface AuditEntry {
  /** Tells it from all others, also from those of an earlier start; `since` takes it. */
  id: string
  /** When the request began, ISO 8601. */
  time: string
  request_id: string
  client: string
  key: string | null
  method: string
  path: string
  agent: string | null
  /** The last that was tried. */
  instance: string | null
  attempts: number
  status: number
  latency_ms: number
  bytes_in: number
  bytes_out: number
  /** Left out when the client has the whole answer. */
  ending?: Exclude<Ending, 'complete'>
  /** Of the gateway's own error; left out when the answer is the agent's. */
  code?: string
  /** In order. */
  tries: AuditTry[]
}

/** Makes the entry of a finished exchange. */
export function entryOf (facts: KeptFacts, id: string): AuditEntry {
  const { attempts, ending, code } = facts
  return {
    id,
    time: new Date(facts.startedAt).toISOString(),
    request_id: facts.id,
    client: facts.clientAddress,
    key: facts.keyId,
    method: facts.method,
    path: pathOf(facts.url),
    agent: facts.agent,
    instance: attempts.at(-1)?.instanceId ?? null,
    attempts: attempts.length,
    status: facts.status,
    latency_ms: thousandths(facts.durationMs),
    bytes_in: facts.bytesReceived,
    bytes_out: facts.bytesSent,
    ...(ending !== null && ending !== 'complete' && { ending }),
    ...(code !== null && { code }),
    tries: attempts.map(({ instanceId, outcome, durationMs, status }) => ({
      instance: instanceId, outcome, duration_ms: thousandths(durationMs), ...(status !== 0 && { status })
    }))
  }
}

function thousandths (ms: number): number {
  return Math.round(ms * 1_000) / 1_000
}
