/**
 * What may be said of an agent, said once: fleet.yaml's `agents` entries and the registration API's body share these schemas.
 * Each concern's fields are functions of the duration form, since a registration may also write bare numbers of seconds.
 */
import { readHeaders, type AgentHeaders } from './agent-headers.ts'
import { metadataProblem, settingProblems } from './agent-rules.ts'
import { InvalidRegistrationError } from './errors.ts'
import { canonicalHost } from './fleet/address.ts'
import type { AgentPolicy } from './fleet/agent.ts'
import { balancerPolicies, type BalancerPolicy } from './fleet/balancers.ts'
import { hashOnPattern } from './fleet/rendezvous.ts'
import { dnsTypes, type AgentDefinition, type DnsSource, type DnsType, type InstanceDefinition, type Registration } from './fleet/definitions.ts'
import { Duration, DurationOrSeconds, OptionsError, Size, Type, durationMs, type Static, type StaticDecode } from './options.ts'
import type { ReadFile } from './token-file.ts'

/** Names of agents and their aliases (CONTRACT: registration). */
export const namePattern = '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'

const nameRule = 'must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}'

const Name = (description: string) => Type.String({ pattern: namePattern, errorMessage: nameRule, description })

type DurationForm = typeof Duration | typeof DurationOrSeconds

const strict = { additionalProperties: false } as const

// What the gateway sets for all agents, and each agent may set for itself. Bounds and words are said here, once; the plugins' options.ts add
// defaults, which agents don't have.

/** Of `timeouts`, without defaults. */
export const timeoutRules = {
  connect: { minimumMs: 1, description: 'How long a connection to an instance may take to open; after that another instance is tried.' },
  response: { minimumMs: 1, description: 'From the sent request to the head of the answer.' },
  idle: { minimumMs: 1, description: 'The longest pause between bytes of a body, either way. It is all that event streams and WebSockets are held to.' },
  total: { minimumMs: 1, description: 'The whole exchange, retries included; unlimited when left out. Event streams and WebSockets are exempt.' }
}

/** An agent's own timeouts. */
export const timeoutFields = (form: DurationForm) => ({
  connect: Type.Optional(form(timeoutRules.connect)),
  response: Type.Optional(form(timeoutRules.response)),
  idle: Type.Optional(form(timeoutRules.idle)),
  total: Type.Optional(form(timeoutRules.total))
})

/** Timeouts for parts of an agent. */
export const pathFields = (form: DurationForm) => Type.Array(Type.Object({
  prefix: Type.String({ pattern: '^/[!-~]{0,255}$', errorMessage: 'must be a path that starts with "/", 256 characters at most', examples: ['/v1/chat'], description: 'Of the path as the agent gets it, by whole segments: `/v1/chat` is good for `/v1/chat` and `/v1/chat/new`, not for `/v1/chats`.' }),
  timeouts: Type.Object(timeoutFields(form), { ...strict, description: 'Override the agent\'s timeouts there.' })
}, strict), { maxItems: 100, description: 'Timeouts of their own for some paths; where several prefixes match, the longest counts.' })

/** Of `concurrency`, without defaults. */
export const concurrencyRules = {
  max: { minimum: 1, maximum: 1_000_000, description: 'The most requests that are under way on one instance at once, event streams and WebSockets among them; unlimited when left out.' },
  queue: { minimum: 0, maximum: 100_000, description: 'How many more requests of the agent may wait for a place, in the order in which they came; what comes beyond is answered with 503.' },
  queueTimeout: { minimumMs: 1, description: 'How long one may wait; then 503.' }
}

/** How much an agent takes at once. */
export const concurrencyFields = (form: DurationForm) => ({
  max: Type.Optional(Type.Integer(concurrencyRules.max)),
  queue: Type.Optional(Type.Integer(concurrencyRules.queue)),
  queueTimeout: Type.Optional(form(concurrencyRules.queueTimeout))
})

/** Of `retry`, without defaults. */
export const retryRules = {
  attempts: { minimum: 0, maximum: 1, description: 'Retries after an answer that is worth one, or after a connection that broke. What was never sent goes to another instance in any case.' },
  maxBodyBytes: { maximum: 1024 * 1024, description: 'The largest request body that is kept for a retry; a larger one is not sent twice.' }
}

/** An agent's own retry policy. */
export const retryFields = {
  attempts: Type.Optional(Type.Integer(retryRules.attempts)),
  statuses: Type.Optional(Type.Array(Type.Integer({ minimum: 500, maximum: 599 }), { maxItems: 100, examples: [[502, 503, 504]], description: 'Answers that are worth a retry; all 5xx but 501 and 505 when left out.' })),
  maxBodyBytes: Type.Optional(Size(retryRules.maxBodyBytes))
}

