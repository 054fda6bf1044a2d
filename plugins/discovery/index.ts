/**
 * `fastify.discovery`: keeps the registry equal to fleet.yaml, which it watches, and to agents given in code. A change is applied in one
 * step or not at all; what the registration API adds is merged by the registry.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../registry/index.ts'
import { toAgentDefinitions, type FileAgentInput } from '../../src/agent-options.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { ConfigError } from '../../src/config-file.ts'
import { isFleetError } from '../../src/errors.ts'
import { watchStat } from '../../src/file-watch.ts'
import type { AgentDefinition } from '../../src/fleet/registry.ts'
import { parseOptions } from '../../src/options.ts'
import type { Environment } from '../../src/yaml.ts'
import { loadAgents, parseAgents } from './agents-file.ts'
import { agentChanges } from './changes.ts'
import { contentHash, emptyHash, settledHash } from './file-watch.ts'
import { DiscoveryOptions } from './options.ts'
import { takenOut, type TakenOut } from './taken-out.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Keeps the registry equal to fleet.yaml. */
    discovery: Discovery
  }
}

/** What one reading of the configuration gave. */
export interface Loaded {
  readonly agents: readonly AgentDefinition[]
  /** Whatever else the reader read; handed on to the listeners. */
  readonly config?: unknown
}

export interface DiscoveryStatus {
  /** When the running configuration was loaded, ISO 8601. */
  readonly loadedAt: string
  /** Whether the running configuration is what the file says. */
  readonly ok: boolean
  /** What is wrong with the file, a line for each problem. */
  readonly error?: string
}

export type ReloadListener = (loaded: Loaded) => void

export interface Discovery {
  readonly status: DiscoveryStatus
  /** What the running fleet was loaded from. */
  readonly loaded: Loaded
  /** What of that is not in the registry now, since somebody took it out. */
  takenOut (): TakenOut[]
  /** Reads again now, whether or not the file changed; resolves when that is done, with whether it was good. Never rejects. */
  reload (): Promise<boolean>
  /** Calls `listener` after each good reload, in the step in which the registry changed; the returned function ends that. */
  onReload (listener: ReloadListener): () => void
}

/** Data, and seams. Without any of it the fleet is empty but for registrations. */
export interface DiscoveryPluginOptions {
  /** Agents that are always there, in the form of fleet.yaml. */
  agents?: FileAgentInput[]
  /** A fleet.yaml to load and to watch. A file that does not exist is an empty fleet. */
  file?: string
  /** How often the file is looked at. @default 250 */
  intervalMs?: number
  /** Reads the configuration, with a ConfigError for a bad one. @default reads the key `agents` of the file */
  load?: () => Promise<Loaded>
  /** What a reload changed beside agents, for the log: parts of its line, without secrets. */
  changesOf?: (before: Loaded, after: Loaded) => readonly string[]
  /** For `${NAME}` in the file. @default none */
  env?: Environment
  clock?: Clock
}

/** Names of the seams. */
const seams = ['load', 'changesOf', 'env', 'clock']

