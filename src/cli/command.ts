/**
 * What the commands have in common: flags, their checks, examples in the help.
 */
import { Command, InvalidArgumentError } from 'commander'
import { hostProblem } from '../fleet/address.ts'
import { CommandError, exitCodes } from './io.ts'

/** A command that talks to a gateway. */
export function clientCommand (name: string): Command {
  return withGateway(new Command(name))
    .option('--fleet, --fleet-yaml <file>', 'the fleet\'s file, for address and token where nothing else names them (fleet.yaml)')
}

/** Adds the options that say which gateway is meant, and what opens it. */
export function withGateway (command: Command): Command {
  return command
    .option('--url <address>', 'the gateway (FLEET_URL; else where fleet.yaml, FLEET_HOST and FLEET_PORT put it; http://127.0.0.1:9001)')
    .option('--ca <file>', 'for https, a file with the authorities to believe instead of Node\'s (FLEET_CA_FILE)')
    .option('--secret <token>', 'the token; better in FLEET_SECRET or FLEET_SECRET_FILE, where other users of the machine can\'t see it')
}

/** `--json`, said once. */
export const jsonOption = ['--json', 'print JSON, for programs'] as const

/** The help's last part: each example with what it does. */
export function withExamples (command: Command, examples: readonly (readonly [line: string, about?: string])[]): Command {
  const width = Math.max(...examples.map(([line]) => line.length))
  const lines = examples.map(([line, about]) => about === undefined ? `  $ ${line}` : `  $ ${line.padEnd(width)}  # ${about}`)
  return command.addHelpText('after', `\nExamples:\n${lines.join('\n')}`)
}

/** `--fleet` has two names, and commander calls the option by the second. @throws CommandError when it is given and empty, as from a variable that is not set */
export function fleetOf<Flags extends { fleet?: string }> ({ fleetYaml, ...flags }: Flags & { fleetYaml?: string }): Flags {
  if (fleetYaml === '') throw new CommandError('--fleet needs the name of a file', exitCodes.wrongUsage)
  return { ...flags as unknown as Flags, ...(fleetYaml !== undefined && { fleet: fleetYaml }) }
}

/** A check for an option's or argument's value. */
export function integer (least: number, most: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < least || value > most) throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`)
    return value
  }
}

/** The API takes durations and bare numbers of seconds; which text is neither, it says itself. */
export function durationOrSeconds (text: string): string | number {
  return /^\d+(\.\d+)?$/.test(text) ? Number(text) : text
}

/** Gathers the values of an option that may be given several times. */
export function repeated<T> (read: (text: string) => T) {
  return (text: string, earlier: T[] = []): T[] => [...earlier, read(text)]
}

export interface Address {
  host?: string
  port: number
}

/** Reads `8501`, `:8501`, `localhost:8501` or `[::1]:8501`. @throws InvalidArgumentError */
export function address (text: string): Address {
  const [, bracketed, plain, digits] = /^(?:(?:\[([^\]]+)\]|([^:[\]/]*)):)?(\d{1,5})$/.exec(text) ?? []
  const port = Number(digits)
  if (digits === undefined || port < 1 || port > 65_535) throw new InvalidArgumentError('It must be a port or HOST:PORT, as 8501, localhost:8501 or [::1]:8501.')
  const host = bracketed ?? plain
  const problem = host === undefined || host === '' ? undefined : hostProblem(host)
  if (problem !== undefined) throw new InvalidArgumentError(`Its host ${problem}.`)
  return { ...(host !== undefined && host !== '' && { host }), port }
}
