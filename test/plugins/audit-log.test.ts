import { spawn, spawnSync } from 'node:child_process'
import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import auditLog, { type AuditLogPluginOptions } from '../../plugins/audit-log/index.ts'
import { openDestination } from '../../plugins/audit-log/destination.ts'
import { createLineWriter } from '../../plugins/audit-log/line.ts'
import facts, { RequestFacts } from '../../plugins/facts/index.ts'
import { OptionsError } from '../../src/options.ts'
import { newRuntime, type Instance } from '../../src/fleet/instance.ts'
import type { Attempt } from '../../src/fleet/attempt.ts'
import { fakeClock } from '../helpers/fake-clock.ts'

/** Facts of a finished exchange. */
function factsOf (fields: Partial<RequestFacts> = {}): RequestFacts {
  const exchange = new RequestFacts('req-1', 'GET', '/api/planner/tasks', '192.0.2.1', false)
  return Object.assign(exchange, { startedAt: Date.UTC(2025, 0, 2, 3, 4, 5, 6), status: 200, durationMs: 12.345_678, ending: 'complete' }, fields)
}

function attemptAt (id: string): Attempt {
  const instance: Instance = { id, agent: 'planner', protocol: 'http', host: 'localhost', port: 8_501, origin: 'http://localhost:8501', weight: 1, source: 'file', trusted: true, lease: null, runtime: newRuntime() }
  return { instance, instanceId: id, startedMark: 0, outcome: 'answered', status: 200, durationMs: 1 }
}

/** The line of an exchange, as text and as what a reader of the log gets. */
function lineOf (fields: Partial<RequestFacts> = {}) {
  const text = createLineWriter()(factsOf(fields))
  return { text, record: JSON.parse(text) as Record<string, unknown> }
}

/** A bare application that logs what is asked of it to `writes`, one entry per write. */
async function scene (t: Test, options: AuditLogPluginOptions = {}) {
  const clock = fakeClock()
  const writes: string[] = []
  const calls: string[] = []
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(facts)
  await app.register(auditLog, {
    clock,
    destination: {
      write: text => { writes.push(text) },
      flushSync: () => { calls.push('flushSync') },
      end: () => { calls.push('end') }
    },
    ...options
  })
  app.get('/hello', async () => 'hello')
  return { app, clock, writes, calls, lines: () => writes.join('').split('\n').slice(0, -1).map(line => JSON.parse(line) as Record<string, unknown>) }
}

async function ask (app: FastifyInstance, times: number, url = '/hello'): Promise<void> {
  for (let count = 0; count < times; count++) await app.inject(url)
}

t.test('a line says who, what, which instance and how it came out', async t => {
  const { text } = lineOf({
    keyId: 'ci',
    agent: 'planner',
    attempts: [attemptAt('aaa'), attemptAt('bbb')],
    bytesReceived: 17,
    bytesSent: 1_024
  })

  t.equal(text, '{"level":30,"time":"2025-01-02T03:04:05.006Z","request_id":"req-1","client":"192.0.2.1","key":"ci","method":"GET",' +
    '"path":"/api/planner/tasks","agent":"planner","instance":"bbb","attempts":2,"status":200,"latency_ms":12.346,"bytes_in":17,"bytes_out":1024}\n')
})

