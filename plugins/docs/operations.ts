/**
 * What is said of each of the gateway's routes, as OpenAPI operations. Which routes there are, @fastify/swagger finds out; nothing here is seen
 * by Fastify, so that no route is slower or different for being described.
 */
import { namePattern } from '../../src/agent-options.ts'
import { errorCatalogue } from '../../src/errors.ts'
import type { Scope } from '../../src/principal.ts'
import type { JsonSchema } from './json-schema.ts'
import { ref } from './schemas.ts'

/** An Operation Object of OpenAPI 3.1. */
export type Operation = Readonly<Record<string, unknown>>

/** What a caller needs: a scope, nothing, or nothing with more to see for who has a token. */
type Needs = Scope | 'nothing' | 'optional'

type Response = Readonly<Record<string, unknown>>

interface Said {
  readonly tag: string
  readonly summary: string
  readonly description?: string
  readonly needs: Needs
  readonly parameters?: readonly JsonSchema[]
  readonly requestBody?: JsonSchema
  /** By status. */
  readonly answers: Readonly<Record<string, Response>>
  /** Codes of the catalogue, beside those that follow from `needs`. */
  readonly problems?: readonly string[]
  /** Exempt from rate limits. */
  readonly unlimited?: boolean
}

/** How the token is shown. */
export const securitySchemes = {
  bearer: { type: 'http', scheme: 'bearer', description: 'The shared secret, or the token of a key.' },
  fleetToken: { type: 'apiKey', in: 'header', name: 'X-Fleet-Token', description: 'The same token, for who needs `Authorization` for the agent. It alone counts when it is there.' }
} as const

const anyToken: readonly JsonSchema[] = [{ bearer: [] }, { fleetToken: [] }]

const needsInWords: Readonly<Record<Needs, string>> = {
  nothing: 'Needs no token.',
  optional: 'Needs no token; who may `read` sees more.',
  read: 'Needs the scope `read`.',
  proxy: 'Needs the scope `proxy`.',
  register: 'Needs the scope `register`.',
  admin: 'Needs the scope `admin`.'
}

function operation (said: Said): Operation {
  const { tag, summary, description, needs, parameters, requestBody, answers, problems = [], unlimited = false } = said
  const isOpen = needs === 'nothing' || needs === 'optional'
  const codes = ['FLEET_BAD_REQUEST', ...(isOpen ? [] : ['FLEET_UNAUTHENTICATED']), 'FLEET_FORBIDDEN', ...(unlimited ? [] : ['FLEET_RATE_LIMITED']), ...problems]
  return {
    tags: [tag],
    summary,
    description: [...(description === undefined ? [] : [description]), needsInWords[needs]].join('\n\n'),
    ...(parameters && { parameters }),
    ...(requestBody && { requestBody }),
    security: needs === 'nothing' ? [] : needs === 'optional' ? [{}, ...anyToken] : anyToken,
    responses: { ...answers, ...problemResponses([...new Set(codes)]) }
  }
}

/** Headers that say more than the problem document does. */
const headersByStatus: Readonly<Record<number, readonly string[]>> = { 401: ['WWW-Authenticate'], 405: ['Allow'], 429: ['Retry-After', 'RateLimit', 'RateLimit-Policy'], 503: ['Retry-After'] }

function problemResponses (codes: readonly string[]): Record<string, Response> {
  const byStatus = new Map<number, string[]>()
  for (const code of codes) {
    const { statusCode } = errorCatalogue.get(code)!
    byStatus.set(statusCode, [...byStatus.get(statusCode) ?? [], code])
  }
  return Object.fromEntries([...byStatus].map(([status, ofStatus]) => [String(status), problemResponse(status, ofStatus)]))
}

function problemResponse (status: number, codes: readonly string[]): Response {
  const headers = headersByStatus[status]
  return {
    description: codes.map(code => `\`${code}\`: ${errorCatalogue.get(code)!.title}.`).join(' '),
    ...(headers && { headers: Object.fromEntries(headers.map(name => [name, { schema: { type: 'string' } }])) }),
    content: {
      'application/problem+json': {
        schema: { allOf: [ref('Problem'), { properties: { status: { const: status }, code: { enum: codes } } }] },
        examples: Object.fromEntries(codes.map(code => [code, { value: exampleProblem(code) }]))
      }
    }
  }
}

