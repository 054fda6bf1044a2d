/**
 * The composition root: the whole gateway as one Fastify plugin, and as a server of its own. The only file that imports plugins at run
 * time; the order of registration is the order in which requests meet them, so it is written here once, with reasons.
 */
import { randomBytes } from 'node:crypto'
import type { Server } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { isDeepStrictEqual } from 'node:util'
import Fastify, { type FastifyInstance, type FastifyPluginAsync, type FastifyServerOptions } from 'fastify'
import fp from 'fastify-plugin'
import admin from '../plugins/admin/index.ts'
import { destinationProblem } from '../plugins/audit-log/destination.ts'
import auditLog, { type AuditLogPluginOptions } from '../plugins/audit-log/index.ts'
import auth from '../plugins/auth/index.ts'
import { readKeyring } from '../plugins/auth/keyring.ts'
import consolePage from '../plugins/console/index.ts'
import cors from '../plugins/cors/index.ts'
import discovery from '../plugins/discovery/index.ts'
import dns from '../plugins/dns/index.ts'
import docs from '../plugins/docs/index.ts'
import drain from '../plugins/drain/index.ts'
import explain from '../plugins/explain/index.ts'
import facts from '../plugins/facts/index.ts'
import guard from '../plugins/guard/index.ts'
import health from '../plugins/health/index.ts'
import metrics from '../plugins/metrics/index.ts'
import peers from '../plugins/peers/index.ts'
import type { WorkerChannel } from '../plugins/peers/worker-channel.ts'
import problem from '../plugins/problem/index.ts'
import unrouted from '../plugins/problem/unrouted.ts'
import proxy, { type ProxyPluginOptions } from '../plugins/proxy/index.ts'
import rateLimit from '../plugins/rate-limit/index.ts'
import { readAccess } from '../plugins/redis/access.ts'
import redis from '../plugins/redis/index.ts'
import registry from '../plugins/registry/index.ts'
import revocations from '../plugins/revocations/index.ts'
import stats from '../plugins/stats/index.ts'
import tracing from '../plugins/tracing/index.ts'
import upstream from '../plugins/upstream/index.ts'
import { systemClock, type Clock } from './clock.ts'
import { toAgentDefinitions } from './agent-options.ts'
import { settingChanges, waitsForRestart, type SettingChange } from './config-changes.ts'
import { locate, placing, withFullPaths } from './config-file.ts'
import { ConfigError, FleetOptions, mergeConfig, parseConfig, readConfigFile, stateDirOf, type ConfigSource, type FleetConfig, type FleetConfigInput } from './config.ts'
import type { Balancer } from './fleet/balancer.ts'
import type { Instance } from './fleet/instance.ts'
import type { AgentDefinition } from './fleet/registry.ts'
import { codeNames, codeOptionErrors } from './gateway-options.ts'
import { createLookupOf, type LookupOf } from './guarded-lookup.ts'
import { mountPath } from './mount-path.ts'
import { OptionsError, type OptionError } from './options.ts'
import { isOwnAddress } from './own-address.ts'
import { serverOptions } from './server.ts'
import { AgentTlsFiles, createTlsOf } from './tls-agents.ts'
import { ListenerCertificate, readListenerPair } from './tls-listener.ts'
import { tlsProblems } from './tls-problems.ts'

