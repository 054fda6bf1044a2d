/** JSON Web Tokens as bearer tokens: RFC 7519, RFC 8725 (best current practices), RFC 9068 (access tokens). Their keys: auth.jwks.test.ts. */
import { createHmac } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { exportSPKI, SignJWT } from 'jose'
import t from 'tap'
import type { AuthSettings } from '../../plugins/auth/index.ts'
import { VerifiedTokens } from '../../plugins/auth/verified-tokens.ts'
import { OptionsError } from '../../src/options.ts'
import { anyone } from '../../src/principal.ts'
import { jwtPair, loggedAuthApp } from '../helpers/jwt-app.ts'
import { handmade, jwtIssuer, startOfTime } from '../helpers/jwt-issuer.ts'

const secret = 'the-shared-secret'

/** What the route that was asked saw. */
function rightsIn (reply: { json (): { scopes: unknown, agents: unknown } }) {
  const { scopes, agents } = reply.json()
  return { scopes, agents }
}

t.test('a good token opens the gateway, and says who it is and what that one may do', async t => {
  const { issuer, bearer } = await jwtPair(t)

  const reply = await bearer('/read', await issuer.token({ scope: 'proxy read unheard-of', agents: ['planner'] }))

  t.equal(reply.statusCode, 200)
  t.same(reply.json(), { id: 'jwt:someone', scopes: ['read', 'proxy'], agents: ['planner'], named: true, strip: true, keyId: 'jwt:someone' })
  t.equal((await bearer('/register', await issuer.token())).headers['www-authenticate'], 'Bearer realm="fleet-gateway", error="insufficient_scope", scope="register"')
})

t.test('of everything else that looks like a token none opens anything', async t => {
  const { issuer, bearer, said } = await jwtPair(t)
  const key = issuer.keys[0]!
  const stranger = await issuer.makeKey('first')
  const rsa = await issuer.makeKey('rsa', 'RS256')
  const good = await issuer.token()
  const [head, body, signature] = good.split('.') as [string, string, string]
  const claims = { iss: 'https://issuer.example', aud: 'fleet', sub: 'someone', exp: startOfTime + 300, scope: 'admin', agents: ['*'] }
  const byHmac = (secret: string) => {
    const text = handmade({ alg: 'HS256', kid: 'first' }, claims, '').slice(0, -1)
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
  }
  const spki = await exportSPKI(key.publicKey)
  const bad: Record<string, string> = {
    'another issuer': await issuer.token({ iss: 'https://other.example' }),
    'the issuer with a slash more': await issuer.token({ iss: 'https://issuer.example/' }),
    'issuers as a list': await issuer.token({ iss: ['https://issuer.example'] }),
    'no issuer': await issuer.token({ iss: undefined }),
    'another audience': await issuer.token({ aud: 'other' }),
    'an audience that only holds ours': await issuer.token({ aud: 'fleet other' }),
    'no audience': await issuer.token({ aud: undefined }),
    'alg none': handmade({ alg: 'none' }, claims, ''),
    'alg none, with a signature': handmade({ alg: 'none' }, claims),
    'alg NONE': handmade({ alg: 'NoNe', kid: 'first' }, claims),
    'HS256 with the public key as secret': byHmac(spki),
    'HS256 with the JWK as secret': byHmac(JSON.stringify(key.jwk)),
    'an algorithm that is not pinned': await issuer.token({}, { alg: 'RS512', kid: 'rsa' }, { ...rsa, privateKey: (await issuer.makeKey('x', 'RS512')).privateKey }),
    'an algorithm that is not the key\'s': await issuer.token({}, { alg: 'RS256', kid: 'first' }, rsa),
    expired: await issuer.token({ exp: startOfTime - 31 }),
    'not yet': await issuer.token({ nbf: startOfTime + 31 }),
    'issued in the future': await issuer.token({ iat: startOfTime + 31 }),
    'no exp': await issuer.token({ exp: undefined }),
    'exp as a text': await issuer.token({ exp: String(startOfTime + 300) }),
    'another\'s signature': await issuer.token({}, {}, stranger),
    'a tampered payload': [head, Buffer.from(JSON.stringify({ ...claims, sub: 'root' })).toString('base64url'), signature].join('.'),
    'a tampered head': [Buffer.from(JSON.stringify({ alg: 'ES256', kid: 'first' })).toString('base64url'), body, signature].join('.'),
    'no signature': `${head}.${body}.`,
    'half of a signature': `${head}.${body}.${signature.slice(0, 40)}`,
    'a part more': `${good}.${signature}`,
    'no JSON': `${Buffer.from('x').toString('base64url')}.${body}.${signature}`,
    'JSON that is no object': `${head}.${Buffer.from('[]').toString('base64url')}.${signature}`,
    'a critical extension': handmade({ alg: 'ES256', kid: 'first', crit: ['exp'], exp: 1 }, claims),
    'a critical b64': await new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: 'first', crit: ['b64'], b64: true }).sign(key.privateKey),
    'another type': await issuer.token({}, { typ: 'logout+jwt' }),
    'a type that is no text': handmade({ alg: 'ES256', kid: 'first', typ: 1 }, claims),
    'a key in its head': await issuer.token({}, { jwk: stranger.jwk, kid: undefined }, stranger),
    'an address for its key': await issuer.token({}, { jku: `${issuer.url}?stranger`, x5u: `${issuer.url}?stranger` }, stranger),
    'a certificate in its head': await issuer.token({}, { x5c: ['MIIB'] }, stranger),
    'no name': await issuer.token({ sub: undefined }),
    'an empty name': await issuer.token({ sub: '' }),
    'a name that is no text': await issuer.token({ sub: 7 }),
    'a long name': await issuer.token({ sub: 'x'.repeat(201) }),
    'half a character for a name': await issuer.token({ sub: '\ud800' }),
    huge: await issuer.token({ sub: 'x', padding: 'x'.repeat(8_000) })
  }
  const before = issuer.asked()

  let address = 0
  for (const [name, token] of Object.entries(bad)) {
    const reply = await bearer('/optional', token, `192.0.2.${++address}`)
    t.match(reply.json(), { scopes: null, strip: false, keyId: null }, name)
    const refusal = await bearer('/read', token, `192.0.2.${address}`)
    t.equal(refusal.statusCode, 401, name)
    t.equal(refusal.headers['www-authenticate'], 'Bearer realm="fleet-gateway", error="invalid_token"', name)
    t.equal(refusal.json().message, name === 'expired' ? 'The token has expired' : 'The token is not valid', name)
  }

  t.equal(issuer.asked(), before, 'and nothing was fetched for any of them')
  t.equal((await bearer('/read', good)).statusCode, 200)
  for (const token of Object.values(bad)) t.notOk(said().includes(token.split('.')[1]!), 'nor is it in the log')
})

