/** How much work something is, told by calls of built-in methods rather than by time. */
import { createHash } from 'node:crypto'

/** How often `work` calls the method. */
export function callsOf (prototype: object, method: string | symbol, work: () => void): number {
  const methods = prototype as Record<string | symbol, (...args: unknown[]) => unknown>
  const original = methods[method]!
  let calls = 0
  methods[method] = function (...args) {
    calls++
    return original.apply(this, args)
  }
  try {
    work()
  } finally {
    methods[method] = original
  }
  return calls
}

/** How many hashes `work` makes. */
export function hashesIn (work: () => void): number {
  return callsOf(Object.getPrototypeOf(createHash('sha256')) as object, 'digest', work)
}
