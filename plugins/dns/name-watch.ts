/** One name of fleet.yaml: asks for it again and again, and says which instances it leads to. */
import type { Clock } from '../../src/clock.ts'
import type { DnsSource, InstanceDefinition } from '../../src/fleet/definitions.ts'
import { canonicalHost } from '../../src/fleet/address.ts'
import { createLookup, type Lookup, type Service } from './lookup.ts'
import { Question, type Reply } from './question.ts'
import { servicesInUse } from './services.ts'

/** The addresses of one name. */
type Addresses = readonly (readonly ['A' | 'AAAA', Question<string>])[]

/** So many names that SRV records lead to are asked for at once. */
const mostAtOnce = 32

/** What one round of questions met. */
class Round {
  ttlMs = Infinity
  failure: string | null = null

  note (reply: Reply<unknown>): void {
    if (reply.kind === 'failure') this.failure ??= reply.reason
    if (reply.kind === 'records') this.ttlMs = Math.min(this.ttlMs, reply.ttlMs ?? Infinity)
  }
}

/** What becomes of a name. */
export interface NameWatchCalls {
  /** A round of questions is over. */
  onRound (this: void): void
  /** It is time to ask again. */
  onDue (this: void): void
}

export class NameWatch {
  readonly source: DnsSource
  readonly #clock: Clock
  readonly #calls: NameWatchCalls
  readonly #services = new Question<Service>()
  /** By name: that of the source, or those that its SRV records lead to. */
  #addresses = new Map<string, Addresses>()
  #lookup: Lookup | null = null
  #cancelNext: (() => void) | null = null
  #stopped = false
  /** Why the last round got no answer to something; null when it got one to everything. */
  failure: string | null = null
  /** When a round last got an answer to everything, milliseconds since the epoch; null when none did. */
  answeredAt: number | null = null

  constructor (source: DnsSource, clock: Clock, calls: NameWatchCalls) {
    this.source = source
    this.#clock = clock
    this.#calls = calls
  }

  /** Whether anything is known of the name: before that, that it leads to nobody means nothing. */
  get isAnswered (): boolean {
    const { type } = this.source
    if (type === 'SRV' && !this.#services.isAnswered) return false
    const questions = this.#questions()
    return questions.length === 0 || questions.some(question => question.isAnswered)
  }

  /** Whom the name leads to, by all that is known. */
  get instances (): InstanceDefinition[] {
    const { name, type, port, protocol, weight } = this.source
    const services = type === 'SRV' ? servicesInUse(this.#services.known) : [{ name, port: port!, weight }]
    return services.flatMap(service => (this.#addresses.get(service.name) ?? [])
      .flatMap(([, question]) => question.known)
      .map(address => ({ host: canonicalHost(address), port: service.port, protocol, weight: service.weight })))
  }

  /** One round of questions. */
  async ask (): Promise<void> {
    const round = new Round()
    const lookup = this.#lookup = createLookup(this.source.resolvers)
    await this.#askAll(lookup, round)
    if (this.#stopped) return
    this.#lookup = null
    this.failure = round.failure
    if (round.failure === null) this.answeredAt = this.#clock.now()
    this.#cancelNext = this.#clock.after(this.#pauseMs(round), this.#calls.onDue)
    this.#calls.onRound()
  }

  /** What is under way is given up, and nothing more is told. */
  stop (): void {
    this.#stopped = true
    this.#cancelNext?.()
    this.#lookup?.cancel()
  }

  async #askAll (lookup: Lookup, round: Round): Promise<void> {
    const { name, type } = this.source
    let names = [name]
    if (type === 'SRV') {
      const reply = await lookup.services(name)
      round.note(reply)
      this.#services.take(reply)
      names = [...new Set(servicesInUse(this.#services.known).map(service => service.name))]
    }
    this.#addresses = new Map(names.map(known => [known, this.#addresses.get(known) ?? this.#newAddresses()]))
    for (let first = 0; first < names.length && !this.#stopped; first += mostAtOnce) {
      await Promise.all(names.slice(first, first + mostAtOnce).flatMap(known => this.#addresses.get(known)!.map(async ([records, question]) => {
        const reply = await lookup.addresses(known, records)
        round.note(reply)
        question.take(reply)
      })))
    }
  }

  #newAddresses (): Addresses {
    const { type } = this.source
    return (['A', 'AAAA'] as const).filter(records => type === undefined || type === 'SRV' || type === records).map(records => [records, new Question<string>()])
  }

  #questions (): Question<string>[] {
    return [...this.#addresses.values()].flatMap(addresses => addresses.map(([, question]) => question))
  }

  /** Whatever is not sure is asked for again as soon as may be; so is a name that leads to nobody, which has no TTL that is told. */
  #pauseMs ({ ttlMs, failure }: Round): number {
    const { minRefreshMs, maxRefreshMs } = this.source
    const isSure = failure === null && this.isAnswered && !this.#services.isDoubted && !this.#questions().some(question => question.isDoubted)
    return isSure && ttlMs !== Infinity ? Math.min(Math.max(ttlMs, minRefreshMs), maxRefreshMs) : minRefreshMs
  }
}
