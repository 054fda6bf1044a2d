/**
 * Whatever a fleet.yaml says, it is either a configuration or refused with errors that name places; and a running gateway takes all of it or
 * nothing. `npm run soak` tries more of the same.
 */
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { ConfigError, FleetOptions, loadConfig, mergeConfig, parseConfig, readConfigFile, type FleetConfig } from '../src/config.ts'
import { buildGateway, quiet } from './helpers/build-gateway.ts'
import { configWith } from './helpers/config-with.ts'
import { fakeClock } from './helpers/fake-clock.ts'
import { runs, saySeed } from './helpers/fuzz-runs.ts'

saySeed(t)

/** Something of everything. */
const richText = `# a fleet
server: {host: 127.0.0.1, port: 9001, trustedProxies: [10.0.0.0/8], bodyLimit: 10MiB, drainDelay: 1s, drainTimeout: 30s}
auth:
  secret: fleet-secret-token
  keys:
    - id: build-bot
      tokenSha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      scopes: [proxy, register]
      agents: [git-agent]
      rateLimit: {perMinute: 60, burst: 10}
rateLimit: {enabled: true, perMinute: 600, burst: 100}
cors: {origins: ["https://app.example.com"], methods: [GET, POST], credentials: true, maxAge: 10m}
timeouts: &times {connect: 3s, response: 30s, idle: 5m}
retry: {attempts: 1, statuses: [502, 503], maxBodyBytes: 64KiB}
health: {path: /health, interval: 10s, timeout: 2s, unhealthyAfter: 3, healthyAfter: 2}
balancer: {policy: p2c, slowStart: 30s}
concurrency: {max: 100, queue: 10, queueTimeout: 1s}
paths:
  - prefix: /v1/chat
    timeouts: {response: 2m}
registry: {allowedHosts: [localhost, .internal, 10.0.0.0/8], maxAgents: 100}
auditLog: {enabled: false}
agents:
  - name: trail-agent
    host: localhost
    port: 8501
    aliases: [trail, encoder]
    metadata: {about: "base64", tags: [a, b], nested: {deep: [1, 2.5, true, null]}}
    timeouts:
      <<: *times
      idle: 1h
  - name: git-agent
    instances:
      - {host: 127.0.0.1, port: 8502, weight: 2}
      - host: ::1
        port: \${PORT:-8512}
    friendly_names: [git]
    balancer: {policy: hash, hashOn: "header:X-User"}
    forwardAuthorization: true
`

const ownText = readFileSync(fileURLToPath(new URL('../fleet.yaml', import.meta.url)), 'utf8')

const atoms = [
  ': ', '- ', '? ', '{', '}', '[', ']', ', ', '&a ', '*a', '<<: ', '*times', '!!str ', '!x ', '"', '\'', '|', '>', '|+\n', '#', ' ', '  ', '\t', '\n', '\r\n', '%YAML 1.2\n', '---\n', '...\n', '@', '`', '~', 'null', 'true',
  '0', '-1', '1e999', '0x7f', '.nan', '.inf', '2026-01-01', '99999999999999999999', '${PORT}', '${MISSING}', '${', '$${', '${PORT:-', 'agents', 'name', 'port', 'host', 'a', '__proto__', 'constructor', 'prototype', 'toString', '\0', '\uFEFF', '\u2028', '\ud800', '\u{1f600}', '\x85', '\\'
]

const atom = fc.constantFrom(...atoms)

/** Changes of a text: a piece left out, doubled, moved in depth or replaced. */
const mutation = fc.record({ at: fc.nat(), length: fc.nat({ max: 30 }), kind: fc.constantFrom('insert', 'remove', 'replace', 'double', 'line', 'indent' as const), text: fc.oneof(atom, fc.string({ maxLength: 5 })) })

function mutate (text: string, { at, length, kind, text: inserted }: typeof mutation extends fc.Arbitrary<infer M> ? M : never): string {
  const from = at % (text.length + 1)
  const [before, piece, after] = [text.slice(0, from), text.slice(from, from + length), text.slice(from + length)]
  switch (kind) {
    case 'insert': return before + inserted + piece + after
    case 'remove': return before + after
    case 'replace': return before + inserted + after
    case 'double': return before + piece + piece + after
    default: {
      const lines = text.split('\n')
      const index = at % lines.length
      if (kind === 'indent') lines[index] = ' '.repeat(length % 7) + lines[index]!.trimStart()
      else lines.splice(index, 1)
      return lines.join('\n')
    }
  }
}

const mutatedText = fc.tuple(fc.constantFrom(richText, ownText), fc.array(mutation, { minLength: 1, maxLength: 4 })).map(([text, changes]) => changes.reduce(mutate, text))
const arbitraryText = fc.oneof(fc.array(atom, { maxLength: 60 }).map(parts => parts.join('')), fc.string({ unit: 'binary', maxLength: 200 }))

const env = { PORT: '8512' }

