/** plugins/health: one probe over a real socket, whatever is at the other end. */
import { spawn } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import health from '../../plugins/health/index.ts'
import type { HealthOptions } from '../../plugins/health/options.ts'
import { askHttp, createProbe, type ProbeFinding } from '../../plugins/health/probe.ts'
import registry from '../../plugins/registry/index.ts'
import upstream from '../../plugins/upstream/index.ts'
import { systemClock } from '../../src/clock.ts'
import { newRuntime, stateOf, type Instance } from '../../src/fleet/instance.ts'
import { createLookupOf } from '../../src/guarded-lookup.ts'
import type { TlsOf } from '../../src/tls-agents.ts'
import { closed, deadPort, fakeAgent, rawAgent } from '../helpers/fake-agent.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

const lookupOf = createLookupOf(undefined)
const tlsOf: TlsOf = () => ({})
const settings: HealthOptions = { interval: 10_000, timeout: 2_000, unhealthyAfter: 3, healthyAfter: 2 }

function instanceAt (t: Test, port: number, protocol: 'http' | 'https' = 'http'): Instance {
  t.ok(port > 0)
  return { id: 'i', agent: 'a', protocol, host: '127.0.0.1', port, origin: `${protocol}://127.0.0.1:${port}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }
}

async function probeReal (t: Test, port: number, changed: Partial<HealthOptions> & { protocol?: 'http' | 'https' } = {}) {
  const { protocol = 'http', ...rest } = changed
  return createProbe(systemClock, { lookupOf, tlsOf })(instanceAt(t, port, protocol), { ...settings, ...rest }, new AbortController().signal)
}

t.test('without a path a connection is enough', async t => {
  const agent = await rawAgent(t, () => {})

  t.equal(await probeReal(t, agent.port), 'ok')
  t.equal(await probeReal(t, await deadPort()), 'refused')
})

t.test('with a path the answer to a GET counts', async t => {
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(Number(request.url!.slice(1)))
    response.end(`agent ${request.headers['user-agent']}, ${request.headers.connection}`)
  })
  const cases: [status: number, outcome: ProbeFinding][] = [[200, 'ok'], [204, 'ok'], [302, 'ok'], [399, 'ok'], [400, 'bad'], [404, 'bad'], [500, 'bad'], [503, 'bad']]

  for (const [status, outcome] of cases) t.equal(await probeReal(t, agent.port, { path: `/${status}` }), outcome, String(status))

  t.equal(agent.requests[0], 'GET /200')
  t.equal(await probeReal(t, await deadPort(), { path: '/200' }), 'refused')
})

t.test('what is not HTTP, and who hangs up, is bad', async t => {
  const noise = await rawAgent(t, socket => socket.end('220 mail.example ESMTP\r\n'))
  const mute = await rawAgent(t, socket => socket.destroy())

  t.equal(await probeReal(t, noise.port, { path: '/' }), 'bad')
  t.equal(await probeReal(t, mute.port, { path: '/' }), 'bad')
})

t.test('no answer in time is a timeout, and the connection is closed', async t => {
  const clock = fakeClock()
  const agent = await rawAgent(t, () => clock.advance(2_000))

  const outcome = await createProbe(clock, { lookupOf, tlsOf })(instanceAt(t, agent.port), { ...settings, path: '/' }, new AbortController().signal)

  t.equal(outcome, 'timeout')
  const [socket] = agent.connections
  await closed(socket!)
  t.equal(socket!.closed, true)
})

t.test('no connection in time is a timeout', async t => {
  const clock = fakeClock()
  const agent = await rawAgent(t, () => {})

  const probing = createProbe(clock, { lookupOf, tlsOf })(instanceAt(t, agent.port), settings, new AbortController().signal)
  clock.advance(2_000)

  t.equal(await probing, 'timeout')
})

t.test('an endless body is not read to its end', async t => {
  const agent = await fakeAgent(t, (_request, response) => {
    const more = () => { while (response.write('x'.repeat(10_000))) ; }
    response.on('drain', more)
    more()
  })

  t.equal(await probeReal(t, agent.port, { path: '/', timeout: 3_600_000 }), 'ok')
})

t.test('an event stream is good when its head is there, long before the timeout', async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n') })
  const over = once(agent.server, 'connection').then(([socket]) => closed(socket as Socket))

  t.equal(await probeReal(t, agent.port, { path: '/', timeout: 3_600_000 }), 'ok')

  await t.resolves(over, 'and its connection is closed')
})

t.test('a redirect is good, and not followed', async t => {
  const other = await fakeAgent(t)
  const agent = await fakeAgent(t, (_request, response) => { response.writeHead(302, { location: `${other.origin}/login` }).end() })

  t.equal(await probeReal(t, agent.port, { path: '/' }), 'ok')

  t.equal(other.requests.length, 0)
})

t.test('whatever an agent sends, the probe has an outcome and its connection is closed', async t => {
  const cases: [name: string, bytes: string, outcome: ProbeFinding][] = [
    ['an unasked 101', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n', 'bad'],
    ['no HTTP', '\0\x01\x02\r\n\r\n', 'bad'],
    ['a head without an end', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}`, 'bad'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 'bad'],
    ['a body that does not end', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx', 'ok'],
    ['broken chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 'ok'],
    ['more than it said', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 500 No\r\n\r\n', 'ok'],
    ['an interim answer and no other', 'HTTP/1.1 103 Early Hints\r\n\r\n', 'timeout'],
    ['half a head', 'HTTP/1.1 200 OK\r\n', 'timeout']
  ]
  for (const [name, bytes, outcome] of cases) {
    const agent = await rawAgent(t, socket => { socket.write(bytes, 'latin1') })

    t.equal(await probeReal(t, agent.port, { path: '/', timeout: outcome === 'timeout' ? 100 : 3_600_000 }), outcome, name)

    for (const socket of agent.connections) await closed(socket)
  }
})

t.test('instances that come and go a thousand times leave nothing behind', async t => {
  const agent = await rawAgent(t, () => {})
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, { path: '/' })
  await app.ready()
  const timers = () => process.getActiveResourcesInfo().filter(kind => kind === 'Timeout' || kind === 'TCPSocketWrap' || kind === 'TCPConnectWrap').length
  const before = timers()

  for (let count = 0; count < 1_000; count++) {
    const { instance } = app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
    if (count % 10 === 0) await nextTurn() // some get as far as a connection, some to none
    app.registry.removeInstance('planner', instance.id)
  }
  await app.health.firstRound()
  while (timers() > before) await nextTurn()

  for (const socket of agent.connections) await closed(socket)
  app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
  await once(agent.server, 'connection') // and there is a turn for who comes next
  t.pass()
})

