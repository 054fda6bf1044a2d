/**
 * The audit log: one line per finished exchange, aborted ones included, written in batches. What a line says is in line.ts.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type {} from '../facts/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { openDestination, type AuditDestination } from './destination.ts'
import { createLineWriter } from './line.ts'
import { AuditLogOptions } from './options.ts'

export interface AuditLog {
  /** Writes the lines that wait for their batch, before it returns. For who ends the process without close(). */
  flush (): void
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The record of who asked what. */
    auditLog: AuditLog
  }
}

/** Data of `auditLog` in fleet.yaml, and seams. */
export interface AuditLogPluginOptions extends Partial<AuditLogOptions> {
  clock?: Clock
  /** @default `file`, or standard output */
  destination?: AuditDestination
}

/** A batch is written when it has so many lines, */
const maxBatchLines = 64
/** or when its first line is this old. */
const maxBatchMs = 100
/** Exchanges whose connections are cut off at the end are over a few turns of the event loop after the server has closed. */
const maxFinalTurns = 10

const auditLogPlugin: FastifyPluginAsync<AuditLogPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, destination: given, ...data } = opts
  const { enabled, file } = parseOptions(AuditLogOptions, data, 'auditLog')
  if (!enabled) {
    fastify.decorate('auditLog', { flush () {} })
    return
  }

  const report = createErrorReport(fastify.log)
  const destination = given ?? openOrRefuse(file, report)
  const lineOf = createLineWriter()
  let batch = ''
  let lines = 0
  let cancelTimer: (() => void) | null = null

  /** A destination that was given may throw; the request whose line is the last of a batch must not suffer for it. */
  function guarded (act: () => unknown): void {
    try {
      act()
    } catch (error) {
      report(error as Error)
    }
  }

  function writeBatch (): void {
    cancelTimer?.()
    cancelTimer = null
    if (lines === 0) return
    const text = batch
    batch = ''
    lines = 0
    guarded(() => destination.write(text))
  }

  function flush (): void {
    writeBatch()
    guarded(() => destination.flushSync?.())
  }

  const stopListening = fastify.facts.onFinished(facts => {
    batch += lineOf(facts)
    lines++
    if (lines >= maxBatchLines) writeBatch()
    else cancelTimer ??= clock.after(maxBatchMs, writeBatch)
  })

  fastify.decorate('auditLog', { flush })
  fastify.addHook('onClose', async () => {
    for (let turns = 0; turns < maxFinalTurns && fastify.facts.inFlight > 0; turns++) await nextTurn()
    stopListening()
    flush()
    await destination.end?.()
  })
}

function openOrRefuse (file: string | undefined, onError: (error: Error) => void): AuditDestination {
  try {
    return openDestination(file, onError)
  } catch (error) {
    throw new OptionsError('auditLog', [{ path: 'file', message: `can't be written: ${(error as Error).message}`, at: 'value' }])
  }
}

/** Tells of the first failure only: a full disk is not helped by a line in another log for each request. */
function createErrorReport (log: { error (error: Error, message: string): void }): (error: Error) => void {
  let told = false
  return error => {
    if (!told) log.error(error, 'The audit log can not be written; its lines are lost until it can')
    told = true
  }
}

export { AuditLogOptions }
export type { AuditDestination }
export default fp(auditLogPlugin, { name: 'fleet-audit-log', fastify: '5.x', decorators: { fastify: ['facts'] } })
