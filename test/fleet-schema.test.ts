/**
 * schema/fleet.schema.json, which editors hold fleet.yaml against: it has to agree with the program about every file, but for the rules that a
 * JSON Schema can't say, which are listed here.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { CORE_SCHEMA, load, mergeTag } from 'js-yaml'
import t from 'tap'
import { ConfigError, FleetOptions, parseConfig } from '../src/config.ts'
import { YamlError, parseYaml, type Environment } from '../src/yaml.ts'
import { configWith } from './helpers/config-with.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const schema = JSON.parse(await readFile(join(root, 'schema/fleet.schema.json'), 'utf8')) as Record<string, unknown>

/** What editors read beside the standard: neither says anything of what is valid. */
const editorKeywords = ['markdownDescription', 'patternErrorMessage']

// Not `strictRequired`: rules between keys name keys that are defined in the mapping around them.
const ajv = new Ajv({ strict: true, strictRequired: false, allowUnionTypes: true, allErrors: true, keywords: editorKeywords })
const validate = ajv.compile(schema)

const editorSchema = CORE_SCHEMA.withTags(mergeTag)

/** What an editor has against the text; nothing when it is fine. References to the environment stay as they are written. */
function editorErrors (text: string): string[] {
  validate(load(text, { schema: editorSchema }))
  return (validate.errors ?? []).map(({ instancePath, message = '' }) => `${instancePath} ${message}`)
}

/** What the program has against it. */
function programErrors (text: string, env: Environment = {}): string[] {
  try {
    const { value, positions, problems } = parseYaml(text, env)
    parseConfig(value, { file: 'fleet.yaml', positions })
    return problems.map(({ message }) => message)
  } catch (error) {
    if (error instanceof ConfigError || error instanceof YamlError) return [error.message]
    throw error
  }
}

t.test('it is a JSON Schema of draft-07 that a strict validator takes', async t => {
  t.equal(schema['$schema'], 'http://json-schema.org/draft-07/schema#')
  t.ok(ajv.validateSchema(schema), JSON.stringify(ajv.errors))
  t.same(Object.keys(schema['properties'] as object), Object.keys(FleetOptions.properties))
})

/** Every schema in it, with its path. */
function * schemasIn (part: unknown, path = ''): Iterable<[path: string, schema: Record<string, unknown>]> {
  if (typeof part !== 'object' || part === null) return
  if (!Array.isArray(part)) yield [path, part as Record<string, unknown>]
  for (const [key, below] of Object.entries(part)) yield * schemasIn(below, `${path}/${key}`)
}

t.test('none of our own keywords is in it, and no default that says nothing', async t => {
  const known = new Set([
    '$schema', '$comment', 'title', 'description', 'default', 'examples', 'writeOnly', 'type', 'enum', 'const', 'properties', 'required', 'additionalProperties', 'items', 'minItems',
    'maxItems', 'minimum', 'maximum', 'minLength', 'maxLength', 'pattern', 'anyOf', 'if', 'then', 'else', 'dependencies', ...editorKeywords
  ])
  for (const [path, part] of schemasIn(schema)) {
    if (/\/(?:properties|dependencies|default|examples\/\d+)$/.test(path)) continue // names of settings, and data
    t.same(Object.keys(part).filter(key => !known.has(key)), [], path)
    t.notMatch(JSON.stringify(part['default'] ?? 0), /^(?:\{\}|\[\])$/, path)
  }
})

t.test('each setting is explained, and its default and its examples are valid', async t => {
  for (const [path, part] of schemasIn(schema)) {
    if (!/\/properties\/[^/]+$/.test(path) || /\/(?:then|dependencies)\//.test(path)) continue
    t.match(part['description'], /^[A-Z].*\.$/, path)
    t.notMatch(part['description'], '`', `${path}: plain text`)
    const isValid = ajv.compile(part)
    for (const value of ['default' in part ? [part['default']] : [], part['examples'] ?? []].flat(1) as unknown[]) t.ok(isValid(value), `${path}: ${JSON.stringify(value)}`)
  }
})

/** The blocks of YAML in a document that are a fleet.yaml. */
function fleetBlocks (markdown: string): string[] {
  return [...markdown.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, block]) => block!).filter(block => {
    const value = load(block, { schema: editorSchema })
    return Object.keys(value as object).some(key => key in FleetOptions.properties)
  })
}

