/**
 * Who may do what: finds out who makes a request (`request.principal`) and refuses what its route does not allow. Routes say what they need
 * in `config.fleet` (route-config.ts). @fastify/bearer-auth reads `Authorization`; keys, scopes and the other ways to send a token are ours.
 */
import type { Socket } from 'node:net'
import fastifyBearerAuth from '@fastify/bearer-auth'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest, HookHandlerDoneFunction } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import type {} from '../registry/index.ts'
import type {} from '../revocations/index.ts'
import { createAddressKeys } from '../../src/address-key.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { AuthUnavailableError, ForbiddenError, type FleetError } from '../../src/errors.ts'
import { TokenBuckets } from '../../src/fleet/token-bucket.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { anyone, hasScope, mayTouch, type Principal, type Scope } from '../../src/principal.ts'
import { createBrowserGuard, type BrowserGuard, type BrowserGuardOptions } from './browser-guard.ts'
import { agentForbidden, scopeMissing, tokenInvalid, tokenMissing, tokenUnjudged, tooManyGuesses } from './challenge.ts'
import { bearerTokensOf, credentialsOf } from './credentials.ts'
import { readKeyring, type ConfiguredKey, type Keyring } from './keyring.ts'
import type { KeyLog } from './jwks.ts'
import type { JwtOptions } from './jwt-options.ts'
import { isJwt, jwtPrefix, JwtVerifier, prepareKeys, type Verdict } from './jwt.ts'
import { AuthOptions, type AuthInput } from './options.ts'
import type { FleetRouteConfig } from './route-config.ts'

/** Data of `auth` in fleet.yaml, and who may call when it is off. */
export interface AuthSettings extends AuthInput, BrowserGuardOptions {}

/** Data and seams. */
export interface AuthPluginOptions extends AuthSettings {
  clock?: Clock
}

export interface Auth {
  /** A token is asked for. */
  readonly enabled: boolean
  /**
   * Takes new keys at once. Files are read again; what is wrong changes nothing. `allowedHosts` and `allowedOrigins` stay when left out.
   * @throws OptionsError
   */
  reconfigure (settings: AuthSettings): void
  /**
   * As reconfigure(), in two steps: everything that can fail (files that can't be read) fails here, and what is returned applies it.
   * An empty list of `keys` and no secret locks everybody out: the last key was revoked, and must not go on opening the gateway.
   * @throws OptionsError
   */
  prepare (settings: AuthSettings): () => void
  /** Whether the agent is given by name to other keys and not to this principal, who so must not take the name, not even as an alias. */
  isOthers (agentName: string, principal: Principal): boolean
  /** Who the request's token belongs to by now, null for nobody: what is answered for longer than a moment asks again. At once for keys. */
  principalOf (request: FastifyRequest): Principal | null | Promise<Principal | null>
  /** The key with this id; undefined when there is none, when it was revoked, and where auth is off. */
  keyOf (id: string): Principal | undefined
  /** The named keys as they are configured, those that were revoked among them; none where auth is off. */
  keys (): ConfiguredKey[]
  /**
   * Why the principal may not have a route, or undefined when it may.
   * @param scope of the route
   * @param asked the name or alias of the agent that the request is about, where it is about one
   */
  refusalFor (principal: Principal, scope: Scope, asked: string | undefined): FleetError | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Who may do what. */
    auth: Auth
  }
  interface FastifyRequest {
    /** Who makes the request; null where nobody was asked (public routes) or nobody came with a valid token. */
    principal: Principal | null
    /** `Authorization` carries a token that opens the gateway, so it is not the agent's to see. */
    authorizationIsGateways: boolean
  }
}

/** Wrong tokens of one address: so many at once, and so many a minute. */
const guesses = { burst: 20, perMinute: 20 }

/** Null keyring: auth is off, and the browser guard stands in. */
interface State {
  /** What is configured; */
  readonly configured: Keyring | null
  /** and what of it opens the gateway: all but what was revoked. */
  readonly keyring: Keyring | null
  readonly jwt: JwtVerifier | null
  readonly browserGuard: BrowserGuard
  readonly trust: BrowserGuardOptions
}

