/** src/config.ts and what it stands on: a whole fleet.yaml, and what is said of a broken one. */
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ConfigError, loadConfig, mergeConfig, parseConfig, readConfigFile } from '../src/config.ts'
import type { Environment } from '../src/yaml.ts'

/** The folder of a fleet.yaml with this text. */
function fleetFile (t: Test, text: string): string {
  return join(t.testdir({ 'fleet.yaml': text }), 'fleet.yaml')
}

/** What loading the text reports: `12:7 agents[1].prot: unknown key`, without the file's name. */
async function problemsOf (t: Test, text: string, env: Environment = {}): Promise<string[]> {
  const file = fleetFile(t, text)
  try {
    await loadConfig(file, env)
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    t.ok(error.message.split('\n').every(line => line.startsWith(file)), 'each line names the file')
    return error.message.split('\n').map(line => line.slice(`${file}:`.length))
  }
}

const minimal = `agents:
  - name: trail-agent
    host: localhost
    port: 8501
    aliases: [trail, encoder]
  - name: git-agent
    host: localhost
    port: 8502
    aliases: [git, repo]
`

t.test('metadata and headers may have any names, also those that JavaScript objects have by themselves', async t => {
  const { agents: [agent] } = await loadConfig(fleetFile(t, `agents:
  - name: a
    port: 1
    headers: {constructor: Bearer x, prototype: y}
    metadata: {constructor: 1, deep: {prototype: 2}, "a\\nb": 3}
`))

  t.strictSame(agent!.headers, { constructor: 'Bearer x', prototype: 'y' })
  t.strictSame(agent!.metadata, { constructor: 1, deep: { prototype: 2 }, 'a\nb': 3 })
})

t.test('the minimal file of the contract is valid', async t => {
  const config = await loadConfig(fleetFile(t, minimal), {})

  t.same(config.agents, [
    { name: 'trail-agent', host: 'localhost', port: 8501, aliases: ['trail', 'encoder'] },
    { name: 'git-agent', host: 'localhost', port: 8502, aliases: ['git', 'repo'] }
  ])
  t.match(config, {
    server: { host: '127.0.0.1', port: 9001, trustedProxies: [], drainDelay: 0, drainTimeout: 30_000 },
    auth: { enabled: true, keys: [] },
    rateLimit: { enabled: true, perMinute: 600, burst: 100 },
    cors: { enabled: true, origins: ['*'] },
    timeouts: { connect: 3_000, response: 30_000, idle: 300_000 },
    retry: { attempts: 1, maxBodyBytes: 65_536 },
    health: { interval: 10_000, timeout: 2_000, unhealthyAfter: 3, healthyAfter: 2 },
    registry: { maxAgents: 10_000 },
    auditLog: { enabled: true },
    metrics: { enabled: true }
  })
})

t.test('a missing file is an empty fleet', async t => {
  const config = await loadConfig(join(t.testdir({}), 'fleet.yaml'), {})

  t.same(config.agents, [])
  t.equal(config.server.port, 9001)
})

t.test('an empty file is an empty fleet, and so is a key without a value', async t => {
  for (const text of ['', '# later\n', 'agents:\n', 'agents:\n#  - name: a\nserver:\n', '{}']) {
    t.same((await loadConfig(fleetFile(t, text), {})).agents, [], JSON.stringify(text))
  }
})

