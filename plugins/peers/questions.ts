/**
 * Questions that are put to several processes at once: how many were asked is known a moment later, who answers does so in any order, and who
 * is not heard in time is left out and counted.
 */
import type { Clock } from '../../src/clock.ts'

/** A process that serves the fleet, as others see it. */
export interface Peer {
  /** Made at random at its start. */
  readonly id: string
  /** The machine's name. */
  readonly host: string
  /** Which of the workers of its gateway it is, from 1, and its process id; left out when there is one process. */
  readonly worker?: number
  readonly pid?: number
}

export interface PeerAnswer {
  readonly from: Peer
  readonly value: unknown
}

/** What came of a question. */
export interface Heard {
  /** In any order; this process's own among them. */
  readonly answers: readonly PeerAnswer[]
  /** So many were asked, and did not answer in time; null when it is not known how many were asked. */
  readonly silent: number | null
}

interface Open {
  readonly answers: PeerAnswer[]
  expected: number
  readonly finish: () => void
}

export class Questions {
  readonly #open = new Map<number, Open>()
  readonly #clock: Clock
  readonly #patienceMs: number
  #last = 0

  /** @param patienceMs how long answers are waited for */
  constructor (clock: Clock, patienceMs: number) {
    this.#clock = clock
    this.#patienceMs = patienceMs
  }

  /** @param put sends the question by this number; resolves with how many get it, or undefined when that is told by expect() */
  ask (put: (number: number) => Promise<number | undefined>): Promise<Heard> {
    const number = ++this.#last
    return new Promise((resolve, reject) => {
      const open: Open = {
        answers: [],
        expected: Infinity,
        finish: () => {
          stop()
          this.#open.delete(number)
          const { answers, expected } = open
          resolve({ answers, silent: expected === Infinity ? null : Math.max(expected - answers.length, 0) })
        }
      }
      const stop = this.#clock.after(this.#patienceMs, open.finish)
      this.#open.set(number, open)
      put(number).then(count => { if (count !== undefined) this.expect(number, count) }, (error: Error) => {
        stop()
        this.#open.delete(number)
        reject(error)
      })
    })
  }

  /** So many were asked. */
  expect (number: number, count: number): void {
    const open = this.#open.get(number)
    if (open === undefined) return
    open.expected = count
    if (open.answers.length >= count) open.finish()
  }

  /** One of them has answered. */
  hear (number: number, answer: PeerAnswer): void {
    const open = this.#open.get(number)
    if (open === undefined || open.answers.some(({ from }) => from.id === answer.from.id)) return // too late, or twice
    open.answers.push(answer)
    if (open.answers.length >= open.expected) open.finish()
  }

  /** What is known by now is all. */
  close (): void {
    for (const { finish } of [...this.#open.values()]) finish()
  }
}
