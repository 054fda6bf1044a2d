/** A key with `register` that is limited to agents changes those and no other, by whatever name, over real sockets. */
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import { startGateway, unprobed, type ListeningGateway } from '../helpers/build-gateway.ts'

const keys = [
  { id: 'mine', token: 'token-of-mine', scopes: ['register' as const], agents: ['mine', 'spare'] },
  { id: 'theirs', token: 'token-of-theirs', scopes: ['register' as const], agents: ['theirs', 'payments'] },
  { id: 'any', token: 'token-of-any', scopes: ['register' as const] },
  { id: 'boss', token: 'token-of-boss', scopes: ['admin' as const] }
]

interface Answer { status: number, body: { code?: string, instance?: { id: string }, friendly_names?: string[] } }

async function fleet (t: Test) {
  const gateway = await startGateway(t, { ...unprobed, auth: { keys }, agents: [{ name: 'mine', port: 9001, aliases: ['my-alias'] }, { name: 'theirs', port: 9002, aliases: ['their-alias'] }, { name: 'nobodys', port: 9003 }] })
  const as = (key: string) => async (method: string, path: string, body?: object): Promise<Answer> => {
    const reply = await fetch(gateway.origin + path, { method, headers: { authorization: `Bearer token-of-${key}`, ...(body && { 'content-type': 'application/json' }) }, ...(body && { body: JSON.stringify(body) }) })
    return { status: reply.status, body: await reply.json() as Answer['body'] }
  }
  return { gateway, mine: as('mine'), theirs: as('theirs'), any: as('any'), boss: as('boss'), seen: () => seen(gateway) }
}

/** All that could have been changed. */
function seen ({ registry }: ListeningGateway) {
  return JSON.stringify([[...registry.agents()].map(({ name, aliases, metadata, policy, instances }) => ({ name, aliases, metadata, policy, instances: instances.map(({ id, lease, runtime }) => [id, lease, runtime.draining]) })), [...registry.names()].sort(), registry.exportState()])
}

const idOf = ({ registry }: ListeningGateway, name: string) => registry.get(name).instances[0]!.id

t.test('what it may not: each way to change another agent is 403, and nothing changes', async t => {
  const { gateway, mine, boss, seen } = await fleet(t)
  await boss('POST', '/registry/register', { name: 'theirs', port: 9102, ttl: '1m' })
  await boss('POST', '/registry/register', { name: 'leased', port: 9103, ttl: '1m', aliases: ['leased-alias'] })
  const before = seen()
  const [theirs, leased] = [idOf(gateway, 'theirs'), idOf(gateway, 'leased')]
  const attempts: [method: string, path: string, body?: object][] = [
    ['POST', '/registry/register', { name: 'theirs', port: 1 }], ['POST', '/registry/register', { name: 'their-alias', port: 1 }], ['POST', '/registry/register', { name: 'theirs', port: 9102, metadata: { owned: true } }], ['POST', '/registry/register', { name: 'new-one', port: 1 }],
    ['PUT', `/registry/theirs/instances/${theirs}`], ['PUT', `/registry/their-alias/instances/${theirs}`], ['PUT', `/registry/leased/instances/${leased}`], ['PUT', `/registry/leased-alias/instances/${leased}`], ['PUT', '/registry/unknown/instances/x'],
    ['DELETE', '/registry/theirs'], ['DELETE', '/registry/their-alias'], ['DELETE', '/registry/%74heirs'], ['DELETE', '/registry/leased'], ['DELETE', '/registry/theirs?host=localhost&port=9002'], ['DELETE', '/registry/their-alias?host=localhost&port=9002'], ['DELETE', '/registry/unknown'],
    ['DELETE', `/registry/theirs/instances/${theirs}`], ['DELETE', `/registry/their-alias/instances/${theirs}`], ['DELETE', `/registry/theirs/instances/${theirs}?drain=true`], ['DELETE', `/registry/leased-alias/instances/${leased}`]
  ]

  for (const [method, path, body] of attempts) {
    const { status, body: answer } = await mine(method, path, body)
    t.match([status, answer.code], [403, 'FLEET_FORBIDDEN'], `${method} ${path} ${JSON.stringify(body ?? '')}`)
  }
  t.equal(seen(), before)
})

t.test('an instance of another agent is not reached through its own', async t => {
  const { gateway, mine, seen } = await fleet(t)
  const before = seen()
  const theirs = idOf(gateway, 'theirs')

  for (const [method, path] of [['PUT', `/registry/mine/instances/${theirs}`], ['DELETE', `/registry/mine/instances/${theirs}`], ['DELETE', `/registry/my-alias/instances/${theirs}?drain=true`], ['DELETE', '/registry/mine?host=localhost&port=9002']] as const) {
    t.match(await mine(method, path), { status: 404, body: { code: 'FLEET_INSTANCE_NOT_FOUND' } }, `${method} ${path}`)
  }
  t.equal(seen(), before)
})

