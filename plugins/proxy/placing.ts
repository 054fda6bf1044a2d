/**
 * Where the attempts of one request go: its first instance, another one when nothing could be sent, and the instance for its retry. When
 * that is allowed, RetryRules and the request itself decide; who is available, and whose turn it is, upstream.
 */
import type { Upstream, Waiter } from '../upstream/index.ts'
import type { FleetError } from '../../src/errors.ts'
import type { Agent } from '../../src/fleet/agent.ts'
import type { Asker } from '../../src/fleet/balancer.ts'
import type { Instance } from '../../src/fleet/instance.ts'

/** Who makes the attempts. None of these may throw. */
export interface PlacingOwner {
  /** The instance for the next attempt, which begins before this returns. */
  onInstance (instance: Instance): void
  /** There is none: what the client is to be told. */
  onNoInstance (error: FleetError): void
}

export class Placing implements Waiter {
  readonly asker: Asker
  hasTried = false
  readonly #upstream: Upstream
  readonly #agent: Agent
  readonly #owner: PlacingOwner
  #tried: Instance[] = []
  /** Those of them that could not be talked to: they are not asked again. */
  readonly #unreachable: Instance[] = []
  /** Gives back the place that is kept over a pause. */
  #unhold: (() => void) | null = null
  /** What the last attempt ended with, while a further one is looked for. */
  #lastError: FleetError | null = null
  #pauseTimer: NodeJS.Timeout | null = null

  constructor (upstream: Upstream, agent: Agent, asker: Asker, owner: PlacingOwner) {
    this.#upstream = upstream
    this.#agent = agent
    this.asker = asker
    this.#owner = owner
  }

  get tried (): readonly Instance[] {
    return this.#tried
  }

  /** Asks for an instance that was not tried. */
  take (): void {
    this.#upstream.place(this.#agent, this)
  }

  /** Nothing was sent: the next instance, and `error` for the client when there is none. */
  goOn (error: FleetError): void {
    this.#lastError = error
    this.#unreachable.push(this.#tried.at(-1)!)
    this.take()
  }

  /**
   * The one retry: on another available instance, else on the same one, or whoever is available by then, after a moment. The place at the
   * instance is kept meanwhile.
   * @param error for the client when there is none any more; what upstream says of it when left out
   */
  repeat (error: FleetError | null = null): void {
    this.#lastError = error
    if (this.#hasOther()) return this.take()
    this.#unhold = this.#upstream.hold(this.#tried.at(-1)!)
    // At random, so that they do not come all at once.
    const pauseMs = 25 + Math.random() * 75
    this.#pauseTimer = setTimeout(() => {
      this.#giveUpPlace()
      if (!this.#hasOther()) this.#tried = [...this.#unreachable]
      this.take()
    }, pauseMs)
  }

  /** No instance is wanted any more. */
  stop (): void {
    this.#upstream.leave(this.#agent, this)
    if (this.#pauseTimer !== null) clearTimeout(this.#pauseTimer)
    this.#giveUpPlace()
  }

  #giveUpPlace (): void {
    this.#unhold?.()
    this.#unhold = null
  }

  onPlace (instance: Instance): void {
    this.#lastError = null
    this.hasTried = true
    this.#tried.push(instance)
    this.#owner.onInstance(instance)
  }

  onRefused (error: FleetError): void {
    this.#owner.onNoInstance(this.#lastError ?? error)
  }

  #hasOther (): boolean {
    return this.#upstream.hasRoom(this.#agent, this.#tried)
  }
}
