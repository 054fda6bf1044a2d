/**
 * When each of many things is due, as one row of numbers. To look through ten thousand of them a few times a second is nothing that way, where
 * looking at the things themselves would throw what requests need out of the processor's caches.
 */
export class DueTimes<T> {
  /** Two rows: what there is, in no order, and when each is due. */
  readonly #items: T[] = []
  #times = new Float64Array(1_024)
  readonly #places = new Map<T, number>()

  /** Adds what is due at once. */
  add (item: T): void {
    const place = this.#items.push(item) - 1
    if (place === this.#times.length) {
      const before = this.#times
      this.#times = new Float64Array(place * 2)
      this.#times.set(before)
    }
    this.#places.set(item, place)
    this.#times[place] = 0
  }

  delete (item: T): void {
    const place = this.#places.get(item)
    if (place === undefined) return
    this.#places.delete(item)
    const last = this.#items.pop()!
    if (last === item) return
    this.#items[place] = last
    this.#times[place] = this.#times[this.#items.length]!
    this.#places.set(last, place)
  }

  /** Nothing happens for what is not here any more. @param time of any clock; Infinity for never */
  set (item: T, time: number): void {
    const place = this.#places.get(item)
    if (place !== undefined) this.#times[place] = time
  }

  /** What is due by then. */
  * until (time: number): IterableIterator<T> {
    for (let place = 0; place < this.#items.length; place++) if (this.#times[place]! <= time) yield this.#items[place]!
  }
}
