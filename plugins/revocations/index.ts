/**
 * `fastify.revocations`: tokens of keys that open nothing any more, whatever fleet.yaml says. Keeps them in the state folder and, where several gateways
 * share a Redis, there; so that what one is told all refuse. Who asks for it, and refuses, is auth.
 */
import { join } from 'node:path'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../peers/index.ts'
import type {} from '../redis/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { NotKeptError, type FleetError } from '../../src/errors.ts'
import { createKeptFile } from '../../src/kept-file.ts'
import { keptForm, readKept } from './kept-tokens.ts'
import { RevokedTokens, type Revocation } from './revoked-tokens.ts'
import { shareTokens } from './shared.ts'

export interface Revocations {
  /** Whether other gateways are told. */
  readonly areShared: boolean
  /** What is known of a token that is revoked, by its SHA-256 in hexadecimal; undefined for one that is not. */
  find (digest: string): Revocation | undefined
  /**
   * Revokes tokens of a key: here in this tick, and for good. Resolves when that is kept and the other gateways have been told.
   * @throws NotKeptError when one of the two can't be done now; it is then done as soon as it can be
   */
  revoke (id: string, digests: readonly string[]): Promise<void>
  /** Calls `listener` in the tick in which something was revoked, here or elsewhere; the returned function ends that. */
  onRevoked (listener: () => void): () => void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Tokens that open nothing any more. */
    revocations: Revocations
  }
}

export interface RevocationsPluginOptions {
  /** Folder for what is kept over a restart. It is one gateway's alone, which `registry` with the same folder sees to. @default nothing is kept */
  stateDir?: string
  clock?: Clock
}

/** So often it is looked whether something was not heard of, and tried again what could not be written. */
const checkMs = 2_000

const revocationsPlugin: FastifyPluginAsync<RevocationsPluginOptions> = async (fastify, { stateDir, clock = systemClock }) => {
  const { log } = fastify
  const tokens = new RevokedTokens()
  const file = stateDir === undefined
    ? null
    : createKeptFile(join(stateDir, 'revoked.json'), { log, what: 'Revoked keys', without: 'the gateway starts without the keys that were revoked' })
  const { revocations = [], skipped = [] } = await file?.load(readKept) ?? {}
  tokens.add(revocations)
  for (const place of skipped) log.warn(`Left out of the kept revoked keys: ${place}`)

  /** Whether the file lacks something. */
  let isBehind = false

  async function keep (): Promise<void> {
    try {
      await file?.save(() => keptForm(tokens))
    } catch (error) {
      if (!isBehind) log.error(error, 'The revoked keys could not be kept')
      isBehind = true
      throw error
    }
    if (isBehind) log.info('The revoked keys are kept again')
    isBehind = false
  }

  const keepInTime = () => { keep().catch(() => {}) } // it is in the log

  tokens.onAdded(added => log.info({ keys: [...new Set(added.map(({ id }) => id))] }, 'Keys are revoked')) // first, so that it stands before what it brings about

  const shared = fastify.hasDecorator('redis') && fastify.redis.enabled
    ? shareTokens({
      redis: fastify.redis,
      tokens,
      clock,
      log,
      learn (revocations) {
        const before = tokens.size
        tokens.add(revocations)
        if (tokens.size > before) keepInTime()
      }
    })
    : null

  // Each worker writes all that it knows into the same file, so each has to know it.
  if (fastify.hasDecorator('peers')) {
    fastify.peers.answer('revocations', detail => {
      const before = tokens.size
      tokens.add(detail as Revocation[])
      if (tokens.size > before) keepInTime() // what this one is writing may lack it, and be written last
      return [...tokens]
    })
    // What was revoked since the file was read.
    if (fastify.peers.hasWorkers) fastify.addHook('onReady', () => askWorkers([]))
  }

  /** Tells the other workers, and hears what they know. */
  async function askWorkers (revoked: readonly Revocation[]): Promise<void> {
    if (!fastify.hasDecorator('peers') || !fastify.peers.hasWorkers) return
    const { answers } = await fastify.peers.ask('workers', 'revocations', revoked)
    tokens.add(answers.flatMap(({ value }) => (value ?? []) as Revocation[]))
  }

  const stopChecking = clock.every(checkMs, () => {
    if (isBehind) keepInTime()
    void shared?.check()
  })

  fastify.decorate('revocations', {
    areShared: shared !== null,
    find: digest => tokens.find(digest),
    async revoke (id, digests) {
      const revoked = digests.map(digest => tokens.find(digest) ?? { digest, id, at: clock.now() })
      tokens.add(revoked)
      const [kept, told] = await Promise.allSettled([askWorkers(revoked).then(keep), shared?.tell(revoked)])
      if (kept.status === 'rejected' || told.status === 'rejected') throw notKept(id, kept, told)
    },
    onRevoked: listener => tokens.onAdded(listener)
  })
  if (shared !== null) fastify.addHook('onReady', () => shared.begin())
  fastify.addHook('onClose', async () => {
    stopChecking()
    await shared?.close()
    await file?.idle()
  })
}

/** What came of it, and what is still to come. */
function notKept (id: string, kept: PromiseSettledResult<void>, told: PromiseSettledResult<void>): FleetError {
  const open: string[] = []
  if (told.status === 'rejected') open.push('the other gateways could not be told yet, and will be as soon as Redis answers')
  if (kept.status === 'rejected') open.push('it can not be written to disk just now, and until it is this gateway may forget it by a restart; the log says why')
  const { reason: cause } = [kept, told].find(result => result.status === 'rejected')! as PromiseRejectedResult
  return new NotKeptError(`The key "${id}" is refused here from now on; ${open.join('; ')}`, { headers: { 'retry-after': kept.status === 'rejected' ? '10' : '1' } }, { cause })
}

export type { Revocation } from './revoked-tokens.ts'
export default fp(revocationsPlugin, { name: 'fleet-revocations', fastify: '5.x' })