function exampleProblem (code: string) {
  const { statusCode, title } = errorCatalogue.get(code)!
  return { type: `/docs/errors.md#${code.toLowerCase()}`, title, status: statusCode, detail: `${title}.`, instance: 'urn:uuid:9a1b6a2e-35a1-4f0c-9c40-0d6f9c3b2c11', code, error: title }
}

function json (schema: JsonSchema, description: string, example?: unknown, headers?: Record<string, JsonSchema>): Response {
  return { description, ...(headers && { headers }), content: { 'application/json': { schema, ...(example !== undefined && { example }) } } }
}

function inPath (name: string, description: string, schema: JsonSchema = { type: 'string' }): JsonSchema {
  return { name, in: 'path', required: true, description, schema }
}

function inQuery (name: string, description: string, schema: JsonSchema = { type: 'string' }): JsonSchema {
  return { name, in: 'query', required: false, description, schema }
}

const agentName = inPath('name', 'The agent\'s name or an alias.', { type: 'string', pattern: namePattern })
const instanceIdentity = inPath('id', 'The instance\'s id.')
const drain = inQuery('drain', 'Of one instance: let what is in flight finish first.', { type: 'string', enum: ['true', 'false'], default: 'false' })

const exampleLease = { ttl_seconds: 60, expires_at: '2026-03-01T12:01:00.000Z' }
const exampleInstance = { id: '86a5ee343cf7', host: 'localhost', port: 9000, protocol: 'http', healthy: true, state: 'up', weight: 1, source: 'api', lease: exampleLease }
const exampleAgent = { status: 'healthy', instances: [{ ...exampleInstance, in_flight: 0, why: null, since: null }], friendly_names: ['mine'], metadata: {}, in_flight: 0 }
const exampleRegistered = { message: 'registered my-agent', name: 'my-agent', instance: exampleInstance, lease: exampleLease }
const exampleEntry = {
  id: '5f0c1d2e3a4b-7',
  time: '2026-03-01T12:00:00.000Z',
  request_id: '9a1b6a2e-35a1-4f0c-9c40-0d6f9c3b2c11',
  client: '127.0.0.1',
  key: null,
  method: 'GET',
  path: '/api/my-agent/',
  agent: 'my-agent',
  instance: '86a5ee343cf7',
  attempts: 1,
  status: 200,
  latency_ms: 4.2,
  bytes_in: 0,
  bytes_out: 12,
  tries: [{ instance: '86a5ee343cf7', outcome: 'answered', duration_ms: 3.9, status: 200 }]
}

/** The tags, in the order in which a reader wants them. */
export const tags = [
  { name: 'agents', description: 'Calling agents through the gateway.' },
  { name: 'health', description: 'How the gateway and its fleet are.' },
  { name: 'fleet', description: 'Who is in the fleet.' },
  { name: 'registration', description: 'Coming, staying and leaving.' },
  { name: 'keys', description: 'Who may call.' },
  { name: 'figures', description: 'What happened.' },
  { name: 'pages', description: 'For people.' }
] as const

