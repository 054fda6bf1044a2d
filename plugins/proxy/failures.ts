/**
 * Outcomes of attempts as errors of the catalogue.
 */
import { BadRequestError, UpstreamInvalidError, UpstreamTimeoutError, UpstreamUnreachableError, type FleetError } from '../../src/errors.ts'
import type { AttemptOutcome } from '../../src/fleet/attempt.ts'
import { tlsErrorType } from '../../src/tls-reasons.ts'

/** What the client is told of an attempt that failed; the log is told `cause`. */
export function failureOf (outcome: AttemptOutcome, cause: Error): FleetError {
  const options = { cause }
  switch (outcome) {
    case 'refused':
      return new UpstreamUnreachableError('No connection to the agent could be opened', { proxyStatus: isDnsError(cause) ? 'dns_error' : tlsErrorType(cause) ?? 'connection_refused' }, options)
    case 'connect-timeout':
      return new UpstreamTimeoutError('No connection to the agent could be opened in time', { proxyStatus: 'connection_timeout' }, options)
    case 'timeout':
      return new UpstreamTimeoutError('The agent did not answer in time', {}, options)
    case 'invalid':
      return new UpstreamInvalidError('What the agent answered is not valid HTTP', {}, options)
    case 'aborted':
      return new BadRequestError('The request has a field that can not be forwarded', {}, options)
    default:
      return new UpstreamUnreachableError('The agent closed the connection before it answered', { proxyStatus: 'connection_terminated' }, options)
  }
}

function isDnsError (error: Error): boolean {
  return (error as NodeJS.ErrnoException).syscall === 'getaddrinfo'
}