t.test('fleet.yaml, the examples and every block of it in the documents are valid', async t => {
  const documents = ['README.md', ...(await readdir(join(root, 'docs'))).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)]
  const prometheus = ['alerts.yaml', 'prometheus.yaml'] // Prometheus's own files
  const files = ['fleet.yaml', ...(await readdir(join(root, 'examples'))).filter(name => name.endsWith('.yaml') && !prometheus.includes(name)).map(name => `examples/${name}`)]
  let blocks = 0
  for (const file of files) t.same(editorErrors(await readFile(join(root, file), 'utf8')), [], file)
  for (const document of documents) {
    for (const block of fleetBlocks(await readFile(join(root, document), 'utf8'))) {
      t.same(editorErrors(block), [], `${document}:\n${block}`)
      blocks++
    }
  }
  t.ok(files.length >= 2 && blocks >= 10, `${blocks} blocks`)
})

t.test('fleet.yaml itself names it for editors', async t => {
  const [line] = (await readFile(join(root, 'fleet.yaml'), 'utf8')).split('\n')

  t.equal(line, '# yaml-language-server: $schema=./schema/fleet.schema.json')
})

const valid: [name: string, text: string][] = [
  ['the minimal file', 'agents:\n  - name: trail-agent\n    host: localhost\n    port: 8501\n    aliases: [trail, encoder]\n  - name: git-agent\n    port: 8502'],
  ['nothing but an empty mapping', '{}'],
  ['a key with all its entries commented out', 'agents:\n#  - name: a\nserver:\n'],
  ['every top-level key with nothing behind it', Object.keys(FleetOptions.properties).map(key => `${key}:\n`).join('')],
  ['no agents', 'agents: []'],
  ['everything of an agent', `agents:
  - name: a
    instances: [{host: 10.0.0.1, port: 1, weight: 3}, {port: 2, protocol: https}]
    friendly_names: [b]
    metadata: {anything: [goes, {x: 1}], even: null}
    timeouts: {connect: 500ms, response: 5m, idle: 1h, total: 1d}
    retry: {attempts: 0, statuses: [503], maxBodyBytes: 1KiB}
    health: {path: /healthz, interval: 5s, timeout: 1s, unhealthyAfter: 1, healthyAfter: 1}
    rateLimit: {enabled: true, perMinute: 60, burst: 10}
    forwardAuthorization: true
    preserveHost: true
    rewriteLocation: false
  - {name: c, port: 3, protocol: https, weight: 2, timeout: 45s}`],
  ['everything else', `server: {host: 0.0.0.0, port: 80, trustedProxies: [10.0.0.0/8, "::1"], bodyLimit: 10MiB, drainDelay: 5s, drainTimeout: 1m}
auth: {enabled: true, secret: s3cr3t-s3cr3t, keys: [{id: k, token: abcdefgh, scopes: [read, proxy], agents: [a]}, {id: l, tokenFile: /run/l, scopes: [admin]}]}
rateLimit: {enabled: true, perMinute: 60, burst: 10}
cors: {enabled: true, origins: ["https://app.example.com"], methods: [GET], headers: [X-A], credentials: true, maxAge: 1h}
timeouts: {connect: 1s, response: 1s, idle: 0.5s, total: 1h}
retry: {attempts: 0, statuses: [502], maxBodyBytes: 100}
health: {path: /h, interval: 1s, timeout: 1s, unhealthyAfter: 2, healthyAfter: 3}
registry: {allowedHosts: [.internal, a.example, 10.0.0.0/8], maxAgents: 5, stateDir: /var/lib/fleet}
auditLog: {enabled: true, file: audit.log}`],
  ['a duration of nothing', 'server: {drainDelay: 0, drainTimeout: 0}\ncors: {maxAge: 0}'],
  ['a size of nothing', 'retry: {maxBodyBytes: 0}'],
  ['a size with a space', 'server: {bodyLimit: 1.5 MiB}'],
  ['no instances', 'agents:\n  - {name: a, instances: []}'],
  ['a timeout beside other timeouts', 'agents:\n  - {name: a, port: 1, timeout: 1s, timeouts: {idle: 1s}}'],
  ['the same aliases under both words', 'agents:\n  - {name: a, port: 1, aliases: [x], friendly_names: [x]}'],
  ['anchors and merges', 'agents:\n  - &d {name: a, port: 1, timeout: 1s}\n  - <<: *d\n    port: 2'],
  ['a key that is known by its digest', `auth:\n  keys:\n    - {id: a, scopes: [read], tokenSha256: ${'0f'.repeat(32)}}`],
  ['a reference for a text', 'agents:\n  - name: ${NAME}\n    host: ${HOST:-localhost}\n    port: 1'],
  ['a reference for a number', 'server:\n  port: ${PORT:-9001}\nrateLimit:\n  perMinute: ${RATE}'],
  ['a reference for a boolean', 'auth:\n  enabled: ${ON:-true}\ncors:\n  enabled: ${ON}'],
  ['a reference for a duration', 'timeouts:\n  idle: ${IDLE:-1m}\nserver:\n  drainDelay: ${ZERO}'],
  ['a reference for a size', 'server:\n  bodyLimit: ${LIMIT}'],
  ['a reference for a choice', 'agents:\n  - name: a\n    port: 1\n    protocol: ${PROTOCOL}'],
  ['a reference for a choice in a list', 'auth:\n  keys:\n    - id: a\n      tokenFile: f\n      scopes:\n        - ${SCOPE}'],
  ['a reference for a secret, shorter than a secret', 'auth:\n  secret: ${S}'],
  ['a reference within a text', 'agents:\n  - name: agent-${NAME}\n    host: ${HOST}.internal\n    port: 1\nhealth:\n  path: /health?of=${NAME}'],
  ['a literal ${', 'agents:\n  - name: a\n    port: 1\n    metadata: {about: "$${"}']
]

