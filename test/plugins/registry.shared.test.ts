/** plugins/registry/shared.ts and shared-data.ts with a Redis whose answers come when the test says. With a real one it is in test/e2e/redis.test.ts. */
import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import type { FleetRedis } from '../../plugins/redis/index.ts'
import { shareRegistrations } from '../../plugins/registry/shared.ts'
import { instanceFields, type ChangedEntry } from '../../plugins/registry/shared-agent.ts'
import { build } from '../helpers/registry-alone.ts'

type Answer = (value: unknown) => void

/** Of each connection: commands are answered at once but for `read`, which waits in `reads`. */
class FakeRedis extends EventEmitter {
  readonly reads: Answer[]
  readonly connections: FakeRedis[]
  readonly options = { commandTimeout: 500 }
  /** By command. */
  readonly answers: Map<string, unknown>
  /** Of the last change. */
  deadline = NaN
  /** What the data was made of that was written again. */
  restoredOf: string | undefined
  /** Parts that were changed since the data was made, and versions. */
  readonly touched: string[]
  /** What was made again. */
  readonly again: ChangedEntry[]

  constructor ({ reads = [], connections = [], answers = new Map(), touched = [], again = [] }: Partial<Pick<FakeRedis, 'reads' | 'connections' | 'answers' | 'touched' | 'again'>> = {}) {
    super()
    this.reads = reads
    this.connections = connections
    this.answers = answers
    this.touched = touched
    this.again = again
    connections.push(this)
  }

  duplicate (): FakeRedis { return new FakeRedis(this) }

  defineCommand (name: string): void {
    const read = () => new Promise((resolve, reject) => {
      this.reads.push(resolve)
      this.once('cut', () => reject(new Error('Connection is closed.')))
    })
    const answer = async (...args: unknown[]) => {
      if (name === 'fleet_write') this.deadline = Number(args[10])
      if (name === 'fleet_restore') {
        this.restoredOf = args[12] as string
        this.answers.set('fleet_look', [args[10], '10', args[12], '0'])
      }
      if (name === 'fleet_again') this.answers.set('fleet_look', ['again', '12', args[11], '0'])
      if (name === 'fleet_again') this.again.push(...JSON.parse(args[10] as string) as ChangedEntry[]) // behind the keys, the epoch and the channel
      if (name === 'fleet_touched') return [(this.answers.get('fleet_look') as string[] | undefined)?.[0] ?? 'epoch', ...this.touched]
      return this.answers.get(name) ?? ['epoch', '1', '', '0']
    }
    Object.assign(this, { [name]: name === 'fleet_read' ? read : answer })
  }