t.test('what is not known is null; what went wrong is named', async t => {
  t.match(lineOf().record, { key: null, agent: null, instance: null, attempts: 0 })
  t.equal(Object.hasOwn(lineOf().record, 'ending'), false)
  t.equal(Object.hasOwn(lineOf().record, 'code'), false)

  t.match(lineOf({ ending: 'client-aborted', status: 499 }).record, { ending: 'client-aborted', status: 499 })
  t.match(lineOf({ ending: 'upstream-aborted' }).record, { ending: 'upstream-aborted' })
  t.match(lineOf({ status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' }).record, { status: 503, code: 'FLEET_NO_INSTANCE_AVAILABLE' })
})

t.test('the path is logged without what may hold secrets', async t => {
  const cases: [target: string, path: string][] = [
    ['/api/planner?token=s3cret', '/api/planner'],
    ['/api/planner?a=1?b=2', '/api/planner'],
    ['/?s3cret', '/'],
    ['/api/a;b=c/%2F+//', '/api/a;b=c/%2F+//'],
    ['http://user:s3cret@gateway/api/planner?x', '/api/planner'],
    ['HTTPS://user:s3cret@gateway', ''],
    ['*', '*']
  ]
  for (const [url, path] of cases) {
    const { text, record } = lineOf({ url })
    t.equal(record['path'], path, url)
    t.notMatch(text, 's3cret', url)
  }
})

t.test('whatever came from outside stays one line of valid JSON', async t => {
  const hostile = ['"', '\\', '\n', '\r\n{"level":30}', '\u0000', '\u001b[31m', '\u007f', '\u009b31m', '\u2028', '\u2029', '\ud800', 'é', '漢字', '😀', '","status":200,"x":"', '</script>']
  for (const text of hostile) {
    const line = createLineWriter()(factsOf({ id: text, method: text, url: `/${text}`, clientAddress: text, keyId: text, agent: text, code: text, attempts: [attemptAt(text)] }))
    const name = Buffer.from(text).toString('hex') // a raw line separator would break tap's own output
    const record = JSON.parse(line) as Record<string, unknown>
    t.same(['request_id', 'method', 'client', 'key', 'agent', 'instance', 'code'].map(field => record[field]), new Array(7).fill(text), name)
    t.same([record['path'], record['status']], [`/${text}`, 200], name)
    t.equal(line.indexOf('\n'), line.length - 1)
    // eslint-disable-next-line no-control-regex
    t.notMatch(line.slice(0, -1), /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/)
  }
})

t.test('each line has the time of its own request, across a second as within one', async t => {
  const write = createLineWriter()
  const times = [0, 1, 999, 1_000, 61_005, 59_999].map(ms => JSON.parse(write(factsOf({ startedAt: Date.UTC(2025, 0, 1) + ms }))).time as string)
  t.same(times.map(time => time.slice(14)), ['00:00.000Z', '00:00.001Z', '00:00.999Z', '00:01.000Z', '01:01.005Z', '00:59.999Z'])
})

t.test('durations have three decimals at most', async t => {
  for (const [durationMs, shown] of [[0.001, 0.001], [0.1 + 0.2, 0.3], [1 / 3, 0.333], [86_400_000.4567, 86_400_000.457]] as const) {
    t.equal(lineOf({ durationMs }).record['latency_ms'], shown)
  }
})

t.test('lines are written together: after 100 ms', async t => {
  const { app, clock, writes, lines } = await scene(t)
  await ask(app, 3)
  clock.advance(99)
  t.equal(writes.length, 0)

  clock.advance(1)

  t.equal(writes.length, 1)
  t.same(lines().map(({ path, status }) => [path, status]), [['/hello', 200], ['/hello', 200], ['/hello', 200]])
  clock.advance(10_000)
  t.equal(writes.length, 1, 'and nothing when there is nothing')
})

t.test('lines are written together: 64 of them, whatever the time', async t => {
  const { app, clock, writes, lines } = await scene(t)
  await ask(app, 63)
  t.equal(writes.length, 0)
  await ask(app, 1)
  t.equal(writes.length, 1)
  t.equal(lines().length, 64)

  await ask(app, 1)
  clock.advance(99)
  t.equal(writes.length, 1, 'the next batch has its own 100 ms')
  clock.advance(1)
  t.equal(writes.length, 2)
})

t.test('every answer leaves a line: those of the gateway, and those without a route', async t => {
  const { app, lines } = await scene(t)
  await ask(app, 1, '/nowhere?x=1')
  app.auditLog.flush()
  t.match(lines(), [{ method: 'GET', path: '/nowhere', status: 404, agent: null, attempts: 0 }])
})

t.test('flush() and close() write what waits', async t => {
  const { app, writes, calls } = await scene(t)
  await ask(app, 1)
  app.auditLog.flush()
  t.equal(writes.length, 1)
  t.same(calls, ['flushSync'])
  await ask(app, 1)

  await app.close()

  t.equal(writes.length, 2)
  t.same(calls, ['flushSync', 'flushSync', 'end'])
})

t.test('a destination needs to write, and no more', async t => {
  const written: string[] = []
  const { app } = await scene(t, { destination: { write: text => { written.push(text) } } })
  await ask(app, 1)
  await app.close()
  t.equal(written.length, 1)
})

t.test('a destination that throws loses its lines, is told of once, and harms nobody', async t => {
  const logged: unknown[] = []
  const app = Fastify({ logger: { level: 'error', stream: { write: line => { logged.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  const fail = () => { throw new Error('no room') }
  await app.register(facts)
  await app.register(auditLog, { clock: fakeClock(), destination: { write: fail, flushSync: fail } })
  app.get('/hello', async () => 'hello')

  await ask(app, 130)
  app.auditLog.flush()
  t.equal((await app.inject('/hello')).statusCode, 200)
  await app.close()

  t.match(logged, [{ msg: /audit log/, err: { message: 'no room' } }])
  t.equal(logged.length, 1)
})

t.test('a request that is under way when the gateway closes is in the log, whether it is finished or cut off', async t => {
  for (const [end, status] of [['finished', 200], ['cut off', 499]] as const) {
    const { app, lines } = await scene(t)
    let begun = () => {}
    let finish = () => {}
    const arrived = new Promise<void>(resolve => { begun = resolve })
    app.get('/slow', async (_request, reply) => {
      begun()
      await new Promise<void>(resolve => { finish = resolve })
      void reply.header('connection', 'close')
      return 'done'
    })
    app.addHook('preClose', async () => { if (end === 'cut off') setImmediate(() => app.server.closeAllConnections()) })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1').resume()
    socket.on('error', () => {})
    socket.write('GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await arrived

    const closed = app.close()
    if (end === 'finished') finish()
    await closed

    t.match(lines(), [{ path: '/slow', status }], end)
  }
})

t.test('switched off, nothing is written and nothing is opened', async t => {
  const file = join(t.testdir(), 'audit.log')
  const { app, writes } = await scene(t, { enabled: false, file })
  await ask(app, 100)
  app.auditLog.flush()
  await app.close()
  t.same(writes, [])
  t.equal(existsSync(file), false)
})

/** An application that logs to a real file. */
async function logTo (t: Test, file: string) {
  const logged: { msg: string, err?: { code?: string } }[] = []
  const app = Fastify({ logger: { level: 'error', stream: { write: line => { logged.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  await app.register(facts)
  await app.register(auditLog, { file })
  app.get('/hello', async () => 'hello')
  return { app, logged }
}

t.test('a file is appended to, in UTF-8; its folder is made', async t => {
  const file = join(t.testdir(), 'deep', 'er', 'audit.log')
  for (let run = 0; run < 2; run++) {
    const { app } = await logTo(t, file)
    app.addHook('onRequest', async request => { request.facts.agent = 'プランナー' })
    await ask(app, 70)
    await app.close()
  }

  const lines = readFileSync(file, 'utf8').split('\n')
  t.equal(lines.pop(), '')
  t.equal(lines.length, 140)
  for (const line of lines) t.match(JSON.parse(line), { agent: 'プランナー', path: '/hello' })
  t.equal(statSync(file).mode & 0o007, 0, 'nobody else may read it')
})

t.test('a file is changed while it runs: what was asked before is in the former one', async t => {
  const folder = t.testdir()
  const file = (name: string) => join(folder, name)
  const { app, logged } = await logTo(t, file('one.log'))
  const lines = (name: string) => existsSync(file(name)) ? readFileSync(file(name), 'utf8').split('\n').length - 1 : 0
  await ask(app, 70)

  app.auditLog.reconfigure({ file: file('two.log') })
  await ask(app, 2)
  t.throws(() => app.auditLog.reconfigure({ file: folder }), { name: 'OptionsError', problems: [{ path: 'auditLog.file' }] })
  await ask(app, 1)
  app.auditLog.prepare({ file: file('unused.log') })
  app.auditLog.reconfigure({ enabled: false })
  await ask(app, 5)
  app.auditLog.reconfigure({ file: file('two.log') })
  await ask(app, 1)
  await app.close()

  t.same([lines('one.log'), lines('two.log'), lines('unused.log')], [70, 4, 0])
  t.same(logged, [])
})

t.test('a destination that was given stays, and is ended once, also when it is switched off before', async t => {
  const { app, writes, calls } = await scene(t)
  await ask(app, 1)
  app.auditLog.reconfigure({ enabled: false, file: join(t.testdir(), 'audit.log') })
  await ask(app, 1)
  t.equal(writes.length, 1)
  t.same(calls, [])

  await app.close()

  t.same(calls, ['end'])
})

t.test('flush() has written to the file when it returns', async t => {
  const file = join(t.testdir(), 'audit.log')
  const { app } = await logTo(t, file)
  await ask(app, 1)
  app.auditLog.flush()
  t.match(readFileSync(file, 'utf8'), /"path":"\/hello".*\n$/)
})

t.test('a file that can not be written stops the start, and is named', async t => {
  const folder = t.testdir({ taken: '' })
  for (const file of [folder, join(folder, 'taken', 'audit.log')]) {
    const app = Fastify()
    await app.register(facts)
    const error = await app.register(auditLog, { file }).then(() => null, (error: unknown) => error)
    t.type(error, OptionsError)
    t.match((error as Error).message, /^auditLog\.file can't be written: E/)
    t.match((error as Error).message, folder)
  }
})

t.test('a full disk is told once, and harms nobody', { skip: existsSync('/dev/full') ? false : 'no /dev/full' }, async t => {
  const { app, logged } = await logTo(t, '/dev/full')
  for (let round = 0; round < 3; round++) {
    await ask(app, 64)
    await new Promise(resolve => setImmediate(resolve))
  }
  await ask(app, 1)
  app.auditLog.flush()
  t.equal((await app.inject('/hello')).statusCode, 200)
  await app.close()

  t.equal(logged.length, 1)
  t.match(logged[0], { msg: /audit log/, err: { code: 'ENOSPC' } })
})

t.test('a destination: what is written faster than it goes out is bounded, and in order', async t => {
  const file = join(t.testdir(), 'audit.log')
  const errors: Error[] = []
  const destination = openDestination(file, error => { errors.push(error) })
  const mebibyte = (digit: number) => String(digit % 10).repeat(1024 * 1024 - 1) + '\n'

  for (let count = 0; count < 20; count++) destination.write(mebibyte(count))
  await destination.end!()

  t.equal(errors.length, 4)
  t.match(errors[0], { message: /too slowly/ })
  t.equal(readFileSync(file, 'utf8').split('\n').map(line => line[0] ?? '').join(''), '0123456789012345')
})

t.test('a destination that was ended writes nothing more, whoever has the number of its file by then', async t => {
  const folder = t.testdir()
  const errors: unknown[] = []
  const destination = openDestination(join(folder, 'audit.log'), error => { errors.push(error) })
  destination.write('one\n')
  await destination.end!()
  const others = Array.from({ length: 20 }, (_, index) => openSync(join(folder, `other-${index}`), 'w')) // the lowest number that is free first

  destination.write('two\n')
  await destination.end!()

  for (const fd of others) {
    t.equal(fstatSync(fd).size, 0)
    closeSync(fd)
  }
  t.match(errors, [{ message: /closed/ }])
  t.equal(readFileSync(join(folder, 'audit.log'), 'utf8'), 'one\n')
  t.equal(destination.isElsewhere, true)
})

t.test('lines of several processes in one pipe stay whole', { skip: spawnSync('mkfifo', ['--version']).status === 0 ? false : 'no mkfifo' }, async t => {
  const pipe = join(t.testdir({}), 'pipe')
  t.equal(spawnSync('mkfifo', [pipe]).status, 0)
  const held = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK) // it can be opened from both sides now
  const text = textOf(spawn('cat', [pipe], { stdio: ['ignore', 'pipe', 'inherit'] }).stdout)
  const fail = (error: Error) => t.fail(error.message)
  const destinations = ['a', 'b', 'c'].map(letter => {
    const destination = openDestination(pipe, fail)
    for (let line = 0; line < 2_000; line++) destination.write(`${letter.repeat(100 + line % 57)}\n`)
    return destination
  })

  await Promise.all(destinations.map(async destination => await destination.end!()))
  closeSync(held)

  const lines = (await text).trimEnd().split('\n')
  t.equal(lines.length, 6_000)
  t.same(lines.filter(line => !/^(a+|b+|c+)$/.test(line)), [])
})

t.test('a pipe that nobody reads is told of, and one whose reader stands still keeps nobody from ending', { skip: spawnSync('mkfifo', ['--version']).status === 0 ? false : 'no mkfifo' }, async t => {
  const pipe = join(t.testdir(), 'pipe')
  spawnSync('mkfifo', [pipe])
  const errors: unknown[] = []
  t.throws(() => openDestination(pipe, error => { errors.push(error) }), { code: 'ENXIO' })
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK) // and reads nothing
  t.teardown(() => closeSync(reader))
  const destination = openDestination(pipe, error => { errors.push(error) })

  destination.write('x'.repeat(1024 * 1024))
  await destination.end!()

  t.match(errors, [{ code: 'EAGAIN' }])
})

/** Runs a small program that logs one request to standard output. @param last what it does in the end */
function runAlone (t: Test, last: string) {
  const program = join(t.testdir(), 'program.ts')
  const here = (path: string) => JSON.stringify(new URL(path, import.meta.url).href)
  writeFileSync(program, `
    import Fastify from ${JSON.stringify(import.meta.resolve('fastify'))}
    import auditLog from ${here('../../plugins/audit-log/index.ts')}
    import facts from ${here('../../plugins/facts/index.ts')}
    const app = Fastify()
    await app.register(facts)
    await app.register(auditLog)
    app.get('/hello', async () => 'hello')
    await app.inject('/hello')
    await new Promise(resolve => setImmediate(resolve))
    ${last}
  `)
  return spawnSync(process.execPath, [...process.execArgv, program], { encoding: 'utf8', timeout: 20_000 })
}

t.test('without a file the lines go to standard output; an exit without close() needs flush()', async t => {
  for (const last of ['app.auditLog.flush(); process.exit(3)', 'await app.close(); process.exitCode = 3']) {
    const { status, stdout, stderr } = runAlone(t, last)
    t.equal(status, 3, stderr)
    t.match(JSON.parse(stdout), { method: 'GET', path: '/hello', status: 200 }, last)
  }
})

t.test('options are checked', async t => {
  const app = Fastify()
  await app.register(facts)
  await t.rejects(async () => app.register(auditLog, { flie: 'x' } as never), { message: 'auditLog.flie unknown key, did you mean "file"?' })
})

t.test('it needs the facts of requests', async t => {
  await t.rejects(async () => Fastify().register(auditLog), { message: /facts/ })
})
