/** Keys that one gateway is told to revoke: over HTTP, for good, whatever its file says. With others by Redis: key-revocation.redis.test.ts. */
import { createHash } from 'node:crypto'
import { Agent } from 'node:http'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { admin, auth, registry } from '../../plugins/index.ts'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, buildGateway, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { readEvents } from '../helpers/event-reader.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { onConnection } from '../helpers/kept-connection.ts'
import { logLines } from '../helpers/log-lines.ts'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

const boss = bearer('token-of-boss')
const keys = [
  { id: 'boss', tokenSha256: sha256('token-of-boss'), scopes: ['admin'] },
  { id: 'build-bot', tokenSha256: sha256('token-of-bot'), scopes: ['proxy', 'read'] },
  { id: 'planner-admin', tokenSha256: sha256('token-of-planner'), scopes: ['admin'], agents: ['planner'] },
  { id: 'planner-user', tokenSha256: sha256('token-of-user'), scopes: ['proxy'], agents: ['planner'] }
] satisfies NonNullable<FleetGatewayOptions['auth']>['keys']

const textOf = (list: readonly object[]) => `auth:\n  keys: ${JSON.stringify(list)}\n`

/** A gateway of a file with these keys. */
async function scene (t: Test, options: FleetGatewayOptions = {}) {
  const dir = t.testdir({ 'fleet.yaml': textOf(keys) })
  const file = join(dir, 'fleet.yaml')
  const log = logLines()
  const agent = await fakeAgent(t)
  const start = (logger = {}) => startGateway(t, { ...unprobed, auth: { enabled: true }, agents: [agentAt('planner', agent)], file, ...options }, logger)
  const gateway = await start({ loggerInstance: log.loggerInstance })
  const status = async (token: string, path = '/agents', of = gateway) => (await of.inject({ url: path, headers: bearer(token) })).statusCode
  const revoke = (id: string, headers: Record<string, string> = boss) => gateway.inject({ method: 'DELETE', url: `/keys/${id}`, headers })
  return { gateway, dir, file, log, start, status, revoke }
}

t.test('a key that is revoked is refused from then on, on connections that it has opened, too; the others are not', async t => {
  for (const name of ['authorization', 'x-fleet-token']) {
    const { gateway, revoke } = await scene(t)
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const headersFor = (token: string) => name === 'authorization' ? bearer(token) : { [name]: token }
    const first = await onConnection(gateway, agent, headersFor('token-of-bot'))
    t.equal(first.status, 200)

    const answer = await revoke('build-bot')

    t.equal(answer.statusCode, 200)
    t.same(answer.json(), { message: 'revoked build-bot', id: 'build-bot', shared: false })
    t.same(await onConnection(gateway, agent, headersFor('token-of-bot')), { ...first, status: 401 }, name)
    t.same(await onConnection(gateway, agent, headersFor('token-of-user')), first, 'the connection is as good as any')
  }
})

t.test('who watches with it is soon out', async t => {
  const { gateway, revoke } = await scene(t)
  const stream = await readEvents(t, `${gateway.origin}/audit`, bearer('token-of-bot'))

  await revoke('build-bot')

  t.equal(await stream.over(), true)
})

t.test('reloads and restarts keep it refused, until the key is made anew', async t => {
  const { gateway, dir, file, start, status, revoke } = await scene(t)
  await revoke('build-bot')

  t.equal(await gateway.discovery.reload(), true)
  t.equal(await status('token-of-bot'), 401)
  await writeFile(file, textOf([...keys, { id: 'renamed', token: 'token-of-third', scopes: ['read'] }]))
  t.equal(await gateway.discovery.reload(), true)
  t.same([await status('token-of-bot'), await status('token-of-third')], [401, 200])
  await gateway.close()
  const again = await start()
  t.same([await status('token-of-bot', '/agents', again), await status('token-of-third', '/agents', again)], [401, 200])

  await writeFile(file, textOf(keys.map(key => key.id === 'build-bot' ? { ...key, tokenSha256: sha256('token-of-bot-2') } : key)))
  t.equal(await again.discovery.reload(), true)

  t.same([await status('token-of-bot', '/agents', again), await status('token-of-bot-2', '/agents', again)], [401, 200])
  const kept = await readFile(join(dir, '.fleet/revoked.json'), 'utf8')
  t.match(JSON.parse(kept), { revoked: [{ id: 'build-bot', sha256: sha256('token-of-bot') }] })
  t.notMatch(kept, 'token-of-bot')
})

t.test('to revoke a key again, or the one that one calls with, is no mistake', async t => {
  const { status, revoke } = await scene(t)

  t.same([await revoke('build-bot'), await revoke('build-bot')].map(({ statusCode }) => statusCode), [200, 200])
  t.match((await revoke('boss')).json(), { message: 'revoked boss' })

  t.equal(await status('token-of-boss'), 401)
  t.equal((await revoke('build-bot')).statusCode, 401)
})

