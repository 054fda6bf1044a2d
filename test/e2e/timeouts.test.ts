import t from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, rawAgent } from '../helpers/fake-agent.ts'

const hour = '1h'

t.test('a path has timeouts of its own: the longest prefix by whole segments, the agent\'s before the gateway\'s', async t => {
  const agent = await fakeAgent(t, request => { request.resume() }) // never answers
  const own = [{ prefix: '/v1', timeouts: { response: '30ms' } }, { prefix: '/v1/slow', timeouts: { response: hour } }, { prefix: '/v1/slow/not/', timeouts: { response: '30ms' } }, { prefix: '/same', timeouts: { response: '30ms' } }]
  const gateway = await startGateway(t, {
    timeouts: { response: hour },
    paths: [{ prefix: '/everywhere', timeouts: { response: '30ms' } }, { prefix: '/same', timeouts: { response: hour } }],
    agents: [{ ...agentAt('planner', agent), paths: own }, agentAt('other', agent)]
  })
  const quick = ['planner/v1', 'planner/v1?x', 'planner/v1/x', 'planner/v1/slower', 'planner/v1/slow/not/this', 'planner/same', 'planner/everywhere', 'other/everywhere/x?y']
  const patient = ['planner/v1/slow', 'planner/v1/slow/x', 'planner/v1/slow?x', 'planner/v1/slow/not', 'planner/v12', 'planner/', 'planner/x/v1', 'other/same', 'other/v1', 'other/everywheres']
  const leaving = new AbortController()
  const waiting = patient.map(path => fetch(`${gateway.origin}/api/${path}`, { signal: leaving.signal }).then(() => path, () => 'still waiting'))

  for (const path of quick) t.match(await (await fetch(`${gateway.origin}/api/${path}`)).json(), { status: 504, code: 'FLEET_UPSTREAM_TIMEOUT' }, path)

  leaving.abort()
  for (const [index, outcome] of (await Promise.all(waiting)).entries()) t.equal(outcome, 'still waiting', patient[index]!)
})

t.test('what a path does not say of its timeouts is as the agent says', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    request.resume()
    response.write('begun') // and no more
  })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), timeouts: { idle: '30ms' }, paths: [{ prefix: '/p', timeouts: { response: hour } }] }] })

  const reply = await fetch(`${gateway.origin}/api/planner/p`)

  t.equal(reply.status, 200)
  await t.rejects(reply.text(), 'cut off after timeouts.idle')
})

t.test('a reload changes the timeouts of paths for the requests after it', async t => {
  const agent = await fakeAgent(t, request => { request.resume() })
  const gateway = await startGateway(t, { timeouts: { response: hour }, agents: [agentAt('planner', agent)] })

  gateway.proxy.reconfigure({ timeouts: { response: hour }, paths: [{ prefix: '/p', timeouts: { response: '30ms' } }] })

  t.equal((await fetch(`${gateway.origin}/api/planner/p`)).status, 504)
  t.throws(() => gateway.proxy.reconfigure({ paths: [{ prefix: 'p', timeouts: {} }] }), /paths\[0\]\.prefix/)
})

t.test('an upload of which the agent takes all but the last bytes is held to timeouts.idle', async t => {
  const agent = await rawAgent(t, socket => { socket.pause() })
  const gateway = await startGateway(t, { agents: [{ ...agentAt('planner', agent), timeouts: { idle: '200ms', response: '400ms' } }] })

  // What the kernels take of it differs, so that some of these are sent to the end and some are not.
  const replies = await Promise.all(Array.from({ length: 12 }, (_, index) => fetch(`${gateway.origin}/api/planner/x`, { method: 'POST', body: Buffer.alloc((2_400 + index * 200) * 1024) }).then(({ status }) => status)))

  t.same(new Set(replies), new Set([504]))
  t.equal(gateway.registry.get('planner').instances[0]!.runtime.inFlight, 0)
})