t.test('every key of the contract is understood', async t => {
  const text = `
agents:
  - name: a
    instances: [{host: 10.0.0.1, port: 1, weight: 3}, {port: 2, protocol: https}]
    friendly_names: [b]
    metadata: {anything: [goes, {x: 1}]}
    timeouts: {connect: 500ms, response: 5m, idle: 1h, total: 1d}
    retry: {attempts: 0, statuses: [503], maxBodyBytes: 1KiB}
    health: {path: /healthz, interval: 5s, timeout: 1s, unhealthyAfter: 1, healthyAfter: 1}
    rateLimit: {enabled: true, perMinute: 60, burst: 10}
    forwardAuthorization: true
    preserveHost: true
    rewriteLocation: false
  - {name: c, port: 3, protocol: https, weight: 2, timeout: 45s}
server: {host: 0.0.0.0, port: 80, trustedProxies: [10.0.0.0/8, "::1"], bodyLimit: 10MiB, drainDelay: 5s, drainTimeout: 1m}
auth: {enabled: true, secret: s3cr3t-s3cr3t, keys: [{id: k, token: abcdefgh, scopes: [read, proxy], agents: [a]}, {id: l, tokenFile: /run/l, scopes: [admin]}]}
rateLimit: {enabled: true, perMinute: 60, burst: 10}
cors: {enabled: true, origins: ["https://app.example.com"], methods: [GET], headers: [X-A], credentials: true, maxAge: 1h}
timeouts: {connect: 1s, response: 1s, idle: 0.5s, total: 1h}
retry: {attempts: 0, statuses: [502], maxBodyBytes: 100}
health: {path: /h, interval: 1s, timeout: 1s, unhealthyAfter: 2, healthyAfter: 3}
registry: {allowedHosts: [.internal, a.example, 10.0.0.0/8], maxAgents: 5, stateDir: /var/lib/fleet}
auditLog: {enabled: true, file: audit.log}
metrics: {enabled: false}
`
  const config = await loadConfig(fleetFile(t, text), {})

  t.match(config, {
    agents: [
      { timeouts: { connect: 500, response: 300_000, idle: 3_600_000, total: 86_400_000 }, retry: { maxBodyBytes: 1_024 } },
      { name: 'c', timeout: 45_000 }
    ],
    server: { bodyLimit: 10_485_760, drainDelay: 5_000 },
    cors: { maxAge: 3_600_000 },
    timeouts: { idle: 500 }
  })
})

t.test('the result is frozen to the bottom', async t => {
  const config = await loadConfig(fleetFile(t, minimal), {})

  t.ok(Object.isFrozen(config) && Object.isFrozen(config.server) && Object.isFrozen(config.agents) && Object.isFrozen(config.agents[0]?.aliases))
})

t.test('what is resolved can be parsed again', async t => {
  const config = await loadConfig(fleetFile(t, minimal + 'timeouts: {idle: 1m}\nserver: {bodyLimit: 1MiB}\n'), {})

  t.same(parseConfig(config), config)
})

