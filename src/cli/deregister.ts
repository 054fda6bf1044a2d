/**
 * `fleet-gateway deregister NAME [ADDRESS]`: takes an agent, or one instance of it, out of the fleet.
 */
import { InvalidArgumentError, type Command } from 'commander'
import { authorityOf } from '../fleet/authority.ts'
import { DeregisteredShape } from './answers.ts'
import { withClient } from './client.ts'
import { address, clientCommand, fleetOf, integer, jsonOption, withExamples, type Address } from './command.ts'
import { CommandError, exitCodes, legible, print, printJson, type CommandIo } from './io.ts'
import type { ClientFlags } from './target.ts'

interface DeregisterFlags extends ClientFlags {
  host?: string
  port?: number
  instance?: string
  drain?: boolean
}

interface Deregistered {
  message: string
  note?: string
}

export function deregisterCommand (io: CommandIo): Command {
  const command = clientCommand('deregister')
    .argument('<name>', 'the agent\'s name or alias')
    .argument('[address]', 'PORT or HOST:PORT of one instance; all when left out', addressNoId)
    .option('--host <host>', 'host of one instance (localhost)')
    .option('--port <port>', 'port of one instance', integer(1, 65_535))
    .option('--instance <id>', 'id of one instance, as "fleet-gateway agents NAME" lists it')
    .option('--drain', 'of one instance: let what is in flight there finish first; it stays listed until then')
    .option(...jsonOption)
    .action((name: string, at: Address | undefined, flags: DeregisterFlags) => deregister(name, at, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway deregister my-agent', 'all instances'],
    ['fleet-gateway deregister my-agent localhost:9000', 'one of them'],
    ['fleet-gateway deregister my-agent localhost:9000 --drain', 'when its requests are over'],
    ['fleet-gateway deregister my-agent --instance 0f3c9a41d2e7']
  ])
}

async function deregister (name: string, at: Address | undefined, flags: DeregisterFlags, io: CommandIo): Promise<void> {
  const { host, port, instance, drain = false } = flags
  const ways = [at, port ?? host, instance].filter(way => way !== undefined).length
  if (ways > 1) throw new CommandError('Name the instance in one way: HOST:PORT, --host and --port, or --instance', exitCodes.wrongUsage)
  if (host !== undefined && port === undefined) throw new CommandError('--host needs --port', exitCodes.wrongUsage)
  if (drain && ways === 0) throw new CommandError(`--drain is of one instance: name it by HOST:PORT; "${io.self} agents ${name}" lists them`, exitCodes.wrongUsage)
  const one = at ?? (port === undefined ? undefined : { port, ...(host !== undefined && { host }) })
  await withClient(flags, io, async client => {
    const answer = await client.send<Deregistered>('DELETE', pathOf(name, one, instance, drain), DeregisteredShape)
    if (flags.json) return printJson(io, answer)
    const which = one === undefined ? instance : authorityOf(one.host ?? 'localhost', one.port)
    const { message, note } = legible(answer)
    print(io, `${message}${which === undefined || message.includes(which) ? '' : `: ${which}`} (gateway ${client.target.url})`)
    if (note !== undefined) print(io, note)
  })
}

function pathOf (name: string, one: Address | undefined, instance: string | undefined, drain: boolean): string {
  const path = `/registry/${encodeURIComponent(name)}${instance === undefined ? '' : `/instances/${encodeURIComponent(instance)}`}`
  const query = new URLSearchParams({ ...(one && { host: one.host ?? 'localhost', port: String(one.port) }), ...(drain && { drain: 'true' }) })
  return query.size === 0 ? path : `${path}?${query}`
}

/** An id is what people have at hand: it is in answers and in the log. */
function addressNoId (text: string): Address {
  if (/^[0-9a-f]{12}$/.test(text)) throw new InvalidArgumentError(`It looks like an id, which is given with --instance ${text}.`)
  return address(text)
}
