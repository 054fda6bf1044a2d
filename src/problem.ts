/**
 * Error → RFC 9457 problem document. Unexpected errors become FLEET_INTERNAL without their text; the caller logs them.
 */
import { BadRequestError, BodyTooLargeError, InternalError, isFleetError, type FieldError, type FleetError } from './errors.ts'

/** Media type of RFC 9457 §3. */
export const problemContentType = 'application/problem+json; charset=utf-8'

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

/** Relative to the repository: docs/errors.md has one section per code. */
const documentationUrl = '/docs/errors.md'

/** The catalogue's error for anything thrown: Fastify's own client errors are mapped, the rest is a defect of ours. */
export function toFleetError (error: unknown): FleetError {
  if (isFleetError(error)) return error
  if (error instanceof Error) {
    const { code, statusCode } = error as Error & { code?: string, statusCode?: number }
    if (code === 'FST_ERR_CTP_BODY_TOO_LARGE' || statusCode === 413) return new BodyTooLargeError('The body is larger than this route accepts', {}, { cause: error })
    if (typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500) return new BadRequestError(error.message, {}, { cause: error })
  }
  return new InternalError('The error is in the gateway\'s log under this request id', {}, { cause: error })
}

/** The problem document for `error` about the request `requestId`. */
export function toProblem (error: FleetError, requestId: string): Problem {
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

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** The request id as a URN: `urn:uuid:…` (RFC 9562 §4) for a UUID, else `urn:request:…`. */
function requestUrn (requestId: string): string {
  return uuid.test(requestId) ? `urn:uuid:${requestId}` : `urn:request:${encodeURIComponent(requestId)}`
}
