import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fastifyBearerAuth from '@fastify/bearer-auth'
import Fastify, { type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import auth, { type AuthPluginOptions } from '../../plugins/auth/index.ts'
import { createBrowserGuard, type BrowserGuardOptions } from '../../plugins/auth/browser-guard.ts'
import { anyone, hasScope, mayTouch, type Principal, type Scope } from '../../src/principal.ts'
import { authApp } from '../helpers/auth-app.ts'

const secret = 'the-shared-secret'

const build = (t: Test, options: AuthPluginOptions = { secret }, server?: FastifyServerOptions) => authApp(t, options, server)

t.test('the shared secret may do everything and names nobody', async t => {
  const { bearer } = await build(t)
  for (const url of ['/undeclared', '/read', '/register', '/admin', '/agents/planner', '/api/planner/x']) {
    const reply = await bearer(url, secret)
    t.equal(reply.statusCode, 200, url)
    t.match(reply.json(), { id: null, strip: true, keyId: null })
  }
})

t.test('without a token only public routes and unknown paths are answered', async t => {
  const { ask } = await build(t)
  for (const url of ['/undeclared', '/read', '/api/planner/x', '/api']) {
    const reply = await ask(url)
    t.match(reply.json(), { statusCode: 401, code: 'FLEET_UNAUTHENTICATED' }, url)
  }
  t.equal((await ask('/public')).statusCode, 200)
  t.equal((await ask('/nowhere')).statusCode, 404)
})

t.test('a token may come as X-Fleet-Token, which alone counts then', async t => {
  const { ask } = await build(t)

  t.match((await ask('/api/planner', { 'x-fleet-token': secret })).json(), { id: null, strip: false })
  const both = { 'x-fleet-token': secret, authorization: 'Bearer for-the-agent' }
  t.match((await ask('/api/planner', both)).json(), { strip: false }, 'Authorization is the agent\'s')
  t.match((await ask('/api/planner', { ...both, authorization: `bearer  ${secret}` })).json(), { strip: true }, 'it would open the gateway too')
  t.match((await ask('/api/planner', { ...both, authorization: 'Basic Zm9vOmJhcg==' })).json(), { strip: false })
  t.equal((await ask('/api/planner', { 'x-fleet-token': 'wrong-token', authorization: `Bearer ${secret}` })).statusCode, 401)
  t.equal((await ask('/api/planner', { 'x-fleet-token': '', authorization: `Bearer ${secret}` })).statusCode, 401)
})

t.test('a WebSocket may offer the token as a subprotocol', async t => {
  const { ask } = await build(t)
  const upgrade = { connection: 'upgrade', upgrade: 'WebSocket' }
  const offer = (...protocols: string[]) => ({ ...upgrade, 'sec-websocket-protocol': protocols.join(', ') })

  t.match((await ask('/api/planner', offer('chat', `fleet.bearer.${secret}`))).json(), { id: null, strip: false })
  t.equal((await ask('/api/planner', { ...offer(`fleet.bearer.${secret}`), authorization: 'Basic Zm9vOmJhcg==' })).statusCode, 200)
  t.equal((await ask('/api/planner', offer('chat'))).statusCode, 401)
  t.equal((await ask('/api/planner', offer('fleet.bearer.wrong-token'))).statusCode, 401)
  t.equal((await ask('/api/planner', offer(`fleet.bearer.${secret}`, `fleet.bearer.${secret}`))).statusCode, 401, 'twice')
  t.equal((await ask('/api/planner', { 'sec-websocket-protocol': `fleet.bearer.${secret}` })).statusCode, 401, 'no upgrade')
  t.equal((await ask('/api/planner', { ...offer(`fleet.bearer.${secret}`), authorization: 'Bearer wrong-token' })).statusCode, 401, 'Authorization goes before')
})

t.test('keys have scopes, and admin includes every other', async t => {
  const scopes: Scope[] = ['read', 'proxy', 'register', 'admin']
  const keys = scopes.map(scope => ({ id: `key-${scope}`, token: `token-of-${scope}`, scopes: [scope] }))
  const { bearer } = await build(t, { keys })
  const routes = { read: '/read', proxy: '/api/planner', register: '/register', admin: '/admin', undeclared: '/undeclared' }

  for (const scope of scopes) {
    for (const [needed, url] of Object.entries(routes)) {
      const reply = await bearer(url, `token-of-${scope}`)
      const allowed = scope === 'admin' || scope === needed
      t.equal(reply.statusCode, allowed ? 200 : 403, `${scope} at ${url}`)
      if (allowed) t.match(reply.json(), { id: `key-${scope}`, keyId: `key-${scope}` })
      else t.equal(reply.json().code, 'FLEET_FORBIDDEN')
    }
  }
})

t.test('a key may be written as token, file or digest', async t => {
  const folder = t.testdir({ token: 'token-in-a-file\n', windows: 'token-of-windows\r\n', secret: 'secret-in-a-file' })
  const { bearer } = await build(t, {
    secretFile: join(folder, 'secret'),
    keys: [
      { id: 'plain', token: 'token-in-plain', scopes: ['read'] },
      { id: 'file', tokenFile: join(folder, 'token'), scopes: ['read'] },
      { id: 'windows', tokenFile: join(folder, 'windows'), scopes: ['read'] },
      { id: 'digest', tokenSha256: createHash('sha256').update('token-as-digest').digest('hex').toUpperCase(), scopes: ['read'] }
    ]
  })

  t.equal((await bearer('/read', 'token-in-plain')).json().id, 'plain')
  t.equal((await bearer('/read', 'token-in-a-file')).json().id, 'file')
  t.equal((await bearer('/read', 'token-of-windows')).json().id, 'windows')
  t.equal((await bearer('/read', 'token-as-digest')).json().id, 'digest')
  t.equal((await bearer('/read', 'secret-in-a-file')).json().id, null)
})

t.test('a key limited to agents reaches those, under any name, and no other', async t => {
  const { bearer } = await build(t, {
    keys: [
      { id: 'limited', token: 'limited-token', scopes: ['admin'], agents: ['planner'] },
      { id: 'all', token: 'for-all-agents', scopes: ['proxy'], agents: ['planner', '*'] },
      { id: 'alias', token: 'by-alias-token', scopes: ['proxy'], agents: ['plan'] }
    ]
  })
  const allowed = ['/api/planner', '/api/planner/x?y', '/api/plan/x', '/api/%70lanner', '/api/planner%3Fx', '/agents/planner', '/agents/plan', '/read']
  const forbidden = ['/api/writer', '/api/writer/planner', '/api/%77riter/x', '/api/unknown', '/api/__proto__', '/api/', '/api', '/api//planner', '/agents/writer', '/agents/unknown']

  for (const url of allowed.filter(url => !url.includes('%3F'))) t.equal((await bearer(url, 'limited-token')).statusCode, 200, url)
  for (const url of [...forbidden, '/api/planner%3Fx']) {
    const reply = await bearer(url, 'limited-token')
    t.match(reply.json(), { statusCode: 403, code: 'FLEET_FORBIDDEN' }, url)
    t.match(reply.headers['www-authenticate'], /error="insufficient_scope"$/)
  }
  t.equal((await bearer('/api/writer', 'for-all-agents')).statusCode, 200)
  t.equal((await bearer('/api/plan', 'by-alias-token')).statusCode, 403, 'an alias can move to another agent')
})

t.test('without a registry the name in the path is what counts', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(auth, { keys: [{ id: 'limited', token: 'limited-token', scopes: ['proxy'], agents: ['planner'] }] })
  app.get('/api/*', { config: { fleet: { scope: 'proxy' } } }, async () => 'ok')
  const ask = async (url: string) => (await app.inject({ url, headers: { authorization: 'Bearer limited-token' } })).statusCode

  t.equal(await ask('/api/planner/x'), 200)
  t.equal(await ask('/api/writer/x'), 403)
})

