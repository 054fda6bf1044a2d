/** `fleet-gateway logs` against a real gateway, and the audit log's file while it is rotated: as processes where signals and pipes matter. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { FleetGatewayOptions } from '../../src/gateway.ts'
import { agentAt, startGateway, unprobed } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { runCommand } from '../helpers/run-command.ts'
import { launch, main } from '../helpers/serve-process.ts'

const secret = 'fleet-secret-token'

async function fleet (t: Test, options: FleetGatewayOptions = {}) {
  const agent = await fakeAgent(t, (request, response) => { response.writeHead(Number(/\d{3}/.exec(request.url!)?.[0] ?? 200)).end('done') })
  const gateway = await startGateway(t, { ...unprobed, auth: { secret }, retry: { attempts: 0 }, agents: [{ ...agentAt('planner', agent), aliases: ['plan'] }], ...options })
  const env = { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
  const ask = async (path: string) => (await fetch(gateway.origin + path, { headers: { authorization: `Bearer ${secret}` } })).arrayBuffer()
  return { gateway, env, ask }
}

const command = (args: readonly string[], env: Record<string, string>, isTTY = false) => runCommand(args, { isTTY, env })

t.test('logs: a line for each of the last requests', async t => {
  const { gateway, env, ask } = await fleet(t)
  for (const path of ['/api/plan/a?token=s3cret', '/api/planner/503', '/nowhere']) await ask(path)
  const [instance] = gateway.registry.get('planner').instances

  const { code, stdout, stderr } = await command(['logs'], env)

  t.same([code, stderr], [0, ''])
  t.match(stdout.split('\n'), [
    new RegExp(`^20\\d\\d-.*Z {2}200 {2}GET {3}/api/plan/a {2}-> planner/${instance!.id} {2}[\\d.]+ ms$`),
    /Z {2}503 {2}GET {3}\/api\/planner\/503 {2}-> planner\/\w+ {2}[\d.]+ ms$/,
    /Z {2}404 {2}GET {3}\/nowhere {2}[\d.]+ ms {2}FLEET_NOT_FOUND$/,
    ''
  ])
  t.equal(stdout.split('\n').length, 4)
})

t.test('logs: filters are the gateway\'s, and colour is for terminals', async t => {
  const { env, ask } = await fleet(t)
  for (const path of ['/api/plan/200', '/api/planner/503', '/nowhere', '/api/planner/502']) await ask(path)

  t.match((await command(['logs', '--status', '5xx', '--agent', 'plan', '--limit', '1', '--since', '5m'], env)).stdout, /^\S+ {2}502 [^\n]*\n$/)
  const { stdout: coloured } = await command(['logs', '--status', '404,503'], env, true)
  for (const status of ['\u001b[31m503\u001b[39m', '\u001b[33m404\u001b[39m']) t.match(coloured, status)
  t.match(await command(['logs', '--agent', 'nobody'], env), { code: 0, stdout: '', stderr: /No such request/ })
  const lines = (await command(['logs', '--json', '--status', '5xx'], env)).stdout.trimEnd().split('\n')
  t.match(lines.map(line => JSON.parse(line) as object), [{ status: 503, tries: [{}] }, { status: 502, agent: 'planner' }])
  t.match(await command(['logs', '--json', '--agent', 'nobody'], env), { code: 0, stdout: '', stderr: '' })
})

t.test('logs: what is wrong is told in a line', async t => {
  const { env } = await fleet(t)

  t.match(await command(['logs', '--since', 'yesterday'], env), { code: 2, stdout: '', stderr: /--since .* It must be a time / })
  for (const follow of [[], ['-f']]) {
    t.match(await command(['logs', ...follow, '--status', 'bad'], env), { code: 2, stdout: '', stderr: /--status .* It must be a status / })
    t.match(await command(['logs', ...follow], { ...env, FLEET_SECRET: 'another-secret' }), { code: 1, stderr: /does not take the token/ })
    t.match(await command(['logs', ...follow], { ...env, FLEET_URL: 'http://127.0.0.1:1' }), { code: 1, stderr: /No gateway listens/ })
  }
  t.match(await command(['logs', '--limit', '1001'], env), { code: 2, stderr: /whole number from 1 to 1000/ })
})

t.test('logs -f: the last ten, then each as it comes, until Ctrl-C, which is a good end', async t => {
  const { env, ask } = await fleet(t)
  const cwd = t.testdir()
  for (let count = 1; count <= 12; count++) await ask(`/api/planner/before/${count}`)
  const text = launch(t, ['logs', '--follow', '--agent', 'planner'], { cwd, env })
  const json = launch(t, ['logs', '-f', '--json', '--status', '5xx'], { cwd, env })
  await Promise.all([text.until(/before\/12 /), json.until(/^/)])

  await ask('/api/planner/live')
  await text.until(/live/)
  await ask('/api/planner/503')
  await Promise.all([text.until(/503/), json.until(/503/)])
  for (const { child } of [text, json]) child.kill('SIGINT')

  t.same(await Promise.all([text.exited, json.exited]), [0, 0])
  t.same([...text.printed().matchAll(/\/api\/planner\/(\S+)/g)].map(([, name]) => name), [...Array.from({ length: 10 }, (_, index) => `before/${index + 3}`), 'live', '503'])
  t.match(JSON.parse(json.printed()), { path: '/api/planner/503' })
  t.equal(text.said(), '')
})

t.test('logs -f: a gateway that restarts is waited for; a key that was revoked ends it', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'auth: {keys: [{id: a, token: token-of-a, scopes: [read]}]}\n' })
  const env = { FLEET_SECRET: '' }
  const serve = async (port: number) => {
    const running = launch(t, ['serve', '--port', String(port)], { cwd, env })
    await running.until(/^Fleet Gateway on [^]*try /m)
    return { ...running, port: Number(/^Fleet Gateway on http:\/\/[^:]+:(\d+)/m.exec(running.said())![1]) }
  }
  const first = await serve(0)
  const origin = `http://127.0.0.1:${first.port}`
  const logs = launch(t, ['logs', '-f'], { cwd, env: { FLEET_URL: origin, FLEET_SECRET: 'token-of-a' } })
  await fetch(`${origin}/before`)
  await logs.until(/\/before/)

  first.child.kill('SIGTERM')
  t.equal(await first.exited, 0, 'a stream does not hold it up')
  await logs.until(/has ended the stream; waiting for it/)
  const second = await serve(first.port)
  await fetch(`${origin}/after`)
  await logs.until(/is back/)
  await logs.until(/\/after/)
  t.equal(logs.printed().match(/\/before/g)!.length, 1)
  t.equal(logs.said().match(/waiting for it/g)!.length, 1)

  writeFileSync(join(cwd, 'fleet.yaml'), 'auth: {keys: [{id: b, token: token-of-b, scopes: [read]}]}\n')
  second.child.kill('SIGHUP')
  t.equal(await logs.exited, 1)
  t.match(logs.said(), /does not take the token from FLEET_SECRET/)
})

t.test('logs -f: a reader that has seen enough is a good end', async t => {
  const { env, ask } = await fleet(t)
  t.testdir()
  await ask('/api/planner/first')
  const script = `'${process.execPath}' '${main}' logs -f | head -n 1; echo "ended with $?"`
  const child = spawn('bash', ['-c', `set -o pipefail; ${script}`], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  let printed = ''
  child.stdout.on('data', (chunk: Buffer) => { printed += chunk.toString() })
  const ended = once(child, 'close')
  while (!printed.includes('/first')) await once(child.stdout, 'data')
  const isOver = { now: false }
  void ended.then(() => { isOver.now = true })
  while (!isOver.now) await ask('/api/planner/more') // it learns of it when it writes

  t.match(printed, /\/first[^\n]*\nended with 0\n$/)
  t.equal(said, '')
})

t.test('SIGUSR2 opens the audit log again: under load each request has its line, in the old file or the new one', async t => {
  const agent = await fakeAgent(t)
  const cwd = t.testdir({ 'fleet.yaml': `agents: [{name: a, host: 127.0.0.1, port: ${agent.port}}]\nauditLog: {file: log/audit.log}\nrateLimit: {enabled: false}\n` })
  const gateway = launch(t, ['serve', '--port', '0', '--secret', secret], { cwd })
  await gateway.until(/^Fleet Gateway on [^]*try /m)
  const origin = /^Fleet Gateway on (http:\S+)/m.exec(gateway.said())![1]!
  const file = (name: string) => join(cwd, 'log', name)
  const pathsIn = (name: string) => readFileSync(file(name), 'utf8').trimEnd().split('\n').map(line => (JSON.parse(line) as { path: string }).path)
  const load = { asked: 0, isOver: false }
  const clients = Array.from({ length: 8 }, async () => {
    while (!load.isOver) await (await fetch(`${origin}/api/a/${load.asked++}`, { headers: { authorization: `Bearer ${secret}` } })).arrayBuffer()
  })
  const more = async (count: number) => {
    const { asked } = load
    while (load.asked < asked + count) await new Promise(resolve => setImmediate(resolve))
  }

  for (let rotation = 1; rotation <= 5; rotation++) {
    await more(200)
    renameSync(file('audit.log'), file(`audit.log.${rotation}`))
    gateway.child.kill('SIGUSR2')
    await gateway.until(new RegExp(`(?:The audit log was opened again[^]*){${rotation}}`))
  }
  await more(200)
  load.isOver = true
  await Promise.all(clients)
  gateway.child.kill('SIGTERM')

  t.equal(await gateway.exited, 0)
  const files = ['audit.log.1', 'audit.log.2', 'audit.log.3', 'audit.log.4', 'audit.log.5', 'audit.log'].map(pathsIn)
  t.ok(files.every(paths => paths.length >= 100), files.map(({ length }) => length).join())
  t.same(files.flat().map(path => Number(path.slice(7))).sort((a, b) => a - b), Array.from({ length: load.asked }, (_, number) => number))
})

t.test('SIGUSR2 is no reason to end where there is no file, nor while it starts; a file that can\'t be opened is told', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'auth: {enabled: false}\n', 'with-file.yaml': 'auth: {enabled: false}\nauditLog: {file: log/audit.log}\n' })
  const plain = launch(t, ['serve', '--port', '0'], { cwd })
  const filed = launch(t, ['serve', '--port', '0', '--fleet', 'with-file.yaml'], { cwd, env: { FLEET_STATE_DIR: 'other' } })
  await Promise.all([plain, filed].map(({ until }) => until(/^Fleet Gateway on [^]*try /m)))
  const origin = /^Fleet Gateway on (http:\S+)/m.exec(filed.said())![1]!

  plain.child.kill('SIGUSR2')
  renameSync(join(cwd, 'log'), join(cwd, 'elsewhere'))
  writeFileSync(join(cwd, 'log'), 'a file, where the folder was')
  filed.child.kill('SIGUSR2')
  await filed.until(/The audit log can not be opened again/)
  await (await fetch(`${origin}/still`)).arrayBuffer()
  for (const { child } of [plain, filed]) child.kill('SIGTERM')

  t.same(await Promise.all([plain.exited, filed.exited]), [0, 0])
  t.match(readFileSync(join(cwd, 'elsewhere/audit.log'), 'utf8'), '"path":"/still"')
})
