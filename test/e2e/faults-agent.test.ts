import t from 'tap'
import { once } from 'node:events'
import { connect } from 'node:net'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { cutAnswers, cutCases, cutOf, tryCut } from '../helpers/cut-answers.ts'
import { firstInOrder, neverEject } from '../helpers/first-in-order.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'
import { seeded } from '../helpers/seeded.ts'
import { askStrictly } from '../helpers/strict-client.ts'

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
  await quiet(gateway)
  t.equal(names.reduce((sum, name) => sum + underWay(gateway, name), 0), 0)
})

const get = (path: string, id = 'x') => `GET /api/planner${path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\n\r\n`
const post = (path: string, id = 'x') => `POST /api/planner${path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\nContent-Length: 4\r\n\r\nbody`

t.test('an agent that answers byte by byte is understood', async t => {
  const agent = await scriptedAgent(t, {
    onRequest ({ request, socket }) {
      const { bytes } = cutOf(`${request.target}/999/`)!
      let at = 0
      const drip = () => {
        if (at < bytes.length) socket.write(bytes[at++]!, 'latin1', () => { setImmediate(drip) })
        else socket.end()
      }
      drip()
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })

  for (const [index, { name, body }] of cutAnswers.entries()) {
    const { answer, violation } = await askStrictly(gateway.port, 'GET', get(`/${index}`))
    t.match({ answer, violation }, { answer: { body }, violation: null }, name)
  }
})

t.test('an agent that resets while it is sent the request: GET goes elsewhere, POST is 502 and never sent again', async t => {
  for (const at of ['accepted', 'first byte', 'in the body'] as const) {
    let faulted = 0
    const faulty = await scriptedAgent(t, {
      onConnection: socket => { if (at === 'accepted') socket.resetAndDestroy() },
      onBytes (socket, bytes) {
        if (at === 'in the body' && !bytes.includes('\r\n\r\n')) return false
        faulted++
        socket.resetAndDestroy()
        return true
      },
      onRequest () {}
    })
    const other = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.write(ok('elsewhere')) } })
    const gateway = await startGateway(t, { balancer: firstInOrder, health: { interval: '1h' }, agents: [agentAt('planner', faulty, other)] })

    const got = await askStrictly(gateway.port, 'GET', get('/'))
    const posted = await askStrictly(gateway.port, 'POST', post('/', 'posted'))

    t.equal(got.answer?.body, 'elsewhere', at)
    if (at === 'accepted') t.ok([200, 502].includes(posted.answer!.status), 'whether the request was on its way then is a matter of moments')
    else {
      t.equal(posted.answer?.status, 502, at)
      t.equal(other.arrivals.get('posted'), undefined, at)
      t.equal(faulted, 2, at)
    }
    await quiet(gateway)
  }
})

t.test('an agent that stops is given up in time: 504 before the head, cut in the body', async t => {
  const stops: [string, string, 504 | 'cut'][] = [
    ['says nothing', '', 504], ['stops in the status line', 'HTTP/1.1 2', 504], ['stops in the head', 'HTTP/1.1 200 OK\r\nX-A: b\r\n', 504],
    ['stops after hints', 'HTTP/1.1 103 Early Hints\r\n\r\n', 504], ['stops after the head', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'cut'],
    ['stops in the body', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel', 'cut'], ['stops in a chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel', 'cut'],
    ['stops before the last chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n', 'cut'], ['stops in the trailers', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A', 'cut']
  ]
  for (const [name, bytes, expected] of stops) {
    const agent = await scriptedAgent(t, { onRequest: ({ socket }) => { if (bytes !== '') socket.write(bytes) } })
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { response: '100ms', idle: '150ms' }, health: { interval: '1h' } })

    for (const method of ['GET', 'POST']) {
      const got = await askStrictly(gateway.port, method, method === 'GET' ? get('/', 'got') : post('/', 'posted'))
      t.equal(got.violation, null, name)
      if (expected === 504) t.equal(got.answer?.status, 504, name)
      else t.equal(got.answer, null, name)
    }
    await agent.idle()
    t.same([...agent.arrivals.values()], [1, 1], `${name}: sent once`)
    t.equal(underWay(gateway), 0)
  }
})

t.test('an agent that lies about its length, or says more than its answer: no answer of another request', async t => {
  const lies: [string, string, string | 502 | 'nothing'][] = [
    ['more than the length', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello', 'he'],
    ['a second answer behind it', `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe${ok('not yours')}`, 'he'],
    ['bytes behind the last chunk', `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n${ok('not yours')}`, 'he'],
    ['a body behind 204', `HTTP/1.1 204 No Content\r\n\r\n${ok('not yours')}`, ''],
    ['a chunk longer than it says', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n', 'nothing'],
    ['a chunk size of letters', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhe\r\n0\r\n\r\n', 'nothing'],
    ['a negative length', 'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhe', 502],
    ['a length of letters', 'HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhe', 502],
    ['a status of two digits', 'HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhe', 502],
    ['another version', 'HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nhe', 502],
    ['a space before the colon', 'HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhe', 502],
    ['NUL in a field', 'HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nhe', 502],
    ['a bare CR in a field', 'HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nhe', 502],
    ['bytes before it', '\0\0HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe', 502],
    ['TLS', '\x16\x03\x01\x00\x05hello', 502]
  ]
  for (const [name, bytes, expected] of lies) {
    const agent = await scriptedAgent(t, { onRequest: ({ request, socket }) => { socket.write(request.target === '/good' ? ok('good') : bytes, 'latin1') } })
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], timeouts: { idle: '200ms' }, health: { interval: '1h' } })

    const lied = await askStrictly(gateway.port, 'GET', get('/lie'))
    const next = await askStrictly(gateway.port, 'POST', post('/good'))

    t.equal(lied.violation, null, name)
    if (typeof expected === 'number') t.equal(lied.answer?.status, expected, name)
    else if (expected === 'nothing') t.ok(lied.answer === null || lied.answer.status === 502, `${name}: it is refused where it came whole, else cut`)
    else t.equal(lied.answer?.body ?? null, expected, name)
    t.equal(next.answer?.body, 'good', `${name}: the next request has its own answer`)
  }
})

t.test('an answer that is cut is no whole one for HTTP/1.0 either, where only the end of the connection tells its end', async t => {
  const agent = await scriptedAgent(t, { onRequest: ({ socket }) => { socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n') } })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })
  const client = connect(gateway.port, '127.0.0.1')

  const broke = once(client, 'error')
  client.resume().write('GET /api/planner/ HTTP/1.0\r\n\r\n')

  t.match(await Promise.race([broke, once(client, 'end')]), [{ code: 'ECONNRESET' }])
})
