/** Which SRV records count, and what their weights are worth here. */
import type { Service } from './lookup.ts'

/** The largest weight of an instance. */
const mostWeight = 1_000

/**
 * Those of the lowest priority: the others are for when none of these can be reached, which the gateway has its own ways to deal with. Weights
 * are brought into the range of instances; 0, which means "hardly ever" (RFC 2782), is the least there is.
 */
export function servicesInUse (services: readonly Service[]): Service[] {
  const priority = Math.min(...services.map(service => service.priority))
  const used = services.filter(service => service.priority === priority)
  const heaviest = Math.max(...used.map(({ weight }) => weight))
  const scale = heaviest > mostWeight ? mostWeight / heaviest : 1
  return used.map(service => ({ ...service, weight: Math.max(1, Math.round(service.weight * scale)) }))
}
