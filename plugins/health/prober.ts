/**
 * When each instance is probed, and that its record learns of the outcome. One tick looks for what is due, so that ten thousand
 * instances cost one timer; a queue bounds how many probes are under way and gives everybody a turn.
 */
import type { Clock } from '../../src/clock.ts'
import type { Instance, InstanceRuntime } from '../../src/fleet/instance.ts'
import { isConclusive, needsFastProbe, recordProbe, type HealthChange, type ProbeOutcome } from '../../src/fleet/outlier.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import type { HealthOptions } from './options.ts'
import type { Probe } from './probe.ts'

/** What a Prober works with. */
export interface ProberSeams {
  readonly registry: Registry
  readonly clock: Clock
  readonly probe: Probe
  /** From 0 to below 1, for jitter. */
  readonly random: () => number
  /** Told of each change that a probe made to an instance's record. */
  readonly onChange: (instance: Instance, change: HealthChange, outcome: ProbeOutcome) => void
}

/** How often the schedule is looked at. */
const tickMs = 100
/** In each so many ticks what decides a period is looked up anew: settings, and whether the instance needs to be asked often. */
const ticksPerReview = 10
/** The period of an instance that probes can restore. */
const fastPeriodMs = 1_000
/** A period is shortened by at most this share, so that instances that came together drift apart. */
const jitterRatio = 0.1
/** The first one by more, so that they do so soon. */
const firstJitterRatio = 0.5
/** The most probes that are under way at once. */
const maxConcurrentProbes = 64

interface Watch {
  readonly instance: Instance
  settings: HealthOptions
  beganAt: number
  dueAt: number
  /** The share by which the present period is shortened. */
  jitter: number
  isRunning: boolean
  readonly abort: AbortController
}

export class Prober {
  readonly #seams: ProberSeams
  readonly #watches = new Map<InstanceRuntime, Watch>()
  /** Due, and waiting for their turn, in order. */
  readonly #queue = new Set<Watch>()
  #defaults: HealthOptions
  #concurrent = 0
  #ticks = 0
  #stops: (() => void)[] = []
  /** Those of which no probe has ended yet, */
  readonly #unprobed = new Set<Watch>()
  /** and who waits until there are none. */
  #waiting: (() => void)[] = []

  /** @param defaults what agents can override one by one */
  constructor (seams: ProberSeams, defaults: HealthOptions) {
    this.#seams = seams
    this.#defaults = defaults
  }

  /** Probes every instance at once, each new one as it comes, and all of them time and again until stop(). */
  start (): void {
    const { registry, clock } = this.#seams
    for (const agent of registry.agents()) agent.instances.forEach(instance => this.#watch(instance))
    this.#stops = [
      registry.onChange(({ added, removed }) => {
        for (const { runtime } of removed) this.#forget(runtime)
        for (const instance of added) this.#watch(instance)
        this.#fill()
      }),
      clock.every(tickMs, () => this.#tick())
    ]
    this.#fill()
  }

  /** Ends all probes, and what they have open. */
  stop (): void {
    for (const stop of this.#stops) stop()
    for (const runtime of [...this.#watches.keys()]) this.#forget(runtime)
  }

  /** New defaults, from now on. */
  reconfigure (defaults: HealthOptions): void {
    this.#defaults = defaults
    for (const watch of this.#watches.values()) this.#review(watch)
  }

  /** Resolves when no instance is left that was never probed. */
  firstRound (): Promise<void> {
    return new Promise(resolve => {
      this.#waiting.push(resolve)
      this.#tellWaiting()
    })
  }

  #tellWaiting (): void {
    if (this.#unprobed.size > 0) return
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  /** What counts for the instance: its agent's settings over the defaults. */
  settingsOf ({ agent }: Instance): HealthOptions {
    const own = this.#seams.registry.find(agent)?.policy.health
    return own === undefined ? this.#defaults : { ...this.#defaults, ...own }
  }

  /** Whether the instance is in the registry still. */
  watches ({ runtime }: Instance): boolean {
    return this.#watches.has(runtime)
  }

  #watch (instance: Instance): void {
    const watch: Watch = {
      instance,
      settings: this.settingsOf(instance),
      beganAt: 0,
      dueAt: 0,
      jitter: 0,
      isRunning: false,
      abort: new AbortController()
    }
    this.#watches.set(instance.runtime, watch)
    this.#unprobed.add(watch)
    this.#queue.add(watch)
  }

  #forget (runtime: InstanceRuntime): void {
    const watch = this.#watches.get(runtime)
    if (watch === undefined) return
    this.#watches.delete(runtime)
    this.#queue.delete(watch)
    this.#unprobed.delete(watch)
    watch.abort.abort()
    this.#tellWaiting()
  }

  #tick (): void {
    const isReview = ++this.#ticks % ticksPerReview === 0
    const due = this.#seams.clock.now() + tickMs / 2 // to the nearest tick
    for (const watch of this.#watches.values()) {
      if (isReview) this.#review(watch)
      if (watch.dueAt <= due && !watch.isRunning) this.#queue.add(watch)
    }
    this.#fill()
  }

  #review (watch: Watch): void {
    watch.settings = this.settingsOf(watch.instance)
    this.#schedule(watch)
  }

  #schedule (watch: Watch): void {
    const { interval } = watch.settings
    const periodMs = needsFastProbe(watch.instance) ? Math.min(fastPeriodMs, interval) : interval
    watch.dueAt = watch.beganAt + periodMs * (1 - watch.jitter)
  }

  #fill (): void {
    for (const watch of this.#queue) {
      if (this.#concurrent >= maxConcurrentProbes) return
      this.#queue.delete(watch)
      void this.#probe(watch)
    }
  }

  async #probe (watch: Watch): Promise<void> {
    const { probe, clock, random, onChange } = this.#seams
    const { instance, settings, abort: { signal } } = watch
    const beganAt = clock.now()
    watch.beganAt = beganAt
    watch.jitter = random() * (this.#unprobed.has(watch) ? firstJitterRatio : jitterRatio)
    watch.isRunning = true
    this.#concurrent++
    let outcome: ProbeOutcome
    try {
      outcome = await probe(instance, settings, signal)
    } catch {
      outcome = 'bad'
    }
    this.#concurrent--
    watch.isRunning = false
    this.#unprobed.delete(watch)
    if (!signal.aborted) {
      const change = isConclusive(instance, outcome, beganAt) ? recordProbe(instance, outcome === 'ok', settings, clock.now()) : null
      this.#schedule(watch)
      if (change !== null) onChange(instance, change, outcome)
    }
    this.#tellWaiting()
    this.#fill()
  }
}
