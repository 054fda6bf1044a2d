/**
 * The audit log: one line per finished exchange, aborted ones included, written in batches. What a line says is in line.ts. The last
 * exchanges are kept as well, lines or not.
 */
import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type { RequestFacts } from '../facts/index.ts'
import type {} from '../registry/index.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { OptionsError, parseOptions } from '../../src/options.ts'
import { openDestination, type AuditDestination, type OpenDestination } from './destination.ts'
import type { AuditEntry } from './entry.ts'
import { select, type AuditFilter } from './filter.ts'
import { createLineWriter } from './line.ts'
import type { LiveStreams } from './live.ts'
import { AuditLogOptions } from './options.ts'
import { RecentExchanges } from './recent.ts'
import { auditRoutes } from './routes.ts'

export interface AuditLog {
  /** Writes the lines that wait for their batch, before it returns. For who ends the process without close(). */
  flush (): void
  /**
   * Takes another file, or none, at once: what was written before is in the former one. The same file is opened again when it was rotated.
   * @throws OptionsError when it can't be written; then nothing changes
   */
  reconfigure (options: Partial<AuditLogOptions>): void
  /** As reconfigure(), in two steps: the file is opened here, and what is returned applies it. What is not applied is closed by the next call. */
  prepare (options: Partial<AuditLogOptions>): () => void
  /** Opens the file again, at once, for who moved the former one away; where that can't be, the log says so and lines go where they went. */
  reopen (): void
  /**
   * Of the last 1,000 exchanges that finished, those that the filter lets through; the newest last.
   * @throws BadRequestError naming what is wrong with the filter
   */
  recent (filter?: AuditFilter): AuditEntry[]
  /** Calls `listener` for each exchange that finishes, at once; it must not throw. The returned function ends that. */
  onEntry (listener: (entry: AuditEntry) => void): () => void
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
  /** Takes all lines, whatever `file` says. @default `file`, or standard output */
  destination?: AuditDestination
}

/** A batch is written when it has so many lines, */
const maxBatchLines = 64
/** or when its first line is this old. */
const maxBatchMs = 100

/** Where lines go just now. */
interface Output {
  readonly file: string | undefined
  readonly destination: AuditDestination
  readonly report: (error: Error) => void
}

const auditLogPlugin: FastifyPluginAsync<AuditLogPluginOptions> = async (fastify, opts) => {
  const { clock = systemClock, destination: given, ...data } = opts
  const lineOf = createLineWriter()
  const ring = new RecentExchanges()
  const entryListeners = new Set<(entry: AuditEntry) => void>()
  const ends = new Set<Promise<void>>()
  let output: Output | null = null
  /** Opened, and not in use yet. */
  let prepared: Output | null = null
  let stopListening = () => {}
  let givenWasUsed = false
  let batch = ''
  let lines = 0
  let cancelTimer: (() => void) | null = null

  /** A destination that was given may throw; the request whose line is the last of a batch must not suffer for it. */
  function guarded ({ report }: Output, act: () => unknown): void {
    try {
      act()
    } catch (error) {
      report(error as Error)
    }
  }

  function writeBatch (): void {
    cancelTimer?.()
    cancelTimer = null
    if (lines === 0 || output === null) return
    const { destination } = output
    const text = batch
    batch = ''
    lines = 0
    guarded(output, () => destination.write(text))
  }

  function flush (): void {
    writeBatch()
    if (output === null) return
    const { destination } = output
    guarded(output, () => destination.flushSync?.())
  }

  function record (facts: RequestFacts): void {
    batch += lineOf(facts)
    lines++
    if (lines >= maxBatchLines) writeBatch()
    else cancelTimer ??= clock.after(maxBatchMs, writeBatch)
  }

  function outputTo (file: string | undefined): Output {
    const report = createErrorReport(fastify.log)
    return { file, report, destination: given ?? openOrRefuse(file, report) }
  }

  /** A destination that was given is the giver's until the end. */
  function end ({ destination, report }: Output): void {
    if (destination === given) return
    const ending = Promise.resolve(destination.end?.()).catch(report).finally(() => ends.delete(ending))
    ends.add(ending)
  }

  function prepare (options: Partial<AuditLogOptions>): () => void {
    const { enabled, file } = parseOptions(AuditLogOptions, options, 'auditLog', seams)
    if (prepared !== null) end(prepared)
    prepared = null
    const stays = output !== null && output.file === file && (output.destination as OpenDestination).isElsewhere !== true
    const next = !enabled ? null : stays ? output : outputTo(file)
    if (next !== output) prepared = next
    return () => {
      prepared = null
      if (next !== output) turnTo(next)
    }
  }

  function turnTo (next: Output | null): void {
    const former = output
    if (former !== null) {
      writeBatch()
      stopListening()
      end(former)
    }
    output = next
    givenWasUsed ||= next !== null && given !== undefined
    if (next !== null) stopListening = fastify.facts.onFinished(record)
  }

  function reopen (): void {
    if (output?.file === undefined || given !== undefined) return
    try {
      turnTo(outputTo(output.file))
      fastify.log.info('The audit log was opened again')
    } catch (error) {
      fastify.log.error(error, 'The audit log can not be opened again; its lines go where they went')
    }
  }

  let streams: LiveStreams
  function keep (facts: RequestFacts): void {
    ring.add(facts)
    if (streams.size > 0) streams.added()
    if (entryListeners.size === 0) return
    const entry = ring.entryAt(ring.end - 1)
    for (const listener of entryListeners) listener(entry)
  }

  const nameOf = (nameOrAlias: string) => (fastify.hasDecorator('registry') ? fastify.registry.find(nameOrAlias)?.name : undefined) ?? nameOrAlias

  prepare(data)()
  await fastify.register(auditRoutes, { ring, clock, nameOf, onStreams: made => { streams = made } })
  const stopKeeping = fastify.facts.onFinished(keep)
  fastify.decorate('auditLog', {
    flush,
    prepare,
    reopen,
    reconfigure: options => prepare(options)(),
    recent: (filter = {}) => select(filter, ring, clock.now(), nameOf).numbers.map(number => ring.entryAt(number)),
    onEntry (listener) {
      entryListeners.add(listener)
      return () => entryListeners.delete(listener)
    }
  })
  fastify.addHook('onClose', async () => {
    if (output !== null) await fastify.facts.settled()
    stopListening()
    stopKeeping()
    flush()
    if (prepared !== null) end(prepared)
    await (givenWasUsed ? given : output?.destination)?.end?.()
    await Promise.all(ends)
  })
}

/** Names of the seams. */
const seams = ['clock', 'destination']

function openOrRefuse (file: string | undefined, onError: (error: Error) => void): OpenDestination {
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
export type { AuditDestination, AuditEntry, AuditFilter }
export type { AuditTry } from './entry.ts'
export default fp(auditLogPlugin, { name: 'fleet-audit-log', fastify: '5.x', decorators: { fastify: ['facts'] } })
