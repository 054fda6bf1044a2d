/** `fleet-gateway key`: what it prints, what it says, what it refuses, and what of a file it leaves alone. */
import { createHash } from 'node:crypto'
import { execFile, spawnSync } from 'node:child_process'
import { chmod, lstat, mkdir, readdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { run } from '../../src/cli/program.ts'
import { loadConfig } from '../../src/config.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

async function command (args: readonly string[], env: Record<string, string> = {}) {
  const terminal = fakeIo({ env })
  const code = await run(['key', ...args], terminal.io)
  return { code, stdout: terminal.stdout(), stderr: terminal.stderr() }
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

t.test('a new key: its token once on standard output, its digest in a file that is made', async t => {
  const file = join(t.testdir(), 'fleet.yaml')

  const { code, stdout, stderr } = await command(['new', 'build-bot', '--scope', 'proxy', '--scope', 'register', '--scope', 'proxy', '--agent', 'planner', '--rate-limit', '60', '--fleet', file])

  t.equal(code, 0)
  t.match(stdout, /^fleet_[\w-]{43}\n$/, '256 bits')
  const token = stdout.trim()
  t.same((await loadConfig(file)).auth.keys, [{ id: 'build-bot', tokenSha256: sha256(token), scopes: ['proxy', 'register'], agents: ['planner'], rateLimit: { perMinute: 60, burst: 60 } }])
  t.notMatch(await readFile(file, 'utf8'), token)
  t.notMatch(stderr, token)
  t.notMatch(stderr, sha256(token))
  t.match(stderr, / the key "build-bot" now: proxy, register, planner/)
  t.match(stderr, /fleet\.yaml is made, and has the key "build-bot" now/)
  t.match(stderr, /It is the first: "serve" makes no secret of its own any more, so keys alone open the gateway\.\n/)
  t.match(stderr, /give them one with FLEET_SECRET/)
  t.same(await readdir(join(file, '..')), ['fleet.yaml'], 'and nothing else is left there')
})

t.test('the first key says what becomes of the secret that was made', async t => {
  const dir = t.testdir({ 'fleet.yaml': 'agents: []\n', '.fleet': { secret: 'a-secret-that-was-made\n' } })

  const { stderr } = await command(['new', 'a', '--scope', 'read', '--fleet', join(dir, 'fleet.yaml')])

  t.match(stderr, /It is the first: .*\.fleet\/secret\) opens the gateway no more/)
})

t.test('further keys say nothing of the first, and no two tokens are the same', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'rateLimit: {burst: 20}\n' }), 'fleet.yaml')
  const first = await command(['new', 'a', '--scope', 'read', '--fleet', file])
  const second = await command(['new', 'b', '--scope', 'admin', '--rate-limit', '20', '--fleet', file])

  t.not(first.stdout, second.stdout)
  t.notMatch(second.stderr, /It is the first/)
  t.match((await loadConfig(file)).auth.keys, [{ id: 'a' }, { id: 'b', rateLimit: { perMinute: 20 } }])
  t.notOk('burst' in (await loadConfig(file)).auth.keys[1]!.rateLimit!, 'the file says what a bucket holds')
  const withSecret = join(t.testdir({ 'fleet.yaml': 'auth: {secret: a-secret-in-clear}\n' }), 'fleet.yaml')
  t.notMatch((await command(['new', 'c', '--scope', 'read', '--fleet', withSecret])).stderr, /It is the first/, 'the secret is still good')
})

t.test('--json has what a program needs', async t => {
  const file = join(t.testdir(), 'fleet.yaml')

  const made = JSON.parse((await command(['new', 'a', '--scope', 'read', '--json', '--fleet', file])).stdout) as { token: string }
  t.match(made, { id: 'a', token: /^fleet_/, scopes: ['read'], agents: ['*'], file })
  await command(['new', 'b', '--scope', 'proxy', '--agent', 'x', '--rate-limit', '5', '--fleet', file])
  t.same(JSON.parse((await command(['list', '--json', '--fleet', file])).stdout), [
    { id: 'a', scopes: ['read'], agents: ['*'], token: 'SHA-256' },
    { id: 'b', scopes: ['proxy'], agents: ['x'], rateLimit: { perMinute: 5, burst: 5 }, token: 'SHA-256' }
  ])
  t.same(JSON.parse((await command(['revoke', 'a', '--json', '--fleet', file])).stdout), { id: 'a', revoked: true, keys: 1, file })
})

