/** `onboard --scan` and its parts, against real servers of several kinds; only their ports are looked at, so that nobody else is disturbed. */
import { once } from 'node:events'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer as createHttpServer, type IncomingMessage, type RequestListener } from 'node:http'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../../src/cli/program.ts'
import { listenersOnLoopback } from '../../src/cli/scan-listeners.ts'
import { proposeNames } from '../../src/cli/scan-names.ts'
import { scan } from '../../src/cli/scan.ts'
import { startGateway } from '../helpers/build-gateway.ts'
import { deadPort } from '../helpers/fake-agent.ts'
import { fakeIo } from '../helpers/fake-io.ts'

const cardPath = '/.well-known/agent-card.json'

/** Listens on a free port of loopback, until the test is over. */
async function listening (t: Test, server: Server, host = '127.0.0.1'): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', socket => sockets.add(socket.on('close', () => sockets.delete(socket)).on('error', () => {})))
  server.listen(0, host)
  await once(server, 'listening')
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}

/** A server that answers these paths with this JSON, or as the function says, and others with 404. */
async function web (t: Test, answers: Record<string, object | RequestListener>, host?: string) {
  const asked: IncomingMessage[] = []
  const server = createHttpServer((request, response) => {
    asked.push(request)
    const answer = answers[request.url!]
    if (typeof answer === 'function') return answer(request, response)
    response.writeHead(answer === undefined ? 404 : 200, { 'content-type': 'application/json' }).end(JSON.stringify(answer ?? {}))
  })
  return { port: await listening(t, server, host), asked }
}

const hasIpv6 = Object.values(networkInterfaces()).flat().some(entry => entry?.address === '::1')

/** Shorter than what people wait for, much longer than loopback takes. */
const limits = { exchangeMs: 1_000, bytes: 64 * 1024, atOnce: 4 }

const here = (...ports: number[]) => ports.map(port => ({ port, hosts: ['127.0.0.1'] }))

t.test('each server is asked three questions, and says what it is', async t => {
  const all = await web(t, { '/health': { status: 'ok' }, [cardPath]: { name: 'Trail Planner', url: 'http://elsewhere' }, '/openapi.json': { info: { title: 'Something else' } } })
  const described = await web(t, { '/openapi.json': { openapi: '3.1.0', info: { title: 'Größe & Co.' } } })
  const healthy = await web(t, { '/health': {} })
  const plain = await web(t, {})

  const { found, leftOut } = await scan([...here(all.port, described.port), { port: healthy.port, hosts: ['127.0.0.1'], process: 'git-agent' }, { port: plain.port, hosts: ['127.0.0.1'], process: 'node' }])

  t.same(found, [
    { name: 'trail-planner', nameFrom: 'agent card', host: '127.0.0.1', port: all.port, answers: ['/health', cardPath, '/openapi.json'], health: '/health' },
    { name: 'gro-e-co', nameFrom: 'OpenAPI', host: '127.0.0.1', port: described.port, answers: ['/openapi.json'] },
    { name: 'git-agent', nameFrom: 'process', host: '127.0.0.1', port: healthy.port, process: 'git-agent', answers: ['/health'], health: '/health' },
    { name: `agent-${plain.port}`, nameFrom: 'port', host: '127.0.0.1', port: plain.port, process: 'node', answers: [] }
  ])
  t.same(leftOut, [])
  t.same(all.asked.map(({ method, url }) => `${method} ${url}`), ['GET /health', `GET ${cardPath}`, 'GET /openapi.json'])
  for (const { headers } of all.asked) t.same(Object.keys(headers).sort(), ['accept', 'connection', 'host'], 'no token, no cookie')
})