/** Of `health`, without defaults. */
export const healthRules = {
  interval: { minimumMs: 100, description: 'Between two probes of an instance that is up. One that is down, or failed its last probe, is probed every second.' },
  timeout: { minimumMs: 10, description: 'How long a probe may take.' },
  unhealthyAfter: { minimum: 1, maximum: 100, description: 'Failed probes in a row until an instance is down.' },
  healthyAfter: { minimum: 1, maximum: 100, description: 'Good probes in a row until it is up again.' }
}

/** How an agent is probed. */
export const healthFields = (form: DurationForm) => ({
  path: Type.Optional(Type.String({ pattern: '^/[!-~]{0,1023}$', errorMessage: 'must be a path that starts with "/", 1024 characters at most', examples: ['/health'], description: 'Probe by HTTP GET of this path, where 2xx and 3xx are good; by opening a connection, with TLS where it speaks https, when left out.' })),
  interval: Type.Optional(form(healthRules.interval)),
  timeout: Type.Optional(form(healthRules.timeout)),
  unhealthyAfter: Type.Optional(Type.Integer(healthRules.unhealthyAfter)),
  healthyAfter: Type.Optional(Type.Integer(healthRules.healthyAfter))
})

/** Of `balancer`, without defaults: what two schemas share, so that one may give a default. */
export const balancerRules = {
  policy: (given: { default?: BalancerPolicy } = {}) => Type.Unsafe<BalancerPolicy>({
    ...given,
    anyOf: balancerPolicies.map(policy => ({ const: policy })),
    errorMessage: `must be one of ${balancerPolicies.map(policy => `"${policy}"`).join(', ')}`,
    description: 'In turn; in turn by weights; the one with the fewest requests under way; the better one of two at random, by how fast it answers; always the same one for the same client.'
  }),
  hashOn: (given: { default?: string } = {}) => Type.String({
    ...given,
    pattern: hashOnPattern.source,
    errorMessage: 'must be "address", "header:NAME" or "cookie:NAME"',
    examples: ['header:X-User', 'cookie:sid'],
    description: 'For `policy: hash`: what tells clients apart. Whoever has no such header or cookie is told apart by address.'
  }),
  slowStart: { description: 'For all policies but `hash`: the time over which an instance that is new or came back grows from a tenth of its share to all of it.' }
}

/** How an agent's instances are chosen. */
export const balancerFields = (form: DurationForm) => ({
  policy: Type.Optional(balancerRules.policy()),
  hashOn: Type.Optional(balancerRules.hashOn()),
  slowStart: Type.Optional(form(balancerRules.slowStart))
})

/** Of `rateLimit`, without defaults. */
export const rateLimitRules = {
  enabled: { description: 'Whether requests are limited at all.' },
  perMinute: { minimum: 1, maximum: 60_000_000, description: 'Tokens that come back per minute.' },
  burst: { minimum: 1, maximum: 1_000_000, description: 'Tokens a full bucket holds: requests that may come at once.' }
}

/** The limits of a key, or of an agent. */
export const rateLimitFields = {
  enabled: Type.Optional(Type.Boolean(rateLimitRules.enabled)),
  perMinute: Type.Optional(Type.Integer(rateLimitRules.perMinute)),
  burst: Type.Optional(Type.Integer(rateLimitRules.burst))
}

/**
 * What fields of an entry count as when they are left out. The schema has no `default` for them, since what is left out must stay so: other
 * entries or a registration may say it. Documents find it under `whenLeftOut`.
 */
const leftOut = { host: 'localhost', protocol: 'http', weight: 1, minRefresh: '5s', maxRefresh: '30s' } as const

/** What a field is, for documents. */
interface Words { description: string, whenLeftOut?: string | number }

const Protocol = (words: Words) => Type.Union([Type.Literal('http'), Type.Literal('https')], { ...words, errorMessage: 'must be "http" or "https"' })
const Weight = (words: Words) => Type.Integer({ ...words, minimum: 1, maximum: 1_000 })

const instanceFields = {
  protocol: Type.Optional(Protocol({ description: 'How the gateway talks to it. Certificates are verified.', whenLeftOut: leftOut.protocol })),
  weight: Type.Optional(Weight({ description: 'Its share of the requests, under every balancer but round robin.', whenLeftOut: leftOut.weight }))
}

const Host = Type.String({ minLength: 1, maxLength: 253, description: 'A host name or an IP address.', whenLeftOut: leftOut.host })
const Port = (description: string) => Type.Integer({ minimum: 1, maximum: 65_535, description })

