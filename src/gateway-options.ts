/**
 * What only code can give to the gateway, beside what fleet.yaml may say: its names, and what is wrong with what was given.
 */
import type { OptionError } from './options.ts'

interface Rule {
  readonly holds: (value: unknown) => boolean
  readonly message: string
}

/** By name; `upstreamClient` is the proxy's to judge, and a `balancer` may also be what fleet.yaml says. */
const rules: Readonly<Record<string, Rule>> = {
  file: { holds: value => typeof value === 'string' && value !== '', message: 'must be the name of a file' },
  env: { holds: value => typeof value === 'object' && value !== null, message: 'must be an object with texts, such as process.env' },
  notFound: { holds: value => typeof value === 'boolean', message: 'must be true or false' },
  fallbackSecret: { holds: value => typeof value === 'string', message: 'must be a text' },
  clock: { holds: value => hasMethods(value, 'now', 'after', 'every'), message: 'must have now(), after() and every()' },
  onStreamed: { holds: value => typeof value === 'function', message: 'must be a function' },
  auditDestination: { holds: value => hasMethods(value, 'write'), message: 'must have write()' },
  workers: { holds: value => hasMethods(value, 'send', 'onMessage'), message: 'must have worker, send() and onMessage()' }
}

/** Names that code may give at this path: a key that is not known there may be meant as one of them. */
export function codeNames (path: string): readonly string[] {
  if (path.startsWith('balancer.')) return ['pick']
  return /[.[]/.test(path) ? [] : [...Object.keys(rules), 'upstreamClient']
}

/** The options of code that are wrong; one that is undefined is left out. */
export function codeOptionErrors (options: object): OptionError[] {
  return Object.entries(rules).flatMap(([path, { holds, message }]) => {
    const value: unknown = (options as Record<string, unknown>)[path]
    return value === undefined || holds(value) ? [] : [{ path, message, at: 'value' as const }]
  })
}

function hasMethods (value: unknown, ...names: readonly string[]): boolean {
  return typeof value === 'object' && value !== null && names.every(name => typeof (value as Record<string, unknown>)[name] === 'function')
}
