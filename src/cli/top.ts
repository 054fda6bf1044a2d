/**
 * `fleet-gateway top`: the console's first page in a terminal. Each agent with how it fares, what is asked of it and what is wrong, every second.
 */
import type { Command } from 'commander'
import type { Bye, Snapshot, Tick } from '../../plugins/console/wire.ts'
import { addressOfInstance, formatCount, formatMs, formatRate, formatRatio, reasonOf } from '../figures.ts'
import { WatchedFleet, type FleetAgent, type FleetInstance } from '../watched-fleet.ts'
import { FleetSnapshotShape, FleetTickShape, hasShape, jsonObjectIn } from './answers.ts'
import { GatewayAwayError, GatewayRefusal, withClient, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, withExamples } from './command.ts'
import type { StreamEvent } from './event-stream.ts'
import { followed, strangeStream, untilEnded } from './followed.ts'
import { colorsFor, CommandError, exitCodes, legible, print, type Colors, type CommandIo } from './io.ts'
import { Screen } from './screen.ts'
import { tableLines } from './table.ts'
import type { ClientFlags } from './target.ts'
import { count, duration } from './wording.ts'

interface TopFlags extends ClientFlags {
  once?: boolean
  sort?: Order
}

type Order = keyof typeof orders

/** Ten thousand agents are some 5 MiB. */
const mostCharacters = 64 * 1024 * 1024

const statusRank = { down: 0, degraded: 1, healthy: 2 } as const
const stateRank = { down: 0, ejected: 1, draining: 2, up: 3 } as const

const byName = (a: FleetAgent, b: FleetAgent) => a.name < b.name ? -1 : 1

/** What comes first. */
const orders = {
  state: (a: FleetAgent, b: FleetAgent) => statusRank[a.status] - statusRank[b.status] || byName(a, b),
  rate: (a: FleetAgent, b: FleetAgent) => b.rate - a.rate || byName(a, b),
  errors: (a: FleetAgent, b: FleetAgent) => (b.errorRatio ?? -1) - (a.errorRatio ?? -1) || byName(a, b),
  latency: (a: FleetAgent, b: FleetAgent) => b.row[5] - a.row[5] || byName(a, b),
  name: byName
}
const orderNames = Object.keys(orders) as Order[]

/** So many samples of five seconds are drawn. */
const sparkWidth = 20
const sparkMarks = '▁▂▃▄▅▆▇█'

export function topCommand (io: CommandIo): Command {
  const command = clientCommand('top')
    .option('--once', 'print one picture and end, as it does where the output is no terminal')
    .option('--sort <order>', `what comes first: ${orderNames.join(', ')} (state)`, orderIn)
    .action((flags: TopFlags) => showTop(fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway top'],
    ['fleet-gateway top --sort rate', 'the busiest agents first'],
    ['fleet-gateway top --once | head -20', 'for a script']
  ])
}

function orderIn (text: string): Order {
  if (orderNames.includes(text as Order)) return text as Order
  throw new CommandError(`--sort must be one of ${orderNames.join(', ')}`, exitCodes.wrongUsage)
}

async function showTop (flags: TopFlags, io: CommandIo): Promise<void> {
  const isOnce = flags.once === true || io.stdout.isTTY !== true
  try {
    await withClient(flags, io, client => isOnce ? printOnce(client, flags, io) : watch(client, flags, io))
  } catch (error) {
    if (!(error instanceof GatewayRefusal) || error.code !== 'FLEET_NOT_FOUND') throw error
    throw new CommandError('This gateway has no console, whose data top shows: see `console` in its fleet.yaml')
  }
}

async function printOnce (client: GatewayClient, { sort = 'state' }: TopFlags, io: CommandIo): Promise<void> {
  await untilEnded(io, async ending => {
    const fleet = new WatchedFleet()
    const tell = (text: string) => { throw new GatewayAwayError(text) }
    for await (const event of followed(client, '/console/events', { signal: ending.signal, tell, mostCharacters })) {
      if (take(event, fleet, client) !== 'snapshot') continue
      const lines = tableLines(io, head, [...fleet.agents.values()].sort(orders[sort]).map(agent => rowOf(agent, fleet.now(), colorsFor(io.stdout, io.env))))
      print(io, [...headOf(fleet, client, io), '', ...lines].join('\n'))
      return
    }
  })
}