t.test('what answers is not believed beyond its form, and is not followed', async t => {
  const elsewhere = await web(t, { '/health': {}, [cardPath]: { name: 'elsewhere' } })
  const redirect: RequestListener = (request, response) => { response.writeHead(302, { location: `http://127.0.0.1:${elsewhere.port}${request.url}` }).end() }
  const redirecting = await web(t, { '/health': redirect, [cardPath]: redirect, '/openapi.json': redirect })
  const broken: RequestListener = (_request, response) => { response.end('{"name": ') }
  const invalid = await web(t, { '/health': broken, [cardPath]: broken, '/openapi.json': broken })
  const odd = await web(t, { '/health': (_request, response) => { response.writeHead(503).end('{}') }, [cardPath]: { name: { first: 'x' } }, '/openapi.json': { info: { title: ['x'] } } })
  const failing = await web(t, { [cardPath]: (_request, response) => { response.writeHead(500).end('{"name": "error page"}') }, '/openapi.json': [{ info: 7 }] })
  const hostile = await web(t, { [cardPath]: { name: '\u001b[2J../../__proto__\n  evil: true' } })

  const { found } = await scan(here(redirecting.port, invalid.port, odd.port, failing.port, hostile.port))

  t.match(found.map(({ name, answers, health }) => [name, answers, health]), [
    [`agent-${redirecting.port}`, [], undefined], [`agent-${invalid.port}`, ['/health'], '/health'], [`agent-${odd.port}`, [], undefined],
    [`agent-${failing.port}`, [], undefined], ['2j..-..-__proto__-evil-true', [cardPath], undefined]
  ])
  t.same(elsewhere.asked, [])
})

t.test('who is silent, endless or no server of HTTP holds up nobody', async t => {
  const hanging = await listening(t, createServer(() => {}))
  const redis = await listening(t, createServer(socket => socket.end('-ERR unknown command\r\n')))
  const closing = await listening(t, createServer(socket => socket.destroy()))
  const greeting = await listening(t, createServer(socket => { socket.write('SSH-2.0-something\r\n') }))
  const headless = await web(t, { '/health': (_request, response) => { response.write('{') }, [cardPath]: { name: 'slow' } })
  const endless: RequestListener = (_request, response) => {
    const more = () => { while (response.write('x'.repeat(16_384))); }
    response.on('drain', more)
    more()
  }
  const huge = await web(t, { '/health': {}, [cardPath]: { name: 'huge', more: 'x'.repeat(limits.bytes) }, '/openapi.json': endless })
  const heavy = await web(t, { '/health': (_request, response) => { response.writeHead(200, { 'x-heavy': 'x'.repeat(15_000) }).end() } })
  const gone = await deadPort()

  const { found, leftOut } = await scan(here(hanging, redis, closing, greeting, gone, headless.port, huge.port, heavy.port), [], limits)

  t.match(leftOut, [{ port: hanging, why: 'no answer in time' }, { port: redis, why: /^not HTTP/ }, { port: closing, why: /^not HTTP/ }, { port: greeting, why: /^not HTTP/ }])
  t.equal(leftOut.length, 4, 'where nobody listens is not worth a word')
  t.match(found.map(({ name, answers }) => [name, answers]), [['slow', ['/health', cardPath]], [`agent-${huge.port}`, ['/health']], [`agent-${heavy.port}`, ['/health']]])
})

t.test('a gateway is no agent', async t => {
  const gateway = await startGateway(t)

  t.match(await scan(here(gateway.port)), { found: [], leftOut: [{ host: '127.0.0.1', port: gateway.port, why: 'a Fleet Gateway' }] })
})

t.test('who listens on IPv6 alone is found there', { skip: hasIpv6 ? false : 'there is no IPv6 here' }, async t => {
  const { port } = await web(t, { [cardPath]: { name: 'six' } }, '::1')

  const { found } = await scan([{ port, hosts: ['127.0.0.1', '::1'] }])

  t.match(found, [{ name: 'six', host: '::1', port }])
})

t.test('more servers than are asked at once are all asked, a few at a time', async t => {
  let [now, most] = [0, 0]
  const busy: RequestListener = (_request, response) => {
    most = Math.max(most, ++now)
    setImmediate(() => { now--; response.end() })
  }
  const servers = await Promise.all(Array.from({ length: 10 }, () => web(t, { '/health': busy })))

  const { found } = await scan(here(...servers.map(({ port }) => port)), [], { ...limits, atOnce: 3 })

  t.same(found.map(({ port }) => port), servers.map(({ port }) => port), 'in the order in which they were given')
  t.ok(most <= 3, `${most} at once`)
})

