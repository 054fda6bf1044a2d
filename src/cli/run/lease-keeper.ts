/**
 * Keeps one instance in the fleet: registers it, renews its lease, registers it again when the lease is gone, and takes it out in the end. A
 * gateway that is away, or refuses, is said once and asked again and again; nothing of that is a failure of the program.
 */
import type { Clock } from '../../clock.ts'
import { authorityOf } from '../../fleet/authority.ts'
import { RegisteredShape, RenewedShape } from '../answers.ts'
import { GatewayAwayError, type GatewayAnswer, type GatewayClient } from '../client.ts'

/** The body of the registration. */
export interface LeasedRegistration {
  readonly name: string
  readonly host: string
  readonly port: number
  readonly ttl: string | number
}

export interface LeaseKeeperOptions {
  readonly client: Pick<GatewayClient, 'ask' | 'send' | 'bodyOf' | 'target'>
  readonly registration: LeasedRegistration
  readonly ttlMs: number
  /** Says something to people. */
  readonly tell: (line: string) => void
  readonly clock: Clock
  /** From 0 to below 1. */
  readonly random: () => number
  /** A failure that people know of already. */
  readonly said: string | null
}

/** A heartbeat comes after a third of the ttl, so that one may be lost; */
const beatsPerTtl = 3
/** and a tenth of that more or less, so that those who started together part. */
const jitter = 0.1

/** Failures are followed by waits from this on, each twice as long, */
const firstRetryMs = 500
/** up to a heartbeat's, or this. */
const lastRetryMs = 30_000

/** How often an instance that drains is looked at. */
const drainPollMs = 200

export class LeaseKeeper {
  readonly #client
  readonly #registration
  readonly #tell
  readonly #clock
  readonly #random
  readonly #beatMs: number
  /** Of the registered instance. */
  #id: string | null = null
  #failures = 0
  /** The last failure that was said. */
  #said: string | null
  /** Whether that was that nobody answered. */
  #wasAway = false
  #hasLeft = false
  #wasLast = false
  #keeping: Promise<void> = Promise.resolve()
  #wake = () => {}

  constructor ({ client, registration, ttlMs, tell, clock, random, said }: LeaseKeeperOptions) {
    this.#client = client
    this.#registration = registration
    this.#tell = tell
    this.#clock = clock
    this.#random = random
    this.#said = said
    this.#beatMs = ttlMs / beatsPerTtl
  }

  /** Begins to register, and to keep. Nothing after leave(). */
  start (): void {
    this.#keeping = this.#keep()
  }

  /**
   * Takes the instance out, if it is in. Never fails: a lease that nobody renews runs out.
   * @param drain wait until the requests that are under way on it are over
   * @param withinMs for no longer than this
   */
  async leave ({ drain, withinMs }: { drain: boolean, withinMs: number }): Promise<void> {
    this.#hasLeft = true
    this.#wake()
    await Promise.race([this.#takeOut(drain), this.#pause(withinMs)])
  }

  /** Whether the instance that left was the agent's last one, as far as the gateway told it. */
  get wasLast (): boolean {
    return this.#wasLast
  }

  async #takeOut (drain: boolean): Promise<void> {
    await this.#keeping // what is under way may still register it
    const path = this.#path()
    if (path === null) return
    try {
      const { status } = await this.#client.ask('DELETE', drain ? `${path}?drain=true` : path)
      if (status >= 300 && status !== 404) return
      if (!drain) this.#id = null
      const answer = await this.#untilGone(path, drain)
      this.#id = null
      this.#wasLast = isNobodyLeft(answer)
    } catch {
      // Whoever is told to end has no use for a gateway that is away.
    }
  }

  /** What drains is listed until it is idle. @returns the answer for what is gone, which tells who else there is */
  async #untilGone (path: string, drain: boolean): Promise<GatewayAnswer> {
    for (;;) {
      if (drain) await this.#pause(drainPollMs)
      const answer = await this.#client.ask('PUT', path)
      if (!drain || answer.status >= 300) return answer
    }
  }

  async #keep (): Promise<void> {
    while (!this.#hasLeft) {
      const waitMs = await this.#renew()
      if (this.#hasLeft) return
      const woken = new Promise<void>(resolve => { this.#wake = resolve })
      await Promise.race([woken, this.#pause(waitMs)])
    }
  }

  /** Registers, or sends a heartbeat. @returns how long to wait for the next time */
  async #renew (): Promise<number> {
    const spread = 1 - jitter + 2 * jitter * this.#random()
    try {
      if (!await this.#beat()) await this.#register()
      else if (this.#said !== null) this.#tell(this.#wasAway ? 'the gateway is back' : `the gateway renews the lease of ${this.#registration.name} again`)
      this.#said = null
      this.#failures = 0
      return this.#beatMs * spread
    } catch (error) {
      const { message } = error as Error
      if (message !== this.#said) this.#tell(`${message}\n${this.#registration.name} runs on, and this is tried again until it works`)
      this.#said = message
      this.#wasAway = error instanceof GatewayAwayError && !error.isAnswer
      return Math.min(firstRetryMs * 2 ** this.#failures++, Math.max(this.#beatMs, firstRetryMs), lastRetryMs) * spread
    }
  }

  /** Whether there was a lease, and is for another ttl. @throws CommandError when nobody can tell */
  async #beat (): Promise<boolean> {
    const path = this.#path()
    if (path === null) return false
    const answer = await this.#client.ask('PUT', path)
    if (isUnknownInstance(answer)) {
      this.#id = null
      return false
    }
    this.#client.bodyOf(answer, RenewedShape)
    return true
  }

  /** @throws CommandError when it is refused, or nobody answers */
  async #register (): Promise<void> {
    const { instance: { id } } = await this.#client.send<{ instance: { id: string } }>('POST', '/registry/register', RegisteredShape, this.#registration)
    this.#id = id
    const { name, host, port } = this.#registration
    this.#tell(`registered ${name} at http://${authorityOf(host, port)}; clients reach it at ${this.#client.target.url}/api/${name}`)
  }

  #path (): string | null {
    return this.#id === null ? null : instancePath(this.#registration.name, this.#id)
  }

  #pause (ms: number): Promise<void> {
    return new Promise(resolve => { this.#clock.after(ms, resolve) })
  }
}

/** Where an instance is in the registration API. */
export function instancePath (name: string, id: string): string {
  return `/registry/${encodeURIComponent(name)}/instances/${encodeURIComponent(id)}`
}

/** Whether a gateway says that it knows no such instance (rather than no such path). */
export function isUnknownInstance ({ status, body }: GatewayAnswer): boolean {
  const { code } = body as { code?: unknown }
  return status === 404 && (code === 'FLEET_INSTANCE_NOT_FOUND' || code === 'FLEET_AGENT_NOT_FOUND')
}

/** Whether a gateway that knows the agent, and not the instance, has no other instance to name. */
function isNobodyLeft ({ body }: GatewayAnswer): boolean {
  const { code, nearest } = body as { code?: unknown, nearest?: unknown }
  return code === 'FLEET_INSTANCE_NOT_FOUND' && Array.isArray(nearest) && nearest.length === 0
}
