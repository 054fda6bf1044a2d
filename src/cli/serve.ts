/**
 * `fleet-gateway serve`: finds configuration and secret, starts the gateway, says what matters, and ends it in order on a signal.
 */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { ConfigError, mergeConfig, parseConfig, readConfigFile, type FleetConfig, type FleetConfigInput } from '../config.ts'
import { createGateway } from '../gateway.ts'
import { OptionsError } from '../options.ts'
import { createCollector } from './collector.ts'
import { CommandError, type CommandIo } from './io.ts'
import { findSecret, type FoundSecret } from './secret.ts'

/** As commander gives them; a flag that was not given is undefined. */
export interface ServeFlags {
  port?: number
  host?: string
  secret?: string
  /** false for --no-auth */
  auth?: boolean
  /** Requests a minute; false for --no-rate-limit. */
  rateLimit?: number | boolean
  /** false for --no-cors */
  cors?: boolean
  fleet?: string
}

const defaultFile = 'fleet.yaml'

/** Names of agents in a line for people. */
const mostNames = 8

/** A Ctrl-C reaches the process twice, by the terminal and by npm; only a later signal means impatience. */
const sameSignalMs = 500

/** Runs until a signal ends it; resolves with the exit code. @throws CommandError */
export async function serve (flags: ServeFlags, io: CommandIo): Promise<number> {
  const file = flags.fleet ?? defaultFile
  try {
    const { value, ...source } = await readConfigFile(file, io.env)
    const overrides = overridesOf(flags, io.env, value)
    const merged = mergeConfig(value, overrides)
    const stateDir = stateDirOf(merged, file)
    if (flags.secret !== undefined && merged.auth?.enabled === false) throw new CommandError(`--secret is given, but ${file} has auth.enabled: false`)
    const secret = merged.auth?.enabled === false ? null : await findSecret(flags.secret, io.env, merged.auth, stateDir)
    if (secret?.secret !== undefined) overrides.auth = { ...overrides.auth, secret: secret.secret }

    const config = parseConfig(mergeConfig(value, overrides), source)
    const gateway = await createGateway({ ...overrides, file, env: io.env, onStreamed: createCollector() }, { loggerInstance: pino({ level: 'warn' }, pino.destination(2)) })
    await listen(gateway, config)
    gateway.discovery.onReload(() => io.say(`${file} was applied; the fleet now: ${fleetOf(gateway)}`))
    announce(gateway, config, secret, file, io)
    return await untilSignal(gateway, config, io)
  } catch (error) {
    if (error instanceof ConfigError || error instanceof OptionsError) throw new CommandError(error.message)
    throw error
  }
}

/** Flags come before the environment, and both before the file. */
function overridesOf (flags: ServeFlags, env: CommandIo['env'], file: FleetConfigInput): FleetConfigInput {
  const port = flags.port ?? portOf(env['FLEET_PORT'])
  const host = flags.host ?? (env['FLEET_HOST'] || undefined)
  const server = { ...(port !== undefined && { port }), ...(host !== undefined && { host }) }
  const perMinute = typeof flags.rateLimit === 'number' ? flags.rateLimit : undefined
  return {
    ...(Object.keys(server).length > 0 && { server }),
    ...(flags.auth === false && { auth: { enabled: false } }),
    ...(flags.cors === false && { cors: { enabled: false } }),
    ...(flags.rateLimit === false && { rateLimit: { enabled: false } }),
    ...(perMinute !== undefined && { rateLimit: { enabled: true, perMinute, ...(file.rateLimit?.burst === undefined && { burst: Math.min(perMinute, 100) }) } })
  }
}

function portOf (text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined
  const port = Number(text)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new CommandError(`FLEET_PORT must be a port from 0 to 65535 (got "${text}")`)
  return port
}

function stateDirOf (input: FleetConfigInput, file: string): string {
  return input.registry?.stateDir ?? join(dirname(file), '.fleet')
}

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

function announce (gateway: FastifyInstance, config: FleetConfig, secret: FoundSecret | null, file: string, io: CommandIo): void {
  const url = gateway.listeningOrigin
  io.say(`Fleet Gateway on ${url}`)
  io.say(`  agents  ${fleetOf(gateway)}${existsSync(file) ? ` (${file})` : `; there is no ${file}, so only what is registered until there is`}`)
  if (secret === null) {
    io.say('  auth    OFF: anybody who reaches this port can use and change the fleet')
  } else {
    io.say(`  auth    secret from ${secret.from}`)
    // Off a terminal this is a log, where no secret belongs; its file has it.
    if (secret.isNew) io.say(io.isTerminal ? `          it was made now; use it as  Authorization: Bearer ${secret.secret}` : '          it was made now and is kept there')
  }
  const { enabled, perMinute, burst } = config.rateLimit
  io.say(`  limits  ${enabled ? `${perMinute} requests a minute per client, ${burst} at once` : 'off'}`)
  io.say(`  try     curl ${url}/health`)
}

/** `encoder, git and 3 more, 7 instances` */
function fleetOf ({ registry }: FastifyInstance): string {
  const agents = [...registry.agents()]
  const instances = agents.reduce((sum, agent) => sum + agent.instances.length, 0)
  if (agents.length === 0) return 'none yet'
  const shown = agents.slice(0, mostNames).map(({ name }) => name).join(', ')
  const more = agents.length > mostNames ? ` and ${agents.length - mostNames} more` : ''
  return `${shown}${more}, ${instances} instance${instances === 1 ? '' : 's'}`
}

/** Drains on the first signal, ends at once on a later one, reloads on SIGHUP. */
function untilSignal (gateway: FastifyInstance, { server }: FleetConfig, io: CommandIo): Promise<number> {
  return new Promise((resolve, reject) => {
    let firstAt: number | null = null
    io.onSignal(signal => {
      if (signal === 'SIGHUP') {
        void gateway.discovery.reload()
        return
      }
      const now = performance.now()
      if (firstAt !== null) {
        if (now - firstAt <= sameSignalMs) return
        gateway.auditLog.flush()
        return io.exit(signal === 'SIGINT' ? 130 : 143)
      }
      firstAt = now
      io.say(`${signal}: no new connections; what is in flight has ${server.drainTimeout / 1_000} s to finish`)
      gateway.drain.begin({ delayMs: server.drainDelay, timeoutMs: server.drainTimeout })
        .then(() => gateway.close())
        .then(() => resolve(0), reject)
    })
  })
}
