/** The gateway's own log, for tests: all of it so far, and the line that comes. */
import { Writable } from 'node:stream'
import { pino } from 'pino'

export interface LogLine { level: number, msg: string, agent?: string, instance?: string, cause?: string, keys?: string[], leased?: number, lapsed?: number }

/** A logger for createGateway(), and what it got. */
export function logLines () {
  const lines: LogLine[] = []
  const waiting = new Set<() => void>()
  const stream = new Writable({
    write (chunk: Buffer, _encoding, done) {
      lines.push(JSON.parse(chunk.toString()) as LogLine)
      for (const look of [...waiting]) look()
      done()
    }
  })
  return {
    loggerInstance: pino({ level: 'info' }, stream),
    lines,
    text: () => lines.map(({ msg }) => msg).join('\n'),
    /** The first line that matches, of those that came and those that come. @param from number of the first line that counts */
    line: (pattern: RegExp, from = 0) => new Promise<LogLine>(resolve => {
      const look = () => {
        const found = lines.slice(from).find(({ msg }) => pattern.test(msg))
        if (found === undefined) return
        waiting.delete(look)
        resolve(found)
      }
      waiting.add(look)
      look()
    })
  }
}