t.test('the list has every key as it is configured, which are revoked and when, and nothing of tokens', async t => {
  const { gateway, revoke } = await scene(t)
  await revoke('build-bot')

  const answer = await gateway.inject({ url: '/keys', headers: boss })

  const [, bot] = answer.json<{ revoked_at: string }[]>()
  t.same(answer.json(), [
    { id: 'boss', scopes: ['admin'], agents: ['*'], revoked: false },
    { id: 'build-bot', scopes: ['proxy', 'read'], agents: ['*'], revoked: true, revoked_at: bot!.revoked_at },
    { id: 'planner-admin', scopes: ['admin'], agents: ['planner'], revoked: false },
    { id: 'planner-user', scopes: ['proxy'], agents: ['planner'], revoked: false }
  ])
  t.match(bot!.revoked_at, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
  for (const { tokenSha256 } of keys) t.notMatch(answer.body, tokenSha256)
})

t.test('an id that no key has is 404 with those that were perhaps meant; what is revoked and gone from the file is such a one', async t => {
  const { gateway, file, revoke } = await scene(t)

  const answer = await revoke('buildbot')
  t.match(answer.json(), { status: 404, code: 'FLEET_KEY_NOT_FOUND', detail: 'No key is configured as "buildbot"; did you mean "build-bot"?', nearest: ['build-bot'] })
  t.match((await revoke('%F0%9F%94%91')).json(), { status: 404, code: 'FLEET_KEY_NOT_FOUND', nearest: undefined })
  t.match((await revoke('__proto__')).json(), { status: 404, code: 'FLEET_KEY_NOT_FOUND' })
  await revoke('build-bot')
  await writeFile(file, textOf(keys.filter(({ id }) => id !== 'build-bot')))
  await gateway.discovery.reload()
  t.match((await revoke('build-bot')).json(), { status: 404 }, 'another gateway\'s file may have a new one, of which this one knows nothing')
})

t.test('only admin may; an admin for some agents sees and ends keys that reach no further', async t => {
  const { gateway, status, revoke } = await scene(t)

  for (const token of ['token-of-bot', 'token-of-user']) {
    t.match((await revoke('planner-user', bearer(token))).json(), { status: 403 })
    t.equal(await status(token, '/keys'), 403)
  }
  t.equal((await revoke('planner-user', {})).statusCode, 401)
  const limited = bearer('token-of-planner')
  t.same((await gateway.inject({ url: '/keys', headers: limited })).json<{ id: string }[]>().map(({ id }) => id), ['planner-admin', 'planner-user'])
  t.match((await revoke('boss', limited)).json(), { status: 403, code: 'FLEET_FORBIDDEN' })
  t.match((await revoke('build-boat', limited)).json(), { status: 404, nearest: undefined }, 'what it may not see is not proposed')
  t.equal(await status('token-of-boss'), 200)
  t.equal((await revoke('planner-user', limited)).statusCode, 200)
  t.equal(await status('token-of-user', '/api/planner/x'), 401)
})

t.test('where it can\'t be written that is said, and the key is refused all the same', async t => {
  const { dir, status, revoke } = await scene(t, { registry: { stateDir: join(t.testdirName, 'state') } })
  await rm(join(dir, 'state'), { recursive: true, force: true })
  await writeFile(join(dir, 'state'), 'a file in the way')

  const answer = await revoke('build-bot')

  t.match(answer.json(), { status: 503, code: 'FLEET_NOT_KEPT', detail: /^The key "build-bot" is refused here from now on; it can not be written to disk just now/ })
  t.equal(answer.headers['retry-after'], '10')
  t.equal(await status('token-of-bot'), 401)
  await rm(join(dir, 'state'))
  t.equal((await revoke('build-bot')).statusCode, 200)
  t.match(JSON.parse(await readFile(join(dir, 'state/revoked.json'), 'utf8')), { revoked: [{ id: 'build-bot' }] })
})

t.test('without a state folder it holds while the gateway runs', async t => {
  const gateway = await buildGateway(t, { auth: { keys } })

  t.equal((await gateway.inject({ method: 'DELETE', url: '/keys/build-bot', headers: boss })).statusCode, 200)

  t.equal((await gateway.inject({ url: '/agents', headers: bearer('token-of-bot') })).statusCode, 401)
})

t.test('the log names the key, and neither token nor digest', async t => {
  const { log, gateway, revoke } = await scene(t)

  await revoke('build-bot')
  await gateway.discovery.reload()

  t.match(log.lines.find(({ msg }) => msg === 'Keys are revoked'), { keys: ['build-bot'] })
  t.match(log.lines.find(({ msg }) => msg.startsWith('Tokens that were revoked are still configured')), { level: 40, keys: ['build-bot'] })
  t.notMatch(JSON.stringify(log.lines), sha256('token-of-bot'))
  t.notMatch(JSON.stringify(log.lines), 'token-of-bot')
})

t.test('with auth off no key is known', async t => {
  const gateway = await buildGateway(t, { auth: { enabled: false, keys } })

  t.same((await gateway.inject('/keys')).json(), [])
  t.match((await gateway.inject({ method: 'DELETE', url: '/keys/build-bot' })).json(), { status: 404, code: 'FLEET_KEY_NOT_FOUND', detail: 'Auth is off at this gateway: it knows no keys' })
})

t.test('single plugins without revocations have no such routes, and the index does not name them', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(registry)
  await app.register(auth, { keys })
  await app.register(admin)

  t.equal((await app.inject({ method: 'DELETE', url: '/keys/build-bot', headers: boss })).statusCode, 404)
  const { routes } = (await app.inject('/')).json<{ routes: { path: string }[] }>()
  t.ok(routes.some(({ path }) => path === '/registry/{name}/instances/{id}'))
  t.notOk(routes.some(({ path }) => path.startsWith('/keys')))
  const whole = await buildGateway(t)
  t.same((await whole.inject('/')).json<{ routes: { path: string }[] }>().routes.filter(({ path }) => path.startsWith('/keys')).map(({ path }) => path), ['/keys', '/keys/{id}'])
})
