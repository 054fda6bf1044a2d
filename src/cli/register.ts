/**
 * `fleet-gateway register NAME [ADDRESS]`: adds an instance to the fleet, or changes what is known of it.
 */
import { InvalidArgumentError, type Command } from 'commander'
import type { instanceView, leaseView } from '../../plugins/admin/views.ts'
import { hostProblem } from '../fleet/address.ts'
import { authorityOf } from '../fleet/authority.ts'
import { sourceInWords } from '../figures.ts'
import { RegisteredShape } from './answers.ts'
import { withClient } from './client.ts'
import { address, clientCommand, durationOrSeconds, fleetOf, integer, jsonOption, repeated, withExamples, type Address } from './command.ts'
import { checkRegistration } from './registration.ts'
import { CommandError, exitCodes, legible, print, printJson, type CommandIo } from './io.ts'
import type { ClientFlags } from './target.ts'

interface RegisterFlags extends ClientFlags {
  host?: string
  port?: number
  protocol?: string
  alias?: string[]
  ttl?: string | number
  weight?: number
  timeout?: string | number
  healthPath?: string
  metadata?: Record<string, unknown>
}

/** What `POST /registry/register` answers. */
interface Registered {
  message: string
  name: string
  instance: ReturnType<typeof instanceView>
  lease?: ReturnType<typeof leaseView>
}

export function registerCommand (io: CommandIo): Command {
  const command = clientCommand('register')
    .argument('<name>', 'the agent\'s name')
    .argument('[address]', 'PORT or HOST:PORT', address)
    .option('--host <host>', 'its host (localhost)')
    .option('--port <port>', 'its port', integer(1, 65_535))
    .option('--protocol <protocol>', 'http or https (http)')
    .option('--alias <name>', 'another name for the agent; may be repeated', repeated(String))
    .option('--ttl <duration>', 'a lease of this length, such as 60s, which heartbeats renew; for good when left out', durationOrSeconds)
    .option('--weight <n>', 'its share, under every balancer but round robin', integer(1, 1_000))
    .option('--timeout <duration>', 'how long the agent may take to begin its answer', durationOrSeconds)
    .option('--health-path <path>', 'probe it by GET of this path instead of by opening a connection')
    .option('--metadata <json>', 'whatever is worth knowing about the agent, as a JSON object', jsonObject)
    .option(...jsonOption)
    .action((name: string, at: Address | undefined, flags: RegisterFlags) => register(name, at, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway register my-agent 9000'],
    ['fleet-gateway register my-agent 192.168.1.7:9000 --alias mine --health-path /health'],
    ['fleet-gateway register my-agent 9000 --ttl 60s', 'leaves by itself without a heartbeat']
  ])
}

async function register (name: string, at: Address | undefined, flags: RegisterFlags, io: CommandIo): Promise<void> {
  const host = flags.host ?? at?.host
  const port = flags.port ?? at?.port
  if (port === undefined) throw new CommandError(`Say where it listens: ${io.self} register NAME PORT, or HOST:PORT`, exitCodes.wrongUsage)
  if ((flags.host !== undefined && at?.host !== undefined) || (flags.port !== undefined && at !== undefined)) {
    throw new CommandError('Give host and port once: as HOST:PORT, or with --host and --port', exitCodes.wrongUsage)
  }
  const { protocol, alias: aliases, ttl, weight, timeout, healthPath, metadata } = flags
  const body = { name, host, port, protocol, aliases, ttl, weight, timeout, metadata, ...(healthPath !== undefined && { health: { path: healthPath } }) }
  checkRegistration(body, host === undefined ? undefined : hostProblem(host)) // who may be where is the gateway's to say
  await withClient(flags, io, async client => {
    const registered = await client.send<Registered>('POST', '/registry/register', RegisteredShape, body)
    if (flags.json) return printJson(io, registered)
    const { message, name: called, instance, lease } = legible(registered)
    print(io, `${message}: instance ${instance.id} at ${instance.protocol}://${authorityOf(instance.host, instance.port)} (gateway ${client.target.url})`)
    if (lease !== undefined) print(io, `${staysInWords(instance.source, lease.expires_at)} unless it is renewed: PUT /registry/${called}/instances/${instance.id}`)
  })
}

/** How long it stays: what somebody else names as well outlives its lease. */
function staysInWords (source: string, until: string): string {
  return source === 'api' ? `It stays until ${until}` : `${sourceInWords(source)} has it, too, so it stays; what was registered of it ends ${until}`
}

function jsonObject (text: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // What is no JSON is no object.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new InvalidArgumentError('It must be a JSON object, as {"about": "what it does"}.')
  return value as Record<string, unknown>
}
