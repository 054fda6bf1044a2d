/** Where the keys for JSON Web Tokens come from (RFC 7517): fetched, kept and given up, whatever the server that has them does. */
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { AuthOptions } from '../../plugins/auth/index.ts'
import { RemoteKeys, type KeySource } from '../../plugins/auth/jwks.ts'
import { JwtVerifier } from '../../plugins/auth/jwt.ts'
import { parseOptions } from '../../src/options.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { jwtPair, loggedAuthApp } from '../helpers/jwt-app.ts'
import { jwtIssuer, startOfTime, type JwtIssuer } from '../helpers/jwt-issuer.ts'

const secret = 'the-shared-secret'

const selfSigned = () => ({ cert: fixture('self-signed.crt'), key: fixture('self-signed.key') })
const fixture = (name: string) => readFileSync(new URL(`../fixtures/${name}`, import.meta.url))

t.test('a new key is fetched when a token names it, and unknown ones fetch nothing until the cooldown is over', async t => {
  const { issuer, bearer, clock } = await jwtPair(t)
  const old = await issuer.token()
  issuer.keys.unshift(await issuer.makeKey('second'))
  const rotated = await issuer.token()

  t.equal((await bearer('/read', rotated)).statusCode, 401, 'fetched a moment ago')
  for (let count = 0; count < 10; count++) await bearer('/read', await issuer.token({}, { kid: `random-${count}` }))
  t.equal(issuer.asked(), 1)
  clock.advance(30_000)
  for (const claims of [{ iss: 'https://other.example' }, { aud: 'other' }]) await bearer('/read', await issuer.token(claims, { kid: 'unknown' }))
  t.equal(issuer.asked(), 1, 'for tokens of others nothing is fetched')
  const replies = await Promise.all([rotated, rotated, old, await issuer.token({}, { kid: 'unknown' })].map(token => bearer('/read', token)))

  t.same(replies.map(({ statusCode }) => statusCode), [200, 200, 200, 401])
  t.equal(issuer.asked(), 2, 'all waited for one answer')
})

t.test('a key that was withdrawn opens nothing from the next fetch on, not even with a token that was verified', async t => {
  const { issuer, bearer, clock } = await jwtPair(t)
  const token = await issuer.token({ exp: startOfTime + 3_600 })
  t.equal((await bearer('/read', token)).statusCode, 200)
  issuer.keys.splice(0, 1, await issuer.makeKey('second'))

  clock.advance(600_000)

  t.equal((await bearer('/read', token)).statusCode, 401)
  t.equal((await bearer('/read', await issuer.token({ exp: startOfTime + 3_600 }))).statusCode, 200)
})

t.test('keys are fetched anew before they are too old, and nobody waits for it', async t => {
  const { issuer, bearer, clock } = await jwtPair(t)
  const token = await issuer.token({ exp: startOfTime + 3_600 })
  let answer = () => {}
  const asked = new Promise<void>(resolve => issuer.misbehave((_request, response) => {
    answer = () => response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))
    resolve()
  }))
  clock.advance(300_000)

  t.equal((await bearer('/read', token)).statusCode, 200)
  await asked
  t.equal((await bearer('/read', token)).statusCode, 200)
  t.equal(issuer.asked(), 2)
  answer()
})

