import t from 'tap'
import Fastify from 'fastify'
import guard from '../../plugins/guard/index.ts'
import { targetProblem } from '../../plugins/guard/request-path.ts'

t.test('targets that two parties could read differently are refused', async t => {
  const refused = [
    '/api/a/..', '/api/a/../b', '/api/a/%2e%2e/b', '/api/a/.%2E/b', '/api/a%2f..%2fb', '/api/a/..%5cb', '/api/a/%5C../b', '/../x',
    '/api/a/b\\c', '/api/a/%00', '/api/a/%0d%0ax', '/api/a/%7f', '/api/a/\tx', '/api/a/x?a=\x01', '/api/a/%', '/api/a/%g1', '/api/a/%2', '/api/a#x',
    'http://host/api/a/../b'
  ]
  for (const target of refused) t.type(targetProblem(target), 'string', target)
})

t.test('anything else is nobody\'s business but the agent\'s', async t => {
  const accepted = [
    '/', '/api/a/b%2Fc', '/api/a/b+c', '/api/a//b', '/api/a/b;c=1', '/api/a/b:c', '/api/a/x?a=1&a=2?x', '/api/a/x?%zz=..', '/api/a/x?../..', '/api/a/...', '/api/a/..b', '/api/a/b..',
    '/api/a/%252e%252e/b', '/api/a/%5C', '/api/a/%ff', '/api/a/%E2%82%AC', '/api/a/.', 'http://host/api/a'
  ]
  for (const target of accepted) t.equal(targetProblem(target), undefined, target)
})

t.test('a request that has been here before is a loop', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(guard, { viaPseudonym: 'fleet-me' })
  app.get('/', async () => 'in')

  t.equal((await app.inject({ url: '/', headers: { via: '1.1 other, 1.1 fleet-me' } })).statusCode, 508)
  t.equal((await app.inject({ url: '/', headers: { via: '1.1 other' } })).body, 'in')
})

t.test('an invalid Host or transfer coding is refused with the connection', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(guard, {})
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  app.post('/', async () => 'in')
  const table: [Record<string, string>, number][] = [
    [{ host: 'a b' }, 400], [{ host: 'a/b' }, 400], [{ host: 'user@a' }, 400], [{ host: 'a:port' }, 400],
    [{ host: '[::1]:80' }, 200], [{ host: 'a.example:8080' }, 200], [{ host: 'a_b' }, 200],
    [{ host: 'a', 'transfer-encoding': 'gzip' }, 501], [{ host: 'a', 'transfer-encoding': 'gzip, chunked' }, 501],
    [{ host: 'a', 'transfer-encoding': 'chunked, chunked' }, 400], [{ host: 'a', 'transfer-encoding': ',chunked' }, 400], [{ host: 'a', 'transfer-encoding': '' }, 400],
    [{ host: 'a', 'transfer-encoding': 'Chunked' }, 200], [{ host: 'a', 'transfer-encoding': 'chunked', 'content-length': '3' }, 400]
  ]
  for (const [headers, status] of table) {
    const reply = await app.inject({ method: 'POST', url: '/', headers })
    t.equal(reply.statusCode, status, JSON.stringify(headers))
  }
})