/** A JWT that opens nothing now. */
type Refused = Exclude<Verdict, { kind: 'valid' }>
type Unknown = Extract<Verdict, { kind: 'unknown' }>

/** What opened the gateway on a connection. */
interface Opened {
  readonly keyring: Keyring
  readonly authorization: string
  readonly principal: Principal
}

/** What states are made with, and what of the former one may go on. */
interface Surroundings {
  readonly clock: Clock
  readonly log: KeyLog
  readonly former: State | null
}

function createState ({ allowedHosts, allowedOrigins, ...data }: AuthSettings, { clock, log, former }: Surroundings, mayBeEmpty = false): State {
  const options = parseOptions(AuthOptions, data, 'auth')
  const trust = { ...former?.trust, ...(allowedHosts && { allowedHosts }), ...(allowedOrigins && { allowedOrigins }) }
  const keyring = options.enabled ? readKeyring(options, mayBeEmpty) : null
  const jwt = keyring === null || options.jwt === undefined ? null : createVerifier(options.jwt, { clock, log, former })
  return { configured: keyring, keyring, jwt, browserGuard: createBrowserGuard(trust), trust }
}

/** Keys that were fetched count on while they come from the same place: a reload must not depend on who serves them. */
function createVerifier (options: JwtOptions, { clock, log, former }: Surroundings): JwtVerifier {
  const before = former?.jwt ?? null
  if (before !== null && before.options.jwksUrl !== undefined && isSameSource(before.options, options)) return new JwtVerifier(options, before.keys, clock)
  const { keys, problems } = prepareKeys(options, clock, log)
  if (keys === null) throw new OptionsError('auth', problems)
  return new JwtVerifier(options, keys, clock)
}

function isSameSource (before: JwtOptions, after: JwtOptions): boolean {
  return before.jwksUrl === after.jwksUrl && before.jwksMaxAge === after.jwksMaxAge && before.jwksCooldown === after.jwksCooldown
}

