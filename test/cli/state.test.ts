/** The state folder of `serve` as a process: two gateways on one, disks that are full, folders that belong to somebody else. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chown, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { request, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createGateway } from '../../src/gateway.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

interface Place {
  cwd: string
  /** What runs Node. */
  through?: readonly string[]
  uid?: number | undefined
}

/** Starts `serve`, which asks for no token, on a free port. */
function launch (t: Test, { cwd, through = [], uid }: Place) {
  // What tap measures in processes is written by them, too, and must not count here.
  const [env, words] = unmeasured(process.execPath, main, 'serve', '--port', '0', '--no-auth', '--no-rate-limit')
  const [program = '', ...args] = [...through, env, ...words]
  const child = spawn(program, args, { cwd, stdio: ['ignore', 'ignore', 'pipe'], ...(uid !== undefined && { uid, gid: uid }) })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  const waiting = new Set<() => void>()
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString()
    for (const look of waiting) look()
  })
  const exited = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string)
  /** Resolves when something that matches was said. */
  async function until (pattern: RegExp): Promise<string> {
    const found = new Promise<string>(resolve => {
      const look = () => { if (pattern.test(said)) resolve(said) }
      waiting.add(look)
      look()
    })
    return await Promise.race([found, exited.then(code => { throw new Error(`ended with ${code}: ${said}`) })])
  }
  return { child, exited, said: () => said, until }
}

/** On a connection of its own: one that is kept may end just as it is used again. */
async function ask (port: number, method: string, path: string, given?: object): Promise<{ status: number, body: object }> {
  const outgoing = request({ host: '127.0.0.1', port, method, path, agent: false, headers: { connection: 'close', 'content-type': 'application/json' } })
  outgoing.end(given === undefined ? '' : JSON.stringify(given))
  const [response] = await once(outgoing, 'response') as [IncomingMessage]
  return { status: response.statusCode!, body: await json(response) as object }
}

async function serve (t: Test, place: Place) {
  const running = launch(t, place)
  const [, port] = /^Fleet Gateway on http:\/\/[^:]+:(\d+)\n/m.exec(await running.until(/^Fleet Gateway on .*\n/m))!
  return {
    ...running,
    register: (body: object) => ask(Number(port), 'POST', '/registry/register', body),
    remove: (name: string) => ask(Number(port), 'DELETE', `/registry/${name}`),
    names: async () => Object.keys((await ask(Number(port), 'GET', '/registry')).body).sort(),
    async kill () {
      running.child.kill('SIGKILL')
      await running.exited
    }
  }
}

type Serving = Awaited<ReturnType<typeof serve>>

const at = (name: string, kilobytes = 0) => ({ name, host: '127.0.0.1', port: 9000, ...(kilobytes > 0 && { metadata: { about: 'x'.repeat(kilobytes * 1024) } }) })

async function kept (cwd: string): Promise<string[]> {
  const { agents } = JSON.parse(await readFile(join(cwd, '.fleet/registry.json'), 'utf8')) as { agents: { name: string }[] }
  return agents.map(({ name }) => name).sort()
}

t.test('a second gateway on the same folder says who is there and ends, whatever else it would write; after a kill it starts', async t => {
  const cwd = t.testdir({})
  const first = await serve(t, { cwd })
  t.equal((await first.register(at('planner'))).status, 201)

  const second = launch(t, { cwd })
  t.equal(await second.exited, 1)
  t.match(second.said(), new RegExp(`^The state folder \\.fleet is in use by another gateway \\(${process.platform === 'linux' ? `process ${first.child.pid} ` : ''}on .* since .*\\): end that one, or give this one a folder of its own with registry\\.stateDir\n$`))
  t.same((await readdir(join(cwd, '.fleet'))).filter(name => !name.startsWith('lock-')), ['registry.json'])
  t.equal((await first.register(at('coder'))).status, 201, 'the first one is not disturbed')

  await first.kill()
  const third = await serve(t, { cwd })
  t.same(await third.names(), ['coder', 'planner'])
})

t.test('in an application the second one is refused with the same words, and what failed to start holds nothing', async t => {
  const stateDir = join(t.testdir({ 'bad.yaml': 'agents: [{name: a, port: 1, alias: x}]\n' }), 'state')
  const options = { auth: { enabled: false }, auditLog: { enabled: false }, registry: { stateDir } }
  const first = await createGateway(options)
  t.teardown(() => first.close())

  await t.rejects(createGateway(options), { code: 'FLEET_STATE_IN_USE', message: /in use by another gateway/ })
  await first.close()
  await t.rejects(createGateway({ ...options, auth: { keys: [{ id: 'a', tokenFile: join(stateDir, 'nowhere'), scopes: ['read'] }] } }))

  const second = await createGateway(options)
  await second.close()
  t.same(await readdir(stateDir), [])
})

