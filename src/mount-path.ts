/**
 * Where the gateway's routes are in the application around it.
 */

/**
 * A Fastify prefix as the beginning of request paths: without a slash at its end, empty for the root.
 * @throws Error when it has parameters or wildcards, since agents' paths are cut off behind it as they came
 */
export function mountPath (prefix: string): string {
  if (/[:*]/.test(prefix)) throw new Error(`The gateway's prefix can have neither parameters nor wildcards (got "${prefix}")`)
  return prefix.endsWith('/') ? prefix.slice(0, -1) : prefix
}
