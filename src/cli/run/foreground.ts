/**
 * Who gets a Ctrl-C: a terminal sends it to every process in its foreground, so to the program as well, and passing it on would be twice.
 */
import { readFileSync } from 'node:fs'
import { isatty } from 'node:tty'

/** What a terminal's keys send. */
const keySignals: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGQUIT'])

/** Whether the signal is taken to come from a key, so that the program has got it, too. */
export function isFromTerminal (signal: NodeJS.Signals): boolean {
  return keySignals.has(signal) && isInForeground()
}

/** Whether this process is in the foreground of a terminal. */
function isInForeground (): boolean {
  let stat
  try {
    stat = readFileSync('/proc/self/stat', 'utf8')
  } catch {
    return [0, 1, 2].some(fd => isatty(fd)) // no Linux: as good as one can tell
  }
  // proc(5): behind the name, which is in parentheses, come state, parent, process group, session, terminal, and the group in its foreground.
  const [, , group, , terminal, foreground] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return terminal !== '0' && group === foreground
}
