/**
 * JSON Web Tokens as bearer tokens (RFC 7519, RFC 8725, RFC 9068): who a token is of, and what it may do. jose verifies; which keys there are
 * is for jwks.ts. Nothing that a token says of itself is believed before its signature is, and where its key is it never may say.
 */
import type { JWTHeaderParameters, JWTPayload } from 'jose'
import { systemClock, type Clock } from '../../src/clock.ts'
import type { OptionError } from '../../src/options.ts'
import { scopes, type Principal, type Scope } from '../../src/principal.ts'
import { jwksUrlProblem, keysOfFile, KeysUnavailable, RemoteKeys, type KeyLog, type KeySource } from './jwks.ts'
import type { JwtOptions } from './jwt-options.ts'
import { VerifiedTokens } from './verified-tokens.ts'

/** What ids begin with; ids of keys can't hold a colon. */
export const jwtPrefix = 'jwt:'

/** Nothing longer is taken apart. */
const mostTokenLength = 8_192
const mostIdLength = 200

const form = /^[\w-]+\.[\w-]+\.[\w-]+$/

/** Access tokens (RFC 9068 §2.1), and those that say no more than what they are. */
const types = new Set(['jwt', 'at+jwt', 'application/jwt', 'application/at+jwt'])

/** Whether the token could be one. */
export function isJwt (token: string): boolean {
  return token.length <= mostTokenLength && form.test(token)
}

/** What a token turned out to be. */
export type Verdict =
  | { readonly kind: 'valid', readonly principal: Principal }
  /** `why` is for the log, and quotes nothing of the token. */
  | { readonly kind: 'invalid' | 'expired', readonly why: string }
  /** Nobody knows, for so long. */
  | { readonly kind: 'unknown', readonly retryAfterMs: number }

const invalid = (why: string): Verdict => ({ kind: 'invalid', why })

/** A verifier is known to be no good. */
type Problems = readonly OptionError[]

/** What is wrong with the settings, beyond their forms; files that they name are read. */
export function jwtProblems (options: JwtOptions): Problems {
  return prepareKeys(options).problems
}

/** Where keys come from is known when nothing is wrong. */
export function prepareKeys (options: JwtOptions, clock: Clock = systemClock, log: KeyLog = { info () {}, warn () {} }): { problems: Problems, keys: KeySource | null } {
  const { jwksUrl, jwksFile, jwksMaxAge, jwksCooldown } = options
  const wrong = (path: string, message: string, at: OptionError['at'] = 'value') => ({ problems: [{ path: `jwt${path}`, message, at }], keys: null })
  if ((jwksUrl === undefined) === (jwksFile === undefined)) return wrong('', 'must have one of jwksUrl and jwksFile', 'key')
  if (jwksUrl !== undefined) {
    const message = jwksUrlProblem(jwksUrl)
    if (message !== undefined) return wrong('.jwksUrl', message)
    return { problems: [], keys: new RemoteKeys({ url: jwksUrl, maxAgeMs: jwksMaxAge, cooldownMs: jwksCooldown }, clock, log) }
  }
  try {
    return { problems: [], keys: keysOfFile(jwksFile!) }
  } catch (error) {
    return wrong('.jwksFile', (error as Error).message)
  }
}

export class JwtVerifier {
  readonly options: JwtOptions
  readonly keys: KeySource
  readonly #clock: Clock
  readonly #verified = new VerifiedTokens()

  constructor (options: JwtOptions, keys: KeySource, clock: Clock) {
    this.options = options
    this.keys = keys
    this.#clock = clock
  }

  /** Who the token is of. At once when it was asked for before. @param token isJwt() */
  verify (token: string): Verdict | Promise<Verdict> {
    const known = this.keys.isFresh() ? this.#verified.find(token, this.keys.generation, this.#clock.now()) : null
    return known === null ? this.#verify(token) : { kind: 'valid', principal: known }
  }