/** Fails unless the error says of each problem where it is and what it is, in one line. */
function assertNamesPlaces (error: unknown, lineCount: number): void {
  if (!(error instanceof ConfigError)) throw error
  if (error.problems.length === 0) throw new Error('refused without a reason')
  for (const { file, line, column, path, message } of error.problems) {
    const hasPlace = line !== undefined && column !== undefined && line >= 1 && line <= lineCount && column >= 1
    const isOfFile = line === undefined && path === '' && /^(?:is not UTF-8|can not be read)/.test(message)
    if (file === undefined || !(hasPlace || isOfFile)) throw new Error(`no place: ${file}:${line}:${column} ${path} ${message}`)
    if (message === '' || /\[object |undefined|NaN|\n/.test(message.replaceAll(/\(got [^]*\)/g, ''))) throw new Error(`no message for people: ${message}`)
  }
}

t.test('a text is a configuration or is refused, with a line and column for each error', async t => {
  const file = join(t.testdir(), 'fleet.yaml')
  let [taken, refused] = [0, 0]

  await fc.assert(fc.asyncProperty(fc.oneof({ weight: 3, arbitrary: mutatedText }, { weight: 2, arbitrary: arbitraryText }, { weight: 1, arbitrary: fc.uint8Array({ maxLength: 100 }) }), async content => {
    await writeFile(file, content)
    try {
      assertUnderstood(await loadConfig(file, env))
      taken++
    } catch (error) {
      assertNamesPlaces(error, String(content).split(/\r\n|\r|\n/).length + 1)
      refused++
    }
  }), runs(400))

  t.ok(taken > 0 && refused > 0, `${taken} taken, ${refused} refused`)
})

/** What was understood can be understood again, and nobody can change it. */
function assertUnderstood (config: FleetConfig): void {
  if (!Object.isFrozen(config) || !Object.isFrozen(config.agents)) throw new Error('not frozen')
  if (!isDeepStrictEqual(parseConfig(config), config)) throw new Error('read a second time it is another')
}

/** The paths of all settings, and of the entries of those that are lists. */
function * settingPaths (part: unknown, path = ''): Iterable<string> {
  const { properties, items } = part as { properties?: Record<string, unknown>, items?: unknown }
  if (path !== '') yield path
  if (items !== undefined) yield * settingPaths(items, `${path}[]`)
  for (const [key, property] of Object.entries(properties ?? {})) yield * settingPaths(property, path === '' ? key : `${path}.${key}`)
}

const paths = [...settingPaths(FleetOptions)]
const oddValues: unknown[] = [
  null, true, false, 0, -0, 1, -1, 0.5, Infinity, NaN, 2 ** 53, '', ' ', '0', 'null', '1s', '-1s', '1e9s', '1KiB', '*', '/', 'a', 'a b', '${PORT}', [], {}, [[]], [null], [{}], '__proto__', JSON.parse('{"__proto__":{"polluted":true}}'),
  { constructor: { prototype: { polluted: true } } }, { length: -1 }, { toString: null }, 'x'.repeat(5_000), '\0', '\ud800'
]
const value = fc.oneof(fc.constantFrom(...oddValues), fc.jsonValue({ maxDepth: 3 }), fc.string({ unit: 'binary' }), fc.anything({ withBigInt: true, withNullPrototype: true, withObjectString: true, withSparseArray: true }))

t.test('any value of any setting is taken, or refused by the name of the setting', async t => {
  fc.assert(fc.property(fc.constantFrom(...paths), value.filter(given => given !== undefined), (path, given) => {
    let config
    try {
      config = parseConfig(configWith(path, given))
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      const named = error.problems.map(problem => problem.path.replaceAll(/\[\d+\]/g, '[]'))
      // One that names something around it says that it is no mapping or list, or that two settings do not go together.
      if (!named.some(name => name !== '' && (name === path || path.startsWith(name) || name.startsWith(path)))) throw new Error(`${path} is not named: ${error.message}`)
      return
    }
    assertUnderstood(config)
  }), runs(2_000))

  t.equal(({} as { polluted?: unknown }).polluted, undefined)
})

t.test('a reload takes the whole file or leaves the whole fleet as it is', async t => {
  const folder = t.testdir({ 'fleet.yaml': richText })
  const file = join(folder, 'fleet.yaml')
  // What code says the file can't get wrong.
  const overrides = { ...quiet, registry: { stateDir: join(folder, 'state') } }
  const gateway = await buildGateway(t, { file, env, clock: fakeClock(), ...overrides })
  gateway.registry.register({ name: 'registered', host: '127.0.0.1', port: 8_600, aliases: ['reg'] })
  const seen = () => JSON.stringify([[...gateway.registry.agents()].map(({ name, aliases, metadata, policy, instances }) => [name, aliases, metadata, policy, instances.map(({ id, origin, weight, source, trusted }) => [id, origin, weight, source, trusted])]), [...gateway.registry.names()], gateway.registry.exportState(), gateway.auth.enabled])
  let [taken, refused] = [0, 0]

  await fc.assert(fc.asyncProperty(mutatedText, async text => {
    await writeFile(file, richText)
    if (!await gateway.discovery.reload()) throw new Error('the good file is not taken any more')
    const before = seen()

    await writeFile(file, text)
    const isTaken = await gateway.discovery.reload()

    const problem = await readConfigFile(file, env).then(({ value, ...source }) => { parseConfig(mergeConfig(value, overrides), source) }).then(() => null, (error: Error) => error)
    if (isTaken !== (problem === null)) throw new Error(`reload() says ${isTaken}, and the file ${problem?.message ?? 'is good'}`)
    const { statusCode, body } = await gateway.inject('/stats')
    const { config } = JSON.parse(body) as { config: { ok: boolean, error?: string } }
    if (statusCode !== 200 || config.ok !== isTaken || (config.error === undefined) !== isTaken) throw new Error(`/stats says ${statusCode} ${body}`)
    if (isTaken) taken++
    else if (seen() !== before) throw new Error(`a refused file changed something:\n${before}\n${seen()}`)
    else refused++
  }), runs(25))

  t.ok(taken > 0 && refused > 0, `${taken} taken, ${refused} refused`)
})
