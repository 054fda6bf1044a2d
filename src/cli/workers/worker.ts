/** What a worker of `serve --workers N` knows of itself, and how it reaches the others. */
import cluster from 'node:cluster'
import type { ToPrimary, ToWorker, WorkerChannel } from '../../../plugins/peers/worker-channel.ts'
import type { CommandIo } from '../io.ts'
import { againVariable, numberVariable } from './primary.ts'

export interface OwnWorker extends WorkerChannel {
  /** Whether it says for all what there is to say, */
  readonly isSpeaker: boolean
  /** and whether that was said already, by the worker whose place it takes. */
  readonly isAgain: boolean
  /** Says goodbye to who started it: the way there would keep the process. */
  leave (): void
}

/** Undefined in a process that serves alone. */
export function ownWorker ({ [numberVariable]: number, [againVariable]: again }: CommandIo['env']): OwnWorker | undefined {
  const { worker } = cluster
  if (worker === undefined || number === undefined) return undefined // alone, or started by somebody else's cluster
  return {
    worker: Number(number),
    pid: worker.process.pid!,
    isSpeaker: number === '1',
    isAgain: again === 'true',
    leave () { worker.disconnect() },
    send (message: ToPrimary) { worker.send(message, () => {}) }, // without who started it, it ends
    onMessage (listener) {
      const listen = (message: ToWorker) => listener(message)
      worker.on('message', listen)
      return () => worker.off('message', listen)
    }
  }
}
