/**
 * `serve --workers N`: the process that starts the workers, starts another for one that ends, passes on signals and what workers say to each other, and
 * ends when they have. It serves nothing itself. The first worker is alone until it listens: what keeps one from starting keeps all.
 */
import cluster, { type Worker } from 'node:cluster'
import { constants } from 'node:os'
import type { ToPrimary, ToWorker } from '../../../plugins/peers/worker-channel.ts'
import { exitCodes, say, type CommandIo } from '../io.ts'

/** In the environment of a worker: its number, and whether it takes the place of one that has ended. */
export const numberVariable = 'FLEET_WORKER'
export const againVariable = 'FLEET_WORKER_AGAIN'

/** Who ends sooner than this after its start is not started again at once, */
const soonMs = 5_000
/** but after this. */
const pauseMs = 1_000

/** Runs until all workers have ended; resolves with the exit code: 0 when each ended in order. */
export function superviseWorkers (count: number, io: CommandIo): Promise<number> {
  return new Promise(resolve => {
    /** By number; those that live. */
    const workers = new Map<number, Worker>()
    const waiting = new Set<NodeJS.Timeout>()
    let hasStarted = false
    let isEnding = false
    let code: number = exitCodes.good

    function start (number: number, isAgain = false): void {
      const startedAt = performance.now()
      const worker = cluster.fork({ [numberVariable]: String(number), [againVariable]: isAgain ? 'true' : '' })
      workers.set(number, worker)
      worker.on('message', (message: ToPrimary) => pass(message, number, worker))
      worker.on('exit', (exitCode: number | null, signal: NodeJS.Signals | null) => {
        workers.delete(number)
        if (!hasStarted || isEnding) {
          // Who was still being loaded ends by the signal itself.
          code = Math.max(code, exitCode ?? (isEnding ? exitCodes.good : 128 + constants.signals[signal!]))
          if (workers.size === 0) resolve(code)
          return
        }
        say(io, `Worker ${number} (process ${worker.process.pid}) has ended (${signal ?? `exit code ${exitCode}`}), and another takes its place`)
        const livedMs = performance.now() - startedAt
        const timer = setTimeout(() => {
          waiting.delete(timer)
          start(number, true)
        }, livedMs < soonMs ? pauseMs : 0)
        waiting.add(timer)
      })
    }

    function pass (message: ToPrimary, from: number, worker: Worker): void {
      if (message.kind === 'started') {
        if (hasStarted) return
        hasStarted = true
        if (!isEnding) for (let number = 2; number <= count; number++) start(number)
      } else if (message.kind === 'ask') {
        const { question, topic, detail } = message
        const asked = [...workers.values()].filter(other => other.isConnected())
        tell(worker, { kind: 'asked', question, count: asked.length })
        for (const other of asked) tell(other, { kind: 'question', question, from, topic, detail })
      } else {
        const { to, ...answer } = message
        const asker = workers.get(to)
        if (asker !== undefined) tell(asker, answer)
      }
    }

    io.onSignal(signal => {
      if (signal !== 'SIGHUP' && signal !== 'SIGUSR2') isEnding = true
      for (const worker of workers.values()) worker.process.kill(signal)
      if (!isEnding) return
      for (const timer of waiting) clearTimeout(timer)
      waiting.clear()
      if (workers.size === 0) resolve(code)
    }, ['SIGUSR2'])

    start(1)
  })
}

function tell (worker: Worker, message: ToWorker): void {
  if (worker.isConnected()) worker.send(message, () => {}) // who has gone meanwhile answers nobody
}