t.test('where auth is optional, a valid token is recognised and everything else is anonymous', async t => {
  const { ask, bearer } = await build(t)

  t.same((await bearer('/optional', secret)).json().scopes, ['read', 'proxy', 'register', 'admin'])
  for (const reply of [await ask('/optional'), await bearer('/optional', 'wrong-token'), await ask('/optional', { 'x-fleet-token': 'wrong-token' }), await ask('/optional', { authorization: 'Basic x' })]) {
    t.equal(reply.statusCode, 200)
    t.same(reply.json(), { scopes: null, strip: false, keyId: null })
  }
})

t.test('after 20 failures a minute an address gets 429 for bad tokens, and valid ones still pass', async t => {
  const { ask, bearer, clock } = await build(t)
  for (let count = 0; count < 30; count++) await ask('/read')
  for (let count = 0; count < 20; count++) t.equal((await bearer('/read', `guess-${count}`)).statusCode, 401)

  const refused = await bearer('/read', 'one-guess-more')

  t.match(refused.json(), { statusCode: 429, code: 'FLEET_RATE_LIMITED' })
  t.match(refused.headers, { 'ratelimit-policy': '"guesses";q=20;w=60', ratelimit: /^"guesses";r=0;t=\d+$/ }, 'as every 429')
  t.equal(refused.headers['retry-after'], '3')
  t.equal((await ask('/read', { 'x-fleet-token': 'wrong-token' })).statusCode, 429, 'however it is sent')
  t.equal((await bearer('/read', secret)).statusCode, 200)
  t.equal((await ask('/read')).statusCode, 401, 'no token is no guess')
  t.equal((await bearer('/optional', 'wrong-token')).statusCode, 200)
  t.equal((await bearer('/read', 'wrong-token', '192.0.2.2')).statusCode, 401, 'another address')
  clock.advance(3_000)
  t.equal((await bearer('/read', 'wrong-token')).statusCode, 401)
  t.equal((await bearer('/read', 'wrong-token')).statusCode, 429)
})