async function watch (client: GatewayClient, { sort = 'state' }: TopFlags, io: CommandIo): Promise<void> {
  const fleet = new WatchedFleet()
  const colors = colorsFor(io.stdout, io.env)
  let order = sort
  let isSeen = false
  let away = ''
  let first = 0

  await untilEnded(io, async ending => {
    const screen = new Screen(io, {
      onKey (key) {
        if (key === 'q') return ending.abort()
        if (key === 's') order = orderNames[(orderNames.indexOf(order) + 1) % orderNames.length]!
        else first = moved(first, key, screen.rows)
        draw()
      },
      onResize: () => draw()
    })
    function draw () {
      if (!isSeen) return
      const top = headOf(fleet, client, io)
      if (away !== '') top.push(colors.yellow(away))
      const room = Math.max(screen.rows - top.length - 4, 1) // an empty line, the table's head, an empty line, the last line
      const all = [...fleet.agents.values()].sort(orders[order])
      first = Math.max(Math.min(first, all.length - room), 0)
      const shown = all.slice(first, first + room)
      const lines = tableLines(io, head, shown.map(agent => rowOf(agent, fleet.now(), colors)))
      const rest = shown.length < all.length ? `${first + 1} to ${first + shown.length} of ${all.length}, arrows and page keys go on; ` : ''
      screen.draw([...top, '', ...lines], colors.dim(`${rest}s: sorted by ${order}, q: quit`))
    }

    try {
      const tell = (text: string, isAway: boolean) => {
        away = isAway ? legible(text) : ''
        draw()
      }
      for await (const event of followed(client, '/console/events', { signal: ending.signal, tell, mostCharacters })) {
        if (take(event, fleet, client) === undefined) continue
        if (!isSeen) screen.open()
        isSeen = true
        draw()
      }
    } finally {
      screen.close()
    }
  })
}

/** The first line after a key. */
function moved (first: number, key: string, rows: number): number {
  const steps: Readonly<Record<string, number>> = { up: -1, k: -1, down: 1, j: 1, pageup: -rows / 2, pagedown: rows / 2, home: -Infinity, end: Infinity }
  return Math.max(Math.min(Math.round(first + (steps[key] ?? 0)), Number.MAX_SAFE_INTEGER), 0)
}

/** @returns what the event was, when it is one that changes the picture */
function take ({ type, data }: StreamEvent, fleet: WatchedFleet, client: GatewayClient): 'snapshot' | 'tick' | undefined {
  const told = jsonObjectIn(data)
  if (type === 'snapshot') {
    if (!hasShape(FleetSnapshotShape, told)) throw strangeStream(client)
    fleet.takeSnapshot(legible(told) as Snapshot)
  } else if (type === 'tick') {
    if (!hasShape(FleetTickShape, told)) throw strangeStream(client)
    fleet.takeTick(legible(told) as Tick)
  } else {
    if (type === 'bye' && (told as Bye | undefined)?.reason === 'unauthorized') throw new CommandError(`The gateway at ${client.target.url} does not take the token any more`)
    return undefined
  }
  return type
}

function headOf ({ agents, totals, config, overall }: WatchedFleet, { target: { url } }: GatewayClient, io: CommandIo): string[] {
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
  if (config?.ok === false) lines.push(red(`An older configuration runs, since the file is bad: ${config.error ?? ''}`))
  return lines
}

const head = ['agent', 'state', 'up', 'last 100 s', 'req/s', 'errors', 'p50', 'p99', 'in flight', 'what is wrong'] as const

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
  const [worst, ...others] = instances.toSorted((a, b) => stateRank[a.facts.state] - stateRank[b.facts.state] || Number(b.facts.lease?.lapsed ?? false) - Number(a.facts.lease?.lapsed ?? false))
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
