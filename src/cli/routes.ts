/**
 * `fleet-gateway routes`: which path leads where.
 */
import type { Command } from 'commander'
import type { DnsNameView } from '../dns-view.ts'
import type { AgentStatus } from '../fleet/agent.ts'
import { authorityOf } from '../fleet/authority.ts'
import { statusText } from './agents.ts'
import { IndexShape } from './answers.ts'
import { withClient, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { dnsInShort } from './dns-names.ts'
import { colorsFor, legible, printJson, type CommandIo } from './io.ts'
import { printTable } from './table.ts'
import type { ClientFlags } from './target.ts'

interface Route {
  path: string
  methods: string
  /** The agent it leads to; undefined for what the gateway itself answers. */
  agent?: string
  instances?: string[]
  status?: AgentStatus
  dns?: DnsNameView[]
  about?: string
}

export function routesCommand (io: CommandIo): Command {
  const command = clientCommand('routes')
    .option(...jsonOption)
    .action((flags: ClientFlags) => showRoutes(fleetOf(flags), io))
  return withExamples(command, [['fleet-gateway routes'], ['fleet-gateway routes --json']])
}

async function showRoutes (flags: ClientFlags, io: CommandIo): Promise<void> {
  const routes = await withClient(flags, io, routesOf)
  if (flags.json) return printJson(io, routes)
  const colors = colorsFor(io.stdout, io.env)
  printTable(io, ['path', 'methods', 'leads to', 'status'], legible(routes).map(({ path, methods, agent, instances = [], status, dns = [], about = '' }) => agent === undefined
    ? [path, methods, colors.dim(`the gateway: ${about}`), '']
    : [path, methods, `${agent}: ${instances.length === 0 ? 'no instance' : instances.join(', ')}${dns.length === 0 ? '' : ` (dns: ${dns.map(dnsInShort).join(', ')})`}`, status === undefined ? '' : statusText(status, colors)]))
}

/** How the gateway's index names what leads to agents; where it is embedded, behind its prefix. */
const agentsPath = '/api/{agent}/{path}'

/** Those of the agents first, each under its name and then under its aliases. */
async function routesOf (client: GatewayClient): Promise<Route[]> {
  const { routes } = await client.get<{ routes: Route[] }>('/', IndexShape)
  const agents = await client.agents()
  const prefix = routes.find(({ path }) => path.endsWith(agentsPath))?.path.slice(0, -agentsPath.length) ?? ''
  const ofAgents = Object.entries(agents).flatMap(([agent, { friendly_names: aliases, instances, status, dns }]) => [agent, ...aliases].map(name => ({
    path: `${prefix}/api/${name}/{path}`,
    methods: 'any',
    agent,
    instances: instances.map(({ host, port }) => authorityOf(host, port)),
    status,
    ...(dns && { dns })
  })))
  return [...ofAgents, ...routes.filter(({ path }) => !path.endsWith(agentsPath))]
}