t.test('that a token has expired is told to nobody who could not have had it', async t => {
  const { issuer, bearer } = await jwtPair(t)
  const stranger = await issuer.makeKey('first')

  t.equal((await bearer('/read', await issuer.token({ exp: 1 }))).json().message, 'The token has expired')
  t.equal((await bearer('/read', await issuer.token({ exp: 1 }, {}, stranger))).json().message, 'The token is not valid')
})

t.test('times are taken with clockSkew, for tokens that were seen before as well', async t => {
  const { issuer, bearer, clock } = await jwtPair(t, { clockSkew: '10s' })
  const token = await issuer.token({ exp: startOfTime + 60, nbf: startOfTime + 10, iat: startOfTime + 10 })
  t.equal((await bearer('/read', token)).statusCode, 200)

  clock.advance(69_999)
  t.equal((await bearer('/read', token)).statusCode, 200)
  clock.advance(1)
  t.match((await bearer('/read', token)).json(), { statusCode: 401, message: 'The token has expired' })
})

t.test('every type of an access token is taken, and every algorithm that is pinned', async t => {
  const { issuer, bearer } = await jwtPair(t)
  for (const typ of [undefined, 'JWT', 'jwt', 'at+jwt', 'application/at+JWT']) t.equal((await bearer('/read', await issuer.token({}, { typ }))).statusCode, 200, String(typ))

  for (const alg of ['RS256', 'PS256', 'ES384', 'EdDSA']) {
    const other = await jwtIssuer(t)
    other.keys.splice(0, 1, await other.makeKey('k', alg))
    const { bearer } = await loggedAuthApp(t, { jwt: { ...other.jwt, algorithms: [alg as 'RS256'] } })
    t.equal((await bearer('/read', await other.token())).statusCode, 200, alg)
    t.equal((await bearer('/read', await other.token({}, { kid: undefined }))).statusCode, 200, `${alg}: the only key needs no name`)
  }
})

