/**
 * `fleet-gateway logs`: the last requests, and with `--follow` those that finish from now on, until somebody ends it.
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import type { AuditEntry } from '../../plugins/audit-log/index.ts'
import { AuditEntryShape, AuditShape, hasShape, jsonObjectIn } from './answers.ts'
import { GatewayAwayError, withClient, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, integer, withExamples } from './command.ts'
import { eventsIn, type StreamEvent } from './event-stream.ts'
import { colorsFor, CommandError, harmlessJson, legible, onlyColours, say, type Colors, type CommandIo } from './io.ts'
import type { ClientFlags } from './target.ts'
import { count } from './wording.ts'

interface LogsFlags extends ClientFlags {
  follow?: boolean
  agent?: string
  status?: string
  since?: string
  limit?: number
}

/** What `--follow` begins with where nobody says. */
const firstLines = 10
/** Before it asks a gateway again that has gone away: at first, */
const leastPauseMs = 250
/** and at most. */
const mostPauseMs = 5_000

export function logsCommand (io: CommandIo): Command {
  const command = clientCommand('logs')
    .option('-f, --follow', 'go on with each request that is over, until it is ended with Ctrl-C')
    .option('--agent <name>', 'only of this agent (name or alias)')
    .option('--status <statuses>', 'only with these statuses: 404, 5xx, 429,5xx')
    .option('--since <time>', 'only what was over since then: 5m, 2026-03-01T12:00:00Z')
    .option('--limit <n>', `the last so many, at most 1000 (100; with --follow ${firstLines}, or all since --since)`, integer(1, 1_000))
    .option('--json', 'print JSON, a line for each request, for programs')
    .action((flags: LogsFlags) => showLogs(fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway logs'],
    ['fleet-gateway logs -f --agent encoder', 'what goes to one agent, as it happens'],
    ['fleet-gateway logs --status 5xx --since 5m', 'what failed in the last five minutes'],
    ['fleet-gateway logs -f --json | jq -r .path', 'for programs']
  ])
}

async function showLogs (flags: LogsFlags, io: CommandIo): Promise<void> {
  const writer = new LineWriter(flags.json === true, io)
  await withClient(flags, io, async client => {
    if (flags.follow === true) return await follow(client, flags, writer, io)
    const { entries } = await client.get<{ entries: AuditEntry[] }>(pathFor(flags), AuditShape)
    if (entries.length === 0 && flags.json !== true) say(io, 'No such request is among the last that the gateway keeps')
    for (const entry of entries) await writer.write(entry)
  })
}

function pathFor ({ agent, status, since, limit }: LogsFlags): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries({ agent, status, since, limit })) if (value !== undefined) query.set(name, String(value))
  return query.size === 0 ? '/audit' : `/audit?${query.toString()}`
}

/** Until a signal, or until nobody reads any more; a gateway that goes away is waited for. */
async function follow (client: GatewayClient, flags: LogsFlags, writer: LineWriter, io: CommandIo): Promise<void> {
  const ending = new AbortController()
  const end = () => ending.abort()
  const leave = io.onSignal(end)
  io.stdout.once('error', end).once('close', end)
  try {
    await followUntil(ending.signal, client, flags, writer, io)
  } catch (error) {
    if (!ending.signal.aborted) throw error
  } finally {
    io.stdout.off('error', end).off('close', end)
    leave()
  }
}

async function followUntil (signal: AbortSignal, client: GatewayClient, flags: LogsFlags, writer: LineWriter, io: CommandIo): Promise<void> {
  const { url } = client.target
  const path = pathFor({ ...flags, limit: flags.limit ?? (flags.since === undefined ? firstLines : undefined) } as LogsFlags)
  let lastEventId: string | undefined
  let wasOpen = false
  let isAway = false
  for (let pauseMs = leastPauseMs; ; pauseMs = Math.min(pauseMs * 2, mostPauseMs)) {
    try {
      for await (const event of eventsIn(client.stream(path, lastEventId, signal))) {
        if (isAway) say(io, `The gateway at ${url} is back`)
        wasOpen = true
        isAway = false
        pauseMs = leastPauseMs
        lastEventId = event.id
        await tell(event, writer, client, signal, io)
      }
    } catch (error) {
      if (error instanceof RangeError) throw stranger(url)
      if (!wasOpen || !(error instanceof GatewayAwayError)) throw error
    }
    if (!isAway) say(io, `The gateway at ${url} has ended the stream; waiting for it`)
    isAway = true
    await sleep(pauseMs, undefined, { signal })
  }
}

async function tell ({ type, data }: StreamEvent, writer: LineWriter, { target: { url } }: GatewayClient, signal: AbortSignal, io: CommandIo): Promise<void> {
  if (type !== 'request' && type !== 'dropped') return
  const told = jsonObjectIn(data)
  if (type === 'dropped') {
    const { count: dropped } = (told ?? {}) as { count?: unknown }
    if (typeof dropped === 'number') say(io, `${count(dropped, 'request')} came too fast, or while nobody read, and can not be shown; the audit log's file has all`)
    return
  }
  if (told === undefined || !hasShape(AuditEntryShape, told)) throw stranger(url)
  await writer.write(told as AuditEntry, signal)
}

function stranger (url: string): CommandError {
  return new CommandError(`What answers at ${url} is no Fleet Gateway, to go by its event stream: correct --url or FLEET_URL`)
}

/** One line for each request, no faster than they are taken. */
class LineWriter {
  readonly #isJson: boolean
  readonly #stdout: CommandIo['stdout']
  readonly #colors: Colors

  constructor (isJson: boolean, { stdout, env }: CommandIo) {
    this.#isJson = isJson
    this.#stdout = stdout
    this.#colors = colorsFor(stdout, env)
  }

  async write (entry: AuditEntry, signal?: AbortSignal): Promise<void> {
    const line = this.#isJson ? harmlessJson(entry) : lineOf(legible(entry), this.#colors)
    if (!this.#stdout.write(`${onlyColours(line)}\n`) && signal !== undefined) await once(this.#stdout, 'drain', { signal })
  }
}

/** Columns of fixed width first, and nothing that says nothing: most requests are tried once, and end. */
function lineOf ({ time, status, method, path, agent, instance, attempts, latency_ms: latency, ending, code }: AuditEntry, colors: Colors): string {
  const place = agent === null ? '' : `-> ${agent}${instance === null ? '' : `/${instance}`}`
  const parts = [time, colourFor(status, colors)(String(status)), method.padEnd(4), path, place, attempts > 1 ? count(attempts, 'attempt') : '', `${Math.round(latency * 10) / 10} ms`, ending ?? '', code ?? '']
  return parts.filter(part => part !== '').join('  ')
}

function colourFor (status: number, { green, yellow, red }: Colors): (text: string) => string {
  if (status >= 500) return red
  return status >= 400 ? yellow : green
}