t.test('list never shows a token or a digest', async t => {
  const digest = 'ab'.repeat(32)
  const dir = t.testdir({ 'fleet.yaml': `auth:\n  keys:\n    - {id: clear, token: "\${TOKEN}", scopes: [read], rateLimit: {enabled: false}}\n    - {id: own, tokenFile: tokens/own, scopes: [proxy, register], agents: [a, b]}\n    - {id: digest, tokenSha256: ${digest}, scopes: [admin], rateLimit: {perMinute: 7}}\n` })
  const file = join(dir, 'fleet.yaml')
  for (const args of [['list'], ['list', '--json']]) {
    const { code, stdout, stderr } = await command([...args, '--fleet', file], { TOKEN: 'token-in-the-environment' })
    t.equal(code, 0)
    t.notMatch(stdout + stderr, 'token-in-the-environment')
    t.notMatch(stdout + stderr, digest)
    t.notMatch(stdout + stderr, 'tokens/own')
  }

  t.match((await command(['list', '--fleet', file])).stdout, /^ID +SCOPES +AGENTS +REQUESTS A MINUTE +TOKEN\nclear +read +\* +unlimited +in the file\nown +proxy, register +a, b +- +in a file of its own\ndigest +admin +\* +7 +SHA-256\n$/, 'and needs no variable of the gateway\'s')
  t.match(await command(['list', '--fleet', join(dir, 'none.yaml')]), { code: 0, stdout: '', stderr: /There is no .*none\.yaml, so there are no keys/ })
  await writeFile(join(dir, 'secret.yaml'), 'auth: {secret: a-secret-in-clear}\n')
  t.match(await command(['list', '--fleet', join(dir, 'secret.yaml')]), { code: 0, stdout: '', stderr: /has no keys, only a secret/ })
  t.match(await command(['list', '--json', '--fleet', join(dir, 'none.yaml')]), { stdout: '[]\n' })
})

t.test('what a variable holds is nobody\'s to write down, set or not', async t => {
  const before = 'server:\n  port: ${PORT}\n  host: ${LISTEN:-127.0.0.1}\nauth:\n  secret: ${TOKEN} # from outside\nagents:\n  - name: a\n    port: ${A_PORT}\n'
  const file = join(t.testdir({ 'fleet.yaml': before }), 'fleet.yaml')

  const unset = await command(['new', 'a', '--scope', 'read', '--fleet', file])
  const set = await command(['new', 'b', '--scope', 'read', '--fleet', file], { PORT: '9001', TOKEN: 'token-in-the-environment', A_PORT: '1' })

  t.equal(unset.code, 0, unset.stderr)
  t.match(unset.stderr, /Not everything was checked: the environment variable PORT is not set here/)
  t.equal(set.code, 0)
  t.notMatch(set.stderr, /Not everything/)
  const after = await readFile(file, 'utf8')
  for (const line of before.split('\n')) t.ok(after.includes(line), line)
  t.notMatch(after, 'token-in-the-environment')
  await command(['revoke', 'b', '--fleet', file])
  await command(['revoke', 'a', '--fleet', file])
  t.equal(await readFile(file, 'utf8'), before.replace('auth:\n', 'auth:\n  keys: []\n'))
})

t.test('a file that is no good is refused with all that is wrong, and not touched', async t => {
  const texts: [text: string, message: RegExp][] = [
    ['agents:\n  - {name: a, prot: 1}\nserver: {port: x}\n', /fleet\.yaml:2:15 agents\[0\]\.prot: unknown key.*\n(?:.*\n)?.*fleet\.yaml:3:16 server\.port[^]*is not valid; nothing was changed/],
    ['agents: [\n', /fleet\.yaml:\d+:\d+ /],
    ['auth: {secret: "${UNFINISHED"}\n', /an unfinished reference/],
    ['auth: {keys: [{id: a, scopes: [read]}]}\n', /needs exactly one of token/],
    ['a: 1\n---\nb: 2\n', /a second document begins/],
    ['- a\n', /must be object/]
  ]
  for (const [text, message] of texts) {
    const file = join(t.testdir({ 'fleet.yaml': text }), 'fleet.yaml')
    for (const args of [['new', 'x', '--scope', 'read'], ['list'], ['revoke', 'x']]) {
      const result = await command([...args, '--fleet', file])
      t.match(result, { code: 1, stdout: '', stderr: message }, `${args[0]} ${text}`)
    }
    t.equal(await readFile(file, 'utf8'), text)
  }
})

