/**
 * `fleet-gateway serve`: finds configuration and secret, starts the gateway, says what matters, and ends it in order on a signal.
 */
import { constants, existsSync } from 'node:fs'
import { access } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { ConfigError, FleetOptions, type FleetConfig } from '../config.ts'
import { FolderInUseError } from '../folder-lock.ts'
import { createGateway } from '../gateway.ts'
import { announce } from './announcement.ts'
import { fleetOf, integer, withExamples } from './command.ts'
import { dryRun } from './dry-run.ts'
import { CommandError, exitCodes, sameSignalMs, say, type CommandIo } from './io.ts'
import type { ConfigFlags } from './overrides.ts'
import { setUp } from './setup.ts'
import { defaultHost, defaultPort } from './target.ts'
import { logDestination } from './terminal-log.ts'
import { tuneV8 } from './v8.ts'
import { workerCount, workersOf } from './workers/count.ts'
import { superviseWorkers } from './workers/primary.ts'
import { ownWorker, type OwnWorker } from './workers/worker.ts'

/** As commander gives them; a flag that was not given is undefined. */
export interface ServeFlags extends ConfigFlags {
  fleet?: string
  /** Says what it would start with, and does not start. */
  dryRun?: boolean
  json?: boolean
}

/** Connections have so long to close after a drain, and what is kept to be written. */
const goodbyeMs = 10_000

/** What is said of the fleet at the start waits this long for the first probes. */
const firstProbesMs = 1_000

export function serveCommand (io: CommandIo): Command {
  const command = new Command('serve')
    .option('--port <port>', `port to listen on (FLEET_PORT; ${defaultPort})`, integer(...boundsOf('server', 'port')))
    .option('--host <address>', `address to listen on (FLEET_HOST; ${defaultHost})`)
    .option('--secret <token>', 'the shared secret; better in FLEET_SECRET or FLEET_SECRET_FILE, where other users of the machine can\'t see it')
    .option('--no-auth', 'ask for no token')
    .option('--rate-limit <n>', 'requests a minute per client', integer(...boundsOf('rateLimit', 'perMinute')))
    .option('--no-rate-limit', 'do not limit requests')
    .option('--no-cors', 'leave cross-origin requests to the agents')
    .option('--fleet, --fleet-yaml <file>', 'the fleet\'s file (fleet.yaml)')
    .option('--workers <n>', 'so many processes on the same port, "auto" for one for each processor; they share a Redis (FLEET_WORKERS; 1)', workerCount)
    .option('--dry-run', 'print the configuration that it would run with, and who said each value; listen to nothing, write nothing')
    .option('--json', 'with --dry-run: print JSON, for programs')
    .action(async (flags: ServeFlags) => {
      if (flags.json === true && flags.dryRun !== true) throw new CommandError('--json is for --dry-run', exitCodes.wrongUsage)
      if (flags.auth === false && flags.secret !== undefined) throw new CommandError('--secret and --no-auth contradict each other', exitCodes.wrongUsage)
      if (flags.dryRun === true) return await dryRun(fleetOf(flags), io)
      io.exit(await serve(fleetOf(flags), io))
    })
  return withExamples(command, [
    ['fleet-gateway serve'],
    ['FLEET_SECRET=… fleet-gateway serve --port 9001 --fleet fleet.yaml'],
    ['fleet-gateway serve --no-auth', 'on a laptop, loopback only'],
    ['fleet-gateway serve --workers auto', 'all processors of a machine; needs redis.url'],
    ['fleet-gateway serve --dry-run', 'what it would run with, and from where']
  ])
}

/** What a whole number in the configuration may be. */
function boundsOf (section: 'server' | 'rateLimit', key: string): [least: number, most: number] {
  const { minimum, maximum } = (FleetOptions.properties[section].properties as Record<string, { minimum?: number, maximum?: number }>)[key]!
  return [minimum!, maximum!]
}

/** Runs until a signal ends it; resolves with the exit code. @throws CommandError */
export async function serve (flags: ServeFlags, io: CommandIo): Promise<number> {
  const worker = ownWorker(io.env)
  const workers = workersOf(flags, io.env)
  if (worker === undefined && workers > 1) return await superviseWorkers(workers, io)
  return await serveHere(flags, io, worker)
}

/** In this process, whether it is the only one or a worker. */
async function serveHere (flags: ServeFlags, io: CommandIo, worker: OwnWorker | undefined): Promise<number> {
  const signals = watchSignals(io, worker)
  try {
    const running = runGateway(flags, io, signals, worker)
    const code = await Promise.race([running, signals.endedEarly])
    if (signals.ending) {
      await Promise.race([running.catch(() => {}), sleep(sameSignalMs)])
      signals.leave() // something that hangs in the system, as a pipe that nobody writes to, may keep the process: the next signal ends it
    }
    return code
  } catch (error) {
    worker?.leave()
    if (error instanceof ConfigError || error instanceof FolderInUseError) throw new CommandError(error.message)
    throw error
  }
}