t.test('an IPv6 network guesses as one', async t => {
  const { bearer } = await build(t)
  for (let count = 0; count < 20; count++) await bearer('/read', 'wrong-token', `2001:db8::${count}`)

  t.equal((await bearer('/read', 'wrong-token', '2001:db8::ffff')).statusCode, 429)
})

t.test('a wrong token is neither answered nor logged', async t => {
  const lines: string[] = []
  const { ask, bearer } = await build(t, { secret }, { logger: { level: 'trace', stream: { write: (line: string) => { lines.push(line) } } } })
  const guess = 'gu3ss-that-must-not-show'

  const replies = [
    await bearer('/read', guess),
    await ask('/read', { 'x-fleet-token': guess }),
    await ask('/read', { authorization: `Basic ${guess}` }),
    await ask('/api/planner', { upgrade: 'websocket', 'sec-websocket-protocol': `fleet.bearer.${guess}` }),
    await bearer('/read', secret)
  ]

  for (const reply of replies) t.notMatch(reply.body + JSON.stringify(reply.headers), guess)
  t.ok(lines.length > 0)
  t.notMatch(lines.join(), guess)
  t.notMatch(lines.join(), secret)
})

t.test('keys change without a restart; what is wrong changes nothing', async t => {
  const folder = t.testdir({ token: 'first-token' })
  const tokenFile = join(folder, 'token')
  const settings: AuthPluginOptions = { keys: [{ id: 'a', tokenFile, scopes: ['read'] }] }
  const { app, bearer } = await build(t, settings)
  t.equal((await bearer('/read', 'first-token')).statusCode, 200)

  writeFileSync(tokenFile, 'second-token')
  app.auth.reconfigure(settings)

  t.equal((await bearer('/read', 'first-token')).statusCode, 401)
  t.equal((await bearer('/read', 'second-token')).statusCode, 200)
  t.throws(() => app.auth.reconfigure({}), { name: 'OptionsError' })
  t.throws(() => app.auth.reconfigure({ keys: [{ id: 'a', tokenFile: join(folder, 'gone'), scopes: ['read'] }] }), { name: 'OptionsError' })
  t.equal((await bearer('/read', 'second-token')).statusCode, 200)
  t.equal(app.auth.enabled, true)
  app.auth.reconfigure({ enabled: false })
  t.equal(app.auth.enabled, false)
  t.equal((await app.inject('/admin')).statusCode, 200)
})

t.test('settings that can not work are refused by the name of the option', async t => {
  const folder = t.testdir({ empty: '\n', short: 'short\n', spaced: 'two words here\n' })
  const key = { id: 'a', scopes: ['read' as const] }
  const cases: [AuthPluginOptions, RegExp][] = [
    [{}, /^auth needs a secret/],
    [{ secret: 'short' }, /^auth\.secret must be 8 or more/],
    [{ secretFile: join(folder, 'missing') }, /^auth\.secretFile can not be read: ENOENT/],
    [{ secretFile: folder }, /^auth\.secretFile can not be read: EISDIR/],
    [{ secretFile: join(folder, 'empty') }, /^auth\.secretFile names an empty file/],
    [{ secretFile: join(folder, 'short') }, /^auth\.secretFile must hold at least 8/],
    [{ keys: [{ ...key, tokenFile: join(folder, 'spaced') }] }, /^auth\.keys\[0\]\.tokenFile must hold one line/],
    [{ keys: [key] }, /^auth\.keys\[0\] must have one of/],
    [{ keys: [{ ...key, token: 'some-token', tokenFile: 'x' }] }, /^auth\.keys\[0\] must have one of/],
    [{ secret, keys: [{ ...key, token: secret }] }, /^auth\.keys\[0\]\.token is the same as secret/],
    [{ keys: [{ ...key, token: 'some-token' }, { ...key, token: 'some-token' }] }, /^auth\.keys\[1\]\.token is the same as keys\[0\]\.token/]
  ]
  for (const [options, message] of cases) {
    const app = Fastify()
    t.teardown(() => app.close())
    await t.rejects(async () => { await app.register(auth, options) }, { name: 'OptionsError', message })
  }
  await t.rejects(async () => { await Fastify().register(auth, { secretFile: join(folder, 'short'), keys: [key] }) }, { message: /secretFile.*\n.*keys\[0\]/ }, 'all at once')
})