/** Registers until something is refused, which changes nothing; what was taken by then is there after a kill and a start elsewhere. */
async function fillUp (t: Test, gateway: Serving): Promise<string[]> {
  const taken: string[] = []
  for (;;) {
    const name = `agent-${taken.length}`
    const answer = await gateway.register(at(name, 3))
    if (answer.status !== 201) {
      t.match([answer.status, answer.body], [503, { code: 'FLEET_NOT_KEPT' }])
      break
    }
    taken.push(name)
    if (taken.length > 100) throw new Error('the disk is never full')
  }
  t.ok(taken.length > 0)
  t.same(await gateway.names(), taken.sort(), 'what was refused is not there')
  return taken
}

t.test('where a file can grow no further, registrations are refused, and what was acknowledged stays', { skip: process.platform === 'win32' ? 'there is no such limit' : false }, async t => {
  const cwd = t.testdir({})
  // The system takes the first part of a write and refuses the rest, as a full disk does.
  const small = await serve(t, { cwd, through: ['sh', '-c', 'ulimit -S -f 24 && exec "$0" "$@"'] })
  const taken = await fillUp(t, small)
  t.same(await kept(cwd), taken)
  t.same((await readdir(join(cwd, '.fleet'))).filter(name => name.endsWith('.tmp')), [], 'what was begun is removed')

  t.equal((await small.remove('agent-0')).status, 200, 'what makes it smaller is no problem')
  t.equal((await small.register(at('late'))).status, 201)
  await small.kill()

  const next = await serve(t, { cwd })
  t.same(await next.names(), [...taken.filter(name => name !== 'agent-0'), 'late'])
  t.notMatch(next.said(), /damaged/)
})

const canMount = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'sh', '-c', `mount -t tmpfs tmpfs ${tmpdir()}`]).status === 0

t.test('on a full disk registrations are refused; when there is room again, the file agrees with the registry by itself', { skip: canMount ? false : 'only root may mount a small disk' }, async t => {
  const cwd = t.testdir({ '.fleet': {} })
  // In a view of the file system of its own, which ends with it.
  const gateway = await serve(t, { cwd, through: ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=128k tmpfs .fleet && exec "$0" "$@"'] })
  const disk = join('/proc', String(gateway.child.pid), 'root', cwd, '.fleet')
  t.equal((await gateway.register(at('planner'))).status, 201)
  t.equal((await gateway.register(at('coder'))).status, 201)
  await t.rejects(writeFile(join(disk, 'filler'), Buffer.alloc(1024 * 1024)), { code: 'ENOSPC' })

  t.equal((await gateway.register(at('late'))).status, 503)
  t.equal((await gateway.remove('coder')).status, 503)
  const file = async () => (JSON.parse(await readFile(join(disk, 'registry.json'), 'utf8')) as { agents: { name: string }[] }).agents.map(({ name }) => name)
  t.same(await file(), ['planner', 'coder'], 'the file is whole')
  await rm(join(disk, 'filler'))
  await gateway.until(/The registry is kept again/)

  t.same(await gateway.names(), await file())
  t.equal((await gateway.register(at('late'))).status, 201)
  t.same(await gateway.names(), (await file()).sort())
})

/** Somebody else: `nobody` where the test runs as root. */
const stranger = process.getuid?.() === 0 ? 65_534 : undefined
const strangerReads = stranger !== undefined && spawnSync(process.execPath, ['-e', `require('fs').accessSync(${JSON.stringify(main)})`], { uid: stranger, gid: stranger }).status === 0

t.test('in a folder that can\'t be written registrations are refused until it can', { skip: strangerReads ? false : 'needs root, and a project that other users can read' }, async t => {
  const cwd = t.testdir({ '.fleet': { 'registry.json': '{"version":1,"agents":[]}' } })
  const gateway = await serve(t, { cwd, uid: stranger })
  const refused = await gateway.register(at('planner'))

  t.equal(refused.status, 503)
  t.same(await gateway.names(), [])
  await chown(join(cwd, '.fleet'), stranger!, stranger!)
  await gateway.until(/The registry is kept again/)
  t.equal((await gateway.register(at('planner'))).status, 201)
  t.same(await kept(cwd), ['planner'])
  t.equal((await readdir(join(cwd, '.fleet'))).filter(name => name.startsWith('lock-')).length, 1, 'and it is held now')
})

t.test('a folder that is removed while it runs is made anew', async t => {
  const cwd = t.testdir({})
  const gateway = await serve(t, { cwd })
  await gateway.register(at('planner'))
  await rm(join(cwd, '.fleet'), { recursive: true })

  t.equal((await gateway.register(at('coder'))).status, 201)

  t.same(await kept(cwd), ['coder', 'planner'])
  const second = launch(t, { cwd })
  t.equal(await second.exited, 1, 'and held')
})
