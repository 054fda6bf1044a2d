/**
 * What embedding applications import: the gateway as a plugin, as a server, and the server options it needs.
 */
export { fleetGateway, createGateway, type FleetGatewayOptions } from './gateway.ts'
export { fleetGateway as default } from './gateway.ts'
export { serverOptions } from './server.ts'
export { ConfigError, type FleetConfig, type FleetConfigInput } from './config.ts'
export { errorCatalogue, isFleetError, type FleetError } from './errors.ts'
export type { Clock } from './clock.ts'
export type { Agent, AgentPolicy, AgentStatus } from './fleet/agent.ts'
export type { Attempt, AttemptOutcome } from './fleet/attempt.ts'
export type { Balancer } from './fleet/balancer.ts'
export type { Instance, InstanceState, Lease } from './fleet/instance.ts'
export type { AgentDefinition, Registration, Registry } from './fleet/registry.ts'