async function runGateway (flags: ServeFlags, io: CommandIo, signals: Signals, worker: OwnWorker | undefined): Promise<number> {
  const { file, overrides, config, secret, stateDir } = await setUp(flags, io)
  if (signals.ending) return exitCodes.good
  const log = pino({ level: 'warn', ...(worker && { mixin: () => ({ worker: worker.worker }) }) }, logDestination(io))
  const gateway = await createGateway({ ...overrides, ...(secret?.isOwn && secret.secret !== undefined && { fallbackSecret: secret.secret }), file, env: io.env, onStreamed: tuneV8(), ...(worker && { workers: worker }) }, { loggerInstance: log })
  if (signals.ending) {
    await gateway.close()
    return exitCodes.good
  }
  await listen(gateway, config)
  const ended = untilSignal(gateway, config, signals, io, worker)
  try {
    await secret?.keep()
  } catch (error) {
    await gateway.close()
    throw error
  }
  worker?.send({ kind: 'started', endsWithinMs: config.server.drainDelay + config.server.drainTimeout + goodbyeMs })
  log.level = 'info' // from now on also that an instance is back; where it listens is said below
  if (gateway.drain.draining || worker?.isSpeaker === false || worker?.isAgain === true) return await ended // somebody has changed their mind, or it was said
  say(io, `Fleet Gateway on ${gateway.listeningOrigin}`)
  const canKeep = await isWritable(stateDir)
  await Promise.race([gateway.health.firstRound(), sleep(firstProbesMs, undefined, { ref: false }), ended])
  if (gateway.drain.draining) return await ended
  announce({ gateway, config, secret, file: existsSync(file) ? file : null, wanted: file, stateDir, canKeep, workers: workersOf(flags, io.env) }, io)
  return await ended
}

/** What the machine refuses is a line with its cure. */
async function listen (gateway: FastifyInstance, { server }: FleetConfig): Promise<void> {
  try {
    await gateway.listen({ host: server.host, port: server.port, listenTextResolver: address => `listening on ${address}` })
  } catch (error) {
    await gateway.close()
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EADDRINUSE') throw new CommandError(`Port ${server.port} on ${server.host} is in use; choose another with --port, or end what uses it`)
    if (code === 'EACCES') throw new CommandError(`Port ${server.port} needs more rights; choose one above 1023 with --port`)
    if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') throw new CommandError(`${server.host} is not an address of this machine; choose another with --host`)
    throw new CommandError(`The gateway can't listen on ${server.host}:${server.port}: ${message}`)
  }
}

/** Whether something can be kept in the folder, or it can be made. */
async function isWritable (folder: string): Promise<boolean> {
  try {
    await access(folder, constants.W_OK)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && isWritable(dirname(folder))
  }
}

/** Signals from the very beginning on: as the first process of a container, this one is ended by none that it does not listen to. */
interface Signals {
  /** Resolves with the exit code when one ends it while nobody takes them yet: nothing has begun, so there is nothing to finish. */
  readonly endedEarly: Promise<number>
  readonly ending: boolean
  /** From now on; what was asked for before, such as a reload, is made up for. */
  take (listener: (signal: NodeJS.Signals) => void): void
  /** Leaves them to the system. */
  leave (): void
}

function watchSignals (io: CommandIo, worker: OwnWorker | undefined): Signals {
  const early: NodeJS.Signals[] = []
  let ending = false
  let listener: (signal: NodeJS.Signals) => void
  const endedEarly = new Promise<number>(resolve => {
    listener = signal => {
      early.push(signal)
      if (isRequest(signal) || ending) return
      ending = true
      if (worker?.isSpeaker !== false) say(io, `${signal}: ended before it listened`)
      resolve(exitCodes.good)
    }
  })
  const leave = io.onSignal(signal => listener(signal), ['SIGUSR2'])
  return {
    leave,
    endedEarly,
    get ending () { return ending },
    take (next) {
      listener = next
      for (const signal of early.splice(0)) next(signal)
    }
  }
}

/** It asks for something, and not to end. */
function isRequest (signal: NodeJS.Signals): boolean {
  return signal === 'SIGHUP' || signal === 'SIGUSR2'
}

/** Drains on the first signal, ends at once on a later one, reloads on SIGHUP, opens the audit log again on SIGUSR2. */
function untilSignal (gateway: FastifyInstance, { server }: FleetConfig, signals: Signals, io: CommandIo, worker: OwnWorker | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    let firstAt: number | null = null
    signals.take(signal => {
      if (signal === 'SIGHUP') {
        void gateway.discovery.reload()
        void gateway.certificate?.reload()
        return
      }
      if (signal === 'SIGUSR2') return gateway.auditLog.reopen()
      const now = performance.now()
      if (firstAt !== null) {
        if (now - firstAt <= sameSignalMs) return
        gateway.auditLog.flush()
        return io.exit(signal === 'SIGINT' ? 130 : 143)
      }
      firstAt = now
      if (worker?.isSpeaker !== false) say(io, `${signal}: no new connections; what is in flight has ${server.drainTimeout / 1_000} s to finish${signal === 'SIGINT' ? '; Ctrl-C again ends it at once' : ''}`)
      gateway.drain.begin({ delayMs: server.drainDelay, timeoutMs: server.drainTimeout })
        .then(() => gateway.close())
        .then(() => resolve(0), reject)
    })
  })
}
