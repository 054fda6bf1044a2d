/** The balancers as they are seen from outside: who answers, with real agents behind the whole gateway. */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { fakeAgent, type FakeAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { rawClient } from '../helpers/raw-client.ts'

/** Agents that answer with their letter: a, b and so on. A WebSocket handshake they accept, saying it in a header. */
async function lettered (t: Test, count: number): Promise<FakeAgent[]> {
  return Promise.all(Array.from('abcdefgh'.slice(0, count), async letter => {
    const agent = await fakeAgent(t, (_request, response) => response.end(letter))
    agent.server.on('upgrade', (_request, socket) => socket.end(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Letter: ${letter}\r\n\r\n`))
    return agent
  }))
}

/** An agent that answers nobody before it is told to. */
async function holdingAgent (t: Test): Promise<FakeAgent & { readonly held: ServerResponse[], arrived (): Promise<void>, release (): void }> {
  const held: ServerResponse[] = []
  const agent = await fakeAgent(t, (_request, response) => { held.push(response) })
  return {
    ...agent,
    held,
    arrived: async () => { if (held.length === 0) await once(agent.server, 'request') },
    release: () => held.splice(0).forEach(response => response.end('held'))
  }
}

type Balanced = Pick<NonNullable<FleetGatewayOptions['agents']>[number], 'balancer'>

/** The agent `planner`, with these weights in order. */
function plannerAt (instances: readonly FakeAgent[], settings: Balanced = {}, weights: readonly number[] = []) {
  return { name: 'planner', instances: instances.map(({ host, port }, index) => ({ host, port, weight: weights[index] ?? 1 })), ...settings }
}

async function ask ({ origin }: ListeningGateway, headers: Record<string, string> = {}): Promise<string> {
  const reply = await fetch(`${origin}/api/planner/x`, { headers })
  return reply.text()
}

/** Who answers so many requests, one after the other. */
async function answers (gateway: ListeningGateway, count: number, headers: Record<string, string> = {}): Promise<string> {
  let letters = ''
  for (let request = 0; request < count; request++) letters += await ask(gateway, headers)
  return letters
}

t.test('an agent may name its balancer, and otherwise the gateway\'s counts', async t => {
  const agents = await lettered(t, 3)
  const weights = [5, 1, 1]
  const table: [name: string, gateway: FleetGatewayOptions['balancer'] & {}, agent: Balanced, sequence: string][] = [
    ['nothing', {}, {}, 'abcabca'],
    ['the gateway', { policy: 'weighted' }, {}, 'aabacaa'],
    ['the agent', {}, { balancer: { policy: 'weighted' } }, 'aabacaa'],
    ['both', { policy: 'weighted' }, { balancer: { policy: 'round-robin' } }, 'abcabca'],
    ['the agent something else', { policy: 'weighted' }, { balancer: { slowStart: '30s' } }, 'aabacaa'],
    ['the fewest requests of an idle fleet', { policy: 'least-requests' }, {}, 'aabacaa']
  ]
  for (const [name, balancer, settings, sequence] of table) {
    const gateway = await startGateway(t, { balancer, agents: [plannerAt(agents, settings, weights)] })

    t.equal(await answers(gateway, 7), sequence, name)
  }
})

t.test('what an application brings along chooses for every agent', async t => {
  const agents = await lettered(t, 2)
  const asked: (string | null)[] = []
  const gateway = await startGateway(t, {
    agents: [plannerAt(agents, { balancer: { policy: 'weighted' } })],
    balancer: {
      pick ({ instances }, { asker }) {
        asked.push(asker && `${asker.clientAddress} ${String(asker.headers['x-user'])}`)
        return instances[1]
      }
    }
  })

  t.equal(await answers(gateway, 3, { 'x-user': 'ada' }), 'bbb')
  t.same(asked, Array(3).fill('127.0.0.1 ada'))
})

t.test('a registration may name a balancer, which is shown and kept', async t => {
  const [a, b] = await lettered(t, 2)
  const stateDir = t.testdir({})
  const options = { registry: { stateDir }, clock: fakeClock() } // which stands still, so that both are equally new
  const gateway = await startGateway(t, options)
  const register = ({ host, port }: FakeAgent, balancer?: object) => gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', host, port, weight: port === a!.port ? 2 : 1, ...(balancer && { balancer }) } })

  t.equal((await register(a!, { policy: 'weighted', slowStart: 1.5 })).statusCode, 201)
  t.equal((await register(b!)).statusCode, 201)

  t.match((await gateway.inject('/registry')).json(), { planner: { policy: { balancer: { policy: 'weighted', slowStart: '1500ms' } } } })
  t.equal(await answers(gateway, 6), 'abaaba')
  await gateway.close()
  const again = await startGateway(t, options)
  t.equal(await answers(again, 6), 'abaaba')
})

t.test('a registration with a bad balancer is told what is wrong with it', async t => {
  const gateway = await startGateway(t)
  const table: [balancer: unknown, detail: RegExp][] = [
    [{ policy: 'leastrequests' }, /balancer\.policy must be one of .*\(got "leastrequests"\), did you mean "least-requests"\?/],
    [{ policy: 'weighted', hashOn: 'cookie:sid' }, /balancer\.hashOn is for the policy "hash", and the policy is "weighted"/],
    [{ hashOn: 'X-User' }, /balancer\.hashOn must be "address", "header:NAME" or "cookie:NAME" \(got "X-User"\)/],
    [{ slowstart: 1 }, /balancer\.slowstart unknown key, did you mean "slowStart"\?/],
    ['hash', /balancer must be object/]
  ]
  for (const [balancer, detail] of table) {
    const reply = await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', port: 1, balancer } })

    t.equal(reply.statusCode, 400)
    t.match(reply.json().detail, detail)
  }
  const { statusCode } = await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'planner', port: 1, balancer: { hashOn: 'cookie:sid' } } })
  t.equal(statusCode, 201, 'that counts where the gateway names hash')
})

t.test('a reload changes the gateway\'s balancer, and what is left out is as at first', async t => {
  const agents = await lettered(t, 3)
  const file = join(t.testdir({}), 'fleet.yaml')
  const write = (head: string) => writeFile(file, `${head}\nagents:\n  - name: planner\n    instances:\n${agents.map(({ port }, index) => `      - {host: 127.0.0.1, port: ${port}, weight: ${[5, 1, 1][index]}}`).join('\n')}\n`)
  await write('balancer: {policy: weighted}')
  const gateway = await startGateway(t, { file })

  t.equal(await answers(gateway, 7), 'aabacaa')
  await write('')
  t.equal(await gateway.discovery.reload(), true)
  t.equal(await answers(gateway, 6), 'abcabc')
  await write('balancer: {policy: wieghted}')
  t.equal(await gateway.discovery.reload(), false)
  t.match(gateway.discovery.status.error, /fleet\.yaml:1:20 balancer\.policy: must be one of .* did you mean "weighted"\?/)
  t.equal(await answers(gateway, 6), 'abcabc')
  await write('balancer: {policy: weighted}')
  t.equal(await gateway.discovery.reload(), true)
  t.equal(await answers(gateway, 7), 'aabacaa')
})

t.test('an instance that holds requests gets fewer', async t => {
  for (const policy of ['least-requests', 'p2c'] as const) {
    const [quick] = await lettered(t, 1)
    const slow = await holdingAgent(t)
    const gateway = await startGateway(t, { agents: [plannerAt([quick!, slow], { balancer: { policy } })] })

    // Each of the two is asked sooner or later, since it is idle, and under p2c was never measured.
    const pending: Promise<string>[] = []
    while (slow.held.length === 0) {
      pending.push(ask(gateway))
      await Promise.race([pending.at(-1), slow.arrived()])
    }
    t.equal(await answers(gateway, 30), 'a'.repeat(30), policy)
    t.equal(slow.held.length, 1)

    slow.release()
    t.equal((await Promise.all(pending)).at(-1), 'held')
  }
})

t.test('least-requests counts streams as long as they are open', async t => {
  const [quick] = await lettered(t, 1)
  const streaming = await fakeAgent(t, (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: 1\n\n')
  })
  const gateway = await startGateway(t, { agents: [plannerAt([streaming, quick!], { balancer: { policy: 'least-requests' } })] })
  const leaving = new AbortController()
  const stream = await fetch(`${gateway.origin}/api/planner/x`, { signal: leaving.signal })

  t.equal(stream.headers.get('content-type'), 'text/event-stream')
  t.equal(await answers(gateway, 5), 'aaaaa')
  leaving.abort()
})

t.test('failures make no instance look fast', async t => {
  const [good] = await lettered(t, 1)
  const failing = await fakeAgent(t, (_request, response) => response.writeHead(503).end())
  const gateway = await startGateway(t, { retry: { attempts: 0 }, agents: [plannerAt([good!, failing], { balancer: { policy: 'p2c' } })] })

  await answers(gateway, 40)

  t.ok(failing.requests.length <= 2, `it was asked ${failing.requests.length} times of 40`)
})

t.test('a client that sends slowly makes no instance look slow', async t => {
  const gateway = await startGateway(t, { agents: [{ name: 'planner', port: 1 }] })
  const { upstream, registry } = gateway
  const [instance] = registry.get('planner').instances
  const attempt = upstream.begin(instance!)

  while (performance.now() < attempt.startedMark + 50); // the client is at it
  upstream.progress(attempt, true)
  upstream.settle(attempt, 'answered', 200)
  upstream.progress(attempt)
  upstream.release(attempt)

  const { ms } = instance!.runtime.latency
  t.ok(attempt.durationMs >= 50)
  t.ok(ms <= attempt.durationMs - 50, `${ms} of ${attempt.durationMs}`)
})

t.test('hash keeps a client at its instance', async t => {
  const agents = await lettered(t, 4)
  const users = Array.from({ length: 40 }, (_, number) => `user-${number}`)
  const proxied = { server: { trustedProxies: ['127.0.0.1'] } }
  const table: [hashOn: string, headersOf: (user: string, number: number) => Record<string, string>, others: Record<string, string>][] = [
    ['header:X-User', user => ({ 'x-user': user }), { cookie: 'sid=other' }],
    ['cookie:sid', user => ({ cookie: `a=b; sid=${user}` }), { 'x-user': 'other' }],
    ['address', (_user, number) => ({ 'x-forwarded-for': `192.0.2.${number}` }), { 'x-user': 'other' }]
  ]
  for (const [hashOn, headersOf, others] of table) {
    const file = join(t.testdir({}), 'fleet.yaml')
    const write = (count: number) => writeFile(file, `agents:\n  - name: planner\n    balancer: {policy: hash, hashOn: '${hashOn}'}\n    instances:\n${agents.slice(0, count).map(({ port }) => `      - {host: 127.0.0.1, port: ${port}}`).join('\n')}\n`)
    await write(3)
    const gateway = await startGateway(t, { file, ...proxied })
    const ask3 = async (extra: Record<string, string> = {}) => Promise.all(users.map((user, number) => ask(gateway, { ...extra, ...headersOf(user, number) })))

    const first = await ask3()
    t.same([...new Set(first)].sort(), ['a', 'b', 'c'], `${hashOn} spreads`)
    t.same(await ask3(others), first, 'nothing else of the request counts')

    await write(4)
    t.equal(await gateway.discovery.reload(), true)
    const withNew = await ask3()
    t.ok(withNew.includes('d'))
    for (const [index, letter] of withNew.entries()) t.ok(letter === first[index] || letter === 'd', 'clients move only to the new one')

    await write(3)
    t.equal(await gateway.discovery.reload(), true)
    t.same(await ask3(), first)
  }
})

t.test('hash goes by address where a request lacks what it should go by', async t => {
  const agents = await lettered(t, 4)
  const by = (hashOn: string) => startGateway(t, { server: { trustedProxies: ['127.0.0.1'] }, agents: [plannerAt(agents, { balancer: { policy: 'hash', hashOn } })] })
  const [byHeader, byAddress] = [await by('header:x-user'), await by('address')]

  for (let number = 0; number < 20; number++) {
    const address = { 'x-forwarded-for': `192.0.2.${number}` }
    t.equal(await ask(byHeader, address), await ask(byAddress, address), 'also two gateways agree')
  }
})

t.test('hash has a WebSocket go where the client\'s requests go', async t => {
  const agents = await lettered(t, 4)
  const gateway = await startGateway(t, { agents: [plannerAt(agents, { balancer: { policy: 'hash', hashOn: 'cookie:sid' } })] })

  for (const sid of ['one', 'two', 'three', 'four', 'five', 'six']) {
    const client = await rawClient(t, gateway.port)
    client.send(`GET /api/planner/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: sid=${sid}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`)
    const [, letter] = /X-Letter: (\w)/i.exec(await client.until(/X-Letter: \w\r\n[^]*\r\n\r\n/i)) ?? []
    client.socket.destroy()

    t.equal(letter, await ask(gateway, { cookie: `sid=${sid}` }))
  }
})

t.test('hash has a client\'s retries go on in an order of its own', async t => {
  const agents = await lettered(t, 3)
  const gateway = await startGateway(t, { agents: [plannerAt(agents, { balancer: { policy: 'hash', hashOn: 'header:x-user' } })] })
  const users = Array.from({ length: 30 }, (_, number) => ({ 'x-user': `user-${number}` }))
  const before = await Promise.all(users.map(user => ask(gateway, user)))
  const dead = agents[0]!

  await dead.kill()
  const after = []
  for (const user of users) after.push(await ask(gateway, user))

  const moved = after.filter((_, index) => before[index] === 'a')
  t.same([...new Set(moved)].sort(), ['b', 'c'], 'clients of the dead one spread over the others')
  t.same(after.filter((_, index) => before[index] !== 'a'), before.filter(letter => letter !== 'a'), 'and no other moved')
})

t.test('slow start lets an instance that was just added take part by and by', async t => {
  const [a, b] = await lettered(t, 2)
  const clock = fakeClock()
  // Probes go over real sockets, and would time out by the clock that is moved.
  const gateway = await startGateway(t, { clock, health: { interval: '1h' }, balancer: { slowStart: '60s' }, agents: [plannerAt([a!])] })
  const shareOfNew = async (count: number) => (await answers(gateway, count)).replaceAll('a', '').length / count
  await gateway.health.firstRound()
  clock.advance(60_000)
  gateway.registry.register({ name: 'planner', host: b!.host, port: b!.port })
  await gateway.health.firstRound()

  const atFirst = await shareOfNew(300)
  t.ok(atFirst > 0 && atFirst < 0.25, `at first ${atFirst}; a tenth against one is 1/11`)

  clock.advance(30_000)
  const half = await shareOfNew(300)
  t.ok(half > 0.2 && half < 0.46, `halfway ${half}; a half against one is 1/3`)

  clock.advance(30_000)
  t.match(await answers(gateway, 6), /^(?:ab){3}$|^(?:ba){3}$/)
})

t.test('a fleet that starts as a whole starts at full pace', async t => {
  const gateway = await startGateway(t, { clock: fakeClock(), balancer: { slowStart: '60s' }, agents: [plannerAt(await lettered(t, 3))] })

  t.equal(await answers(gateway, 7), 'abcabca')
})
