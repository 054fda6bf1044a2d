/**
 * What embedding applications import: the gateway as a plugin, as a server, the server options it needs, and what its seams are made of.
 * Single plugins are in `fleet-gateway/plugins`; their types are here too, so that whoever takes the whole gateway has its decorators typed.
 */
export { fleetGateway, createGateway, type FleetGatewayOptions } from './gateway.ts'
export { fleetGateway as default } from './gateway.ts'
export { serverOptions } from './server.ts'
export type { Certificate } from './tls-listener.ts'

// Configuration and what is wrong with it: a ConfigError always; an OptionsError, which is one, of one plugin's part and of what only code gives.
export { ConfigError, type ConfigProblem, type FleetConfig, type FleetConfigInput } from './config.ts'
export { OptionsError, type OptionError } from './options.ts'

// Every error of the catalogue, to throw in plugins of one's own and to tell apart by `code`.
export {
  errorCatalogue, isFleetError,
  BadRequestError, InvalidRegistrationError, UnauthenticatedError, ForbiddenError, NotFoundError, AgentNotFoundError, InstanceNotFoundError, KeyNotFoundError,
  MethodNotAllowedError, RequestTimeoutError, NameConflictError, BodyTooLargeError, ExpectationFailedError, RateLimitedError, RateLimitUnavailableError,
  HeadersTooLargeError, InternalError, NotImplementedError, UpstreamUnreachableError, UpstreamInvalidError, NoInstanceAvailableError,
  AgentBusyError, AuthUnavailableError, NotKeptError, DrainingError, UpstreamTimeoutError, LoopDetectedError,
  type ErrorExtras, type FieldError, type FleetError, type FleetErrorConstructor
} from './errors.ts'

// Seams: a clock and a balancer of one's own, and the ones that are used otherwise.
export { systemClock, type Clock } from './clock.ts'
export { mayTake, type Asker, type Balancer, type Choice } from './fleet/balancer.ts'
export { roundRobin } from './fleet/round-robin.ts'

// The fleet, as the decorators speak of it.
export type { Agent, AgentPolicy, AgentStatus } from './fleet/agent.ts'
export type { Attempt, AttemptOutcome } from './fleet/attempt.ts'
export { isAvailable, type Instance, type InstanceState, type Lease } from './fleet/instance.ts'
export type { AgentDefinition, Registration, Registry } from './fleet/registry.ts'
export type { Principal, Scope } from './principal.ts'

// The plugins' options and decorators. Naming a plugin's module here is also what types its decorators.
export type { AdminPluginOptions } from '../plugins/admin/index.ts'
export type { AuditDestination, AuditEntry, AuditFilter, AuditLog, AuditLogPluginOptions, AuditTry } from '../plugins/audit-log/index.ts'
export type { Auth, AuthPluginOptions, ConfiguredKey, FleetRouteConfig } from '../plugins/auth/index.ts'
export type { Cors, CorsPluginOptions } from '../plugins/cors/index.ts'
export type { Discovery, DiscoveryPluginOptions } from '../plugins/discovery/index.ts'
export type { Dns, DnsNameStatus, DnsPluginOptions } from '../plugins/dns/index.ts'
export type { Docs, DocsPluginOptions, OpenApiDocument } from '../plugins/docs/index.ts'
export type { Drain, DrainPluginOptions } from '../plugins/drain/index.ts'
export type { ExplainPluginOptions } from '../plugins/explain/index.ts'
export type { FactsLog, FactsPluginOptions, RequestFacts } from '../plugins/facts/index.ts'
export type { GuardPluginOptions } from '../plugins/guard/index.ts'
export type { Health, HealthPluginOptions } from '../plugins/health/index.ts'
export type { Metrics, MetricsPluginOptions } from '../plugins/metrics/index.ts'
export type { Heard, Peer, PeerAnswer, Peers, PeersPluginOptions, WorkerChannel } from '../plugins/peers/index.ts'
export type { ProblemPluginOptions } from '../plugins/problem/index.ts'
export type { Proxy, ProxyPluginOptions } from '../plugins/proxy/index.ts'
export type { RateLimitPluginOptions, RateLimiter } from '../plugins/rate-limit/index.ts'
export type { FleetRedis, RedisPluginOptions } from '../plugins/redis/index.ts'
export type { Registrations, RegistryPluginOptions, RegistryRules, RegistryStateKeeper } from '../plugins/registry/index.ts'
export type { Revocation, Revocations, RevocationsPluginOptions } from '../plugins/revocations/index.ts'
export type { Stats, StatsSnapshot } from '../plugins/stats/index.ts'
export type { Upstream, UpstreamPluginOptions } from '../plugins/upstream/index.ts'
