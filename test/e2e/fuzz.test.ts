import t from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { randomAnswer, randomRequest, sendRandomly } from '../helpers/fuzz.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'
import { seeded } from '../helpers/seeded.ts'
import { askStrictly } from '../helpers/strict-client.ts'
import { valuesOf } from '../helpers/strict-http.ts'

/** Rounds of 20 connections; `FLEET_FUZZ` asks for more. */
const rounds = Number(process.env['FLEET_FUZZ'] ?? 8)

const random = seeded()
t.comment(`FLEET_SEED=${random.seed}`)

const unhandled: unknown[] = []
process.on('unhandledRejection', error => { unhandled.push(error) })
process.on('uncaughtException', error => { unhandled.push(error) })

const wanted = 'GET /api/planner/good HTTP/1.1\r\nHost: localhost\r\n\r\n'

t.test('random requests: what is passed on is unambiguous, what is answered is HTTP, and each answer is that of its request', async t => {
  const wrong: string[] = []
  const agent = await scriptedAgent(t, {
    onRequest ({ request, id, socket }) {
      const body = request.method === 'HEAD' ? '' : `answer-${id}`
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${`answer-${id}`.length}\r\nX-Answer: ${id}\r\n\r\n${body}`)
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { idle: '200ms', response: '300ms' }, health: { interval: '1h' } })
  let count = 0

  for (let round = 0; round < rounds; round++) {
    await Promise.all(Array.from({ length: 20 }, async () => {
      const ids = Array.from({ length: 1 + random.below(3) }, () => `fuzz-${count++}`)
      const bytes = ids.map(id => randomRequest(random, id)).join('')
      try {
        for (const { status, fields, body } of await sendRandomly(random, gateway.port, bytes, ids.length)) {
          const [answered] = valuesOf(fields, 'x-answer')
          const [asked] = valuesOf(fields, 'x-request-id')
          if (status === 200 && answered !== undefined && (answered !== asked || (body !== '' && body !== `answer-${asked}`))) wrong.push(`${asked} got the answer of ${answered}`)
        }
      } catch (error) {
        // The answer to HEAD says the length of a body it has not, so what follows it can't be read here.
        if (!/HEAD/.test(bytes)) wrong.push(`${(error as Error).message}: ${JSON.stringify(bytes)}`)
      }
    }))
    const good = await askStrictly(gateway.port, 'GET', wanted)
    if (good.answer?.status !== 200) wrong.push(`after round ${round} a good request is ${good.answer?.status}`)
  }

  t.same(wrong.slice(0, 5), [], `FLEET_SEED=${random.seed}`)
  t.same(agent.violations.slice(0, 5), [], `FLEET_SEED=${random.seed}`)
  for (const [id, times] of agent.arrivals) if (id.startsWith('fuzz-') && times > 2) t.fail(`${id} came ${times} times`)
  await quiet(gateway)
  await agent.idle() // idle connections are kept for four seconds
  t.equal(underWay(gateway), 0)
  t.same(unhandled, [])
})

t.test('random answers: what reaches the client is HTTP, and never the answer of another request', async t => {
  const wrong: string[] = []
  const agent = await scriptedAgent(t, {
    onRequest ({ request, id, socket }) {
      if (request.target === '/good') return void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood')
      socket.write(Buffer.from(randomAnswer(random, id), 'latin1'), () => { if (random.next() < 0.3) socket.end() })
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { idle: '200ms', response: '200ms' }, health: { interval: '1h' } })
  let count = 0

  for (let round = 0; round < rounds; round++) {
    await Promise.all(Array.from({ length: 20 }, async () => {
      const id = `answer-${count++}`
      const method = random.oneOf(['GET', 'GET', 'POST', 'HEAD'])
      const { answer, violation } = await askStrictly(gateway.port, method, `${method} /api/planner/${id} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\n${method === 'POST' ? 'Content-Length: 4\r\n\r\nbody' : '\r\n'}`)
      if (violation !== null) wrong.push(`${id}: ${violation}`)
      const other = answer === null ? undefined : /answer-(\d+)/.exec(valuesOf(answer.fields, 'x-answer')[0] ?? '')?.[0]
      if (other !== undefined && answer!.status === 200 && valuesOf(answer!.fields, 'x-answer')[0] === other && other !== id && !id.startsWith(other)) wrong.push(`${id} got the answer of ${other}`)
    }))
    const good = await askStrictly(gateway.port, 'GET', wanted)
    if (good.answer?.body !== 'good') wrong.push(`after round ${round} a good request is ${good.answer?.status} ${good.answer?.body}`)
  }

  t.same(wrong.slice(0, 5), [], `FLEET_SEED=${random.seed}`)
  for (const [id, times] of agent.arrivals) if (id.startsWith('answer-') && times > 3) t.fail(`${id} came ${times} times`)
  await quiet(gateway)
  await agent.idle() // idle connections are kept for four seconds
  t.equal(underWay(gateway), 0)
  t.same(unhandled, [])
})
