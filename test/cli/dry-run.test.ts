/** `serve --dry-run`: what it would run with and who said it; and with that, who wins. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { CORE_SCHEMA, load } from 'js-yaml'
import t, { type Test } from 'tap'
import type { ValueSource } from '../../src/cli/overrides.ts'
import { FleetOptions, parseConfig, type FleetConfigInput } from '../../src/config.ts'
import { runCommand } from '../helpers/run-command.ts'

const command = (args: readonly string[], env: Record<string, string> = {}) => runCommand(args, { env })

interface Shown { ok: boolean, file: string, config: Record<string, Record<string, unknown>>, sources: Record<string, ValueSource> }

/** What a program gets. */
async function shown (t: Test, file: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<Shown> {
  const { code, stdout, stderr } = await command(['serve', '--dry-run', '--json', '--fleet', file, ...args], env)
  t.same([code, stderr], [0, ''])
  return JSON.parse(stdout) as Shown
}

/** A value and who said it. */
async function said (t: Test, path: string, file: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<unknown[]> {
  const { config, sources } = await shown(t, file, args, env)
  const [section, key] = path.split('.') as [string, string]
  const source = sources[path]!
  const from = source.from === 'flag' ? source.flag : source.from === 'environment' ? source.variable : source.from === 'file' ? `line ${source.line}` : source.from
  return [config[section]![key], from]
}

const masked = '********'

t.test('flag, environment, file, default: each wins over those behind it, for each setting that has them', async t => {
  const folder = t.testdir({
    'full.yaml': 'server:\n  host: 10.0.0.1\n  port: 1111\nauth:\n  enabled: true\n  secret: of-the-file\nrateLimit: {perMinute: 11, burst: 12, enabled: false}\ncors:\n  enabled: true\nregistry:\n  stateDir: of-the-file\n',
    'off.yaml': 'auth:\n  enabled: false\ncors: {enabled: false}\n',
    'rate.yaml': 'rateLimit: {burst: 500}\n',
    'empty.yaml': '',
    'token.txt': 'of-a-token-file\n'
  })
  const [full, off, rate, empty] = ['full', 'off', 'rate', 'empty'].map(name => join(folder, `${name}.yaml`)) as [string, string, string, string]
  const env = { FLEET_HOST: '10.0.0.2', FLEET_PORT: '2222', FLEET_SECRET: 'of-the-environment', FLEET_SECRET_FILE: join(folder, 'token.txt'), FLEET_STATE_DIR: 'of-the-environment' }
  const cases: [path: string, file: string, args: string[], env: Record<string, string>, expected: unknown[]][] = [
    ['server.host', full, ['--host', '10.0.0.3'], env, ['10.0.0.3', '--host']],
    ['server.host', full, [], env, ['10.0.0.2', 'FLEET_HOST']],
    ['server.host', full, [], {}, ['10.0.0.1', 'line 2']],
    ['server.host', empty, [], { FLEET_HOST: '' }, ['127.0.0.1', 'default']],
    ['server.port', full, ['--port', '3333'], env, [3333, '--port']],
    ['server.port', full, [], env, [2222, 'FLEET_PORT']],
    ['server.port', full, [], { FLEET_PORT: '' }, [1111, 'line 3']],
    ['server.port', empty, [], {}, [9001, 'default']],
    ['auth.secret', full, ['--secret', 'of-the-flag'], env, [masked, '--secret']],
    ['auth.secret', full, [], env, [masked, 'FLEET_SECRET']],
    ['auth.secret', full, [], { ...env, FLEET_SECRET: '' }, [masked, 'FLEET_SECRET_FILE']],
    ['auth.secret', full, [], {}, [masked, 'line 6']],
    ['auth.secret', empty, [], {}, [masked, 'state']],
    ['auth.enabled', full, ['--no-auth'], {}, [false, '--no-auth']],
    ['auth.enabled', full, [], {}, [true, 'line 5']],
    ['auth.enabled', off, [], {}, [false, 'line 2']],
    ['auth.enabled', empty, [], {}, [true, 'default']],
    ['cors.enabled', full, ['--no-cors'], {}, [false, '--no-cors']],
    ['cors.enabled', full, [], {}, [true, 'line 9']],
    ['cors.enabled', off, [], {}, [false, 'line 3']],
    ['cors.enabled', empty, [], {}, [true, 'default']],
    ['rateLimit.perMinute', full, ['--rate-limit', '7'], {}, [7, '--rate-limit']],
    ['rateLimit.perMinute', full, [], {}, [11, 'line 7']],
    ['rateLimit.perMinute', empty, [], {}, [600, 'default']],
    ['rateLimit.enabled', full, ['--rate-limit', '7'], {}, [true, '--rate-limit']],
    ['rateLimit.enabled', full, [], {}, [false, 'line 7']],
    ['rateLimit.enabled', rate, ['--no-rate-limit'], {}, [false, '--no-rate-limit']],
    ['rateLimit.burst', full, ['--rate-limit', '7'], {}, [12, 'line 7']],
    ['rateLimit.burst', empty, ['--rate-limit', '7'], {}, [7, '--rate-limit']],
    ['rateLimit.burst', empty, ['--rate-limit', '7000'], {}, [100, '--rate-limit']],
    ['rateLimit.burst', rate, [], {}, [500, 'line 1']],
    ['registry.stateDir', full, [], env, ['of-the-environment', 'FLEET_STATE_DIR']],
    ['registry.stateDir', full, [], { FLEET_STATE_DIR: '' }, ['of-the-file', 'line 11']],
    ['registry.stateDir', empty, [], {}, [join(folder, '.fleet'), 'default']]
  ]

  for (const [path, file, args, env, expected] of cases) t.same(await said(t, path, file, args, env), expected, `${path} ${args.join(' ')} ${Object.keys(env).join(' ')}`)
})

const everything = `server: {trustedProxies: [10.0.0.0/8], bodyLimit: 100MiB, port: 0}
auth:
  secretFile: SECRET_FILE
  keys:
    - {id: ci, tokenSha256: ${'ab'.repeat(32)}, scopes: [read], agents: ['*']}
    - id: bot
      token: "\${BOT_TOKEN}"
      scopes: [proxy, register]
      rateLimit: {perMinute: 60}
cors: {origins: ['https://me:s3cr3t-password@app.example'], maxAge: 10m}
timeouts:
  response: \${RESPONSE:-2m}
paths: [{prefix: /v1/train, timeouts: {response: 10m}}]
agents:
  - name: "on"
    aliases: ["1e3", enc]
    instances:
      - {host: 10.0.0.11, port: 8501}
      - {port: 8502, weight: 2}
    metadata: {about: "a: b # c\\n\\u2028é", apiKey: s3cr3t-in-metadata, list: [1, null, true]}
  - {name: notes, port: 443, protocol: https, timeouts: {}}
  - {name: notes, port: 444, preserveHost: true}
`

t.test('as YAML it is YAML, with each value as it would be written and who said it behind it', async t => {
  const folder = t.testdir({ 'secret.txt': 's3cr3t-of-a-file\n' })
  const file = join(t.testdir({ 'secret.txt': 's3cr3t-of-a-file\n', 'fleet.yaml': everything.replace('SECRET_FILE', join(folder, 'secret.txt')) }), 'fleet.yaml')
  const env = { BOT_TOKEN: 's3cr3t-of-the-bot', FLEET_HOST: '::1' }

  const { code, stdout, stderr } = await command(['serve', '--dry-run', '--fleet', file, '--no-cors'], env)

  t.same([code, stderr], [0, ''])
  t.notMatch(stdout, /s3cr3t(?!-of-a-file)|abab/)
  const read = load(stdout, { schema: CORE_SCHEMA })
  const { config } = await shown(t, file, ['--no-cors'], env)
  t.same(read, config, 'the same for people and programs')
  t.match(stdout, `  host: "::1" # FLEET_HOST\n  port: 0 # ${file}:1\n`)
  t.match(stdout, `  trustedProxies: ["10.0.0.0/8"] # ${file}:1\n`)
  t.match(stdout, `      token: "********" # ${file}:7 (BOT_TOKEN)\n`)
  t.match(stdout, `  response: 2m # ${file}:12 (RESPONSE)\n`)
  t.match(stdout, '  enabled: false # --no-cors\n')
  t.match(stdout, '  methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS] # default\n')
  t.match(stdout, `  - name: "on" # ${file}:15\n`)
  for (const line of stdout.split('\n').filter(line => /: [^{]/.test(line) && !line.startsWith('#'))) t.match(line, / # (?:default|--no-cors|FLEET_HOST|\S+fleet\.yaml:\d+)/, line)
})

t.test('what it shows is what would run', async t => {
  const folder = t.testdir({ 'secret.txt': 's3cr3t-of-a-file\n' })
  const text = everything.replace('SECRET_FILE', join(folder, 'secret.txt')).replace(/ {4}- \{id: ci.*\n/, '')
  const file = join(t.testdir({ 'secret.txt': 's3cr3t-of-a-file\n', 'fleet.yaml': text }), 'fleet.yaml')

  const { config } = await shown(t, file, ['--rate-limit', '50'], { BOT_TOKEN: 's3cr3t-of-the-bot' })

  const resolved = parseConfig(config)
  const written = parseConfig({ ...load(text.replaceAll(/"?\$\{BOT_TOKEN\}"?/g, 'a-bot-token').replace('${RESPONSE:-2m}', '2m'), { schema: CORE_SCHEMA }) as FleetConfigInput, rateLimit: { perMinute: 50, burst: 50 } })
  for (const key of Object.keys(FleetOptions.properties) as (keyof typeof resolved)[]) {
    if (key !== 'auth' && key !== 'registry' && key !== 'agents' && key !== 'cors') t.same(resolved[key], written[key], key)
  }
  t.same(resolved.agents.map(({ name, instances, protocol, weight }) => [name, instances?.length, protocol, weight]), [['on', 2, undefined, undefined], ['notes', undefined, 'https', 1], ['notes', undefined, 'http', 1]])
})

t.test('nothing is written, made or listened to', async t => {
  const folder = t.testdir({ 'fleet.yaml': 'agents: []\nauditLog: {file: FOLDER/logs/audit.log}\n'.replace('FOLDER', t.testdirName) })

  const { sources } = await shown(t, join(folder, 'fleet.yaml'))
  const missing = await command(['serve', '--dry-run', '--fleet', join(folder, 'none.yaml')])

  t.same(sources['auth.secret'], { from: 'state', file: join(folder, '.fleet/secret'), isNew: true })
  t.match(missing, { code: 0, stdout: `# There is no ${join(folder, 'none.yaml')}.\n` })
  t.match(missing.stdout, `secret: "********" # made at the start and kept in ${join(folder, '.fleet/secret')}\n`)
  t.same(readdirSync(folder), ['fleet.yaml'])
})

t.test('what keeps serve from starting is told as check tells it', async t => {
  const folder = t.testdir({ 'bad.yaml': 'agents:\n  - name: a\n    prot: 80\n', 'files.yaml': `auth: {secretFile: nowhere.txt}\nauditLog: {file: ${t.testdirName}}\n` })
  for (const name of ['bad.yaml', 'files.yaml']) {
    const file = join(folder, name)

    t.same(await command(['serve', '--dry-run', '--fleet', file]), await command(['check', file]), name)
    t.same(await command(['serve', '--dry-run', '--json', '--fleet', file]), await command(['check', '--json', file]), name)
    t.match(await command(['serve', '--dry-run', '--fleet', file]), { code: 1, stdout: '', stderr: `${file}:` })
  }
  t.match(await command(['serve', '--dry-run', '--fleet', join(folder, 'none.yaml')], { FLEET_PORT: 'x' }), { code: 2, stderr: /^FLEET_PORT must be a port/ })
  t.match(await command(['serve', '--dry-run', '--fleet', join(folder, 'none.yaml')], { FLEET_SECRET_FILE: 'nowhere.txt' }), { code: 1, stderr: /^FLEET_SECRET_FILE can't be read/ })
  t.match(await command(['serve', '--json']), { code: 2, stderr: /--json is for --dry-run/ })
})

t.test('with auth off it says whose pages may call', async t => {
  const file = join(t.testdir({}), 'fleet.yaml')

  const { stdout } = await command(['serve', '--dry-run', '--no-auth', '--fleet', file])

  t.match(stdout, 'origins: ["*"] # default; with auth off, of this machine only\n')
  t.notMatch(stdout, / secret:/)
})

t.test('each of an agent\'s headers has its line, masked, with who said it', async t => {
  const file = join(t.testdir({ 'fleet.yaml': 'agents:\n  - name: a\n    port: 1\n    headers:\n      X-Api-Key: key-in-clear\n      "#odd": ${KEY}\n' }), 'fleet.yaml')
  const env = { KEY: 'key-of-a-variable' }

  const { stdout } = await command(['serve', '--dry-run', '--fleet', file], env)
  const { config, sources } = await shown(t, file, [], env)

  t.match(stdout, /\n {4}headers:\n {6}X-Api-Key: "\*{8}" # \S+fleet\.yaml:5\n {6}"#odd": "\*{8}" # \S+fleet\.yaml:6 \(KEY\)\n/)
  t.match(config, { agents: [{ headers: { 'X-Api-Key': masked, '#odd': masked } }] })
  t.match(sources['agents[0].headers.X-Api-Key'], { from: 'file', line: 5 })
})