/** A listener that prints its port, and `busy` when its first connection is there: from then on it only writes to that, so that nobody accepts. */
const overloadedAgent = `
  const net = require('node:net'), fs = require('node:fs')
  const server = net.createServer(socket => {
    socket.setNoDelay()
    process.stdout.write('busy\\n')
    const still = new Int32Array(new SharedArrayBuffer(4))
    for (;;) {
      try { fs.writeSync(socket._handle.fd, 'chunk') } catch (error) { if (error.code !== 'EAGAIN') process.exit() }
      Atomics.wait(still, 0, 0, 10)
    }
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => process.stdout.write(server.address().port + '\\n'))
`

t.test('busy is not dead: an agent too busy to accept is not down while it sends', async t => {
  const child = spawn(process.execPath, ['-e', overloadedAgent], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => { child.kill('SIGKILL') })
  const [line] = await once(child.stdout, 'data') as [Buffer]
  const port = Number(String(line))
  const app = Fastify()
  t.teardown(() => app.close())
  const outcomes: ProbeFinding[] = []
  let enough = () => {}
  const probe = createProbe(systemClock, { lookupOf, tlsOf })
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, {
    interval: '100ms',
    timeout: '300ms',
    unhealthyAfter: 1,
    async probe (...args) {
      const outcome = await probe(...args)
      if (outcomes.push(outcome) >= 3) setImmediate(enough)
      return outcome
    }
  })
  const stream = connect({ host: '127.0.0.1', port })
  const inLine: Socket[] = []
  t.teardown(() => { for (const socket of [stream, ...inLine]) socket.destroy() })
  await once(child.stdout, 'data')
  // As many as the queue takes, and some that it does not.
  for (let count = 0; count < 8; count++) inLine.push(connect({ host: '127.0.0.1', port }).on('error', () => {}))
  await Promise.all(inLine.slice(0, 2).map(socket => once(socket, 'connect')))
  const { instance } = app.registry.register({ name: 'planner', host: '127.0.0.1', port })
  const attempt = app.upstream.begin(instance)
  stream.on('data', () => app.upstream.progress(attempt))
  const probed = new Promise<void>(resolve => { enough = resolve })

  await app.ready()
  await probed
  t.same(outcomes.slice(0, 3), ['timeout', 'timeout', 'timeout'])
  t.equal(stateOf(instance), 'up')
  stream.removeAllListeners('data')
  const down = new Promise<void>(resolve => { enough = () => { if (stateOf(instance) === 'down') resolve() } })
  await down

  t.equal(stateOf(instance), 'down', 'when nothing moves any more')
})

