/**
 * Error → RFC 9457 problem document with its headers. Unexpected errors become FLEET_INTERNAL without their text; the caller logs them.
 */
import {
  BadRequestError, BodyTooLargeError, ExpectationFailedError, ForbiddenError, HeadersTooLargeError, InternalError, MethodNotAllowedError,
  NotFoundError, RateLimitedError, RequestTimeoutError, UnauthenticatedError, isFleetError, type FieldError, type FleetError, type FleetErrorConstructor
} from './errors.ts'

/** The body of an answer the gateway made about an error. */
export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  instance: string
  code: string
  /** The same as `title`; older clients read it. */
  error: string
  errors?: FieldError[]
  nearest?: string[]
}

/** An answer ready to be written, by Fastify or past it. */
export interface RenderedProblem {
  status: number
  /** Names in lower case; `content-length` included. */
  headers: Record<string, string>
  body: string
}

/** Relative to the repository: docs/errors.md has one section per code. */
const documentationUrl = '/docs/errors.md'

/** RFC 9209 §2.3 error types for the codes that have one, unless the error names a better one. */
const proxyStatusByCode: Readonly<Record<string, string>> = {
  FLEET_BAD_REQUEST: 'http_request_error',
  FLEET_UNAUTHENTICATED: 'http_request_denied',
  FLEET_FORBIDDEN: 'http_request_denied',
  FLEET_RATE_LIMITED: 'http_request_denied',
  FLEET_AGENT_NOT_FOUND: 'destination_not_found',
  FLEET_BODY_TOO_LARGE: 'http_request_error',
  FLEET_REQUEST_TIMEOUT: 'http_request_error',
  FLEET_HEADERS_TOO_LARGE: 'http_request_error',
  FLEET_INTERNAL: 'proxy_internal_error',
  FLEET_UPSTREAM_UNREACHABLE: 'destination_ip_unroutable',
  FLEET_UPSTREAM_INVALID: 'http_protocol_error',
  FLEET_NO_INSTANCE_AVAILABLE: 'destination_unavailable',
  FLEET_AGENT_BUSY: 'connection_limit_reached',
  FLEET_UPSTREAM_TIMEOUT: 'http_response_timeout',
  FLEET_LOOP_DETECTED: 'proxy_loop_detected'
}

/** The code for a client error that is not ours, by its status; FLEET_BAD_REQUEST for all others. */
const errorByStatus: Readonly<Record<number, FleetErrorConstructor>> = {
  401: UnauthenticatedError,
  403: ForbiddenError,
  404: NotFoundError,
  405: MethodNotAllowedError,
  408: RequestTimeoutError,
  417: ExpectationFailedError,
  429: RateLimitedError,
  431: HeadersTooLargeError
}

/** An error that is not ours: Fastify's, or one of a hook that the application around the gateway put on its routes. */
interface ForeignError extends Error {
  code?: string
  statusCode?: number
  /** Of http-errors, which has both. */
  status?: number
  headers?: Record<string, unknown>
}

/**
 * The catalogue's error for anything thrown. What is not ours keeps the status and the headers it asks for (a 401 its challenge, a 503 its
 * `Retry-After`), and from 500 on its text is not told; what has no status is a defect of ours.
 */
export function toFleetError (error: unknown): FleetError {
  if (isFleetError(error)) return error
  const foreign = error instanceof Error ? error as ForeignError : undefined
  if (foreign?.code === 'FST_ERR_CTP_BODY_TOO_LARGE' || foreign?.statusCode === 413) return new BodyTooLargeError('The body is larger than this route accepts', {}, { cause: error })
  if (foreign?.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') return new BadRequestError('The Content-Type is not valid', {}, { cause: error })
  const status = foreign?.statusCode ?? foreign?.status
  if (foreign === undefined || !isErrorStatus(status)) return new InternalError('The error is in the gateway\'s log under this request id', {}, { cause: error })
  const extras = foreign.headers === undefined ? {} : { headers: headersOf(foreign.headers) }
  const mine = status < 500
    ? new (errorByStatus[status] ?? BadRequestError)(foreign.message, extras, { cause: error })
    : new InternalError('The error is in the gateway\'s log under this request id', extras, { cause: error })
  mine.statusCode = status
  return mine
}

function isErrorStatus (status: unknown): status is number {
  return Number.isInteger(status) && (status as number) >= 400 && (status as number) < 600
}

/** As `ErrorExtras` has them; what describes the body that the error would have had is left out. */
function headersOf (given: Record<string, unknown>): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(given)) {
    const lower = name.toLowerCase()
    if (value !== undefined && lower !== 'transfer-encoding') headers[lower] = Array.isArray(value) ? value.join(', ') : String(value)
  }
  return headers
}

/** The problem document for `error` about the request `requestId`. */
function toProblem (error: FleetError, requestId: string): Problem {
  return {
    type: `${documentationUrl}#${error.code.toLowerCase()}`,
    title: error.title,
    status: error.statusCode,
    detail: error.message,
    instance: requestUrn(requestId),
    code: error.code,
    error: error.title,
    ...(error.errors && { errors: error.errors }),
    ...(error.nearest && { nearest: error.nearest })
  }
}

/** The whole answer for `error` about the request `requestId`. */
export function renderProblem (error: FleetError, requestId: string): RenderedProblem {
  const body = JSON.stringify(toProblem(error, requestId))
  const proxyStatus = error.proxyStatus ?? proxyStatusByCode[error.code]
  return {
    status: error.statusCode,
    headers: {
      ...error.headers,
      'content-type': 'application/problem+json; charset=utf-8',
      'content-length': String(Buffer.byteLength(body)),
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      'proxy-status': proxyStatus === undefined ? 'fleet-gateway' : `fleet-gateway; error=${proxyStatus}`
    },
    body
  }
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** The request id as a URN: `urn:uuid:…` (RFC 9562 §4) for a UUID, else `urn:request:…`. */
function requestUrn (requestId: string): string {
  return uuid.test(requestId) ? `urn:uuid:${requestId}` : `urn:request:${encodeURIComponent(requestId)}`
}