t.test('rights: claims in both forms, what is not there is not allowed, and defaults are for what is missing alone', async t => {
  const { issuer, bearer } = await jwtPair(t)
  const who = async (claims: object) => rightsIn(await bearer('/optional', await issuer.token({ scope: undefined, agents: undefined, ...claims })))

  t.same(await who({}), { scopes: [], agents: [] })
  t.same(await who({ scope: 'admin', agents: 'planner writer' }), { scopes: ['admin'], agents: ['planner', 'writer'] })
  t.same(await who({ scope: ['proxy', 'read'], agents: ['planner', '*'] }), { scopes: ['read', 'proxy'], agents: '*' })
  t.same(await who({ scp: ['proxy'], agents: '*' }), { scopes: ['proxy'], agents: '*' })
  t.same(await who({ scope: '', scp: 'admin' }), { scopes: [], agents: [] })
  t.same(await who({ scope: 'Admin admin,read' }), { scopes: [], agents: [] }, 'to the letter')
  t.same(await who({ scope: { admin: true }, agents: ['*', 1] }), { scopes: [], agents: [] })
  t.same(await who({ scope: null, scp: 'admin', agents: null }), { scopes: [], agents: [] })

  const token = async (claims: object) => await issuer.token({ sub: 'a', scope: undefined, agents: undefined, ...claims })
  t.equal((await bearer('/read', await token({}))).statusCode, 403)
  t.equal((await bearer('/api/planner', await token({ scope: 'proxy' }))).json().message, 'This key is not for that agent')
  t.equal((await bearer('/api/plan', await token({ scope: 'proxy', agents: 'planner' }))).statusCode, 200)
  t.equal((await bearer('/api/writer', await token({ scope: 'admin', agents: 'planner' }))).statusCode, 403)
})

t.test('rights by other claims, and by default', async t => {
  const { issuer, bearer } = await jwtPair(t, { scopeClaim: 'permissions', agentsClaim: 'https://fleet/agents', idClaim: 'email', defaultScopes: ['read'], defaultAgents: ['*'] })
  const who = async (claims: object) => rightsIn(await bearer('/optional', await issuer.token({ email: 'a@b', agents: 'writer', ...claims })))

  t.same(await who({}), { scopes: ['read'], agents: '*' })
  t.match((await bearer('/optional', await issuer.token({ email: 'a@b' }))).json(), { id: 'jwt:a@b' })
  t.same(await who({ permissions: ['proxy'], 'https://fleet/agents': ['planner'] }), { scopes: ['proxy'], agents: ['planner'] })
  t.same(await who({ permissions: [], 'https://fleet/agents': [] }), { scopes: [], agents: [] })
  t.same(await who({ permissions: 7, 'https://fleet/agents': false }), { scopes: [], agents: [] })
  t.same(await who({ permissions: null, 'https://fleet/agents': null }), { scopes: [], agents: [] }, 'null is there')
})

t.test('a name is one word for logs and buckets, and no other\'s', async t => {
  const { issuer, bearer } = await jwtPair(t)
  const idOf = async (sub: string) => (await bearer('/optional', await issuer.token({ sub }))).json().id

  t.equal(await idOf('auth0|123'), 'jwt:auth0|123')
  t.equal(await idOf('a agent:b\n'), 'jwt:a%20agent:b%0A')
  t.equal(await idOf('a%20b'), 'jwt:a%2520b')
  t.equal(await idOf('größe'), 'jwt:gr%C3%B6%C3%9Fe')
})

