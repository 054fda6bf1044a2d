/** RFC 6750, The OAuth 2.0 Authorization Framework: Bearer Token Usage; and RFC 9110 §11 where it leaves things to HTTP. */
import { connect, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import auth from '../../plugins/auth/index.ts'
import problem from '../../plugins/problem/index.ts'

const token = 'AbZ09-._~+/token=='

async function build (t: Test) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(problem)
  await app.register(auth, { keys: [{ id: 'reader', token, scopes: ['read'] }] })
  app.get('/read', { config: { fleet: { scope: 'read' } } }, async request => ({ strip: request.authorizationIsGateways }))
  app.get('/register', { config: { fleet: { scope: 'register' } } }, async () => 'ok')
  const ask = (authorization?: string, url = '/read') => app.inject({ url, headers: { ...(authorization !== undefined && { authorization }) } })
  return { app, ask }
}

/** The answer to lines as they are, repeated fields included. */
async function raw (t: Test, app: Awaited<ReturnType<typeof build>>['app'], ...lines: string[]): Promise<string> {
  if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let answer = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => { answer += chunk })
  socket.write(['GET /read HTTP/1.1', 'Host: localhost', 'Connection: close', ...lines, '', ''].join('\r\n'))
  await once(socket, 'close')
  return answer
}

t.test('§2.1 the Authorization request header field; §1.1 the scheme is case-insensitive (RFC 9110 §11.1)', async t => {
  const { ask } = await build(t)
  for (const scheme of ['Bearer', 'bearer', 'BEARER', 'bEaReR']) t.equal((await ask(`${scheme} ${token}`)).statusCode, 200, scheme)
  t.equal((await ask(`Bearer   ${token}`)).statusCode, 200, '1*SP')
})

t.test('§2.1 tokens are compared exactly', async t => {
  const { ask } = await build(t)
  for (const wrong of [token.toLowerCase(), `${token}=`, token.slice(0, -1), `${token} ${token}`, `"${token}"`, `${token},`, 'x'.repeat(10_000)]) {
    t.equal((await ask(`Bearer ${wrong}`)).statusCode, 401, wrong.slice(0, 40))
  }
})

t.test('§2 no other method of sending a token works: no query, no form', async t => {
  const { app } = await build(t)

  t.equal((await app.inject(`/read?access_token=${encodeURIComponent(token)}`)).statusCode, 401)
})

t.test('§3 a refusal names the scheme and the realm; §3.1 and no error when there was no token', async t => {
  const { ask } = await build(t)
  for (const authorization of [undefined, '', 'Bearer', 'Basic Zm9vOmJhcg==', 'Digest username="x"', token, `Bearer${token}`, `Token ${token}`]) {
    const reply = await ask(authorization)
    t.equal(reply.statusCode, 401, String(authorization))
    t.equal(reply.headers['www-authenticate'], 'Bearer realm="fleet-gateway"', String(authorization))
  }
})

t.test('§3.1 invalid_token', async t => {
  const { ask, app } = await build(t)
  const expected = 'Bearer realm="fleet-gateway", error="invalid_token"'

  const reply = await ask('Bearer wrong-token')

  t.match(reply.json(), { status: 401, code: 'FLEET_UNAUTHENTICATED' })
  t.equal(reply.headers['www-authenticate'], expected)
  t.equal((await app.inject({ url: '/read', headers: { 'x-fleet-token': 'wrong-token' } })).headers['www-authenticate'], expected)
})

t.test('§3.1 insufficient_scope, with the scope that is needed', async t => {
  const { ask } = await build(t)

  const reply = await ask(`Bearer ${token}`, '/register')

  t.match(reply.json(), { status: 403, code: 'FLEET_FORBIDDEN' })
  t.equal(reply.headers['www-authenticate'], 'Bearer realm="fleet-gateway", error="insufficient_scope", scope="register"')
})

t.test('§3.1 a token that is sent twice is refused, though both were right', async t => {
  const { app } = await build(t)
  const valid = `Bearer ${token}`

  t.match(await raw(t, app, `Authorization: ${valid}`), /^HTTP\/1\.1 200 /)
  for (const lines of [
    [`Authorization: ${valid}`, `authorization: ${valid}`],
    [`Authorization: ${valid}`, 'Authorization: Bearer wrong-token'],
    ['Authorization: Basic x', `Authorization: ${valid}`],
    [`X-Fleet-Token: ${token}`, `x-fleet-token: ${token}`]
  ]) {
    const answer = await raw(t, app, ...lines)
    t.match(answer, /^HTTP\/1\.1 401 /, lines.join(' | '))
    t.match(answer, /error="invalid_token"/)
    t.match(answer, /more than one token/, 'and it is no guess')
  }
})

t.test('a second Authorization that opens the gateway is found, where X-Fleet-Token opened it', async t => {
  const { app } = await build(t)

  t.match(await raw(t, app, `X-Fleet-Token: ${token}`, 'Authorization: Bearer of-the-agent', `Authorization: Bearer ${token}`), /"strip":true/)
  t.match(await raw(t, app, `X-Fleet-Token: ${token}`, 'Authorization: Bearer of-the-agent', 'Authorization: Basic x'), /"strip":false/)
})

t.test('§5.3 what was refused is not kept by caches', async t => {
  const { ask } = await build(t)

  t.equal((await ask('Bearer wrong-token')).headers['cache-control'], 'no-store')
})
