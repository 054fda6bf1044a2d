/**
 * `fleet-gateway agents [name]`: who is in the fleet, or one agent with its instances.
 */
import type { Command } from 'commander'
import type { StatsSnapshot } from '../../plugins/stats/index.ts'
import type { AgentStatus } from '../fleet/agent.ts'
import { authorityOf } from '../fleet/authority.ts'
import type { InstanceState } from '../fleet/instance.ts'
import { AgentShape, StatsShape } from './answers.ts'
import { withClient, type AgentView, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { dnsInWords, whyEmpty } from './dns-names.ts'
import { sourceInWords } from '../figures.ts'
import { colorsFor, legible, print, printJson, type Colors, type CommandIo } from './io.ts'
import { printTable } from './table.ts'
import type { ClientFlags } from './target.ts'
import { backInWords, takenOutInWords, whyNotUp } from './wording.ts'

export function agentsCommand (io: CommandIo): Command {
  const command = clientCommand('agents')
    .argument('[name]', 'an agent\'s name or alias')
    .option(...jsonOption)
    .action((name: string | undefined, flags: ClientFlags) => showAgents(name, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway agents'],
    ['fleet-gateway agents encoder', 'its instances'],
    ['fleet-gateway agents --json | jq -r \'keys[]\'', 'the names alone']
  ])
}

async function showAgents (name: string | undefined, flags: ClientFlags, io: CommandIo): Promise<void> {
  await withClient(flags, io, async client => {
    if (name !== undefined) {
      const agent = await client.get<AgentView>(`/agents/${encodeURIComponent(name)}`, AgentShape)
      if (flags.json) printJson(io, agent)
      else showOne(name, legible(agent), io)
      return
    }
    const agents = await client.agents()
    if (flags.json) printJson(io, agents)
    else if (Object.keys(agents).length === 0) print(io, await whyNone(client, io))
    else showAll(legible(agents), io)
  })
}

/** Also for who wrote them into fleet.yaml long ago. */
async function whyNone (client: GatewayClient, { self }: CommandIo): Promise<string> {
  const { config: { taken_out: takenOut = [] } } = await client.get<StatsSnapshot>('/stats', StatsShape)
  if (takenOut.length > 0) return `No agents: somebody took out what fleet.yaml has (${legible(takenOutInWords(takenOut))}); ${backInWords}`
  return `No agents yet: write them into fleet.yaml, or add one with "${self} register NAME PORT"`
}

function showAll (agents: Record<string, AgentView>, io: CommandIo): void {
  const colors = colorsFor(io.stdout, io.env)
  printTable(io, ['name', 'aliases', 'status', 'healthy', 'in flight'], Object.entries(agents).map(([name, agent]) => [
    name,
    agent.friendly_names.join(', '),
    statusText(agent.status, colors),
    `${agent.instances.filter(({ healthy }) => healthy).length} of ${agent.instances.length}`,
    String(agent.in_flight)
  ]))
}

function showOne (name: string, agent: AgentView, io: CommandIo): void {
  const colors = colorsFor(io.stdout, io.env)
  print(io, `${colors.bold(name)}: ${statusText(agent.status, colors)}`)
  if (agent.friendly_names.length > 0) print(io, `aliases: ${agent.friendly_names.join(', ')}`)
  for (const [key, value] of Object.entries(agent.metadata)) print(io, `${key}: ${typeof value === 'string' ? value : JSON.stringify(value)}`)
  for (const view of agent.dns ?? []) print(io, `dns: ${dnsInWords(view)}`)
  print(io, '')
  if (agent.instances.length === 0) return print(io, `No instances: ${agent.dns ? whyEmpty(name, agent.dns, io.self).advice : `add one with "${io.self} register ${name} PORT"`}`)
  printTable(io, ['instance', 'address', 'state', 'source', 'in flight', 'lease ends', 'why'], agent.instances.map(instance => {
    const { id, protocol, host, port, state, source, in_flight: inFlight, lease } = instance
    const leaseEnds = lease === null ? '' : `${lease.expires_at}${lease.lapsed === true ? ', lapsed' : ''}`
    return [id, `${protocol}://${authorityOf(host, port)}`, stateText(state, colors), sourceInWords(source), String(inFlight), leaseEnds, whyNotUp(instance)]
  }))
}

/** Green, yellow or red; as it is when it is one that only a newer gateway knows. */
export function statusText (status: AgentStatus, { green, yellow, red }: Colors): string {
  return coloured(status, { healthy: green, degraded: yellow, down: red })
}

function stateText (state: InstanceState, { green, yellow, red }: Colors): string {
  return coloured(state, { up: green, draining: yellow, ejected: yellow, down: red })
}

function coloured<Word extends string> (word: Word, colours: Record<Word, (text: string) => string>): string {
  return Object.hasOwn(colours, word) ? colours[word](word) : word
}