  async #verify (token: string): Promise<Verdict> {
    const { issuer, audience, algorithms, clockSkew } = this.options
    const skew = Math.ceil(clockSkew / 1_000)
    const why = this.#whyNotOurs(token)
    if (why !== undefined) return invalid(why)
    const { jwtVerify } = await import('jose/jwt/verify')
    let claims: JWTPayload
    let generation = 0
    try {
      const currentDate = new Date(this.#clock.now())
      const find = async (header: object) => {
        const found = await this.keys.find(header as JWTHeaderParameters)
        generation = found.generation
        return found.key
      }
      const verified = await jwtVerify(token, find, { issuer, audience, algorithms: [...algorithms], clockTolerance: skew, requiredClaims: ['exp'], currentDate })
      claims = verified.payload
    } catch (error) {
      if (error instanceof KeysUnavailable) return { kind: 'unknown', retryAfterMs: error.retryAfterMs }
      const { code, message } = error as Error & { code?: string }
      return { kind: code === 'ERR_JWT_EXPIRED' ? 'expired' : 'invalid', why: code === undefined ? 'it can not be verified' : message }
    }
    const seconds = this.#clock.now() / 1_000
    if (claims.iat !== undefined && claims.iat > seconds + skew) return invalid('"iat" is in the future')
    if (!Number.isFinite(claims.exp)) return invalid('"exp" is no time')
    const id = idOf(claims[this.options.idClaim])
    if (id === undefined) return invalid(`"${this.options.idClaim}" names nobody`)
    const principal = Object.freeze({ id, named: true, scopes: this.#scopesOf(claims), agents: this.#agentsOf(claims) })
    this.#verified.add(token, generation, principal, (claims.exp! + skew) * 1_000)
    return { kind: 'valid', principal }
  }

  /** What shows without a key: the issuer's are not fetched for tokens of others. All of it is looked at again by what was signed. */
  #whyNotOurs (token: string): string | undefined {
    const [head, body] = token.split('.', 2).map(parsed)
    if (head === undefined || body === undefined) return 'it is no JWT'
    const { alg, typ, crit } = head as { alg?: unknown, typ?: unknown, crit?: unknown }
    if (crit !== undefined) return 'it has a critical extension'
    if (typ !== undefined && (typeof typ !== 'string' || !types.has(typ.toLowerCase()))) return 'it is of another type'
    if (!this.options.algorithms.some(algorithm => algorithm === alg)) return 'it is signed in a way that is not allowed'
    const { iss, aud } = body as { iss?: unknown, aud?: unknown }
    if (iss !== this.options.issuer) return 'it is of another issuer'
    return textsOf(aud, false).includes(this.options.audience) ? undefined : 'it is for another audience'
  }

  #scopesOf (claims: JWTPayload): readonly Scope[] {
    const { scopeClaim, defaultScopes } = this.options
    const claim = claims[scopeClaim] === undefined && scopeClaim === 'scope' ? claims['scp'] : claims[scopeClaim]
    if (claim === undefined) return defaultScopes
    const named = textsOf(claim)
    return scopes.filter(scope => named.includes(scope))
  }

  #agentsOf (claims: JWTPayload): readonly string[] | '*' {
    const claim = claims[this.options.agentsClaim]
    const agents = claim === undefined ? this.options.defaultAgents : textsOf(claim)
    return agents.includes('*') ? '*' : agents
  }
}

function parsed (part: string): object | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString())
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}

/** The texts of a claim: a list, or one text with spaces between. Of anything else none, so that nothing is allowed by a mistake. */
function textsOf (claim: unknown, isSplit = true): string[] {
  if (typeof claim === 'string') return isSplit ? claim.split(' ').filter(text => text !== '') : [claim]
  return Array.isArray(claim) && claim.every(text => typeof text === 'string') ? claim : []
}

/** One word for logs and buckets, whatever the issuer calls people; different for different names. */
function idOf (name: unknown): string | undefined {
  if (typeof name !== 'string' || name === '' || name.length > mostIdLength || /\p{Surrogate}/u.test(name)) return undefined
  return jwtPrefix + name.replaceAll(/[^!-$&-~]/gu, encodeURIComponent)
}