/** What fleet.yaml may say, in the same form; and what only code can give. */
export interface FleetGatewayOptions extends Omit<FleetConfigInput, 'balancer'> {
  /** A fleet.yaml to load and to watch. What is given here beside it wins over what the file says. */
  file?: string
  /** For `${NAME}` in the file. @default none */
  env?: Readonly<Record<string, string | undefined>>
  /** Answer unknown paths under the prefix. @default true when there is a prefix */
  notFound?: boolean
  /** The shared secret while neither the file nor what is given here names a secret, keys or JWTs. */
  fallbackSecret?: string
  clock?: Clock
  /** As fleet.yaml has it; or what chooses instances for all agents, whatever they say. */
  balancer?: NonNullable<FleetConfigInput['balancer']> | Balancer
  /** Told the length of each body chunk that passes, either way. */
  onStreamed?: (bytes: number) => void
  /** Who speaks HTTP to agents: our own client, or undici's. @default `own` */
  upstreamClient?: NonNullable<ProxyPluginOptions['upstreamClient']>
  /** Takes the audit log's lines instead of a file. */
  auditDestination?: NonNullable<AuditLogPluginOptions['destination']>
  /** The way to the other workers, where this process is one of several: they share a listener, a state folder and a Redis. */
  workers?: WorkerChannel
}

/** Configuration as it was written, and as it was understood. */
interface Loaded {
  readonly input: FleetConfigInput
  readonly config: FleetConfig
  /** With the files read that their headers name. */
  readonly agents: readonly AgentDefinition[]
  readonly source: ConfigSource
  /** Has new connections to agents use what their files hold now; tells whether anything is different. */
  readonly useTlsFiles: () => boolean
}

/** What is ready to be applied: whatever can fail has been done. */
interface Prepared extends Loaded {
  readonly changes: readonly (() => void)[]
}

