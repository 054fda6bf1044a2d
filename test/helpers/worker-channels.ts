/** Workers of one gateway in one process: the way from each to the others, as the process that starts them has it. */
import type { ToWorker, WorkerChannel } from '../../plugins/peers/worker-channel.ts'

/** @returns the channel of each worker, by its number; a number that is asked for again is another process in its place */
export function workerChannels (): (worker: number) => WorkerChannel {
  const running = new Map<number, { isReady: boolean, listener: (message: ToWorker) => void }>()
  /** Messages between processes take a while, here longer than a disk takes. */
  const tell = (worker: number, message: ToWorker) => setTimeout(() => running.get(worker)?.listener(structuredClone(message)), 50)

  return worker => {
    const own = { isReady: false, listener: (_message: ToWorker) => {} }
    running.set(worker, own)
    return {
      worker,
      pid: worker,
      onMessage (listener) {
        own.listener = listener
        return () => running.delete(worker)
      },
      send (message) {
        if (message.kind === 'ready') {
          own.isReady = true
        } else if (message.kind === 'ask') {
          const { question, topic, detail } = message
          const asked = [...running].filter(([number, { isReady }]) => isReady || number === worker).map(([number]) => number)
          tell(worker, { kind: 'asked', question, count: asked.length })
          for (const number of asked) tell(number, { kind: 'question', question, from: worker, topic, detail })
        } else if (message.kind === 'answer') {
          const { to, ...answer } = message
          tell(to, answer)
        }
      }
    }
  }
}
