/**
 * `server.tls`: the gateway's own listener over TLS, with real certificates and sockets. What holds for the plain listener holds here, a renewed
 * certificate is taken without a connection being dropped, and what is no TLS troubles nobody.
 */
import t, { type Test } from 'tap'
import { once } from 'node:events'
import { copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect as connectTcp, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws'
import type { FastifyInstance } from 'fastify'
import { createGateway, type FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, unprobed } from '../helpers/build-gateway.ts'
import { certificates, withoutOpenssl, type Authority, type Issued } from '../helpers/certificates.ts'
import { closed, fakeAgent } from '../helpers/fake-agent.ts'
import { logLines } from '../helpers/log-lines.ts'

const options = { skip: withoutOpenssl }

const plainOptions: FleetGatewayOptions = { auth: { enabled: false }, rateLimit: { enabled: false }, auditLog: { enabled: false }, cors: { enabled: false }, ...unprobed }

type TlsSettings = NonNullable<NonNullable<FleetGatewayOptions['server']>['tls']>

interface Running {
  readonly gateway: FastifyInstance
  readonly port: number
  readonly log: ReturnType<typeof logLines>
  readonly authority: Authority
  readonly issued: Issued
  /** Opens a TLS connection that verifies the gateway's certificate. */
  open (options?: ConnectionOptions): Promise<TLSSocket>
  /** One GET on a connection of its own, unless `agent` says otherwise. */
  get (path: string, options?: RequestOptions): Promise<{ status: number, body: string, headers: IncomingMessage['headers'] }>
}

async function start (t: Test, more: FleetGatewayOptions = {}, tls: Partial<TlsSettings> = {}): Promise<Running> {
  const authority = certificates(t)
  const issued = authority.issue('gateway')
  const log = logLines()
  const gateway = await createGateway({ ...plainOptions, ...more, server: { ...more.server, tls: { certFile: issued.certFile, keyFile: issued.keyFile, ...tls } } }, { loggerInstance: log.loggerInstance })
  t.teardown(() => gateway.close())
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const { port } = gateway.server.address() as AddressInfo
  const open = async (options: ConnectionOptions = {}) => {
    const socket = connectTls({ host: '127.0.0.1', port, servername: 'localhost', ca: authority.ca, ...options })
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
    await once(socket, 'secureConnect')
    return socket
  }
  return { gateway, port, log, authority, issued, open, get: (path, options) => get(port, authority.ca, path, options) }
}

async function get (port: number, ca: string, path: string, options: RequestOptions = {}) {
  const [response] = await once(httpsRequest({ host: '127.0.0.1', port, path, ca, servername: 'localhost', agent: false, ...options }).end(), 'response') as [IncomingMessage]
  return { status: response.statusCode!, body: await text(response), headers: response.headers }
}

/** Everything until the other side ends. */
async function answerTo (socket: Socket, request: string): Promise<string> {
  socket.write(request)
  return await text(socket)
}

function serialOf (socket: TLSSocket): string {
  return socket.getPeerCertificate().serialNumber
}

/** As a renewal by hand does it, one file after the other. */
async function replacePair (to: Issued, by: Issued): Promise<void> {
  await copyFile(by.certFile, `${to.certFile}.new`)
  await rename(`${to.certFile}.new`, to.certFile)
  await copyFile(by.keyFile, to.keyFile)
}

t.test('over TLS the gateway forwards, and says so to agents', options, async t => {
  const agent = await fakeAgent(t)
  const { get, open, gateway } = await start(t, { agents: [agentAt('planner', agent)] })

  const { status, body } = await get('/api/planner/x?y=1')
  const socket = await open({ ALPNProtocols: ['h2', 'http/1.1'] })

  t.equal(status, 200)
  t.match(body, /"X-Forwarded-Proto","https"/)
  t.match(body, /"Forwarded","for=127\.0\.0\.1;host=\\"127\.0\.0\.1:\d+\\";proto=https"/)
  t.equal(socket.alpnProtocol, 'http/1.1')
  t.match(gateway.listeningOrigin, /^https:/)
})

t.test('minVersion: 1.3 refuses older clients, and by default 1.2 is good and 1.1 is not', options, async t => {
  const strict = await start(t, {}, { minVersion: 1.3 })
  const usual = await start(t)

  t.equal((await strict.open()).getProtocol(), 'TLSv1.3')
  await t.rejects(strict.open({ maxVersion: 'TLSv1.2' }))
  t.equal((await usual.open({ maxVersion: 'TLSv1.2' })).getProtocol(), 'TLSv1.2')
  await t.rejects(usual.open({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }))
  t.equal((await usual.get('/health')).status, 200)
})

t.test('what is no valid request is answered as on the plain listener', options, async t => {
  const { open } = await start(t)

  const answers = await Promise.all([
    'nonsense\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
    `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(40_000)}\r\n\r\n`,
    'POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: localhost\r\nExpect: a miracle\r\n\r\n',
    'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n'
  ].map(async request => answerTo(await open(), request)))

  t.same(answers.map(answer => Number(answer.slice(9, 12))), [400, 400, 431, 400, 417, 405])
  for (const answer of answers) {
    t.match(answer, /^content-type: application\/problem\+json/im)
    t.match(answer, /^connection: close/im)
  }
})

t.test('pipelined requests are answered in order, and an upload that is refused keeps its answer', options, async t => {
  const agent = await fakeAgent(t, (request, response) => { response.end(`answer ${request.url}`) })
  const { open } = await start(t, { agents: [agentAt('planner', agent)], server: { bodyLimit: 1_000 } })
  const host = 'Host: localhost\r\n'

  const pipelined = await answerTo(await open(), `GET /api/planner/1 HTTP/1.1\r\n${host}\r\nGET /api/planner/2 HTTP/1.1\r\n${host}Connection: close\r\n\r\n`)
  const refused = await answerTo(await open(), `POST /api/planner/up HTTP/1.1\r\n${host}Content-Length: 5000000\r\n\r\n${'x'.repeat(5_000_000)}`)

  t.match(pipelined, /answer \/1[^]*answer \/2/)
  t.match(refused, /^HTTP\/1\.1 413 /)
})

t.test('event streams and WebSockets go through', options, async t => {
  let stream: ServerResponse | undefined
  const agent = await fakeAgent(t, (_request, response) => {
    stream = response
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: 1\n\n')
  })
  new WebSocketServer({ server: agent.server }).on('connection', socket => socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary })))
  const { port, authority, open } = await start(t, { agents: [agentAt('chat', agent)] })

  const events = await open()
  events.write('GET /api/chat/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
  let received = ''
  for await (const chunk of events) {
    received += String(chunk)
    if (received.includes('data: 2')) break
    if (received.includes('data: 1')) stream!.write('data: 2\n\n') // the first one came by itself
  }
  const socket = new WebSocket(`wss://127.0.0.1:${port}/api/chat/ws`, { ca: authority.ca, servername: 'localhost' } as ClientOptions)
  await once(socket, 'open')
  const large = Buffer.alloc(3_000_000, 'ws')
  socket.send(large)
  const [echoed] = await once(socket, 'message') as [Buffer]
  socket.close(4_321)

  t.equal((await once(socket, 'close'))[0], 4_321)
  t.ok(large.equals(echoed))
})