const serverNamePattern = '^(?![0-9.]+$)[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$'

const FileName = (description: string, example: string) => Type.String({ minLength: 1, examples: [example], description })

/** TLS towards a server that the gateway connects to. Of fleet.yaml alone: files of the gateway's machine, and whom it believes, are the operator's. */
export const agentTlsFields = {
  caFile: Type.Optional(FileName('Certificates of the authorities, in PEM form, that are believed instead of the system\'s.', '/etc/ssl/agents-ca.pem')),
  certFile: Type.Optional(FileName('The gateway\'s client certificate in PEM form, with the chain behind it.', '/etc/ssl/gateway.pem')),
  keyFile: Type.Optional(FileName('Its private key in PEM form.', '/etc/ssl/gateway.key')),
  passphraseFile: Type.Optional(FileName('What the key is encrypted with, alone on one line.', '/run/secrets/gateway-passphrase')),
  serverName: Type.Optional(Type.String({ pattern: serverNamePattern, errorMessage: 'must be a host name, and no address', examples: ['agents.internal'], description: 'The name that is asked for (SNI) and that the certificate must have; that of the instance\'s host when left out.' })),
  verify: Type.Optional(Type.Boolean({ description: 'Whether the certificate is verified. Without that, whoever is on the way can read and change everything.', whenLeftOut: true }))
}

const dnsNamePattern = '^(?![0-9.]+$)[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?[.]?$'

/** Of fleet.yaml alone: whom the gateway asks, and what it believes, is the operator's. */
const dnsFields = {
  name: Type.String({ pattern: dnsNamePattern, errorMessage: 'must be a name in DNS, and no address', examples: ['encoder.default.svc.cluster.local'], description: 'The whole name: no search domains are tried, and /etc/hosts is not read.' }),
  type: Type.Optional(Type.Unsafe<DnsType>({ anyOf: dnsTypes.map(type => ({ const: type })), errorMessage: `must be one of ${dnsTypes.map(type => `"${type}"`).join(', ')}`, description: 'The records that are asked for; `A` and `AAAA` when left out.' })),
  port: Type.Optional(Port('The port of all addresses. Needed unless the type is `SRV`, whose records name one.')),
  resolvers: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 60 }), { minItems: 1, maxItems: 8, examples: [['10.0.0.2', '10.0.0.3:5353']], description: 'Name servers to ask, by address, with a port or without; those of /etc/resolv.conf when left out.' })),
  minRefresh: Type.Optional(Duration({ minimumMs: 1_000, maximumMs: 86_400_000, description: 'The name is asked for again when the TTL of its records ends, but not sooner than after this time.', whenLeftOut: leftOut.minRefresh })),
  maxRefresh: Type.Optional(Duration({ minimumMs: 1_000, maximumMs: 86_400_000, description: 'The same, and not later.', whenLeftOut: leftOut.maxRefresh }))
}

const settingFields = (form: DurationForm) => ({
  aliases: Type.Optional(Type.Array(Name('Another name.'), { maxItems: 32, examples: [['encoder', 'enc']], description: 'Other names clients may use.' })),
  friendly_names: Type.Optional(Type.Array(Name('Another name.'), { maxItems: 32, description: 'Another word for `aliases`.' })),
  metadata: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { examples: [{ about: 'base64 and hex of a text' }], description: 'Whatever is worth knowing about the agent; given back by `/agents` and `/registry`.' })),
  timeout: Type.Optional(form({ minimumMs: 1, description: 'Short for `timeouts.response`.' })),
  timeouts: Type.Optional(Type.Object(timeoutFields(form), { ...strict, description: 'Overrides the gateway\'s timeouts.' })),
  retry: Type.Optional(Type.Object(retryFields, { ...strict, description: 'Overrides the gateway\'s retry policy.' })),
  health: Type.Optional(Type.Object(healthFields(form), { ...strict, description: 'Overrides how the gateway probes.' })),
  balancer: Type.Optional(Type.Object(balancerFields(form), { ...strict, description: 'Overrides how the gateway chooses among the instances.' })),
  concurrency: Type.Optional(Type.Object(concurrencyFields(form), { ...strict, description: 'Overrides how many requests may be under way.' })),
  paths: Type.Optional(pathFields(form)),
  preserveHost: Type.Optional(Type.Boolean({ description: 'The agent sees the client\'s `Host` instead of its own.', whenLeftOut: false })),
  rewriteLocation: Type.Optional(Type.Boolean({ description: 'Map the agent\'s `Location` under `/api/{agent}`.', whenLeftOut: true }))
})