/** The gateway as a plugin: `app.register(fleetGateway, { prefix: '/fleet', … })`. Encapsulated; the host's routes are left alone. */
export const fleetGateway: FastifyPluginAsync<FleetGatewayOptions> = async (gateway, opts) => {
  const { file, env = {}, fallbackSecret, clock = systemClock, balancer, auditDestination, onStreamed, upstreamClient, workers, notFound = mountPath(gateway.prefix) !== '', ...rest } = opts
  const { prefix: _prefix, logLevel: _logLevel, logSerializers: _logSerializers, ...others } = rest as FleetConfigInput & Record<string, unknown>
  const wrong = codeOptionErrors(opts)
  if (wrong.length > 0) throw new OptionsError('', wrong)
  const ownBalancer = isBalancer(balancer) ? balancer : undefined
  const overrides = { ...others, ...(balancer !== undefined && ownBalancer === undefined && { balancer: balancer as FleetConfigInput['balancer'] & {} }) }

  const tlsFiles = new AgentTlsFiles()

  async function load (): Promise<Loaded> {
    const fromFile = file === undefined ? undefined : await readConfigFile(file, env)
    const input = withFallbackSecret(mergeConfig(fromFile?.value ?? {}, overrides), fallbackSecret)
    const source = { ...(fromFile && { file: fromFile.file, positions: fromFile.positions }), codeNames }
    // A secret that another one overrules has to be right as well, as for who starts with this file.
    if (fromFile !== undefined && overrides.auth?.secret !== undefined) parseConfig({ auth: fromFile.value.auth }, source)
    const config = parseConfig(input, source)
    let agents: readonly AgentDefinition[] = []
    const { problems, use } = tlsFiles.prepare(config.agents)
    const wrong = [...errorsOf(() => { agents = toAgentDefinitions(config.agents) }), ...problems]
    if (wrong.length > 0) throw new ConfigError(locate(wrong, source))
    return { input, config, agents, source, useTlsFiles: use }
  }

  const atStart = await load()
  const { input, config } = atStart
  atStart.useTlsFiles()
  const stateDir = file === undefined ? config.registry.stateDir : stateDirOf(input, file)
  const viaPseudonym = `fleet-${randomBytes(6).toString('hex')}`
  const surroundings = {
    isOwn: (address: string, port: number) => isOwnAddress(gateway.server as Server, address, port),
    current: (instance: Instance) => gateway.registry.current(instance) ?? instance
  }
  const lookupWith = ({ registry }: FleetConfig) => createLookupOf(registry.allowedHosts, surroundings)
  let lookup = lookupWith(config)
  const lookupOf: LookupOf = instance => lookup(instance) // asked for each connection, so a reload counts from the next one on
  const corsOf = ({ input, config }: Loaded) => ({ ...input.cors, ...corsWithoutAuth(input, config) })
  // The listener is the one of the start, whatever the file says now.
  const authOf = ({ input, config: { auth } }: Loaded) => ({ ...input.auth, ...browserTrust(input, { auth, server: config.server }) })

  await gateway.register(facts, { trustedProxies: config.server.trustedProxies }) // first: every request has an account, refused ones too
  await gateway.register(tracing, { ...input.tracing, env, clock })               // before what may refuse: refusals are in a trace as well
  await gateway.register(problem, { notFound })                                   // any later failure is answered as a problem
  await gateway.register(guard, { viaPseudonym })                                 // nothing ambiguous goes further
  await gateway.register(drain, { clock })                                        // answers during a drain end their connections
  await gateway.register(cors, { ...corsOf(atStart), switchable: notFound })      // before auth: a preflight carries no credentials
  await gateway.register(unrouted)                                                // before auth: who asks for what is not there needs no token
  await placing(atStart.source, () => gateway.register(redis, { ...input.redis, clock })) // before who shares something by it
  await gateway.register(peers, { ...(workers && { workers }), clock })           // before who asks others
  await gateway.register(registry, { ...input.registry, ...(stateDir !== undefined && { stateDir }), isKeptByOther: workers !== undefined && workers.worker !== 1, clock }) // who is asked for decides about permissions and limits
  await gateway.register(revocations, { ...(stateDir !== undefined && { stateDir }), clock }) // in the folder that the registry has taken; before auth, which refuses what it knows
  await placing(atStart.source, () => gateway.register(auth, { ...authOf(atStart), clock })) // before limits: buckets belong to a principal
  await gateway.register(rateLimit, { ...input.rateLimit, clock })                // before anything that costs
  await gateway.register(upstream, { ...input.balancer, ...(input.concurrency && { concurrency: input.concurrency }), clock, ...(ownBalancer && { balancer: ownBalancer }) })
  const tlsOf = createTlsOf(gateway.registry, gateway.log, tlsFiles)
  await gateway.register(docs, { ...input.docs, clock, lookupOf, tlsOf })         // before all other routes: it describes them
  await gateway.register(explain, { clock })
  let begun = atStart
  let complete = false
  await gateway.register(discovery, {
    load: async () => {
      const loaded = complete ? await prepare() : begun = await load()
      return { agents: loaded.agents, config: loaded }
    },
    changesOf: (before, after) => {
      const waiting = new Set(waitingOf(after.config as Loaded).map(({ path }) => path))
      return changesBetween((before.config as Loaded).config, (after.config as Loaded).config).map(({ path, text }) => waiting.has(path) ? `${text} (at a restart)` : text)
    },
    ...(file !== undefined && { file })
  })
  await gateway.register(dns, { clock })                                          // after discovery: what the file asks for is looked up
  await gateway.register(health, { ...input.health, clock, lookupOf, tlsOf })
  await gateway.register(stats)
  await gateway.register(metrics, { ...input.metrics, clock })
  await placing(atStart.source, () => gateway.register(auditLog, { ...input.auditLog, clock, ...(auditDestination && { destination: auditDestination }) }))
  await gateway.register(proxy, {
    viaPseudonym,
    lookupOf,
    tlsOf,
    ...(onStreamed && { onStreamed }),
    ...(upstreamClient && { upstreamClient }),
    ...(input.timeouts && { timeouts: input.timeouts }),
    ...(input.retry && { retry: input.retry }),
    ...(input.paths && { paths: input.paths }),
    ...(config.server.bodyLimit !== undefined && { bodyLimit: config.server.bodyLimit })
  })
  await gateway.register(admin, { clock, idleMs: () => running.timeouts.idle })
  await gateway.register(consolePage, { ...input.console, clock }) // shows what all the others know

  /** Files are read and opened before anything is changed: one that is missing must leave all as it is. */
  async function prepare (): Promise<Prepared> {
    const next = await load()
    const changes = await placing(next.source, () => [
      gateway.auth.prepare(authOf(next)),
      ...(canSwitchCors(next) ? [gateway.cors.prepare(corsOf(next))] : []),
      gateway.auditLog.prepare({ ...next.input.auditLog }),
      () => { if (next.useTlsFiles()) gateway.proxy.renewTls() }
    ])
    return { ...next, changes }
  }

  function canSwitchCors ({ config: { cors } }: Loaded): boolean {
    return gateway.cors.switchable || !cors.enabled
  }

  /** Discovery tells of agents. */
  function changesBetween (before: FleetConfig, after: FleetConfig): SettingChange[] {
    return settingChanges(FleetOptions, before, after, ['agents'])
  }

  /** What differs from what this gateway was started with, and can't be applied before the next start. */
  function waitingOf (next: Loaded): SettingChange[] {
    return changesBetween(config, next.config).filter(({ path }) => waitsForRestart(path) || (path.startsWith('cors.') && !canSwitchCors(next)))
  }

  let running = config
  let waited = ''
  function apply (next: Prepared): void {
    const { input: changed, config: changedTo, changes } = next
    for (const change of changes) change()
    lookup = lookupWith(changedTo)
    gateway.registryRules.reconfigure({ ...changed.registry })
    gateway.rateLimiter.reconfigure({ ...changed.rateLimit })
    gateway.upstream.reconfigure({ ...changed.balancer, concurrency: { ...changed.concurrency } })
    gateway.health.reconfigure({ ...changed.health })
    gateway.proxy.reconfigure({ timeouts: changed.timeouts ?? {}, retry: changed.retry ?? {}, paths: changed.paths ?? [] })
    if (running.auth.enabled && !changedTo.auth.enabled) gateway.log.warn('auth is OFF since this reload: anybody who reaches this port can use and change the fleet')
    running = changedTo
    const waiting = waitingOf(next)
    const texts = waiting.map(({ text }) => text).join()
    if (texts !== '' && texts !== waited) gateway.log.warn(`Changes of ${waiting.map(({ path }) => path).join(', ')} take effect when the gateway restarts`)
    waited = texts
  }

  gateway.discovery.onReload(({ config }) => apply(config as Prepared))
  complete = true
  // The file is read twice at the start, and may have become another in between.
  if (!isDeepStrictEqual(begun.input, input)) await gateway.discovery.reload()
}

