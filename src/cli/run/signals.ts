/**
 * Signals on their way to the program. The first one that asks it to end lets the requests that are under way on it finish before; any later
 * one is passed on at once. What the terminal has told it already it is not told again.
 */
import type { CommandIo } from '../io.ts'
import type { Program } from './child.ts'
import { isFromTerminal } from './foreground.ts'
import type { LeaseKeeper } from './lease-keeper.ts'

/** npm and process managers send a signal twice; only a later one means impatience. */
const sameSignalMs = 500

/** Beside those that every command gets. */
const others = ['SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

export interface SignalWatch {
  /**
   * From now on, and what came before as well.
   * @param drainMs how long requests that are under way may take
   */
  passTo (program: Program, lease: Pick<LeaseKeeper, 'leave'>, drainMs: number): void
  /** Whether somebody wants it to end. */
  readonly isEnding: boolean
}

/** To be called before there is a program, so that no signal is lost. */
export function watchSignals (io: CommandIo): SignalWatch {
  const early: NodeJS.Signals[] = []
  let listener = (signal: NodeJS.Signals) => { early.push(signal) }
  /** When somebody wanted it to end. */
  let endMark: number | null = null
  io.onSignal(signal => listener(signal), others)
  return {
    get isEnding () { return endMark !== null },
    passTo (program, lease, drainMs) {
      let wasImpatient = false
      async function drain () {
        endMark = performance.now()
        await lease.leave({ drain: true, withinMs: drainMs })
      }

      listener = signal => {
        if (isFromTerminal(signal)) {
          if (endMark === null) void drain()
        } else if (signal !== 'SIGTERM' && signal !== 'SIGINT') {
          program.signal(signal)
        } else if (endMark === null) {
          void drain().then(() => { if (!wasImpatient) program.signal(signal) })
        } else if (performance.now() - endMark >= sameSignalMs) {
          wasImpatient = true
          program.signal(signal)
        }
      }
      for (const signal of early.splice(0)) listener(signal)
    }
  }
}