const environment: Environment = { NAME: 'a', HOST: 'h', PORT: '80', RATE: '60', ON: 'false', IDLE: '5s', ZERO: '0', LIMIT: '10MiB', PROTOCOL: 'https', SCOPE: 'read', S: 'a-long-secret' }

t.test('what the program takes, the schema takes', async t => {
  for (const [name, text] of valid) {
    t.same(programErrors(text, environment), [], name)
    t.same(editorErrors(text), [], name)
  }
})

const invalid: [name: string, text: string][] = [
  ['a list for the whole', '- name: a'],
  ['a text for the whole', 'hello'],
  ['an unknown key', 'agnets: []'],
  ['an unknown key without a value', 'bogus:'],
  ['an unknown key of an agent', 'agents:\n  - {name: a, port: 1, prot: 2}'],
  ['an unknown key far down', 'agents:\n  - {name: a, port: 1, timeouts: {conect: 1s}}'],
  ['a key of every object', 'constructor: 1'],
  ['a key whose feature there is not', 'concurrency: {}\nmcp: {}'],
  ['a wrong type', 'server: {port: "9001"}'],
  ['a section that is no mapping', 'server: 9001'],
  ['a section that is a reference', 'server: ${SERVER}'],
  ['a list that is none', 'agents: {a: 1}'],
  ['a list that is a reference', 'cors:\n  origins: ${ORIGINS}'],
  ['a value that is missing', 'server:\n  port:\n'],
  ['a section of an agent that is missing', 'agents:\n  - name: a\n    port: 1\n    timeouts:\n'],
  ['an entry that is missing', 'agents:\n  - name: a\n    port: 1\n  -\n'],
  ['ports out of range', 'agents:\n  - {name: a, port: 65536}\n  - {name: b, port: 0}'],
  ['a fraction', 'server: {port: 80.5}'],
  ['a rate below one', 'rateLimit: {perMinute: -1}'],
  ['more retries than one', 'retry: {attempts: 2}'],
  ['a status that is no failure', 'retry: {statuses: [404]}'],
  ['a duration without unit', 'timeouts: {response: 30}'],
  ['a duration without unit, of an agent', 'agents:\n  - {name: a, port: 1, timeout: 5}'],
  ['a duration without unit, where 0 is one', 'server: {drainDelay: 5}'],
  ['no time at all', 'timeouts: {response: 0}'],
  ['a duration that is none', 'health: {interval: soon}'],
  ['a duration that is a boolean', 'health: {interval: true}'],
  ['a size that is none', 'server: {bodyLimit: 10 parsecs}'],
  ['a size of nothing, where that makes no sense', 'server: {bodyLimit: 0}'],
  ['a size below nothing', 'retry: {maxBodyBytes: -1}'],
  ['a size that is too much', 'retry: {maxBodyBytes: 1048577}'],
  ['a bad name', 'agents:\n  - {name: "a b", port: 1}'],
  ['a name that is a number', 'agents:\n  - {name: 1, port: 1}'],
  ['a missing name', 'agents:\n  - {port: 1}'],
  ['no port and no instances', 'agents:\n  - {name: a}'],
  ['a host alone', 'agents:\n  - {name: a, host: h}'],
  ['host and instances', 'agents:\n  - {name: a, host: h, instances: [{port: 1}]}'],
  ['port and instances', 'agents:\n  - {name: a, port: 1, instances: []}'],
  ['an instance without a port', 'agents:\n  - {name: a, instances: [{host: h}]}'],
  ['timeout in two ways', 'agents:\n  - {name: a, port: 1, timeout: 1s, timeouts: {response: 1s}}'],
  ['an empty host', 'agents:\n  - {name: a, host: "", port: 1}'],
  ['a protocol that is none', 'agents:\n  - {name: a, port: 1, protocol: ftp}'],
  ['too many aliases', `agents:\n  - {name: a, port: 1, aliases: [${Array.from({ length: 33 }, (_, index) => `a${index}`).join(', ')}]}`],
  ['an origin that is none', 'cors: {origins: [example.com]}'],
  ['no origins', 'cors: {origins: []}'],
  ['a method in small letters', 'cors: {methods: [get]}'],
  ['yes', 'cors: {enabled: yes}'],
  ['a secret that is short', 'auth: {secret: short}'],
  ['a secret with a space', 'auth: {secret: "not a secret"}'],
  ['a secret that is a number', 'auth: {secret: 123456789}'],
  ['a key without a token', 'auth:\n  keys:\n    - {id: a, scopes: [read]}'],
  ['a key with two tokens', 'auth:\n  keys:\n    - {id: a, scopes: [read], token: abcdefgh, tokenFile: f}'],
  ['a key with two other tokens', `auth:\n  keys:\n    - {id: a, scopes: [read], tokenFile: f, tokenSha256: ${'0f'.repeat(32)}}`],
  ['a key without rights', 'auth:\n  keys:\n    - {id: a, scopes: [], tokenFile: f}'],
  ['a scope that is none', 'auth:\n  keys:\n    - {id: a, scopes: [write], tokenFile: f}'],
  ['a digest that is none', 'auth:\n  keys:\n    - {id: a, scopes: [read], tokenSha256: abc}'],
  ['a probe of no path', 'health: {path: health}']
]

