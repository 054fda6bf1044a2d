/** What is put off to the end of the turn of the event loop, so that it is done together: by all gateways of the process, since there is one such turn. */
import { setImmediate } from 'node:timers'

let tasks: (() => void)[] = []

/**
 * In the order given, and in one stretch while none throws: to the system, writes that follow on each other are a burst. Whoever cares for the asynchronous context
 * brings his own.
 */
export function atEndOfTurn (task: () => void): void {
  if (tasks.push(task) === 1) setImmediate(runAll)
}

function runAll (): void {
  const all = tasks
  tasks = []
  let next = 0
  try {
    while (next < all.length) all[next++]!()
  } finally {
    for (; next < all.length; next++) atEndOfTurn(all[next]!) // one threw, which is not for the others
  }
}
