/** The program as a process: another user's files, pipes, a real terminal, an old Node. */
import { execFile, spawn, spawnSync } from 'node:child_process'
import { chmod, chown, cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { agentAt, startGateway } from '../helpers/build-gateway.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** As `npm test` has built it. */
const main = join(root, 'dist/src/main.js')
const secret = 'fleet-secret-token'

interface Ended { code: number, stdout: string, stderr: string }

/** Runs to the end. @param uid as whom; the test's own user when left out */
function run (file: string, args: readonly string[], { cwd = root, env = {}, uid }: { cwd?: string, env?: Record<string, string>, uid?: number | undefined } = {}): Promise<Ended> {
  const { FLEET_URL, FLEET_HOST, FLEET_PORT, FLEET_SECRET, FLEET_SECRET_FILE, NO_COLOR, FORCE_COLOR, ...inherited } = process.env
  return new Promise(resolve => {
    execFile(file, args, { cwd, env: { ...inherited, TERM: 'xterm', ...env }, ...(uid !== undefined && { uid, gid: uid }), timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : NaN, stdout, stderr })
    })
  })
}

const quoted = (...words: readonly string[]) => words.map(word => `'${word.replaceAll('\'', '\'\\\'\'')}'`).join(' ')

async function fleet (t: Test) {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t, { auth: { secret }, agents: [agentAt('planner', agent)] })
  return { FLEET_URL: gateway.origin, FLEET_SECRET: secret }
}

t.test('in a pipe there is plain text, and a reader that has seen enough is no failure', async t => {
  const env = await fleet(t)

  const plain = await run(process.execPath, [main, 'routes'], { env })
  const cut = await run('sh', ['-c', `${quoted(process.execPath, main, 'routes')} | head -n 1`], { env })
  const closed = await run('sh', ['-c', `${quoted(process.execPath, main, 'routes')} >&-`], { env })

  t.match(plain, { code: 0, stderr: '', stdout: /^PATH +METHODS/ })
  t.notMatch(plain.stdout, '\u001b')
  t.match(cut, { code: 0, stdout: /^PATH.*\n$/, stderr: '' })
  t.match(closed, { code: 0, stdout: '', stderr: '' }, 'nobody wants to know')
})

const hasScript = spawnSync('script', ['--version']).status === 0

t.test('on a real terminal there is colour, and none with NO_COLOR', { skip: hasScript ? false : 'there is no script(1) from util-linux here, which gives a terminal' }, async t => {
  const env = await fleet(t)
  const atTerminal = (more: Record<string, string>) => run('script', ['-qec', quoted(process.execPath, main, 'agents'), '/dev/null'], { env: { ...env, ...more } })

  const { stdout } = await atTerminal({})
  t.match(stdout, '\u001b[1mNAME\u001b[22m')
  t.match(stdout, '\u001b[32mhealthy\u001b[39m')
  const plain = await atTerminal({ NO_COLOR: '1' })
  t.match(plain.stdout, /^NAME +ALIASES/)
  t.notMatch(plain.stdout, '\u001b')
})

t.test('a Node that is too old is told in a line, before anything is loaded that it can\'t read', async t => {
  const dir = t.testdir()
  await mkdir(join(dir, 'dist/src'), { recursive: true })
  await cp(main, join(dir, 'dist/src/main.js'))
  await writeFile(join(dir, 'package.json'), JSON.stringify({ type: 'module', engines: { node: '>=99.1.0' } }))

  t.match(await run(process.execPath, [join(dir, 'dist/src/main.js'), 'serve']), {
    code: 1, stdout: '', stderr: `Fleet Gateway needs Node >=99.1.0, and this is ${process.versions.node}: install a newer one from https://nodejs.org\n`
  })
  const imports = [...(await readFile(main, 'utf8')).matchAll(/^import .* from '(.*)'/gm)].map(([, name]) => name)
  t.ok(imports.length > 0)
  t.same(imports.filter(name => !name!.startsWith('node:')), [])
})

/** Somebody else: `nobody` where the test runs as root, else who the test is. */
const stranger = process.getuid?.() === 0 ? 65_534 : undefined
const strangerReads = spawnSync(process.execPath, ['-e', `require('fs').accessSync(${JSON.stringify(main)})`], stranger === undefined ? {} : { uid: stranger, gid: stranger }).status === 0

t.test('what somebody may not read or write is said in a line, with the cure', { skip: strangerReads ? false : 'the folder of this project is closed to other users' }, async t => {
  const dir = t.testdir({ 'closed.yaml': 'agents: []\n', 'audit.yaml': 'auditLog: {file: closed/audit.log}\n', '.fleet': { secret: `${secret}\n` }, closed: {}, open: {} })
  await chmod(join(dir, 'closed.yaml'), 0)
  await chmod(join(dir, '.fleet/secret'), 0)
  await chmod(join(dir, 'closed'), 0o555)
  if (stranger !== undefined) await chown(join(dir, 'open'), stranger, stranger)
  const env = { FLEET_SECRET: secret }
  const cases: [args: string[], env: Record<string, string>, message: RegExp][] = [
    [['serve', '--fleet', 'closed.yaml'], {}, /^closed\.yaml: can not be read: permission denied\n$/],
    [['check', 'closed.yaml'], {}, /^closed\.yaml: can not be read: permission denied\n/],
    [['serve', '--port', '0'], {}, /^The kept secret can't be read: EACCES.*Give one with FLEET_SECRET, or run this as the user who owns it\n$/],
    [['agents'], {}, /^The kept secret can't be read/],
    [['serve', '--port', '0', '--fleet', 'closed/fleet.yaml'], {}, /^A new secret can't be kept: EACCES.*Give one with FLEET_SECRET\n$/],
    [['serve', '--port', '0', '--fleet', 'audit.yaml'], env, /^audit\.yaml:\d+:\d+ auditLog\.file: can't be written: EACCES.*\n$/],
    [['onboard', '--fleet', 'closed/fleet.yaml'], {}, /^closed\/fleet\.yaml can't be written: EACCES.*\n$/]
  ]

  // tap has every process write notes into its folder, where a stranger may not.
  const [withoutTap, program] = unmeasured(process.execPath, main)

  for (const [args, more, message] of cases) t.match(await run(withoutTap, [...program, ...args], { cwd: dir, env: more, uid: stranger }), { code: 1, stdout: '', stderr: message }, args.join(' '))

  const serving = spawn(withoutTap, [...program, 'serve', '--port', '0', '--fleet', 'closed/fleet.yaml'], { cwd: dir, env: { PATH: process.env['PATH'], FLEET_SECRET: secret }, ...(stranger !== undefined && { uid: stranger, gid: stranger }) })
  t.teardown(() => serving.kill('SIGKILL'))
  let said = ''
  for await (const chunk of serving.stderr) {
    said += String(chunk)
    if (said.includes('try ')) serving.kill('SIGTERM')
  }
  t.match(said, /state +closed\/\.fleet can't be written: registrations are refused/, 'what can be done without is a warning')
})
