/**
 * The fleet as lines of text: what the gateway as a whole does, and a row for each agent.
 */
import { stripVTControlCharacters } from 'node:util'
import { addressOfInstance, formatCount, formatMs, formatRate, formatRatio, reasonOf, redisTrouble } from '../figures.ts'
import { byState, type FleetAgent, type FleetInstance, type WatchedFleet } from '../watched-fleet.ts'
import { colorsFor, type Colors, type CommandIo } from './io.ts'
import { tableLines } from './table.ts'
import { count, duration, olderConfiguration } from './wording.ts'

/** So many samples of five seconds are drawn. */
const sparkWidth = 20
const sparkMarks = '▁▂▃▄▅▆▇█'

/** @param url the gateway's */
export function overviewLines ({ agents, totals, config, redis, overall }: WatchedFleet, url: string, io: Pick<CommandIo, 'stdout' | 'env'>): string[] {
  const { bold, red, yellow } = colorsFor(io.stdout, io.env)
  const all = [...agents.values()]
  const number = (status: FleetAgent['status']) => all.filter(agent => agent.status === status).length
  const [down, degraded] = [number('down'), number('degraded')]
  const { in_flight: inFlight = 0, watching = 0, uptime_seconds: uptime = 0 } = totals ?? {}
  const instances = all.reduce((sum, agent) => sum + agent.instances.size, 0)
  const parts = [
    `${formatRate(overall.rate)} requests/s`,
    `${formatRatio(overall.errorRatio)} errors`,
    `${formatCount(Math.max(inFlight - watching, 0))} in flight`,
    `${count(all.length, 'agent')}, ${count(instances, 'instance')}`,
    down > 0 ? red(`${down} down`) : '',
    degraded > 0 ? yellow(`${degraded} degraded`) : ''
  ]
  const lines = [`${bold(url)}, up for ${duration(uptime)}`, parts.filter(part => part !== '').join('   ')]
  if (config?.ok === false) lines.push(red(olderConfiguration('fleet-gateway check tells all that is wrong with it')))
  const trouble = redisTrouble(redis)
  if (trouble !== undefined) lines.push(red(trouble))
  return lines
}

/** Which columns are left out where there is no room, first of all this one. */
const leastOfUse = ['last 100 s', 'in flight', 'p50', 'p99', 'up']

/** So much of what is wrong is to be seen. */
const leastReason = 30

/**
 * A head, and a line for each of these agents.
 * @param now by the gateway's clock
 * @param columns of the terminal
 */
export function agentLines (agents: readonly FleetAgent[], now: number, io: Pick<CommandIo, 'stdout' | 'env'>, columns = Infinity): string[] {
  const colors = colorsFor(io.stdout, io.env)
  const rows = agents.map(agent => rowOf(agent, now, colors))
  const least = rows.map(row => [...row.slice(0, -1), row.at(-1)!.slice(0, leastReason)])
  for (let leftOut = 0; ; leftOut++) {
    const hidden = leastOfUse.slice(0, leftOut)
    const shown = (row: readonly string[]) => row.filter((_, index) => !hidden.includes(head[index]!))
    const fits = tableLines(io, shown(head), least.map(shown)).every(line => stripVTControlCharacters(line).length <= columns)
    if (fits || leftOut === leastOfUse.length) return tableLines(io, shown(head), rows.map(shown))
  }
}

const head: readonly string[] = ['agent', 'state', 'up', 'last 100 s', 'req/s', 'errors', 'p50', 'p99', 'in flight', 'what is wrong']

function rowOf (agent: FleetAgent, now: number, colors: Colors): string[] {
  const { name, status, rate, errorRatio, row: [inFlight, , , , p50, p99], spark } = agent
  const instances = [...agent.instances.values()]
  const up = instances.filter(({ facts }) => facts.state === 'up').length
  return [
    name,
    { down: colors.red, degraded: colors.yellow, healthy: colors.green }[status](status),
    `${up} of ${instances.length}`,
    sparkOf(spark.slice(-sparkWidth)),
    formatRate(rate),
    errorRatio ? colors.red(formatRatio(errorRatio)) : formatRatio(errorRatio),
    formatMs(p50),
    formatMs(p99),
    formatCount(inFlight),
    faultOf(instances, now)
  ]
}

/** The worst instance, and why it is in its state. */
function faultOf (instances: readonly FleetInstance[], now: number): string {
  const [worst, ...others] = instances.toSorted((a, b) => byState(a, b) || Number(b.facts.lease?.lapsed ?? false) - Number(a.facts.lease?.lapsed ?? false))
  if (worst === undefined) return 'no instance'
  const { state } = worst.facts
  const reason = reasonOf(worst.facts, worst.row, now)
  if (reason === '') return ''
  const more = others.filter(({ facts }) => facts.state !== 'up').length
  return `${addressOfInstance(worst.facts)} ${state === 'up' ? '' : `${state}: `}${reason}${more === 0 ? '' : `; and ${more} more`}`
}

/** Bars from nothing to the most of these; nothing at all where nothing was asked. */
function sparkOf (values: readonly number[]): string {
  const most = Math.max(...values, 0)
  if (most === 0) return ''
  return values.map(value => value === 0 ? ' ' : sparkMarks[Math.min(Math.floor(value / most * sparkMarks.length), sparkMarks.length - 1)]!).join('').padStart(sparkWidth)
}
