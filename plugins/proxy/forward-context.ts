/**
 * What a forwarded request needs to know: what all of them share, and where this one goes. Exchanges and tunnels alike.
 */
import type { RequestFacts } from '../facts/index.ts'
import type { Upstream } from '../upstream/index.ts'
import type { FleetError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Instance } from '../../src/fleet/instance.ts'
import type { LookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import type { RetryBudget } from '../../src/fleet/retry-budget.ts'
import type { Connections } from './connections.ts'
import type { OwnFields } from './own-fields.ts'
import type { ForwardPolicy } from './policy.ts'
import type { RequestHeadContext } from './request-head.ts'
import { responseHead, type ResponseHead, type ResponseHeadSettings } from './response-head.ts'

/** What all exchanges of a gateway share. */
export interface ForwardContext extends RequestHeadContext {
  readonly upstream: Upstream
  readonly connections: Connections
  readonly lookupOf: LookupOf
  readonly tlsOf: TlsOf
  /**
   * Whether what is written whole waits for the end of the turn of the event loop: each write wakes who reads, and many at once wake him once. Where
   * few requests are under way there is nobody to wait for.
   */
  readonly writesTogether: () => boolean
  /** Bytes; Infinity when bodies are not bounded. */
  readonly bodyLimit: number
  /** No new exchanges are wanted on a client's connection. */
  readonly isDraining: () => boolean
  readonly budgetOf: (agent: Agent) => RetryBudget
  /** Told the length of each body chunk that passes, either way. */
  readonly onStreamed: (bytes: number) => void
  /** Tells the log what the client is not told: the cause. */
  readonly report: (error: FleetError, facts: RequestFacts) => void
  /** Open event streams and tunnels, handshakes under way among them: to be ended when a drain runs out of time. */
  readonly streams: Set<EndableStream>
  /**
   * The exchange that was over last, which nobody asks for. When a full collection finds no object of a shape alive, V8 forgets the shape and throws
   * away the code that was compiled for it: in a quiet minute all that a request goes through. One exchange has nearly all of the shapes.
   */
  kept: object | null
}

export interface EndableStream {
  /** Ends it properly towards both sides. */
  endStream (): void
}

/** Where a request goes. */
export interface ForwardTarget {
  readonly agent: Agent
  readonly policy: ForwardPolicy
  /** Path and query for the agent, untouched. */
  readonly path: string
  /** Where the agent's `/` is for the client. */
  readonly prefix: string
  /** The same under its other names. */
  readonly knownPrefixes: readonly string[]
  /** The client's `Authorization` opened the gateway: only an agent that was given clients' tokens gets it. */
  readonly authorizationIsGateways: boolean
  /** The gateway answers for cross-origin requests, so the agent's `Access-Control-*` don't count. */
  readonly corsEnabled: boolean
}

/** Whether the client's `Authorization` stays behind. What is not trusted gets no tokens, whoever else of the agent does. */
export function dropsAuthorization ({ authorizationIsGateways, policy }: ForwardTarget, instance: Instance): boolean {
  return authorizationIsGateways && !(policy.forwardAuthorization && instance.trusted)
}

/** What the gateway adds of its own: credentials are for instances that fleet.yaml or an admin named. */
export function ownFieldsFor ({ policy }: ForwardTarget, instance: Instance): OwnFields | null {
  return policy.own !== null && instance.trusted ? policy.own : null
}

/**
 * The head of an agent's answer as the client of this request gets it.
 * @param raw the agent's fields, flat
 * @throws when its framing is ambiguous
 */
export function answerHead (raw: readonly string[], { names, viaPseudonym }: ForwardContext, { prefix, knownPrefixes, policy, corsEnabled }: ForwardTarget, answer: Pick<ResponseHeadSettings, 'status' | 'method' | 'instance' | 'replyHeaders' | 'canChunk'>): ResponseHead {
  const { status, method, instance, replyHeaders, canChunk } = answer
  // No spread: an object that begins as a copy gets a new hidden class with each field that is added, every time.
  return responseHead(raw, names, { status, method, instance, replyHeaders, canChunk, prefix, knownPrefixes, rewriteLocation: policy.rewriteLocation, corsEnabled, viaPseudonym })
}
