/**
 * The text of a new fleet.yaml: the agents that were named, and everything else as a comment that shows its default.
 */
import { dump } from 'js-yaml'

export interface OnboardedAgent {
  readonly name: string
  readonly host?: string
  readonly port: number
  /** Path of its probe, when it has one. */
  readonly health?: string
}

/**
 * @param agents entries of one name become one agent with several instances
 * @param schema where an editor finds the JSON Schema, as the YAML language server wants it; undefined when nowhere
 */
export function fleetFile (agents: readonly OnboardedAgent[], schema: string | undefined): string {
  return `${schema === undefined ? '' : `# yaml-language-server: $schema=${schema}\n`}# The fleet of Fleet Gateway. The gateway watches this file: a good change applies at once, a bad one is reported with line and column and
# changes nothing. Durations read 500ms, 30s, 5m; sizes 64KiB or bytes; \${NAME} and \${NAME:-default} read the environment.

# Clients call an agent by its name or an alias: /api/planner/any/path. Its instances take turns.
${agentsYaml(agents)}
# What else may be said of an agent:
#     aliases: [plan, p]
#     health: {path: /health}       # probe by GET of this path; by opening a connection when left out
#     timeout: 60s                  # until it begins to answer; for streams see timeouts.idle
#     metadata: {about: what it does}

# Everything below shows its default, but for the names of files, which are examples. Take away the "# " of what you want to change, and of the key it
# belongs to.

# server:
#   host: 127.0.0.1                 # 0.0.0.0 for all addresses of this machine
#   port: 9001
#   trustedProxies: []              # addresses of proxies in front, whose X-Forwarded-* is believed
#   drainTimeout: 30s               # how long what is in flight may take after SIGTERM

# The token that clients send as "Authorization: Bearer …". Without this one is made at the first start and kept in .fleet/secret.
# auth:
#   secretFile: /run/secrets/fleet

# A token bucket per client: perMinute refills it, burst is what it holds.
# rateLimit:
#   perMinute: 600
#   burst: 100

# Origins of web pages that may call.
# cors:
#   origins: ["*"]

# timeouts:
#   connect: 3s
#   response: 30s                   # from the sent request to the head of the answer
#   idle: 5m                        # between bytes of a body, either way

# health:
#   interval: 10s
#   timeout: 2s
#   unhealthyAfter: 3
#   healthyAfter: 2

# retry:
#   attempts: 1                     # of idempotent requests, on another instance
#   maxBodyBytes: 64KiB

# auditLog:
#   file: audit.log                 # one line per request; standard output when left out
`
}

/** As YAML, by the library: a name such as \`1e3\` or \`null\` needs its quotes. */
function agentsYaml (agents: readonly OnboardedAgent[]): string {
  if (agents.length === 0) return 'agents:\n#   - name: planner\n#     host: localhost\n#     port: 8501\n'
  const byName = new Map<string, { host: string, port: number }[]>()
  const paths = new Map<string, string>()
  for (const { name, host = 'localhost', port, health } of agents) {
    byName.set(name, [...byName.get(name) ?? [], { host, port }])
    if (health !== undefined) paths.set(name, health)
  }
  const entries = [...byName].map(([name, instances]) => ({
    name,
    ...(instances.length === 1 ? instances[0] : { instances }),
    ...(paths.has(name) && { health: { path: paths.get(name) } })
  }))
  return dump({ agents: entries }, { lineWidth: -1 })
}
