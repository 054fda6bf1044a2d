/**
 * Who may do what: finds out who makes a request (`request.principal`) and refuses what its route does not allow. Routes say what they need
 * in `config.fleet` (route-config.ts). @fastify/bearer-auth reads `Authorization`; keys, scopes and the other ways to send a token are ours.
 */
import type { Socket } from 'node:net'
import fastifyBearerAuth from '@fastify/bearer-auth'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import type {} from '../registry/index.ts'
import { createAddressKeys } from '../../src/address-key.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { ForbiddenError } from '../../src/errors.ts'
import { TokenBuckets } from '../../src/fleet/token-bucket.ts'
import { parseOptions } from '../../src/options.ts'
import { anyone, hasScope, mayTouch, type Principal } from '../../src/principal.ts'
import { createBrowserGuard, type BrowserGuard, type BrowserGuardOptions } from './browser-guard.ts'
import { agentForbidden, scopeMissing, tokenInvalid, tokenMissing, tooManyGuesses } from './challenge.ts'
import { bearerTokensOf, credentialsOf } from './credentials.ts'
import { Keyring } from './keyring.ts'
import { AuthOptions } from './options.ts'
import type { FleetRouteConfig } from './route-config.ts'

/** Data of `auth` in fleet.yaml, and who may call when it is off. */
export interface AuthSettings extends Partial<AuthOptions>, BrowserGuardOptions {}

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
  /** Who the request's token belongs to by now, null for nobody: what is answered for longer than a moment asks again. */
  principalOf (request: FastifyRequest): Principal | null
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
  readonly keyring: Keyring | null
  readonly browserGuard: BrowserGuard
  readonly trust: BrowserGuardOptions
}

/** What opened the gateway on a connection. */
interface Opened {
  readonly keyring: Keyring
  readonly authorization: string
  readonly principal: Principal
}

function createState ({ allowedHosts, allowedOrigins, ...data }: AuthSettings, former: BrowserGuardOptions, mayBeEmpty = false): State {
  const options = parseOptions(AuthOptions, data, 'auth')
  const trust = { ...former, ...(allowedHosts && { allowedHosts }), ...(allowedOrigins && { allowedOrigins }) }
  return { keyring: options.enabled ? new Keyring(options, mayBeEmpty) : null, browserGuard: createBrowserGuard(trust), trust }
}

const authPlugin: FastifyPluginAsync<AuthPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, ...settings } = opts
  let state = createState(settings, {})
  const failures = new TokenBuckets()
  const addressKey = createAddressKeys()
  const opened = new WeakMap<Socket, Opened>()

  /** Called by @fastify/bearer-auth, and directly for tokens that come another way. */
  function open (token: string, request: FastifyRequest): boolean {
    request.principal = state.keyring?.find(token) ?? null
    return request.principal !== null
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
      opened.set(request.raw.socket, { keyring, authorization: request.raw.headers.authorization!, principal: request.principal! })
      return undefined
    }
    if (!open(credentials.token, request)) return guessed(request)
    request.authorizationIsGateways = bearerTokensOf(request.raw).some(token => keyring.find(token) !== null)
    return undefined
  }

  function guessed (request: FastifyRequest): Error {
    const address = request.facts?.clientAddress ?? request.ip
    const { allowed, msToNext } = failures.take(addressKey(address), guesses, clock.now())
    return allowed ? tokenInvalid() : tooManyGuesses(msToNext)
  }

  function prepare (next: AuthSettings): () => void {
    const prepared = createState(next, state.trust, next.keys !== undefined)
    return () => {
      const wasOpen = state.keyring?.isEmpty !== true
      state = prepared
      if (wasOpen && state.keyring?.isEmpty === true) fastify.log.warn('There is no secret and no key any more: nobody is let in until there is one')
    }
  }

  fastify.decorateRequest('principal', null)
  fastify.decorateRequest('authorizationIsGateways', false)
  fastify.decorate('auth', {
    get enabled () { return state.keyring !== null },
    prepare,
    reconfigure: next => prepare(next)(),
    isOthers: (agentName, principal) => state.keyring?.isOthers(agentName, principal) === true,
    principalOf ({ raw }) {
      const { keyring } = state
      if (keyring === null) return anyone
      const credentials = credentialsOf(raw)
      if (credentials.kind === 'token') return keyring.find(credentials.token)
      return credentials.kind === 'authorization' ? keyring.find(bearerTokensOf(raw)[0]!) : null
    }
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
    return failure ?? permissionProblem(fastify, request, principal!, route)
  }

  fastify.addHook('onRequest', function authorize (request, reply, done) {
    if (request.is404) return done()
    const { keyring, browserGuard } = state
    const route: FleetRouteConfig = request.routeOptions.config.fleet ?? {}
    if (keyring === null) {
      const refusal = browserGuard(request.method, request.raw.headers)
      request.principal = anyone
      return done(refusal === undefined ? undefined : new ForbiddenError(refusal))
    }
    if (route.public === true) return done()
    if (isRecognised(request, keyring)) return done(refusalOf(request, route, undefined))
    authenticate(request, reply, keyring).then(failure => done(refusalOf(request, route, failure)), done)
  })
}

/** Why the principal may not have this route, or undefined when it may. */
function permissionProblem (fastify: FastifyInstance, request: FastifyRequest, principal: Principal, { scope = 'admin' }: FleetRouteConfig): Error | undefined {
  if (!hasScope(principal, scope)) return scopeMissing(scope)
  if (principal.agents === '*') return undefined
  const asked = askedAgent(request, scope)
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
export type { FleetRouteConfig } from './route-config.ts'
export default fp(authPlugin, { name: 'fleet-auth', fastify: '5.x' })
