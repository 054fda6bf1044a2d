/** What the peers on Fastify have in common: the request log, and how many connections they may open to an upstream. */
import pino from 'pino'

/** At most so many: as good as no bound, as ours has none. The default of 128 would leave clients and event streams waiting for each other. */
export const undici = { connections: 4_096, pipelining: 1 }

/**
 * Fastify's option `logger`: its own request log into the file that BENCH_LOG names, or none. Lines are written 4 KiB at a time and beside the
 * requests, since our audit log is; pino's default writes each line at once. What is left is written at the end.
 */
export function requestLog () {
  const file = process.env.BENCH_LOG
  if (file === undefined) return false
  const stream = pino.destination({ dest: file, sync: false, minLength: 4_096 })
  process.once('SIGTERM', () => {
    stream.flushSync()
    process.exit()
  })
  return { stream }
}
