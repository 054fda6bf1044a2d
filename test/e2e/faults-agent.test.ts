import t from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { cutCases, cutOf, tryCut } from '../helpers/cut-answers.ts'
import { firstInOrder, neverEject } from '../helpers/first-in-order.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'
import { seeded } from '../helpers/seeded.ts'

/** `FLEET_FAULTS=all` tries every case rather than a random part. */
const isWhole = process.env['FLEET_FAULTS'] === 'all'

const ok = (body: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`

t.test('an agent may close at every byte of its answer: nobody takes a part for the whole, and what may go elsewhere does', async t => {
  const faulty = await scriptedAgent(t, {
    onRequest ({ request, socket }) {
      const cut = cutOf(request.target)
      if (cut === undefined) return void socket.write(ok('warm'))
      const close = () => { if (cut.close === 'FIN') socket.end(); else socket.resetAndDestroy() }
      if (cut.bytes === '') close()
      else socket.write(cut.bytes, 'latin1', close)
    }
  })
  const other = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write(ok('elsewhere')) } })
  const lanes = Array.from({ length: 16 }, (_, lane) => `lane${lane}`)
  // Each lane has an agent of its own for either kind of connection, since connections are kept per agent.
  const names = lanes.flatMap(lane => [`${lane}-new`, `${lane}-used`])
  const gateway = await startGateway(t, { balancer: firstInOrder, health: { interval: '1h' }, agents: names.map(name => agentAt(name, faulty, other)) })
  neverEject(gateway)
  const random = seeded()
  const cases = cutCases()
  const wrong: string[] = []
  let count = 0

  await Promise.all(lanes.map(async lane => {
    for (const one of cases) {
      if (!isWhole && random.next() > 0.25) continue
      const problem = await tryCut(gateway, `${lane}-${one.reused ? 'used' : 'new'}`, one, faulty, other, `cut-${count++}`)
      if (problem !== null) wrong.push(problem)
    }
  }))

  t.comment(`${count} cases, FLEET_SEED=${random.seed}`)
  t.same(wrong.slice(0, 40), [])
  t.equal(wrong.length, 0)
  t.same([...faulty.violations, ...other.violations], [])
  t.equal(gateway.facts.inFlight, 0)
})