/** One instance in an `instances` list of fleet.yaml. */
const FileInstanceOptions = Type.Object({
  host: Type.Optional(Host),
  port: Port('The port it listens on.'),
  protocol: Type.Optional(Protocol({ description: 'How the gateway talks to it; what the entry says when left out.' })),
  weight: Type.Optional(Weight({ description: 'Its share of the requests; what the entry says when left out.' }))
}, { ...strict, description: 'One HTTP server of the agent.' })

/** One entry of `agents` in fleet.yaml. */
export const FileAgentOptions = Type.Object({
  name: Name('What clients call it: `/api/{name}/…`. Entries of the same name are instances of one agent.'),
  host: Type.Optional(Host),
  port: Type.Optional(Port('The port it listens on. Needed unless there are `instances` or `dns`.')),
  ...instanceFields,
  instances: Type.Optional(Type.Array(FileInstanceOptions, { maxItems: 1_000, description: 'Several instances, instead of `host` and `port`.' })),
  dns: Type.Optional(Type.Object(dnsFields, { ...strict, description: 'A name in DNS whose records are instances, as many as there are at the time; beside others, or instead of them.' })),
  ...settingFields(Duration),
  rateLimit: Type.Optional(Type.Object(rateLimitFields, { ...strict, description: 'A bucket of its own for each client of this agent, by what is said here and otherwise by the gateway\'s limits.' })),
  forwardAuthorization: Type.Optional(Type.Boolean({ description: 'Pass the token that opened the gateway on to the agent, to instances that this file or an admin named.', whenLeftOut: false })),
  headers: Type.Optional(Type.Unsafe<AgentHeaders>({ type: 'object', writeOnly: true, examples: [{ Authorization: 'Bearer ${PLANNER_TOKEN}' }], description: 'Fields of the gateway\'s own in every request to the agent, such as credentials, in place of what the client sent under the same name; to instances that this file or an admin named. A value is a text or `{file: PATH}`, a file that is read at the start and with every reload.' })),
  tls: Type.Optional(Type.Object(agentTlsFields, { ...strict, description: 'How the gateway connects to those of its instances that speak https.' }))
}, strict)

/** The body of `POST /registry/register`. What would hand secrets to the agent, or names files of this machine, is fleet.yaml's alone. */
export const RegistrationOptions = Type.Object({
  name: Name('The agent\'s name.'),
  host: Type.Optional(Host),
  port: Port('The port it listens on.'),
  ...instanceFields,
  ttl: Type.Optional(DurationOrSeconds({ minimumMs: 1_000, maximumMs: 30 * 86_400_000, description: 'The lease: how long the instance stays without a heartbeat.' })),
  ...settingFields(DurationOrSeconds)
}, strict)

/** One entry of `agents` as it is written. */
export type FileAgentInput = Static<typeof FileAgentOptions>
/** One entry of `agents`, resolved: durations in milliseconds, sizes in bytes. */
export type FileAgent = StaticDecode<typeof FileAgentOptions>
/** The body of a registration, resolved. */
export type RegistrationBody = StaticDecode<typeof RegistrationOptions>

/**
 * The agents that entries of fleet.yaml define; entries of one name are one agent. The entries have passed agentProblems().
 * @param readFile for the files of `headers`
 * @throws OptionsError with all of those that can't be read
 */
export function toAgentDefinitions (agents: readonly FileAgent[], readFile?: ReadFile): AgentDefinition[] {
  const byName = new Map<string, FileAgent[]>()
  for (const entry of agents) byName.set(entry.name, [...byName.get(entry.name) ?? [], entry])
  const headers = headersByName(agents, readFile)
  return [...byName].map(([name, entries]) => ({
    name,
    ...entries.map(settingsOf).reduce(merged),
    ...headers.get(name),
    ...dnsSources(entries),
    instances: entries.flatMap(toInstances)
  }))
}

/** Where only one is said, the other's default gives way. */
function refreshBounds ({ minRefresh, maxRefresh }: NonNullable<FileAgent['dns']>): Pick<DnsSource, 'minRefreshMs' | 'maxRefreshMs'> {
  const minRefreshMs = minRefresh ?? Math.min(durationMs(leftOut.minRefresh), maxRefresh ?? Infinity)
  return { minRefreshMs, maxRefreshMs: maxRefresh ?? Math.max(durationMs(leftOut.maxRefresh), minRefreshMs) }
}