t.test('keys and JWTs stand beside each other, and every way to send a token takes both', async t => {
  const { issuer, ask } = await jwtPair(t, {}, { secret, keys: [{ id: 'one', token: 'a.key.with-dots', scopes: ['read'], agents: ['planner'] }] })
  const token = await issuer.token()
  const offer = { connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-protocol': `chat, fleet.bearer.${token}` }

  t.match((await ask('/read', { authorization: `Bearer ${secret}` })).json(), { id: null })
  t.match((await ask('/read', { authorization: 'Bearer a.key.with-dots' })).json(), { id: 'one' })
  t.match((await ask('/read', { 'x-fleet-token': token })).json(), { id: 'jwt:someone', strip: false })
  t.match((await ask('/read', offer)).json(), { id: 'jwt:someone', strip: false })
})

t.test('what opens the gateway is found in Authorization, whatever is in X-Fleet-Token', async t => {
  const { issuer, ask } = await jwtPair(t, {}, { secret })
  const [token, other, agents] = [await issuer.token(), await issuer.token({ sub: 'other' }), await issuer.token({ aud: 'agent' })]
  const strip = async (own: string, authorization: string) => (await ask('/api/planner', { 'x-fleet-token': own, authorization })).json().strip

  t.equal(await strip(secret, `Bearer ${token}`), true)
  t.equal(await strip(token, `Bearer ${other}`), true)
  t.equal(await strip(token, `bearer  ${secret}`), true)
  t.equal(await strip(token, `Bearer ${agents}`), false)
  t.equal(await strip(secret, `Bearer ${await issuer.token({}, {}, await issuer.makeKey('first'))}`), false)
  t.equal(await strip(secret, 'Bearer not-a-jwt'), false)
})

t.test('refused JWTs are guesses like others, and valid ones always pass', async t => {
  const { issuer, bearer } = await jwtPair(t)
  const bad = await issuer.token({}, {}, await issuer.makeKey('first'))

  for (let count = 0; count < 20; count++) t.equal((await bearer('/read', bad, '198.51.100.1')).statusCode, 401)

  t.equal((await bearer('/read', bad, '198.51.100.1')).statusCode, 429)
  t.equal((await bearer('/read', await issuer.token({ exp: 1 }), '198.51.100.1')).statusCode, 429)
  t.equal((await bearer('/read', await issuer.token(), '198.51.100.1')).statusCode, 200)
})

t.test('settings that are no good are refused, with their places; a reload of such changes nothing', async t => {
  const { issuer, app, bearer } = await jwtPair(t)
  const [key] = issuer.keys
  const folder = t.testdir({ garbage: 'x', empty: '{"keys": []}', private: '', secret: '{"keys": [{"kty": "oct", "k": "AAAA"}]}', odd: '{"keys": [{"kty": "RSA"}]}', big: ' '.repeat(300_000) })
  const { exportJWK } = await import('jose')
  writeFileSync(join(folder, 'private'), JSON.stringify({ keys: [await exportJWK(key!.privateKey)] }))
  const base = { issuer: 'i', audience: 'a' }
  const file = (name: string) => ({ ...base, jwksFile: join(folder, name) })
  const bad: [object, string, RegExp][] = [
    [base, 'jwt', /must have one of jwksUrl and jwksFile/],
    [{ ...file('odd'), jwksUrl: 'https://x' }, 'jwt', /must have one of/],
    [{ audience: 'a', jwksUrl: 'https://x' }, 'jwt.issuer', /is required/],
    [{ issuer: 'i', jwksUrl: 'https://x' }, 'jwt.audience', /is required/],
    [{ ...base, jwksUrl: 'x' }, 'jwt.jwksUrl', /must be a URL/],
    [{ ...base, jwksUrl: 'file:///etc/passwd' }, 'jwt.jwksUrl', /must be https/],
    [{ ...base, jwksUrl: 'http://issuer.example/' }, 'jwt.jwksUrl', /must be https, or http on loopback/],
    [{ ...base, jwksUrl: 'http://localhost.example.com/' }, 'jwt.jwksUrl', /must be https/],
    [{ ...base, jwksUrl: 'https://me:word@x/' }, 'jwt.jwksUrl', /must not hold a name or a password/],
    [{ ...base, jwksUrl: 'https://x', algorithms: ['HS256'] }, 'jwt.algorithms[0]', /must be one of RS256/],
    [{ ...base, jwksUrl: 'https://x', algorithms: ['none'] }, 'jwt.algorithms[0]', /must be one of/],
    [{ ...base, jwksUrl: 'https://x', algorithms: [] }, 'jwt.algorithms', /./],
    [{ ...base, jwksUrl: 'https://x', clockSkew: '1h' }, 'jwt.clockSkew', /at most 5m/],
    [{ ...base, jwksUrl: 'https://x', defaultScopes: ['root'] }, 'jwt.defaultScopes[0]', /must be one of/],
    [{ ...base, jwksUrl: 'https://x', secret: 'x' }, 'jwt.secret', /unknown key/],
    [file('missing'), 'jwt.jwksFile', /can not be read: ENOENT/],
    [file('garbage'), 'jwt.jwksFile', /must hold a JWK Set/],
    [file('empty'), 'jwt.jwksFile', /must hold a JWK Set/],
    [file('private'), 'jwt.jwksFile', /must hold public keys alone/],
    [file('secret'), 'jwt.jwksFile', /must hold public keys alone/],
    [file('odd'), 'jwt.jwksFile', /must hold public keys alone/],
    [file('big'), 'jwt.jwksFile', /is longer than 256 KiB/]
  ]

  for (const [jwt, path, message] of bad) {
    try {
      app.auth.reconfigure({ jwt } as object)
      t.fail(JSON.stringify(jwt))
    } catch (error) {
      t.ok(error instanceof OptionsError, JSON.stringify(jwt))
      t.match((error as OptionsError).errors, [{ path, message }], JSON.stringify(jwt))
    }
    t.equal((await bearer('/read', await issuer.token())).statusCode, 200)
  }
})

t.test('a reload takes everything but the keys anew, and only other sources are fetched', async t => {
  const { issuer, app, bearer } = await jwtPair(t)
  const token = await issuer.token({ sub: 'a' })
  t.equal((await bearer('/api/planner', token)).statusCode, 200)

  app.auth.reconfigure({ jwt: { ...issuer.jwt, agentsClaim: 'none' } })
  t.equal((await bearer('/api/planner', token)).statusCode, 403, 'what was verified is judged again')
  t.equal(issuer.asked(), 1)
  app.auth.reconfigure({ jwt: { ...issuer.jwt, jwksMaxAge: '1m' } })
  t.equal((await bearer('/api/planner', token)).statusCode, 200)
  t.equal(issuer.asked(), 2)
  app.auth.reconfigure({ keys: [] })
  t.equal((await bearer('/api/planner', token)).statusCode, 401)
  t.equal((await bearer('/api/planner', token)).json().message, 'The token is not valid')
})

t.test('who waits for keys is judged by what counts when they are there', async t => {
  const issuer = await jwtIssuer(t)
  const answers: (() => void)[] = []
  issuer.misbehave((_request, response) => answers.push(() => response.end(JSON.stringify({ keys: issuer.keys.map(({ jwk }) => jwk) }))))
  const key = { id: 'one', token: 'a-key-of-one', scopes: ['read' as const] }
  const token = await issuer.token()

  /** What becomes of a request that waits for keys while auth becomes another. */
  async function replyAcross (headers: Record<string, string>, next: AuthSettings) {
    const { app, ask } = await loggedAuthApp(t, { keys: [key], jwt: issuer.jwt })
    const waiting = ask('/read', headers)
    await app.ready()
    while (answers.length === 0) await setImmediate()
    app.auth.reconfigure(next)
    for (const answer of answers.splice(0)) answer()
    return await waiting
  }

  t.equal((await replyAcross({ authorization: `Bearer ${token}` }, { keys: [key], jwt: { ...issuer.jwt, issuer: 'https://other.example' } })).statusCode, 401)
  t.equal((await replyAcross({ authorization: `Bearer ${token}` }, { keys: [key] })).statusCode, 401)
  t.equal((await replyAcross({ 'x-fleet-token': token }, { keys: [key] })).statusCode, 401)
  t.equal((await replyAcross({ 'x-fleet-token': key.token, authorization: `Bearer ${token}` }, { secret, jwt: issuer.jwt })).statusCode, 401, 'a key that was revoked')
  t.match((await replyAcross({ authorization: `Bearer ${token}` }, { keys: [key], jwt: { ...issuer.jwt, idClaim: 'iss' } })).json(), { id: 'jwt:https://issuer.example', strip: true })
  t.match((await replyAcross({ authorization: `Bearer ${token}` }, { enabled: false })).json(), { id: null, strip: false })
})

t.test('a gateway with auth off leaves agents\' tokens alone', async t => {
  const issuer = await jwtIssuer(t)
  const { app } = await loggedAuthApp(t, { enabled: false, jwt: issuer.jwt })

  const reply = await app.inject({ url: '/api/planner', headers: { authorization: `Bearer ${await issuer.token()}` } })

  t.match(reply.json(), { id: null, strip: false })
  t.equal(issuer.asked(), 0)
})

t.test('of verified tokens the least recently used goes first, and none counts beyond its time or its keys', t => {
  const tokens = new VerifiedTokens(2)
  tokens.add('a', 0, anyone, 10)
  tokens.add('b', 0, anyone, 10)
  t.equal(tokens.find('a', 0, 1), anyone)
  tokens.add('c', 0, anyone, 20)

  t.equal(tokens.find('b', 0, 1), null)
  t.equal(tokens.find('a', 0, 9), anyone)
  t.equal(tokens.find('a', 0, 10), null)
  t.equal(tokens.size, 1)
  t.equal(tokens.find('c', 1, 1), null)
  t.equal(tokens.size, 0)
  tokens.add('d', 0, anyone, 20)
  t.equal(tokens.size, 0, 'by keys that have gone')
  t.end()
})
