/**
 * The errors of auth, with the challenge each carries (RFC 6750 §3).
 */
import { AuthUnavailableError, ForbiddenError, RateLimitedError, UnauthenticatedError, type FleetError } from '../../src/errors.ts'
import type { BucketLimits } from '../../src/fleet/token-bucket.ts'
import type { Scope } from '../../src/principal.ts'

const challenge = 'Bearer realm="fleet-gateway"'

/** No token was given: how to ask, and no error code (RFC 6750 §3.1). */
export function tokenMissing (): FleetError {
  return new UnauthenticatedError('Send a token: "Authorization: Bearer TOKEN" or "X-Fleet-Token: TOKEN"', { headers: { 'www-authenticate': challenge } })
}

/** A token was given that opens nothing. It is not repeated here, nor anywhere. */
export function tokenInvalid (detail = 'The token is not valid'): FleetError {
  return new UnauthenticatedError(detail, { headers: { 'www-authenticate': `${challenge}, error="invalid_token"` } })
}

/** Nobody can say now whether the token is valid: that is no fault of who sent it. */
export function tokenUnjudged (retryAfterMs: number): FleetError {
  return new AuthUnavailableError('The keys of who issued the token can not be fetched', { headers: { 'retry-after': seconds(retryAfterMs) } })
}

/** The address has guessed too often. */
export function tooManyGuesses ({ burst, perMinute }: BucketLimits, msToNext: number): FleetError {
  const wait = seconds(msToNext)
  const policy = `"guesses";q=${burst};w=${Math.ceil(burst / perMinute * 60)}`
  return new RateLimitedError('Too many invalid tokens from this address', { headers: { 'retry-after': wait, 'ratelimit-policy': policy, ratelimit: `"guesses";r=0;t=${wait}` } })
}

function seconds (ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1_000)))
}

/** The token is valid and does not reach so far. */
export function scopeMissing (scope: Scope): FleetError {
  return new ForbiddenError(`This needs the scope "${scope}"`, { headers: { 'www-authenticate': `${challenge}, error="insufficient_scope", scope="${scope}"` } })
}

/** The token is valid, for other agents. */
export function agentForbidden (): FleetError {
  return new ForbiddenError('This key is not for that agent', { headers: { 'www-authenticate': `${challenge}, error="insufficient_scope"` } })
}
