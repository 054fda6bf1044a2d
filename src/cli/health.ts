/**
 * `fleet-gateway health`: how the fleet is, with an exit code for scripts.
 */
import type { Command } from 'commander'
import type { HealthReport, ServiceHealth } from '../../plugins/health/routes.ts'
import { redisTrouble } from '../figures.ts'
import { authorityOf } from '../fleet/authority.ts'
import { HealthShape } from './answers.ts'
import { withClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { colorsFor, CommandError, legible, print, printJson, type CommandIo } from './io.ts'
import { printTable } from './table.ts'
import type { ClientFlags } from './target.ts'
import { count, duration, whyNotUp } from './wording.ts'

export function healthCommand (io: CommandIo): Command {
  const command = clientCommand('health')
    .option(...jsonOption)
    .action((flags: ClientFlags) => showHealth(fleetOf(flags), io))
  return withExamples(command, [['fleet-gateway health'], ['fleet-gateway health --json | jq .status'], ['fleet-gateway health >/dev/null || echo "look at the fleet"', 'in a script']])
}

async function showHealth (flags: ClientFlags, io: CommandIo): Promise<void> {
  const report = await withClient(flags, io, client => client.get<HealthReport>('/health', HealthShape))
  if (flags.json) printJson(io, report)
  else showReport(legible(report), io)
  if (report.status !== 'healthy') throw new CommandError()
}

function showReport ({ status, services, uptime_seconds: uptime, redis }: HealthReport, io: CommandIo): void {
  const colors = colorsFor(io.stdout, io.env)
  const entries = Object.entries(services)
  print(io, `${status === 'healthy' ? colors.green(status) : colors.red(status)}: ${count(entries.length, 'agent')}, up for ${duration(uptime)}`)
  const trouble = redisTrouble(redis)
  if (trouble !== undefined) print(io, colors.yellow(trouble))
  if (entries.length === 0) return
  print(io, '')
  printTable(io, ['agent', 'healthy', 'what is wrong'], entries.map(([name, service]) => [
    service.healthy ? name : colors.red(name), `${service.healthy_instances} of ${service.total_instances}`, faults(service)
  ]))
}

/** Needs a token that may read: without one the gateway tells numbers alone. */
function faults ({ instances = [], total_instances: total }: ServiceHealth): string {
  if (total === 0) return 'no instance'
  return instances.filter(({ state }) => state !== 'up').map(instance => {
    const why = whyNotUp(instance)
    return `${authorityOf(instance.host, instance.port)} is ${instance.state}${why === '' ? '' : `: ${why}`}`
  }).join('; ')
}
