/**
 * The fleet as this page knows it. Its objects change in place; `beat` says that they did.
 */
import { signal } from '@preact/signals'
import type { ConfigStatus, Snapshot, Tick, Totals } from '../wire.ts'
import { WatchedFleet } from '../../../src/watched-fleet.ts'

export type { FleetAgent, FleetInstance } from '../../../src/watched-fleet.ts'

/** Counts messages of the gateway: who reads it is drawn again with each. */
export const beat = signal(0)
/** Counts samples of the history. */
export const samples = signal(0)
export const fleet = new WatchedFleet()
export const { agents, overall } = fleet
export const totals = signal<Totals | null>(null)
export const config = signal<ConfigStatus | null>(null)
/** What to say aloud: what changed its state. */
export const news = signal('')
/** Requests that were too many to be shown. */
export const skipped = signal(0)

export function takeSnapshot (snapshot: Snapshot): void {
  fleet.takeSnapshot(snapshot)
  tellPage()
  samples.value++
}

export function takeTick (tick: Tick): void {
  const changes = fleet.takeTick(tick)
  if (changes.length > 0) news.value = changes.length > 3 ? `${changes.length} changes of state in the fleet` : changes.join('. ')
  if (tick.sample) samples.value++
  tellPage()
}

function tellPage (): void {
  totals.value = fleet.totals
  config.value = fleet.config
  skipped.value = fleet.skipped
  beat.value++
}