t.test('names are valid, and nobody gets the same', t => {
  const table: [servers: Parameters<typeof proposeNames>[0], taken: string[], names: string[]][] = [
    [[{ port: 1, card: 'A' }, { port: 2, card: 'a' }, { port: 3, title: 'b' }], [], ['a-1', 'a-2', 'b']],
    [[{ port: 1, card: 'a' }], ['a'], ['a-1']],
    [[{ port: 1, card: 'a' }], ['a', 'a-1'], ['a-1-2']],
    [[{ port: 1, card: 'a' }, { port: 2, card: 'a' }, { port: 3, card: 'a-1' }], [], ['a-1-2', 'a-2', 'a-1']],
    [[{ port: 1, card: '  !!! ', title: '---', process: 'node' }], [], ['agent-1']],
    [[{ port: 1, card: '日本', title: 'Café Crème' }], [], ['cafe-creme']],
    [[{ port: 1, card: `${'x'.repeat(63)}-y` }], [], ['x'.repeat(63)]],
    [[{ port: 10_001, card: 'x'.repeat(80) }, { port: 10_002, card: 'x'.repeat(70) }], [], [`${'x'.repeat(58)}-10001`, `${'x'.repeat(58)}-10002`]],
    [[{ port: 1, process: 'python3.11' }, { port: 2, process: 'MainThread' }, { port: 3, process: 'ollama' }, { port: 4, process: 'docker-proxy' }], [], ['agent-1', 'agent-2', 'ollama', 'agent-4']],
    [[{ port: 1, card: '__proto__' }, { port: 2, card: 'constructor' }], [], ['proto', 'constructor']]
  ]
  for (const [servers, taken, names] of table) t.same(proposeNames(servers, taken).map(({ name }) => name), names)
  t.end()
})

t.test('on Linux the system says who listens, at which address and in which process', { skip: process.platform === 'linux' ? false : 'there are no such tables here' }, async t => {
  const v4 = await listening(t, createServer())
  const everywhere = await listening(t, createServer(), '0.0.0.0')
  const other = await listening(t, createServer(), '127.0.0.2')
  const only = (...ports: number[]) => ports.map(port => ({ from: port, to: port }))

  const found = await listenersOnLoopback(only(v4, everywhere, other))

  const byPort = new Map(found.map(listener => [listener.port, listener]))
  t.match(byPort.get(v4), { hosts: ['127.0.0.1'], process: /./ })
  t.match(byPort.get(everywhere), { hosts: ['127.0.0.1'] })
  t.match(byPort.get(other), { hosts: ['127.0.0.2'] })
  if (hasIpv6) {
    const v6 = await listening(t, createServer(), '::1')
    t.match(await listenersOnLoopback(only(v6)), [{ port: v6, hosts: ['::1'] }])
  }
  t.ok((await listenersOnLoopback()).some(({ port }) => port === v4), 'without ports all are there')
})