t.test('messages about tokens do not quote them', async t => {
  const folder = t.testdir({ short: 'shrt' })
  for (const options of [{ secretFile: join(folder, 'short') }, { secret: 'shrt' }, { keys: [{ id: 'a', token: 'shrt', scopes: ['read' as const] }] }]) {
    await t.rejects(async () => { await Fastify().register(auth, options) }, { message: /^((?!shrt)[^])*$/ })
  }
})

t.test('with auth off everybody on this machine may do everything', async t => {
  const { app, ask } = await build(t, { enabled: false })

  t.equal(app.auth.enabled, false)
  for (const url of ['/undeclared', '/read', '/admin', '/public', '/optional', '/api/planner']) {
    const reply = await ask(url, { host: 'localhost:9001', authorization: 'Bearer of-the-agent' })
    t.equal(reply.statusCode, 200, url)
    t.match(reply.json(), { id: null, scopes: ['read', 'proxy', 'register', 'admin'], strip: false, keyId: null })
  }
})

t.test('with auth off foreign pages are kept out, of public routes too', async t => {
  const { ask } = await build(t, { enabled: false })
  for (const url of ['/read', '/public', '/optional']) {
    for (const headers of [{ host: 'evil.example' }, { host: 'localhost', origin: 'https://evil.example' }]) {
      const reply = await ask(url, headers)
      t.match(reply.json(), { statusCode: 403, code: 'FLEET_FORBIDDEN' })
      t.notOk(reply.headers['www-authenticate'])
    }
  }
  t.equal((await ask('/nowhere', { host: 'evil.example' })).statusCode, 404)
})

t.test('what is trusted stays over a reload that does not speak of it', async t => {
  const { app, ask } = await build(t, { enabled: false, allowedHosts: ['gateway.lan'] })

  app.auth.reconfigure({ enabled: false })
  t.equal((await ask('/read', { host: 'gateway.lan' })).statusCode, 200)
  app.auth.reconfigure({ enabled: false, allowedHosts: [] })
  t.equal((await ask('/read', { host: 'gateway.lan' })).statusCode, 403)
})

t.test('with auth on any Host and Origin will do, since pages have no token', async t => {
  const { ask } = await build(t)

  t.equal((await ask('/read', { host: 'gateway.example', origin: 'https://app.example', authorization: `Bearer ${secret}` })).statusCode, 200)
})