const authPlugin: FastifyPluginAsync<AuthPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, ...settings } = opts
  const { log } = fastify
  const revocations = fastify.hasDecorator('revocations') ? fastify.revocations : null
  const isRevoked = (digest: string) => revocations?.find(digest) !== undefined
  let state = withoutRevoked(createState(settings, { clock, log, former: null }))
  const failures = new TokenBuckets()
  const addressKey = createAddressKeys()
  const opened = new WeakMap<Socket, Opened>()
  const refused = new WeakMap<FastifyRequest, Refused>()

  /** @returns the state itself where nothing of it was revoked: connections that were opened by its keyring are recognised as before */
  function withoutRevoked (from: State): State {
    const keyring = from.keyring?.without(isRevoked) ?? null
    return keyring === from.keyring ? from : { ...from, keyring }
  }

  /** From this tick on it is what counts. */
  function become (next: State): void {
    const wasOpen = !isShut(state)
    state = next
    if (wasOpen && isShut(state)) log.warn('There is no secret and no key any more: nobody is let in until there is one')
  }

  let toldOf = ''
  /** Says once what is configured in vain. */
  function tellOfRevoked (): void {
    const ids = (state.configured?.idsOf(isRevoked) ?? []).map(id => id ?? 'the shared secret')
    if (ids.length > 0 && ids.join() !== toldOf) log.warn({ keys: ids }, 'Tokens that were revoked are still configured; they are refused')
    toldOf = ids.join()
  }

  /** Called by @fastify/bearer-auth, and directly for tokens that come another way. Keys are looked at first, and cost no promise. */
  function open (token: string, request: FastifyRequest): boolean | Promise<boolean> {
    const { keyring, jwt } = state
    request.principal = keyring?.find(token) ?? null
    if (request.principal !== null || jwt === null || !isJwt(token)) return request.principal !== null
    return openWithJwt(token, request, jwt)
  }

  async function openWithJwt (token: string, request: FastifyRequest, jwt: JwtVerifier): Promise<boolean> {
    const verdict = await jwt.verify(token)
    if (verdict.kind === 'valid') {
      request.principal = verdict.principal
      return true
    }
    if (verdict.kind !== 'unknown') request.log.debug({ why: verdict.why }, 'a JWT was refused')
    refused.set(request, verdict)
    return false
  }

  /** Whether the token would open the gateway; `unknown` when nobody can say. */
  async function opens (token: string, keyring: Keyring, { jwt }: State): Promise<boolean | Unknown> {
    if (keyring.find(token) !== null) return true
    if (jwt === null || !isJwt(token)) return false
    const verdict = await jwt.verify(token)
    return verdict.kind === 'unknown' ? verdict : verdict.kind === 'valid'
  }

  const bearerOptions = {
    addHook: false, keys: [], auth: open, specCompliance: 'rfc6749', verifyErrorLogLevel: null as unknown as string // null is none: a wrong token is no error of ours
  } satisfies fastifyBearerAuth.FastifyBearerAuthOptions
  await fastify.register(fastifyBearerAuth, bearerOptions)
  const verifyBearerAuth = fastify.verifyBearerAuth!

  /** Whether `Authorization` opens the gateway. */
  function verifyAuthorization (request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    const { statusCode } = reply
    return new Promise(resolve => verifyBearerAuth(request, reply, error => {
      if (error !== undefined) void reply.code(statusCode) // it sets 401, which is not for it to say where auth is optional
      resolve(error === undefined)
    }))
  }

  /** Sets the principal if there is a valid token; else says what is wrong. */
  async function authenticate (request: FastifyRequest, reply: FastifyReply, keyring: Keyring): Promise<Error | undefined> {
    const credentials = credentialsOf(request.raw)
    if (credentials.kind === 'none') return tokenMissing()
    if (credentials.kind === 'ambiguous') return tokenInvalid('The request has more than one token')
    if (credentials.kind === 'authorization') {
      if (!await verifyAuthorization(request, reply)) return guessed(request)
      request.authorizationIsGateways = true
      // A JWT runs out, so it is judged each time.
      if (request.principal!.id?.startsWith(jwtPrefix) !== true) opened.set(request.raw.socket, { keyring, authorization: request.raw.headers.authorization!, principal: request.principal! })
      return undefined
    }
    if (!await open(credentials.token, request)) return guessed(request)
    const current = state
    for (const token of bearerTokensOf(request.raw)) {
      const answer = await opens(token, keyring, current)
      if (typeof answer === 'object') return tokenUnjudged(answer.retryAfterMs) // to pass it on may give it away, to keep it may break the request
      request.authorizationIsGateways ||= answer
    }
    return undefined
  }

  function guessed (request: FastifyRequest): Error {
    const refusal = refused.get(request)
    if (refusal?.kind === 'unknown') return tokenUnjudged(refusal.retryAfterMs)
    const address = request.facts?.clientAddress ?? request.ip
    const { allowed, msToNext } = failures.take(addressKey(address), guesses, clock.now())
    return allowed ? tokenInvalid(refusal?.kind === 'expired' ? 'The token has expired' : undefined) : tooManyGuesses(guesses, msToNext)
  }

  function prepare (next: AuthSettings): () => void {
    const prepared = createState(next, { clock, log, former: state }, next.keys !== undefined)
    return () => {
      const { jwt } = state
      become(withoutRevoked(prepared))
      if (jwt !== null && jwt.keys !== state.jwt?.keys) jwt.keys.close()
      if (state.jwt !== null && jwt?.keys !== state.jwt.keys) state.jwt.keys.warm()
      tellOfRevoked()
    }
  }

  // The first token need not wait, and a mistake shows in the log at once.
  fastify.addHook('onReady', async () => {
    state.jwt?.keys.warm()
    tellOfRevoked()
  })
  const stopListening = revocations?.onRevoked(() => become(withoutRevoked(state)))
  fastify.addHook('onClose', async () => {
    stopListening?.()
    state.jwt?.keys.close()
  })
  fastify.decorateRequest('principal', null)
  fastify.decorateRequest('authorizationIsGateways', false)
  fastify.decorate('auth', {
    get enabled () { return state.keyring !== null },
    prepare,
    reconfigure: next => prepare(next)(),
    isOthers: (agentName, principal) => state.keyring?.isOthers(agentName, principal) === true,
    principalOf ({ raw }) {
      const { keyring, jwt } = state
      if (keyring === null) return anyone
      const credentials = credentialsOf(raw)
      if (credentials.kind === 'none' || credentials.kind === 'ambiguous') return null
      const token = credentials.kind === 'token' ? credentials.token : bearerTokensOf(raw)[0]!
      const known = keyring.find(token)
      return known !== null || jwt === null || !isJwt(token) ? known : ownerOf(token, jwt)
    },
    keyOf: id => state.keyring?.keyed(id),
    keys: () => state.configured?.keys ?? [],
    refusalFor: (principal, scope, asked) => permissionProblem(fastify, principal, scope, asked)
  })
  /** The credential that this connection was opened with before: it was compared then, and needs no comparison now. */
  function isRecognised (request: FastifyRequest, keyring: Keyring): boolean {
    const { raw } = request
    const before = opened.get(raw.socket)
    if (before === undefined || before.keyring !== keyring || before.authorization !== raw.headers.authorization) return false
    if (credentialsOf(raw).kind !== 'authorization') return false
    request.principal = before.principal
    request.authorizationIsGateways = true
    return true
  }

  /** The error to answer with, or undefined when the request may go on. */
  function refusalOf (request: FastifyRequest, route: FleetRouteConfig, failure: Error | undefined): Error | undefined {
    const { principal } = request
    if (request.facts) request.facts.keyId = principal?.id ?? null
    if (route.optionalAuth === true) return undefined
    if (request.facts) request.facts.unauthenticated = failure !== undefined && !(failure instanceof AuthUnavailableError)
    return failure ?? permissionProblem(fastify, principal!, route.scope, request)
  }

  /** Lets the request go on, or not. */
  function authorize (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction): void {
    const { keyring, browserGuard } = state
    const route: FleetRouteConfig = request.routeOptions.config.fleet ?? {}
    if (keyring === null) {
      const refusal = browserGuard(request.method, request.raw.headers)
      request.principal = anyone
      return done(refusal === undefined ? undefined : new ForbiddenError(refusal))
    }
    if (route.public === true) return done()
    if (isRecognised(request, keyring)) return done(refusalOf(request, route, undefined))
    const judgedBy = state
    authenticate(request, reply, keyring).then(failure => {
      if (reply.raw.destroyed) return void reply.hijack() // the client left: nothing begins that its account does not have
      if (state === judgedBy) return done(refusalOf(request, route, failure))
      // Keys were waited for, and a reload came first: what opened the gateway before it need not do so now.
      request.principal = null
      request.authorizationIsGateways = false
      refused.delete(request)
      authorize(request, reply, done)
    }, done)
  }

  fastify.addHook('onRequest', function askForToken (request, reply, done) {
    if (request.is404) return done()
    authorize(request, reply, done)
  })
}

