/**
 * Fastify routes nine methods; agents may speak any that Node parses. `addHttpMethod` would reach the embedding application's routes, so
 * the methods are added to a copy that only this plugin's scope sees.
 */
import { METHODS } from 'node:http'
import type { FastifyInstance } from 'fastify'

/** Not proxied: TRACE would echo credentials (RFC 9110 §9.3.8), CONNECT asks for a tunnel (§9.3.6). */
const refused: ReadonlySet<string> = new Set(['TRACE', 'CONNECT'])

/** Every method that is forwarded. */
export const forwardedMethods: readonly string[] = METHODS.filter(method => !refused.has(method))

interface MethodSets { bodyless: Set<string>, bodywith: Set<string> }

/** Makes `scope` route all forwarded methods, and leaves the instances around it as they are. */
export function acceptAllMethods (scope: FastifyInstance): void {
  const key = supportedMethodsKey(scope)
  if (key !== undefined) {
    const { bodyless, bodywith } = (scope as unknown as Record<symbol, MethodSets>)[key]!
    Object.defineProperty(scope, key, { value: { bodyless: new Set(bodyless), bodywith: new Set(bodywith) } })
  }
  for (const method of forwardedMethods) {
    if (!scope.supportedMethods.includes(method)) scope.addHttpMethod(method, { hasBody: true })
  }
}

/** Fastify keeps its methods under a symbol on the root instance, which scopes inherit. */
function supportedMethodsKey (scope: object): symbol | undefined {
  for (let at: object | null = scope; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    const key = Object.getOwnPropertySymbols(at).find(symbol => symbol.description === 'fastify.acceptedHTTPMethods')
    if (key !== undefined) return key
  }
  return undefined
}
