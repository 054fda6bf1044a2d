/**
 * What a route declares of itself in `config.fleet`; auth and rate-limit read it.
 */
import type { Scope } from '../../src/principal.ts'

export interface FleetRouteConfig {
  /** What a caller needs. A route that declares nothing needs `admin`. */
  readonly scope?: Scope
  /** Open to everybody. */
  readonly public?: boolean
  /** Open to everybody, and a valid token is recognised: `request.principal` is null without one. */
  readonly optionalAuth?: boolean
  /** `false` exempts the route from rate limits. */
  readonly rateLimit?: boolean
  /** It is there so that preflights have a route: whatever else comes to it has none. */
  readonly isForPreflights?: boolean
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the gateway should know about the route. */
    fleet?: FleetRouteConfig
  }
}
