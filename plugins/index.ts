/**
 * Every plugin by a plain name, for applications that take several: `import { registry, upstream } from 'fleet-gateway/plugins'`. Each is
 * also by itself in `fleet-gateway/plugins/{folder}`, together with the types of its options and decorators. Here they stand in the order
 * in which the gateway registers them; which decorators a plugin needs is in docs/embedding.md.
 */
/** What happened to each request: `request.facts`, `request.attempts`, `fastify.facts`. */
export { default as facts } from './facts/index.ts'
/** Spans of requests and attempts by OpenTelemetry. Needs `facts`. */
export { default as tracing } from './tracing/index.ts'
/** Errors, 404 and 405 as problem details (RFC 9457). */
export { default as problem } from './problem/index.ts'
/** Refuses ambiguous framing and targets, and loops. */
export { default as guard } from './guard/index.ts'
/** An orderly end: `fastify.drain`. Needs `facts`. */
export { default as drain } from './drain/index.ts'
/** Cross-origin requests of browsers: `fastify.cors`, `fastify.corsEnabled`. */
export { default as cors } from './cors/index.ts'
/** The Redis that several gateways share: `fastify.redis`. */
export { default as redis } from './redis/index.ts'
/** Other processes that serve the same fleet, and what they can be asked: `fastify.peers`. With `redis` before it also other gateways. */
export { default as peers } from './peers/index.ts'
/** Which instances serve which agent: `fastify.registry`, `fastify.registryState`, `fastify.registryRules`. */
export { default as registry } from './registry/index.ts'
/** Tokens of keys that open nothing any more: `fastify.revocations`. */
export { default as revocations } from './revocations/index.ts'
/** Who may do what: `request.principal`, `fastify.auth`. */
export { default as auth } from './auth/index.ts'
/** A token bucket per client: `fastify.rateLimiter`. */
export { default as rateLimit } from './rate-limit/index.ts'
/** Chooses the instance for each attempt: `fastify.upstream`. Needs `registry`. */
export { default as upstream } from './upstream/index.ts'
/** The routes of the plugins behind it as an OpenAPI document and as a page: `/openapi.json`, `/docs`; `fastify.docs`. Needs `registry`. */
export { default as docs } from './docs/index.ts'
/** What would become of a request: `/explain`. Needs `problem`, `registry` and `upstream`. */
export { default as explain } from './explain/index.ts'
/** Keeps the registry equal to fleet.yaml or to agents given in code: `fastify.discovery`. Needs `registry`. */
export { default as discovery } from './discovery/index.ts'
/** Finds instances by names in DNS that the file gives: `fastify.dns`. Needs `registry` and `discovery`. */
export { default as dns } from './dns/index.ts'
/** Probes, ejection, `/health…`: `fastify.health`. Needs `registry` and `upstream`. */
export { default as health } from './health/index.ts'
/** Counters and latencies, `/stats`: `fastify.stats`. Needs `facts`, `registry` and `upstream`. */
export { default as stats } from './stats/index.ts'
/** `/metrics` for Prometheus: `fastify.metrics`. Needs `facts`, `registry` and `upstream`. */
export { default as metrics } from './metrics/index.ts'
/** One line per request, and the last 1,000 of them: `fastify.auditLog`, `/audit`. Needs `facts`. */
export { default as auditLog } from './audit-log/index.ts'
/** `/api/{agent}/{path}`: `fastify.proxy`. Needs `facts`, `registry` and `upstream`. */
export { default as proxy } from './proxy/index.ts'
/** `/agents…`, `/registry…` and an index. Needs `registry`. */
export { default as admin } from './admin/index.ts'
/** A page to watch and change the fleet in a browser: `/console/`. Needs `facts`, `registry` and `stats`. */
export { default as console } from './console/index.ts'