t.test('what the program refuses, the schema refuses', async t => {
  for (const [name, text] of invalid) {
    t.not(programErrors(text).length, 0, name)
    t.not(editorErrors(text).length, 0, name)
  }
})

/** Each with a file that breaks it and that an editor finds nothing in. */
const rulesOfTheProgramAlone: [rule: string, text: string][] = [
  ['a name or alias belongs to one agent', 'agents:\n  - {name: a, port: 1}\n  - {name: b, port: 2, aliases: [a]}'],
  ['an address is an instance of an agent once', 'agents:\n  - {name: a, port: 1}\n  - {name: a, host: LOCALHOST, port: 1}'],
  ['entries of one agent agree on its settings', 'agents:\n  - {name: a, port: 1, timeout: 1s}\n  - {name: a, port: 2, timeout: 2s}'],
  ['aliases and friendly_names are the same', 'agents:\n  - {name: a, port: 1, aliases: [x], friendly_names: [y]}'],
  ['a key has an id of its own', 'auth:\n  keys:\n    - {id: a, scopes: [read], tokenFile: f}\n    - {id: a, scopes: [read], tokenFile: g}'],
  ['a header of an agent is no field of the connection', 'agents:\n  - {name: a, port: 1, headers: {Host: x}}'],
  ['a header of an agent has one line of text, or a file with it', 'agents:\n  - {name: a, port: 1, headers: {X-Key: 1}}'],
  ['no cookies for everybody', 'cors: {credentials: true}'],
  ['a host is a bare name or address', 'agents:\n  - {name: a, host: "http://h", port: 1}'],
  ['a host is a bare name or address, of an instance', 'agents:\n  - {name: a, instances: [{host: "h:80", port: 1}]}'],
  ['a host is a bare name or address, of the listener', 'server: {host: "http://h"}'],
  ['a trusted proxy is an address or a CIDR', 'server: {trustedProxies: [loopback]}'],
  ['an allowed host is a name, a suffix, an address or a CIDR', 'registry: {allowedHosts: ["*.internal"]}'],
  ['a duration with a unit has bounds', 'health: {interval: 1ms}'],
  ['a duration is at most 24 days', 'timeouts: {total: 25d}'],
  ['a size with a unit has bounds', 'retry: {maxBodyBytes: 2MiB}'],
  ['a variable exists, or has a default', 'server:\n  host: ${NOBODY}'],
  ['what a variable holds is of the right form', 'server:\n  port: ${NAME}'],
  ['a variable in quotes is text', 'server:\n  port: "${PORT}"'],
  ['a file is no deeper than 64 levels', `agents:\n  - {name: a, port: 1, metadata: {a: ${'['.repeat(70)}${']'.repeat(70)}}}`]
]

