/**
 * What registry.json must be like to be taken back: held to the rules of a registration, entry by entry, since it may be damaged, edited by
 * hand, or from a time when other hosts were allowed. What clashes with whom is the registry's question.
 */
import { isDeepStrictEqual } from 'node:util'
import {
  balancerFields, concurrencyFields, healthFields, namePattern, pathFields, rateLimitFields, retryFields, timeoutFields
} from '../../src/agent-options.ts'
import { canonicalHost, registrationHostProblem, type RegistrationHostRules } from '../../src/fleet/address.ts'
import type { RegistryState, SavedInstance } from '../../src/fleet/registry.ts'
import { Duration, Type, checkOptions, parseOptions, withoutUnknown, type OptionError, type StaticDecode, type TSchema } from '../../src/options.ts'

const strict = { additionalProperties: false } as const

const Name = Type.String({ pattern: namePattern, errorMessage: 'must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}' })

/** Without `forwardAuthorization` and `tls`: what hands credentials to an agent is fleet.yaml's alone. */
const KeptPolicy = Type.Object({
  timeouts: Type.Optional(Type.Object(timeoutFields(Duration), strict)),
  retry: Type.Optional(Type.Object(retryFields, strict)),
  health: Type.Optional(Type.Object(healthFields(Duration), strict)),
  balancer: Type.Optional(Type.Object(balancerFields(Duration), strict)),
  concurrency: Type.Optional(Type.Object(concurrencyFields(Duration), strict)),
  paths: Type.Optional(pathFields(Duration)),
  rateLimit: Type.Optional(Type.Object(rateLimitFields, strict)),
  preserveHost: Type.Optional(Type.Boolean()),
  rewriteLocation: Type.Optional(Type.Boolean())
}, strict)

/** What a policy may say. */
export const keptPolicies: ReadonlySet<string> = new Set(Object.keys(KeptPolicy.properties))

const KeptAgent = Type.Object({
  name: Name,
  aliases: Type.Optional(Type.Array(Name, { maxItems: 32 })),
  metadata: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  policy: Type.Optional(KeptPolicy),
  instances: Type.Array(Type.Unknown())
}, strict)

const KeptInstance = Type.Object({
  host: Type.String(),
  port: Type.Integer({ minimum: 1, maximum: 65_535 }),
  protocol: Type.Optional(Type.Union([Type.Literal('http'), Type.Literal('https')], { errorMessage: 'must be "http" or "https"' })),
  weight: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000 })),
  trusted: Type.Optional(Type.Boolean()),
  ttlMs: Type.Optional(Type.Integer({ minimum: 1_000, maximum: 30 * 86_400_000 })),
  draining: Type.Optional(Type.Boolean())
}, strict)

const KeptWhole = Type.Object({ ...KeptAgent.properties, instances: Type.Array(KeptInstance) }, strict)

const nameForm = new RegExp(namePattern)

type KeptAgent = RegistryState['agents'][number]

type Problem = Pick<OptionError, 'path' | 'message'>

/** What of a state file can be taken back, and why the rest can not. */
export interface KeptState {
  readonly state: RegistryState
  /** A line for each entry that was left out, which it names. */
  readonly skipped: readonly string[]
}

/**
 * Reads the text of a state file.
 * @throws Error when the whole is not of the form; a single bad entry is only left out
 */
export function readKeptState (text: string, rules: RegistrationHostRules = {}): KeptState {
  const whole = JSON.parse(text) as { version?: unknown, agents?: unknown, shared?: { epoch?: unknown, version?: unknown, origin?: unknown } } | null
  if (whole?.version !== 1) throw new Error('unknown version')
  if (!Array.isArray(whole.agents)) throw new Error('no agents')
  const agents: KeptAgent[] = []
  const skipped: string[] = []
  for (const [index, entry] of whole.agents.entries()) {
    const agent = readKeptAgent(entry, `agents[${index}]`, rules, skipped)
    if (agent !== undefined) agents.push(agent)
  }
  const { epoch, version, origin } = whole.shared ?? {}
  const shared = typeof epoch === 'string' && typeof version === 'number' ? { epoch, version, ...(typeof origin === 'string' && { origin }) } : undefined
  return { state: { version: 1, ...(shared && { shared }), agents }, skipped }
}

/** An agent without what a later version says of it, so that gateways of two versions serve the same fleet while one replaces the other. */
export function asOfThisVersion (agent: object): object {
  const { metadata, ...rest } = agent as { metadata?: unknown }
  const known = withoutUnknown(KeptWhole, rest) as object
  return metadata === undefined ? known : { ...known, metadata } // which may have any keys
}

/** Reads one agent. @param skipped gets a line for what is left out of it */
export function readKeptAgent (entry: unknown, path: string, rules: RegistrationHostRules, skipped: string[]): KeptAgent | undefined {
  const instances: unknown = (entry as { instances?: unknown } | null)?.instances
  // Instances are judged one by one, so that a bad one does not take the others with it.
  const settings = Array.isArray(instances) ? { ...entry as object, instances: [] } : entry
  const agent = soundValue(KeptAgent, settings, labelOf(entry, path), skipped)
  if (agent === undefined) return undefined
  const { name, aliases, metadata } = agent
  const policy = agent.policy as KeptAgent['policy']
  return {
    name,
    ...(aliases && { aliases }),
    ...(metadata && { metadata }),
    ...(policy && { policy }),
    instances: (instances as unknown[]).flatMap((instance, index) => readInstance(instance, `${name} instances[${index}]`, rules, skipped) ?? [])
  }
}

function readInstance (entry: unknown, label: string, rules: RegistrationHostRules, skipped: string[]): SavedInstance | undefined {
  const instance = soundValue(KeptInstance, entry, label, skipped)
  if (instance === undefined) return undefined
  const { host, protocol = 'http', weight = 1, ...others } = instance
  const problem = registrationHostProblem(host, rules)
  if (problem === undefined) return { host: canonicalHost(host), protocol, weight, ...others }
  skipped.push(`${label}: host ${problem} (got ${JSON.stringify(host.slice(0, 100))})`)
  return undefined
}

/** The value if it is of the form; else undefined, and the reason is among `skipped`. */
function soundValue<S extends TSchema> (schema: S, value: unknown, label: string, skipped: string[]): StaticDecode<S> | undefined {
  const errors: Problem[] = typeof value === 'object' && value !== null ? checkOptions(schema, value) : [{ path: '', message: 'must be an object' }]
  if (errors.length === 0) {
    // Durations and sizes are kept as numbers; a text, even one that fleet.yaml may have, was not written by us.
    const { policy } = value as { policy?: unknown }
    if (policy === undefined || isDeepStrictEqual(parseOptions(KeptPolicy, policy, label), policy)) return value as StaticDecode<S>
    errors.push({ path: 'policy', message: 'must have numbers of milliseconds and bytes' })
  }
  skipped.push(`${label}: ${errors.map(textOf).join('; ')}`)
  return undefined
}

function textOf ({ path, message }: Problem): string {
  return `${path} ${message}`.trim()
}

/** A sound name names an entry; a bad one is not worth repeating. */
function labelOf (entry: unknown, path: string): string {
  const name: unknown = (entry as { name?: unknown } | null)?.name
  return typeof name === 'string' && nameForm.test(name) ? name : path
}