/** Null where it opens nothing, or nobody can say. */
async function ownerOf (token: string, jwt: JwtVerifier): Promise<Principal | null> {
  const verdict = await jwt.verify(token)
  return verdict.kind === 'valid' ? verdict.principal : null
}

/** Nobody is let in. */
function isShut ({ keyring, jwt }: State): boolean {
  return keyring?.isEmpty === true && jwt === null
}

/** Why the principal may not have this route, or undefined when it may. @param about the request, or the agent's name in it */
function permissionProblem (fastify: FastifyInstance, principal: Principal, scope: Scope = 'admin', about: FastifyRequest | string | undefined): FleetError | undefined {
  if (!hasScope(principal, scope)) return scopeMissing(scope)
  if (principal.agents === '*') return undefined
  const asked = typeof about === 'object' ? askedAgent(about, scope) : about
  if (asked === undefined) return undefined
  const agent = fastify.hasDecorator('registry') ? fastify.registry.find(asked) : undefined
  return mayTouch(principal, agent?.name ?? asked) ? undefined : agentForbidden()
}

/** The name or alias in the path: `/api/{agent}/…`, or a parameter `name`. The router has decoded it. */
function askedAgent ({ params }: FastifyRequest, scope: string): string | undefined {
  const named = params as Record<string, string | undefined>
  if (scope !== 'proxy') return named['name']
  return (named['*'] ?? '').split('/', 1)[0]
}

export { AuthOptions }
export type { ConfiguredKey } from './keyring.ts'
export type { FleetRouteConfig } from './route-config.ts'
export default fp(authPlugin, { name: 'fleet-auth', fastify: '5.x' })
