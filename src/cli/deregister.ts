/**
 * `fleet-gateway deregister NAME [ADDRESS]`: takes an agent, or one instance of it, out of the fleet.
 */
import type { Command } from 'commander'
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
    .argument('[address]', 'PORT or HOST:PORT of one instance; all when left out', address)
    .option('--host <host>', 'host of one instance (localhost)')
    .option('--port <port>', 'port of one instance', integer(1, 65_535))
    .option('--instance <id>', 'id of one instance, as "fleet-gateway agents NAME" lists it')
    .option('--drain', 'with --instance: let what is in flight there finish first; it stays listed until then')
    .option(...jsonOption)
    .action((name: string, at: Address | undefined, flags: DeregisterFlags) => deregister(name, at, fleetOf(flags), io))
  return withExamples(command, [
    ['fleet-gateway deregister my-agent', 'all instances'],
    ['fleet-gateway deregister my-agent localhost:9000', 'one of them'],
    ['fleet-gateway deregister my-agent --instance 0f3c9a41d2e7 --drain']
  ])
}

async function deregister (name: string, at: Address | undefined, flags: DeregisterFlags, io: CommandIo): Promise<void> {
  const { host, port, instance, drain = false } = flags
  const ways = [at, port ?? host, instance].filter(way => way !== undefined).length
  if (ways > 1) throw new CommandError('Name the instance in one way: HOST:PORT, --host and --port, or --instance', exitCodes.wrongUsage)
  if (host !== undefined && port === undefined) throw new CommandError('--host needs --port', exitCodes.wrongUsage)
  if (drain && instance === undefined) throw new CommandError(`--drain needs --instance; "${io.self} agents ${name}" lists the ids`, exitCodes.wrongUsage)
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
  const path = `/registry/${encodeURIComponent(name)}`
  if (instance !== undefined) return `${path}/instances/${encodeURIComponent(instance)}${drain ? '?drain=true' : ''}`
  if (one === undefined) return path
  return `${path}?${new URLSearchParams({ host: one.host ?? 'localhost', port: String(one.port) })}`
}
