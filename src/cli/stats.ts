/**
 * `fleet-gateway stats`: what the gateway did since it started; with `--all` what all gateways that share its Redis did.
 */
import type { Command } from 'commander'
import type { StatsSnapshot } from '../../plugins/stats/index.ts'
import { StatsShape } from './answers.ts'
import { withClient } from './client.ts'
import { clientCommand, fleetOf, jsonOption, withExamples } from './command.ts'
import { nothing } from '../figures.ts'
import { colorsFor, legible, print, printJson, type CommandIo } from './io.ts'
import { printTable } from './table.ts'
import type { ClientFlags } from './target.ts'
import { count, duration, olderConfiguration } from './wording.ts'

interface StatsFlags extends ClientFlags {
  all?: boolean
}

export function statsCommand (io: CommandIo): Command {
  const command = clientCommand('stats')
    .option('--all', 'of all gateways that share a Redis with this one, together')
    .option(...jsonOption)
    .action((flags: StatsFlags) => showStats(fleetOf(flags), io))
  return withExamples(command, [['fleet-gateway stats'], ['fleet-gateway stats --all', 'of several gateways'], ['fleet-gateway stats --json | jq .total_errors']])
}

async function showStats (flags: StatsFlags, io: CommandIo): Promise<void> {
  const stats = await withClient(flags, io, client => client.get<StatsSnapshot>(`/stats${flags.all === true ? '?gateways=all' : ''}`, StatsShape))
  if (flags.json) printJson(io, stats)
  else showSnapshot(legible(stats), io)
}

function showSnapshot (stats: StatsSnapshot, io: CommandIo): void {
  const { red } = colorsFor(io.stdout, io.env)
  const { total_requests: requests, total_proxied: proxied, total_errors: errors, in_flight: inFlight, uptime_seconds: uptime, config, agents } = stats
  print(io, `${count(requests, 'request')} in ${duration(uptime)}, ${proxied} of them to agents, ${count(errors, 'error')}, ${inFlight} in flight`)
  showProcesses(stats, io)
  if (!config.ok) print(io, red(olderConfiguration(config.error)))
  const entries = Object.entries(agents)
  if (entries.length === 0) return
  print(io, '')
  printTable(io, ['agent', 'requests', 'errors', 'retries', 'in flight', 'p50 ms', 'p90 ms', 'p99 ms', 'max ms'], entries.map(([name, agent]) => [
    name, ...[agent.requests, agent.errors, agent.retries, agent.in_flight].map(String), ...(['p50', 'p90', 'p99', 'max'] as const).map(part => milliseconds(agent.latency_ms[part], agent.latency_ms.max > 0))
  ]))
}

/** Whose figures these are, where they are of several. */
function showProcesses ({ processes = [], silent = 0 }: StatsSnapshot, io: CommandIo): void {
  const { yellow } = colorsFor(io.stdout, io.env)
  if (silent === null) print(io, yellow('Redis does not answer, so the other gateways could not be asked: these are the figures of this one alone'))
  else if (silent > 0) print(io, yellow(`${silent === 1 ? 'One more process' : `${silent} more processes`} did not answer in time`))
  if (processes.length < 2) return
  print(io, '')
  printTable(io, ['gateway', 'host', 'worker', 'up', 'requests', 'errors', 'in flight'], processes.map(({ id, host, pid, worker, uptime_seconds: uptime, total_requests: requests, total_errors: errors, in_flight: inFlight }) => [
    id, host, worker === undefined ? '' : `${worker} (process ${pid})`, duration(uptime), String(requests), String(errors), String(inFlight)
  ]))
}

/** @param isMeasured whether any request counts: 0 ms would be a very fast one */
function milliseconds (value: number, isMeasured: boolean): string {
  return !isMeasured ? nothing : String(Math.round(value * 10) / 10)
}
