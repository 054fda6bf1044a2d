import t, { type Test } from 'tap'
import { once } from 'node:events'
import { connect, type AddressInfo } from 'node:net'
import Fastify from 'fastify'
import facts, { type RequestFacts } from '../../plugins/facts/index.ts'
import { requestIdOf } from '../../src/request-id.ts'

async function build (t: Test, options = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(facts, options)
  const finished: RequestFacts[] = []
  app.facts.onFinished(one => { finished.push(one) })
  return { app, finished }
}

t.test('an exchange is accounted for when it is over, injected ones too', async t => {
  const { app, finished } = await build(t)
  app.get('/', async request => ({ id: request.facts.id, attempts: request.attempts.length }))

  const reply = await app.inject({ url: '/?a=1', headers: { 'x-request-id': 'mine' } })

  t.same(reply.json(), { id: 'mine', attempts: 0 })
  t.equal(reply.headers['x-request-id'], 'mine')
  t.match(finished, [{ id: 'mine', method: 'GET', url: '/?a=1', status: 200, ending: 'complete', bytesSent: 26, durationMs: Number }])
  t.equal(app.facts.inFlight, 0)
})

t.test('a client that goes away before its answer is told from one that has it', async t => {
  const { app, finished } = await build(t)
  const arrived = new Promise<void>(resolve => app.get('/', () => { resolve(); return new Promise(() => {}) }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await arrived
  const over = new Promise<void>(resolve => { app.facts.onFinished(() => resolve()) })

  socket.destroy()

  await over
  t.match(finished, [{ status: 499, ending: 'client-aborted' }])
})

t.test('only a trusted proxy says who the client is', async t => {
  const table: [string[], string, string][] = [
    [['127.0.0.1'], '192.0.2.1:4000', '192.0.2.1'], [['127.0.0.1'], '[2001:db8::1]:4000', '2001:db8::1'], [['127.0.0.1'], '[2001:db8::1]', '2001:db8::1'], [['127.0.0.1'], '::ffff:192.0.2.1', '192.0.2.1'],
    [['127.0.0.1', '192.0.2.0/24'], '198.51.100.7, 192.0.2.1:80', '198.51.100.7'], [['127.0.0.1'], 'garbage', '127.0.0.1'], [['127.0.0.1', '192.0.2.0/24'], '198.51.100.7, unknown, 192.0.2.1', '192.0.2.1'], [['127.0.0.1'], '', '127.0.0.1'],
    [[], '192.0.2.1', '127.0.0.1'], [['127.0.0.1'], '192.0.2.1', '192.0.2.1'], [['127.0.0.1', '192.0.2.0/24'], '198.51.100.7, 192.0.2.1', '198.51.100.7'], [['10.0.0.0/8'], '192.0.2.1', '127.0.0.1']
  ]
  for (const [trustedProxies, forwarded, client] of table) {
    const { app } = await build(t, { trustedProxies })
    app.get('/', async request => request.facts.clientAddress)
    t.equal((await app.inject({ url: '/', headers: { 'x-forwarded-for': forwarded } })).body, client)
  }
})

t.test('a trusted proxy may say it in Forwarded, too', async t => {
  const table: [forwarded: string, others: Record<string, string>, client: string][] = [
    ['for=192.0.2.7', {}, '192.0.2.7'], ['For="192.0.2.7:4711";proto=https', {}, '192.0.2.7'], ['for="[2001:db8:cafe::17]:4711"', {}, '2001:db8:cafe::17'], ['for=192.0.2.7, for=198.51.100.1;by=10.0.0.1', {}, '192.0.2.7'],
    ['for=192.0.2.7, for=203.0.113.1', {}, '203.0.113.1'], ['for=unknown', {}, '127.0.0.1'], ['for=_hidden, for=198.51.100.1', {}, '198.51.100.1'], ['proto=https', {}, '127.0.0.1'], ['for="192.0.2.7', {}, '127.0.0.1'], ['for="[2001:db8::1]", for=198.51.100.1', {}, '2001:db8::1'],
    ['for=10.0.0.1;host="a,b;\\"c", for=192.0.2.7', {}, '192.0.2.7'], ['for=192.0.2.7,', {}, '192.0.2.7'], [', ,for=192.0.2.7 ,, for=198.51.100.1\t', {}, '192.0.2.7'], ['by=x;FOR = 192.0.2.7', {}, '127.0.0.1'], ['for=10.0.0.1 for=192.0.2.7', {}, '127.0.0.1'],
    ['for=", for=192.0.2.7', {}, '192.0.2.7'], ['for="x, for="[2001:db8::1]:80"', {}, '2001:db8::1'], ['x, for=192.0.2.7;proto=https', {}, '192.0.2.7'], ['__proto__=x;for=192.0.2.7', {}, '192.0.2.7'], ['for=192.0.2.7;for=10.0.0.1', {}, '10.0.0.1'], ['"', {}, '127.0.0.1'], ['for=192.0.2.7;', {}, '192.0.2.7'], [';for=192.0.2.7 ; ;proto=https', {}, '192.0.2.7'], ['host=a,;for=192.0.2.7', {}, '192.0.2.7'],
    ['for=192.0.2.7', { 'x-forwarded-for': '192.0.2.8' }, '192.0.2.8']
  ]
  const { app } = await build(t, { trustedProxies: ['127.0.0.1', '198.51.100.0/24'] })
  app.get('/', async request => request.facts.clientAddress)
  for (const [forwarded, others, client] of table) t.equal((await app.inject({ url: '/', headers: { forwarded, ...others } })).body, client, forwarded)
})

t.test('an answer on a real socket is complete', async t => {
  const { app, finished } = await build(t)
  app.get('/', async () => 'in')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  const over = new Promise<void>(resolve => { app.facts.onFinished(() => resolve()) })
  socket.end('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  await once(socket, 'data')
  await over

  t.match(finished, [{ status: 200, ending: 'complete' }])
})

t.test('a request id is kept when it is safe in headers and logs', async t => {
  for (const sane of ['a', 'A-1_b.c~d+e/f=g:h', 'x'.repeat(128)]) t.equal(requestIdOf(sane), sane)
  for (const odd of [undefined, '', 'a b', 'a"b', 'ä', 'x'.repeat(129), ['a', 'b']]) t.match(requestIdOf(odd), /^[0-9a-f-]{36}$/)
})