/**
 * What would stop a start though the configuration is valid: files that it names, and what is in them. Looks, and changes nothing.
 */
export function startErrors ({ server, agents, auth, auditLog, redis }: FleetConfig): OptionError[] {
  return [
    ...(auth.enabled ? keyErrors(auth) : []),
    ...errorsOf(() => toAgentDefinitions(agents)),
    ...tlsProblems({ server, agents }),
    ...readAccess(redis).problems.map(problem => ({ ...problem, path: `redis.${problem.path}` })),
    ...(auditLog.enabled && auditLog.file !== undefined ? auditFileErrors(auditLog.file) : [])
  ]
}

function keyErrors (auth: FleetConfig['auth']): OptionError[] {
  const isNamed = auth.secret !== undefined || auth.secretFile !== undefined || auth.keys.length > 0 || auth.jwt !== undefined
  return errorsOf(() => readKeyring(isNamed ? auth : { ...auth, secret: randomBytes(24).toString('base64url') })) // without any, one is made
}

/** What is wrong with what is read; nothing when it can be. */
function errorsOf (read: () => unknown): OptionError[] {
  try {
    read()
    return []
  } catch (error) {
    if (!(error instanceof OptionsError)) throw error
    return withFullPaths(error)
  }
}

function auditFileErrors (file: string): OptionError[] {
  const message = destinationProblem(file)
  return message === undefined ? [] : [{ path: 'auditLog.file', message, at: 'value' }]
}

