/** Leases as clients and agents meet them, over real sockets; time is the test's own. */
import t from 'tap'
import { startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

interface InstanceInRegistry { id: string, port: number, state: string, lease: { expires_at: string, lapsed?: boolean } }

t.test('when all heartbeats stop at once the fleet goes on serving, and says so, until they are back', async t => {
  const clock = fakeClock()
  const gateway = await startGateway(t, { clock, ...unprobed })
  const agents = [await fakeAgent(t), await fakeAgent(t), await fakeAgent(t), await fakeAgent(t)]
  const ask = async (method: string, path: string, body?: object) => {
    const answer = await fetch(gateway.origin + path, { method, ...(body !== undefined && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) })
    return { status: answer.status, body: await answer.json() as never }
  }
  const instances = async () => ((await ask('GET', '/registry')).body as { planner: { instances: InstanceInRegistry[] } }).planner.instances
  const leases = async () => ((await ask('GET', '/stats')).body as { leases: object }).leases
  const beat = async ({ id }: InstanceInRegistry) => await ask('PUT', `/registry/planner/instances/${id}`)
  for (const { host, port } of agents) await ask('POST', '/registry/register', { name: 'planner', host, port, ttl: 15 })
  t.same((await instances()).map(({ lease }) => lease.lapsed), Array(4).fill(undefined))

  clock.advance(15_250)

  t.same((await instances()).map(({ lease }) => lease.lapsed), [true, true, true, true])
  t.same(await leases(), { total: 4, lapsed: 4 })
  const [gone, ...others] = await instances()
  const served = new Set<number>()
  for (let count = 0; count < 4; count++) served.add(((await ask('GET', '/api/planner/x')).body as { port: number }).port)
  t.equal(served.size, 4)

  await agents[0]!.kill()
  for (let count = 0; count < 20; count++) t.equal((await ask('GET', '/api/planner/x')).status, 200)
  t.match((await instances()).map(({ state }) => state), ['ejected', 'up', 'up', 'up'], 'who is kept is watched like everybody else')

  for (const instance of others) t.match(await beat(instance), { status: 200, body: { lease: { ttl_seconds: 15 } } })
  t.same((await instances()).map(({ lease }) => lease.lapsed), [true, undefined, undefined, undefined])
  for (let third = 0; third < 4; third++) {
    clock.advance(5_000)
    for (const instance of others) await beat(instance)
  }
  t.same((await instances()).map(({ id }) => id), others.map(({ id }) => id), 'who does not come back is gone one ttl later')
  t.match(await beat(gone!), { status: 404, body: { code: 'FLEET_INSTANCE_NOT_FOUND' } })
  t.same(await leases(), { total: 3, lapsed: 0 })
})

t.test('of two instances each is taken at its word', async t => {
  const clock = fakeClock()
  const gateway = await startGateway(t, { clock, ...unprobed })
  for (const port of [9000, 9001]) await fetch(`${gateway.origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name: 'planner', port, ttl: 15 }) })

  clock.advance(15_250)

  t.match(await (await fetch(`${gateway.origin}/registry`)).json(), { planner: { instances: [] } })
})
