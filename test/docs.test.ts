/** The documents are held to what they describe: errors, plugins, and everything that is made by `npm run docs`. */
import { execFile } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { createPolicyTable } from '../plugins/proxy/policy.ts'
import { toAgentDefinitions } from '../src/agent-options.ts'
import { ConfigError, FleetOptions, parseConfig } from '../src/config.ts'
import { errorCatalogue } from '../src/errors.ts'
import type { Agent } from '../src/fleet/agent.ts'
import { createGateway } from '../src/gateway.ts'
import { durationMs, sizeBytes, type TSchema } from '../src/options.ts'
import { parseYaml } from '../src/yaml.ts'
import { configWith } from './helpers/config-with.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const execute = promisify(execFile)

t.test('docs/errors.md has exactly the errors of the catalogue, with their status and title', async t => {
  const text = await readFile(join(root, 'docs/errors.md'), 'utf8')
  const sections = [...text.matchAll(/^## (\w+)\n\n\*\*(\d+)\*\* · (.+)$/gm)].map(([, code, status, title]) => ({ code, statusCode: Number(status), title }))

  t.same(sections, [...errorCatalogue.values()])
})

t.test('the README names every plugin', async t => {
  const text = await readFile(join(root, 'README.md'), 'utf8')
  const folders = (await readdir(join(root, 'plugins'), { withFileTypes: true })).filter(entry => entry.isDirectory())
  for (const { name } of folders) t.match(text, `| \`${name}\` |`, name)
})

/** `node scripts/docs.js`: the exit code, and what it said. */
async function docs (...args: string[]): Promise<{ code: number, said: string }> {
  try {
    const { stdout, stderr } = await execute(process.execPath, [join(root, 'scripts/docs.js'), ...args])
    return { code: 0, said: stdout + stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number, stdout: string, stderr: string }
    return { code, said: stdout + stderr }
  }
}

t.test('what `npm run docs` makes is as it would be made now', async t => {
  t.same(await docs('--check'), { code: 0, said: '' })
})

t.test('`docs --check` names each file that is stale, with the first line that differs, and writes nothing', async t => {
  const folder = t.testdir({})
  await docs('--root', folder)
  const stale = join(folder, 'docs/configuration.md')
  const text = await readFile(stale, 'utf8')

  await writeFile(stale, text.replace('# Configuration\n', '# Konfiguration\n'))
  const changed = await docs('--check', '--root', folder)
  await writeFile(stale, `${text}more\n`)
  const longer = await docs('--check', '--root', folder)
  await writeFile(stale, text.slice(0, text.indexOf('\n## The file')))
  const shorter = await docs('--check', '--root', folder)
  await writeFile(join(folder, 'schema/fleet.schema.json'), '')
  const both = await docs('--check', '--root', folder)

  t.match(changed, { code: 1, said: /^docs\/configuration\.md is stale: line 3 is "# Konfiguration" and should be "# Configuration"\n[^\n]+\n$/ })
  t.match(longer, { code: 1, said: /^docs\/configuration\.md is stale: line \d+ is "more" and should be ""\n/ })
  t.match(shorter, { code: 1, said: /^docs\/configuration\.md is stale: line \d+ is missing and should be "## The file"\n/ })
  t.match(both, { code: 1, said: /^schema\/fleet\.schema\.json is stale: line 1 is "" and should be "{"\ndocs\/configuration\.md is stale/ })
  t.match(text, await readFile(stale, 'utf8'), 'the file is as short as it was')
})

t.test('`docs` writes what is missing or stale, and says so', async t => {
  const folder = t.testdir({})

  t.match(await docs('--check', '--root', folder), { code: 1, said: /schema\.json is missing\ndocs\/configuration\.md is missing\n/ })
  t.match(await docs('--root', folder), { code: 0, said: /schema\.json was written\ndocs\/configuration\.md was written\n/ })
  t.same(await docs('--root', folder), { code: 0, said: '' })
})

/** A row of a table in docs/configuration.md. */
interface Row { key: string, type: string, fallback: string, meaning: string }

async function readReference (): Promise<{ text: string, rows: Map<string, Row> }> {
  const text = await readFile(join(root, 'docs/configuration.md'), 'utf8')
  const rows = [...text.matchAll(/^\| `([^`]+)` \| (.+?) \| (.+?) \| (.+) \|$/gm)].map(([, key, type, fallback, meaning]) => ({ key: key!, type: type!, fallback: fallback!, meaning: meaning! }))
  return { text, rows: new Map(rows.map(row => [row.key, row])) }
}

/** The paths of all settings below a schema, each with its own. */
function * settingsBelow (schema: TSchema, path: string): Iterable<[path: string, schema: TSchema]> {
  const { properties, items } = schema as { properties?: Record<string, TSchema>, items?: TSchema }
  if (items !== undefined) yield * settingsBelow(items, `${path}[]`)
  for (const [key, property] of Object.entries(properties ?? {})) {
    yield [`${path}.${key}`, property]
    yield * settingsBelow(property, `${path}.${key}`)
  }
}

const settings = new Map(Object.entries(FleetOptions.properties).flatMap(([key, schema]) => [...settingsBelow(schema, key)]))

t.test('the reference has a section for each top-level key, and a row for each setting below it and for nothing else', async t => {
  const { text, rows } = await readReference()

  for (const key of Object.keys(FleetOptions.properties)) t.match(text, `\n## \`${key}\`\n`, key)
  t.same([...rows.keys()].filter(key => key.includes('.')).sort(), [...settings.keys()].sort())
  for (const { key, meaning } of rows.values()) t.match(meaning, /^[A-Z][^`]*(?:`[^`]*`[^`]*)*[.:]$/, `${key} says in a sentence what it means`)
})

/** What a value in a row's column `default` is when it is resolved. */
function resolved (text: string): unknown {
  const { value } = parseYaml(text.replaceAll('`', ''))
  if (typeof value !== 'string') return value
  const ms = durationMs(value)
  const bytes = sizeBytes(value)
  return Number.isNaN(ms) ? Number.isNaN(bytes) ? value : bytes : ms
}

function at (value: unknown, path: string): unknown {
  return path.split('.').reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], value)
}

t.test('the defaults that the reference states are those of an empty configuration', async t => {
  const { rows } = await readReference()
  const config = parseConfig({})

  for (const { key, fallback } of rows.values()) {
    if (!key.includes('.') || key.includes('[]')) continue
    if (at(config, key.replace(/\.\w+$/, '')) === undefined) continue // what is below holds where somebody says it
    t.same(fallback === '–' ? undefined : resolved(fallback), at(config, key), key)
  }
})

t.test('the defaults that the reference states of an agent are those of an entry with a name and a port', async t => {
  const { rows } = await readReference()
  const [definition] = toAgentDefinitions(parseConfig({ agents: [{ name: 'a', port: 1 }] }).agents)
  const { timeouts, retry, paths } = parseConfig({})
  const policy = createPolicyTable({ timeouts, retry, paths }).of({ policy: definition?.policy ?? {} } as Agent, '/')
  const facts = { ...definition?.instances[0], ...policy }

  for (const name of ['host', 'protocol', 'weight', 'preserveHost', 'rewriteLocation', 'forwardAuthorization'] as const) {
    t.equal(resolved(rows.get(`agents[].${name}`)?.fallback ?? ''), facts[name], name)
  }
  for (const { key, fallback } of rows.values()) {
    const inherited = /^as `([^`]+)`$/.exec(fallback)?.[1]
    if (inherited === undefined) continue
    t.equal(key.replace(/^.*\[\]\./, ''), inherited)
    t.ok(settings.has(inherited) || inherited in FleetOptions.properties, `${key} is as ${inherited}, which there is`)
  }
})

function isValid (config: object): boolean {
  try {
    parseConfig(config)
    return true
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return false
  }
}

t.test('the bounds that the reference states are where values begin to be refused', async t => {
  const { rows } = await readReference()
  let bounds = 0
  for (const { key, type, meaning } of rows.values()) {
    if (!['whole number', 'duration', 'size'].includes(type)) continue
    const [, least, most] = /(?:From|At least) (\w+)(?: to (\w+))?(?: bytes?)?\.(?: Example|$)/.exec(meaning) ?? []
    const [, greatest = most] = /At most (\w+)\./.exec(meaning) ?? []
    const number = (text: string) => type === 'duration' ? durationMs(text) : /^\d+$/.test(text) ? Number(text) : sizeBytes(text)
    const low = least === undefined ? 0 : number(least)
    t.ok(isValid(configWith(key, low)), `${key}: ${low}`)
    t.notOk(isValid(configWith(key, low - 1)), `${key}: ${low - 1}`)
    if (greatest !== undefined) {
      t.ok(isValid(configWith(key, number(greatest))), `${key}: ${greatest}`)
      t.notOk(isValid(configWith(key, number(greatest) + 1)), `${key}: more than ${greatest}`)
      bounds++
    } else if (type !== 'whole number') {
      t.ok(isValid(configWith(key, 2 ** 31 - 1)), `${key} has no other upper bound`)
    }
  }
  t.ok(bounds >= 15, `${bounds} upper bounds were found`)
})

/** The contents of the document's blocks of YAML. */
function yamlBlocks (text: string): string[] {
  return [...text.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, block]) => block!)
}

/** What stands in for the variables that documents name. */
const environment = { FLEET_TOKEN: 'a-token-for-tests', DASHBOARD_TOKEN: 'another-token-for-tests', PORT: '8080' }

t.test('every YAML block of the reference is a valid fleet.yaml', async t => {
  const { text } = await readReference()
  const blocks = yamlBlocks(text)

  t.ok(blocks.length > Object.keys(FleetOptions.properties).length)
  for (const block of blocks) {
    const { value, positions, problems } = parseYaml(block, environment)
    t.same(problems, [], block)
    t.doesNotThrow(() => parseConfig(value, { file: 'fleet.yaml', positions }), block)
  }
})

t.test('fleet.yaml shows defaults, and what is commented out there is valid', async t => {
  const text = await readFile(join(root, 'fleet.yaml'), 'utf8')
  const shown = parseConfig({ ...parseYaml(text).value as object, agents: [] })
  const uncommented = text.replace(/^( *)# ( *(?:- )?[a-zA-Z0-9]+:(?: .*)?)$/gm, '$1$2').replace("['*']", '[https://app.example.com]')
  const { value, positions, problems } = parseYaml(uncommented, environment)

  t.same(shown, parseConfig({}))
  t.ok(uncommented.split('\n').filter((line, index) => line !== text.split('\n')[index]).length > 15)
  t.same(problems, [])
  t.doesNotThrow(() => parseConfig(value, { file: 'fleet.yaml', positions }))
})

/** The section of a top-level key, and its example. */
function sectionOf (text: string, key: string): { section: string, example: string } {
  const [, section = ''] = new RegExp(`^## \`${key}\`\n(.*?)(?=^## )`, 'ms').exec(text) ?? []
  return { section: section.replace(/\s+/g, ' '), example: yamlBlocks(section)[0] ?? '' }
}

/** What a running gateway says of a reload that brings this configuration; it was started without any. */
async function reloadWith (t: Test, text: string): Promise<{ ok: boolean, waiting: string[] }> {
  const folder = t.testdir({ 'fleet.yaml': '', secret: 'the-secret-of-a-file' })
  const file = join(folder, 'fleet.yaml')
  const lines: string[] = []
  const logger = { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } }
  const gateway = await createGateway({ file, env: environment, auth: { secret: 'a-secret-for-tests' } }, { logger })
  t.teardown(() => gateway.close())
  await writeFile(file, text.replace('/run/secrets/fleet', join(folder, 'secret')))
  const ok = await gateway.discovery.reload()
  const [, waiting = ''] = /Changes of ([\w., ]+) take effect when the gateway restarts/.exec(lines.join('')) ?? []
  return { ok, waiting: waiting === '' ? [] : waiting.split(', ') }
}

t.test('the reference says of each top-level key whether a reload applies it', async t => {
  const { text } = await readReference()
  for (const key of Object.keys(FleetOptions.properties)) {
    await t.test(key, async t => {
      const { section, example } = sectionOf(text, key)

      const { ok, waiting } = await reloadWith(t, example)

      t.ok(ok, 'its example is a good change')
      const all = section.includes('A change waits for a restart.')
      const [, some] = /A change applies at once, but for `([\w.]+)`, which waits for a restart\./.exec(section) ?? []
      for (const path of waiting) t.ok(all ? path.startsWith(`${key}.`) : path === some, `${path} waits for a restart`)
      t.equal(waiting.length > 0, all || some !== undefined)
      t.equal(section.includes('A change applies at once.'), waiting.length === 0)
    })
  }
})

t.test('the reference names every environment variable that the program reads', async t => {
  const { text } = await readReference()
  const files = ['src/main.ts', ...(await readdir(join(root, 'src/cli'), { recursive: true })).filter(name => name.endsWith('.ts')).map(name => `src/cli/${name}`)]
  const texts = await Promise.all(files.map(file => readFile(join(root, file), 'utf8')))
  // What stands alone in quotes is a code.
  const names = new Set(texts.join('\n').match(/(?<!')\bFLEET_[A-Z_]+\b/g)?.filter(name => !errorCatalogue.has(name)))

  t.ok(names.size >= 4)
  for (const name of names) t.match(text, `\n| \`${name}\` | `, name)
})
