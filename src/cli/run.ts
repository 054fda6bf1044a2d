/**
 * `fleet-gateway run NAME -- command …`: gives a program a port, and puts it into the fleet for as long as it listens there. The program needs to
 * know nothing of it, whatever it is written in.
 */
import { InvalidArgumentError, type Command } from 'commander'
import { RegistrationOptions } from '../agent-options.ts'
import { systemClock } from '../clock.ts'
import { registrationHostProblem } from '../fleet/address.ts'
import { authorityOf } from '../fleet/authority.ts'
import { durationMs, parseOptions } from '../options.ts'
import { RenewedShape } from './answers.ts'
import { GatewayAwayError, GatewayClient } from './client.ts'
import { clientCommand, durationOrSeconds, fleetOf, integer, repeated, withExamples } from './command.ts'
import { checkRegistration } from './registration.ts'
import { CommandError, plain, say, type CommandIo } from './io.ts'
import { startProgram } from './run/child.ts'
import { instancePath, isUnknownInstance, LeaseKeeper, type LeasedRegistration } from './run/lease-keeper.ts'
import { freePort, isListening, untilListening } from './run/port.ts'
import { watchSignals } from './run/signals.ts'
import { findTarget, type ClientFlags } from './target.ts'

/** A command with its arguments. */
type Words = readonly [string, ...string[]]

interface RunFlags extends ClientFlags {
  port?: number | 'free'
  host?: string
  ttl?: string | number
  alias?: string[]
  healthPath?: string
  /** Milliseconds. */
  drainTimeout?: number
}

/** The gateway is no reason to keep anybody waiting for long. */
const limits = { headMs: 3_000, wholeMs: 5_000, bytes: 1024 * 1024 }

/** A program that does not listen for so long is worth a word. */
const listenPatienceMs = 30_000

/** What taking the instance out may take when its program has ended. */
const goodbyeMs = 3_000

export function runCommand (io: CommandIo): Command {
  const command = clientCommand('run')
    .usage('<name> [options] -- <command...>')
    .argument('<name>', 'the agent\'s name')
    .argument('<command...>', 'the program and its arguments; {port} and {host} in them are replaced')
    .option('--port <port>', 'the port it gets, in PORT; "free" for any that is free (free)', portOrFree)
    .option('--host <host>', 'where the gateway reaches it, in HOST (localhost, and 127.0.0.1 in HOST)')
    .option('--ttl <duration>', 'how long it stays in the fleet when nothing is heard of this command any more (15s)', durationOrSeconds)
    .option('--alias <name>', 'another name for the agent; may be repeated', repeated(String))
    .option('--health-path <path>', 'probe it by GET of this path instead of by opening a connection')
    .option('--drain-timeout <duration>', 'how long requests under way may take when it is told to end (5s)', duration)
    .action(async (name: string, words: Words, flags: RunFlags) => io.exit(await runInFleet(name, words, fleetOf(flags), io)))
  return withExamples(command, [
    ['fleet-gateway run my-agent -- node server.js', 'it listens on PORT'],
    ['fleet-gateway run files -- python3 -m http.server {port} --bind {host}', 'for programs that take flags'],
    ['fleet-gateway run my-agent --port 9000 --health-path /health -- ./agent']
  ])
}

/** Runs a program to its end; resolves with its exit code. @throws CommandError when it can't be started, or the gateway would refuse it */
export async function runInFleet (name: string, words: Words, flags: RunFlags, io: CommandIo): Promise<number> {
  const tell = (text: string) => { for (const line of text.split('\n')) say(io, `fleet-gateway: ${plain(line)}`) }
  const { port: wanted = 'free', host = 'localhost', drainTimeout = 5_000 } = flags
  const { registration, ttlMs } = registrationOf(name, host, flags)
  const client = new GatewayClient(await findTarget(flags, io), io.self, limits)
  try {
    const said = await checkGateway(client, name, tell)
    const port = wanted === 'free' ? await freePort() : wanted
    if (wanted !== 'free' && await isListening(host, port)) throw new CommandError(`Something listens on ${authorityOf(host, port)} already; choose another port, or leave out --port`)
    const lease = new LeaseKeeper({ client, registration: { ...registration, port }, ttlMs, tell, clock: systemClock, random: Math.random, said })
    const bindHost = flags.host ?? '127.0.0.1'
    const signals = watchSignals(io)
    const program = await startProgram(filledIn(words, { port: String(port), host: bindHost }), { ...withoutToken(io.env), PORT: String(port), HOST: bindHost })
    signals.passTo(program, lease, drainTimeout)
    const over = new AbortController()
    void untilListening(host, port, {
      signal: over.signal,
      patienceMs: listenPatienceMs,
      onSlow: () => tell(`${name} does not listen on ${authorityOf(host, port)} yet: it gets the port in PORT, or where its arguments say {port}`)
    }).then(listens => {
      if (!listens) return
      over.abort()
      lease.start()
    })
    const code = await program.ended
    if (!over.signal.aborted && !signals.isEnding) tell(`${name} ended before it listened on ${authorityOf(host, port)}, so it was not registered`)
    over.abort()
    await lease.leave({ drain: false, withinMs: goodbyeMs })
    if (lease.wasLast) tell(`that was the last instance of ${name}, which is remembered for ten minutes: requests get 503, and health fails. To have it forgotten now: ${io.self} deregister ${name}`)
    return code
  } finally {
    await client.close()
  }
}

/** What is registered, but for the port. What the gateway would refuse of it is told before anything is started. @throws CommandError */
function registrationOf (name: string, host: string, { ttl = '15s', alias, healthPath }: RunFlags): { registration: Omit<LeasedRegistration, 'port'>, ttlMs: number } {
  const registration = {
    name,
    host,
    ttl,
    ...(alias && { aliases: alias }),
    ...(healthPath !== undefined && { health: { path: healthPath } })
  }
  const body = { ...registration, port: 1 }
  checkRegistration(body, registrationHostProblem(host))
  return { registration, ttlMs: parseOptions(RegistrationOptions, body, '').ttl! }
}

/**
 * Asks the gateway whether it would let this command register: a heartbeat of an instance that nobody has changes nothing.
 * @returns what was said of a gateway that is away; null when it is there
 * @throws CommandError when it would not, or there is no gateway at that address
 */
async function checkGateway (client: GatewayClient, name: string, tell: (text: string) => void): Promise<string | null> {
  try {
    const answer = await client.ask('PUT', instancePath(name, 'none'))
    if (!isUnknownInstance(answer)) client.bodyOf(answer, RenewedShape)
    return null
  } catch (error) {
    if (!(error instanceof GatewayAwayError)) throw error
    tell(`${error.message}\n${name} is started all the same, and registered when the gateway is there`)
    return error.message
  }
}

/** The token is this command's: what the program is given, its logs, crash reports and children have as well. */
function withoutToken ({ FLEET_SECRET, FLEET_SECRET_FILE, ...env }: CommandIo['env']): CommandIo['env'] {
  return env
}

function filledIn (words: Words, values: Readonly<Record<'port' | 'host', string>>): Words {
  return words.map(word => word.replaceAll(/\{(port|host)\}/g, (_, name: 'port' | 'host') => values[name])) as [string, ...string[]]
}

function portOrFree (text: string): number | 'free' {
  return text === 'free' ? text : integer(1, 65_535)(text)
}

function duration (text: string): number {
  const given = durationOrSeconds(text)
  const ms = typeof given === 'number' ? given * 1_000 : durationMs(given)
  if (Number.isNaN(ms)) throw new InvalidArgumentError('It must be a duration, as 500ms, 5s or 1m.')
  return ms
}