t.test('an id twice, an unknown one, an alias, a scope that is none: each is said, and nothing changes', async t => {
  const text = 'agents:\n  - {name: encoder, port: 1, aliases: [enc]}\nauth:\n  keys:\n    - {id: build-bot, token: token-in-clear, scopes: [read]}\n'
  const file = join(t.testdir({ 'fleet.yaml': text }), 'fleet.yaml')
  const cases: [args: string[], code: number, message: RegExp][] = [
    [['new', 'build-bot', '--scope', 'read'], 1, /There is a key "build-bot" in .* already/],
    [['revoke', 'build-bto'], 1, /There is no key "build-bto" in .*; did you mean "build-bot"\?/],
    [['new', 'a', '--scope', 'read', '--agent', 'enc'], 2, /"enc" is an alias of "encoder".*say --agent encoder/],
    [['new', 'a'], 2, /Say what the key may do with --scope: read, proxy, register, admin/],
    [['new', 'a', '--scope', 'write'], 2, /It must be one of read, proxy, register, admin/],
    [['new', 'a b', '--scope', 'read'], 2, /It must be letters, digits/],
    [['new', 'a', '--scope', 'read', '--agent', 'x y'], 2, /It must be the name of an agent/],
    [['new', 'a', '--scope', 'read', '--rate-limit', '0'], 2, /It must be a whole number/],
    [['new', '--scope', 'read'], 2, /missing required argument 'id'[^]*"fleet-gateway key new --help" tells more/],
    [['renew'], 2, /unknown command 'renew'/],
    [[], 2, /Usage: fleet-gateway key/]
  ]
  for (const [args, code, message] of cases) t.match(await command(args.length === 0 ? args : [...args, '--fleet', file]), { code, stdout: '', stderr: message }, args.join(' '))
  t.equal(await readFile(file, 'utf8'), text)
})

t.test('mode and link of the file stay', async t => {
  const dir = t.testdir({ real: { 'fleet.yaml': 'agents: []\n' } })
  await chmod(join(dir, 'real/fleet.yaml'), 0o640)
  await symlink('real/fleet.yaml', join(dir, 'link.yaml'))

  t.equal((await command(['new', 'a', '--scope', 'read', '--fleet', join(dir, 'link.yaml')])).code, 0)

  t.equal((await stat(join(dir, 'real/fleet.yaml'))).mode & 0o777, 0o640)
  t.ok((await lstat(join(dir, 'link.yaml'))).isSymbolicLink())
  t.match(await readFile(join(dir, 'real/fleet.yaml'), 'utf8'), /id: a/)
})

t.test('what is no file that can be written is said', async t => {
  const dir = t.testdir({ folder: {}, latin1: Buffer.from('# caf\xe9\n', 'latin1') })
  await symlink('nowhere', join(dir, 'dangling'))
  const cases: [file: string, message: RegExp][] = [
    ['folder', /folder is a folder/], ['dangling', /is a link to a file that does not exist/], ['latin1', /is not UTF-8 text/], ['none/fleet.yaml', /was not changed: ENOENT/]
  ]
  for (const [file, message] of cases) t.match(await command(['new', 'a', '--scope', 'read', '--fleet', join(dir, file)]), { code: 1, stderr: message }, file)
  t.same((await readdir(dir)).sort(), ['dangling', 'folder', 'latin1'])
})

t.test('a file that is written in an odd way is left to its owner, who is told what to add', async t => {
  const odd = '? auth\n: secret: a-secret-in-clear\n'
  const file = join(t.testdir({ 'fleet.yaml': odd }), 'fleet.yaml')

  const { code, stdout, stderr } = await command(['new', 'ci', '--scope', 'read', '--fleet', file])

  t.equal(code, 1)
  const [, entry = ''] = /by hand\n([^]*)$/.exec(stderr) ?? []
  t.equal(await readFile(file, 'utf8'), odd)
  await writeFile(file, entry)
  t.match((await loadConfig(file)).auth.keys, [{ id: 'ci', tokenSha256: sha256(stdout.trim()), scopes: ['read'] }], 'the token is there, for the entry')
  const needed = 'auth:\n  keys:\n    - &first {id: a, token: token-in-clear, scopes: &may [read]}\n    - {id: b, token: token-in-clear-2, scopes: *may}\n'
  await writeFile(file, needed)
  t.match(await command(['revoke', 'a', '--fleet', file]), { code: 1, stderr: /was not changed[^]*The key is still valid: remove the entry "a"/ }, 'another one needs its anchor')
  t.equal(await readFile(file, 'utf8'), needed)
})