t.test('without the issuer\'s server known keys go on until they are too old; then nobody can say, which is no fault of the client\'s', async t => {
  const { issuer, bearer, ask, clock, said } = await jwtPair(t, {}, { secret })
  const token = await issuer.token({ exp: startOfTime + 3_600 })
  t.equal((await bearer('/read', token)).statusCode, 200)
  await issuer.stop()
  clock.advance(599_999)

  t.equal((await bearer('/read', token)).statusCode, 200)
  t.equal((await bearer('/read', await issuer.token({ sub: 'new', exp: startOfTime + 3_600 }))).statusCode, 200, 'a new one of a known key, too')
  clock.advance(1)
  for (let count = 0; count < 25; count++) {
    const reply = await bearer('/read', token)
    t.match(reply.json(), { statusCode: 503, code: 'FLEET_AUTH_UNAVAILABLE' })
    t.match(reply.headers['retry-after'], /^[1-5]$/)
    t.equal(reply.headers['www-authenticate'], undefined)
  }
  t.equal((await ask('/api/planner', { 'x-fleet-token': secret, authorization: `Bearer ${token}` })).statusCode, 503, 'whose it is, nobody knows')
  t.equal((await ask('/api/planner', { 'x-fleet-token': secret, authorization: `Bearer ${await issuer.token({ aud: 'agent' })}` })).statusCode, 200, 'an agent\'s own needs no key')
  t.equal((await bearer('/optional', token)).statusCode, 200)
  t.equal((await bearer('/read', await issuer.token({ aud: 'other' }))).statusCode, 401)
  t.equal((await bearer('/read', secret)).statusCode, 200, 'keys need nobody')
  t.equal(said().split('The keys of auth.jwt can not be fetched').length - 1, 1, 'said once')
})

t.test('whatever the issuer\'s server answers, it is bounded, redirects are not followed, and it is tried again after a pause', async t => {
  const answers: [string, (issuer: JwtIssuer) => void, string][] = [
    ['an error', issuer => issuer.misbehave((_request, response) => response.writeHead(500).end()), 'it answers 500'],
    ['a redirect', issuer => issuer.misbehave((request, response) => request.url === '/jwks.json' ? response.writeHead(302, { location: '/other' }).end() : response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))), 'it answers 302'],
    ['garbage', issuer => issuer.misbehave((_request, response) => response.end('<html>')), 'it answers no JWK Set'],
    ['no keys', issuer => issuer.misbehave((_request, response) => response.end('{"keys": []}')), 'it answers no JWK Set'],
    ['keys that are none', issuer => issuer.misbehave((_request, response) => response.end('{"keys": [1]}')), 'it answers no JWK Set'],
    ['much', issuer => issuer.misbehave((_request, response) => response.end(`{"keys": [${' '.repeat(300_000)}]}`)), 'it answers more than 256 KiB'],
    ['without end', issuer => issuer.misbehave((_request, response) => { response.on('error', () => {}); const write = () => { while (response.writable && response.write(' '.repeat(10_000)));response.once('drain', write) }; write() }), 'it answers more than 256 KiB'],
    ['a cut answer', issuer => issuer.misbehave((_request, response) => { response.writeHead(200, { 'content-length': '1000' }).write('{'); response.destroy() }), 'UND_ERR_SOCKET']
  ]
  for (const [name, misbehave, reason] of answers) {
    const issuer = await jwtIssuer(t)
    misbehave(issuer)
    const { bearer, clock, said } = await loggedAuthApp(t, { jwt: issuer.jwt })
    const token = await issuer.token()

    const reply = await bearer('/read', token)
    t.match(reply.json(), { statusCode: 503 }, name)
    t.match(said(), new RegExp(`can not be fetched from ${issuer.url}: ${reason}`), name)
    t.equal((await bearer('/read', token)).statusCode, 503)
    t.equal(issuer.asked(), 1, `${name}: not asked again at once`)
    issuer.misbehave(null)
    clock.advance(5_000)
    t.equal((await bearer('/read', token)).statusCode, 200, `${name}: mended`)
    t.match(said(), /are fetched from .* again/)
  }
})

t.test('a server that does not answer holds up nobody but who waits for it, and no end of the gateway', async t => {
  const issuer = await jwtIssuer(t)
  const asked = new Promise<void>(resolve => issuer.misbehave(() => resolve()))
  const { app, bearer } = await loggedAuthApp(t, { secret, jwt: issuer.jwt })

  const waiting = bearer('/read', await issuer.token())
  await asked
  t.equal((await bearer('/read', secret)).statusCode, 200)
  await app.close()

  t.equal((await waiting).statusCode, 503)
})

