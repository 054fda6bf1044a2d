/**
 * The gateway's own log as lines for a person at a terminal; anywhere else it is JSON, one object a line.
 */
import type { DestinationStream } from 'pino'
import { colorsFor, plain, type CommandIo } from './io.ts'

/** pino's own fields, which tell a person nothing. */
const machineFields = new Set(['level', 'time', 'pid', 'hostname', 'msg', 'err', 'change', 'reason'])

/** Where pino writes to. */
export function logDestination (io: Pick<CommandIo, 'stderr' | 'env'>): DestinationStream {
  const { stderr, env } = io
  if (stderr.isTTY !== true) return stderr
  const { yellow, red } = colorsFor(stderr, env)
  return {
    write (line: string) {
      const entry = JSON.parse(line) as { level: number, msg?: string, err?: { message?: string, stack?: string } }
      const details = Object.entries(entry).filter(([key]) => !machineFields.has(key)).map(([key, value]) => `${key} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
      const label = entry.level >= 50 ? red('error') : entry.level >= 40 ? yellow('warning') : 'info'
      const text = [entry.msg ?? entry.err?.message ?? '', ...details].join('; ')
      stderr.write(`${label}  ${plain(text)}\n`)
      if (entry.level >= 50 && entry.err?.stack !== undefined) stderr.write(`${plain(entry.err.stack)}\n`)
    }
  }
}
