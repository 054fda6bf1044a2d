/**
 * Finished exchanges as they finish, to any number of readers, as an event stream. What is sent is read from the ring, where each reader
 * has its place: one that is slow, or wants more than its share, falls behind and is told how many it missed; nothing is queued for it.
 */
import type { ServerResponse } from 'node:http'
import type { Clock } from '../../src/clock.ts'
import { cutOffSoon } from '../../src/farewell.ts'
import type { Predicate } from './filter.ts'
import { lineJson } from './json.ts'
import { mostRecent, type RecentExchanges } from './recent.ts'

/** What a reader is. */
export interface ReaderOptions {
  /** Its head was written. */
  readonly response: ServerResponse
  /** Looks at each exchange anew. */
  readonly matches: Predicate
  /** From which number on. */
  readonly next: number
  /** Whether it may go on; asked every second. */
  readonly isAllowed: () => boolean | Promise<boolean>
  /** Told of what was written, in bytes. */
  readonly onWritten: (bytes: number) => void
}

interface Reader extends ReaderOptions {
  next: number
  /** Characters that it may still get until the next tick. */
  share: number
  /** Ticks since it last took what it was sent. */
  stuckTicks: number
}

/** What came meanwhile is sent together, this often; */
const tickMs = 100
/** and when there is half a ring of it, so that a reader that is picky misses nothing. */
const mostFresh = mostRecent / 2
/** All readers together get so much in a tick, */
const charactersATick = 512 * 1024
/** one of them at most this, which is some 1,800 exchanges a second, */
const mostShare = 64 * 1024
/** and at least this. */
const leastShare = 4 * 1024
const ticksToCheck = 1_000 / tickMs
/** A comment tells the client, and what is in between, that the stream lives. */
const ticksToHeartbeat = 15_000 / tickMs
/** Who takes nothing for so long is gone. */
const mostStuckTicks = 60_000 / tickMs
/** What a client waits before it connects again. */
const retryMs = 2_000

export class LiveStreams {
  readonly #ring: RecentExchanges
  readonly #clock: Clock
  readonly #isDraining: () => boolean
  readonly #readers = new Set<Reader>()
  /** Events that were written out already, by place in the ring; several readers want the same. */
  readonly #events: { number: number, text: string }[] = []
  #stopTicking: (() => void) | null = null
  #ticks = 0
  #fresh = 0

  constructor (ring: RecentExchanges, clock: Clock, isDraining: () => boolean) {
    this.#ring = ring
    this.#clock = clock
    this.#isDraining = isDraining
  }

  /** How many readers there are. */
  get size (): number {
    return this.#readers.size
  }

  /** Sends what there is, and then what comes, until the reader leaves or is told to. */
  add (options: ReaderOptions): void {
    const reader: Reader = { ...options, share: this.#share(), stuckTicks: 0 }
    const { response } = reader
    response.on('error', () => {}) // it closes then
    response.once('close', () => this.#remove(reader))
    this.#readers.add(reader)
    this.#stopTicking ??= this.#clock.every(tickMs, () => this.#tick())
    this.#write(reader, `retry: ${retryMs}\nid: ${this.#ring.idOf(reader.next - 1)}\n\n`) // who connects again before the first event goes on from here
    this.#advance(reader)
  }

  /** One more is in the ring. Called for every exchange while there are readers. */
  added (): void {
    if (++this.#fresh < mostFresh) return
    this.#fresh = 0
    for (const reader of this.#readers) this.#advance(reader)
  }

  /** Ends all streams properly; who does not take what is under way is cut off soon after. */
  endAll (): void {
    for (const reader of this.#readers) this.#end(reader)
  }

  #end ({ response }: Reader): void {
    if (response.writableEnded) return // it was told already, and has its time
    response.end()
    cutOffSoon(response, this.#clock)
  }

  #share (): number {
    return Math.min(mostShare, Math.max(leastShare, Math.floor(charactersATick / (this.#readers.size + 1))))
  }

  #remove (reader: Reader): void {
    this.#readers.delete(reader)
    if (this.#readers.size > 0) return
    this.#stopTicking?.()
    this.#stopTicking = null
    this.#events.length = 0
    this.#fresh = 0
  }

  #tick (): void {
    if (this.#isDraining()) return this.endAll()
    this.#ticks++
    this.#fresh = 0
    const share = this.#share()
    for (const reader of this.#readers) {
      reader.share = share
      if (this.#ticks % ticksToCheck === 0) void this.#check(reader)
      this.#advance(reader)
      if (reader.response.writableNeedDrain) {
        if (++reader.stuckTicks > mostStuckTicks) reader.response.destroy()
      } else {
        reader.stuckTicks = 0
        // The id is for who connects again: what did not match need not be looked at again.
        if (this.#ticks % ticksToHeartbeat === 0) this.#write(reader, `: alive\nid: ${this.#ring.idOf(reader.next - 1)}\n\n`)
      }
    }
  }

  async #check (reader: Reader): Promise<void> {
    const allowed = await Promise.resolve(reader.isAllowed()).catch(() => false)
    if (!allowed) this.#end(reader)
  }

  /** Sends what there is by now, as far as the reader takes it. */
  #advance (reader: Reader): void {
    const { response, matches } = reader
    if (response.writableNeedDrain || response.writableEnded) return
    const ring = this.#ring
    let text = ''
    if (reader.next < ring.begin) {
      text = `event: dropped\ndata: {"count":${ring.begin - reader.next}}\n\n`
      reader.next = ring.begin
    }
    for (; reader.next < ring.end && reader.share > text.length; reader.next++) if (matches(ring.factsAt(reader.next))) text += this.#eventOf(reader.next)
    reader.share -= text.length
    if (text !== '') this.#write(reader, text)
  }

  #eventOf (number: number): string {
    const place = number % mostRecent
    const made = this.#events[place]
    if (made?.number === number) return made.text
    const entry = this.#ring.entryAt(number)
    const text = `id: ${entry.id}\nevent: request\ndata: ${lineJson(entry)}\n\n`
    this.#events[place] = { number, text }
    return text
  }

  #write ({ response, onWritten }: Reader, text: string): void {
    const bytes = Buffer.from(text)
    onWritten(bytes.length)
    response.write(bytes)
  }
}