t.test('the tables are read as the kernel writes them', async t => {
  const proc = t.testdir({ net: {}, 41: { fd: {}, comm: 'my agent\n' }, 42: { comm: 'nobody looks\n' }, self: {} })
  const head = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n'
  const line = (local: string, state: string, inode: number) => `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000  1000        0 ${inode} 1 0000000000000000 100 0 0 10 0\n`
  await writeFile(join(proc, 'net/tcp'), head + [
    line('0100007F:1F40', '0A', 7), line('00000000:1F41', '0A', 8), line('0200007F:1F40', '0A', 9), line('0101A8C0:1F42', '0A', 10), // 192.168.1.1
    line('0100007F:1F43', '01', 11), line('0100007F:1538', '0A', 12), 'nonsense\n' // connected; Postgres
  ].join(''))
  await writeFile(join(proc, 'net/tcp6'), head + [
    line('00000000000000000000000001000000:1F44', '0A', 13), line('00000000000000000000000000000000:1F45', '0A', 14), line('0000000000000000FFFF00000100007F:1F46', '0A', 15),
    line('000080FE000000000000000001000000:1F47', '0A', 16), line('00000000000000000000000001000000:1F40', '0A', 17)
  ].join(''))
  for (const inode of [7, 14]) await symlink(`socket:[${inode}]`, join(proc, '41/fd', String(inode)))
  await symlink('/dev/null', join(proc, '41/fd/0'))

  t.same(await listenersOnLoopback(undefined, proc), [
    { port: 8000, hosts: ['127.0.0.1', '127.0.0.2', '::1'], process: 'my agent' }, { port: 8001, hosts: ['127.0.0.1'] }, { port: 8004, hosts: ['::1'] },
    { port: 8005, hosts: ['127.0.0.1', '::1'], process: 'my agent' }, { port: 8006, hosts: ['127.0.0.1'] }
  ])
  t.same(await listenersOnLoopback([{ from: 5_432, to: 8_000 }], proc), [{ port: 5_432, hosts: ['127.0.0.1'] }, { port: 8000, hosts: ['127.0.0.1', '127.0.0.2', '::1'], process: 'my agent' }], 'a database, when somebody names it')
})

t.test('where the system has no tables, usual ports are tried, or those that are named', async t => {
  const proc = t.testdir({})
  await mkdir(join(proc, 'net'))

  const usual = (await listenersOnLoopback(undefined, proc)).map(({ port }) => port)

  for (const port of [3000, 5000, 8000, 8080, 8501, 9001]) t.ok(usual.includes(port), String(port))
  t.notOk(usual.includes(9092), 'Kafka\'s')
  t.equal(new Set(usual).size, usual.length)
  t.ok(usual.length < 300)
  t.same(await listenersOnLoopback([{ from: 7, to: 8 }, { from: 8, to: 9 }], proc), [7, 8, 9].map(port => ({ port, hosts: ['127.0.0.1', '::1'] })))
})

/** Runs the command, with nobody at a terminal unless keys are typed. */
async function onboard (args: readonly string[], answers?: readonly [question: RegExp, keys: string][]) {
  const terminal = fakeIo({ isTTY: answers !== undefined, env: { TERM: 'xterm', NO_COLOR: '1' } })
  for (const [question, keys] of answers ?? []) terminal.onLine(question, () => terminal.stdin.write(keys))
  const code = await run(['onboard', ...args], terminal.io)
  return { code, stdout: terminal.stdout(), stderr: terminal.stderr() }
}

/** Two agents and a stranger, and the ports that a scan of them looks at. */
async function machine (t: Test) {
  const planner = await web(t, { '/health': {}, [cardPath]: { name: 'planner' } })
  const coder = await web(t, { '/openapi.json': { info: { title: 'Coder' } } })
  const database = await listening(t, createServer(socket => socket.end('no\r\n')))
  return { planner: planner.port, coder: coder.port, database, ports: [planner.port, coder.port, database].join(',') }
}

t.test('onboard --scan without a terminal prints a table and the file, and writes nothing until --yes', async t => {
  const { planner, coder, database, ports } = await machine(t)
  const file = join(t.testdir({ 'fleet.yaml': 'agents: []\n' }), 'fleet.yaml')

  const shown = await onboard(['--scan', ports, '--fleet', file])

  t.equal(shown.code, 0, shown.stderr)
  t.match(shown.stderr, new RegExp(`NAME +FROM +ADDRESS +PROCESS +ANSWERS\n(.*\n)*planner +agent card +127\\.0\\.0\\.1:${planner} +\\S.* /health ${cardPath}\n`))
  t.match(shown.stderr, new RegExp(`coder +OpenAPI +127\\.0\\.0\\.1:${coder} `))
  t.match(shown.stderr, new RegExp(`left out: 127\\.0\\.0\\.1:${database}.*: not HTTP`))
  t.match(shown.stderr, /Nothing is written: --yes writes this to .*fleet\.yaml\n$/)
  t.equal(await readFile(file, 'utf8'), 'agents: []\n')

  const written = await onboard(['--scan', ports, '--fleet', file, '--yes'])
  t.equal(written.code, 0, written.stderr)
  t.equal(await readFile(file, 'utf8'), shown.stdout, 'the same')
  t.match(shown.stdout, `  - name: planner\n    host: 127.0.0.1\n    port: ${planner}\n    health:\n      path: /health\n`)
  const check = fakeIo()
  t.equal(await run(['check', file], check.io), 0)
  t.match(check.stdout(), /2 agents, 2 instances/)
})

