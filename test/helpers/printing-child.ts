/** A process that a test has started, and what it prints, on whichever stream. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

export interface PrintingChild {
  /** Waits until it has printed this. @throws Error when it ends before */
  printed (pattern: RegExp): Promise<RegExpExecArray>
  /** All it has printed so far. */
  output (): string
  /** Its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>
}

/** Gathers what a process prints, from now on. */
export function gatherFrom (child: ChildProcess): PrintingChild {
  const ended = once(child, 'close').then(([code, signal]: unknown[]) => (code ?? signal) as number | NodeJS.Signals)
  let output = ''
  let onOutput = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      onOutput()
    })
  }
  return {
    ended,
    output: () => output,
    async printed (pattern) {
      for (;;) {
        const found = pattern.exec(output)
        if (found !== null) return found
        const more = new Promise<void>(resolve => { onOutput = resolve })
        await Promise.race([more, ended.then(code => {
          if (!pattern.test(output)) throw new Error(`it ended with ${code} before it printed ${pattern}:\n${output}`)
        })])
      }
    }
  }
}
