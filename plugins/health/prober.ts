/**
 * When each instance is probed, and that its record learns of the outcome. One tick looks for what is due, so that ten thousand
 * instances cost one timer; a queue bounds how many probes are under way and gives everybody a turn.
 */
import type { Clock } from '../../src/clock.ts'
import type { Instance, InstanceRuntime } from '../../src/fleet/instance.ts'
import { awaitsProbes, forgetProbes, isConclusive, needsFastProbe, recordProbe, type HealthChange, type ProbeOutcome } from '../../src/fleet/outlier.ts'
import type { Registry } from '../../src/fleet/registry.ts'
import { DueTimes } from './due-times.ts'
import type { HealthOptions } from './options.ts'
import type { Probe, ProbeFinding } from './probe.ts'

/** What a Prober works with. */
export interface ProberSeams {
  readonly registry: Registry
  readonly clock: Clock
  readonly probe: Probe
  /** From 0 to below 1, for jitter. */
  readonly random: () => number
  /** Told of each change that a probe made to an instance's record. */
  readonly onChange: (instance: Instance, change: HealthChange, outcome: ProbeOutcome, reason: string | null) => void
}

/** How often the schedule is looked at. */
const tickMs = 100
/** In each so many ticks the settings are looked up anew, when the registry has changed. */
const ticksPerReview = 10
/** The period of an instance that probes can restore, or of which one has failed: its state is to be known within seconds. */
const fastPeriodMs = 1_000
/** A period is shortened by at most this share, so that instances that came together drift apart. */
const jitterRatio = 0.1
/** The first one by more, so that they do so soon; also the first after fast ones, which brought together what failed together. */
const firstJitterRatio = 0.5
/** The most probes that are under way at once. */
const maxConcurrentProbes = 64
/** Of these, for instances that probes can restore: a rack that answers nobody must not hold up all others by its timeouts. */
const maxRestoringProbes = 48

interface Watch {
  readonly instance: Instance
  settings: HealthOptions
  /** 0 when nobody was asked what is asked now. */
  beganAt: number
  /** From 0 to below 1: how much of the most that it may be shortened the present period is. */
  jitter: number
  /** The present period may be shortened by more. */
  isSpread: boolean
  /** A request could not connect to it since its last probe began. */
  isHurried: boolean
  /** Ends the probe that is under way; null when there is none. */
  running: AbortController | null
}

/** Somebody who waits until each of these was probed, or is gone. */
interface Round {
  readonly unprobed: Set<Watch>
  readonly resolve: () => void
}

export class Prober {
  readonly #seams: ProberSeams
  readonly #watches = new Map<InstanceRuntime, Watch>()
  /** Never while its probe is under way. */
  readonly #dueTimes = new DueTimes<Watch>()
  /** Due, and waiting for their turn, in order: */
  readonly #queue = new Set<Watch>()
  /** those that probes can restore in a queue of their own. */
  readonly #restoring = new Set<Watch>()
  #defaults: HealthOptions
  #concurrent = 0
  #concurrentRestoring = 0
  #ticks = 0
  #tickedAt = 0
  /** Of the registry, when the settings were looked up. */
  #revision = -1
  #stops: (() => void)[] = []
  /** Those of which no probe has ended yet. */
  readonly #unprobed = new Set<Watch>()
  readonly #rounds = new Set<Round>()
  /** Resolves when it is known whom there is to probe: at start() or stop(). */
  readonly #begun: Promise<void>
  #begin: () => void = () => {}

  /** @param defaults what agents can override one by one */
  constructor (seams: ProberSeams, defaults: HealthOptions) {
    this.#seams = seams
    this.#defaults = defaults
    this.#begun = new Promise(resolve => { this.#begin = resolve })
  }

