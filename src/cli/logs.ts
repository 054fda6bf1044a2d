/**
 * `fleet-gateway logs`: the last requests, and with `--follow` those that finish from now on, until somebody ends it.
 */
import { once } from 'node:events'
import { InvalidArgumentError, type Command } from 'commander'
import type { AuditEntry } from '../../plugins/audit-log/index.ts'
import { namePattern } from '../agent-options.ts'
import { entryIdPattern, sinceRule, statusesIn, statusesRule, timeIn } from '../audit-query.ts'
import { AuditEntryShape, AuditShape, hasShape, jsonObjectIn } from './answers.ts'
import { withClient, type GatewayClient } from './client.ts'
import { clientCommand, fleetOf, integer, withExamples } from './command.ts'
import type { StreamEvent } from './event-stream.ts'
import { followed, strangeStream, untilEnded } from './followed.ts'
import { colorsFor, harmlessJson, legible, onlyColours, say, type Colors, type CommandIo } from './io.ts'
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

export function logsCommand (io: CommandIo): Command {
  const command = clientCommand('logs')
    .option('-f, --follow', 'go on with each request that is over, until it is ended with Ctrl-C')
    .option('--agent <name>', 'only of this agent (name or alias)', agentName)
    .option('--status <statuses>', 'only with these statuses: 404, 5xx, 429,5xx', statuses)
    .option('--since <time>', 'only what was over since then: 5m, 2026-03-01T12:00:00Z', since)
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

function agentName (text: string): string {
  if (!new RegExp(namePattern).test(text)) throw new InvalidArgumentError('It must be the name or alias of one agent.')
  return text
}

function statuses (text: string): string {
  if (statusesIn(text) === undefined) throw new InvalidArgumentError(`It ${statusesRule}.`)
  return text
}

function since (text: string): string {
  if (timeIn(text, 0) === undefined && !entryIdPattern.test(text)) throw new InvalidArgumentError(`It ${sinceRule}.`)
  return text
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

/** Until a signal, or until nobody reads any more. */
async function follow (client: GatewayClient, flags: LogsFlags, writer: LineWriter, io: CommandIo): Promise<void> {
  const path = pathFor({ ...flags, limit: flags.limit ?? (flags.since === undefined ? firstLines : undefined) } as LogsFlags)
  await untilEnded(io, async ({ signal }) => {
    for await (const event of followed(client, path, { signal, tell: text => say(io, text) })) await tell(event, writer, client, signal, io)
  })
}

async function tell ({ type, data }: StreamEvent, writer: LineWriter, client: GatewayClient, signal: AbortSignal, io: CommandIo): Promise<void> {
  if (type !== 'request' && type !== 'dropped') return
  const told = jsonObjectIn(data)
  if (type === 'dropped') {
    const { count: dropped } = (told ?? {}) as { count?: unknown }
    if (typeof dropped === 'number') say(io, `${count(dropped, 'request')} came too fast, or while nobody read, and can not be shown; the audit log's file has all`)
    return
  }
  if (told === undefined || !hasShape(AuditEntryShape, told)) throw strangeStream(client)
  await writer.write(told as AuditEntry, signal)
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
