/**
 * What a schema can't say of a list of agents: which fields go together, and that names and addresses are given out once.
 * Judges what is written, before defaults, so that each error points to the key or value that is wrong.
 */
import { isIP, isIPv4, isIPv6 } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import { headerProblems } from './agent-headers.ts'
import type { FileAgentInput } from './agent-options.ts'
import { canonicalHost, hostProblem } from './fleet/address.ts'
import { authorityOf } from './fleet/authority.ts'
import { durationMs, type OptionError } from './options.ts'

/** The fields that say one thing in two ways, as written or resolved. */
interface TwoWayFields {
  aliases?: string[]
  friendly_names?: string[]
  timeout?: unknown
  timeouts?: { response?: unknown }
}

/** What goes together in a `balancer`, as written or resolved. */
interface BalancerFields {
  policy?: string
  hashOn?: string
}

/** Fields of one entry, or of a registration, that contradict each other; paths are relative to it. */
export function settingProblems ({ aliases, friendly_names: friendlyNames, timeout, timeouts, balancer }: TwoWayFields & { balancer?: BalancerFields }): OptionError[] {
  const problems: OptionError[] = []
  if (aliases && friendlyNames && !isDeepStrictEqual(new Set(aliases), new Set(friendlyNames))) {
    problems.push({ path: 'friendly_names', at: 'key', message: 'is another word for aliases, and they differ' })
  }
  if (timeout !== undefined && timeouts?.response !== undefined) {
    problems.push({ path: 'timeout', at: 'key', message: 'is short for timeouts.response, which is given too' })
  }
  if (balancer?.policy !== undefined) problems.push(...balancerProblems(balancer, balancer.policy, 'balancer'))
  return problems
}

/**
 * How much a registration may say in `metadata`: bytes as JSON in UTF-8, levels, and values of every kind (fields and items, at all levels), of
 * which each costs memory however short it is: at worst 100 KiB, measured, for an object of 512 names that nothing else has. With
 * `registry.maxAgents` this bounds what all metadata takes (docs/operations.md, Sizing).
 * fleet.yaml, whose author is trusted, may say more.
 */
const metadataBounds = { bytes: 16 * 1024, levels: 16, values: 512 } as const

/** What of a registration's `metadata` is over a bound; the first that it breaks. */
export function metadataProblem (metadata: Readonly<Record<string, unknown>>): string | undefined {
  const { bytes, levels, values } = metadataBounds
  const size = sizeOf(metadata)
  if (size.levels > levels) return `must not be nested deeper than ${levels} levels`
  if (size.values > values) return `must not have more than ${values} values, those in lists and objects included (got ${size.values})`
  const length = Buffer.byteLength(JSON.stringify(metadata))
  return length > bytes ? `must not be longer than ${bytes} bytes as JSON (got ${length})` : undefined
}

/** @param value is not deeper than options may be */
function sizeOf (value: unknown): { levels: number, values: number } {
  if (typeof value !== 'object' || value === null) return { levels: 0, values: 0 }
  let [levels, values] = [0, 0]
  for (const part of Object.values(value)) {
    const inner = sizeOf(part)
    levels = Math.max(levels, inner.levels)
    values += 1 + inner.values
  }
  return { levels: levels + 1, values }
}

/**
 * What a `balancer` says that has no effect under the policy that counts. `address` is what hashOn is anyway.
 * @param path where it stands
 */
export function balancerProblems ({ hashOn }: BalancerFields, policy: string, path: string): OptionError[] {
  return hashOn === undefined || hashOn === 'address' || policy === 'hash' ? [] : [{ path: `${path}.hashOn`, at: 'key', message: `is for the policy "hash", and the policy is "${policy}"` }]
}

/** An entry and its path, such as `agents[1]`. */
interface Entry {
  path: string
  agent: FileAgentInput
}

/**
 * The errors of a list of agents.
 * @param agents the value of `agents`, of whatever form
 * @param isSound whether the schema has nothing against what is at this path; only such entries are judged
 * @param at the path of the list
 */
export function agentProblems (agents: unknown, isSound: (path: string) => boolean, at = 'agents'): OptionError[] {
  if (!Array.isArray(agents)) return []
  const entries = agents
    .map((agent: unknown, index) => ({ path: `${at}[${index}]`, agent: agent as FileAgentInput }))
    .filter(({ path }) => isSound(path))
  return [
    ...entries.flatMap(fieldProblems),
    ...entries.flatMap(hostProblems),
    ...differences(entries),
    ...repeatedAddresses(entries),
    ...repeatedNames(entries),
    ...nameClashes(entries, agents)
  ]
}