t.test('what is wrong is named with its place', async t => {
  const cases: [name: string, text: string, ...problems: (string | RegExp)[]][] = [
    ['the example of the contract', minimal.replace('port: 8502', 'prot: 8502'), '8:5 agents[1].prot: unknown key, did you mean "port"?'],
    ['an unknown key', 'agnets: []', '1:1 agnets: unknown key, did you mean "agents"?'],
    ['an unknown key without a value', 'bogus:', '1:1 bogus: unknown key'],
    ['an unknown key far down', 'agents:\n  - name: a\n    port: 1\n    timeouts:\n      conect: 1s', '5:7 agents[0].timeouts.conect: unknown key, did you mean "connect"?'],
    ['a syntax error', 'agents: [\n  {name: a\n', '3:1 deficient indentation'],
    ['a duplicate key', 'server:\n  port: 1\n  port: 2', '3:3 duplicate key port'],
    ['two documents', 'server: {}\n---\nserver: {}', /^3:1 a second document/],
    ['a list for the whole', '- name: a', '1:1 must be object'],
    ['a text for the whole', 'hello', /^1:1 must be object/],
    ['a wrong type', 'server: {port: "9001"}', '1:16 server.port: must be integer (got "9001")'],
    ['a section that is no mapping', 'server: 9001', '1:9 server: must be object (got 9001)'],
    ['a list that is none', 'agents: {a: 1}', '1:9 agents: must be array'],
    ['a value that is missing', 'server:\n  port:\n', '2:3 server.port: must be integer'],
    ['an entry that is missing', 'agents:\n  - name: a\n    port: 1\n  -\n', '4:3 agents[1]: must be object'],
    ['a port out of range', 'agents:\n  - {name: a, port: 65536}', '2:21 agents[0].port: must be <= 65535 (got 65536)'],
    ['a port of zero', 'agents:\n  - {name: a, port: 0}', '2:21 agents[0].port: must be >= 1 (got 0)'],
    ['a rate below one', 'rateLimit:\n  perMinute: -1', '2:14 rateLimit.perMinute: must be >= 1 (got -1)'],
    ['a duration without unit', 'timeouts:\n  response: 30', '2:13 timeouts.response: must be a duration such as "500ms", "30s" or "5m", at least 1ms (got 30)'],
    ['a duration without unit of an agent', 'agents:\n  - {name: a, port: 1, timeout: 5}', /^2:33 agents\[0\]\.timeout: must be a duration/],
    ['a duration that is none', 'health: {interval: soon}', /^1:20 health\.interval: must be a duration such as "500ms", "30s" or "5m", at least 100ms \(got "soon"\)$/],
    ['a size that is none', 'server: {bodyLimit: 10 parsecs}', /^1:21 server\.bodyLimit: must be a size/],
    ['a bad name', 'agents:\n  - name: "a b"\n    port: 1', '2:11 agents[0].name: must match [A-Za-z0-9][A-Za-z0-9._-]{0,63} (got "a b")'],
    ['a missing name', 'agents:\n  - port: 1\n', '2:5 agents[0].name: is required'],
    ['no port and no instances', 'server: {}\nagents:\n  - name: a\n', '3:5 agents[0].port: is required, unless there are instances or dns'],
    ['host and instances', 'agents:\n  - name: a\n    host: h\n    instances: []', '4:5 agents[0].instances: can not stand beside host and port'],
    ['the same address twice', 'agents:\n  - {name: a, port: 1}\n  - {name: a, host: LOCALHOST, port: 1}', '3:38 agents[1].port: localhost:1 is an instance of "a" already'],
    ['the same address twice in instances', 'agents:\n  - {name: a, instances: [{port: 1}, {host: "0:0::1", port: 1}, {host: "::1", port: 1}]}', '2:85 agents[0].instances[2].port: [::1]:1 is an instance of "a" already'],
    ['settings that differ', 'agents:\n  - {name: a, port: 1, timeout: 1s}\n  - {name: a, port: 2, timeout: 2s}', '3:24 agents[1].timeout: differs from what agents[0] says of the same agent'],
    ['settings that differ in their form', 'agents:\n  - {name: a, port: 1, timeout: 1s, aliases: [x]}\n  - {name: a, port: 2, timeouts: {response: 2s}, friendly_names: [y]}', '3:24 agents[1].timeouts: differs from what agents[0] says of the same agent', '3:50 agents[1].friendly_names: differs from what agents[0] says of the same agent'],
    ['an alias that is an agent', 'agents:\n  - {name: a, port: 1}\n  - {name: b, port: 2, aliases: [x, a]}', '3:37 agents[1].aliases[1]: "a" belongs to the agent "a"'],
    ['an alias of two', 'agents:\n  - {name: a, port: 1, friendly_names: [x]}\n  - {name: b, port: 2, aliases: [x]}', '3:34 agents[1].aliases[0]: "x" belongs to the agent "a"'],
    ['timeout in two ways', 'agents:\n  - {name: a, port: 1, timeout: 1s, timeouts: {response: 1s}}', '2:24 agents[0].timeout: is short for timeouts.response, which is given too'],
    ['aliases in two ways', 'agents:\n  - {name: a, port: 1, aliases: [x], friendly_names: [y]}', '2:38 agents[0].friendly_names: is another word for aliases, and they differ'],
    ['a host with a scheme', 'agents:\n  - {name: a, host: "http://h", port: 1}', /^2:21 agents\[0\]\.host: must be a bare host name/],
    ['a host with a port', 'agents:\n  - name: a\n    instances:\n      - {host: "h:80", port: 1}', '4:16 agents[0].instances[0].host: must be without a port'],
    ['cookies for every sandboxed frame', 'cors:\n  origins: ["null"]\n  credentials: true', /^3:16 cors\.credentials: can not be true with origin "null"/],
    ['cookies for all the world', 'cors:\n  credentials: true', /^2:16 cors\.credentials: can not be true with origin "\*"/],
    ['an origin that is none', 'cors: {origins: [example.com]}', /^1:18 cors\.origins\[0\]: must be "\*" or an origin/],
    ['a key without a token', 'auth:\n  keys:\n    - id: a\n      scopes: [read]', '3:7 auth.keys[0]: needs exactly one of token, tokenFile and tokenSha256, and has 0'],
    ['a key with two tokens', 'auth:\n  keys:\n    - {id: a, scopes: [read], token: abcdefgh, tokenFile: f}', '3:7 auth.keys[0]: needs exactly one of token, tokenFile and tokenSha256, and has 2'],
    ['the id of two keys', 'auth:\n  keys:\n    - {id: a, scopes: [read], tokenFile: f}\n    - {id: a, scopes: [read], tokenFile: g}', '4:12 auth.keys[1].id: "a" is the id of another key'],
    ['a scope that is none', 'auth:\n  keys:\n    - {id: a, scopes: [write], tokenFile: f}', '3:24 auth.keys[0].scopes[0]: must be one of read, proxy, register, admin (got "write")'],
    ['a proxy by name', 'server: {trustedProxies: [loopback]}', '1:27 server.trustedProxies[0]: must be an IP address or a CIDR such as "10.0.0.0/8"'],
    ['a wrong CIDR', 'server: {trustedProxies: [10.0.0.0/8, 10.0.0.0/33]}', /^1:39 server\.trustedProxies\[1\]: must be/],
    ['a listener on no host', 'server: {host: "http://h"}', /^1:16 server\.host: must be a bare/],
    ['a pattern for a host', 'registry: {allowedHosts: ["*.internal"]}', /^1:27 registry\.allowedHosts\[0\]: must be a host name, a suffix/],
    ['an unknown policy', 'balancer: {policy: roundrobin}', '1:20 balancer.policy: must be one of "round-robin", "weighted", "least-requests", "p2c", "hash" (got "roundrobin"), did you mean "round-robin"?'],
    ['a policy that is like none', 'balancer: {policy: magic}', /"hash" \(got "magic"\)$/],
    ['something else to hash on', 'balancer: {policy: hash, hashOn: X-User}', '1:34 balancer.hashOn: must be "address", "header:NAME" or "cookie:NAME" (got "X-User")'],
    ['a header whose name is none', "balancer: {policy: hash, hashOn: 'header:X User'}", /^1:34 balancer\.hashOn: must be "address", "header:NAME"/],
    ['hashOn without hash', 'balancer: {hashOn: cookie:sid}', '1:12 balancer.hashOn: is for the policy "hash", and the policy is "round-robin"'],
    ['hashOn with another policy', 'balancer: {policy: p2c, hashOn: cookie:sid}', '1:25 balancer.hashOn: is for the policy "hash", and the policy is "p2c"'],
    ['an agent\'s hashOn under another policy', 'agents:\n  - {name: a, port: 1, balancer: {hashOn: cookie:sid}}\nbalancer: {policy: weighted}', '2:35 agents[0].balancer.hashOn: is for the policy "hash", and the policy is "weighted"'],
    ['an agent\'s hashOn with its own other policy', 'agents:\n  - {name: a, port: 1, balancer: {policy: p2c, hashOn: cookie:sid}}\nbalancer: {policy: hash}', '2:48 agents[0].balancer.hashOn: is for the policy "hash", and the policy is "p2c"'],
    ['a slow start without unit', 'balancer: {slowStart: 30}', /^1:23 balancer\.slowStart: must be a duration/],
    ['__proto__', 'server:\n  __proto__: {port: 1}', '2:3 server.__proto__: this key is not allowed'],
    ['constructor', 'constructor: 1', '1:1 constructor: unknown key']
  ]
  for (const [name, text, ...problems] of cases) {
    const got = await problemsOf(t, text)
    t.equal(got.length, problems.length, `${name}: ${got.join(' | ')}`)
    for (const [index, problem] of problems.entries()) {
      if (typeof problem === 'string') t.equal(got[index], problem, name)
      else t.match(got[index], problem, name)
    }
  }
})

