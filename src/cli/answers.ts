/**
 * What the client commands rely on in a gateway's answers. Whatever answers may be something else, old, broken or hostile, so each answer is
 * held against its shape before anything of it is used. A field more is no fault: a newer gateway may tell more.
 */
import { namePattern } from '../agent-options.ts'
import { Type, type TSchema } from '../options.ts'
import { Value } from '../typebox.ts'

/** Metadata may be nested 64 deep; an answer that is nested much deeper only wants to break who walks it. */
const mostDepth = 100

const Name = Type.String({ pattern: namePattern })

/** By the name of an agent; a key that is none could not be one of a gateway's. */
function byName (value: TSchema) {
  return Type.Record(Name, value, { additionalProperties: false })
}

const orNull = (schema: TSchema) => Type.Union([schema, Type.Null()])

const DnsName = Type.Object({
  name: Type.String(),
  type: Type.Optional(Type.String()),
  ok: Type.Boolean(),
  error: Type.Optional(Type.String()),
  answered_at: orNull(Type.String()),
  instances: Type.Integer()
})

/** What decided about an instance last; an older gateway does not tell. */
const decided = { why: Type.Optional(orNull(Type.String())), since: Type.Optional(orNull(Type.String())) }

const Lease = Type.Object({ expires_at: Type.String() })

const Instance = Type.Object({
  id: Type.String(),
  protocol: Type.String(),
  host: Type.String(),
  port: Type.Integer(),
  healthy: Type.Boolean(),
  state: Type.String(),
  source: Type.String(),
  lease: Type.Union([Lease, Type.Null()])
})

/** An older gateway does not tell. */
const TakenOut = Type.Object({ agent: Name, instances: Type.Optional(Type.Array(Type.String())) })

/** `GET /agents/{name}` */
export const AgentShape = Type.Object({
  status: Type.String(),
  instances: Type.Array(Type.Intersect([Instance, Type.Object({ in_flight: Type.Integer(), ...decided })])),
  friendly_names: Type.Array(Name),
  metadata: Type.Object({}),
  in_flight: Type.Integer(),
  dns: Type.Optional(Type.Array(DnsName))
})

/** `GET /agents` */
export const AgentsShape = byName(AgentShape)

/** `GET /health`; who may not know more gets no instances. */
export const HealthShape = Type.Object({
  status: Type.String(),
  gateway: Type.Literal('ok'),
  uptime_seconds: Type.Number(),
  redis: Type.Optional(Type.String()),
  services: byName(Type.Object({
    healthy: Type.Boolean(),
    healthy_instances: Type.Integer(),
    total_instances: Type.Integer(),
    instances: Type.Optional(Type.Array(Type.Object({ host: Type.String(), port: Type.Integer(), state: Type.String(), ...decided })))
  }))
})

/** `GET /` */
export const IndexShape = Type.Object({
  routes: Type.Array(Type.Object({ path: Type.String(), methods: Type.String(), about: Type.String() }))
})

/** `GET /stats` */
export const StatsShape = Type.Object({
  processes: Type.Optional(Type.Array(Type.Object({
    id: Type.String(),
    host: Type.String(),
    pid: Type.Optional(Type.Integer()),
    worker: Type.Optional(Type.Integer()),
    uptime_seconds: Type.Number(),
    total_requests: Type.Integer(),
    total_errors: Type.Integer(),
    in_flight: Type.Integer()
  }))),
  silent: Type.Optional(orNull(Type.Integer())),
  total_requests: Type.Integer(),
  total_proxied: Type.Integer(),
  total_errors: Type.Integer(),
  in_flight: Type.Integer(),
  uptime_seconds: Type.Number(),
  config: Type.Object({ ok: Type.Boolean(), error: Type.Optional(Type.String()), taken_out: Type.Optional(Type.Array(TakenOut)) }),
  agents: byName(Type.Object({
    requests: Type.Integer(),
    errors: Type.Integer(),
    retries: Type.Integer(),
    in_flight: Type.Integer(),
    latency_ms: Type.Object({ p50: Type.Number(), p90: Type.Number(), p99: Type.Number(), max: Type.Number() })
  }))
})

/** An entry of `GET /audit`, and an event of its stream. */
export const AuditEntryShape = Type.Object({
  id: Type.String(),
  time: Type.String(),
  method: Type.String(),
  path: Type.String(),
  agent: Type.Union([Type.String(), Type.Null()]),
  instance: Type.Union([Type.String(), Type.Null()]),
  attempts: Type.Integer(),
  status: Type.Integer(),
  latency_ms: Type.Number(),
  ending: Type.Optional(Type.String()),
  code: Type.Optional(Type.String())
})

/** `GET /audit` */
export const AuditShape = Type.Object({ entries: Type.Array(AuditEntryShape) })

const Numbers = (length: number) => Type.Array(Type.Number(), { minItems: length })

const InstanceFactsShape = Type.Object({
  host: Type.String(),
  port: Type.Integer(),
  state: Type.Union(['up', 'down', 'ejected', 'draining'].map(state => Type.Literal(state))),
  why: orNull(Type.String()),
  since: orNull(Type.Number()),
  until: orNull(Type.Number()),
  ejections: Type.Integer(),
  lease: orNull(Type.Object({ lapsed: Type.Boolean() }))
})

