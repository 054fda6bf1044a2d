/** What a gateway holds when nothing is going on, at the start and at the end of the soak, and how far these may be apart. */
import { setTimeout as pause } from 'node:timers/promises'
import { ask } from './client.js'

/**
 * Waits until idle connections have ended, as far as they do, and V8 has given back what it took for the load, which takes it some seconds without any: as long
 * at the start as at the end, or their memory can't be compared. @param {number} [most] sockets with which a short run is content at once
 */
export async function atRest (gateway, { short, most = Infinity }) {
  let least
  const from = performance.now()
  do {
    await pause(500)
    const { sockets, files } = await gateway.descriptors()
    if (least === undefined || sockets < least.sockets) least = { sockets, files }
  } while (short ? least.sockets > most && performance.now() - from < 8_000 : performance.now() - from < 12_000)
  const stats = (await ask(gateway, 'GET', '/stats')).body
  const figures = await gateway.figures({ reset: true })
  return { ...figures, ...least, inFlight: stats.in_flight - 1, heldByAgents: Object.values(stats.agents).reduce((sum, agent) => sum + agent.in_flight, 0) }
}

/** Prints both. @returns what is wrong, a line each */
export function compareAtRest (start, end, { short, say }) {
  const problems = []
  say(`\n${'at rest'.padEnd(34)} ${'start'.padStart(9)} ${'end'.padStart(10)}`)
  const limits = {
    sockets: ['open sockets', start.sockets],
    files: ['open files', start.files],
    inFlight: ['requests in flight', 0],
    heldByAgents: ['attempts in flight', 0],
    timers: ['timers', start.timers + 3],
    ...(!short && { rssMiB: ['resident memory, MiB', start.rssMiB + Math.max(32, start.rssMiB / 4)], heapMiB: ['heap in use, MiB', start.heapMiB + 8] })
  }
  for (const [key, [title, most]] of Object.entries(limits)) {
    const wrong = !(end[key] <= most)
    say(`${title.padEnd(34)} ${start[key].toFixed(0).padStart(9)} ${end[key].toFixed(0).padStart(10)}   at most ${most.toFixed(0)}${wrong ? '  WRONG' : ''}`)
    if (wrong) problems.push(`${title}: ${start[key].toFixed(0)} at the start, ${end[key].toFixed(0)} at the end`)
  }
  say(`${'longest pause of the event loop, ms'.padEnd(44)} ${end.pauseMs.toFixed(0).padStart(10)}`)
  return problems
}