t.test('of several at once none undoes what another has done', async t => {
  const dir = t.testdir({ 'fleet.yaml': 'agents: []\nauth:\n  keys:\n    - {id: old, token: token-in-clear, scopes: [read]}\n' })
  const ids = ['a', 'b', 'c']

  const runs = await Promise.all([...ids.map(id => ['new', id, '--scope', 'read']), ['revoke', 'old']].map(args => promisify(execFile)(process.execPath, [main, 'key', ...args], { cwd: dir })))

  const { keys } = (await loadConfig(join(dir, 'fleet.yaml'))).auth
  t.same(keys.map(({ id }) => id).sort(), ids)
  t.same(keys.map(({ tokenSha256 }) => tokenSha256).sort(), runs.slice(0, -1).map(({ stdout }) => sha256(stdout.trim())).sort())
  t.same(await readdir(dir), ['fleet.yaml'])
})

t.test('of two at once none undoes what the other has done, also where one comes by a link', async t => {
  const dir = t.testdir({ real: { 'fleet.yaml': 'agents: []\n', 'fleet.yaml.lock': '' }, link: { 'fleet.yaml': t.fixture('symlink', '../real/fleet.yaml') } })
  await utimes(join(dir, 'real/fleet.yaml.lock'), 0, 0)
  const byLink = join(dir, 'link/fleet.yaml')

  t.equal((await command(['new', 'a', '--scope', 'read', '--fleet', byLink])).code, 0)

  t.same(await readdir(join(dir, 'real')), ['fleet.yaml'], 'the lock of the file itself was taken')
  const ids = ['b', 'c', 'd', 'e']
  const ways = [byLink, join(dir, 'real/fleet.yaml')]
  await Promise.all(ids.map((id, index) => promisify(execFile)(process.execPath, [main, 'key', 'new', id, '--scope', 'read', '--fleet', ways[index % 2]!])))
  t.same((await loadConfig(byLink)).auth.keys.map(({ id }) => id).sort(), ['a', ...ids])
})

t.test('a lock that a dead process left is no obstacle', async t => {
  const dir = t.testdir({ 'fleet.yaml': 'agents: []\n', 'fleet.yaml.lock': '' })
  await utimes(join(dir, 'fleet.yaml.lock'), 0, 0)

  t.equal((await command(['new', 'a', '--scope', 'read', '--fleet', join(dir, 'fleet.yaml')])).code, 0)
  t.same(await readdir(dir), ['fleet.yaml'])
})

/** Somebody else: `nobody` where the test runs as root, else who the test is. */
const stranger = process.getuid?.() === 0 ? 65_534 : undefined
const asStranger = stranger === undefined ? {} : { uid: stranger, gid: stranger }
const strangerReads = spawnSync(process.execPath, ['-e', `require('fs').accessSync(${JSON.stringify(main)})`], asStranger).status === 0

t.test('where the file can\'t be written, nothing is half done, and what to add is said', { skip: strangerReads ? false : 'the folder of this project is closed to other users' }, async t => {
  const text = 'agents: []\n'
  const dir = t.testdir({ closed: { 'fleet.yaml': text }, open: { 'fleet.yaml': text } })
  await chmod(join(dir, 'closed'), 0o555)
  await chmod(join(dir, 'open'), 0o777)
  await chmod(join(dir, 'open/fleet.yaml'), 0o444)
  await mkdir(join(dir, 'empty'))
  await chmod(join(dir, 'empty'), 0o555)
  // tap has every process write notes into its folder, where a stranger may not.
  const [env, program] = unmeasured(process.execPath, main)

  for (const file of ['closed/fleet.yaml', 'open/fleet.yaml', 'empty/fleet.yaml']) {
    const { status, stdout, stderr } = spawnSync(env, [...program, 'key', 'new', 'ci', '--scope', 'read', '--fleet', file], { cwd: dir, encoding: 'utf8', ...asStranger })
    t.equal(status, 1, file)
    t.match(stderr, /was not changed: EACCES[^]*The key is not valid yet: add this to it by hand\nauth:\n {2}keys:\n {4}- id: ci\n/)
    t.match(stderr, sha256(stdout.trim()), 'the digest of the token that is printed')
  }
  for (const folder of ['closed', 'open']) {
    t.equal(await readFile(join(dir, folder, 'fleet.yaml'), 'utf8'), text)
    t.same(await readdir(join(dir, folder)), ['fleet.yaml'])
  }
  t.same(await readdir(join(dir, 'empty')), [])
  await chmod(join(dir, 'closed'), 0o755)
  await chmod(join(dir, 'empty'), 0o755)
})
