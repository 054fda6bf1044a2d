/** Auth beside revocations: what a revoked token opens, which is nothing, and who else is touched by that, which is nobody. */
import { createHash } from 'node:crypto'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import auth, { type AuthPluginOptions } from '../../plugins/auth/index.ts'
import { readKeyring } from '../../plugins/auth/keyring.ts'
import revocations from '../../plugins/revocations/index.ts'
import { anyone, type Principal } from '../../src/principal.ts'
import { logLines } from '../helpers/log-lines.ts'

const digestOf = (token: string) => createHash('sha256').update(token).digest('hex')

type Key = NonNullable<AuthPluginOptions['keys']>[number]

const bot = { id: 'bot', token: 'token-of-bot', scopes: ['read', 'proxy'], agents: ['planner'] } satisfies Key
const other = { id: 'other', token: 'token-of-other', scopes: ['read'], agents: ['writer'] } satisfies Key

async function scene (t: Test, options: AuthPluginOptions) {
  const log = logLines()
  const app = Fastify({ loggerInstance: log.loggerInstance, disableRequestLogging: true })
  t.teardown(() => app.close())
  await app.register(revocations)
  await app.register(auth, options)
  let owner: Principal | null | Promise<Principal | null> = null
  app.get('/read', { config: { fleet: { scope: 'read' } } }, async request => {
    owner = app.auth.principalOf(request)
    return 'ok'
  })
  app.get('/later', { config: { fleet: { scope: 'read' } } }, async request => {
    const before = await app.auth.principalOf(request)
    void app.revocations.revoke('bot', [digestOf(bot.token)])
    return { before: before?.id, after: app.auth.principalOf(request) }
  })
  const ask = async (token: string, url = '/read', header = 'authorization') => await app.inject({ url, headers: { [header]: header === 'authorization' ? `Bearer ${token}` : token } })
  return { app, log, ask, status: async (token: string, header?: string) => (await ask(token, '/read', header)).statusCode, owner: () => owner }
}

t.test('a revoked token is refused as any unknown one, however it comes; other tokens open as before', async t => {
  const { app, ask, status } = await scene(t, { secret: 'the-shared-secret', keys: [bot, other] })
  t.equal(await status('token-of-bot'), 200)
  const unknown = await ask('an-unknown-token')

  await app.revocations.revoke('bot', [digestOf('token-of-bot')])

  const refused = await ask('token-of-bot')
  t.equal(refused.statusCode, 401)
  t.equal(refused.headers['www-authenticate'], unknown.headers['www-authenticate'])
  t.same(refused.json(), unknown.json())
  t.equal(await status('token-of-bot', 'x-fleet-token'), 401)
  t.same([await status('token-of-other'), await status('the-shared-secret')], [200, 200])
})

t.test('from the same tick on the key is as if it were not there: for streams, names, and whoever asks for it', async t => {
  const { app, ask } = await scene(t, { keys: [bot, other] })
  t.equal(app.auth.isOthers('planner', app.auth.keyOf('other')!), true)

  t.same((await ask('token-of-bot', '/later')).json(), { before: 'bot', after: null })

  t.equal(app.auth.keyOf('bot'), undefined)
  t.equal(app.auth.isOthers('planner', app.auth.keyOf('other')!), false)
  t.same(app.auth.keys().map(({ id, digest }) => ({ id, digest })), [{ id: 'bot', digest: digestOf('token-of-bot') }, { id: 'other', digest: digestOf('token-of-other') }], 'it is configured all the same')
})

t.test('a reload that names it still keeps it refused; the same id with another token is another key', async t => {
  const { app, status, log } = await scene(t, { keys: [bot, other] })
  await app.revocations.revoke('bot', [digestOf('token-of-bot')])

  app.auth.reconfigure({ keys: [bot, other] })
  t.same([await status('token-of-bot'), await status('token-of-other')], [401, 200])
  app.auth.reconfigure({ keys: [bot, { ...other, id: 'third' }] })
  t.equal(log.lines.filter(({ msg }) => msg.startsWith('Tokens that were revoked')).length, 1, 'it is said once')
  t.match(log.lines.find(({ msg }) => msg.startsWith('Tokens that were revoked')), { level: 40, msg: 'Tokens that were revoked are still configured; they are refused', keys: ['bot'] })

  app.auth.reconfigure({ keys: [{ ...bot, token: 'a-new-token-of-bot' }, other] })
  t.same([await status('token-of-bot'), await status('a-new-token-of-bot')], [401, 200])
  t.match(app.auth.keyOf('bot'), { id: 'bot' })
  t.notMatch(JSON.stringify(log.lines), /token-of-bot/)
  t.notMatch(JSON.stringify(log.lines), digestOf('token-of-bot'))
})

t.test('what is revoked between a reload\'s preparation and its end stays refused', async t => {
  const { app, status } = await scene(t, { keys: [bot, other] })

  const apply = app.auth.prepare({ keys: [bot, other] })
  await app.revocations.revoke('bot', [digestOf('token-of-bot')])
  apply()

  t.equal(await status('token-of-bot'), 401)
})

t.test('whatever names a revoked token, it opens nothing, and that is said', async t => {
  const { app, status, log } = await scene(t, { keys: [bot] })
  await app.revocations.revoke('bot', [digestOf('token-of-bot')])
  t.match(log.lines.map(({ msg }) => msg), ['Keys are revoked', 'There is no secret and no key any more: nobody is let in until there is one'])

  app.auth.reconfigure({ secret: 'token-of-bot', keys: [other] })

  t.same([await status('token-of-bot'), await status('token-of-other')], [401, 200])
  t.match(log.lines.at(-1), { keys: ['the shared secret'] })
})

t.test('without the plugin nothing is revoked, and auth is as ever', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(auth, { keys: [bot, other] })
  app.get('/read', { config: { fleet: { scope: 'read' } } }, async () => 'ok')

  t.equal((await app.inject({ url: '/read', headers: { authorization: 'Bearer token-of-bot' } })).statusCode, 200)
  t.equal(app.auth.keys().length, 2)
})

t.test('with auth off there are no keys, and nothing to revoke', async t => {
  const { app, owner, status } = await scene(t, { enabled: false, keys: [bot] })
  await app.revocations.revoke('bot', [digestOf('token-of-bot')])

  t.equal(await status('token-of-bot'), 200)
  t.equal(await owner(), anyone)
  t.same(app.auth.keys(), [])
})

t.test('a keyring of which nothing is revoked is the same one, so that connections it has opened need no look', t => {
  const keyring = readKeyring({ enabled: true, keys: [bot, other] })

  t.equal(keyring.without(() => false), keyring)
  const less = keyring.without(digest => digest === digestOf('token-of-bot'))
  t.not(less, keyring)
  t.equal(less.find('token-of-bot'), null)
  t.match(less.find('token-of-other'), { id: 'other' })
  t.equal(less.without(digest => digest === digestOf('token-of-bot')), less)
  t.end()
})
