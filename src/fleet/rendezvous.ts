/**
 * The same client, the same instance: each instance draws a lot for each client, made of both their names, and the best lot wins
 * (rendezvous hashing). When one leaves, only its clients move; when one comes, clients move only to it; and nothing has to be remembered,
 * so every gateway decides alike, before and after a restart.
 */
import { mayTake, type Asker, type Balancer } from './balancer.ts'
import type { Instance } from './instance.ts'
import { roundRobin } from './round-robin.ts'

/** How `hashOn` is written: names are tokens (RFC 9110 §5.6.2, RFC 6265 §4.1.1). */
export const hashOnPattern = /^(?:address|(?:header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)$/

/** Where FNV-1a begins, and another place, so that an instance's two numbers have nothing to do with each other. */
const fnvOffset = 0x811c9dc5
const otherOffset = 0x9e3779b9

/** @param hashOn `address`, `header:NAME` or `cookie:NAME`: what tells clients apart, and otherwise the address does */
export function rendezvous (hashOn: string): Balancer {
  const keyOf = keyReader(hashOn)
  const known = new WeakMap<readonly Instance[], Uint32Array>()
  return {
    pick (agent, choice) {
      const key = choice.asker === null ? '' : keyOf(choice.asker)
      if (key === '') return roundRobin.pick(agent, choice) // nobody asks, or through a socket that has no addresses
      const { instances } = agent
      let seeds = known.get(instances)
      if (seeds === undefined) known.set(instances, seeds = seedsOf(instances))
      const client = hash(key, fnvOffset)
      let best: Instance | undefined
      let shortest = Infinity
      for (let index = 0; index < instances.length; index++) {
        const instance = instances[index]!
        if (!mayTake(instance, choice)) continue
        const lot = mix(mix(client ^ seeds[2 * index]!) + seeds[2 * index + 1]! | 0)
        // A wait with the rate `weight`: the chance that it is the shortest of all is the weight's share.
        const wait = -Math.log((lot + 0.5) / 2 ** 32) / instance.weight
        if (wait < shortest) {
          shortest = wait
          best = instance
        }
      }
      return best
    }
  }
}

function keyReader (hashOn: string): (asker: Asker) => string {
  const colon = hashOn.indexOf(':')
  const name = hashOn.slice(colon + 1)
  if (hashOn.startsWith('header:')) {
    const field = name.toLowerCase()
    return ({ headers, clientAddress }) => textOf(headers[field]) || clientAddress
  }
  if (hashOn.startsWith('cookie:')) return ({ headers, clientAddress }) => cookieOf(textOf(headers['cookie']), name) || clientAddress
  return ({ clientAddress }) => clientAddress
}

/** What is no text is no header either, but something that every object has. */
function textOf (value: unknown): string {
  return typeof value === 'string' ? value : Array.isArray(value) ? value.join(', ') : ''
}

/** The first cookie of this name, as it is written; empty when there is none. */
function cookieOf (cookies: string, name: string): string {
  for (const pair of cookies.split(';')) {
    const equals = pair.indexOf('=')
    if (equals !== -1 && pair.slice(0, equals).trim() === name) return pair.slice(equals + 1).trim()
  }
  return ''
}

/** Two numbers for each instance, made of its id alone. */
function seedsOf (instances: readonly Instance[]): Uint32Array {
  return Uint32Array.from(instances.flatMap(({ id }) => [hash(id, fnvOffset), hash(id, otherOffset)]))
}

/** 32 bits of a text (FNV-1a, and mixed). Every gateway has to agree on them, also one of the next version. */
function hash (text: string, seed: number): number {
  let bits = seed
  for (let index = 0; index < text.length; index++) bits = Math.imul(bits ^ text.charCodeAt(index), 0x01000193)
  return mix(bits)
}

/** Makes every bit depend on every other (the last step of MurmurHash3). */
function mix (bits: number): number {
  bits = Math.imul(bits ^ bits >>> 16, 0x85ebca6b)
  bits = Math.imul(bits ^ bits >>> 13, 0xc2b2ae35)
  return (bits ^ bits >>> 16) >>> 0
}