t.test('an agent may say what to hash on where the gateway, or itself, says that it hashes', async t => {
  const agent = (balancer: string) => `agents:\n  - {name: a, port: 1, balancer: ${balancer}}\n`
  for (const text of [`${agent('{hashOn: cookie:sid}')}balancer: {policy: hash}`, agent('{policy: hash, hashOn: header:X-User}'), agent('{policy: weighted}') + 'balancer: {policy: hash, hashOn: header:X-User}', 'balancer: {policy: p2c, hashOn: address}']) {
    t.same(await problemsOf(t, text), [], text)
  }
})

t.test('a key whose feature is not built yet is refused as unknown', async t => {
  for (const key of ['mcp']) {
    t.match(await problemsOf(t, `${key}: {}`), [new RegExp(`^1:1 ${key}: unknown key`)], key)
  }
})

t.test('all errors come at once, in the order of the file', async t => {
  const text = `agents:
  - name: a
    prot: 1
  - name: b
    port: 2
    aliases: [a]
  - name: b
    port: 2
cors: {credentials: true}
timeouts: {idle: 5}
server: {port: "\${PORT}", host: "\${NOBODY}"}
rateLimits: {}
`
  t.match(await problemsOf(t, text, { PORT: '1' }), [
    /^3:5 agents\[0\]\.prot: unknown key/,
    /^6:15 agents\[1\]\.aliases\[0\]: "a"/, // an agent with another error still has its name
    /^8:11 agents\[2\]\.port: localhost:2/,
    /^9:21 cors\.credentials/,
    /^10:18 timeouts\.idle/,
    /^11:16 server\.port: must be integer \(got what the variable holds\)/,
    /^11:33 server\.host: the environment variable NOBODY is not set/,
    /^12:1 rateLimits: unknown key, did you mean "rateLimit"/
  ])
})

