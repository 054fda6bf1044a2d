/**
 * `tls` of an agent: HTTPS towards its instances with real certificates, by both clients, WebSockets and probes. What is not to be trusted is a 502
 * that says nothing to the client, and the reason is in the log.
 */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import { copyFile, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { WebSocket, WebSocketServer } from 'ws'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { unprobed } from '../helpers/build-gateway.ts'
import { certificates, withoutOpenssl } from '../helpers/certificates.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { logLines } from '../helpers/log-lines.ts'
import { tlsAgent } from '../helpers/tls-agent.ts'

type Tls = NonNullable<NonNullable<FleetGatewayOptions['agents']>[number]['tls']>

const options = { skip: withoutOpenssl }

const quiet: FleetGatewayOptions = { auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, cors: { enabled: false } }

/** A gateway with the agent `planner` at these ports, and its log. */
async function start (t: Test, ports: readonly number[], tls: Tls | undefined, more: FleetGatewayOptions = {}) {
  const log = logLines()
  const { host = 'localhost', ...others } = more as FleetGatewayOptions & { host?: string }
  const agents = [{ name: 'planner', protocol: 'https' as const, instances: ports.map(port => ({ host, port })), ...(tls && { tls }) }]
  const gateway = await createGateway({ ...quiet, ...unprobed, agents, ...others }, { loggerInstance: log.loggerInstance })
  t.teardown(() => gateway.close())
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  const ask = (path = '/x', init: RequestInit = {}) => fetch(`http://127.0.0.1:${port}/api/planner${path}`, init)
  return { gateway, log, port, ask }
}

for (const upstreamClient of ['own', 'undici'] as const) {
  t.test(`${upstreamClient}: an authority of one's own is believed where the agent names it`, options, async t => {
    const authority = certificates(t)
    const agent = await tlsAgent(t, authority.issue('agent'))
    const { ask } = await start(t, [agent.port], { caFile: authority.caFile }, { upstreamClient })

    const [small, large] = [await ask('/small'), await ask('/large', { method: 'POST', body: 'x'.repeat(500_000) })]

    t.same([await small.text(), await large.text()], ['secure /small', 'secure /large'])
    t.equal(agent.serverNames[0], 'localhost')
    t.equal(agent.clients[0], undefined)
  })

  t.test(`${upstreamClient}: what is not to be trusted is a 502, and the log alone says why`, options, async t => {
    const folder = t.testdir({ mine: {}, strangers: {} })
    const [authority, stranger] = [certificates(t, join(folder, 'mine')), certificates(t, join(folder, 'strangers'))]
    const expired = await tlsAgent(t, authority.issue('expired', { expired: true }))
    const renamed = await tlsAgent(t, authority.issue('renamed', { names: 'DNS:other.example' }))
    const foreign = await tlsAgent(t, stranger.issue('foreign'))
    const plain = await fakeAgent(t)

    for (const [port, reason, type] of [
      [expired.port, /its certificate has expired \(CERT_HAS_EXPIRED\)/, 'tls_certificate_error'],
      [renamed.port, /its certificate is for another name: it names DNS:other\.example, and not localhost \(ERR_TLS_CERT_ALTNAME_INVALID\)/, 'tls_certificate_error'],
      [foreign.port, /its certificate is from an unknown issuer/, 'tls_certificate_error'],
      [plain.port, /it does not speak TLS/, 'tls_protocol_error']
    ] as const) {
      const { gateway, ask, log } = await start(t, [port], { caFile: authority.caFile }, { upstreamClient })
      const answer = await ask()
      const body = await answer.text()
      const line = await log.line(/No connection to the agent could be opened/)

      t.match([answer.status, JSON.parse(body)], [502, { code: 'FLEET_UPSTREAM_UNREACHABLE', detail: 'No connection to the agent could be opened' }])
      t.equal(answer.headers.get('proxy-status'), `fleet-gateway; error=${type}`)
      t.notMatch(body, /certificate|CERT|issuer|localhost|TLS/i)
      t.match(line, { level: 40, msg: reason, agent: 'planner', instance: gateway.registry.get('planner').instances[0]!.id })
    }
    t.same([expired, renamed, foreign].flatMap(({ serverNames }) => serverNames.length > 1), [false, false, false])
  })

  t.test(`${upstreamClient}: where one instance is not to be trusted another one serves`, options, async t => {
    const authority = certificates(t)
    const [expired, good] = [await tlsAgent(t, authority.issue('expired', { expired: true })), await tlsAgent(t, authority.issue('good'))]
    const { ask } = await start(t, [expired.port, good.port], { caFile: authority.caFile }, { upstreamClient })

    const answers = await Promise.all(['/1', '/2', '/3', '/4'].map(async path => (await ask(path, { method: 'POST', body: 'once' })).text()))

    t.same(answers, ['secure /1', 'secure /2', 'secure /3', 'secure /4'])
  })

  t.test(`${upstreamClient}: an agent that asks for a client certificate gets it`, options, async t => {
    const authority = certificates(t)
    const agent = await tlsAgent(t, authority.issue('agent'), { ca: authority.ca, requestCert: true, rejectUnauthorized: true })
    const { certFile, keyFile } = authority.issue('the-gateway')
    const known = await start(t, [agent.port], { caFile: authority.caFile, certFile, keyFile }, { upstreamClient })
    const unknown = await start(t, [agent.port], { caFile: authority.caFile }, { upstreamClient, retry: { attempts: 0 } })

    const [good, bad] = [await known.ask(), await unknown.ask()]
    const { msg } = await unknown.log.line(/the agent closed the connection|asks for a client certificate/i)

    t.same([good.status, await good.text(), bad.status], [200, 'secure /x', 502])
    t.equal(agent.clients[0], 'the-gateway')
    if (upstreamClient === 'own') t.match(msg, /it asks for a client certificate/) // undici tells of the end alone
    t.notMatch(await bad.text(), /certificate/)
  })

  t.test(`${upstreamClient}: an instance that a mere registrar placed is shown no client certificate`, options, async t => {
    const authority = certificates(t)
    const asking = { ca: authority.ca, requestCert: true, rejectUnauthorized: false }
    const [own, foreign] = [await tlsAgent(t, authority.issue('own'), asking), await tlsAgent(t, authority.issue('foreign'), asking)]
    const { certFile, keyFile } = authority.issue('the-gateway')
    const { gateway, ask } = await start(t, [own.port], { caFile: authority.caFile, certFile, keyFile }, { upstreamClient })
    const place = (trusted: boolean) => gateway.registry.register({ name: 'planner', host: 'localhost', port: foreign.port, protocol: 'https', trusted })

    place(false)
    await gateway.health.check(gateway.registry.get('planner').instances[1]!)
    t.same([(await ask()).status, (await ask()).status], [200, 200])

    t.same(new Set(own.clients), new Set(['the-gateway']))
    t.same(foreign.clients, [undefined, undefined], 'neither by requests nor by probes')
    place(true)
    await gateway.health.check(gateway.registry.get('planner').instances[1]!)
    t.equal(foreign.clients[2], 'the-gateway')
  })

  t.test(`${upstreamClient}: a connection that was made with the client certificate is not used when the instance is not trusted with it any more`, options, async t => {
    const authority = certificates(t)
    const agent = await tlsAgent(t, authority.issue('agent'), { ca: authority.ca, requestCert: true, rejectUnauthorized: false })
    const { certFile, keyFile } = authority.issue('the-gateway')
    const tls = { caFile: authority.caFile, certFile, keyFile }
    const { gateway, ask } = await start(t, [agent.port], tls, { upstreamClient })
    gateway.registry.register({ name: 'planner', host: 'localhost', port: agent.port, protocol: 'https' })
    const fileHas = (hasIt: boolean) => gateway.registry.replaceFile([{
      name: 'planner', policy: { tls }, instances: hasIt ? [{ host: 'localhost', port: agent.port, protocol: 'https', weight: 1 }] : []
    }])
    const answers = async () => [await (await ask('/1')).text(), await (await ask('/2')).text()]

    const named = await answers()
    fileHas(false)
    const registeredAlone = await answers()
    fileHas(true)
    const namedAgain = await answers()

    t.same([named, registeredAlone, namedAgain], Array(3).fill(['secure /1', 'secure /2']))
    t.same(agent.clients, ['the-gateway', undefined, 'the-gateway'], 'one connection for each, kept as long as what it was made by holds')
  })

  t.test(`${upstreamClient}: serverName is asked for and must be in the certificate; an address is not asked for`, options, async t => {
    const authority = certificates(t)
    const agent = await tlsAgent(t, authority.issue('agent', { names: 'DNS:agents.internal,IP:127.0.0.1' }))
    const named = await start(t, [agent.port], { caFile: authority.caFile, serverName: 'agents.internal' }, { upstreamClient })
    const addressed = await start(t, [agent.port], { caFile: authority.caFile }, { upstreamClient, host: '127.0.0.1' } as FleetGatewayOptions)
    const wrong = await start(t, [agent.port], { caFile: authority.caFile, serverName: 'others.internal' }, { upstreamClient })

    t.same([(await named.ask()).status, (await addressed.ask()).status, (await wrong.ask()).status], [200, 200, 502])
    t.same(agent.serverNames.slice(0, 2), ['agents.internal', false])
    t.match(await wrong.log.line(/No connection/), { msg: /it names DNS:agents\.internal, IP Address:127\.0\.0\.1, and not others\.internal/ })
  })

  t.test(`${upstreamClient}: without verification anybody is believed, and the log warns once`, options, async t => {
    const stranger = certificates(t)
    const agent = await tlsAgent(t, stranger.issue('agent', { expired: true, names: 'DNS:other.example' }))
    const { ask, log } = await start(t, [agent.port], { verify: false }, { upstreamClient })

    const answers = await Promise.all([ask(), ask(), ask()])

    t.same(answers.map(({ status }) => status), [200, 200, 200])
    t.match(log.lines.filter(({ msg }) => msg.includes('NOT verified')), [{ level: 40, agent: 'planner' }])
    t.equal(log.lines.filter(({ msg }) => msg.includes('NOT verified')).length, 1)
  })
}

t.test('WebSockets over TLS to the agent: trusted, with a client certificate, and not trusted', options, async t => {
  const folder = t.testdir({ mine: {}, strangers: {} })
  const [authority, stranger] = [certificates(t, join(folder, 'mine')), certificates(t, join(folder, 'strangers'))]
  const agent = await tlsAgent(t, authority.issue('agent'), { ca: authority.ca, requestCert: true, rejectUnauthorized: true })
  new WebSocketServer({ server: agent.server }).on('connection', socket => socket.on('message', (data, isBinary) => {
    socket.send(data, { binary: isBinary })
    socket.close(4_000, 'done')
  }))
  const { certFile, keyFile } = authority.issue('the-gateway')
  const good = await start(t, [agent.port], { caFile: authority.caFile, certFile, keyFile })
  const bad = await start(t, [agent.port], { caFile: stranger.caFile })

  const socket = new WebSocket(`ws://127.0.0.1:${good.port}/api/planner/ws`)
  await once(socket, 'open')
  const large = Buffer.alloc(2_000_000, 'ws')
  socket.send(large)
  const [echoed] = await once(socket, 'message') as [Buffer]
  const [code] = await once(socket, 'close') as [number]
  const refused = new WebSocket(`ws://127.0.0.1:${bad.port}/api/planner/ws`).on('error', () => {})
  const [, response] = await once(refused, 'unexpected-response') as [unknown, { statusCode: number }]
  refused.terminate()

  t.ok(large.equals(echoed))
  t.equal(code, 4_000)
  t.equal(response.statusCode, 502)
  t.match(await bad.log.line(/No connection/), { msg: /unknown issuer/ })
})

for (const path of [undefined, '/health']) {
  t.test(`probes by ${path ?? 'connection'} go by the same certificates, and the log says why an instance is down`, options, async t => {
    const authority = certificates(t)
    const good = await tlsAgent(t, authority.issue('good'))
    const expired = await tlsAgent(t, authority.issue('expired', { expired: true }))
    const health = { ...(path !== undefined && { path }), unhealthyAfter: 1, healthyAfter: 1 }
    const { gateway, log } = await start(t, [good.port, expired.port], { caFile: authority.caFile }, { health })

    await gateway.health.firstRound()

    const [first, second] = gateway.registry.get('planner').instances
    t.same([first!.runtime.health.up, second!.runtime.health.up], [true, false])
    t.match(await log.line(/is down/), { level: 40, instance: second!.id, msg: 'An instance is down: probes fail, since its certificate has expired (CERT_HAS_EXPIRED)' })
    t.match(await gateway.health.check(second!), { outcome: 'bad', status: null, cause: 'CERT_HAS_EXPIRED' })
    t.match(await gateway.health.check(first!), { outcome: 'ok', status: 200 })
  })
}

t.test('files that changed are used by new connections after a reload; a bad one changes nothing', options, async t => {
  const folder = t.testdir({ ca: {}, 'fleet.yaml': '' })
  const authority = certificates(t, join(folder, 'ca'))
  const agent = await tlsAgent(t, authority.issue('agent'), { ca: authority.ca, requestCert: true, rejectUnauthorized: true }, (_request, response) => {
    response.setHeader('connection', 'close')
    response.end('ok')
  })
  const [first, second] = [authority.issue('first'), authority.issue('second')]
  const log = logLines()
  const file = join(folder, 'fleet.yaml')
  await writeFile(file, `agents:
  - name: planner
    port: ${agent.port}
    protocol: https
    tls: {caFile: '${authority.caFile}', certFile: '${first.certFile}', keyFile: '${first.keyFile}'}
`)
  const running = await createGateway({ ...quiet, ...unprobed, file }, { loggerInstance: log.loggerInstance })
  t.teardown(() => running.close())
  const ask = async () => (await running.inject('/api/planner/x')).statusCode

  t.equal(await ask(), 200)
  await copyFile(second.keyFile, first.keyFile)
  t.equal(await running.discovery.reload(), false)
  const { msg } = await log.line(/is not the key of/)
  t.equal(await ask(), 200)
  await copyFile(second.certFile, first.certFile)
  t.equal(await running.discovery.reload(), true)
  t.equal(await ask(), 200)

  t.same(agent.clients, ['first', 'first', 'second'])
  t.match(msg, /fleet\.yaml:5:\d+ agents\[0\]\.tls\.keyFile: is not the key of the certificate in certFile/)
})

for (const upstreamClient of ['own', 'undici'] as const) {
  t.test(`${upstreamClient}: a connection that is kept open is not used past a change of what is trusted`, options, async t => {
    const folder = t.testdir({ mine: {}, strangers: {}, 'fleet.yaml': '' })
    const [authority, stranger] = [certificates(t, join(folder, 'mine')), certificates(t, join(folder, 'strangers'))]
    const agent = await tlsAgent(t, authority.issue('agent'))
    const file = join(folder, 'fleet.yaml')
    const write = (tls: string, more = '') => writeFile(file, `agents: [{name: planner, port: ${agent.port}, protocol: https, tls: ${tls}}]\n${more}`)
    await write('{verify: false}')
    const running = await createGateway({ ...quiet, ...unprobed, file, upstreamClient }, { loggerInstance: logLines().loggerInstance })
    t.teardown(() => running.close())
    const ask = async () => (await running.inject('/api/planner/x')).statusCode
    const outcomes = [await ask()]
    let seen = 0

    for (const change of [
      () => write(`{caFile: '${stranger.caFile}'}`),
      () => write(`{caFile: '${authority.caFile}'}`),
      async () => {
        await write(`{caFile: '${authority.caFile}'}`, 'rateLimit: {perMinute: 100}\n')
        seen = agent.serverNames.length
      },
      async () => {
        t.equal(agent.serverNames.length, seen, 'a reload that changes nothing of it leaves connections alone')
        await copyFile(stranger.caFile, authority.caFile)
      }
    ]) {
      await change()
      t.ok(await running.discovery.reload())
      outcomes.push(await ask())
    }

    t.same(outcomes, [200, 502, 200, 200, 502])
  })
}

t.test('bad files of agents stop the start, all of them at once, those of their headers too', options, async t => {
  const authority = certificates(t)
  const { certFile, keyFile } = authority.issue('one')
  const agents = [
    { name: 'a', port: 1, protocol: 'https' as const, tls: { caFile: keyFile } },
    { name: 'b', port: 2, protocol: 'https' as const, headers: { 'X-Key': { file: '/nowhere/token' } }, tls: { certFile, keyFile: '/nowhere/key' } }
  ]

  await t.rejects(createGateway({ ...quiet, agents }), {
    name: 'ConfigError',
    message: /^agents\[1\]\.headers\.X-Key\.file: can not be read: ENOENT \(\/nowhere\/token\)\nagents\[0\]\.tls\.caFile: holds no certificate[^]*\nagents\[1\]\.tls\.keyFile: names a file that does not exist \(\/nowhere\/key\)$/
  })
})

t.test('what goes together in tls is held to it, and a registration has no say in it', async t => {
  const problems = async (agent: object) => {
    try {
      await (await createGateway({ ...quiet, agents: [{ name: 'a', port: 1, protocol: 'https', ...agent }] as NonNullable<FleetGatewayOptions['agents']> })).close()
      return ''
    } catch (error) {
      return String(error)
    }
  }
  const gateway = await createGateway(quiet)
  t.teardown(() => gateway.close())

  t.match(await problems({ tls: { certFile: 'x' } }), /tls\.keyFile: is required beside certFile/)
  t.match(await problems({ tls: { keyFile: 'x' } }), /tls\.certFile: is required beside keyFile/)
  t.match(await problems({ tls: { passphraseFile: 'x' } }), /tls\.passphraseFile: is for a keyFile/)
  t.match(await problems({ tls: { caFile: 'x', verify: false } }), /tls\.caFile: has no effect with verify: false/)
  t.match(await problems({ protocol: 'http', tls: { verify: false } }), /tls: has no effect without protocol: https/)
  t.match(await problems({ tls: { serverName: '10.0.0.1' } }), /tls\.serverName: must be a host name/)
  const answer = await gateway.inject({ method: 'POST', url: '/registry/register', payload: { name: 'b', port: 9_000, protocol: 'https', tls: { verify: false } } })
  t.match(answer.json(), { status: 400, errors: [{ path: 'tls', message: 'unknown key' }] })
})

t.test('an instance that fleet.yaml names no more, and only a registrar does, is shown no client certificate', options, async t => {
  const authority = certificates(t)
  const agent = await tlsAgent(t, authority.issue('agent'), { ca: authority.ca, requestCert: true, rejectUnauthorized: false })
  const { certFile, keyFile } = authority.issue('the-gateway')
  const tls = { caFile: authority.caFile, certFile, keyFile }
  const { gateway } = await start(t, [agent.port], tls, { health: { path: '/health', interval: '100ms' } })
  gateway.registry.register({ name: 'planner', host: 'localhost', port: agent.port, protocol: 'https' })
  const probed = async (times: number) => { for (let count = 0; count < times; count++) await once(agent.server, 'secureConnection') }
  await probed(1)
  t.equal(agent.clients.at(-1), 'the-gateway')

  gateway.registry.replaceFile([{ name: 'planner', policy: { tls }, instances: [{ host: 'localhost', port: 1, protocol: 'https', weight: 1 }] }])
  await probed(2) // one may have been on its way

  t.equal(agent.clients.at(-1), undefined)
})

t.test('only an admin may register instances of an agent that is shown a client certificate', options, async t => {
  const authority = certificates(t)
  const { certFile, keyFile } = authority.issue('the-gateway')
  const keys = [{ id: 'registrar', token: 'registrar-token', scopes: ['register' as const] }, { id: 'boss', token: 'boss-token', scopes: ['admin' as const] }]
  const { gateway } = await start(t, [1], { caFile: authority.caFile, certFile, keyFile }, { auth: { keys } })
  const register = async (token: string) => await gateway.inject({ method: 'POST', url: '/registry/register', headers: { authorization: `Bearer ${token}` }, payload: { name: 'planner', port: 2, protocol: 'https' } })

  const [refused, taken] = [await register('registrar-token'), await register('boss-token')]

  t.match(refused.json(), { status: 403, code: 'FLEET_FORBIDDEN', detail: /"planner" is given credentials of the gateway/ })
  t.equal(taken.statusCode, 201)
})

t.test('the registry shows nobody where files are, and keeps nothing of it', options, async t => {
  const authority = certificates(t)
  const { gateway } = await start(t, [1], { caFile: authority.caFile, serverName: 'agents.internal' })

  const shown = (await gateway.inject('/registry')).body

  t.match(JSON.parse(shown), { planner: { policy: { tls: { verify: true, serverName: 'agents.internal' } } } })
  t.notMatch(shown, authority.caFile)
  gateway.registry.register({ name: 'planner', host: 'localhost', port: 2 })
  t.notMatch(JSON.stringify(gateway.registry.exportState()), /tls|internal/)
})