function fieldProblems ({ path, agent }: Entry): OptionError[] {
  const { host, port, instances, dns, headers } = agent
  const problems = settingProblems(agent).map(problem => ({ ...problem, path: `${path}.${problem.path}` }))
  if (instances === undefined && dns === undefined && port === undefined) problems.push({ path: `${path}.port`, at: 'key', message: 'is required, unless there are instances or dns' })
  if (dns !== undefined && host !== undefined && port === undefined) problems.push({ path: `${path}.port`, at: 'key', message: 'is required beside host' })
  if (instances !== undefined && (host !== undefined || port !== undefined)) problems.push({ path: `${path}.instances`, at: 'key', message: 'can not stand beside host and port' })
  if (headers !== undefined) problems.push(...headerProblems(headers, `${path}.headers`))
  if (dns !== undefined) problems.push(...dnsProblems(dns, agent).map(problem => ({ ...problem, path: `${path}.dns.${problem.path}` })))
  return [...problems, ...tlsProblems(agent).map(problem => ({ ...problem, path: `${path}.${problem.path}` }))]
}

/** Whether a name server is named so that node:dns takes it: `10.0.0.2`, `10.0.0.2:53`, `fd00::2`, `[fd00::2]:53`. */
function isResolver (text: string): boolean {
  if (isIP(text) !== 0) return true
  const port = Number(/:(\d{1,5})$/.exec(text)?.[1] ?? NaN)
  const address = text.slice(0, text.lastIndexOf(':'))
  if (!(port >= 1 && port <= 65_535)) return false
  return isIPv4(address) || (/^\[.+\]$/.test(address) && isIPv6(address.slice(1, -1)))
}

/** What a schema can't say of `dns`, and settings beside it that would have no effect, or none that anybody wants. */
function dnsProblems ({ type, port, resolvers = [], minRefresh, maxRefresh }: NonNullable<FileAgentInput['dns']>, { protocol, tls, weight, port: ownPort, instances }: FileAgentInput): OptionError[] {
  const problems: OptionError[] = []
  if (type !== 'SRV' && port === undefined) problems.push({ path: 'port', at: 'key', message: 'is required, unless the type is SRV' })
  if (type === 'SRV' && port !== undefined) problems.push({ path: 'port', at: 'key', message: 'can not stand beside the type SRV, whose records name the port' })
  if (type === 'SRV' && weight !== undefined && ownPort === undefined && instances === undefined) problems.push({ path: 'type', at: 'value', message: 'has weights of its own, and the entry has one, too' })
  if (protocol === 'https' && tls?.serverName === undefined && tls?.verify !== false) problems.push({ path: 'name', at: 'key', message: 'leads to addresses, so with protocol: https tls.serverName has to say for whom their certificate is' })
  for (const [index, resolver] of resolvers.entries()) {
    if (!isResolver(resolver)) problems.push({ path: `resolvers[${index}]`, at: 'value', message: 'must be an IP address, with a port or without, such as "10.0.0.2" or "[fd00::2]:53"' })
  }
  if (minRefresh !== undefined && maxRefresh !== undefined && durationOf(minRefresh) > durationOf(maxRefresh)) problems.push({ path: 'minRefresh', at: 'value', message: 'must not be longer than maxRefresh' })
  return problems
}

function durationOf (value: string | number): number {
  return typeof value === 'number' ? value : durationMs(value)
}

/** Settings of `tls` that miss another one, or would have no effect: most of all where nothing speaks https, and everything would go in clear. */
function tlsProblems ({ tls, protocol = 'http', port, dns, instances = port === undefined ? [] : [{ port }] }: FileAgentInput): OptionError[] {
  if (tls === undefined) return []
  const { caFile, certFile, keyFile, passphraseFile, verify } = tls
  const problems: OptionError[] = []
  if (certFile !== undefined && keyFile === undefined) problems.push({ path: 'tls.keyFile', at: 'key', message: 'is required beside certFile' })
  if (keyFile !== undefined && certFile === undefined) problems.push({ path: 'tls.certFile', at: 'key', message: 'is required beside keyFile' })
  if (passphraseFile !== undefined && keyFile === undefined) problems.push({ path: 'tls.passphraseFile', at: 'key', message: 'is for a keyFile, and there is none' })
  if (caFile !== undefined && verify === false) problems.push({ path: 'tls.caFile', at: 'key', message: 'has no effect with verify: false' })
  const speaksHttps = (dns !== undefined && protocol === 'https') || instances.some(instance => ('protocol' in instance ? instance.protocol ?? protocol : protocol) === 'https')
  if ((instances.length > 0 || dns !== undefined) && !speaksHttps) problems.push({ path: 'tls', at: 'key', message: 'has no effect without protocol: https' })
  return problems
}

