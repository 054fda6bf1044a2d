/**
 * The documents of all agents, asked for when somebody wants them and kept for a minute: so many at once, and so many kept.
 */
import type { Agent, Rotation } from '../../src/fleet/agent.ts'
import { isServing } from '../../src/fleet/instance.ts'
import { readAgentDocument, type AgentDocument } from './agent-document.ts'
import { askForDocument, NoDocument, type Ways } from './ask-agent.ts'

/** A document, or why there is none, in words that follow the request for it. */
export type Finding = AgentDocument | { readonly problem: string }

const keptMs = 60_000
/** Where there was none: the agent may just be starting. */
const problemKeptMs = 10_000
/** Who wants all documents waits no longer, however many agents hang. */
const patienceMs = 3_500
const mostKept = 100
const mostAtOnce = 8

interface Kept {
  readonly at: number
  forMs: number
  /** Tells the agent from another one that has its name now. */
  readonly rotation: Rotation
  readonly finding: Promise<Finding>
}

export class AgentDocuments {
  readonly #ways: Ways
  readonly #kept = new Map<string, Kept>()
  readonly #closing = new AbortController()
  readonly #waiting: (() => void)[] = []
  #asking = 0

  constructor (ways: Ways) {
    this.#ways = ways
  }

  /** What the agent has. Never rejects. */
  of (agent: Agent): Promise<Finding> {
    const { name, rotation } = agent
    const now = this.#ways.clock.now()
    const known = this.#kept.get(name)
    if (known !== undefined && known.rotation === rotation && Math.abs(now - known.at) < known.forMs) return known.finding
    this.#kept.delete(name)
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size < mostKept) break
      this.#kept.delete(oldest)
    }
    const finding = this.#find(agent)
    const kept = { at: now, forMs: keptMs, rotation, finding }
    this.#kept.set(name, kept)
    void finding.then(found => { if ('problem' in found) kept.forMs = problemKeptMs })
    return finding
  }

  /** What these agents have, as far as they say so soon. */
  async ofAll (agents: readonly Agent[]): Promise<Finding[]> {
    let cancel = () => {}
    const impatient = new Promise<Finding>(resolve => {
      cancel = this.#ways.clock.after(patienceMs, () => resolve({ problem: 'is not answered yet' }))
    })
    try {
      return await Promise.all(agents.map(agent => Promise.race([this.of(agent), impatient])))
    } finally {
      cancel()
    }
  }

  /** Ends what is under way. */
  close (): void {
    this.#closing.abort()
  }

  async #find (agent: Agent): Promise<Finding> {
    const instance = agent.instances.find(isServing)
    if (instance === undefined) return { problem: 'finds no instance that serves' }
    if (this.#asking >= mostAtOnce) await new Promise<void>(resolve => this.#waiting.push(resolve))
    this.#asking++
    try {
      return readAgentDocument(await askForDocument(instance, this.#ways, this.#closing.signal))
    } catch (error) {
      return { problem: error instanceof NoDocument ? error.message : 'can not be sent' } // files of its TLS are no good
    } finally {
      this.#asking--
      this.#waiting.shift()?.()
    }
  }
}