t.test('no secret gets into an error', async t => {
  const texts = [
    'auth: s3cr3t-s3cr3t',
    'auth: {secret: s3cr3t}',
    'auth: {secret: "s3cr3t s3cr3t"}',
    'auth: {keys: [s3cr3t-s3cr3t]}',
    'auth: {keys: s3cr3t-s3cr3t}',
    'auth: {keys: [{id: a, scopes: [read], token: "s3cr3t s3cr3t"}]}',
    'auth: {keys: [{id: a, scopes: [read], tokenSha256: s3cr3t}]}',
    'auth: {secret: ${SECRET}}',
    'auth: {secret: *s3cr3t-s3cr3t}',
    ...['redis://u:s3cr3t @host', 'redis://u:a s3cr3t@host', 'redis://u:%ff-s3cr3t@host', 'valkey://u:a/s3cr3t@host', 'valkey://u:a s3cr3t@host', 'redis:s3cr3t@host', 'u:s3cr3t@host:6379'].map(url => `redis: {url: "${url}"}`)
  ]
  for (const text of texts) {
    const problems = await problemsOf(t, text, { SECRET: 's3cr3t s3cr3t' })
    t.not(problems.length, 0, text)
    t.notMatch(problems.join('\n'), /s3cr3t/, text)
  }
})

t.test('the environment is read, and a number where one is wanted', async t => {
  const text = 'agents:\n  - name: ${NAME}\n    port: ${PORT:-8501}\n    host: ${HOST:-localhost}\nauth:\n  secret: "${SECRET}"\ntimeouts:\n  idle: ${IDLE:-1m}\n'

  t.match(await loadConfig(fleetFile(t, text), { NAME: 'planner', SECRET: '12345678', IDLE: '5s' }), {
    agents: [{ name: 'planner', port: 8501, host: 'localhost' }], auth: { secret: '12345678' }, timeouts: { idle: 5_000 }
  })
  t.same(await problemsOf(t, text, { PORT: 'x', IDLE: '5' }), [
    '2:11 agents[0].name: the environment variable NAME is not set',
    '3:11 agents[0].port: must be integer (got what the variable holds)',
    '6:11 auth.secret: the environment variable SECRET is not set',
    '8:9 timeouts.idle: must be a duration such as "500ms", "30s" or "5m", at least 1ms (got what the variable holds)'
  ])
})

t.test('a variable that became a number where a text is wanted is told to be quoted', async t => {
  t.match(await problemsOf(t, 'auth:\n  secret: ${SECRET}\n', { SECRET: '12345678' }), [/^2:11 auth\.secret: .*; a variable that is meant as a string needs quotes around it$/])
})

t.test('a missing variable counts once, also where it breaks a rule', async t => {
  t.same(await problemsOf(t, 'server:\n  port: ${PORT}\n'), ['2:9 server.port: the environment variable PORT is not set'])
})

