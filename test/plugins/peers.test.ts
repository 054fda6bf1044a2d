/** Questions to several processes, and what is made of their answers. */
import Fastify from 'fastify'
import t from 'tap'
import { joinTexts } from '../../plugins/metrics/workers.ts'
import peersPlugin, { type WorkerChannel } from '../../plugins/peers/index.ts'
import { Questions, type Peer } from '../../plugins/peers/questions.ts'
import type { ToPrimary, ToWorker } from '../../plugins/peers/worker-channel.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const peer = (id: string): Peer => ({ id, host: 'here' })
const answerOf = (id: string) => ({ from: peer(id), value: id })

t.test('a question is over when all have answered, in whatever order that is learnt, or when time is up', async t => {
  const clock = fakeClock()
  const questions = new Questions(clock, 1_000)

  let number = 0
  const first = questions.ask(async n => { number = n; return undefined })
  questions.hear(number, answerOf('b'))
  questions.hear(number, answerOf('a'))
  questions.hear(number, answerOf('a')) // once more: it is one answer
  questions.expect(number, 2)
  t.match(await first, { silent: 0, answers: [{ value: 'b' }, { value: 'a' }] })

  const second = questions.ask(async n => { number = n; return 2 })
  await Promise.resolve()
  questions.hear(number, answerOf('a'))
  clock.advance(1_000)
  t.match(await second, { silent: 1, answers: [{ value: 'a' }] })
  questions.hear(number, answerOf('late')) // nobody waits any more

  await t.rejects(questions.ask(async () => { throw new Error('no way') }), { message: 'no way' })
  const unknown = questions.ask(async () => undefined)
  clock.advance(1_000)
  t.match(await unknown, { silent: null, answers: [] }, 'who was asked nobody has said')
  const third = questions.ask(async n => { number = n; return 3 })
  questions.close()
  t.match(await third, { answers: [] })
})

t.test('alone a process asks itself; what fails is no answer, and one that does not know the topic has none', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(peersPlugin)
  app.peers.answer('greeting', name => `hello ${String(name)}`)
  app.peers.answer('failure', () => { throw new Error('a defect') })

  t.match(await app.peers.ask('gateways', 'greeting', 'you'), { silent: 0, answers: [{ from: app.peers.self, value: 'hello you' }] })
  t.equal((await app.peers.ask('workers', 'failure')).answers[0]!.value, undefined)
  t.equal((await app.peers.ask('workers', 'unknown')).answers[0]!.value, undefined)
  t.equal(app.peers.hasWorkers, false)
})

t.test('a worker asks by its channel, and answers by it', async t => {
  const sent: ToPrimary[] = []
  let tell: (message: ToWorker) => void = () => {}
  const workers: WorkerChannel = { worker: 2, pid: 1, send: message => { sent.push(message) }, onMessage: listener => { tell = listener; return () => {} } }
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(peersPlugin, { workers })
  app.peers.answer('number', () => 7)

  const heard = app.peers.ask('workers', 'number')
  t.match(sent.shift(), { kind: 'ask', topic: 'number', question: 1 })
  tell({ kind: 'asked', question: 1, count: 2 })
  tell({ kind: 'answer', question: 1, from: peer('one'), value: 1 })
  tell({ kind: 'answer', question: 1, from: peer('two'), value: 2 })
  t.match(await heard, { silent: 0, answers: [{ value: 1 }, { value: 2 }] })

  tell({ kind: 'question', question: 9, from: 1, topic: 'number', detail: null })
  await new Promise(resolve => setImmediate(resolve))
  t.match(sent.shift(), { kind: 'answer', question: 9, to: 1, value: 7, from: { worker: 2 } })
})

t.test('expositions of workers are one: each family once, each series with whose it is', async t => {
  const text = (value: number) => `# HELP a What a is: {x} 1.\n# TYPE a counter\na{b="{c} d"} ${value}\na 2\n\n# HELP e E.\n# TYPE e gauge\ne{} 3\n`
  const own = '# HELP only Only here.\n# TYPE only gauge\nonly 1\n'

  t.equal(joinTexts([{ worker: 1, text: text(1) }, { worker: 2, text: text(5) + own }]), [
    '# HELP a What a is: {x} 1.', '# TYPE a counter', 'a{worker="1",b="{c} d"} 1', 'a{worker="1"} 2', 'a{worker="2",b="{c} d"} 5', 'a{worker="2"} 2',
    '# HELP e E.', '# TYPE e gauge', 'e{worker="1"} 3', 'e{worker="2"} 3',
    '# HELP only Only here.', '# TYPE only gauge', 'only{worker="2"} 1', ''
  ].join('\n'))
})
