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
  readonly answers: Map<string, unknown>
  /** Changes that were asked for: the command and what it is about. */
  readonly changes: unknown[][]
  touched: string[] = []

  constructor ({ reads = [], connections = [], answers = new Map(), changes = [] }: Partial<Pick<FakeRedis, 'reads' | 'connections' | 'answers' | 'changes'>> = {}) {
    super()
    this.reads = reads
    this.connections = connections
    this.answers = answers
    this.changes = changes
    connections.push(this)
  }

  duplicate (): FakeRedis { return new FakeRedis(this) }

  defineCommand (name: string): void {
    const read = () => new Promise((resolve, reject) => {
      this.reads.push(resolve)
      this.once('cut', () => reject(new Error('Connection is closed.')))
    })
    const answer = async (...args: unknown[]) => {
      const [epoch, , , agent, authority] = args.slice(8) // behind the keys
      if (/write|remove|drain/.test(name)) this.changes.push([name, epoch, agent, authority])
      return this.answers.get(name) ?? ['epoch', '1', '', '0']
    }
    Object.assign(this, { [name]: name === 'fleet_read' ? read : answer })
  }

  async connect (): Promise<void> { this.emit('ready') }
  async subscribe (): Promise<void> {}
  async smembers (key: string): Promise<string[]> { return key.endsWith('touched') ? this.touched : [] }
  disconnect (): void { this.emit('cut') }
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
  const at = (port: number) => instanceFields({ host: 'localhost', port, protocol: 'http', weight: 1 })
  /** Redis answers this. */
  const register = async (name: string, port: number, answer: unknown[]) => {
    client.answers.set('fleet_write', answer)
    return await shared.register({ name, host: 'localhost', port } as Parameters<typeof shared.register>[0])
  }
  /** Redis had lost its data, and another gateway has written it again. */
  const lose = (origin: string, touched: readonly string[]) => {
    client.changes.length = 0
    client.touched = [...touched]
    client.answers.set('fleet_look', ['again', '9', origin, '0']).set('fleet_merge', 1)
  }
  return { client, registry, shared, tell, at, register, lose }
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
  const { client, registry, shared, tell, at, register } = await sharing(t)
  const { instance } = await register('planner', 1_000, ['epoch', '2', at(1_000), 1])
  t.equal(shared.known?.version, 2, 'its own is known when it is answered, whatever was told by then')

  client.answers.set('fleet_drain', ['epoch', '3', at(1_000), 0])
  const drained = shared.drain('planner', instance.id)
  await nextTurn()
  t.equal(shared.known?.version, 2)
  await tell('epoch 3 put coder localhost:2')
  t.equal(client.reads.length, 1, 'that is read')
  client.reads.pop()!(['epoch', '3', at(2_000), 0])
  await drained
  t.equal(shared.known?.version, 3)
  t.same(registry.get('coder').instances.map(({ port }) => port), [2_000])
})

t.test('a change that is answered when other data is known already is not acknowledged', async t => {
  const { registry, register } = await sharing(t)
  await t.rejects(register('planner', 1_000, ['before', '2', [], 1]), { code: 'FLEET_NOT_KEPT' })
  t.equal(registry.find('planner'), undefined)
})

t.test('in data that was written again without them, changes are made again that are still so and that nobody has touched since', async t => {
  for (const [touched, origin, expected, isAllKnown = false] of [
    [[''], 'epoch:1', [], true],
    [[''], 'epoch:1', [['fleet_write', 'stays'], ['fleet_remove', 'gone']]],
    [['', 'stays localhost:1'], 'epoch:3', [['fleet_remove', 'gone']]],
    [['', 'gone localhost:9'], 'epoch:1', [['fleet_write', 'stays']]],
    [['', 'gone ', 'stays '], 'epoch:1', []],
    [[''], 'epoch:4', [['fleet_remove', 'gone']]],
    [[''], 'other:9 epoch:6', []],
    [[], 'epoch:1', []]
  ] as const) {
    const { client, shared, tell, at, register, lose } = await sharing(t)
    await tell('epoch 2 put slow localhost:5') // and is not read
    await register('gone', 2, ['epoch', '3', at(2), 1])
    await register('stays', 1, ['epoch', '4', at(1), 1])
    client.answers.set('fleet_remove', ['epoch', '5', [], 1])
    await shared.removeAgent('gone')
    await register('left', 3, ['epoch', '6', at(3), 1])
    await tell('epoch 7 removed left localhost:3') // by somebody else
    client.reads.pop()!(['epoch', '7', [], 0])
    await nextTurn()
    t.match(shared.known, { epoch: 'epoch', version: 1 })
    if (isAllKnown) client.reads.pop()!(['epoch', '7', at(5), 0])
    await nextTurn()

    lose(origin, touched)
    await tell('again 9 all  ')
    await nextTurn()
    t.same(client.changes, expected.map(([command, name]) => [command, 'again', name, command === 'fleet_write' ? 'localhost:1' : '']), `${touched} ${origin}`)
  }
})
