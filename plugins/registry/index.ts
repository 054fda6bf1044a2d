/**
 * `fastify.registry`: which instances serve which agent. Keeps what was registered over a restart; the rules are in src/fleet/registry.ts.
 */
import { isDeepStrictEqual } from 'node:util'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../peers/index.ts'
import type {} from '../redis/index.ts'
import type {} from '../upstream/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { NotKeptError } from '../../src/errors.ts'
import { registrationHostProblem } from '../../src/fleet/address.ts'
import { Registry, type RegistryLimits, type RegistryState } from '../../src/fleet/registry.ts'
import { parseOptions } from '../../src/options.ts'
import { RegistryOptions } from './options.ts'
import { ownRegistrations, type Registrations } from './registrations.ts'
import { shareRegistrations } from './shared.ts'
import { createStateFile, createStateReader } from './state-file.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Which instances serve which agent. Discovery and the API write who, health writes how well; the resolver reads both. */
    registry: Registry
    /** What changes who is registered, and keeps that. */
    registrations: Registrations
    /** Keeps what was registered. */
    registryState: RegistryStateKeeper
    /** What registrations are held to. */
    registryRules: RegistryRules
  }
}

export interface RegistryStateKeeper {
  /** Resolves when the registry's present state is on disk; at once when nothing is kept. @throws {NotKeptError} when it can't be written */
  save (): Promise<void>
}

export interface RegistryRules {
  /** Hosts that registrations may name; undefined for all that are not refused anyway. */
  readonly allowedHosts: readonly string[] | undefined
  /**
   * Takes other rules at once. Registered instances that would be refused now leave, as at a restart; `stateDir` is the start's.
   * @throws OptionsError
   */
  reconfigure (options: Partial<RegistryOptions>): void
}

/** Data of `registry` in fleet.yaml, and seams. Without `stateDir` nothing is kept over a restart. */
export interface RegistryPluginOptions extends Partial<RegistryOptions> {
  clock?: Clock
  /** Another process keeps the state in the folder, and this one only reads it at its start. @default false */
  isKeptByOther?: boolean
}

/** Of one agent; and of all agents on average, so that a fleet of many agents with many instances each does not fill the memory. */
const maxInstancesPerAgent = 1_000
const meanInstancesPerAgent = 10

function limitsFor (maxAgents: number): RegistryLimits {
  return { maxAgents, maxInstancesPerAgent, maxInstances: Math.max(maxInstancesPerAgent, maxAgents * meanInstancesPerAgent) }
}

/** Leases are looked at this often; a lapse is seen at most this late. */
const sweepMs = 250

/** After a write that failed, the file is behind until one succeeds; it is tried so often without anybody asking for it. */
const retryMs = 5_000

/** What came from other gateways is written together. */
const sharedWriteMs = 1_000