function hostProblems ({ path, agent }: Entry): OptionError[] {
  const hosts: [string, string | undefined][] = [
    [`${path}.host`, agent.host],
    ...(agent.instances ?? []).map(({ host }, index): [string, string | undefined] => [`${path}.instances[${index}].host`, host])
  ]
  return hosts.flatMap(([at, host]) => {
    const message = host === undefined ? undefined : hostProblem(host)
    return message === undefined ? [] : [{ path: at, at: 'value' as const, message }]
  })
}

/** Settings belong to the agent, so entries of the same name must not contradict each other. */
function differences (entries: readonly Entry[]): OptionError[] {
  const said = new Map<string, { path: string, value: unknown }>()
  const problems: OptionError[] = []
  for (const { path, agent } of entries) {
    for (const { setting, key, value } of settingsOf(agent)) {
      const earlier = said.get(`${agent.name} ${setting}`)
      if (earlier === undefined) said.set(`${agent.name} ${setting}`, { path, value })
      else if (!isDeepStrictEqual(earlier.value, value)) problems.push({ path: `${path}.${key}`, at: 'key', message: `differs from what ${earlier.path} says of the same agent` })
    }
  }
  return problems
}

const plainSettings = ['metadata', 'retry', 'health', 'balancer', 'concurrency', 'paths', 'rateLimit', 'forwardAuthorization', 'headers', 'tls', 'preserveHost', 'rewriteLocation'] as const

/** The settings of an entry, those that can be said in two ways brought to one; `key` is the way that was used. */
function settingsOf (agent: FileAgentInput): { setting: string, key: string, value: unknown }[] {
  const names = agent.aliases ?? agent.friendly_names
  const timeouts = agent.timeout === undefined ? agent.timeouts : { ...agent.timeouts, response: agent.timeout }
  return [
    { setting: 'aliases', key: agent.aliases === undefined ? 'friendly_names' : 'aliases', value: names && new Set(names) },
    { setting: 'timeouts', key: agent.timeouts === undefined ? 'timeout' : 'timeouts', value: timeouts },
    ...plainSettings.map(key => ({ setting: key, key, value: agent[key] }))
  ].filter(({ value }) => value !== undefined)
}

function repeatedAddresses (entries: readonly Entry[]): OptionError[] {
  const taken = new Set<string>()
  const problems: OptionError[] = []
  for (const { path, agent } of entries) {
    const listed = agent.instances ?? (agent.port === undefined ? [] : [{ port: agent.port, ...(agent.host !== undefined && { host: agent.host }) }])
    for (const [index, { host = 'localhost', port }] of listed.entries()) {
      const authority = authorityOf(canonicalHost(host), port)
      if (taken.has(`${agent.name} ${authority}`)) {
        const at = agent.instances === undefined ? `${path}.port` : `${path}.instances[${index}].port`
        problems.push({ path: at, at: 'value', message: `${authority} is an instance of "${agent.name}" already` })
      }
      taken.add(`${agent.name} ${authority}`)
    }
  }
  return problems
}

/** The same question twice would give the same instances twice. */
function repeatedNames (entries: readonly Entry[]): OptionError[] {
  const asked = new Set<string>()
  return entries.flatMap(({ path, agent: { name: agent, dns } }) => {
    if (dns === undefined) return []
    const question = `${agent} ${canonicalHost(dns.name)} ${dns.type} ${dns.port}`
    if (asked.has(question)) return [{ path: `${path}.dns.name`, at: 'value' as const, message: `"${agent}" is looked for under this name already` }]
    asked.add(question)
    return []
  })
}

/** @param agents all entries: one with another error has its name, too */
function nameClashes (entries: readonly Entry[], agents: readonly unknown[]): OptionError[] {
  const names = agents.map(agent => (agent as Partial<FileAgentInput> | null)?.name).filter(name => typeof name === 'string')
  const owners = new Map(names.map(name => [name, name]))
  const problems: OptionError[] = []
  for (const { path, agent } of entries) {
    for (const key of ['aliases', 'friendly_names'] as const) {
      for (const [index, alias] of (agent[key] ?? []).entries()) {
        const owner = owners.get(alias) ?? agent.name
        owners.set(alias, owner)
        if (owner !== agent.name) problems.push({ path: `${path}.${key}[${index}]`, at: 'value', message: `"${alias}" belongs to the agent "${owner}"` })
      }
    }
  }
  return problems
}