/** By method and path below the mount. What is not here is in the document as what Fastify knows of it. */
export const operations: Readonly<Record<string, Operation>> = {
  'GET /': operation({
    tag: 'pages',
    summary: 'An index of the routes',
    needs: 'nothing',
    answers: { 200: { description: 'As JSON, or as HTML for who prefers that.', content: { 'application/json': { schema: ref('Index'), example: { name: 'Fleet Gateway', routes: [{ path: '/stats', methods: 'GET', about: 'counters and latencies' }] } }, 'text/html': { schema: { type: 'string' } } } } }
  }),
  'GET /health': operation({
    tag: 'health',
    summary: 'How the fleet is',
    needs: 'optional',
    unlimited: true,
    description: 'Always 200, also when the fleet is not well: it is the answer that says so. An empty fleet is healthy.',
    answers: { 200: json(ref('Health'), 'How each agent is.', { status: 'healthy', gateway: 'ok', uptime_seconds: 42.081, services: { 'my-agent': { healthy: true, healthy_instances: 2, total_instances: 2 } } }) }
  }),
  'GET /health/live': operation({ tag: 'health', summary: 'Whether the process serves', needs: 'nothing', unlimited: true, answers: { 200: json(ref('Live'), 'It does.', { status: 'ok' }) } }),
  'GET /health/ready': operation({
    tag: 'health',
    summary: 'Whether the gateway wants requests',
    needs: 'nothing',
    unlimited: true,
    answers: { 200: json(ref('Ready'), 'It does.', { status: 'ready' }) },
    problems: ['FLEET_DRAINING']
  }),
  'GET /agents': operation({ tag: 'fleet', summary: 'All agents, and how they are', needs: 'read', answers: { 200: json(ref('Agents'), 'By name; a key that is limited to agents sees those.', { 'my-agent': exampleAgent }) } }),
  'GET /agents/{name}': operation({
    tag: 'fleet',
    summary: 'One agent, and how it is',
    needs: 'read',
    parameters: [agentName],
    answers: { 200: json(ref('Agent'), 'The agent.', exampleAgent) },
    problems: ['FLEET_AGENT_NOT_FOUND']
  }),
  'GET /registry': operation({
    tag: 'fleet',
    summary: 'Instances, leases and policies',
    needs: 'read',
    answers: { 200: json(ref('Registry'), 'By name; a key that is limited to agents sees those.', { 'my-agent': { instances: [exampleInstance], friendly_names: ['mine'], metadata: {}, policy: { timeouts: { response: '2m' } } } }) }
  }),
  'POST /registry/register': operation({
    tag: 'registration',
    summary: 'Adds an instance, or renews it',
    needs: 'register',
    description: 'With `ttl` the instance holds a lease: unless it registers again or sends a heartbeat within that time, it leaves. Without, it stays until somebody takes it out.',
    requestBody: { required: true, description: 'At most 256 KiB.', content: { 'application/json': { schema: ref('Registration'), example: { name: 'my-agent', port: 9000, ttl: 60, aliases: ['mine'] } } } },
    answers: {
      200: json(ref('Registered'), 'The instance was known: what was given replaces what was said before.', exampleRegistered, { Location: { schema: { type: 'string' } } }),
      201: json(ref('Registered'), 'The instance is new.', exampleRegistered, { Location: { schema: { type: 'string' }, description: 'Where heartbeats and the removal go.' } })
    },
    problems: ['FLEET_INVALID_REGISTRATION', 'FLEET_NAME_CONFLICT', 'FLEET_BODY_TOO_LARGE', 'FLEET_NOT_KEPT']
  }),
  'PUT /registry/{name}/instances/{id}': operation({
    tag: 'registration',
    summary: 'A heartbeat',
    needs: 'register',
    parameters: [agentName, instanceIdentity],
    description: '404 when the lease ran out, or somebody took the instance out: register again.',
    answers: { 200: json(ref('Renewed'), 'The renewed lease; null for an instance without one.', { message: 'renewed 86a5ee343cf7', name: 'my-agent', instance: exampleInstance, lease: exampleLease }) },
    problems: ['FLEET_AGENT_NOT_FOUND', 'FLEET_INSTANCE_NOT_FOUND']
  }),
  'DELETE /registry/{name}/instances/{id}': operation({
    tag: 'registration',
    summary: 'Takes one instance out',
    needs: 'register',
    parameters: [agentName, instanceIdentity, drain],
    answers: { 200: json({ anyOf: [ref('Draining'), ref('Deregistered')] }, 'It is out, or drains.', { message: 'deregistered my-agent' }) },
    problems: ['FLEET_AGENT_NOT_FOUND', 'FLEET_INSTANCE_NOT_FOUND', 'FLEET_NOT_KEPT']
  }),
  'DELETE /registry/{name}': operation({
    tag: 'registration',
    summary: 'Takes an agent out, or the instance at an address',
    needs: 'register',
    parameters: [agentName, inQuery('host', 'With `port`: only the instance there.'), inQuery('port', 'With `host`: only the instance there.', { type: 'string', pattern: '^\\d{1,5}$' }), drain],
    answers: { 200: json({ anyOf: [ref('Draining'), ref('Deregistered')] }, 'It is out; an instance may drain.', { message: 'deregistered my-agent', note: 'It is in fleet.yaml, so it stays out until what that file says changes, or the gateway restarts' }) },
    problems: ['FLEET_AGENT_NOT_FOUND', 'FLEET_INSTANCE_NOT_FOUND', 'FLEET_NOT_KEPT']
  }),
  'POST /registry/{name}/instances/{id}/probe': operation({
    tag: 'health',
    summary: 'Asks an instance how it is, now',
    needs: 'read',
    parameters: [agentName, instanceIdentity],
    description: 'One HTTP request to `health.path` of the agent, or to `/`. What is known of the instance\'s health does not change by it.',
    answers: { 200: json(ref('Probe'), 'What came of it, whatever that is.', { ok: true, outcome: 'ok', status: 200, cause: null, path: '/', latency_ms: 2.4 }) },
    problems: ['FLEET_AGENT_NOT_FOUND', 'FLEET_INSTANCE_NOT_FOUND']
  }),
  'GET /keys': operation({
    tag: 'keys',
    summary: 'The named keys',
    needs: 'admin',
    description: 'As they are configured at this gateway; those that were revoked, here or at a gateway that shares its Redis, are marked. Never a token.',
    answers: { 200: json(ref('Keys'), 'All of them; an admin for some agents sees the keys that reach no further.', [{ id: 'build-bot', scopes: ['proxy', 'register'], agents: ['my-agent'], revoked: false }]) }
  }),
  'DELETE /keys/{id}': operation({
    tag: 'keys',
    summary: 'Revokes a key, for good',
    needs: 'admin',
    description: 'Its token is refused from now on, whatever `fleet.yaml` says: by this gateway, and by all that share its Redis. A key that is made anew under the same id has another token, and is valid. To do it again changes nothing.',
    parameters: [inPath('id', 'The key\'s id.', { type: 'string', pattern: namePattern })],
    answers: { 200: json(ref('Revoked'), 'It is kept, and the other gateways have been told.', { message: 'revoked build-bot', id: 'build-bot', shared: true }) },
    problems: ['FLEET_KEY_NOT_FOUND', 'FLEET_NOT_KEPT']
  }),
  'GET /stats': operation({
    tag: 'figures',
    summary: 'Counters and latencies',
    needs: 'read',
    parameters: [inQuery('gateways', 'Of all gateways on one Redis together.', { type: 'string', enum: ['all'] })],
    answers: {
      200: json(ref('Stats'), 'Since the gateway started.', {
        total_requests: 26,
        total_errors: 0,
        total_proxied: 7,
        uptime_seconds: 42.081,
        registered_agents: 1,
        routes: 2,
        in_flight: 1,
        leases: { total: 1, lapsed: 0 },
        config: { loaded_at: '2026-03-01T11:59:00.000Z', ok: true },
        agents: { 'my-agent': { requests: 1, errors: 0, retries: 0, in_flight: 0, latency_ms: { p50: 4.2, p90: 4.2, p99: 4.2, max: 4.2 }, instances: { '86a5ee343cf7': { requests: 1, errors: 0, in_flight: 0, state: 'up' } } } }
      })
    }
  }),
  'GET /explain': operation({
    tag: 'figures',
    summary: 'What would become of a request',
    needs: 'read',
    description: 'Sends nothing to an agent and takes no turn. The headers and the address of this request count as that request\'s where a balancer looks at them.',
    parameters: [
      inQuery('method', 'Of the request.', { type: 'string', pattern: '^[A-Z][A-Z-]{0,31}$', default: 'GET' }),
      { ...inQuery('path', 'Path and query of the request, percent-encoded.'), required: true },
      inQuery('key', 'Whose request it would be: the id of a key. Another than the caller\'s own needs `admin`.')
    ],
    answers: { 200: json(ref('Explanation'), 'Which route, agent and instance, by which rules; or which refusal.') }
  }),
  'GET /metrics': operation({ tag: 'figures', summary: 'Figures for Prometheus', needs: 'read', answers: { 200: { description: 'In the text form of Prometheus.', content: { 'text/plain': { schema: { type: 'string' } } } } } }),
  'GET /audit': operation({
    tag: 'figures',
    summary: 'The last 1,000 exchanges, or those that finish from now on',
    needs: 'read',
    parameters: [inQuery('agent', 'Only those of this agent.'), inQuery('status', 'Only those with these statuses or classes: `404`, `5xx`, `429,5xx`.'), inQuery('since', 'Only those that were over since then: a time, a duration back from now such as `5m`, or the `id` of an entry.'), inQuery('limit', 'At most so many, the newest; after an `id`, the next.', { type: 'integer', minimum: 1, maximum: 1_000, default: 100 })],
    answers: { 200: { description: 'The newest last; as an event stream for who accepts that.', content: { 'application/json': { schema: ref('Audit'), example: { entries: [exampleEntry], next: '5f0c1d2e3a4b-7', missed: 0 } }, 'text/event-stream': { schema: { type: 'string' } } } } }
  }),
  'GET /openapi.json': operation({
    tag: 'pages',
    summary: 'This document, or that of an agent',
    needs: 'read',
    description: 'Agents that serve an OpenAPI 3 document at `/openapi.json` are listed with their paths under `/api/{agent}`; `x-fleet-agents` says who does. With `agent` it is that agent\'s own document, with its paths as they are and the gateway\'s `/api/{agent}` as its server.',
    parameters: [inQuery('agent', 'The name or an alias of an agent.', { type: 'string', pattern: namePattern })],
    answers: { 200: json({ type: 'object', required: ['openapi', 'info', 'paths'] }, 'An OpenAPI document.') },
    problems: ['FLEET_AGENT_NOT_FOUND', 'FLEET_NOT_FOUND']
  }),
  'GET /docs': operation({ tag: 'pages', summary: 'This document as a page', needs: 'nothing', answers: { 200: { description: 'It asks for the token.', content: { 'text/html': { schema: { type: 'string' } } } } } }),
  'GET /console/': operation({ tag: 'pages', summary: 'The console', needs: 'nothing', answers: { 200: { description: 'It asks for the token.', content: { 'text/html': { schema: { type: 'string' } } } } } })
}

