/** The registry without anything around it, what is put into it, and what can be seen of it. */
import { Registry, type AgentDefinition, type InstanceDefinition, type Registration, type RegistryChange, type RegistryLimits } from '../../src/fleet/registry.ts'
import { fakeClock } from './fake-clock.ts'

export const minute = 60_000

/** An empty registry with a clock of its own, and the summary of each change that it told of. */
export function build (limits?: RegistryLimits) {
  const clock = fakeClock()
  const registry = new Registry(clock, limits)
  const changes: { added: string[], removed: string[] }[] = []
  registry.onChange(change => changes.push(summary(change)))
  return { clock, registry, changes }
}

/** The origins that came and went. */
export function summary ({ added, removed }: RegistryChange) {
  return { added: added.map(({ origin }) => origin), removed: removed.map(({ origin }) => origin) }
}

/** An agent of the file with one instance for each port. */
export function agent (name: string, ports: number[], settings: Omit<Partial<AgentDefinition>, 'name' | 'instances'> = {}): AgentDefinition {
  return { name, instances: ports.map(port => instance(port)), ...settings }
}

function instance (port: number, fields: Partial<InstanceDefinition> = {}): InstanceDefinition {
  return { host: 'localhost', port, protocol: 'http', weight: 1, ...fields }
}

/** A registration of `planner` at this port. */
export function at (port: number, fields: Partial<Registration> = {}): Registration {
  return { name: 'planner', host: 'localhost', port, ...fields }
}

/** All that can be seen of a registry, for comparing before and after. */
export function seen (registry: Registry) {
  return { agents: structuredClone([...registry.agents()]), names: [...registry.names()].sort(), kept: registry.exportState() }
}

/** Where the instances of an agent are. */
export function ports (registry: Registry, name: string): number[] {
  return registry.get(name).instances.map(({ port }) => port)
}
