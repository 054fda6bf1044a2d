/** Drains of instances that several gateways share: one ends when no gateway has a request of its instance under way, which Redis decides. */
import { authorityOf } from '../../src/fleet/authority.ts'
import { leaseKey } from '../../src/fleet/lapses.ts'
import type { Registry } from '../../src/fleet/registry.ts'

export class SharedDrains {
  readonly #registry: Registry
  /** Drains that this gateway was asked for, as leases are named: of an instance that the file or DNS has as well, it keeps out what is left. */
  readonly #askedHere = new Set<string>()

  constructor (registry: Registry) {
    this.#registry = registry
  }

  /** This gateway was asked to drain an instance. */
  askedHere (name: string, authority: string): void {
    this.#askedHere.add(leaseKey(name, authority))
  }

  /** Ends what was asked for here and is over. */
  end (name: string): void {
    for (const key of this.#askedHere) {
      const [agent, authority = ''] = key.split(' ')
      if (agent !== name) continue
      const instance = this.#registry.find(name)?.instances.find(({ host, port }) => authorityOf(host, port) === authority)
      const isRegistered = this.#registry.isRegistered(name, authority)
      if (isRegistered && instance?.runtime.draining === true) continue
      this.#askedHere.delete(key)
      if (!isRegistered && instance !== undefined) this.#registry.removeInstance(name, instance.id)
    }
  }

  /** What drains, with whether requests of this gateway are under way there. */
  * underWay (): Generator<{ name: string, authority: string, isBusy: boolean }> {
    for (const { name, instances } of this.#registry.agents()) {
      for (const { host, port, runtime } of instances) {
        const authority = authorityOf(host, port)
        if (runtime.draining && this.#registry.isRegistered(name, authority)) yield { name, authority, isBusy: runtime.inFlight > 0 }
      }
    }
  }
}