t.test('a file that can not be read is an error that says why', async t => {
  const folder = t.testdir({ 'fleet.yaml': {} })
  await t.rejects(loadConfig(join(folder, 'fleet.yaml'), {}), { name: 'ConfigError', message: `${join(folder, 'fleet.yaml')}: can not be read: it is a folder` })
  await writeFile(join(folder, 'file'), '')
  await t.rejects(loadConfig(join(folder, 'file', 'fleet.yaml'), {}), { message: /no folder/ })
  await writeFile(join(folder, 'latin1.yaml'), Buffer.from('a: \xe4', 'latin1'))
  await t.rejects(loadConfig(join(folder, 'latin1.yaml'), {}), { message: /latin1.yaml: is not UTF-8 text/ })
  await t.rejects(loadConfig(join(folder, 'a\0b'), {}), { name: 'ConfigError', message: /can not be read/ })
})

t.test('a file without permission says so', { skip: process.getuid?.() === 0 ? 'root reads everything' : false }, async t => {
  const file = fleetFile(t, '')
  await chmod(file, 0)
  await t.rejects(loadConfig(file, {}), { message: /permission denied/ })
})

t.test('problems can be taken apart', async t => {
  const file = fleetFile(t, 'server:\n  prot: 1')
  const error = await loadConfig(file, {}).catch((error: unknown) => error) as ConfigError

  t.same(error.problems, [{ file, line: 2, column: 3, path: 'server.prot', message: 'unknown key, did you mean "port"?', nearest: 'port' }])
  t.equal(String(error), error.message)
})

t.test('a configuration in code has no lines, and its bare numbers are milliseconds', async t => {
  t.equal(parseConfig({ timeouts: { response: 1_500 } }).timeouts.response, 1_500)
  t.equal(parseConfig(undefined).server.port, 9001)
  t.throws(() => parseConfig({ servr: {} }), { message: 'servr: unknown key, did you mean "server"?', problems: [{ path: 'servr' }] })
  t.throws(() => parseConfig(7), { message: /^must be object/ })
  t.throws(() => parseConfig({ servr: {} }, { file: 'x.yaml' }), { message: /^x\.yaml servr: unknown key/ })
})

t.test('overrides win field by field, and lists as a whole', async t => {
  const base = { agents: [{ name: 'a', port: 1 }], server: { host: '0.0.0.0', port: 80, trustedProxies: ['10.0.0.0/8'] }, timeouts: { idle: '1m' } }

  t.same(mergeConfig(base, { server: { port: 90, trustedProxies: [] }, rateLimit: { enabled: false }, agents: [{ name: 'b', port: 2 }] }), {
    agents: [{ name: 'b', port: 2 }], server: { host: '0.0.0.0', port: 90, trustedProxies: [] }, timeouts: { idle: '1m' }, rateLimit: { enabled: false }
  })
  t.same(mergeConfig(base, {}), base)
})

t.test('a part that is no mapping stays to be refused, whatever is laid over it', async t => {
  const { value, ...source } = await readConfigFile(fleetFile(t, 'server: 9001\n'), {})

  t.throws(() => parseConfig(mergeConfig(value, { server: { port: 1 } }), source), { message: /fleet.yaml:1:9 server: must be object/ })
})

t.test('what is laid over a file has milliseconds, what the file says needs its units', async t => {
  const good = await readConfigFile(fleetFile(t, 'timeouts: {idle: 5s}\n'), {})
  const bad = await readConfigFile(fleetFile(t, 'timeouts: {idle: 5}\n'), {})

  t.same(parseConfig(mergeConfig(good.value, { timeouts: { response: 5_000, idle: 70_000 } }), good).timeouts, { connect: 3_000, response: 5_000, idle: 70_000 })
  t.equal(parseConfig(mergeConfig(bad.value, { timeouts: { idle: 70_000 } }), bad).timeouts.idle, 70_000)
  t.throws(() => parseConfig(mergeConfig(bad.value, { timeouts: { response: 5_000 } }), bad), { message: /^[^ ]+:1:18 timeouts.idle: must be a duration[^\n]+$/ })
})
