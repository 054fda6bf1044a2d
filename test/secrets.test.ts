/**
 * No secret is ever in a log, an error, a page, an answer or an agent's request: one of every kind is used, rightly and wrongly, while
 * everything goes wrong that can, and all that comes out of the gateway and of the command line is gathered and searched for it.
 */
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../src/cli/program.ts'
import { canaries, type Canaries } from './helpers/canaries.ts'
import { fakeIo } from './helpers/fake-io.ts'
import { jwtIssuer } from './helpers/jwt-issuer.ts'
import { agents, request, send, serve, withToken, withWrongToken } from './helpers/secret-drill.ts'

/** Where what was sent has to arrive, or goes back to who sent it. */
const agentsOwn = /^agent$/

t.test('no secret of any kind is where it must not be, while everything goes wrong', async t => {
  const net = canaries()
  const kinds = {
    shared: net.secret('the shared secret of fleet.yaml'),
    key: net.secret('the token of a key'),
    file: net.secret('a token in a file'),
    wrong: net.secret('a wrong token'),
    query: net.secret('a secret in a query', agentsOwn),
    forAgent: net.secret('a client\'s token for the agent', agentsOwn),
    variable: net.secret('the value of a variable'),
    badFile: net.secret('a token in a file that is no good'),
    mistyped: net.secret('a secret in the wrong place of fleet.yaml'),
    url: net.secret('a password in a URL'),
    typed: net.secret('a secret with a mistyped option'),
    header: net.secret('a value of an agent\'s headers', agentsOwn),
    headerFile: net.secret('a value of an agent\'s headers, in a file', agentsOwn),
    redis: net.secret('the password of Redis')
  }
  const issuer = await jwtIssuer(t, () => Math.floor(Date.now() / 1_000))
  const jwts = { good: await issuer.token({ scope: 'admin' }), expired: await issuer.token({ exp: 1 }), forged: await issuer.token({}, {}, await issuer.makeKey('first')), strange: await issuer.token({}, { kid: 'strange' }) }
  for (const [kind, token] of Object.entries(jwts)) net.known(`a JWT (${kind})`, token.split('.').slice(1))
  const ports = await agents(t, net)
  const cwd = join(t.testdirName, 'work')
  const good = [
    `auth: {secret: ${kinds.shared}, keys: [{id: one, token: ${kinds.key}, scopes: [admin]}, {id: two, tokenFile: ${join(cwd, 'token.txt')}, scopes: [read, proxy, register]}], jwt: {issuer: "https://issuer.example", audience: fleet, jwksUrl: "${issuer.url}"}}`,
    'rateLimit: {enabled: false}', 'auditLog: {file: audit.log}', 'retry: {attempts: 1}', 'agents:',
    ...Object.entries(ports).map(([name, port]) => `  - {name: ${name}, host: 127.0.0.1, port: ${port}${name === 'slow' ? ', timeout: 200ms' : ''}, headers: {X-Own: ${kinds.header}, X-Filed: {file: ${join(cwd, 'header.txt')}}}}`)
  ].join('\n')
  t.testdir({ work: { 'fleet.yaml': good, 'token.txt': `${kinds.file}\n`, 'header.txt': `${kinds.headerFile}\n`, 'bad-token.txt': `two words ${kinds.badFile}\n` } })
  const gateway = await serve(t, net, [], cwd, { CANARY: kinds.variable })

  for (const token of [kinds.shared, kinds.key, kinds.file, jwts.good]) {
    for (const bytes of withToken(token, kinds.query, kinds.forAgent)) await send(net, gateway.port, bytes)
  }
  for (const token of [jwts.expired, jwts.forged, jwts.strange]) for (const bytes of withWrongToken(token)) await send(net, gateway.port, bytes)
  for (let count = 0; count < 4; count++) for (const bytes of withWrongToken(kinds.wrong)) await send(net, gateway.port, bytes)
  t.match(net.textOf('answers'), /^HTTP\/1\.1 429 /m, 'the address has guessed too often by now')

  // Files that are no good: as a reload, to `serve`, to `check`, and beside a client command.
  const bad = [
    'server: {port: "${CANARY}"}', 'server:\n  port: ${CANARY}', 'rateLimit:\n  perMinute: x${CANARY}', 'timeouts: {idle: "${CANARY}"}', 'agents: [{name: "${CANARY} x", port: 1}]', 'agents: [{name: a, port: 1, protocol: "${CANARY}"}]', 'balancer: {policy: "${CANARY}"}',
    'server: ${CANARY}', 'agents: [{name: a, port: 1, aliases: ["a b", "-${CANARY}"]}]', 'registry: {allowedHosts: ["${CANARY}/8"]}', 'server: {port: ${CANARY}}', 'auth: {secretFile: "${CANARY}"}',
    `auth: ${kinds.mistyped}`, `auth: {secret:${kinds.mistyped}}`, `auth: {secret=${kinds.mistyped}}`, `auth: {secret ${kinds.mistyped}}`, `auth: {secret: [${kinds.mistyped}]}`, `auth: {secret: two words ${kinds.mistyped}}`, `auth: {secret: {${kinds.mistyped}: 1}}`,
    `auth: {secret: "${kinds.mistyped}`, `auth: {secret: *${kinds.mistyped}}`, `auth: {secret: !${kinds.mistyped} x}`, `auth: {secret: &${kinds.mistyped}}`, `auth: {secret: '${kinds.mistyped}' x}`, `auth: {secret: ${kinds.mistyped}, secret: ${kinds.mistyped}}`,
    `auth: {keys: [{id: a, token: ${kinds.mistyped}, tokenFile: token.txt, scopes: [read]}]}`, `auth: {keys: [{id: a, tokenSha256: ${kinds.mistyped}, scopes: [read]}]}`, `auth: {keys: [${kinds.mistyped}]}`, `auth: {keys: [{id: a, token: ${kinds.mistyped}}]}`,
    `auth: {keys: [{id: a, token: ${kinds.mistyped}, scopes: [read]}, {id: b, token: ${kinds.mistyped}, scopes: [read]}]}`, 'auth: {secretFile: bad-token.txt}', 'auth: {keys: [{id: a, tokenFile: bad-token.txt, scopes: [read]}]}',
    ...[`{Host: ${kinds.header}}`, kinds.header, `[${kinds.header}]`, `{"a b": ${kinds.header}}`, `{X: "${kinds.header}\\u0001"}`, `{X: {${kinds.header}: 1}}`, `{X: {file: bad-token.txt, ${kinds.header}: 1}}`].map(headers => `agents: [{name: a, port: 1, headers: ${headers}}]`),
    `cors: {origins: ["https://user:${kinds.url}@host/path"]}`, `agents: [{name: a, host: "http://user:${kinds.url}@host", port: 1}]`, `agents: ["http://user:${kinds.url}@host"]`, `server: {trustedProxies: ["http://user:${kinds.url}@host"]}`, `registry: {allowedHosts: ["http://user:${kinds.url}@host/"]}`
  ]
  const readers = [['check', '--json'], ['serve'], ['serve', '--dry-run']] // alike, so each has a third of them
  const refusals = () => gateway.said().split('The fleet was not reloaded').length - 1
  for (const [index, text] of bad.entries()) {
    await writeFile(join(cwd, 'fleet.yaml'), `${text}\n`)
    gateway.child.kill('SIGHUP')
    while (refusals() <= index) await Promise.race([once(gateway.child.stderr!, 'data'), gateway.ended.then(() => { throw new Error(`${text}: ${gateway.said()}`) })])
    await send(net, gateway.port, request('GET', '/stats', [`Authorization: Bearer ${kinds.key}`]))
    const isOfAuth = text.startsWith('auth')
    for (const args of [readers[index % readers.length]!, ...isOfAuth ? [['agents', '--url', `http://127.0.0.1:${gateway.port}`]] : []]) {
      const { code, said } = await command(net, [...args, '--fleet', join(cwd, 'fleet.yaml')], { CANARY: kinds.variable })
      t.equal(code, 1, `${args.join(' ')} with ${text}: ${said}`)
    }
  }
  await writeFile(join(cwd, 'fleet.yaml'), good)
  gateway.child.kill('SIGHUP')
  while (!/reloaded .*fleet\.yaml:/.test(gateway.said())) await once(gateway.child.stderr!, 'data')

  // The command line, with right and wrong tokens from everywhere.
  const url = `http://127.0.0.1:${gateway.port}`
  for (const args of [['test'], ['test', '--json'], ['stats'], ['stats', '--json'], ['logs', '--limit', '1000'], ['logs', '--limit', '1000', '--json'], ['agents', '--json'], ['routes'], ['health'], ['register', 'x', '1'], ['deregister', 'x'], ['deregister', 'nobody']]) {
    for (const token of args.length === 1 ? [kinds.wrong, jwts.good, jwts.forged] : [kinds.wrong]) await command(net, [...args, '--url', url, '--secret', token])
    await command(net, args, { FLEET_URL: url, FLEET_SECRET: kinds.shared })
    await command(net, [...args, '--url', url, '--fleet', join(cwd, 'fleet.yaml')])
  }
  for (const args of [['serve', '--dry-run'], ['serve', '--dry-run', '--json'], ['key', 'list'], ['key', 'list', '--json'], ['check', '--json']]) {
    const { code, said } = await command(net, [...args, '--fleet', join(cwd, 'fleet.yaml')], { FLEET_REDIS_URL: `redis://fleet:${kinds.redis}@127.0.0.1:1` })
    t.equal(code, 0, `${args.join(' ')}: ${said}`)
  }
  for (const [args, env] of [
    [['agents', '--url', `http://user:${kinds.url}@localhost`], {}], [['agents'], { FLEET_URL: `https://user:${kinds.url}@localhost:1/x` }], [['agents', '--url', `user:${kinds.url}@localhost`], {}],
    [['serve', `--secert=${kinds.typed}`], {}], [['serve', `-s${kinds.typed}`], {}], [['agents', `--token=${kinds.typed}`], {}], [['serve', '--secret', `${kinds.typed} `], {}], [['serve'], { FLEET_SECRET: `a ${kinds.typed}` }], [['serve'], { FLEET_SECRET_FILE: join(cwd, 'bad-token.txt') }],
    [['serve', '--no-auth', '--secret', kinds.typed], {}], [['agents', '--secret', kinds.typed, '--url', `http://127.0.0.1:${ports.dead}`], {}], [['agents', '--secret', kinds.forAgent, '--url', `http://127.0.0.1:${ports.garbage}`], {}]
  ] as [string[], Record<string, string>][]) t.ok((await command(net, args, env)).code > 0, args.join(' '))

  gateway.child.kill('SIGTERM')
  await gateway.ended
  await net.gatherFiles('state', join(cwd, '.fleet'))
  net.gather('audit log', await readFile(join(cwd, 'audit.log')))

  t.same(net.leaks(), [])
  // That it would have been seen: what was to arrive did, and what was gathered is all of it.
  for (const secret of [kinds.query, kinds.forAgent, kinds.header, kinds.headerFile]) t.match(net.textOf('agent'), secret)
  t.match(net.textOf('audit log'), '"path":"/api/good/x"')
  t.match(net.textOf('state: registry.json'), '"agents"')
  for (const code of ['FLEET_UPSTREAM_UNREACHABLE', 'FLEET_UPSTREAM_INVALID', 'FLEET_UPSTREAM_TIMEOUT', 'FLEET_BAD_REQUEST', 'FLEET_HEADERS_TOO_LARGE', 'FLEET_INVALID_REGISTRATION', 'FLEET_AGENT_NOT_FOUND']) t.match(net.textOf('answers'), code)
})

/** A command in this process; what it prints is gathered. */
async function command (net: Canaries, args: readonly string[], env: Record<string, string> = {}): Promise<{ code: number, said: string }> {
  const { io, stdout, stderr } = fakeIo({ env })
  const code = await run(args, io)
  net.gather('standard output of a command', stdout())
  net.gather('standard error of a command', stderr())
  return { code, said: stderr() }
}
