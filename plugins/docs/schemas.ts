/**
 * What the gateway's answers look like, as `components.schemas` of the document. A test holds real answers against them, so a field that is
 * added to an answer is added here.
 */
import { RegistrationOptions, namePattern } from '../../src/agent-options.ts'
import { errorCatalogue } from '../../src/errors.ts'
import { scopes } from '../../src/principal.ts'
import { toJsonSchema, type JsonSchema } from './json-schema.ts'

/** A schema of this file, by name. */
export function ref (name: keyof typeof schemas): JsonSchema {
  return { $ref: `#/components/schemas/${name}` }
}

const text: JsonSchema = { type: 'string' }
const yes: JsonSchema = { type: 'boolean' }
const count: JsonSchema = { type: 'integer', minimum: 0 }
const amount: JsonSchema = { type: 'number', minimum: 0 }
const time: JsonSchema = { type: 'string', format: 'date-time' }

/** All of these fields, and those that may be missing. */
function object (required: Record<string, JsonSchema>, optional: Record<string, JsonSchema> = {}, description?: string): JsonSchema {
  return { type: 'object', ...(description !== undefined && { description }), properties: { ...required, ...optional }, required: Object.keys(required) }
}

function list (items: JsonSchema, description?: string): JsonSchema {
  return { type: 'array', items, ...(description !== undefined && { description }) }
}

function orNull (schema: JsonSchema): JsonSchema {
  return { anyOf: [schema, { type: 'null' }] }
}

const named = (name: string): JsonSchema => ({ $ref: `#/components/schemas/${name}` })

/** Keys are names of agents. */
function byAgent (value: JsonSchema, description?: string): JsonSchema {
  return { type: 'object', ...(description !== undefined && { description }), propertyNames: { pattern: namePattern }, additionalProperties: value }
}

const state: JsonSchema = { type: 'string', enum: ['up', 'down', 'ejected', 'draining'], description: '`down`: the probes say so; `ejected`: taken out for a while for what requests met with; `draining`: takes nothing new.' }
const instanceId: JsonSchema = { type: 'string', pattern: '^[0-9a-f]{12}$', description: 'The same after a restart.' }
const port: JsonSchema = { type: 'integer', minimum: 1, maximum: 65_535 }
const aliases = list(text, 'The aliases.')
const metadata: JsonSchema = { type: 'object', description: 'Whatever was said of the agent.', additionalProperties: true }
const message: JsonSchema = { type: 'string', description: 'For people; may change.' }

/** What decided about an instance's health last. */
const decided = {
  why: { type: ['string', 'null'], description: 'What last decided that it is up, down, ejected or restored, for people; null before anything did.' },
  since: { type: ['string', 'null'], format: 'date-time', description: 'When that was.' }
}

const instance = {
  id: instanceId,
  host: text,
  port,
  protocol: { type: 'string', enum: ['http', 'https'] },
  healthy: yes,
  state,
  weight: { type: 'integer', minimum: 1, description: 'Its share of the requests, under every balancer but round robin.' },
  source: { type: 'string', enum: ['file', 'dns', 'api'], description: '`file` for fleet.yaml, `dns` for what a name in it leads to, `api` for registrations.' },
  lease: orNull(named('Lease'))
}

const dns = list(object({ name: text, ok: { type: 'boolean', description: 'Whether all was answered that was asked last.' }, answered_at: { type: ['string', 'null'], format: 'date-time', description: 'When that was last so.' }, instances: count }, {
  type: { type: 'string', enum: ['A', 'AAAA', 'SRV'] },
  error: { type: 'string', description: 'As name servers put it, such as `SERVFAIL` or `TIMEOUT`.' }
}), 'Names by which instances are looked for in DNS, of an agent that has some in fleet.yaml.')