const discoveryPlugin: FastifyPluginAsync<DiscoveryPluginOptions> = async (fastify, opts) => {
  const { load: givenLoad, changesOf = () => [], env = {}, clock = systemClock, ...data } = opts
  const { file, intervalMs } = parseOptions(DiscoveryOptions, data, 'discovery', seams)
  const fixed = toAgentDefinitions(parseAgents(data.agents ?? []))
  const read = givenLoad ?? (async () => ({ agents: file === undefined ? [] : await loadAgents(file, env) }))
  const { registry, log } = fastify
  const listeners = new Set<ReloadListener>()
  let closed = false
  let queued = false
  let running: Promise<unknown> = Promise.resolve()

  let unwatch: (() => void) | null = null

  // Watching begins before reading, so that no change is missed; what it finds waits for its turn.
  let { next: loaded, found: hash } = await inTurn(loadFirst).catch((error: unknown) => {
    stop()
    throw error
  })
  let status: DiscoveryStatus = { loadedAt: now(), ok: true }
  fastify.addHook('onClose', async () => {
    stop()
    await running
  })

  function stop (): void {
    closed = true
    unwatch?.()
  }

  async function loadFirst () {
    if (file !== undefined) unwatch = await watchStat(file, intervalMs, check)
    const found = file === undefined ? null : await contentHash(file)
    const next = withFixed(await read())
    replaceAgents(next)
    return { next, found }
  }

  function now (): string {
    return new Date(clock.now()).toISOString()
  }

  /** The file is right against what was registered, which must never be a reason not to start or not to reload. */
  function replaceAgents ({ agents }: Loaded): void {
    for (const loss of registry.replaceFile(agents).dropped) log.warn(`The file claims a name that was registered: ${loss}`)
    if (fastify.hasDecorator('registrations')) fastify.registrations.reread()
  }

  function withFixed ({ agents, ...others }: Loaded): Loaded {
    const twice = fixed.find(({ name }) => agents.some(agent => agent.name === name))
    if (twice !== undefined) throw new ConfigError([{ file: file ?? '', path: 'agents', message: `the agent "${twice.name}" is given in code, too` }])
    return { agents: [...fixed, ...agents], ...others }
  }

  /** One at a time, in order; a caller's reload begins after it was called. */
  function inTurn<T> (task: () => Promise<T>): Promise<T> {
    const turn = running.then(task)
    running = turn.catch(() => {})
    return turn
  }

  /** The file looks changed. */
  function check (): void {
    if (queued || closed) return
    queued = true
    inTurn(async () => {
      queued = false
      await refresh(settledHash, false)
    }).catch((error: unknown) => log.error(error, 'Looking at the fleet failed'))
  }

  async function refresh (hashOf: (file: string) => Promise<string | null>, forced: boolean): Promise<boolean> {
    if (closed) return false
    try {
      for (;;) {
        const found = file === undefined ? null : await hashOf(file)
        if (found === null && hash !== null) throw new ConfigError([{ file: file!, path: '', message: 'is gone; the running fleet stays' }])
        // Half of a write, or of an accident: a disk that was full, `>` in the wrong place. Who means it says so.
        if (found === emptyHash && hash !== null && hash !== emptyHash && !forced) throw new ConfigError([{ file: file!, path: '', message: 'is empty; the running fleet stays. Write "agents: []", or send SIGHUP, if that is meant' }])
        if (found === hash && !forced) {
          if (!status.ok) recovered()
          return true
        }
        const next = withFixed(await read())
        if (closed) return false
        // What was read must be what was hashed: a file that vanished in between would read as an empty fleet.
        if (file !== undefined && await contentHash(file) !== found) continue
        apply(next, found, forced)
        return true
      }
    } catch (error) {
      failed(error)
      return false
    }
  }

  /** The registry and all who listen change in one step: nothing is awaited here. */
  function apply (next: Loaded, found: string | null, forced: boolean): void {
    const ofAgents = agentChanges(loaded.agents, next.agents)
    const changes = [...ofAgents, ...changesOf(loaded, next)]
    // The same content again brings nothing back that a DELETE took out.
    if (found !== hash || ofAgents.length > 0) replaceAgents(next)
    loaded = next
    hash = found
    status = { loadedAt: now(), ok: true }
    for (const listener of listeners) tell(listener, next)
    const what = file === undefined ? 'reloaded' : `reloaded ${file}`
    if (changes.length > 0) log.info(`${what}: ${changes.join(', ')}`)
    else if (forced) log.info(`${what}: it says the same; what it names was read again`) // whoever asked for it hears that it was done
    else log.debug(`${what}: nothing changed`)
  }

  function tell (listener: ReloadListener, next: Loaded): void {
    try {
      listener(next)
    } catch (error) {
      log.error(error, 'A part of the gateway could not take the reloaded configuration')
      status = { ...status, ok: false, error: `a part of the gateway could not take it: ${(error as Error).message}` }
    }
  }

  function recovered (): void {
    status = { loadedAt: status.loadedAt, ok: true }
    log.info('The file is again what the running fleet was loaded from')
  }

  function failed (error: unknown): void {
    const text = problemText(error)
    status = { loadedAt: status.loadedAt, ok: false, error: text }
    if (!(error instanceof ConfigError) && !isFleetError(error)) log.error(error, 'The fleet could not be reloaded')
    else for (const line of text.split('\n')) log.error(line)
    log.warn('The fleet was not reloaded; what was running goes on')
  }

  function problemText (error: unknown): string {
    if (error instanceof ConfigError || !isFleetError(error)) return (error as Error).message
    return file === undefined ? error.message : `${file} ${error.message}`
  }

  fastify.decorate('discovery', {
    get status () { return status },
    get loaded () { return loaded },
    takenOut: () => takenOut(loaded.agents, name => registry.find(name)),
    reload: () => inTurn(() => refresh(settledHash, true)), // a SIGHUP may come in the middle of a write
    onReload (listener: ReloadListener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    }
  })
}

export { DiscoveryOptions }
export default fp(discoveryPlugin, { name: 'fleet-discovery', fastify: '5.x', decorators: { fastify: ['registry'] } })
