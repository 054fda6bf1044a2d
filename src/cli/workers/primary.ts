/**
 * `serve --workers N`: the process that starts the workers, starts another for one that ends, passes on signals and what workers say to each other, and
 * ends when they have. It serves nothing itself. The first worker is alone until it listens: what keeps one from starting keeps all.
 */
import cluster, { type Worker } from 'node:cluster'
import { constants } from 'node:os'
import { pino } from 'pino'
import type { ToPrimary, ToWorker } from '../../../plugins/peers/worker-channel.ts'
import { exitCodes, sameSignalMs, type CommandIo } from '../io.ts'
import { logDestination } from '../terminal-log.ts'

/** In the environment of a worker: its number, and whether it takes the place of one that has ended. */
export const numberVariable = 'FLEET_WORKER'
export const againVariable = 'FLEET_WORKER_AGAIN'

/** Who ends before it has served for so long is started again after a pause, */
const soonMs = 5_000
/** which begins with this and doubles each time, */
const leastPauseMs = 1_000
/** to this at most. */
const mostPauseMs = 30_000
/** Of a timer of Node. */
const longestTimerMs = 2 ** 31 - 1
/** Who was told to end has so long, or as long as its drain takes. */
const leastPatienceMs = 5_000

interface Running {
  readonly worker: Worker
  /** It answers questions. */
  isReady: boolean
  /** It listens, and takes signals. */
  hasStarted: boolean
  /** Its end takes no longer than this. */
  endsWithinMs: number
  /** Asked for before it could take them. */
  readonly requests: NodeJS.Signals[]
}

/** Runs until all workers have ended; resolves with the exit code: 0 when each ended in order. */
export function superviseWorkers (count: number, io: CommandIo): Promise<number> {
  const log = pino({ level: 'info' }, logDestination(io))
  return new Promise(resolve => {
    /** By number; those that live. */
    const running = new Map<number, Running>()
    const waiting = new Set<NodeJS.Timeout>()
    const pauses = new Map<number, number>()
    let hasStarted = false
    let ending: NodeJS.Signals | null = null
    let code: number = exitCodes.good
    let end: NodeJS.Timeout | undefined
    let endsAt = Infinity
    let endingSince = 0

    function start (number: number, isAgain = false): void {
      const startedAt = performance.now()
      let worker: Worker
      try {
        worker = cluster.fork({ [numberVariable]: String(number), [againVariable]: isAgain ? 'true' : '' })
      } catch (error) {
        hasEnded(number, startedAt, `Worker ${number} could not be started: ${(error as Error).message}`, exitCodes.failed)
        return
      }
      const own: Running = { worker, isReady: false, hasStarted: false, endsWithinMs: leastPatienceMs, requests: [] }
      let isOver = false
      const over = (what: string, exitCode: number) => {
        if (isOver) return
        isOver = true
        running.delete(number)
        hasEnded(number, startedAt, what, exitCode)
      }
      running.set(number, own)
      worker.on('message', (message: ToPrimary) => pass(message, number, own))
      worker.on('error', error => { if (worker.process.pid === undefined) over(`Worker ${number} could not be started: ${error.message}`, exitCodes.failed) })
      worker.on('exit', (exitCode: number | null, signal: NodeJS.Signals | null) => {
        // Who was still being loaded ends by the very signal.
        const isInOrder = signal !== null && signal === ending
        over(`Worker ${number} (process ${worker.process.pid}) has ended (${signal ?? `exit code ${exitCode}`})`, exitCode ?? (isInOrder ? exitCodes.good : 128 + constants.signals[signal!]))
      })
    }

    function hasEnded (number: number, startedAt: number, what: string, exitCode: number): void {
      if (!hasStarted || ending !== null) {
        code = Math.max(code, exitCode)
        if (ending === null && exitCode > 128) log.error(what)
        if (running.size === 0) resolve(code)
        return
      }
      const isSoon = performance.now() - startedAt < soonMs
      const pauseMs = isSoon ? pauses.get(number) ?? leastPauseMs : 0
      pauses.set(number, isSoon ? Math.min(pauseMs * 2, mostPauseMs) : leastPauseMs)
      log.warn({ worker: number }, `${what}, and another takes its place${pauseMs > 0 ? ` in ${pauseMs / 1_000} s` : ''}`)
      const timer = setTimeout(() => {
        waiting.delete(timer)
        start(number, true)
      }, pauseMs)
      waiting.add(timer)
    }

    function pass (message: ToPrimary, from: number, own: Running): void {
      if (message.kind === 'ready') {
        own.isReady = true
      } else if (message.kind === 'started') {
        own.hasStarted = true
        own.endsWithinMs = message.endsWithinMs
        for (const signal of own.requests.splice(0)) own.worker.process.kill(signal)
        if (hasStarted) return
        hasStarted = true
        if (ending === null) for (let number = 2; number <= count; number++) start(number)
      } else if (message.kind === 'ask') {
        const { question, topic, detail } = message
        const asked = [...running.values()].filter(other => other === own || (other.isReady && other.worker.isConnected()))
        tell(own.worker, { kind: 'asked', question, count: asked.length })
        for (const { worker } of asked) tell(worker, { kind: 'question', question, from, topic, detail })
      } else {
        const { to, ...answer } = message
        const asker = running.get(to)
        if (asker !== undefined) tell(asker.worker, answer)
      }
    }

    /** Once said it is never later. */
    function killIn (ms: number): void {
      endsAt = Math.min(endsAt, performance.now() + ms)
      clearTimeout(end)
      end = setTimeout(() => {
        for (const [number, { worker }] of running) {
          log.warn({ worker: number }, `Worker ${number} (process ${worker.process.pid}) does not end, and is killed`)
          worker.process.kill('SIGKILL')
        }
      }, Math.min(endsAt - performance.now(), longestTimerMs))
    }

    io.onSignal(signal => {
      const isRequest = signal === 'SIGHUP' || signal === 'SIGUSR2'
      if (!isRequest) ending = signal
      for (const { worker, hasStarted, requests } of running.values()) {
        // Before it listens for these they would end it; what it would read again it has not read yet.
        if (isRequest && !hasStarted) requests.push(signal)
        else worker.process.kill(signal)
      }
      if (ending === null) return
      for (const timer of waiting) clearTimeout(timer)
      waiting.clear()
      if (running.size === 0) resolve(code)
      // The first time they drain, the second time they end at once; who does neither is stuck.
      if (!isRequest && end === undefined) {
        endingSince = performance.now()
        killIn(Math.max(...Array.from(running.values(), ({ endsWithinMs }) => endsWithinMs)))
      } else if (!isRequest && performance.now() - endingSince > sameSignalMs) killIn(leastPatienceMs)
    }, ['SIGUSR2'])

    start(1)
  })
}

function tell (worker: Worker, message: ToWorker): void {
  if (worker.isConnected()) worker.send(message, () => {}) // who has gone meanwhile answers nobody
}