t.test('who speaks plain HTTP is told so in clear, and other nonsense ends the connection; neither is an error in the log', options, async t => {
  const { port, get, log } = await start(t)

  const plain = connectTcp({ host: '127.0.0.1', port })
  const told = await answerTo(plain, 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const nonsense = connectTcp({ host: '127.0.0.1', port }).on('error', () => {}).resume()
  nonsense.write(Buffer.alloc(400, 7))
  await closed(nonsense)
  const early = connectTcp({ host: '127.0.0.1', port })
  await once(early, 'connect')
  early.resetAndDestroy()

  t.match(told, /^HTTP\/1\.1 400 Bad Request\r\n[^]*"detail":"This port speaks HTTPS/)
  t.equal((await get('/health')).status, 200)
  t.same(log.lines.filter(({ level }) => level > 30), [])
})

t.test('a handshake that hangs is cut off', { ...options, timeout: 60_000 }, async t => {
  const { port, get, log } = await start(t)
  const silent = connectTcp({ host: '127.0.0.1', port }).resume()
  const slow = connectTcp({ host: '127.0.0.1', port }).resume()
  await once(slow, 'connect')
  slow.write(Buffer.from([22, 3, 1, 2, 0])) // the head of a record, and nothing of its 512 bytes

  t.equal((await get('/health')).status, 200, 'others are served meanwhile')
  await Promise.all([closed(silent), closed(slow)])
  t.same(log.lines.filter(({ level }) => level > 30), [])
})

t.test('a renewed certificate is taken while requests run, and no connection is dropped', options, async t => {
  let events: ServerResponse | undefined
  const agent = await fakeAgent(t, (request, response) => {
    if (request.url !== '/stream') return void response.end('short')
    events = response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: begun\n\n')
  })
  const { open, get, log, authority, issued } = await start(t, { agents: [agentAt('planner', agent)] })
  const renewed = authority.issue('renewed')
  const stream = await open()
  stream.write('GET /api/planner/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  await once(stream, 'data')
  const keptAlive = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => keptAlive.destroy())
  const until = new AbortController()
  const statuses: number[] = []
  const asking = (async () => { while (!until.signal.aborted) statuses.push((await get('/api/planner/short', { agent: keptAlive })).status) })()

  await replacePair(issued, renewed)
  await log.line(/certificate of server\.tls was loaded anew/)
  until.abort()
  await asking

  t.not(serialOf(await open()), serialOf(stream))
  events!.end('data: last\n\n')
  t.match(await text(stream), /data: last\n\n\r\n0\r\n\r\n$/, 'the stream goes on, to its end')
  t.ok(statuses.length > 0 && statuses.every(status => status === 200), `${statuses.length} requests`)
})

t.test('files behind a link that is turned, as Kubernetes does it, are seen', options, async t => {
  const folder = t.testdir()
  await mkdir(join(folder, 'made'))
  const authority = certificates(t, join(folder, 'made'))
  const [first, second] = [authority.issue('first'), authority.issue('second')]
  for (const [version, { certFile, keyFile }] of [['v1', first], ['v2', second]] as const) {
    await mkdir(join(folder, version))
    await copyFile(certFile, join(folder, version, 'tls.crt'))
    await copyFile(keyFile, join(folder, version, 'tls.key'))
  }
  await symlink('v1', join(folder, '..data'))
  for (const name of ['tls.crt', 'tls.key']) await symlink(`..data/${name}`, join(folder, name))
  const log = logLines()
  const gateway = await createGateway({ ...plainOptions, server: { tls: { certFile: join(folder, 'tls.crt'), keyFile: join(folder, 'tls.key') } } }, { loggerInstance: log.loggerInstance })
  t.teardown(() => gateway.close())
  await gateway.listen({ host: '127.0.0.1', port: 0 })

  await symlink('v2', join(folder, '..data_tmp'))
  await rename(join(folder, '..data_tmp'), join(folder, '..data'))
  await rm(join(folder, 'v1'), { recursive: true })
  await log.line(/loaded anew/)

  const socket = connectTls({ host: '127.0.0.1', port: (gateway.server.address() as AddressInfo).port, servername: 'localhost', ca: authority.ca })
  await once(socket, 'secureConnect')
  t.equal(socket.getPeerCertificate().subject.CN, 'second')
  socket.destroy()
})

t.test('a bad pair is reported and the old one stays; a good one is taken then', options, async t => {
  const { gateway, open, log, authority, issued } = await start(t)
  const other = authority.issue('other')
  const before = serialOf(await open())

  await copyFile(other.keyFile, issued.keyFile)
  t.equal(await gateway.certificate!.reload(), false)
  const complaint = await log.line(/is not the key of the certificate/)
  await writeFile(issued.certFile, 'no certificate')
  t.equal(await gateway.certificate!.reload(), false)
  t.equal(serialOf(await open()), before)
  await rm(issued.certFile)
  t.equal(await gateway.certificate!.reload(), false)
  t.equal(serialOf(await open()), before)
  await copyFile(other.certFile, issued.certFile)
  t.equal(await gateway.certificate!.reload(), true)

  t.match(complaint, { level: 50, msg: /^server\.tls\.keyFile / })
  t.match(log.text(), /holds no certificate[^]*does not exist/)
  t.match(log.text(), /The certificate was not loaded anew; the one in use stays/)
  t.notMatch(log.text(), /PRIVATE KEY|no certificate$/m, 'nothing of a file is in the log')
  t.not(serialOf(await open()), before)
})

t.test('a certificate that ran out is served, and warned about', options, async t => {
  const authority = certificates(t)
  const { certFile, keyFile } = authority.issue('old', { expired: true })
  const log = logLines()

  const gateway = await createGateway({ ...plainOptions, server: { tls: { certFile, keyFile } } }, { loggerInstance: log.loggerInstance })
  t.teardown(() => gateway.close())

  t.match(await log.line(/ran out on 2020-02-01/), { level: 40 })
})

t.test('an encrypted key is opened with its passphrase, and the files are held to what they should be', options, async t => {
  const folder = t.testdir({ passphrase: 'let me in\n', wrong: 'let me out\n', text: 'just text\n', damaged: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' })
  const file = (name: string) => join(folder, name)
  const authority = certificates(t, folder)
  const locked = authority.issue('locked', { passphrase: 'let me in' })
  const [open, other] = [authority.issue('open'), authority.issue('other')]
  await writeFile(file('turned'), authority.ca + open.cert)
  const errorOf = async (tls: TlsSettings) => {
    try {
      const gateway = await createGateway({ ...plainOptions, server: { tls } })
      await gateway.close()
      return ''
    } catch (error) {
      return String(error)
    }
  }
  const { certFile, keyFile } = open

  t.equal(await errorOf({ certFile: locked.certFile, keyFile: locked.keyFile, passphraseFile: file('passphrase') }), '')
  t.match(await errorOf({ certFile: locked.certFile, keyFile: locked.keyFile }), /^server\.tls\.keyFile: is encrypted: name the file with its passphrase as passphraseFile/)
  t.match(await errorOf({ certFile: locked.certFile, keyFile: locked.keyFile, passphraseFile: file('wrong') }), /^server\.tls\.keyFile: can not be decrypted/)
  t.match(await errorOf({ certFile, keyFile: other.keyFile }), /^server\.tls\.keyFile: is not the key of the certificate in certFile/)
  t.match(await errorOf({ certFile: file('turned'), keyFile }), /^server\.tls\.keyFile: is the key of the certificate at place 2/)
  t.match(await errorOf({ certFile: file('text'), keyFile: file('text') }), /^server\.tls\.certFile: holds no certificate[^]*\nserver\.tls\.keyFile: holds no private key/)
  t.match(await errorOf({ certFile: file('damaged'), keyFile }), /^server\.tls\.certFile: holds a certificate that is damaged/)
  t.match(await errorOf({ certFile: folder, keyFile: file('nowhere') }), /certFile: names a folder[^]*keyFile: names a file that does not exist/)
})

t.test('a drain ends connections over TLS in order, and a handshake that hangs does not hold it up', options, async t => {
  let answer: ServerResponse | undefined
  const agent = await fakeAgent(t, (_request, response) => { answer = response })
  const server = new WebSocketServer({ server: agent.server })
  const { gateway, port, authority, open, get } = await start(t, { agents: [agentAt('planner', agent)] })
  const idle = new Agent({ keepAlive: true })
  t.teardown(() => idle.destroy())
  await get('/health', { agent: idle })
  const hanging = connectTcp({ host: '127.0.0.1', port }).on('error', () => {}).resume()
  const socket = new WebSocket(`wss://127.0.0.1:${port}/api/planner/ws`, { ca: authority.ca, servername: 'localhost' } as ClientOptions)
  await Promise.all([once(socket, 'open'), once(server, 'connection')])
  const client = await open()
  client.write('GET /api/planner/slow HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await once(agent.server, 'request')

  const drained = gateway.drain.begin({ delayMs: 0, timeoutMs: 1_000 })
  setImmediate(() => { answer!.end('at last') })
  const received = await text(client)
  const [code] = await once(socket, 'close') as [number]
  await drained
  await gateway.close()

  t.match(received, /^HTTP\/1\.1 200 [^]*connection: close[^]*at last/i)
  t.equal(code, 1_001)
  await closed(hanging)
})

t.test('the agent sees a client that leaves', options, async t => {
  const agent = await fakeAgent(t, (_request, response) => { response.write('begun') })
  const { open } = await start(t, { agents: [agentAt('planner', agent)] })
  const client = await open()
  client.write('GET /api/planner/slow HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const [, response] = await once(agent.server, 'request') as [IncomingMessage, ServerResponse]

  client.destroy()

  await once(response, 'close')
  t.not(response.writableFinished, true)
})

t.test('an answer that breaks off is not taken for whole', options, async t => {
  const agent = await fakeAgent(t, (request, response) => {
    response.writeHead(200, { 'content-length': '100' })
    response.write('some of it', () => request.socket.resetAndDestroy())
  })
  const { port, authority } = await start(t, { agents: [agentAt('planner', agent)] })

  await t.rejects(get(port, authority.ca, '/api/planner/x'))
})

t.test('localhost with both of its addresses gets the renewed certificate on each', options, async t => {
  const authority = certificates(t)
  const [first, second] = [authority.issue('first'), authority.issue('second')]
  const log = logLines()
  const gateway = await createGateway({ ...plainOptions, server: { tls: { certFile: first.certFile, keyFile: first.keyFile } } }, { loggerInstance: log.loggerInstance })
  t.teardown(() => gateway.close())
  await gateway.listen({ host: 'localhost', port: 0 })

  await replacePair(first, second)
  await gateway.certificate!.reload()

  for (const { address, port } of gateway.addresses() as AddressInfo[]) {
    const socket = connectTls({ host: address, port, servername: 'localhost', ca: authority.ca })
    await once(socket, 'secureConnect')
    t.equal(socket.getPeerCertificate().subject.CN, 'second', address)
    socket.destroy()
  }
})

t.test('a file that was wrong when TLS was looked for, and is right a moment later, does not have the gateway listen in clear', options, async t => {
  const { certFile, keyFile } = certificates(t, t.testdir()).issue('late')
  const file = join(t.testdirName, 'fleet.yaml')
  await writeFile(file, `server: {tls: {certFile: "\${CERT}", keyFile: '${keyFile}'}}\n`)
  let asked = 0
  const env = { get CERT () { return asked++ === 0 ? undefined : certFile } }

  await t.rejects(createGateway({ ...plainOptions, file, env }), { message: /fleet\.yaml:1:\d+ server\.tls\.certFile: the environment variable CERT is not set/ })

  t.ok(asked > 1, 'it was right then')
})

t.test('with a server of one\'s own, its certificate is one\'s own business', options, async t => {
  const authority = certificates(t)
  const [own, ours] = [authority.issue('own'), authority.issue('ours')]

  const gateway = await createGateway({ ...plainOptions, server: { tls: { certFile: ours.certFile, keyFile: ours.keyFile } } }, { https: { cert: await readFile(own.certFile), key: own.key } } as object)
  t.teardown(() => gateway.close())
  await gateway.listen({ host: '127.0.0.1', port: 0 })
  const socket = connectTls({ host: '127.0.0.1', port: (gateway.server.address() as AddressInfo).port, servername: 'localhost', ca: authority.ca })
  await once(socket, 'secureConnect')

  t.equal(socket.getPeerCertificate().subject.CN, 'own')
  t.equal(gateway.certificate, undefined)
  socket.destroy()
})