const agentProblems = [
  'FLEET_AGENT_NOT_FOUND', 'FLEET_REQUEST_TIMEOUT', 'FLEET_BODY_TOO_LARGE', 'FLEET_EXPECTATION_FAILED', 'FLEET_NOT_IMPLEMENTED', 'FLEET_UPSTREAM_UNREACHABLE', 'FLEET_UPSTREAM_INVALID',
  'FLEET_NO_INSTANCE_AVAILABLE', 'FLEET_AGENT_BUSY', 'FLEET_UPSTREAM_TIMEOUT', 'FLEET_LOOP_DETECTED'
]
const askedAgent = inPath('agent', 'The agent\'s name or an alias.', { type: 'string', pattern: namePattern })
const askedPath = inPath('path', 'The path at the agent. Slashes in it are not encoded: everything behind the agent\'s name goes on as it was sent, query included.')

/** What OpenAPI has a word for, of the methods that agents may be called with. */
export const describedMethods = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch'] as const

function agentCall (method: typeof describedMethods[number], parameters: readonly JsonSchema[]): Operation {
  return operation({
    tag: 'agents',
    summary: 'The agent\'s own answer',
    needs: 'proxy',
    parameters,
    description: 'Any method that Node knows but `TRACE` and `CONNECT`, any body, streams and WebSockets included.',
    ...(['put', 'post', 'patch'].includes(method) && { requestBody: { content: { '*/*': { schema: {} } } } }),
    answers: { default: { description: 'Whatever the agent answers, with any status. It has `Via`; a problem of the gateway\'s own has `Proxy-Status`.', content: { '*/*': { schema: {} } } } },
    problems: agentProblems
  })
}

/** The paths under which agents are called. @param path as the proxy has it: `/api` */
export function agentPaths (path: string): Record<string, Record<string, Operation>> {
  const item = (parameters: readonly JsonSchema[]) => Object.fromEntries(describedMethods.map(method => [method, agentCall(method, parameters)]))
  return { [`${path}/{agent}`]: item([askedAgent]), [`${path}/{agent}/{path}`]: item([askedAgent, askedPath]) }
}