function dnsSources (entries: readonly FileAgent[]): Pick<AgentDefinition, 'dns'> {
  const sources = entries.flatMap(({ dns, protocol = leftOut.protocol, weight = leftOut.weight }): DnsSource[] => dns === undefined
    ? []
    : [{
        name: canonicalHost(dns.name),
        ...(dns.type !== undefined && { type: dns.type }),
        ...(dns.port !== undefined && { port: dns.port }),
        protocol,
        weight,
        ...(dns.resolvers !== undefined && { resolvers: dns.resolvers }),
        ...refreshBounds(dns)
      }])
  return sources.length > 0 ? { dns: sources } : {}
}

/** Entries of one name that have headers have the same. */
function headersByName (agents: readonly FileAgent[], readFile: ReadFile | undefined): Map<string, Pick<AgentDefinition, 'headers'>> {
  const byName = new Map<string, Pick<AgentDefinition, 'headers'>>()
  const problems = []
  for (const [index, { name, headers = {} }] of agents.entries()) {
    const { fields, errors } = readHeaders(headers, `[${index}].headers`, readFile)
    problems.push(...errors)
    if (fields.length > 0) byName.set(name, { headers: fields })
  }
  if (problems.length > 0) throw new OptionsError('agents', problems)
  return byName
}

/** Where both say something, they say the same: agentProblems() sees to that. */
function merged (one: AgentSettings, other: AgentSettings): AgentSettings {
  const policy = { ...one.policy, ...other.policy }
  return { ...one, ...other, ...(Object.keys(policy).length > 0 && { policy }) }
}

function toInstances ({ host, port, protocol = leftOut.protocol, weight = leftOut.weight, instances }: FileAgent): InstanceDefinition[] {
  const listed = instances ?? (port === undefined ? [] : [{ ...(host !== undefined && { host }), port }])
  return listed.map(instance => ({
    host: canonicalHost(instance.host ?? leftOut.host),
    port: instance.port,
    protocol: instance.protocol ?? protocol,
    weight: instance.weight ?? weight
  }))
}

/**
 * What a registration's body asks of the registry. Whether its host may be named at all is the API's question (fleet/address.ts).
 * @throws InvalidRegistrationError when two of its fields contradict each other, or its metadata is too large
 */
export function toRegistration (body: RegistrationBody): Registration {
  const errors = settingProblems(body).map(({ path, message }) => ({ path, message }))
  const tooLarge = body.metadata && metadataProblem(body.metadata)
  if (tooLarge !== undefined) errors.push({ path: 'metadata', message: tooLarge })
  if (errors.length > 0) throw new InvalidRegistrationError(errors.map(({ path, message }) => `${path} ${message}`).join('; '), { errors })
  const { name, host = leftOut.host, port, protocol, weight, ttl } = body
  return {
    name,
    host: canonicalHost(host),
    port,
    ...(protocol !== undefined && { protocol }),
    ...(weight !== undefined && { weight }),
    ...settingsOf(body),
    ...(ttl !== undefined && { ttlMs: ttl })
  }
}

type AgentSettings = Pick<AgentDefinition, 'aliases' | 'metadata' | 'policy'>

/** Aliases, metadata and policy as far as they are given. */
function settingsOf (entry: FileAgent | RegistrationBody): AgentSettings {
  const { name, metadata } = entry
  const given = entry.aliases ?? entry.friendly_names
  const aliases = given && [...new Set(given)].filter(alias => alias !== name)
  const policy = policyOf(entry)
  return {
    ...(aliases !== undefined && { aliases }),
    ...(metadata !== undefined && { metadata }),
    ...(Object.keys(policy).length > 0 && { policy })
  }
}

function policyOf (entry: FileAgent | RegistrationBody): AgentPolicy {
  const { timeout, retry, health, balancer, concurrency, paths, preserveHost, rewriteLocation } = entry
  const timeouts = timeout === undefined ? entry.timeouts : { ...entry.timeouts, response: timeout }
  const rateLimit = 'rateLimit' in entry ? entry.rateLimit : undefined
  const tls = 'tls' in entry ? entry.tls : undefined
  const forwardAuthorization = 'forwardAuthorization' in entry ? entry.forwardAuthorization : undefined
  return {
    ...(timeouts && { timeouts }),
    ...(retry && { retry }),
    ...(health && { health }),
    ...(balancer && { balancer }),
    ...(concurrency && { concurrency }),
    ...(paths && { paths }),
    ...(rateLimit && { rateLimit }),
    ...(forwardAuthorization !== undefined && { forwardAuthorization }),
    ...(tls && { tls }),
    ...(preserveHost !== undefined && { preserveHost }),
    ...(rewriteLocation !== undefined && { rewriteLocation })
  }
}
