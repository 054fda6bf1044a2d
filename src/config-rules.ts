/**
 * What the plugins' schemas can't say of fleet.yaml's other keys: which values go together, and the forms of hosts and address ranges.
 */
import { balancerProblems } from './agent-rules.ts'
import type { FleetConfig, FleetConfigInput } from './config.ts'
import { allowedHostProblem, hostProblem, isAddressRange } from './fleet/address.ts'
import type { OptionError } from './options.ts'

type Section<Key extends keyof FleetConfigInput> = NonNullable<FleetConfigInput[Key]>

/**
 * The errors of everything but `agents`, and of agents what only shows beside the rest.
 * @param isSound whether the schema has nothing against what is at this path; only such sections are judged
 * @param defaults what an empty configuration is
 */
export function sectionProblems (config: FleetConfigInput, isSound: (path: string) => boolean, defaults: FleetConfig): OptionError[] {
  const problems: OptionError[] = []
  const { server, auth, cors, registry, redis, balancer = {} } = config
  if (server !== undefined && isSound('server')) problems.push(...serverProblems(server))
  if (auth !== undefined && isSound('auth')) problems.push(...keyProblems(auth.keys ?? []))
  if (cors !== undefined && isSound('cors')) problems.push(...corsProblems({ ...defaults.cors, ...cors }).map(problem => ({ ...problem, path: `cors.${problem.path}` })))
  if (registry !== undefined && isSound('registry')) problems.push(...allowedHostProblems(registry.allowedHosts ?? []))
  if (redis !== undefined && isSound('redis')) problems.push(...redisProblems(redis))
  if (isSound('balancer')) {
    const { policy = defaults.balancer.policy } = balancer
    problems.push(...balancerProblems(balancer, policy, 'balancer'), ...agentBalancerProblems(config.agents, policy, isSound))
  }
  return problems
}

/** Of agents that name no policy, so that the gateway's counts; others are judged by themselves. */
function agentBalancerProblems (agents: unknown, policy: string, isSound: (path: string) => boolean): OptionError[] {
  if (!Array.isArray(agents)) return []
  return (agents as Section<'agents'>).flatMap((agent, index) => {
    const path = `agents[${index}]`
    return !isSound(path) || agent.balancer === undefined || agent.balancer.policy !== undefined ? [] : balancerProblems(agent.balancer, policy, `${path}.balancer`)
  })
}

function serverProblems ({ host, trustedProxies = [] }: Section<'server'>): OptionError[] {
  const message = host === undefined ? undefined : hostProblem(host)
  return [
    ...(message === undefined ? [] : [wrongValue('server.host', message)]),
    ...trustedProxies.flatMap((range, index) => isAddressRange(range) ? [] : [wrongValue(`server.trustedProxies[${index}]`, 'must be an IP address or a CIDR such as "10.0.0.0/8"')])
  ]
}

function keyProblems (keys: NonNullable<Section<'auth'>['keys']>): OptionError[] {
  const problems: OptionError[] = []
  const ids = new Set<string>()
  for (const [index, { id, token, tokenFile, tokenSha256 }] of keys.entries()) {
    const forms = [token, tokenFile, tokenSha256].filter(form => form !== undefined)
    if (forms.length !== 1) problems.push(wrongValue(`auth.keys[${index}]`, `needs exactly one of token, tokenFile and tokenSha256, and has ${forms.length}`))
    if (ids.has(id)) problems.push(wrongValue(`auth.keys[${index}].id`, `"${id}" is the id of another key`))
    ids.add(id)
  }
  return problems
}

/**
 * `*` with credentials would hand every page the user's cookies; browsers refuse it, so it can only be a mistake (Fetch §3.2.5). `null` they
 * don't refuse, and every page can have it: in a sandboxed frame.
 */
export function corsProblems ({ credentials, origins }: Pick<FleetConfig['cors'], 'credentials' | 'origins'>): OptionError[] {
  const everybody = ['*', 'null'].find(origin => origins.includes(origin))
  return credentials && everybody !== undefined ? [wrongValue('credentials', `can not be true with origin "${everybody}"; list the origins`)] : []
}

function allowedHostProblems (entries: readonly string[]): OptionError[] {
  return entries.flatMap((entry, index) => {
    const message = allowedHostProblem(entry)
    return message === undefined ? [] : [wrongValue(`registry.allowedHosts[${index}]`, message)]
  })
}

function redisProblems ({ url, tls }: Section<'redis'>): OptionError[] {
  const message = url === undefined ? undefined : redisUrlProblem(url)
  if (message !== undefined) return [wrongValue('redis.url', message)]
  return url !== undefined && tls !== undefined && !url.startsWith('rediss:') ? [wrongValue('redis.tls', 'is for a url that begins with rediss://')] : []
}

/** What is wrong with the address of a Redis; it is not repeated, since it may hold a password. */
export function redisUrlProblem (url: string): string | undefined {
  const form = 'must be redis://[user[:password]@]host[:port][/database], or rediss:// for TLS; what is special in a password is percent-encoded'
  if (!URL.canParse(url)) return form
  const { protocol, username, password, hostname, pathname, search, hash } = new URL(url)
  const isSound = ['redis:', 'rediss:'].includes(protocol) && hostname !== '' && /^(\/\d{0,3})?$/.test(pathname) && search === '' && hash === ''
  return isSound && !/\s/.test(url) && areDecodable(username, password) ? undefined : form
}

/** Whether what stands there percent-encoded is UTF-8. */
function areDecodable (...texts: readonly string[]): boolean {
  try {
    for (const text of texts) decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

function wrongValue (path: string, message: string): OptionError {
  return { path, at: 'value', message }
}