t.test('TLS is verified', async t => {
  const server = createTlsServer({ key: unknownKey, cert: unknownCertificate }, (_request, response) => response.end())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo

  for (const path of [{ path: '/' }, {}]) {
    t.match(await probeReal(t, port, { ...path, protocol: 'https' }), { outcome: 'bad', reason: /^its certificate is self-signed, so from an unknown issuer/ })
  }
})

t.test('closing the application ends a probe that is under way', async t => {
  const agent = await rawAgent(t, () => {})
  const app = Fastify()
  await app.register(registry)
  await app.register(upstream)
  await app.register(health, { path: '/' })
  app.registry.register({ name: 'planner', host: '127.0.0.1', port: agent.port })
  await app.ready()
  await once(agent.server, 'connection')

  await app.close()

  const [socket] = agent.connections
  await closed(socket!)
  t.equal(socket!.closed, true)
})

t.test('a probe leaves nothing on the signal that outlives it', async t => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const { signal } = new AbortController()
  const probe = createProbe(systemClock, { lookupOf, tlsOf })
  const settings = { interval: 1_000, timeout: 1_000, unhealthyAfter: 3, healthyAfter: 2 }
  const instance: Instance = { id: 'i', agent: 'a', protocol: 'http', host: '127.0.0.1', port, origin: `http://127.0.0.1:${port}`, weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }

  for (let index = 0; index < 20; index++) t.equal(await probe(instance, settings, signal), 'ok')
  const agent = await fakeAgent(t, (_request, response) => { response.write('x') })
  for (let index = 0; index < 20; index++) {
    t.match(await askHttp(systemClock, { ...instance, port: agent.port }, { lookupOf, tlsOf }, { path: '/', timeoutMs: 1_000, signal, headOnly: true }), { status: 200 })
  }

  t.equal(getEventListeners(signal, 'abort').length, 0)
})

/** A certificate that nobody vouches for. */
const unknownKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHP9GUH/a2+lnMGRx
/J+PlsQ71Mu1X4N+Ang9xwQv+rKhRANCAAQXXQRPZL93Jh6WWJgibU5leXFo4lfe
pZScI8VcOmso4xlFCsGwczXfwYxnONoEs99Pp7OPXgYS4i74Jo05mQk5
-----END PRIVATE KEY-----`
const unknownCertificate = `-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUUbE1veXLxDAb9rjBw8HsH0DXkakwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzEyMzgzMloYDzIxMjYxMDMw
MTIzODMyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQXXQRPZL93Jh6WWJgibU5leXFo4lfepZScI8VcOmso4xlFCsGwczXf
wYxnONoEs99Pp7OPXgYS4i74Jo05mQk5o28wbTAdBgNVHQ4EFgQUijE7+INmrYPu
SPHhfCM1UeOuR3AwHwYDVR0jBBgwFoAUijE7+INmrYPuSPHhfCM1UeOuR3AwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAOKOJYTi9zPmw6UpwKudn2ydIcsYR8FaT2ymEcdg/MXIAiAQ
Ceq6IC2Nvq0e7Jo+7+P6IYipEnIKNk6pnerSoDupzQ==
-----END CERTIFICATE-----`