t.test('the program alone knows these rules', async t => {
  for (const [rule, text] of rulesOfTheProgramAlone) {
    t.not(programErrors(text, environment).length, 0, rule)
    t.same(editorErrors(text), [], rule)
  }
})

/** Values of every kind, among them those around the bounds of texts and numbers. */
const probes: unknown[] = [
  null, true, 'yes', '', 'a', 'a b', '*', '/health', 'ü', 'GET', 'http', 'read', 'https://app.example.com', 'https://app.example.com/x', 'abcdefg', 'abcdefgh',
  'a'.repeat(64), 'a'.repeat(65), 'a'.repeat(254), 'abcdefgh'.repeat(512), 'abcdefgh'.repeat(513), '0f'.repeat(32),
  -1, 0, 0.5, 1, 2, 100, 101, 500, 600, 1_000, 1_001, 65_535, 65_536, 1_000_000, 1_000_001, 60_000_000, 60_000_001, 1_048_576, 1_048_577,
  '9001', '0s', '1ms', '30s', '10B', '64KiB', [], [null], ['a'], [500], {}, { a: 1 }, { port: 1 }, { enabled: true }
]

/** For what an agent or a key overrides: it has the form of what it overrides, where everything is tried. */
const fewProbes: unknown[] = [null, true, '', 'a', '/health', -1, 0, 0.5, 1, 2, 101, 600, 1_000_001, 60_000_001, 1_048_577, '1ms', '30s', '64KiB', [], [500], {}]

/** Ways to write a duration or a size, right and wrong, where one of them is taken at all. */
const unitProbes = ['1.5s', '5m', '2h', '1d', '30', '-5s', '5 s', '5S', '1e3s', '1.s', '30s ', '5ss', '1.5 MiB', '1GiB', '1KB', '1MB', '1GB', '64kib', '64  KiB', '1TiB', '-1B', 2 ** 31, 2 ** 53]