t.test('what it may: its own agents, by name and by alias', async t => {
  const { gateway, mine } = await fleet(t)

  const made = await mine('POST', '/registry/register', { name: 'mine', port: 9101, ttl: '1m', metadata: { a: 1 } })
  t.equal(made.status, 201)
  const id = made.body.instance!.id
  t.equal((await mine('PUT', `/registry/mine/instances/${id}`)).status, 200)
  t.equal((await mine('PUT', `/registry/my-alias/instances/${id}`)).status, 200)
  t.equal((await mine('DELETE', '/registry/my-alias?host=localhost&port=9101')).status, 200)
  t.equal((await mine('POST', '/registry/register', { name: 'spare', port: 9102, aliases: ['spare-alias'] })).status, 201)
  t.equal((await mine('DELETE', `/registry/spare-alias/instances/${idOf(gateway, 'spare')}`)).status, 200)
  t.equal((await mine('DELETE', '/registry/mine')).status, 200)
  t.same([...gateway.registry.agents()].map(({ name }) => name), ['theirs', 'nobodys', 'spare'])
})

t.test('another agent\'s name, alias, or a name that other keys are for, is not to be had as an alias', async t => {
  const { mine, theirs, any, boss, seen } = await fleet(t)
  await boss('POST', '/registry/register', { name: 'leased', port: 9103, aliases: ['leased-alias'] })
  const before = seen()
  const refused: [alias: string, status: number][] = [['theirs', 403], ['their-alias', 409], ['nobodys', 409], ['leased', 409], ['leased-alias', 409], ['payments', 403]]

  for (const [alias, status] of refused) {
    for (const key of ['aliases', 'friendly_names']) t.equal((await mine('POST', '/registry/register', { name: 'mine', port: 9001, [key]: ['fine', alias] })).status, status, `${key} ${alias}`)
  }
  t.equal(seen(), before, 'nor is anything else of it taken')
  t.equal((await theirs('POST', '/registry/register', { name: 'theirs', port: 9002, aliases: ['payments'] })).status, 200, 'who it is for may')
  t.equal((await boss('DELETE', '/registry/theirs')).status, 200)
  t.equal((await any('POST', '/registry/register', { name: 'mine', port: 9001, aliases: ['payments'] })).status, 200, 'and who is for all agents')
  t.equal((await mine('POST', '/registry/register', { name: 'spare', port: 9001, aliases: ['fine'] })).status, 201, 'a name that nobody is for is free')
})

t.test('an alias that changes hands while a request is on its way takes no right with it', async t => {
  const { gateway, boss } = await fleet(t)
  const removal = httpRequest({ host: '127.0.0.1', port: gateway.port, method: 'DELETE', path: '/registry/my-alias', headers: { authorization: 'Bearer token-of-mine', 'content-type': 'application/json', 'content-length': 2 } })
  const answered = once(removal, 'response') as Promise<[IncomingMessage]>
  const find = gateway.registry.find.bind(gateway.registry)
  const authorized = new Promise<void>(resolve => {
    gateway.registry.find = name => {
      if (name === 'my-alias') setImmediate(resolve)
      return find(name)
    }
  })
  removal.flushHeaders()
  await authorized

  gateway.registry.replaceFile([{ name: 'mine', instances: [{ host: 'localhost', port: 9001, protocol: 'http', weight: 1 }] }, { name: 'theirs', aliases: ['my-alias'], instances: [{ host: 'localhost', port: 9002, protocol: 'http', weight: 1 }] }])
  removal.end('{}')
  const [response] = await answered
  response.resume()

  t.equal(response.statusCode, 403)
  t.ok(gateway.registry.find('theirs'))
  t.equal((await boss('DELETE', '/registry/my-alias')).status, 200)
  t.notOk(gateway.registry.find('theirs'))
})

t.test('a key without register changes nothing, its own agent neither', async t => {
  const gateway = await startGateway(t, { ...unprobed, auth: { keys: [{ id: 'user', token: 'token-of-user', scopes: ['read', 'proxy'], agents: ['mine'] }] }, agents: [{ name: 'mine', port: 9001 }] })
  const id = idOf(gateway, 'mine')
  const before = seen(gateway)

  for (const [method, path] of [['POST', '/registry/register'], ['PUT', `/registry/mine/instances/${id}`], ['DELETE', '/registry/mine'], ['DELETE', `/registry/mine/instances/${id}`]] as const) {
    const { status } = await fetch(gateway.origin + path, { method, headers: { authorization: 'Bearer token-of-user', 'content-type': 'application/json' }, ...(method === 'POST' && { body: '{"name":"mine","port":1}' }) })
    t.equal(status, 403, `${method} ${path}`)
  }
  t.equal(seen(gateway), before)
})
