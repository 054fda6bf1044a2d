/**
 * Which routes there are, by what Fastify tells of them (`onRoute`), so that a path can be looked up without a request: its methods for 405,
 * its rights for an explanation.
 */

/** `Allow` where no path is asked for: what agents are usually asked with. */
export const usualMethods = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'

/** One pattern and what is behind it. */
interface Entry<C> {
  readonly url: string
  readonly pattern: RegExp
  readonly names: readonly string[]
  readonly byMethod: Map<string, C | undefined>
}

/** A route that a path leads to. */
export interface FoundRoute<C> {
  /** As it was declared: `/registry/:name`. */
  readonly url: string
  readonly config: C | undefined
  /** By name; `*` is what a wildcard stands for. Still encoded are those characters that decodeURI() leaves, and `%`. */
  readonly params: Readonly<Record<string, string>>
}

export class RouteTable<C = unknown> {
  readonly #entries = new Map<string, Entry<C>>()
  readonly #prefix: string

  /** @param prefix where the routes are mounted, without a slash at its end */
  constructor (prefix: string) {
    this.#prefix = prefix
  }

  add (url: string, method: string | readonly string[], config?: C): void {
    if (url.endsWith('*') && method === 'OPTIONS') return // the route that @fastify/cors adds for preflights
    // Fastify routes the prefix itself with and without a slash at its end, and tells of it here for HEAD only.
    const isRoot = this.#prefix !== '' && (url === this.#prefix || url === `${this.#prefix}/`)
    const key = isRoot ? this.#prefix : url
    let entry = this.#entries.get(key)
    if (entry === undefined) this.#entries.set(key, entry = { url: key, ...toPattern(key, isRoot), byMethod: new Map() })
    for (const name of [method].flat()) entry.byMethod.set(name, config ?? entry.byMethod.get(name))
  }

  /** The methods that the path can be asked with; none when there is no such path. */
  methodsAt (asked: string): Set<string> {
    const path = routable(asked)
    const methods = new Set<string>()
    for (const { pattern, names, byMethod } of this.#entries.values()) {
      const values = pattern.exec(path)?.slice(1)
      // `/agents/` is no path that somebody should be told the methods of.
      if (values?.every((value, index) => value !== '' || names[index] === '*')) for (const method of byMethod.keys()) methods.add(method)
    }
    return methods
  }

  /** The route, of several that match the one with the fewest parameters, as the router decides. To it a parameter may be nothing at all. */
  find (method: string, asked: string): FoundRoute<C> | undefined {
    const path = routable(asked)
    const [best] = [...this.#entries.values()]
      .filter(({ pattern, byMethod }) => byMethod.has(method) && pattern.test(path))
      .sort((a, b) => looseness(a) - looseness(b))
    if (best === undefined) return undefined
    const values = best.pattern.exec(path)!.slice(1)
    return { url: best.url, config: best.byMethod.get(method), params: Object.fromEntries(best.names.map((name, index) => [name, values[index]!])) }
  }
}

/** The path as the router compares it: `/%61udit` is `/audit`. One that can't be decoded is no route's. */
function routable (path: string): string {
  if (!path.includes('%')) return path
  try {
    return decodeURI(path.replaceAll('%25', '%2525'))
  } catch {
    return path
  }
}

function looseness ({ names }: Entry<unknown>): number {
  return names.reduce((sum, name) => sum + (name === '*' ? 100 : 1), 0)
}

/** `/registry/:name` matches one segment, `/api/*` whatever follows. */
function toPattern (url: string, mayEndInSlash: boolean): { pattern: RegExp, names: string[] } {
  const names: string[] = []
  const source = url.split('/').map(part => {
    if (part === '*' || part.startsWith(':')) names.push(part === '*' ? part : part.slice(1))
    if (part === '*') return '(.*)'
    if (part.startsWith(':')) return '([^/]*)'
    return part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  }).join('/')
  return { pattern: new RegExp(`^${source}${mayEndInSlash ? '/?' : ''}$`), names }
}