export const schemas = {
  Problem: object({
    type: { type: 'string', format: 'uri-reference', description: 'The section of docs/errors.md about this code.' },
    title: text,
    status: { type: 'integer', minimum: 400, maximum: 599 },
    detail: { type: 'string', description: 'About this occurrence, for people; may change.' },
    instance: { type: 'string', description: 'A URN of the request id.' },
    code: { type: 'string', enum: [...errorCatalogue.keys()], description: 'What to branch on.' },
    error: { type: 'string', description: 'The same as `title`.' }
  }, {
    errors: list(object({ path: text, message: text }), 'Each wrong field of a body.'),
    nearest: list(text, 'Known names that were perhaps meant.')
  }, 'An error that the gateway makes (RFC 9457).'),

  Health: object({
    status: { type: 'string', enum: ['healthy', 'degraded'], description: '`degraded` as soon as one agent has no instance that serves.' },
    gateway: { const: 'ok' },
    uptime_seconds: amount,
    services: byAgent(object({ healthy: yes, healthy_instances: count, total_instances: count }, {
      instances: list(object({ id: instanceId, host: text, port, healthy: yes, state, ...decided }), 'For callers with `read`.'),
      friendly_names: aliases
    }))
  }, {
    redis: { type: 'string', enum: ['ok', 'away', 'refusing'], description: 'Where gateways share a Redis: unless it is `ok`, this one takes no registrations; the fleet is served as it is known.' }
  }),
  Live: object({ status: { const: 'ok' } }),
  Ready: object({ status: { const: 'ready' } }),

  Lease: object({ ttl_seconds: amount, expires_at: time }, { lapsed: { const: true, description: 'It ran out, and the instance is kept all the same.' } }),
  Instance: object(instance),
  Agent: object({
    status: { type: 'string', enum: ['healthy', 'degraded', 'down'] },
    instances: list(object({ ...instance, in_flight: count, ...decided })),
    friendly_names: aliases,
    metadata,
    in_flight: { ...count, description: 'Requests, streams and WebSockets under way.' }
  }, { dns }),
  Agents: byAgent(named('Agent')),
  RegistryEntry: object({
    instances: list(named('Instance')),
    friendly_names: aliases,
    metadata,
    policy: { type: 'object', description: 'What the agent sets differently from the gateway\'s defaults; durations as fleet.yaml writes them.', additionalProperties: true }
  }),
  Registry: byAgent(named('RegistryEntry')),

  Registration: { ...toJsonSchema(RegistrationOptions), description: 'What an instance says of itself and its agent. Durations are texts such as "30s" or numbers of seconds.' },
  Registered: object({ message, name: text, instance: named('Instance') }, { lease: named('Lease') }),
  Renewed: object({ message, name: text, instance: named('Instance'), lease: orNull(named('Lease')) }),
  Draining: object({ message, name: text, instance: named('Instance') }, { note: { type: 'string', description: 'fleet.yaml or DNS names it still.' } }),
  Deregistered: object({ message }, { note: { type: 'string', description: 'fleet.yaml names it still.' } }),
  Probe: object({
    ok: yes,
    outcome: { type: 'string', enum: ['ok', 'bad', 'refused', 'timeout'] },
    status: { type: ['integer', 'null'] },
    cause: { type: ['string', 'null'], description: 'Node\'s code of what went wrong.' },
    path: text,
    latency_ms: amount
  }),

  Keys: list(object({
    id: text,
    scopes: list({ type: 'string', enum: [...scopes] }),
    agents: list(text, 'Names of agents, or `*` alone for all.'),
    revoked: yes
  }, { revoked_at: time })),
  Revoked: object({ message, id: text, shared: { type: 'boolean', description: 'Whether other gateways were told: those that share a Redis with this one.' } }),

  Stats: object({
    total_requests: count,
    total_errors: count,
    total_proxied: count,
    uptime_seconds: amount,
    registered_agents: count,
    routes: { ...count, description: 'Names and aliases under /api.' },
    in_flight: count,
    leases: object({ total: count, lapsed: count }),
    config: object({ loaded_at: { type: ['string', 'null'], format: 'date-time' }, ok: { type: 'boolean', description: 'False when the file on disk is bad and an earlier one runs.' } }, { error: text, taken_out: list(object({ agent: text }, { instances: list(text) }), 'What the file has and somebody took out of the fleet.') }),
    agents: byAgent(object({
      requests: count,
      errors: count,
      retries: count,
      in_flight: count,
      latency_ms: object({ p50: amount, p90: amount, p99: amount, max: amount }),
      instances: { type: 'object', description: 'By instance id.', additionalProperties: object({ requests: count, errors: count, in_flight: count, state }) }
    }))
  }, {
    processes: list(object({ id: text, host: text, uptime_seconds: amount, total_requests: count, total_errors: count, in_flight: count }, { worker: count, pid: count }), 'Whose figures these are, where they are of several.'),
    silent: { type: ['integer', 'null'], description: 'So many more were asked and did not answer; null when they could not be asked.' }
  }),

  Explanation: object({
    method: text,
    target: text,
    outcome: { type: 'string', enum: ['forwarded', 'answered', 'refused'] },
    refusal: orNull(object({ status: { type: 'integer' }, code: text, detail: text })),
    route: orNull(object({ path: text, needs: { type: ['string', 'null'], description: 'The scope; null for nothing.' } })),
    key: object({ id: { type: ['string', 'null'] }, scopes: list(text), agents: { anyOf: [list(text), { const: '*' }] } }),
    rate_limit: orNull(object({ enabled: yes }, { per_minute: count, burst: count, bucket: text })),
    agent: orNull(object({ name: text, asked_as: text, status: text }, { path: text, dns })),
    policy: orNull(object({
      timeouts: object({ connect: text, response: text, idle: text, total: { type: ['string', 'null'] } }),
      path_prefix: { type: ['string', 'null'], description: 'Of `paths`, whose timeouts these are.' },
      retry: object({ attempts: count, statuses: list({ type: 'integer' }), max_body_bytes: count, repeatable: yes, why: text }),
      balancer: object({ policy: text }, { hash_on: text, slow_start: text }),
      concurrency: object({ max: { type: ['integer', 'null'] }, queue: count, queue_timeout: text, waiting: count }),
      headers: list(text, 'Names of the gateway\'s own fields, for instances that are trusted with them.'),
      forward_authorization: yes,
      preserve_host: yes,
      rewrite_location: yes
    })),
    instances: list(object({
      id: instanceId,
      host: text,
      port,
      protocol: text,
      weight: count,
      source: text,
      state,
      available: { type: 'boolean', description: 'May take a request this moment.' },
      why: text,
      in_flight: count,
      lease: orNull(object({ expires_at: time }, { lapsed: { const: true } })),
      ejected_until: { type: ['string', 'null'], format: 'date-time' },
      probes: object({ good_in_a_row: count, failed_in_a_row: count }, { asks: text, interval: text })
    })),
    next: orNull(object({ instance: { type: ['string', 'null'], description: 'Null where it is not certain.' }, candidates: list(text), panic: yes, why: text }))
  }),

  Index: object({ name: { const: 'Fleet Gateway' }, routes: list(object({ path: text, methods: text, about: text })) }),

  AuditEntry: object({
    id: text,
    time,
    request_id: text,
    client: text,
    key: { type: ['string', 'null'] },
    method: text,
    path: text,
    agent: { type: ['string', 'null'] },
    instance: { type: ['string', 'null'] },
    attempts: count,
    status: { type: 'integer' },
    latency_ms: amount,
    bytes_in: count,
    bytes_out: count,
    tries: list(object({ instance: text, outcome: text, duration_ms: amount }, { status: { type: 'integer' } }), 'Each attempt.')
  }, {
    ending: text,
    code: text
  }, 'One finished exchange. Never a secret or a body.'),

  Audit: object({
    entries: list({ $ref: '#/components/schemas/AuditEntry' }),
    next: { type: 'string', description: 'To be given as `since`: what is over after these.' },
    missed: { ...count, description: 'How many exchanges after the id in `since` are not kept any more.' }
  })
} as const satisfies Record<string, JsonSchema>