const AgentUpdateShape = Type.Object({
  status: Type.Optional(Type.Union(['healthy', 'degraded', 'down'].map(status => Type.Literal(status)))),
  row: Type.Optional(Numbers(6)),
  facts: Type.Optional(Type.Record(Type.String(), InstanceFactsShape)),
  rows: Type.Optional(Type.Record(Type.String(), Numbers(5))),
  gone: Type.Optional(Type.Array(Type.String())),
  spark: Type.Optional(Type.Array(Type.Number()))
})

const FleetTotals = {
  now: Type.Number(),
  totals: Type.Object({ uptime_seconds: Type.Number(), requests: Type.Integer(), errors: Type.Integer(), in_flight: Type.Integer(), watching: Type.Integer() }),
  config: Type.Optional(Type.Object({ ok: Type.Boolean(), error: Type.Optional(Type.String()) })),
  redis: Type.Optional(Type.String()),
  requests: Type.Optional(Type.Union([Type.Array(Type.Object({})), Type.Null()]))
}

/** First message of `GET /console/events`; */
export const FleetSnapshotShape = Type.Object({
  ...FleetTotals,
  sample_seconds: Type.Number({ exclusiveMinimum: 0 }),
  agents: Type.Record(Type.String(), Type.Intersect([AgentUpdateShape, Type.Object({ status: Type.String(), aliases: Type.Array(Type.String()), row: Numbers(6) })]))
})

/** and those of every second. */
export const FleetTickShape = Type.Object({
  ...FleetTotals,
  agents: Type.Optional(Type.Record(Type.String(), AgentUpdateShape)),
  gone: Type.Optional(Type.Array(Type.String()))
})

/** `GET /explain` */
export const ExplanationShape = Type.Object({
  method: Type.String(),
  target: Type.String(),
  outcome: Type.String(),
  refusal: orNull(Type.Object({ status: Type.Integer(), code: Type.String(), detail: Type.String() })),
  route: orNull(Type.Object({ path: Type.String(), needs: orNull(Type.String()) })),
  key: Type.Object({ id: orNull(Type.String()), scopes: Type.Array(Type.String()), agents: Type.Union([Type.Array(Type.String()), Type.Literal('*')]) }),
  rate_limit: orNull(Type.Object({ enabled: Type.Boolean(), per_minute: Type.Optional(Type.Integer()), burst: Type.Optional(Type.Integer()), bucket: Type.Optional(Type.String()) })),
  agent: orNull(Type.Object({ name: Name, asked_as: Type.String(), status: Type.String(), path: Type.Optional(Type.String()), dns: Type.Optional(Type.Array(DnsName)) })),
  policy: orNull(Type.Object({
    timeouts: Type.Object({ connect: Type.String(), response: Type.String(), idle: Type.String(), total: orNull(Type.String()) }),
    path_prefix: orNull(Type.String()),
    retry: Type.Object({ statuses: Type.Array(Type.Integer()), max_body_bytes: Type.Integer(), repeatable: Type.Boolean(), why: Type.String() }),
    balancer: Type.Object({ policy: Type.String(), hash_on: Type.Optional(Type.String()), slow_start: Type.Optional(Type.String()) }),
    concurrency: Type.Object({ max: orNull(Type.Integer()), queue: Type.Integer(), queue_timeout: Type.String(), waiting: Type.Integer() }),
    headers: Type.Array(Type.String()),
    forward_authorization: Type.Boolean()
  })),
  instances: Type.Array(Type.Object({
    id: Type.String(),
    protocol: Type.String(),
    host: Type.String(),
    port: Type.Integer(),
    state: Type.String(),
    available: Type.Boolean(),
    why: Type.String(),
    in_flight: Type.Integer(),
    lease: orNull(Type.Object({ expires_at: Type.String() }))
  })),
  next: orNull(Type.Object({ instance: orNull(Type.String()), candidates: Type.Array(Type.String()), why: Type.String() }))
})

/** `POST /registry/register` */
export const RegisteredShape = Type.Object({
  message: Type.String(),
  name: Type.String(),
  instance: Instance,
  lease: Type.Optional(Lease)
})

/** `PUT /registry/{name}/instances/{id}` */
export const RenewedShape = Type.Object({ message: Type.String(), instance: Instance })

/** `DELETE /registry/{name}` and below */
export const DeregisteredShape = Type.Object({ message: Type.String(), note: Type.Optional(Type.String()) })

/** `DELETE /keys/{id}` */
export const RevokedShape = Type.Object({ id: Type.String(), shared: Type.Boolean() })

/** `POST /registry/{name}/instances/{id}/probe` */
export const ProbeShape = Type.Object({
  ok: Type.Boolean(),
  outcome: Type.String(),
  status: Type.Union([Type.Integer(), Type.Null()]),
  cause: Type.Union([Type.String(), Type.Null()]),
  path: Type.String(),
  latency_ms: Type.Number()
})

/** Every refusal (RFC 9457). */
export const ProblemShape = Type.Object({
  code: Type.String({ pattern: '^FLEET_[A-Z_]+$' }),
  title: Type.String(),
  detail: Type.String(),
  errors: Type.Optional(Type.Array(Type.Object({ path: Type.String(), message: Type.String() }))),
  nearest: Type.Optional(Type.Array(Type.String()))
})

export function hasShape (shape: TSchema, value: unknown): boolean {
  return Value.Check(shape, value)
}

/** The object that a text is as JSON; undefined when it is none, or none that may be walked. */
export function jsonObjectIn (text: string): object | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !isDeeper(value, mostDepth) ? value : undefined
}

function isDeeper (value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some(inner => isDeeper(inner, levels - 1))
}