const registryPlugin: FastifyPluginAsync<RegistryPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, isKeptByOther = false, ...data } = opts
  const parse = (options: Partial<RegistryOptions>) => parseOptions(RegistryOptions, options, 'registry', ['clock', 'isKeptByOther'])
  const { maxAgents, stateDir, ...rules } = parse(data)
  let { allowedHosts } = rules
  const registry = new Registry(clock, limitsFor(maxAgents))
  const stateFile = stateDir === undefined ? null : isKeptByOther ? createStateReader(stateDir, fastify.log) : createStateFile(stateDir, fastify.log)

  const isShared = fastify.hasDecorator('redis') && fastify.redis.enabled
  const saved = await stateFile?.load({ ...(allowedHosts && { allowedHosts }) })
  if (saved) {
    const { skipped } = registry.importState(isShared ? saved.state : withoutDrained(saved.state))
    for (const reason of [...saved.skipped, ...skipped]) fastify.log.warn(`Left out of the kept registrations: ${reason}`)
  }

  /** When the file is tried again; null while it says what the registry does. */
  let retryAt: number | null = null

  /** Registrations that other gateways have as well; null for those of this one. */
  const shared = isShared
    ? shareRegistrations({
      redis: fastify.redis,
      registry,
      clock,
      log: fastify.log,
      known: saved?.state.shared ?? null,
      hostRules: () => ({ ...(allowedHosts && { allowedHosts }) }),
      ...(fastify.hasDecorator('peers') && fastify.peers.hasWorkers && { peers: fastify.peers }),
      onApplied (name) {
        changedAt ??= clock.now()
        if (fastify.hasDecorator('upstream')) fastify.upstream.reconsider(name)
      }
    })
    : null
  /** When the file fell behind what is shared; null while it is not. It is for a start without Redis, so nobody waits for it. */
  let changedAt: number | null = null

  async function write (): Promise<void> {
    try {
      await stateFile?.save((): RegistryState => {
        const { version, agents } = registry.exportState()
        return { version, ...(shared?.known && { shared: shared.known }), agents }
      })
    } catch (error) {
      retryAt = clock.now() + retryMs
      throw error
    }
    if (retryAt === null) return
    retryAt = null
    fastify.log.info('The registry is kept again')
  }

  const keeper: RegistryStateKeeper = {
    async save () {
      try {
        await write()
      } catch (error) {
        fastify.log.error(error, 'The registry could not be kept')
        const message = 'The registry can not be written to disk just now; the gateway\'s log says why'
        throw new NotKeptError(message, { headers: { 'retry-after': '10' } }, { cause: error })
      }
    }
  }
  let wereKept = false
  /** Says once that lapsed instances are kept, and once that none is any more. */
  function tellOfLapses (): void {
    const { leased, lapsed } = registry.leaseCount
    const areKept = lapsed > 0
    if (areKept === wereKept) return
    wereKept = areKept
    if (areKept) fastify.log.warn({ leased, lapsed }, 'Too many leases ran out at once: their instances are kept for the time being')
    else fastify.log.warn({ leased }, 'Leases count again: no instance is kept without one any more')
  }

  const stopSweep = clock.every(sweepMs, () => {
    if (shared !== null) void shared.sweep()
    if (changedAt !== null && changedAt + sharedWriteMs <= clock.now()) {
      changedAt = null
      keeper.save().catch(() => {}) // it is in the log
    }
    if (shared === null && registry.expire()) {
      keeper.save().catch(() => {}) // it is in the log
    } else if (retryAt !== null && retryAt <= clock.now()) {
      retryAt = clock.now() + retryMs
      write().catch(() => {}) // that it failed is in the log already
    }
    tellOfLapses()
  })

  /** What a registration could not bring in any more must not stay because it came earlier. */
  function dropRefused (): void {
    let dropped = 0
    for (const { name, instances } of [...registry.agents()]) {
      for (const { id, host, source } of instances) {
        const problem = source !== 'api' ? undefined : registrationHostProblem(host, { ...(allowedHosts && { allowedHosts }) })
        if (problem === undefined) continue
        registry.removeInstance(name, id)
        fastify.log.warn(`An instance of "${name}" that was registered is gone: its host ${host} ${problem}`)
        dropped++
      }
    }
    if (dropped > 0) keeper.save().catch(() => {}) // it is in the log
  }

  fastify.decorate('registry', registry)
  fastify.decorate('registrations', shared ?? ownRegistrations(registry, () => keeper.save()))
  fastify.decorate('registryState', keeper)
  fastify.decorate('registryRules', {
    get allowedHosts () { return allowedHosts },
    reconfigure (options) {
      const next = parse(options)
      registry.limit(limitsFor(next.maxAgents))
      if (isDeepStrictEqual(next.allowedHosts, allowedHosts)) return
      allowedHosts = next.allowedHosts
      dropRefused()
      shared?.reread()
    }
  })
  if (shared !== null) {
    registry.isWhole = () => shared.hasBeenRead
    fastify.addHook('onReady', () => shared.begin())
  }
  fastify.addHook('onClose', async () => {
    stopSweep()
    await shared?.close()
    if (changedAt !== null) await write().catch(() => {}) // it is in the log of earlier tries
    await stateFile?.close()
  })
}

/** What drained at a gateway of its own has no request under way any more when that has ended. */
function withoutDrained ({ agents, ...state }: RegistryState): RegistryState {
  return { ...state, agents: agents.map(agent => ({ ...agent, instances: agent.instances.filter(({ draining }) => draining !== true) })) }
}

export { RegistryOptions, type Registrations }
export default fp(registryPlugin, { name: 'fleet-registry', fastify: '5.x' })