  /** Probes every instance at once, each new one as it comes, and all of them time and again until stop(). */
  start (): void {
    const { registry, clock } = this.#seams
    this.#tickedAt = clock.now()
    for (const agent of registry.agents()) agent.instances.forEach(instance => this.#watch(instance))
    this.#stops = [
      registry.onChange(({ added, removed }) => {
        for (const { runtime } of removed) this.#forget(runtime)
        for (const instance of added) this.#watch(instance)
        this.#fill()
      }),
      clock.every(tickMs, () => this.#tick())
    ]
    this.#begin()
    this.#fill()
  }

  /** Ends all probes, and what they have open. */
  stop (): void {
    this.#begin()
    for (const stop of this.#stops) stop()
    for (const runtime of [...this.#watches.keys()]) this.#forget(runtime)
  }

  /** New defaults, from now on. */
  reconfigure (defaults: HealthOptions): void {
    this.#defaults = defaults
    for (const watch of this.#watches.values()) this.#review(watch)
  }

  /** Resolves when each instance that is known now, or at the start, was probed once or is gone. */
  async firstRound (): Promise<void> {
    await this.#begun
    if (this.#unprobed.size === 0) return
    await new Promise<void>(resolve => this.#rounds.add({ unprobed: new Set(this.#unprobed), resolve }))
  }

  /** One probe of it has ended, or it is gone. */
  #setProbed (watch: Watch): void {
    this.#unprobed.delete(watch)
    for (const round of this.#rounds) {
      round.unprobed.delete(watch)
      if (round.unprobed.size > 0) continue
      this.#rounds.delete(round)
      round.resolve()
    }
  }

  /** What counts for the instance: its agent's settings over the defaults. */
  settingsOf ({ agent }: Instance): HealthOptions {
    const own = this.#seams.registry.find(agent)?.policy.health
    return own === undefined ? this.#defaults : { ...this.#defaults, ...own }
  }

  /** A request could not connect to the instance, so it is asked within a second whether anybody can. */
  hurry ({ runtime }: Instance): void {
    const watch = this.#watches.get(runtime)
    if (watch === undefined || watch.isHurried) return
    watch.isHurried = true
    this.#schedule(watch)
  }

  /** A request has changed what is known of the instance: it may have to be asked often now. @returns whether it is in the registry still */
  reconsider ({ runtime }: Instance): boolean {
    const watch = this.#watches.get(runtime)
    if (watch === undefined) return false
    this.#review(watch)
    return true
  }

  #watch (instance: Instance): void {
    const watch: Watch = { instance, settings: this.settingsOf(instance), beganAt: 0, jitter: 0, isSpread: true, isHurried: false, running: null }
    this.#watches.set(instance.runtime, watch)
    this.#dueTimes.add(watch)
    this.#unprobed.add(watch)
    this.#queue.add(watch)
  }

  #forget (runtime: InstanceRuntime): void {
    const watch = this.#watches.get(runtime)
    if (watch === undefined) return
    this.#watches.delete(runtime)
    this.#dueTimes.delete(watch)
    this.#queue.delete(watch)
    this.#restoring.delete(watch)
    watch.running?.abort()
    this.#setProbed(watch)
  }

  #tick (): void {
    const { registry, clock } = this.#seams
    const now = clock.now()
    if (now < this.#tickedAt) this.#forgetFuture(now)
    this.#tickedAt = now
    if (++this.#ticks % ticksPerReview === 0 && this.#revision !== registry.revision) {
      this.#revision = registry.revision
      for (const watch of this.#watches.values()) this.#review(watch)
    }
    for (const watch of this.#dueTimes.until(now + tickMs / 2)) this.#enqueue(watch) // to the nearest tick
    this.#fill()
  }

  /** The clock was set back: what began in the future began before that, and is due. */
  #forgetFuture (now: number): void {
    for (const watch of this.#watches.values()) {
      if (watch.beganAt <= now) continue
      watch.beganAt = 0
      this.#schedule(watch)
    }
  }

  #enqueue (watch: Watch): void {
    const [queue, other] = awaitsProbes(watch.instance) ? [this.#restoring, this.#queue] : [this.#queue, this.#restoring]
    other.delete(watch)
    queue.add(watch)
  }

  /** Takes the settings as they are now. What asks something else is asked at once, and what came of the old question says nothing of it. */
  #review (watch: Watch): void {
    const { path, timeout } = watch.settings
    watch.settings = this.settingsOf(watch.instance)
    const isOtherQuestion = watch.settings.path !== path
    if (isOtherQuestion || watch.settings.timeout !== timeout) watch.running?.abort()
    if (isOtherQuestion) {
      forgetProbes(watch.instance)
      watch.beganAt = 0
    }
    this.#schedule(watch)
  }

  #schedule (watch: Watch): void {
    const { interval } = watch.settings
    const isFast = watch.isHurried || needsFastProbe(watch.instance)
    const periodMs = isFast ? Math.min(fastPeriodMs, interval) : interval
    const ratio = watch.isSpread && !isFast ? firstJitterRatio : jitterRatio
    if (watch.running === null) this.#dueTimes.set(watch, watch.beganAt + periodMs * (1 - watch.jitter * ratio))
  }

  #fill (): void {
    while (this.#concurrent < maxConcurrentProbes) {
      const watch = (this.#concurrentRestoring < maxRestoringProbes ? firstOf(this.#restoring) : undefined) ?? firstOf(this.#queue)
      if (watch === undefined) return
      const isRestoring = this.#restoring.delete(watch)
      this.#queue.delete(watch)
      this.#concurrent++
      if (isRestoring) this.#concurrentRestoring++
      void this.#probe(watch).finally(() => {
        this.#concurrent--
        if (isRestoring) this.#concurrentRestoring--
        this.#fill()
      })
    }
  }

  async #probe (watch: Watch): Promise<void> {
    const { probe, clock, random, onChange } = this.#seams
    const { instance, settings } = watch
    const beganAt = clock.now()
    const running = new AbortController()
    watch.isSpread = watch.beganAt === 0 || needsFastProbe(instance)
    watch.beganAt = beganAt
    watch.jitter = random()
    watch.isHurried = false
    watch.running = running
    this.#dueTimes.set(watch, Infinity)
    let found: ProbeFinding
    try {
      found = await probe(instance, settings, running.signal)
    } catch {
      found = 'bad'
    }
    const { outcome, reason } = typeof found === 'string' ? { outcome: found, reason: null } : found
    watch.running = null
    if (running.signal.aborted) { // it is gone, or to be asked anew
      watch.beganAt = 0
      this.#dueTimes.set(watch, 0)
      return
    }
    const change = isConclusive(instance, outcome, beganAt) ? recordProbe(instance, outcome === 'ok', watch.settings, clock.now()) : null
    this.#schedule(watch)
    if (change !== null) onChange(instance, change, outcome, reason)
    this.#setProbed(watch)
  }
}

function firstOf (queue: ReadonlySet<Watch>): Watch | undefined {
  return queue.values().next().value
}