t.test('onboard --scan at a terminal asks which of them, and a no is a no', async t => {
  const { planner, coder, ports } = await machine(t)
  const file = join(t.testdir({}), 'fleet.yaml')
  const [first] = [planner, coder].sort((a, b) => a - b)

  t.match(await onboard(['--scan', ports, '--fleet', file], [[/Which of these/, '\u0003']]), { code: 1, stderr: /Nothing was written/ })
  await t.rejects(readFile(file), { code: 'ENOENT' })
  t.match(await onboard(['--scan', ports, '--fleet', file], [[/Which of these/, ' \r']]), { code: 0, stderr: /is written, with 1 agent/ })

  t.match(await readFile(file, 'utf8'), first === planner ? 'name: coder' : 'name: planner')
  t.notMatch(await readFile(file, 'utf8'), `port: ${first}\n`)
})

t.test('what is named is not asked, and its name is not given again', async t => {
  const { planner, ports } = await machine(t)
  const file = join(t.testdir({}), 'fleet.yaml')

  const { code, stdout } = await onboard(['--scan', ports, '--agent', `mine=${planner}`, '--agent', 'coder=10.0.0.7:80', '--fleet', file])

  t.equal(code, 0)
  t.match(stdout, `  - name: mine\n    host: localhost\n    port: ${planner}\n`)
  t.match(stdout, /name: coder-\d+\n/)
  t.notMatch(stdout, 'name: planner\n')
})

t.test('onboard --scan --json is for programs', async t => {
  const { planner, coder, database, ports } = await machine(t)
  const file = join(t.testdir({}), 'fleet.yaml')

  const { code, stdout } = await onboard(['--scan', ports, '--json', '--fleet', file])

  t.equal(code, 0)
  const printed = JSON.parse(stdout) as { found: { port: number }[], leftOut: { port: number }[], file: string | null }
  t.same(printed.found.map(({ port }) => port), [planner, coder].sort((a, b) => a - b))
  t.same(printed.leftOut.map(({ port }) => port), [database])
  t.equal(printed.file, null)
  await t.rejects(readFile(file), { code: 'ENOENT' })
  t.match(JSON.parse((await onboard(['--scan', ports, '--json', '--yes', '--fleet', file])).stdout), { file })
  t.match(await readFile(file, 'utf8'), /name: planner/)
})

t.test('a scan that finds nothing never empties a file', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'agents: [{name: a, port: 1}]\n' }), 'fleet.yaml')
  const nobody = String(await deadPort())

  t.match(await onboard(['--scan', nobody, '--yes', '--fleet', file]), { code: 1, stderr: /No HTTP server found[^]*Nothing is written/ })
  t.match(await onboard(['--scan', nobody, '--fleet', file]), { code: 0, stderr: /No HTTP server found/ })
  t.equal(await readFile(file, 'utf8'), 'agents: [{name: a, port: 1}]\n')
})

t.test('wrong usage of --scan is said', async t => {
  for (const [args, message] of [
    [['--scan', 'x'], /must be ports and ranges/], [['--scan', '1,,2'], /must be ports and ranges/], [['--scan', '0'], /whole number from 1 to 65535/],
    [['--scan', '70000'], /whole number from 1 to 65535/], [['--scan', '9-8'], /9-8 is no range/], [['--json'], /needs --scan/]
  ] as const) t.match(await onboard(args), { code: 2, stderr: message }, args.join(' '))
})