/** Why the program may refuse what the schema takes: rules that it alone has, by the settings that they are about. */
const programsOwn: [settings: RegExp, message: RegExp][] = [
  [/host$/, /must (?:be|not)/],
  [/^server\.trustedProxies/, /must be an IP address or a CIDR/],
  [/^registry\.allowedHosts/, /must be (?:a host name, a suffix|a valid CIDR)/],
  [/^agents\[\]\.dns\.resolvers/, /must be an IP address, with a port or without/],
  [/^cors\.credentials/, /can not be true with origin/],
  [/^server\.drain|[mM]axAge|jwksCooldown|clockSkew|[tT]imeout|interval|Refresh/, /must be a duration/],
  [/^server\.bodyLimit|maxBodyBytes/, /must be a size/],
  [/^agents\[\]\.headers$/, /headers\.\S+ must be a text/]
]

/** The paths of all settings, and of the entries of those that are lists. */
function * settingPaths (part: unknown, path = ''): Iterable<string> {
  const { properties, items } = part as { properties?: Record<string, unknown>, items?: unknown }
  if (path !== '') yield path
  if (items !== undefined) yield * settingPaths(items, `${path}[]`)
  for (const [key, property] of Object.entries(properties ?? {})) yield * settingPaths(property, path === '' ? key : `${path}.${key}`)
}

t.test('schema and program agree about every value of every setting', async t => {
  let tried = 0
  let agreed = 0
  for (const path of settingPaths(FleetOptions)) {
    const takes = (value: unknown) => editorErrors(JSON.stringify(configWith(path, value))).length === 0
    const values = /\[\]\.(?:timeouts|retry|health|rateLimit)\./.test(path) ? fewProbes : path.includes('[]') || !['30s', '64KiB'].some(takes) ? probes : [...probes, ...unitProbes]
    tried += values.length
    const disagreements = values.filter(value => {
      const text = JSON.stringify(configWith(path, value))
      const editor = editorErrors(text)
      const program = programErrors(text)
      if ((editor.length === 0) === (program.length === 0)) {
        agreed++
        return false
      }
      return !(editor.length === 0 && programsOwn.some(([settings, message]) => settings.test(path) && message.test(program.join('\n'))))
    })
    t.same(disagreements, [], path)
  }
  t.ok(tried > 4_000 && agreed > tried * 0.9, `${agreed} of ${tried}`)
})

t.test('schema and program agree about which fields of an entry go together', async t => {
  const aliases = fc.constantFrom(['x'], ['x', 'y'])
  const entry = fc.record({
    name: fc.constant('a'),
    host: fc.constantFrom('h', 'localhost'),
    port: fc.constantFrom(1, 2),
    instances: fc.constantFrom([], [{ port: 1 }], [{ host: 'h', port: 1 }, { port: 3 }]),
    dns: fc.constantFrom({ name: 'a.test', port: 1 }, { name: 'a.test', type: 'SRV' }, { name: 'a.test' }),
    aliases,
    timeout: fc.constant('1s'),
    timeouts: fc.constantFrom({}, { idle: '1s' }, { response: '1s' })
  }, { requiredKeys: [] })
  const key = fc.record({ id: fc.constant('k'), scopes: fc.constant(['read']), token: fc.constant('abcdefgh'), tokenFile: fc.constant('f'), tokenSha256: fc.constant('0f'.repeat(32)) }, { requiredKeys: [] })

  fc.assert(fc.property(entry, key, (agent, key) => {
    const text = JSON.stringify({ agents: [agent], auth: { keys: [key] } })
    const editor = editorErrors(text)
    const program = programErrors(text)
    if ((editor.length === 0) !== (program.length === 0)) throw new Error(`${text}\neditor: ${editor.join('; ')}\nprogram: ${program.join('; ')}`)
  }), { numRuns: 200, seed: 1 })
})
