import t, { type Test } from 'tap'
import Fastify from 'fastify'
import problem from '../../plugins/problem/index.ts'
import { errorCatalogue, InvalidRegistrationError, NoInstanceAvailableError } from '../../src/errors.ts'
import { renderProblem, toFleetError } from '../../src/problem.ts'

async function build (t: Test, options = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(problem, options)
  return app
}

t.test('an error of the catalogue is answered as RFC 9457 problem details', async t => {
  const app = await build(t)
  app.get('/', async () => { throw new NoInstanceAvailableError('nobody home', { headers: { 'retry-after': '1' } }) })

  const reply = await app.inject('/')

  t.equal(reply.statusCode, 503)
  t.equal(reply.headers['content-type'], 'application/problem+json; charset=utf-8')
  t.equal(reply.headers['retry-after'], '1')
  t.equal(reply.headers['proxy-status'], 'fleet-gateway; error=destination_unavailable')
  const body = reply.json()
  t.match(body, { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE', detail: 'nobody home', type: '/docs/errors.md#fleet_no_instance_available' })
  t.equal(body.error, body.title)
  t.match(body.instance, /^urn:/)
})

t.test('what is not of the catalogue is a defect and tells nothing of itself', async t => {
  const app = await build(t)
  app.get('/', async () => { throw new Error('secret of 10.0.0.1') })

  const reply = await app.inject('/')

  t.match(reply.json(), { status: 500, code: 'FLEET_INTERNAL' })
  t.notMatch(reply.body, /secret|10\.0\.0\.1|at .*\.ts/)
})

t.test('an error of somebody else\'s hook keeps its status and its headers, and its text only where it is the client\'s fault', async t => {
  const app = await build(t)
  const table: [Record<string, unknown>, number, string, Record<string, string>, RegExp][] = [
    [{ statusCode: 401, headers: { 'WWW-Authenticate': 'Basic realm="host"' } }, 401, 'FLEET_UNAUTHENTICATED', { 'www-authenticate': 'Basic realm="host"' }, /told/],
    [{ status: 422 }, 422, 'FLEET_BAD_REQUEST', {}, /told/],
    [{ statusCode: 405, headers: { Allow: ['GET', 'PUT'] } }, 405, 'FLEET_METHOD_NOT_ALLOWED', { allow: 'GET, PUT' }, /told/],
    [{ statusCode: 503, headers: { 'Retry-After': 7, 'Content-Type': 'text/html', 'Content-Length': '1' } }, 503, 'FLEET_INTERNAL', { 'retry-after': '7' }, /log/],
    [{ statusCode: 200 }, 500, 'FLEET_INTERNAL', {}, /log/],
    [{ statusCode: 700 }, 500, 'FLEET_INTERNAL', {}, /log/]
  ]
  app.get('/:row', async request => { throw Object.assign(new Error('told'), table[Number((request.params as { row: string }).row)]![0]) })

  for (const [row, [, status, code, headers, detail]] of table.entries()) {
    const reply = await app.inject(`/${row}`)
    t.equal(reply.statusCode, status)
    t.match(reply.json(), { status, code, detail })
    t.match(reply.headers, { ...headers, 'content-type': 'application/problem+json; charset=utf-8', 'content-length': String(Buffer.byteLength(reply.body)) })
  }
})

t.test('client errors that Fastify finds are malformed requests or too large bodies', async t => {
  const app = await build(t)
  app.post('/', { bodyLimit: 10 }, async () => 'in')

  t.match((await app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'application/json' }, payload: '{' })).json(), { code: 'FLEET_BAD_REQUEST' })
  t.match((await app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'application/json' }, payload: '"a long string"' })).json(), { status: 413, code: 'FLEET_BODY_TOO_LARGE' })
})

t.test('an unknown path is 404, a known one with another method 405 with Allow', async t => {
  const app = await build(t)
  app.get('/agents/:name', async () => 'in')
  app.delete('/agents/:name', async () => 'in')

  t.match((await app.inject('/nowhere')).json(), { status: 404, code: 'FLEET_NOT_FOUND' })
  const reply = await app.inject({ method: 'POST', url: '/agents/planner?x=1' })
  t.equal(reply.statusCode, 405)
  t.equal(reply.headers['allow'], 'DELETE, GET, HEAD')
  t.match(reply.json(), { code: 'FLEET_METHOD_NOT_ALLOWED' })
})

t.test('where the host application answers unknown paths, it goes on doing so', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.setNotFoundHandler(async () => 'the host speaks')
  await app.register(problem, { notFound: false })

  t.equal((await app.inject('/nowhere')).body, 'the host speaks')
})

t.test('a HEAD that fails has no body', async t => {
  const app = await build(t)
  app.get('/', async () => { throw new NoInstanceAvailableError('nobody') })

  const reply = await app.inject({ method: 'HEAD', url: '/' })

  t.equal(reply.statusCode, 503)
  t.equal(reply.body, '')
})

t.test('the request id becomes a URN, whatever it is', async t => {
  const error = new NoInstanceAvailableError('nobody')

  t.match(JSON.parse(renderProblem(error, '123e4567-e89b-12d3-a456-426614174000').body), { instance: 'urn:uuid:123e4567-e89b-12d3-a456-426614174000' })
  t.match(JSON.parse(renderProblem(error, 'a b').body), { instance: 'urn:request:a%20b' })
})

t.test('the length counts bytes, and wrong fields are listed', async t => {
  const error = new InvalidRegistrationError('wörong', { errors: [{ path: 'port', message: 'must be integer' }], nearest: ['x'] })
  const { headers, body } = renderProblem(error, 'id')

  t.equal(headers['content-length'], String(Buffer.byteLength(body)))
  t.match(JSON.parse(body), { errors: [{ path: 'port' }], nearest: ['x'] })
})

t.test('anything thrown becomes an error of the catalogue', async t => {
  for (const thrown of [new Error('x'), 'text', undefined, Object.assign(new Error('teapot'), { statusCode: 418 }), Object.assign(new Error('big'), { statusCode: 413 })]) {
    t.ok(errorCatalogue.has(toFleetError(thrown).code))
  }
  const cause = new Error('root')
  t.equal(new NoInstanceAvailableError('x', {}, { cause }).cause, cause)
})