t.test('the browser guard', async t => {
  const evil = 'https://evil.example'
  const cases: [string, BrowserGuardOptions, Record<string, string>, boolean, string?][] = [
    ['no browser', {}, { host: 'localhost:9001' }, true],
    ['HTTP/1.0 without a Host', {}, {}, true],
    ['127.0.0.0/8', {}, { host: '127.1.2.3:9001' }, true],
    ['IPv6 loopback', {}, { host: '[::1]:9001' }, true],
    ['a subdomain of localhost', {}, { host: 'App.LOCALHOST:1' }, true],
    ['a trailing dot', {}, { host: 'localhost.:9001' }, true],
    ['a rebound name', {}, { host: 'evil.example:9001' }, false],
    ['a name that looks like loopback', {}, { host: '127.0.0.1.evil.example' }, false],
    ['localhost as a prefix', {}, { host: 'localhost.evil.example' }, false],
    ['another IPv6 address', {}, { host: '[::2]' }, false],
    ['a private address', {}, { host: '192.168.1.5' }, false],
    ['a configured host', { allowedHosts: ['Gateway.lan'] }, { host: 'gateway.LAN:9001' }, true],
    ['a configured host with its port', { allowedHosts: ['gateway.lan:9001'] }, { host: 'gateway.lan:9001' }, true],
    ['a configured host on another port', { allowedHosts: ['gateway.lan:9001'] }, { host: 'gateway.lan:9002' }, false],
    ['a configured IPv6 address', { allowedHosts: ['2001:db8::1'] }, { host: '[2001:db8::1]:9001' }, true],
    ['any host', { allowedHosts: ['*'] }, { host: 'whatever.example' }, true],
    ['a local page', {}, { host: 'localhost:9001', origin: 'http://localhost:3000' }, true],
    ['a local page over IPv6', {}, { host: 'localhost:9001', origin: 'http://[::1]:3000' }, true],
    ['a foreign page', {}, { host: 'localhost:9001', origin: evil }, false],
    ['a page in a sandbox', {}, { host: 'localhost:9001', origin: 'null' }, false],
    ['a page of a browser extension', {}, { host: 'localhost:9001', origin: 'chrome-extension://abc' }, false],
    ['a configured origin', { allowedOrigins: ['https://App.example'] }, { host: 'localhost', origin: 'https://app.example' }, true],
    ['an origin that begins like it', { allowedOrigins: ['https://app.example'] }, { host: 'localhost', origin: 'https://app.example.evil.example' }, false],
    ['any origin', { allowedOrigins: ['*'] }, { host: 'localhost', origin: 'null', 'sec-fetch-site': 'cross-site' }, true],
    ['the gateway\'s own page', { allowedHosts: ['gateway.lan'] }, { host: 'gateway.lan:9001', origin: 'http://gateway.lan:9001' }, true],
    ['a page on another port of that host', { allowedHosts: ['gateway.lan'] }, { host: 'gateway.lan:9001', origin: 'http://gateway.lan:80' }, false],
    ['a rebound page where any host is allowed', { allowedHosts: ['*'] }, { host: 'evil.example', origin: 'http://evil.example' }, false],
    ['an image of a foreign page', {}, { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }, false],
    ['a link on a foreign page', {}, { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, true],
    ['a form on a foreign page', {}, { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, false, 'POST'],
    ['a frame of a foreign page', {}, { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' }, false],
    ['a tab that a foreign page opens', {}, { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }, true],
    ['an image of another page of this machine', {}, { host: 'localhost:9001', 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'no-cors' }, true],
    ['an image of a neighbour in the same domain', { allowedHosts: ['gateway.corp.example'] }, { host: 'gateway.corp.example', 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'no-cors' }, false],
    ['a site that is not known yet', {}, { host: 'localhost', 'sec-fetch-site': 'another-planet' }, false],
    ['an address that was typed', {}, { host: 'localhost', 'sec-fetch-site': 'none', 'sec-fetch-mode': 'navigate' }, true],
    ['all addresses at once as a host', {}, { host: '0.0.0.0:9001' }, false],
    ['an address with loopback inside', {}, { host: '[::ffff:7f00:1]:9001' }, false],
    ['a service that makes names of addresses', {}, { host: '127.0.0.1.nip.example:9001' }, false],
    ['two origins in one', { allowedOrigins: ['https://app.example'] }, { host: 'localhost', origin: 'https://app.example, https://evil.example' }, false],
    ['an origin with a user', {}, { host: 'localhost', origin: 'http://localhost@evil.example' }, false],
    ['a file', {}, { host: 'localhost', origin: 'file://' }, false],
    ['an own page', {}, { host: 'localhost', 'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'cors' }, true, 'POST']
  ]
  for (const [name, options, headers, allowed, method = 'GET'] of cases) {
    t.equal(createBrowserGuard(options)(method, headers) === undefined, allowed, name)
  }
})

t.test('a principal', async t => {
  const limited: Principal = { id: 'a', named: true, scopes: ['read'], agents: ['planner'] }

  t.equal(mayTouch(limited, 'planner'), true)
  t.equal(mayTouch(limited, 'writer'), false)
  t.equal(mayTouch(anyone, 'writer'), true)
  t.equal(mayTouch(null, 'planner'), false, 'nobody')
  t.equal(mayTouch(undefined, 'planner'), true, 'no auth plugin')
  t.equal(hasScope(limited, 'read'), true)
  t.equal(hasScope(limited, 'proxy'), false)
  t.equal(hasScope({ ...limited, scopes: ['admin'] }, 'proxy'), true)
})

t.test('it runs alone, without facts, and beside an application\'s own @fastify/bearer-auth', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyBearerAuth, { addHook: false, keys: new Set(['token-of-the-host']) })
  app.get('/', { onRequest: app.verifyBearerAuth! }, async () => 'host')
  await app.register(async scope => {
    await scope.register(auth, { secret })
    scope.get('/read', { config: { fleet: { scope: 'read' } } }, async () => 'ours')
  }, { prefix: '/fleet' })
  const ask = async (url: string, token: string) => (await app.inject({ url, headers: { authorization: `Bearer ${token}` } })).statusCode

  t.equal(await ask('/', 'token-of-the-host'), 200)
  t.equal(await ask('/', secret), 401)
  t.equal(await ask('/fleet/read', secret), 200)
  t.equal(await ask('/fleet/read', 'token-of-the-host'), 401)
})