t.test('a server that does not answer is given up after a while, whatever was collected meanwhile', async t => {
  const issuer = await jwtIssuer(t)
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const asked = new Promise<void>(resolve => issuer.misbehave(() => resolve()))
  const { bearer } = await loggedAuthApp(t, { jwt: issuer.jwt })

  const waiting = bearer('/read', await issuer.token())
  await asked
  for (let count = 0; count < 3; count++) {
    await setImmediate()
    collect()
  }

  t.equal((await waiting).statusCode, 503)
})

t.test('so many tokens wait for a server that does not answer, and no more', async t => {
  const issuer = await jwtIssuer(t)
  let answer = () => {}
  const asked = new Promise<void>(resolve => issuer.misbehave((_request, response) => {
    answer = () => response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))
    resolve()
  }))
  const keys = new RemoteKeys({ url: issuer.url, maxAgeMs: 600_000, cooldownMs: 30_000 }, fakeClock(), { info () {}, warn () {} })
  t.teardown(() => keys.close())
  const find = async () => await keys.find({ alg: 'ES256', kid: 'first' })

  const waiting = Array.from({ length: 1_000 }, find)
  await asked
  t.match(await find().catch((error: unknown) => error), { retryAfterMs: 1_000 })
  answer()

  t.equal((await Promise.all(waiting)).length, 1_000)
  t.equal((await find()).generation, 1)
  t.equal(issuer.asked(), 1)
})

t.test('a server with a certificate that nobody vouches for is not believed, whatever the environment says', async t => {
  const issuer = await jwtIssuer(t)
  const server = createServer(selfSigned(), (_request, response) => response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) })))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const before = process.env['NODE_TLS_REJECT_UNAUTHORIZED']
  process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0'
  t.teardown(() => { if (before === undefined) delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']; else process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = before })
  const { bearer, said } = await loggedAuthApp(t, { jwt: { ...issuer.jwt, jwksUrl: `https://127.0.0.1:${(server.address() as AddressInfo).port}/` } })

  t.equal((await bearer('/read', await issuer.token())).statusCode, 503)
  t.match(said(), /can not be fetched .*DEPTH_ZERO_SELF_SIGNED_CERT/)
})

t.test('keys of a file count without any server', async t => {
  const issuer = await jwtIssuer(t)
  const file = join(t.testdir(), 'jwks.json')
  writeFileSync(file, JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))
  const { jwksUrl: _unused, ...jwt } = issuer.jwt
  const { app, bearer } = await loggedAuthApp(t, { jwt: { ...jwt, jwksFile: file } })

  t.equal((await bearer('/read', await issuer.token())).statusCode, 200)
  t.equal((await bearer('/read', await issuer.token({}, { kid: 'other' }))).statusCode, 401)
  issuer.keys.splice(0, 1, await issuer.makeKey('second'))
  writeFileSync(file, JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))
  t.equal((await bearer('/read', await issuer.token())).statusCode, 401)
  app.auth.reconfigure({ jwt: { ...jwt, jwksFile: file } })
  t.equal((await bearer('/read', await issuer.token())).statusCode, 200, 'read again with a reload')
  t.equal(issuer.asked(), 0)
})

t.test('a token whose key went while it was verified is verified anew the next time', async t => {
  const issuer = await jwtIssuer(t)
  const clock = fakeClock()
  let asked = 0
  const keys: KeySource = {
    generation: 1,
    isFresh: () => true,
    async find () {
      asked++
      const found = { key: issuer.keys[0]!.publicKey, generation: keys.generation }
      if (asked === 1) Object.assign(keys, { generation: 2 }) // others came
      return found
    },
    warm () {},
    close () {}
  }
  const { jwt } = parseOptions(AuthOptions, { jwt: issuer.jwt }, 'auth')
  const verifier = new JwtVerifier(jwt!, keys, clock)
  const token = await issuer.token()

  const kinds = []
  for (let count = 0; count < 3; count++) kinds.push((await verifier.verify(token)).kind)

  t.same(kinds, ['valid', 'valid', 'valid'])
  t.equal(asked, 2)
})