function isBalancer (given: FleetGatewayOptions['balancer']): given is Balancer {
  return typeof (given as Partial<Balancer> | undefined)?.pick === 'function'
}

function withFallbackSecret (input: FleetConfigInput, secret: string | undefined): FleetConfigInput {
  const { auth } = input
  const isNamed = auth?.secret !== undefined || auth?.secretFile !== undefined || (auth?.keys?.length ?? 0) > 0 || auth?.jwt !== undefined
  return secret === undefined || isNamed ? input : { ...input, auth: { ...auth, secret } }
}

/** With auth off a page from anywhere must not drive the gateway, so CORS answers loopback origins only, unless others are configured. */
function corsWithoutAuth ({ cors }: FleetConfigInput, { auth }: FleetConfig): { loopbackOnly?: boolean } {
  return !auth.enabled && cors?.origins === undefined ? { loopbackOnly: true } : {}
}

/**
 * With auth off the browser's word is what there is: loopback is trusted, the addresses of the listener, and origins that were configured.
 * A name that leads here only by DNS is not (DNS rebinding).
 */
function browserTrust ({ cors }: FleetConfigInput, { auth, server }: Pick<FleetConfig, 'auth' | 'server'>): { allowedHosts?: string[], allowedOrigins?: string[] } {
  if (auth.enabled) return {}
  const everywhere = server.host === '0.0.0.0' || server.host === '::'
  const own = everywhere ? [hostname(), ...Object.values(networkInterfaces()).flatMap(entries => entries ?? []).map(({ address }) => address)] : [server.host]
  const origins = cors?.origins ?? [] // the default "*" is not what somebody asked for
  return { allowedHosts: [...own, ...origins.filter(origin => origin !== '*').map(hostOf)], allowedOrigins: origins }
}

function hostOf (origin: string): string {
  return origin.replace(/^[^:]+:\/\//, '')
}

/** A gateway with a server of its own, not yet listening. All of its decorators are on the instance. */
export async function createGateway (options: FleetGatewayOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const { certificate, unclear } = server.serverFactory === undefined && !('https' in server) ? await listenerCertificate(options) : {}
  const listener = serverOptions()
  const app = Fastify({ ...listener, ...certificate?.serverOptions(listener.serverFactory!), ...server }) as FastifyInstance
  // A function of its own: fp() marks what it is given, and the exported plugin must stay encapsulated for everybody else.
  const unencapsulated: FastifyPluginAsync<FleetGatewayOptions> = (instance, given) => fleetGateway(instance, given)
  try {
    await app.register(fp(unencapsulated, { name: 'fleet-gateway', fastify: '5.x' }), { notFound: true, ...options })
    if (unclear !== undefined) throw unclear // the file has become another one since, and may ask for TLS now: nobody shall listen in clear then
    await certificate?.keep(app)
  } catch (error) {
    await app.close() // nobody else can: what has begun already would keep the state folder from the next try
    throw error
  }
  return app
}

/**
 * What `server.tls` asks for, or what keeps that from being known: the plugin finds that, too, and says all that is wrong at once.
 * @throws ConfigError when its files are no good
 */
async function listenerCertificate ({ file, env = {}, server }: FleetGatewayOptions): Promise<{ certificate?: ListenerCertificate, unclear?: ConfigError }> {
  let settings: FleetConfig['server']
  let source: ConfigSource | undefined
  try {
    const fromFile = file === undefined ? undefined : await readConfigFile(file, env)
    source = fromFile && { file: fromFile.file, positions: fromFile.positions }
    const input = mergeConfig({ server: fromFile?.value.server ?? {} }, { ...(server && { server }) })
    settings = parseConfig(input, source).server
  } catch (error) {
    if (error instanceof ConfigError) return { unclear: error }
    throw error
  }
  if (settings.tls === undefined) return {}
  const { value, problems } = readListenerPair(settings.tls)
  if (value === null) throw new ConfigError(locate(problems, source))
  return { certificate: new ListenerCertificate(settings.tls, value) }
}
