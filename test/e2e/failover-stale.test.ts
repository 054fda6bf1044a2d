import t from 'tap'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { agentAt, startGateway, type ListeningGateway } from '../helpers/build-gateway.ts'
import { quiet, underWay } from '../helpers/quiet.ts'
import { scriptedAgent } from '../helpers/scripted-agent.ts'
import { askStrictly } from '../helpers/strict-client.ts'

const ok = (body: string, fields = '') => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n${fields}\r\n${body}`
const get = (id: string) => `GET /api/planner/ HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\n\r\n`
const post = (id: string) => `POST /api/planner/ HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: ${id}\r\nContent-Length: 4\r\n\r\nbody`

/** Sends `count` requests over some lanes; returns how many did not come back with 200, and their ids. */
async function failures (gateway: ListeningGateway, method: 'GET' | 'POST', count: number, lanes: number): Promise<string[]> {
  const failed: string[] = []
  let next = 0
  await Promise.all(Array.from({ length: lanes }, async () => {
    while (next < count) {
      const id = `${method}-${next++}`
      const { answer } = await askStrictly(gateway.port, method, method === 'GET' ? get(id) : post(id))
      if (answer?.status !== 200) failed.push(id)
    }
  }))
  return failed
}

t.test('an agent that closes each connection right behind its answer, though it said nothing of that, costs nobody anything', async t => {
  for (const close of ['FIN', 'RST', 'FIN a moment later', 'RST a moment later'] as const) {
    const agent = await scriptedAgent(t, {
      onRequest ({ socket }) {
        const end = () => { if (close.startsWith('FIN')) socket.end(); else socket.resetAndDestroy() }
        socket.write(ok('fine'), () => { if (close.endsWith('later')) setImmediate(() => setImmediate(end)); else end() })
      }
    })
    const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })

    const got = await failures(gateway, 'GET', 300, 4)
    const posted = await failures(gateway, 'POST', 300, 4)

    t.same(got, [], `GET, ${close}`)
    t.comment(`${posted.length} of 300 POSTs met a connection that was closing, ${close}`)
    // Only what crosses on the way can fail: a connection is left alone for a moment before a POST uses it again. Without that it is every fourth.
    t.ok(posted.length <= 36, `POST, ${close}: ${posted.length} failed`)
    for (const [id, times] of agent.arrivals) if (times > (id.startsWith('POST') ? 1 : 3)) t.fail(`${id} came ${times} times`)
    t.same(agent.violations, [])
    await quiet(gateway)
  }
})

t.test('a connection that says how long it is kept is not used up to that moment', async t => {
  const used: number[] = []
  const agent = await scriptedAgent(t, {
    onRequest ({ socket, before }) {
      used.push(before)
      socket.write(ok('fine', 'Keep-Alive: timeout=1\r\n'))
    }
  })
  const gateway = await startGateway(t, { agents: [agentAt('planner', agent)], health: { interval: '1h' } })

  await failures(gateway, 'POST', 5, 1)

  t.same(used, [0, 0, 0, 0, 0], 'a second is too near to its end')
})

/** A whole agent in a process of its own, that logs the ids of the POSTs it worked on; it can be killed and come back at its port. */
const agentProgram = `
  const { createServer } = require('node:http')
  createServer((request, response) => {
    if (request.method === 'POST') process.stdout.write(request.headers['x-request-id'] + '\\n')
    request.resume().on('end', () => setTimeout(() => response.end('fine'), 1))
  }).listen(Number(process.argv[1]), '127.0.0.1', () => process.stdout.write('listening\\n'))
`

t.test('agents killed and started again under load: no idempotent request fails while one lives, no POST comes twice', async t => {
  const posts = new Map<string, number>()
  const running = new Set<ChildProcess>()
  async function run (port: number): Promise<ChildProcess> {
    const child = spawn(process.execPath, ['-e', agentProgram, String(port)], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } })
    running.add(child)
    let rest = ''
    let listening = () => {}
    const started = new Promise<void>(resolve => { listening = resolve })
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      for (const line of lines) {
        if (line === 'listening') listening()
        else posts.set(line, (posts.get(line) ?? 0) + 1)
      }
    })
    // While nobody listened, a connection of the gateway may have been given the port for its own end.
    const isTaken = await Promise.race([started.then(() => false), once(child, 'close').then(() => true)])
    if (!isTaken) return child
    running.delete(child)
    return run(port)
  }
  async function kill (child: ChildProcess): Promise<void> {
    running.delete(child)
    const over = once(child, 'close')
    child.kill('SIGKILL')
    await over
  }
  t.teardown(() => Promise.all([...running].map(kill)))
  const ports: number[] = []
  for (let index = 0; index < 2; index++) {
    const holder = createServer().listen(0, '127.0.0.1')
    await once(holder, 'listening')
    ports.push((holder.address() as AddressInfo).port)
    holder.close()
    await once(holder, 'close')
  }
  let children = await Promise.all(ports.map(run))
  const gateway = await startGateway(t, { agents: [agentAt('planner', ...ports.map(port => ({ host: '127.0.0.1', port })))], health: { interval: '200ms' } })
  const rounds = 3
  const failed: string[] = []
  const stop = new AbortController()
  let sent = 0
  let lost = 0
  const clients = Array.from({ length: 64 }, async (_, lane) => {
    for (let index = 0; !stop.signal.aborted; index++) {
      const id = `${lane}-${index}`
      const isPost = (lane + index) % 3 === 0
      const { answer } = await askStrictly(gateway.port, isPost ? 'POST' : 'GET', isPost ? post(id) : get(id))
      sent++
      if (answer?.status === 200) continue
      if (isPost) lost++
      else failed.push(`${id}: ${answer?.status} ${answer?.body}`)
    }
  })
  const served = (port: number) => new Promise<void>(resolve => {
    const end = gateway.upstream.onSettled(({ instance, outcome }) => {
      if (instance.port !== port || outcome !== 'answered') return
      end()
      resolve()
    })
  })

  for (let round = 0; round < rounds; round++) {
    const which = round % 2
    await Promise.all(ports.map(served))
    await kill(children[which]!)
    const revived = await run(ports[which]!)
    children = children.map((child, index) => index === which ? revived : child)
    await served(ports[which]!)
  }
  stop.abort()
  await Promise.all(clients)

  t.comment(`${sent} requests, ${lost} POSTs met a killed process`)
  t.same(failed.slice(0, 5), [])
  t.same([...posts].filter(([, times]) => times > 1), [])
  await quiet(gateway)
  t.equal(underWay(gateway), 0)
})
