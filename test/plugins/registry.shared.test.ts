/** plugins/registry/shared.ts with a Redis whose answers come when the test says. With a real one it is in test/e2e/redis.test.ts. */
import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import type { FleetRedis } from '../../plugins/redis/index.ts'
import { shareRegistrations } from '../../plugins/registry/shared.ts'
import { instanceFields } from '../../plugins/registry/shared-agent.ts'
import { build } from '../helpers/registry-alone.ts'

type Answer = (value: unknown) => void

/** Of each connection: commands are answered at once but for `read`, which waits in `reads`. */
class FakeRedis extends EventEmitter {
  readonly reads: Answer[]
  readonly connections: FakeRedis[]
  readonly options = { commandTimeout: 500 }
  /** By command. */
  readonly answers = new Map<string, unknown>()

  constructor (reads: Answer[] = [], connections: FakeRedis[] = []) {
    super()
    this.reads = reads
    this.connections = connections
    connections.push(this)
  }

  duplicate (): FakeRedis { return new FakeRedis(this.reads, this.connections) }

  defineCommand (name: string): void {
    const answer = name === 'fleet_read' ? () => new Promise(resolve => this.reads.push(resolve)) : async () => this.answers.get(name) ?? ['epoch', '1', '', '0']
    Object.assign(this, { [name]: answer })
  }

  async connect (): Promise<void> { this.emit('ready') }
  async subscribe (): Promise<void> {}
  async smembers (): Promise<string[]> { return [] }
  disconnect (): void {}
}

/** A registry that is shared. */
async function sharing (t: Test) {
  const client = new FakeRedis()
  const { registry, clock } = build()
  const redis = { client, isUp: true, key: (...parts: string[]) => parts.join(':'), onStatus: () => () => {} } as unknown as FleetRedis
  const shared = shareRegistrations({ redis, registry, clock, log: Fastify().log, known: null, hostRules: () => ({}), onApplied: () => {} })
  t.teardown(() => shared.close())
  await shared.begin()
  /** What another gateway told. */
  const tell = async (message: string) => {
    const [, subscriber] = client.connections
    subscriber!.emit('message', 'changes', message)
    await nextTurn()
  }
  return { client, registry, shared, tell }
}

t.test('of two answers about an agent the later version counts, whichever comes last, and is known no longer than it has to be', async t => {
  const { client, registry, tell } = await sharing(t)
  let version = 1
  /** Another gateway registered something, which this one begins to read. */
  const begun = async () => {
    await tell(`epoch ${++version} written planner localhost:1`)
    return client.reads.pop()!
  }
  const answer = async (read: Answer, at: number, port: number) => {
    read(['epoch', String(at), instanceFields({ host: 'localhost', port, protocol: 'http', weight: 1 })])
    await nextTurn()
    return registry.get('planner').instances.map(instance => instance.port)
  }

  const [first, second] = [await begun(), await begun()]
  t.same(await answer(second, 3, 3_000), [3_000])
  t.same(await answer(first, 2, 2_000), [3_000])
  t.same(await answer(await begun(), 1, 1_000), [1_000], 'what no server would answer that had answered 3')
})

t.test('a change that changed nothing does not stand for the one that somebody else made meanwhile', async t => {
  const { client, registry, shared, tell } = await sharing(t)
  const fields = instanceFields({ host: 'localhost', port: 1_000, protocol: 'http', weight: 1 })
  client.answers.set('fleet_write', ['epoch', '2', fields, 1])
  const { instance } = await shared.register({ name: 'planner', host: 'localhost', port: 1_000 } as Parameters<typeof shared.register>[0])
  t.equal(shared.known?.version, 2, 'its own is known when it is answered, whatever was told by then')

  client.answers.set('fleet_drain', ['epoch', '3', fields, 0])
  const drained = shared.drain('planner', instance.id)
  await nextTurn()
  t.equal(shared.known?.version, 2)
  await tell('epoch 3 put coder localhost:2')
  t.equal(client.reads.length, 1, 'that is read')
  client.reads.pop()!(['epoch', '3', instanceFields({ host: 'localhost', port: 2_000, protocol: 'http', weight: 1 }), 0])
  await drained
  t.equal(shared.known?.version, 3)
  t.same(registry.get('coder').instances.map(({ port }) => port), [2_000])
})
