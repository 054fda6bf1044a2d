/**
 * `fleet-gateway top`: the console's first page in a terminal. Each agent with how it fares, what is asked of it and what is wrong, every second.
 */
import { Option, type Command } from 'commander'
import type { Bye, Snapshot, Tick } from '../../plugins/console/wire.ts'
import { byName, byStatus, WatchedFleet, type FleetAgent } from '../watched-fleet.ts'
import { FleetSnapshotShape, FleetTickShape, hasShape, jsonObjectIn } from './answers.ts'
import { GatewayAwayError, GatewayRefusal, withClient, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, withExamples } from './command.ts'
import type { StreamEvent } from './event-stream.ts'
import { followed, strangeStream, untilEnded } from './followed.ts'
import { agentLines, overviewLines } from './fleet-lines.ts'
import { colorsFor, CommandError, legible, print, type CommandIo } from './io.ts'
import { Screen } from './screen.ts'
import type { ClientFlags } from './target.ts'

interface TopFlags extends ClientFlags {
  once?: boolean
  sort?: Order
}

type Order = keyof typeof orders

/** Ten thousand agents are some 5 MiB. */
const mostCharacters = 64 * 1024 * 1024

/** What `--once` waits for two ticks of a second. */
const mostOnceMs = 3_000

/** What comes first. */
const orders = {
  state: byStatus,
  rate: (a: FleetAgent, b: FleetAgent) => b.rate - a.rate || byName(a, b),
  errors: (a: FleetAgent, b: FleetAgent) => (b.errorRatio ?? -1) - (a.errorRatio ?? -1) || byName(a, b),
  latency: (a: FleetAgent, b: FleetAgent) => b.row[5] - a.row[5] || byName(a, b),
  name: byName
}
const orderNames = Object.keys(orders) as Order[]

export function topCommand (io: CommandIo): Command {
  const command = clientCommand('top')
    .option('--once', 'print one picture after two seconds and end, as it does where the output is no terminal')
    .addOption(new Option('--sort <order>', 'what comes first (state)').choices(orderNames))
    .action((flags: TopFlags) => showTop(fleetOf(flags), io))
  command.addHelpText('after', `
Requests a second and errors are those of the last five seconds (with --once, two), p50 and p99 those of the last sample, which is five seconds long.
Of a narrow terminal the columns of least use are left out.

Keys: s sorts by ${orderNames.join(', ')} in turn; arrows, page keys, home and end go through the agents; q ends it.`)
  return withExamples(command, [
    ['fleet-gateway top'],
    ['fleet-gateway top --sort rate', 'the busiest agents first'],
    ['fleet-gateway top --once | head -20', 'for a script']
  ])
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

/** What happens is counted over two ticks; who does not tell of them is waited for no longer than it would take. */
async function printOnce (client: GatewayClient, { sort = 'state' }: TopFlags, io: CommandIo): Promise<void> {
  const fleet = new WatchedFleet()
  let stopWaiting = () => {}
  await untilEnded(io, async ending => {
    const tell = (text: string) => { throw new GatewayAwayError(text) }
    let ticks = 0
    for await (const event of followed(client, '/console/events', { signal: ending.signal, tell, mostCharacters })) {
      const type = take(event, fleet, client)
      if (type === 'snapshot') stopWaiting = after(mostOnceMs, () => ending.abort())
      if (type === 'tick' && ++ticks === 2) return
    }
  }).finally(() => stopWaiting())
  if (fleet.totals !== null) print(io, [...overviewLines(fleet, client.target.url, io), '', ...agentLines([...fleet.agents.values()].sort(orders[sort]), fleet.now(), io)].join('\n'))
}

function after (ms: number, act: () => void): () => void {
  const timer = setTimeout(act, ms)
  return () => clearTimeout(timer)
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
      const top = overviewLines(fleet, client.target.url, io)
      if (away !== '') top.push(colors.yellow(away))
      const room = Math.max(screen.rows - top.length - 4, 1) // an empty line, the table's head, an empty line, the last line
      const all = [...fleet.agents.values()].sort(orders[order])
      first = Math.max(Math.min(first, all.length - room), 0)
      const shown = all.slice(first, first + room)
      const rest = shown.length < all.length ? `${first + 1} to ${first + shown.length} of ${all.length}, arrows and page keys go on; ` : ''
      screen.draw([...top, '', ...agentLines(shown, fleet.now(), io, screen.columns)], colors.dim(`${rest}s: sorted by ${order}, q: quit`))
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
