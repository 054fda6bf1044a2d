/** Keys that change while the gateway runs: several at once, files that are read again, and what a connection that is open still may. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { onConnection } from '../helpers/kept-connection.ts'

const digestOf = (token: string) => createHash('sha256').update(token).digest('hex')

/** A gateway of a file with these keys, in front of an agent for WebSockets, event streams and echoes; `become` rewrites the keys, and reloads. */
async function fleet (t: Test, keys: string, files: Record<string, string> = {}) {
  const streams: ServerResponse[] = []
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url !== '/events') return void response.end('ok')
    streams.push(response.writeHead(200, { 'content-type': 'text/event-stream' }))
    response.write('data: first\n\n')
  })
  const rooms = new WebSocketServer({ server: agent.server })
  rooms.on('connection', room => room.on('message', data => room.send(data)))
  const dir = t.testdir({ ...files, 'fleet.yaml': '' })
  const file = join(dir, 'fleet.yaml')
  const textOf = (list: string) => `agents:\n  - {name: planner, host: 127.0.0.1, port: ${agent.port}}\nauth:\n  keys: ${list.replaceAll('DIR', dir)}\n`
  await writeFile(file, textOf(keys))
  const gateway = await startGateway(t, { ...unprobed, auth: { enabled: true }, file })
  return {
    gateway,
    dir,
    streams,
    async become (list: string) {
      await writeFile(file, textOf(list))
      return await gateway.discovery.reload()
    },
    status: async (token: string, path = '/api/planner/x') => (await fetch(gateway.origin + path, { headers: { authorization: `Bearer ${token}` } })).status
  }
}

const keyOf = (id: string, token: string, more = 'scopes: [read, proxy]') => `{id: ${id}, tokenSha256: "${digestOf(token)}", ${more}}`

t.test('an old and a new token are valid at once, until the old one goes', async t => {
  const { become, status } = await fleet(t, `[${keyOf('old', 'the-old-token')}]`)
  t.same([await status('the-old-token'), await status('the-new-token')], [200, 401])

  t.equal(await become(`[${keyOf('old', 'the-old-token')}, ${keyOf('new', 'the-new-token')}]`), true)
  t.same([await status('the-old-token'), await status('the-new-token')], [200, 200])

  t.equal(await become(`[${keyOf('new', 'the-new-token')}]`), true)
  t.same([await status('the-old-token'), await status('the-new-token')], [401, 200])
})

t.test('a token\'s file is read again with a reload; one that is no good changes nothing, and its place is told', async t => {
  const { gateway, dir, status } = await fleet(t, '[{id: a, tokenFile: DIR/token, scopes: [read, proxy]}]', { token: 'the-first-token\n' })
  const file = join(dir, 'token')
  t.equal(await status('the-first-token'), 200)

  await writeFile(file, 'the-second-token\n')
  t.equal(await status('the-second-token'), 401, 'not before the reload')
  t.equal(await gateway.discovery.reload(), true)
  t.same([await status('the-first-token'), await status('the-second-token')], [401, 200])

  for (const [content, problem] of [['', 'names an empty file'], ['x'.repeat(70_000), 'is longer than 64 KiB'], [null, 'can not be read: ENOENT']] as const) {
    if (content === null) await rm(file)
    else await writeFile(file, content)
    t.equal(await gateway.discovery.reload(), false)
    t.match(gateway.discovery.status.error, new RegExp(`fleet\\.yaml:4:\\d+ auth\\.keys\\[0\\]\\.tokenFile: ${problem}`))
    t.equal(await status('the-second-token'), 200)
  }
})

t.test('on a connection that is kept alive a revoked key is refused at the next request', async t => {
  for (const name of ['authorization', 'x-fleet-token']) {
    const { gateway, become } = await fleet(t, `[${keyOf('a', 'token-to-revoke')}, ${keyOf('b', 'token-that-stays')}]`)
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const headersFor = (token: string) => ({ [name]: name === 'authorization' ? `Bearer ${token}` : token })
    const first = await onConnection(gateway, agent, headersFor('token-to-revoke'))
    t.equal(first.status, 200)

    await become(`[${keyOf('b', 'token-that-stays')}]`)

    t.same(await onConnection(gateway, agent, headersFor('token-to-revoke')), { ...first, status: 401 }, name)
    t.same(await onConnection(gateway, agent, headersFor('token-that-stays')), first, 'the connection is as good as any')
  }
})

t.test('what a key may not any more is refused at the next request, too', async t => {
  const { gateway, become } = await fleet(t, `[${keyOf('a', 'the-same-token')}]`)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ask = () => onConnection(gateway, agent, { authorization: 'Bearer the-same-token' })
  const first = await ask()
  t.equal(first.status, 200)

  await become(`[${keyOf('a', 'the-same-token', 'scopes: [read]')}]`)
  t.same(await ask(), { ...first, status: 403 })
  await become(`[${keyOf('a', 'the-same-token', 'scopes: [proxy], agents: [other]')}]`)
  t.same(await ask(), { ...first, status: 403 })
  await become(`[${keyOf('a', 'the-same-token', 'scopes: [proxy], agents: [planner]')}]`)
  t.same(await ask(), first)
})

t.test('a WebSocket and an event stream of a revoked key go on, and no new one opens', async t => {
  const { gateway, streams, become } = await fleet(t, `[${keyOf('a', 'token-to-revoke')}]`)
  const headers = { authorization: 'Bearer token-to-revoke' }
  const open = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/planner/room`, { headers })
    t.teardown(() => socket.terminate())
    return socket
  }
  const socket = open()
  await once(socket, 'open')
  const request = httpRequest({ host: '127.0.0.1', port: gateway.port, path: '/api/planner/events', headers })
  t.teardown(() => request.destroy())
  const [events] = await once(request.end(), 'response') as [IncomingMessage]
  const next = async () => String((await once(events, 'data'))[0])
  t.equal(await next(), 'data: first\n\n')

  t.equal(await become(`[${keyOf('b', 'another-token')}]`), true)

  socket.send('still here')
  t.equal(String((await once(socket, 'message'))[0]), 'still here')
  streams[0]!.write('data: second\n\n')
  t.equal(await next(), 'data: second\n\n')
  const [refused] = await once(open().on('error', () => {}), 'unexpected-response').then(([, response]) => [response as IncomingMessage])
  t.equal(refused!.statusCode, 401)
})

t.test('when the last key is revoked nobody is let in; without the list of keys it is a mistake, and nothing changes', async t => {
  const { gateway, dir, become, status } = await fleet(t, `[${keyOf('a', 'token-to-revoke')}]`)

  t.equal(await become('[]'), true)
  t.equal(await status('token-to-revoke'), 401)
  t.equal(await status('token-to-revoke', '/agents'), 401)
  t.equal((await fetch(`${gateway.origin}/health/live`)).status, 200)
  t.equal(await become(`[${keyOf('b', 'another-token')}]`), true)
  t.equal(await status('another-token'), 200)

  await writeFile(join(dir, 'fleet.yaml'), 'agents: []\n')
  t.equal(await gateway.discovery.reload(), false)
  t.match(gateway.discovery.status.error, /auth: needs a secret/)
  t.equal(await status('another-token'), 200)
})
