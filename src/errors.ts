/**
 * The one catalogue of errors the gateway makes (CONTRACT: "Errors the gateway makes"). Callers branch on `code`, never on text.
 * How an error becomes an answer is in problem.ts.
 */
import createFastifyError, { type FastifyError } from '@fastify/error'

/** One wrong field of a body: `path` as in `aliases[1]` (empty for the whole), `message` with the rule. */
export interface FieldError {
  path: string
  message: string
}

/** What an error may carry beside its message. */
export interface ErrorExtras {
  /** Response headers, names in lower case (`retry-after`, `allow`, …). */
  headers?: Record<string, string>
  /** Each wrong field, for 400. */
  errors?: FieldError[]
  /** The nearest known names, for 404. */
  nearest?: string[]
  /** RFC 9209 §2.3 error type, for what went wrong towards an agent. */
  proxyStatus?: string
}

/** An error of the catalogue: `code`, `statusCode`, and `title`, the short sentence that is the same for every occurrence. */
export interface FleetError extends FastifyError, ErrorExtras {
  title: string
  statusCode: number
}

interface CatalogueEntry {
  code: string
  statusCode: number
  title: string
}

const catalogue = new Map<string, CatalogueEntry>()

/** Every error of the catalogue, in order of definition; for documentation and its test. */
export const errorCatalogue: ReadonlyMap<string, CatalogueEntry> = catalogue

export interface FleetErrorConstructor {
  new (detail: string, extras?: ErrorExtras, options?: { cause?: unknown }): FleetError
  readonly code: string
}

function define (code: string, statusCode: number, title: string): FleetErrorConstructor {
  catalogue.set(code, { code, statusCode, title })
  const Base = createFastifyError<[string]>(code, '%s', statusCode)
  class FleetErrorClass {
    static readonly code = code
    constructor (detail: string, extras: ErrorExtras = {}, options: { cause?: unknown } = {}) {
      const error = new Base(detail)
      if (options.cause !== undefined) error.cause = options.cause
      return Object.assign(error, extras, { title, statusCode })
    }
  }
  return FleetErrorClass as unknown as FleetErrorConstructor
}

/** Tells an error of the catalogue from any other. */
export function isFleetError (error: unknown): error is FleetError {
  return error instanceof Error && 'code' in error && 'title' in error && catalogue.has(String(error.code))
}

/** The request's framing, path or body is malformed. */
export const BadRequestError = define('FLEET_BAD_REQUEST', 400, 'The request is malformed')
/** A registration's body is not what section "Registration" of the HTTP API asks for; `errors` names each field. */
export const InvalidRegistrationError = define('FLEET_INVALID_REGISTRATION', 400, 'The registration is invalid')
/** No token, or a wrong one (RFC 6750 §3). */
export const UnauthenticatedError = define('FLEET_UNAUTHENTICATED', 401, 'A valid bearer token is required')
/** A valid token without the scope or the agent, or a foreign origin when auth is off. */
export const ForbiddenError = define('FLEET_FORBIDDEN', 403, 'This is not allowed')
/** No such route. */
export const NotFoundError = define('FLEET_NOT_FOUND', 404, 'There is no such route')
/** The agent in the path was never registered. A known agent with nobody to serve it is NoInstanceAvailableError. */
export const AgentNotFoundError = define('FLEET_AGENT_NOT_FOUND', 404, 'There is no such agent')
/** The agent is known, the instance is not (or its lease ran out). */
export const InstanceNotFoundError = define('FLEET_INSTANCE_NOT_FOUND', 404, 'There is no such instance')
/** No key of the configuration has the id in the path. */
export const KeyNotFoundError = define('FLEET_KEY_NOT_FOUND', 404, 'There is no such key')
/** The path is known, the method is not; `headers.allow` lists what is. */
export const MethodNotAllowedError = define('FLEET_METHOD_NOT_ALLOWED', 405, 'The method is not allowed here')
/** The request did not arrive completely in time. */
export const RequestTimeoutError = define('FLEET_REQUEST_TIMEOUT', 408, 'The request took too long to arrive')
/** An alias or name belongs to another agent. */
export const NameConflictError = define('FLEET_NAME_CONFLICT', 409, 'The name belongs to another agent')
/** The body is over the configured bound. */
export const BodyTooLargeError = define('FLEET_BODY_TOO_LARGE', 413, 'The body is too large')
/** An `Expect` other than `100-continue` (RFC 9110 §10.1.1). */
export const ExpectationFailedError = define('FLEET_EXPECTATION_FAILED', 417, 'The expectation can not be met')
/** The client's bucket is empty. */
export const RateLimitedError = define('FLEET_RATE_LIMITED', 429, 'Too many requests')
/** The request head is over the configured bound. */
export const HeadersTooLargeError = define('FLEET_HEADERS_TOO_LARGE', 431, 'The request head is too large')
/** A defect of ours; logged with its stack, answered without. */
export const InternalError = define('FLEET_INTERNAL', 500, 'The gateway failed')
/** An unknown transfer coding (RFC 9112 §6.1). */
export const NotImplementedError = define('FLEET_NOT_IMPLEMENTED', 501, 'The transfer coding is not implemented')
/** The agent's connection was refused or reset. */
export const UpstreamUnreachableError = define('FLEET_UPSTREAM_UNREACHABLE', 502, 'The agent could not be reached')
/** What the agent answered is not HTTP. */
export const UpstreamInvalidError = define('FLEET_UPSTREAM_INVALID', 502, 'The agent gave an invalid answer')
/** The agent is known but has no instance to serve the request. */
export const NoInstanceAvailableError = define('FLEET_NO_INSTANCE_AVAILABLE', 503, 'The agent has no available instance')
/** The agent is at its concurrency limit. */
export const AgentBusyError = define('FLEET_AGENT_BUSY', 503, 'The agent is busy')
/** The keys by which the token would be judged can't be had now. */
export const AuthUnavailableError = define('FLEET_AUTH_UNAVAILABLE', 503, 'The token can not be judged now')
/** The buckets that gateways share can't be had now, and `rateLimit.onStoreFailure` is `closed`. */
export const RateLimitUnavailableError = define('FLEET_RATE_LIMIT_UNAVAILABLE', 503, 'The limits can not be looked at now')
/** What was registered, removed or revoked can't be written to the state folder, or to the Redis that gateways share. */
export const NotKeptError = define('FLEET_NOT_KEPT', 503, 'The change can not be kept')
/** The gateway is shutting down, or not yet ready. */
export const DrainingError = define('FLEET_DRAINING', 503, 'The gateway is not taking requests')
/** Connect or response-head time ran out. */
export const UpstreamTimeoutError = define('FLEET_UPSTREAM_TIMEOUT', 504, 'The agent took too long to answer')
/** The request already passed through this gateway (RFC 9110 §7.6.3). */
export const LoopDetectedError = define('FLEET_LOOP_DETECTED', 508, 'The request loops through this gateway')