  async connect (): Promise<void> { this.emit('ready') }
  async subscribe (): Promise<void> {}
  async smembers (): Promise<string[]> { return [] }
  async hget (): Promise<null> { return null }
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
  const register = async (name: string, port: number, answer: unknown[] | Promise<unknown[]>, settings = {}) => {
    client.answers.set('fleet_write', answer)
    return await shared.register({ name, host: 'localhost', port, ...settings } as Parameters<typeof shared.register>[0])
  }
  /** Redis had lost its data, and another gateway has written it again. */
  const lose = async (origin: string) => {
    client.answers.set('fleet_look', ['again', '9', origin, '0']).set('fleet_merge', 1).set('fleet_again', 1)
    await tell('again 9 all  ')
    await nextTurn()
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
  const { instance } = await register('planner', 1_000, ['epoch', '2', at(1_000), 1, ['localhost:1000']])
  t.equal(shared.known?.version, 2, 'its own is known when it is answered, whatever was told by then')

  client.answers.set('fleet_drain', ['epoch', '3', at(1_000), 0, []])
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

t.test('whether there is an agent is not told by other data than what is known', async t => {
  const { client, shared } = await sharing(t)
  const answer = async (epoch: string) => {
    const known = shared.catchUp('planner')
    await nextTurn()
    client.reads.pop()!([epoch, '1', [], 0])
    return await known
  }
  t.equal(await answer('epoch'), true)
  await t.rejects(answer(''), { code: 'FLEET_NOT_KEPT' })
})

t.test('what was only being read when the data was lost is not known', async t => {
  const { client, shared, tell, at, register } = await sharing(t)
  await register('planner', 1, ['epoch', '2', at(1), 1, ['localhost:1']])
  client.answers.set('fleet_look', ['epoch', '9', '', '0'])
  await tell('epoch 9 put coder localhost:1') // what was told in between was not heard
  t.equal(client.reads.length, 1)

  client.answers.set('fleet_look', ['', '0', '', '0']).set('fleet_restore', 1)
  client.reads.pop()!(['', '0', [], 0])
  await nextTurn()
  t.equal(client.connections.find(({ restoredOf }) => restoredOf !== undefined)?.restoredOf, 'epoch:2')
  t.match(shared.known, { epoch: 'epoch', version: 2 }, 'until all is read')
})

t.test('what others did is taken while changes of the same agent are on their way, but for what those are about', async t => {
  const { client, registry, shared, tell, at, register } = await sharing(t)
  const planner = () => registry.find('planner')
  const ports = () => planner()?.instances.map(({ port }) => port)
  let fail = (_reason: Error) => {}
  const pending = register('planner', 1, new Promise((_resolve, reject) => { fail = reject }), { metadata: { mine: true } })
  await tell('epoch 2 put planner localhost:2')
  client.reads.pop()!(['epoch', '2', [...at(2), 'metadata', '{"mine":false}', 'policy.retries', '5'], 0])
  await nextTurn()
  t.same(ports(), [2, 1])
  t.match([planner()?.metadata, planner()?.policy], [{ mine: true }, {}], 'settings are one part')
  t.match(shared.known, { version: 1 }, 'it is not the same as in Redis')

  await register('planner', 3, ['epoch', '3', [...at(1), ...at(2), ...at(3)], 1, ['localhost:3']])
  t.same(ports(), [2, 3, 1])
  fail(new Error('no answer'))
  await t.rejects(pending, { code: 'FLEET_NOT_KEPT' })
  t.same(ports(), [2, 3], 'what was replaced around it does not keep it from being undone')
  t.match(shared.known, { version: 1 })
  for (const read of client.reads.splice(0)) read(['epoch', '3', [...at(2), ...at(3), 'metadata', '{"mine":false}'], 0])
  await nextTurn()
  t.same([ports(), planner()?.metadata], [[2, 3], { mine: false }])
  t.match(shared.known, { version: 3 })
})

t.test('an alias that a refused registration held for the time being is its owner\'s then', async t => {
  const { client, registry, tell, at, register } = await sharing(t)
  let answer = (_value: unknown[]) => {}
  const pending = register('planner', 1, new Promise(resolve => { answer = resolve }), { aliases: ['p'] })
  await tell('epoch 2 put other localhost:2')
  const other = ['epoch', '2', [...at(2), 'aliases', '["p"]'], 0]
  client.reads.pop()!(other)
  await nextTurn()
  t.equal(registry.get('p').name, 'planner')

  answer(['taken', 'p', 'other'])
  await t.rejects(pending, { code: 'FLEET_NAME_CONFLICT' })
  await nextTurn()
  for (const read of client.reads.splice(0)) read(other)
  await nextTurn()
  t.equal(registry.find('p')?.name, 'other')
})

t.test('an answer that came late does not make known what a later one was not taken whole of', async t => {
  const { client, registry, shared, tell, at, register } = await sharing(t)
  await tell('epoch 2 put planner localhost:2')
  await tell('epoch 3 put planner localhost:3')
  const [first, second] = client.reads.splice(0)
  let answer = (_value: unknown[]) => {}
  const pending = register('planner', 1, new Promise(resolve => { answer = resolve }))
  second!(['epoch', '3', [...at(2), ...at(3)], 0])
  await nextTurn()
  answer(['taken', 'planner', 'other'])
  await t.rejects(pending, { code: 'FLEET_NAME_CONFLICT' })
  first!(['epoch', '2', at(2), 0])
  await nextTurn()
  t.same(registry.get('planner').instances.map(({ port }) => port), [2, 3])
  t.match(shared.known, { version: 1 })
})

t.test('a drain that is on its way is not over for what is read meanwhile', async t => {
  const { client, registry, shared, tell, at, register } = await sharing(t)
  registry.replaceFile([{ name: 'planner', instances: [{ host: 'localhost', port: 1, protocol: 'http', weight: 1 }] }])
  const { instance } = await register('planner', 1, ['epoch', '2', at(1), 1, ['localhost:1']])
  let answer = (_value: unknown[]) => {}
  client.answers.set('fleet_drain', new Promise(resolve => { answer = resolve }))
  const drained = shared.drain('planner', instance.id)
  await tell('epoch 3 put planner localhost:2')
  client.reads.pop()!(['epoch', '3', [...at(1), ...at(2)], 0])
  await nextTurn()
  answer(['epoch', '4', [...at(1), 'd:localhost:1', '0', ...at(2)], 1, ['localhost:1']])
  await drained
  await tell('epoch 5 drained planner localhost:1')
  client.reads.pop()!(['epoch', '5', at(2), 0])
  await nextTurn()
  t.same(registry.get('planner').instances.map(({ port }) => port), [2], 'of the file, too, what was drained here is out')
})

t.test('whether there is an instance is told while changes of its agent are on their way', async t => {
  const { client, registry, shared, at, register } = await sharing(t)
  await register('planner', 1, ['epoch', '2', at(1), 1, ['localhost:1']])
  const never = new Promise<never>(() => {})
  void register('planner', 2, never)
  client.answers.set('fleet_remove', never)
  void shared.removeAgent('planner')
  const known = shared.catchUp('planner')
  await nextTurn()
  client.reads.pop()!(['epoch', '3', at(3), 0])
  t.equal(await known, true)
  t.same(registry.get('planner').instances.map(({ port }) => port), [3, 2])
})

t.test('by when a change has to be there is not put off by an answer that took long', async t => {
  const { client, tell, at, register } = await sharing(t)
  let answer = (_value: unknown) => {}
  client.answers.set('fleet_look', new Promise(resolve => { answer = resolve }))
  const asked = performance.now()
  await tell('epoch 9 all  ')
  while (performance.now() < asked + 20) await nextTurn()
  const before = performance.now()
  answer(['epoch', '9', '', '1000000'])
  await nextTurn()

  await register('planner', 1, ['epoch', '10', at(1), 1, ['localhost:1']])
  t.ok(client.deadline <= performance.now() - before + 1_000_000 + client.options.commandTimeout)
})

t.test('what was changed of late is made again in data without it, as it is by now; of what others changed what is known', async t => {
  for (const [origin, expected, isAllKnown = false] of [
    ['epoch:1', [['gone', 5, ['localhost:2']], ['stays', 4, []], ['left', 6, ['localhost:3']]]],
    ['epoch:4', [['gone', 5, ['localhost:2']], ['left', 6, ['localhost:3']]]],
    ['epoch:6', []],
    ['', [['gone', 5, ['localhost:2']], ['stays', 4, []], ['left', 6, ['localhost:3']]]],
    ['other:9 epoch:4', [['gone', 5, ['localhost:2']], ['left', 6, ['localhost:3']]]],
    ['epoch:1', [['gone', 5, ['localhost:2']], ['stays', 4, []], ['left', 7, ['localhost:3']], ['slow', 2, []]], true]
  ] as const) {
    const { client, shared, tell, at, register, lose } = await sharing(t)
    await tell('epoch 2 put slow localhost:5 localhost:5@2') // and is not read
    await register('gone', 2, ['epoch', '3', at(2), 1, ['localhost:2']])
    await register('stays', 1, ['epoch', '4', at(1), 1, ['localhost:1', '=']])
    client.answers.set('fleet_remove', ['epoch', '5', [], 1, ['localhost:2']])
    await shared.removeAgent('gone')
    await register('left', 3, ['epoch', '6', at(3), 1, ['localhost:3']])
    await tell('epoch 7 removed left localhost:3 localhost:3@7') // by somebody else
    client.reads.pop()!(['epoch', '7', [], 0])
    await nextTurn()
    t.match(shared.known, { epoch: 'epoch', version: 1 })
    if (isAllKnown) client.reads.pop()!(['epoch', '7', at(5), 0])
    await nextTurn()

    await lose(origin)
    t.same(client.again.map(({ name, versions, removed }) => [name, Math.max(...Object.values(versions)), removed]), expected, origin)
    const stays = client.again.find(({ name }) => name === 'stays')
    t.same(stays?.versions, stays && { 'localhost:1': 4, '=': 4 })
    t.match(stays?.fields ?? [], stays ? ['i:localhost:1', /"port":1/] : [])

    for (const read of client.reads.splice(0)) read(['again', '12', [], 0])
    await nextTurn()
    t.match(shared.known, { epoch: 'again', version: client.again.length > 0 ? 12 : 9 }, 'that is part of what is known')
  }
})

t.test('what others changed is known from what Redis tells of late changes, where it was not heard of, and from what was told of settings', async t => {
  const { client, tell, at, lose } = await sharing(t)
  client.touched.push('', '0', 'planner localhost:1', '5', 'planner =', '4', 'coder localhost:2', '7')
  client.answers.set('fleet_look', ['epoch', '8', '', '0'])
  await tell('epoch 8 put coder localhost:2') // what was told in between was not heard
  await nextTurn()
  await tell('epoch 9 put writer localhost:3 localhost:3@9 =@9')
  await nextTurn()
  const read = async () => { for (const answer of client.reads.splice(0)) answer(['epoch', '9', at(1), 0]) }
  await read()
  await nextTurn()
  await read()
  await nextTurn()

  client.touched.splice(0, Infinity, 'coder localhost:2', '9') // in the data that is there then
  await lose('epoch:3')
  t.same(client.again.map(({ name, versions }) => [name, versions]).sort(), [['planner', { 'localhost:1': 5 }], ['writer', { 'localhost:3': 9, '=': 9 }]])
})
